//! Log time (invariant T1), over plain numbers: the median of the voters' clocks as this node heard
//! them, checked against elapsed time. Elapsed time is that of this node's clock that never jumps,
//! from the last moment at which it knew what log time was; a leader tells the others every second.

use std::collections::{BTreeMap, BTreeSet};

use coordinator_core::{Jump, Voters};
use proto_types::{LogTime, NodeId};

use super::HEARD_MS;

/// A step against elapsed time that nobody believes without a person: five minutes.
pub(super) const JUMP_MS: u64 = 5 * 60 * 1000;
/// The same where the elapsed time is not known, because every coordinator was stopped: a day.
pub(super) const UNKNOWN_JUMP_MS: u64 = 24 * 60 * 60 * 1000;

/// A node's wall clock, as this node heard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) node: NodeId,
    /// What it said.
    pub(super) clock: LogTime,
    /// When, in this node's elapsed time.
    pub(super) at_ms: u64,
}

impl Heard {
    /// What it would say at `now_ms`.
    pub(super) fn at(&self, now_ms: u64) -> LogTime {
        self.clock.plus_millis(now_ms.saturating_sub(self.at_ms))
    }
}

/// What a leader's round knows.
pub(super) struct Round<'a> {
    /// This node's elapsed time.
    pub(super) now_ms: u64,
    /// The largest log time there is.
    pub(super) last: LogTime,
    pub(super) voters: &'a Voters,
    pub(super) heard: &'a [Heard],
    /// What other nodes know log time to be by elapsed time, as of `now_ms`.
    pub(super) known_elsewhere: &'a [LogTime],
    /// Whether time is frozen.
    pub(super) is_frozen: bool,
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Log time is the median.
    Median {
        /// Milliseconds by which it lies before the largest log time there is: so long log time
        /// stands still.
        behind_ms: u64,
    },
    /// No majority of the voters' clocks is known: log time goes on by elapsed time.
    TooFew,
    /// Time is frozen: log time goes on by elapsed time.
    Frozen,
    /// The median jumped. Log time goes on by elapsed time.
    Jumped(Jump),
}

/// What this node knows of log time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogClock {
    /// Log time and when it was that, in elapsed time; `None`: this node does not know.
    anchor: Option<(LogTime, u64)>,
}

impl LogClock {
    /// Log time as elapsed time has it; `None` on a node that nobody has told yet.
    pub(super) fn now(&self, now_ms: u64) -> Option<LogTime> {
        self.anchor.map(|(time, at_ms)| time.plus_millis(now_ms.saturating_sub(at_ms)))
    }

    /// Takes over what the leader, or an admin, says that log time is.
    pub(super) fn set(&mut self, time: LogTime, now_ms: u64) {
        self.anchor = Some((time, now_ms));
    }

    /// A round of the leader, each second.
    pub(super) fn round(&mut self, round: &Round<'_>) -> Verdict {
        let now_ms = round.now_ms;
        if self.anchor.is_none()
            && let Some(known) = middle(round.known_elsewhere.to_vec(), round.last)
        {
            self.set(known, now_ms);
        }
        let elapsed = self.now(now_ms);
        if round.is_frozen {
            self.set(elapsed.unwrap_or(round.last), now_ms);
            return Verdict::Frozen;
        }
        let near = elapsed.unwrap_or(round.last);
        let Some(median) = median(round.voters, round.heard, now_ms, near) else {
            return Verdict::TooFew;
        };
        let by_ms = difference(median, near);
        let limit = if elapsed.is_some() { JUMP_MS } else { UNKNOWN_JUMP_MS };
        // Before the first entry there is nothing to jump from. Back against a log time of which
        // nobody knows the age is no jump: it stands still until the clocks are there.
        let is_jump = match elapsed {
            Some(_) => by_ms.unsigned_abs() > limit,
            None => round.last > LogTime::ZERO && by_ms > 0 && by_ms.unsigned_abs() > limit,
        };
        if is_jump {
            self.set(near, now_ms);
            let nodes = disagreeing(round.heard, now_ms, near, limit);
            return Verdict::Jumped(Jump { by_ms, elapsed_known: elapsed.is_some(), nodes });
        }
        self.set(median, now_ms);
        Verdict::Median { behind_ms: round.last.millis_since(median) }
    }
}

/// The median of the voters' clocks that were heard in the last seconds; `None` where those are no
/// majority. Of an even number the middle one that is nearer to `near`: so one clock that is far
/// off does not count while one voter is away.
pub(super) fn median(
    voters: &Voters,
    heard: &[Heard],
    now_ms: u64,
    near: LogTime,
) -> Option<LogTime> {
    let voting = voters.all();
    let clocks: BTreeMap<NodeId, LogTime> = heard
        .iter()
        .filter(|h| voting.contains(&h.node) && h.at_ms.saturating_add(HEARD_MS) >= now_ms)
        .map(|h| (h.node, h.at(now_ms)))
        .collect();
    let nodes: BTreeSet<NodeId> = clocks.keys().copied().collect();
    if !voters.have_majority(&nodes) {
        return None;
    }
    middle(clocks.into_values().collect(), near)
}

fn middle(mut times: Vec<LogTime>, near: LogTime) -> Option<LogTime> {
    times.sort_unstable();
    let upper = *times.get(times.len() / 2)?;
    if times.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *times.get(times.len() / 2 - 1)?;
    let is_lower = difference(lower, near).unsigned_abs() <= difference(upper, near).unsigned_abs();
    Some(if is_lower { lower } else { upper })
}

fn disagreeing(heard: &[Heard], now_ms: u64, with: LogTime, limit_ms: u64) -> BTreeSet<NodeId> {
    let far = heard.iter().filter(|h| difference(h.at(now_ms), with).unsigned_abs() > limit_ms);
    far.map(|h| h.node).collect()
}

/// Milliseconds from `b` to `a`.
pub(super) fn difference(a: LogTime, b: LogTime) -> i64 {
    if a >= b {
        i64::try_from(a.millis_since(b)).unwrap_or(i64::MAX)
    } else {
        i64::try_from(b.millis_since(a)).map_or(i64::MIN, |by| -by)
    }
}

#[cfg(test)]
#[path = "log_clock_tests.rs"]
mod tests;

//! Frozen time (invariant T1). When the voters' clocks jump against elapsed time nobody knows which
//! is right: until an admin says so, nothing ends because of the time it is. Log time itself runs
//! on by elapsed time, which the leader stamps.

use std::sync::Arc;

use proto_types::Level;

use crate::apply::Context;
use crate::command::{FreezeTime, RaiseFinding};
use crate::outcome::{Event, Outcome};
use crate::refusal::Refusal;
use crate::rows::{FindingKey, Freeze, Jump, ReadLease, Scope, Session, Severity, UploadLease};
use crate::state::State;
use crate::{delayed, fleet};

/// The kind of the finding that stands while time is frozen.
pub const CLOCK_JUMPED: &str = "clock-jumped";

/// Refuses while time is frozen: for every command by which something ends because of the time.
pub(crate) fn require_flowing(state: &State) -> Result<(), Refusal> {
    if state.time_is_frozen() { Err(Refusal::TimeFrozen) } else { Ok(()) }
}

pub(crate) fn freeze(
    state: &mut State,
    context: &Context<'_>,
    command: &FreezeTime,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    if state.freeze.is_some() {
        return Ok(Outcome::TimeFrozen { new: false });
    }
    state.freeze = Some(Arc::new(Freeze { since: context.now, jump: command.jump.clone() }));
    Ok(Outcome::TimeFrozen { new: true })
}

/// Goes on from the entry's time. Leases and sessions count anew from there: the jump was not time
/// in which their owners could have renewed them.
pub(crate) fn confirm(state: &mut State, context: &mut Context<'_>) -> Outcome {
    let was_frozen = state.freeze.take().is_some();
    if was_frozen {
        let now = context.now;
        let uploads = state.uploads.iter().map(|(id, lease)| {
            (*id, UploadLease { expires: now.plus_millis(lease.ttl_ms), ..lease.clone() })
        });
        state.uploads = uploads.collect();
        let reads = state.reads.iter().map(|(id, lease)| {
            (*id, ReadLease { expires: now.plus_millis(lease.ttl_ms), ..lease.clone() })
        });
        state.reads = reads.collect();
        let sessions = state.sessions.iter();
        let sessions =
            sessions.map(|(id, session)| (*id, Session { last_used: now, ..session.clone() }));
        state.sessions = sessions.collect();
        delayed::wait_anew(state, now);
        let key = Freeze::key();
        if state.findings.remove(&key).is_some() {
            context.events.push(Event::FindingCleared { key });
        }
    }
    Outcome::TimeConfirmed { was_frozen, time: context.now }
}

impl State {
    /// Whether nothing may end because of the time: retention, holds, leases, sessions. Refuse it
    /// in `apply`, and do not propose it.
    #[must_use]
    pub const fn time_is_frozen(&self) -> bool {
        self.freeze.is_some()
    }

    /// Why and since when time is frozen.
    #[must_use]
    pub fn freeze(&self) -> Option<&Freeze> {
        self.freeze.as_deref()
    }

    /// Whether the fleet's level knows frozen time.
    #[must_use]
    pub fn can_freeze_time(&self) -> bool {
        self.level >= Level::new(2)
    }
}

impl Freeze {
    /// Which finding stands while time is frozen.
    #[must_use]
    pub fn key() -> FindingKey {
        FindingKey { scope: Scope::Fleet, kind: CLOCK_JUMPED.to_owned(), subject: String::new() }
    }

    /// Raises that finding. The leader does while time is frozen, so that it stands even when
    /// somebody cleared it.
    #[must_use]
    pub fn raise(&self) -> RaiseFinding {
        RaiseFinding {
            key: Self::key(),
            severity: Severity::Critical,
            message: self.jump.message(),
            remedy: REMEDY.to_owned(),
        }
    }
}

const REMEDY: &str = "look at the clocks of these coordinators (`strongroom status` shows by \
     how much each is off) and correct what is wrong; once they are right, `strongroom fleet \
     confirm-time` lets time go on from what they say";

impl Jump {
    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> String {
        let seconds = self.by_ms.unsigned_abs() / 1000;
        let by = format!("{}h {:02}m {:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let way = if self.by_ms < 0 { "back" } else { "ahead" };
        let against = if self.elapsed_known {
            "against elapsed time"
        } else {
            "since the last log entry, while every coordinator was stopped"
        };
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        let whose =
            if nodes.is_empty() { String::new() } else { format!(" (nodes {})", nodes.join(", ")) };
        format!(
            "the voters' clocks jumped {by} {way} {against}{whose}; retention and the end of \
             holds and leases are frozen"
        )
    }
}

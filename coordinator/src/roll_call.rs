//! What the leader hears from every coordinator once a second, and what follows from it: the level
//! the fleet may have, log time, whose clock is off, whose disk is slow. This file holds what was
//! heard, for the rest of the coordinator to ask; `rounds` asks and acts; the others decide, over
//! plain numbers.

mod hot;
mod lasting;
pub(crate) mod levels;
mod log_clock;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coordinator_core::Voters;
use proto::{ApiError, v1};
use proto_types::env::Clock;
use proto_types::{Code, Level, LogTime, NodeId};
use storage::log::{SyncFigure, SyncTimes};
use tokio::sync::watch;

use crate::raft::RAFT_MESSAGES_VERSION;
use levels::{HeldBack, Levels};
use log_clock::{Heard, LogClock, Round, Verdict};

pub(crate) use rounds::hold;

/// An answer older than this is not heard any more: a few rounds.
pub(crate) const HEARD_MS: u64 = 5000;
/// A new leader that knows nothing of log time waits this long for its first round.
const FIRST_ROUND: Duration = Duration::from_secs(1);

/// What a coordinator said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// When, in this node's elapsed time.
    pub(crate) at_ms: u64,
    pub(crate) levels: Levels,
    /// Of its program.
    pub(crate) version: String,
    /// Its wall clock.
    pub(crate) clock: Option<LogTime>,
    /// What it knows log time to be, by elapsed time.
    pub(crate) log_time: Option<LogTime>,
    /// The syncs of its log.
    pub(crate) syncs: SyncFigure,
}

impl Answer {
    /// One that says nothing.
    #[cfg(test)]
    pub(crate) fn at(at_ms: u64) -> Self {
        Self {
            at_ms,
            levels: Levels::told(0, 0),
            version: String::new(),
            clock: None,
            log_time: None,
            syncs: SyncFigure::default(),
        }
    }

    fn of(status: &v1::GetNodeStatusResponse, at_ms: u64) -> Self {
        let time = |millis: u64| (millis > 0).then(|| LogTime::from_millis(millis));
        Self {
            at_ms,
            levels: Levels::told(status.level_min, status.level_max),
            version: status.version.clone(),
            clock: time(status.clock_ms),
            log_time: time(status.log_time_ms),
            syncs: SyncFigure {
                recent: status.log_syncs_recent,
                median_micros: status.log_sync_median_micros,
                p99_micros: status.log_sync_p99_micros,
            },
        }
    }
}

/// What was heard. One per coordinator.
pub(crate) struct RollCall {
    clock: Arc<dyn Clock>,
    this: NodeId,
    levels: Levels,
    sync_times: SyncTimes,
    heard: Mutex<BTreeMap<NodeId, Answer>>,
    log_clock: Mutex<LogClock>,
    /// How many rounds this node has made as the leader.
    rounds: watch::Sender<u64>,
}

impl RollCall {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        this: NodeId,
        levels: Levels,
        sync_times: SyncTimes,
    ) -> Self {
        Self {
            clock,
            this,
            levels,
            sync_times,
            heard: Mutex::default(),
            log_clock: Mutex::default(),
            rounds: watch::channel(0).0,
        }
    }

    /// The levels this node works with.
    pub(crate) fn levels(&self) -> Levels {
        self.levels
    }

    /// Whether this node is to behave as a program of the first level, which tells nothing of
    /// itself and stamps its own clock.
    fn is_of_first_level(&self) -> bool {
        self.levels.max == Level::OLDEST
    }

    fn elapsed_ms(&self) -> u64 {
        self.clock.elapsed_millis()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Answer>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_clock(&self) -> MutexGuard<'_, LogClock> {
        self.log_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills in what this node says of itself.
    pub(crate) fn tell(&self, active: Level, status: &mut v1::GetNodeStatusResponse) {
        status.level_active = u32::from(active.get());
        if self.is_of_first_level() {
            return;
        }
        let syncs = self.sync_times.figure();
        status.level_min = u32::from(self.levels.min.get());
        status.level_max = u32::from(self.levels.max.get());
        status.raft_messages = u32::from(RAFT_MESSAGES_VERSION);
        status.log_syncs_recent = syncs.recent;
        status.log_sync_median_micros = syncs.median_micros;
        status.log_sync_p99_micros = syncs.p99_micros;
        status.log_time_ms = self.log_clock().now(self.elapsed_ms()).map_or(0, LogTime::as_millis);
        status.clock_ms = self.clock.now().as_millis();
    }

    /// The leader says what log time is.
    pub(crate) fn told(&self, log_time_ms: u64) {
        if log_time_ms > 0 {
            self.log_clock().set(LogTime::from_millis(log_time_ms), self.elapsed_ms());
        }
    }

    /// Waits a little until this node has made a round as the leader.
    pub(crate) async fn first_round(&self) {
        let mut rounds = self.rounds.subscribe();
        // Whether it came or not, what is known after it counts.
        let _ = tokio::time::timeout(FIRST_ROUND, rounds.wait_for(|made| *made > 0)).await;
    }

    /// The time that this node, as the leader, gives a log entry.
    pub(crate) async fn stamp(&self, active: Level, last: LogTime) -> LogTime {
        if self.is_of_first_level() {
            return self.clock.now();
        }
        if let Some(time) = self.log_clock().now(self.elapsed_ms()) {
            return time;
        }
        self.first_round().await;
        match self.log_clock().now(self.elapsed_ms()) {
            Some(time) => time,
            // Programs of the first level tell no clocks, and stamp their own.
            None if active == Level::OLDEST => self.clock.now(),
            None => last,
        }
    }

    /// The median of the voters' clocks, which an admin confirms.
    pub(crate) fn median(&self, voters: &Voters, last: LogTime) -> Result<LogTime, ApiError> {
        let now_ms = self.elapsed_ms();
        log_clock::median(voters, &self.clocks(), now_ms, last).ok_or_else(|| {
            ApiError::new(
                Code::Unavailable,
                "the leader has not heard the clocks of a majority of the voters in the last few \
                 seconds; ask again",
            )
        })
    }

    /// Time goes on from here: an admin said so.
    pub(crate) fn confirmed(&self, time: LogTime) {
        self.log_clock().set(time, self.elapsed_ms());
    }

    /// The highest level that all of them support, or who holds `wanted` back.
    pub(crate) fn supported(
        &self,
        members: &BTreeSet<NodeId>,
        wanted: Level,
    ) -> Result<Level, HeldBack> {
        levels::supported(members, &self.heard(), self.elapsed_ms(), wanted)
    }

    fn clocks(&self) -> Vec<Heard> {
        let heard = self.heard();
        let clocks = heard.iter().filter_map(|(node, answer)| {
            Some(Heard { node: *node, clock: answer.clock?, at_ms: answer.at_ms })
        });
        clocks.collect()
    }

    /// Judges the clocks of a round.
    fn judge(&self, voters: &Voters, last: LogTime, is_frozen: bool) -> Verdict {
        let now_ms = self.elapsed_ms();
        let clocks = self.clocks();
        let known_elsewhere: Vec<LogTime> = self
            .heard()
            .iter()
            .filter(|(node, answer)| {
                **node != self.this && answer.at_ms.saturating_add(HEARD_MS) >= now_ms
            })
            .filter_map(|(_, answer)| {
                Some(answer.log_time?.plus_millis(now_ms.saturating_sub(answer.at_ms)))
            })
            .collect();
        self.log_clock().round(&Round {
            now_ms,
            last,
            voters,
            heard: &clocks,
            known_elsewhere: &known_elsewhere,
            is_frozen,
        })
    }
}

//! Acts that would hurt the fleet if one admin did them alone: they are requested, approved by
//! another admin, wait, and are done by the leader when they are due by log time. Until then anybody
//! sees them and any admin may cancel them. Nothing is done while time is frozen, nor while somebody
//! reads what would go.

use std::sync::Arc;

use proto_types::{ClusterId, LogIndex, LogTime};

use crate::apply::Context;
use crate::audit::{Actor, OperatorRole, Sender};
use crate::limits::{ACT_DELAY_FLOOR_MS, ACT_DELAY_MS, ACT_DELAY_MS_MAX, ACTS_WAITING_MAX};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{Finding, FindingKey, Scope, Severity};
use crate::state::State;
use crate::{clusters, fleet, leases, removal, time};

/// The kind of the finding that stands while an act waits.
pub(crate) const FINDING: &str = "act-waits";

/// What waits to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DelayedAct {
    /// A cluster goes, with its points; what only they needed is deleted.
    DeleteCluster {
        /// Which.
        cluster: ClusterId,
    },
    /// Acts requested from then on wait less.
    ShortenDelay {
        /// Milliseconds.
        delay_ms: u64,
    },
}

/// An act that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayedRow {
    /// What.
    pub what: DelayedAct,
    /// Name of the admin who asked for it.
    pub requested_by: String,
    /// Log time of that.
    pub requested: LogTime,
    /// Name of the other admin who approved it.
    pub approved_by: Option<String>,
    /// When it is done; zero before it is approved.
    pub due: LogTime,
}

/// How long acts wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActDelay {
    /// Milliseconds from the approval.
    pub delay_ms: u64,
    /// Whether it can never be set below a day any more.
    pub has_floor: bool,
}

impl Default for ActDelay {
    fn default() -> Self {
        Self { delay_ms: ACT_DELAY_MS, has_floor: false }
    }
}

/// See [`crate::Command::RequestAct`]. What waits already answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAct {
    /// What.
    pub what: DelayedAct,
}

/// See [`crate::Command::DecideAct`]. Said again it answers the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecideAct {
    /// Where in the log it was requested.
    pub act: LogIndex,
    /// Approved; else cancelled.
    pub approve: bool,
}

/// See [`crate::Command::PerformAct`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerformAct {
    /// Where in the log it was requested.
    pub act: LogIndex,
}

/// See [`crate::Command::SetActDelay`]. A shorter one is an act that waits itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetActDelay {
    /// At least what it is.
    pub delay_ms: u64,
    /// From now on never below a day; cannot be taken back.
    pub floor: bool,
}

/// The admin who sent it.
fn admin(sender: Option<&Sender>) -> Result<&str, Refusal> {
    match sender.map(|sender| &sender.actor) {
        Some(Actor::Operator { name, role: OperatorRole::Admin }) => Ok(name),
        _ => Err(Refusal::SecondAdminNeeded),
    }
}

/// Makes an act known to everybody.
pub(crate) fn request(
    state: &mut State,
    context: &mut Context<'_>,
    sender: Option<&Sender>,
    command: &RequestAct,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let requested_by = admin(sender)?.to_owned();
    if let Some((act, _)) = state.acts.iter().find(|(_, row)| row.what == command.what) {
        return Ok(Outcome::ActRequested { act: *act });
    }
    let scope = match &command.what {
        DelayedAct::DeleteCluster { cluster } => {
            clusters::require(state, cluster)?;
            Scope::Cluster(*cluster)
        }
        DelayedAct::ShortenDelay { delay_ms } => {
            let least = if state.act_delay.has_floor { ACT_DELAY_FLOOR_MS } else { 0 };
            if !(least..state.act_delay.delay_ms).contains(delay_ms) {
                return Err(Refusal::InvalidField { field: Field::ActDelay });
            }
            Scope::Fleet
        }
    };
    leases::within(Limit::ActsWaiting, state.acts.len() + 1, ACTS_WAITING_MAX)?;
    let act = context.log.index;
    let row = DelayedRow {
        what: command.what.clone(),
        requested_by: requested_by.clone(),
        requested: context.now,
        approved_by: None,
        due: LogTime::ZERO,
    };
    state.acts.insert(act, Arc::new(row));
    let key = FindingKey { scope, kind: FINDING.to_owned(), subject: act.to_string() };
    let what = match &command.what {
        DelayedAct::DeleteCluster { .. } => "the deletion of this cluster and of all its points",
        DelayedAct::ShortenDelay { .. } => "a shorter wait for acts that need a second admin",
    };
    let finding = Finding {
        severity: Severity::Warning,
        since: context.now,
        last_seen: context.now,
        message: format!("{requested_by} asked for {what}"),
        remedy: format!(
            "if that is wanted, another admin says `strongroom pending approve {act}`, and it waits; \
             if not, `strongroom pending cancel {act}`"
        ),
    };
    context.events.push(Event::FindingRaised { key: key.clone() });
    state.findings.insert(key, Arc::new(finding));
    Ok(Outcome::ActRequested { act })
}

/// Approves or cancels an act.
pub(crate) fn decide(
    state: &mut State,
    context: &mut Context<'_>,
    sender: Option<&Sender>,
    command: DecideAct,
) -> Result<Outcome, Refusal> {
    let act = command.act;
    let name = admin(sender)?;
    let row = state.acts.get(&act).cloned().ok_or(Refusal::ActUnknown { act })?;
    if !command.approve {
        end(state, context, act, &row.what);
        return Ok(Outcome::ActDecided { approved: false, due: LogTime::ZERO });
    }
    if row.approved_by.is_some() {
        return Ok(Outcome::ActDecided { approved: true, due: row.due });
    }
    if row.requested_by == name {
        return Err(Refusal::SecondAdminNeeded);
    }
    let due = context.now.plus_millis(state.act_delay.delay_ms);
    let approved_by = Some(name.to_owned());
    let row = DelayedRow { approved_by, due, ..row.as_ref().clone() };
    state.acts.insert(act, Arc::new(row));
    Ok(Outcome::ActDecided { approved: true, due })
}

/// Does an act that is due. Decided here again, by the log's own time.
pub(crate) fn perform(
    state: &mut State,
    context: &mut Context<'_>,
    command: PerformAct,
) -> Result<Outcome, Refusal> {
    let act = command.act;
    let row = state.acts.get(&act).cloned().ok_or(Refusal::ActUnknown { act })?;
    time::require_flowing(state)?;
    if row.approved_by.is_none() || row.due > context.now {
        return Err(Refusal::ActNotDue { act });
    }
    match &row.what {
        DelayedAct::DeleteCluster { cluster } => {
            if state.reads.values().any(|lease| lease.cluster == *cluster) {
                return Err(Refusal::ActBlocked { act });
            }
            end(state, context, act, &row.what);
            removal::delete_cluster(state, context, cluster);
        }
        DelayedAct::ShortenDelay { delay_ms } => {
            end(state, context, act, &row.what);
            state.act_delay.delay_ms = *delay_ms;
        }
    }
    Ok(Outcome::ActPerformed)
}

/// Makes acts wait longer, or never shorter than a day.
pub(crate) fn set_delay(state: &mut State, command: SetActDelay) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let floor = command.floor || state.act_delay.has_floor;
    let least = if floor { ACT_DELAY_FLOOR_MS } else { 0 }.max(state.act_delay.delay_ms);
    if !(least..=ACT_DELAY_MS_MAX).contains(&command.delay_ms) {
        return Err(Refusal::InvalidField { field: Field::ActDelay });
    }
    state.act_delay = ActDelay { delay_ms: command.delay_ms, has_floor: floor };
    Ok(Outcome::ActDelaySet { delay_ms: command.delay_ms })
}

/// It waits no more.
fn end(state: &mut State, context: &mut Context<'_>, act: LogIndex, what: &DelayedAct) {
    state.acts.remove(&act);
    let scope = match what {
        DelayedAct::DeleteCluster { cluster } => Scope::Cluster(*cluster),
        DelayedAct::ShortenDelay { .. } => Scope::Fleet,
    };
    let key = FindingKey { scope, kind: FINDING.to_owned(), subject: act.to_string() };
    if state.findings.remove(&key).is_some() {
        context.events.push(Event::FindingCleared { key });
    }
}

/// After a jump of the clocks the time that an act waited counts for nothing: it waits anew.
pub(crate) fn wait_anew(state: &mut State, now: LogTime) {
    let delay_ms = state.act_delay.delay_ms;
    let anew = state.acts.iter().map(|(act, row)| {
        let mut row = row.as_ref().clone();
        if row.approved_by.is_some() {
            row.due = now.plus_millis(delay_ms);
        }
        (*act, Arc::new(row))
    });
    state.acts = anew.collect();
}

impl State {
    /// Acts that wait, by where in the log they were requested.
    pub fn acts(&self) -> impl Iterator<Item = (LogIndex, &DelayedRow)> {
        self.acts.iter().map(|(act, row)| (*act, row.as_ref()))
    }

    /// How long acts wait.
    #[must_use]
    pub const fn act_delay(&self) -> ActDelay {
        self.act_delay
    }

    /// Acts that the leader has to do now.
    #[must_use]
    pub fn acts_due(&self, now: LogTime) -> Vec<LogIndex> {
        if self.time_is_frozen() {
            return Vec::new();
        }
        let due = self.acts.iter().filter(|(_, row)| row.approved_by.is_some() && row.due <= now);
        due.map(|(act, _)| *act).collect()
    }
}

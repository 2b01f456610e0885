//! Snapshots by schedule: whoever leads saves one when it is due, by the very way of `snapshot
//! save` (invariant S1), reads it back from where it was put, and records in the replicated state
//! how it ended, so that the next leader goes on from there.

mod plan;
mod target;

use std::sync::Arc;
use std::time::Duration;

use coordinator_core::{
    ClearFinding, Command, FindingKey, Outcome, RaiseFinding, RecordSnapshot, Scope, Severity,
    SnapshotRow, State, limits,
};
use futures::StreamExt;
use proto::ApiError;
use proto_types::{Code, LogIndex, LogTime};
use tokio::sync::mpsc;

pub use plan::Schedule;

use crate::config::SnapshotsConfig;
use crate::service::{Shared, core_request};
use crate::telemetry;
use target::{Saved, Target};

/// Between two looks at the clock.
const ROUND: Duration = Duration::from_secs(1);
/// Parts between the state and the target.
const PARTS_IN_FLIGHT: usize = 4;
/// A stream that is silent for longer is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const FINDING_FAILED: &str = "snapshot-failed";
const FINDING_STALE: &str = "snapshot-stale";

/// Saves what is due while this node leads, until dropped.
pub(crate) async fn run(shared: &Shared) {
    let target = match shared.config.snapshots.as_ref().map(Target::open).transpose() {
        Ok(target) => target.map(Arc::new),
        Err(error) => {
            // The config was checked: a directory is missing, or a credentials file.
            tracing::error!(event = "snapshots_unusable", %error, "no snapshot can be saved");
            None
        }
    };
    loop {
        tokio::time::sleep(ROUND).await;
        let state = shared.raft.local().state;
        telemetry::snapshot_age(age_ms(&state, shared.raft.log_time_now().await));
        if state.fleet().is_none() || !shared.raft.status().is_leader {
            continue;
        }
        if let Err(error) = round(shared, target.as_ref()).await {
            tracing::debug!(%error, "scheduled snapshots: a round is not complete");
        }
    }
}

fn age_ms(state: &State, now: LogTime) -> Option<u64> {
    state.last_good_snapshot().map(|row| now.millis_since(row.ended))
}

async fn round(shared: &Shared, target: Option<&Arc<Target>>) -> Result<(), ApiError> {
    // Never this node's own clock: one that is a year ahead would save once and then for a year no
    // more, and one jump of all of them would remove what is kept for days (invariant T1).
    let now = shared.raft.log_time_now().await;
    if !is_owed(shared.config.snapshots.as_ref(), &shared.raft.local().state, now) {
        return Ok(());
    }
    // Not before everything is applied that an earlier leader recorded.
    let view = shared.raft.applied(shared.raft.read_index().await?).await?;
    let state = view.state;
    let Some(config) = &shared.config.snapshots else {
        for kind in [FINDING_FAILED, FINDING_STALE] {
            clear(shared, &state, kind).await?;
        }
        return Ok(());
    };
    if let Some(due) = plan::due(&config.schedule, now, state.last_snapshot()) {
        save(shared, config, target, due).await?;
    }
    let state = shared.raft.local().state;
    let created = state.fleet().map_or(now, |fleet| fleet.created);
    if plan::is_stale(now, created, state.last_good_snapshot(), config.stale_after_hours) {
        let message = match state.last_good_snapshot() {
            Some(row) => format!(
                "the last good snapshot, {}, was saved {} hours ago, and one is due every {} hours \
                 at least",
                row.name,
                now.millis_since(row.ended) / 3_600_000,
                config.stale_after_hours
            ),
            None => format!(
                "no scheduled snapshot was ever good, since {} hours and more",
                config.stale_after_hours
            ),
        };
        raise(shared, &state, FINDING_STALE, Severity::Critical, message).await?;
    } else {
        clear(shared, &state, FINDING_STALE).await?;
    }
    Ok(())
}

/// Whether there is anything to do, as far as this node knows by itself.
fn is_owed(config: Option<&SnapshotsConfig>, state: &State, now: LogTime) -> bool {
    let stands = |kind| state.findings().any(|(known, _)| *known == key(kind));
    match config {
        None => stands(FINDING_FAILED) || stands(FINDING_STALE),
        Some(config) => {
            let created = state.fleet().map_or(now, |fleet| fleet.created);
            let good = state.last_good_snapshot();
            plan::due(&config.schedule, now, state.last_snapshot()).is_some()
                || plan::is_stale(now, created, good, config.stale_after_hours)
                    != stands(FINDING_STALE)
        }
    }
}

/// Saves one, and records how it ended. An error is only that it could not be recorded.
async fn save(
    shared: &Shared,
    config: &SnapshotsConfig,
    target: Option<&Arc<Target>>,
    due: LogTime,
) -> Result<(), ApiError> {
    let began = shared.env.clock.elapsed_millis();
    tracing::info!(event = "scheduled_snapshot_began", due = due.as_millis(), "snapshot begins");
    let saved = match target {
        Some(target) => save_to(shared, config, target, due).await,
        None => Err(ApiError::new(Code::InvalidConfig, "the target of [snapshots] cannot be used")),
    };
    let took_ms = shared.env.clock.elapsed_millis().saturating_sub(began);
    let blank = SnapshotRow { due, target: config.to.url.clone(), took_ms, ..Default::default() };
    let row = match &saved {
        Ok(saved) => SnapshotRow {
            name: saved.name.clone(),
            index: LogIndex::new(saved.index),
            term: saved.term,
            bytes: saved.bytes,
            sha256: Some(saved.sha256),
            ..blank
        },
        Err(error) => SnapshotRow { problem: one_line(&error.to_string()), ..blank },
    };
    telemetry::scheduled_snapshot(&row);
    if saved.is_err() && !shared.raft.status().is_leader {
        // The next leader saves it.
        return Ok(());
    }
    let command = Command::RecordSnapshot(Box::new(RecordSnapshot { snapshot: row }));
    if let (Outcome::Refused(refusal), _) = shared.raft.propose(core_request(None, command)).await?
    {
        return Err(ApiError::new(refusal.code(), refusal.to_string()));
    }
    let state = shared.raft.local().state;
    match (saved, target) {
        (Ok(saved), Some(target)) => {
            clear(shared, &state, FINDING_FAILED).await?;
            // While nobody knows the time, nothing is too old.
            if !state.time_is_frozen() {
                thin_out(shared, config, target, &saved.name).await;
            }
            Ok(())
        }
        (Err(error), _) => {
            let message = format!("the scheduled snapshot was not saved: {error}");
            raise(shared, &state, FINDING_FAILED, Severity::Warning, message).await
        }
        (Ok(_), None) => Ok(()),
    }
}

async fn save_to(
    shared: &Shared,
    config: &SnapshotsConfig,
    target: &Arc<Target>,
    due: LogTime,
) -> Result<Saved, ApiError> {
    let mut stream = shared.save_snapshot_here(config.include_bundles)?;
    let (sender, receiver) = mpsc::channel(PARTS_IN_FLIGHT);
    let writing = {
        let target = target.clone();
        shared.env.blocking("write-scheduled-snapshot", move || target.save(due, receiver))
    };
    // Owns the sender: the writer's parts end with it.
    let reading = async move {
        loop {
            let part = tokio::time::timeout(SILENCE_MAX, stream.next()).await.map_err(|_| {
                ApiError::new(Code::DeadlineExceeded, format!("nothing came for {SILENCE_MAX:?}"))
            })?;
            let Some(message) = part else { return Ok(()) };
            let Some(part) = message.map_err(ApiError::from)?.part else { continue };
            if sender.send(part).await.is_err() {
                // The writer tells why.
                return Ok(());
            }
        }
    };
    let (read, written): (Result<(), ApiError>, _) = futures::join!(reading, writing);
    let written = written.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    // That the stream broke is why the file has no end.
    read?;
    written
}

/// Removes what need not be kept any more. That it cannot is no reason to call the snapshot bad.
async fn thin_out(shared: &Shared, config: &SnapshotsConfig, target: &Arc<Target>, good: &str) {
    let keep = plan::Keep { last: config.keep_last, days: config.keep_days };
    let now = shared.raft.log_time_now().await;
    let (target, good) = (target.clone(), good.to_owned());
    let thinned = shared
        .env
        .blocking("thin-out-snapshots", move || {
            let names = target.names()?;
            let surplus = plan::surplus(&names, keep, now, &good);
            for name in &surplus {
                target.remove(name)?;
            }
            Ok::<_, ApiError>(surplus)
        })
        .await;
    match thinned {
        Ok(Ok(removed)) => {
            for name in removed {
                tracing::info!(event = "scheduled_snapshot_removed", name, "old snapshot removed");
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "old snapshots could not be removed"),
        Err(error) => tracing::warn!(%error, "old snapshots could not be removed"),
    }
}

/// A reason as one line that fits into the state.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(limits::SNAPSHOT_PROBLEM_BYTES_MAX));
    line
}

fn key(kind: &str) -> FindingKey {
    FindingKey { scope: Scope::Fleet, kind: kind.to_owned(), subject: String::new() }
}

async fn raise(
    shared: &Shared,
    state: &State,
    kind: &str,
    severity: Severity,
    message: String,
) -> Result<(), ApiError> {
    let key = key(kind);
    let message = one_line(&message);
    // Raised again only when it says something else, not every second.
    let stands = state.findings().find(|(known, _)| **known == key).map(|(_, finding)| finding);
    if stands.is_some_and(|finding| kind == FINDING_STALE || finding.message == message) {
        return Ok(());
    }
    let remedy = "look at [snapshots] in the coordinators' configs, at the credentials and the room \
                  there; it is tried again by itself, and the finding goes with the next good one";
    let command =
        Command::RaiseFinding(RaiseFinding { key, severity, message, remedy: remedy.to_owned() });
    shared.raft.propose(core_request(None, command)).await.map(drop)
}

async fn clear(shared: &Shared, state: &State, kind: &str) -> Result<(), ApiError> {
    let key = key(kind);
    if !state.findings().any(|(known, _)| *known == key) {
        return Ok(());
    }
    let command = Command::ClearFinding(ClearFinding { key });
    shared.raft.propose(core_request(None, command)).await.map(drop)
}

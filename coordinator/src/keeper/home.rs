//! What the leader does about the bundles' home: copies them into the bucket, ends a move once
//! every bundle is where it must be, and deletes the objects that the log gave up. And what every
//! node does: it looks whether it reaches the bucket at all.

use std::time::Duration;

use coordinator_core::{
    BundleHome, ClearFinding, Command, FindingKey, Outcome, RaiseFinding, RecordObjects, Scope,
    SetBundleHome, Severity, State,
};
use futures::StreamExt;
use proto::ApiError;
use proto_types::{BundleId, Code, FleetId, LogIndex};
use serde::{Deserialize, Serialize};
use storage::bucket::{Bucket, Put};
use storage::bundles::{BundleError, BundleStore};

use super::{Inner, Keeper, store_error};
use crate::service::core_request;

/// Between two rounds while there is nothing to do.
const ROUND: Duration = Duration::from_secs(5);
/// And while there is, or somebody waits for an end.
const BUSY_ROUND: Duration = Duration::from_millis(250);
/// Bundles copied at one time.
const COPIES_AT_ONCE: usize = 4;
/// Bundles copied, or objects deleted, before that is recorded: after a change of leader at most
/// so many are looked at again.
const BATCH: usize = 32;
/// Between two looks at the bucket, while bundles are kept there.
const LOOK: Duration = Duration::from_secs(30);

const FINDING_UNREACHABLE: &str = "bucket-unreachable";

/// The object that says whose the bucket is.
const MARKER: &str = "strongroom.json";
const FORMAT: &str = "strongroom bucket";
const MARKER_BYTES_MAX: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: String,
    version: u32,
    fleet: FleetId,
}

/// Marks a bucket as this fleet's, or finds out whose it is.
pub(crate) fn mark(bucket: &Bucket, fleet: FleetId) -> Result<(), ApiError> {
    let failed = |error: &dyn std::error::Error| {
        ApiError::new(Code::Unavailable, format!("{}; look at [bucket]", super::chain(error)))
    };
    // Looked at often, written once.
    let found = match bucket.read_range(MARKER, 0, MARKER_BYTES_MAX) {
        Ok(found) => found,
        Err(error) if error.is_not_found() => {
            let marker = Marker { format: FORMAT.to_owned(), version: 1, fleet };
            let text = serde_json::to_vec_pretty(&marker).map_err(|error| failed(&error))?;
            if bucket.put_new(MARKER, text).map_err(|error| failed(&error))? == Put::Created {
                return Ok(());
            }
            bucket.read_range(MARKER, 0, MARKER_BYTES_MAX).map_err(|error| failed(&error))?
        }
        Err(error) => return Err(failed(&error)),
    };
    let found: Option<Marker> = serde_json::from_slice(&found).ok();
    match found {
        Some(found) if found.format == FORMAT && found.fleet == fleet => Ok(()),
        Some(found) if found.format == FORMAT => Err(ApiError::new(
            Code::WrongFleet,
            format!(
                "{bucket} is of fleet {}: give each fleet a bucket or a prefix of its own",
                found.fleet
            ),
        )),
        Some(_) | None => Err(ApiError::new(
            Code::Damaged,
            format!("{MARKER} in {bucket} is not a fleet's mark: use another prefix"),
        )),
    }
}

/// Keeps the bundles' home until it is dropped.
pub(crate) async fn keep_home(keeper: &Keeper) {
    tokio::join!(keep_moving(keeper), keep_looking(keeper));
}

async fn keep_moving(keeper: &Keeper) {
    loop {
        let is_busy = match keeper.move_on().await {
            Ok(is_busy) => is_busy,
            Err(error) => {
                tracing::debug!(%error, "the bundles' home: a round is not complete");
                false
            }
        };
        tokio::time::sleep(if is_busy { BUSY_ROUND } else { ROUND }).await;
    }
}

async fn keep_looking(keeper: &Keeper) {
    loop {
        let state = keeper.inner.raft.local().state;
        let home = state.home();
        let matters = home.to == BundleHome::Bucket || !home.settled;
        if state.fleet().is_some() {
            keeper.look_at_bucket(&state, matters).await;
        }
        tokio::time::sleep(if matters { LOOK } else { ROUND }).await;
    }
}

impl Keeper {
    /// One round of the leader. True when the next one should come soon.
    async fn move_on(&self) -> Result<bool, ApiError> {
        let raft = &self.inner.raft;
        let state = raft.local().state;
        let home = *state.home();
        if home.changed.get() == 0 || !raft.status().is_leader {
            return Ok(home.changed.get() != 0 && !home.settled);
        }
        // Confirmed: one that is a leader no more may still do what follows, and harms nobody, but
        // need not.
        let view = raft.applied(raft.read_index().await?).await?;
        let deleted = self.delete_given_up(&view.state).await?;
        let home = *view.state.home();
        let is_there = match home.to {
            BundleHome::Bucket => {
                let copied = self.copy_to_bucket(&view.state).await?;
                if copied > 0 {
                    return Ok(true);
                }
                view.state.not_in_bucket().all(|(_, row)| row.is_nowhere())
            }
            BundleHome::Disks => view.state.not_on_disks(&view.durable_on()) == 0,
        };
        if is_there && (!home.settled || view.state.is_left_in_bucket()) {
            let command = SetBundleHome::Settle { began: home.began };
            let request = core_request(None, Command::SetBundleHome(command));
            match raft.propose_here(request).await?.0 {
                Outcome::Refused(refusal) => tracing::debug!(%refusal, "the move goes on"),
                _ => {
                    tracing::info!(event = "bundles_moved", to = home.to.as_str(), "bundles moved");
                    self.wake();
                }
            }
        }
        Ok(deleted > 0 || !home.settled)
    }

    /// Deletes what the log gave up, and records that. First the one, then the other: an object
    /// that is recorded as gone is gone.
    async fn delete_given_up(&self, state: &State) -> Result<usize, ApiError> {
        let batch: Vec<(LogIndex, BundleId)> = state.objects_to_delete().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(0);
        }
        for (generation, bundle) in &batch {
            self.delete_object(*bundle, *generation).await?;
        }
        let deleted = batch.len();
        let began = state.home().began;
        let record = RecordObjects { began, present: vec![], absent: vec![], gone: batch };
        self.inner.raft.propose_here(core_request(None, Command::RecordObjects(record))).await?;
        Ok(deleted)
    }

    /// Copies some of what is not in the bucket yet, and records that.
    async fn copy_to_bucket(&self, state: &State) -> Result<usize, ApiError> {
        let home = *state.home();
        let missing: Vec<(BundleId, u64)> = state
            .not_in_bucket()
            .filter(|(_, row)| !row.is_nowhere())
            .take(BATCH)
            .map(|(id, row)| (*id, row.facts.bytes))
            .collect();
        let copies = missing.into_iter().map(|(bundle, bytes)| async move {
            let copied = self.copy_one(bundle, bytes, home.copies).await;
            if let Err(error) = &copied {
                tracing::warn!(%bundle, %error, "a bundle was not copied to the bucket yet");
            }
            copied.ok().map(|()| bundle)
        });
        let copied: Vec<Option<BundleId>> =
            futures::stream::iter(copies).buffer_unordered(COPIES_AT_ONCE).collect().await;
        let present: Vec<BundleId> = copied.into_iter().flatten().collect();
        if present.is_empty() {
            return Ok(0);
        }
        // The move may have been turned round meanwhile: then these are nobody's, and the log knows
        // their names from the bundles themselves.
        let copied = present.len();
        let record = RecordObjects { began: home.began, present, absent: vec![], gone: vec![] };
        self.inner.raft.propose_here(core_request(None, Command::RecordObjects(record))).await?;
        Ok(copied)
    }

    /// From this node's good copy, which a peer gives where it lacks one.
    async fn copy_one(
        &self,
        bundle: BundleId,
        bytes: u64,
        generation: LogIndex,
    ) -> Result<(), ApiError> {
        self.inner.objects(generation)?;
        if !(self.holds(bundle).await? && self.verify(bundle).await?) {
            self.repair(bundle).await?;
        }
        self.blocking("copy-to-bucket", move |inner| copy(inner, bundle, bytes, generation))
            .await?;
        self.inner.remember_object(bundle, generation);
        Ok(())
    }

    /// Raises a finding while this node does not reach the bucket, and clears it when it does.
    async fn look_at_bucket(&self, state: &State, matters: bool) {
        let key = FindingKey {
            scope: Scope::Node(self.inner.this),
            kind: FINDING_UNREACHABLE.to_owned(),
            subject: String::new(),
        };
        let stands = state.findings().any(|(known, _)| *known == key);
        let problem = if matters { self.reach_bucket(state).await.err() } else { None };
        match problem {
            None if stands => {
                self.record_finding(Command::ClearFinding(ClearFinding { key })).await;
            }
            Some(error) if !stands => {
                let mut message =
                    format!("node {} does not reach the bucket: {error}", self.inner.this);
                message.truncate(message.floor_char_boundary(1000));
                self.record_finding(Command::RaiseFinding(RaiseFinding {
                    key,
                    severity: Severity::Critical,
                    message,
                    remedy: "look at [bucket] in its config, the credentials and the network; \
                             without the bucket this node can neither take bundles nor give them"
                        .to_owned(),
                }))
                .await;
            }
            None | Some(_) => {}
        }
    }

    async fn reach_bucket(&self, state: &State) -> Result<(), ApiError> {
        let Some(fleet) = state.fleet().map(|fleet| fleet.id) else { return Ok(()) };
        self.blocking("look-at-bucket", move |inner| {
            let store = inner.objects(LogIndex::new(0))?;
            mark(store.bucket(), fleet)
        })
        .await
    }

    /// Marks the bucket as this fleet's, so that bundles may go there.
    pub(crate) async fn claim_bucket(&self, fleet: FleetId) -> Result<(), ApiError> {
        self.blocking("mark-bucket", move |inner| {
            let store = inner.objects(LogIndex::new(0))?;
            mark(store.bucket(), fleet)
        })
        .await
    }
}

/// One bundle from the disk into the bucket; read back before this returns.
fn copy(inner: &Inner, bundle: BundleId, bytes: u64, generation: LogIndex) -> Result<(), ApiError> {
    const PIECE_BYTES: usize = 1 << 20;
    let objects = inner.objects(generation)?;
    let mut at = objects.begin(&bundle, bytes).map_err(store_error)?;
    if at == bytes {
        // There already, from a leader that died before it could say so, or being sent by another
        // thread: the end tells, and what is there is read like what was just written.
        objects.finish(&bundle, bytes).map_err(store_error)?;
        let verified = objects.verify(&bundle);
        if matches!(verified, Err(BundleError::Damaged { .. })) {
            // Makes room for the next try.
            objects.quarantine(&bundle).map_err(store_error)?;
        }
        return verified.map_err(store_error);
    }
    while at < bytes {
        let piece = inner.store.read_range(&bundle, at, PIECE_BYTES).map_err(store_error)?;
        if piece.is_empty() {
            return Err(ApiError::new(Code::Damaged, "this node's copy is too short"));
        }
        objects.write(&bundle, at, &piece).map_err(store_error)?;
        at += piece.len() as u64;
    }
    objects.finish(&bundle, bytes).map_err(store_error)
}

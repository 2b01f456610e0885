//! The keeper's housekeeping after every change of the state: fetches what is missing, tells the
//! fleet what this node holds, and removes what ended uploads left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coordinator_core::{BundleRow, Command, RecordHolders, limits};
use proto::ApiError;
use proto_types::{BundleId, Code};
use storage::bundles::BundleStore;
use storage::ledger::UploadClaim;

use super::{Inner, Keeper, lock, store_error};
use crate::service::core_request;
use crate::telemetry;

/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// A look at many bundles takes long, and uploads wait for parts of it: it is to take a tenth of
/// the time.
const REST_PER_WORK: u32 = 9;
/// A repair takes long, too, and is no reason to leave the next one for later.
const REST_MAX: Duration = Duration::from_secs(2);
/// Even without a change, what failed is tried again.
const ROUND: Duration = Duration::from_secs(10);
/// How long the fleet knows of what the log has brought only that a majority has it.
const NAME_EVERY_MS: u64 = 10_000;

/// Keeps house and books until it is dropped.
pub(crate) async fn keep_house(keeper: Keeper) {
    tokio::join!(keep_bundles(&keeper), keeper.keep_books());
}

async fn keep_bundles(keeper: &Keeper) {
    let mut changes = keeper.inner.raft.watch();
    loop {
        let woken = async {
            tokio::select! {
                _ = changes.changed() => {}
                () = keeper.inner.wake.notified() => {}
            }
        };
        // Either is a reason to look.
        let _ = tokio::time::timeout(ROUND, woken).await;
        tokio::time::sleep(DEBOUNCE).await;
        let began = keeper.inner.env.clock.elapsed_millis();
        if let Err(error) = keeper.round().await {
            tracing::warn!(%error, "housekeeping is not complete and will be tried again");
        }
        let took = keeper.inner.env.clock.elapsed_millis().saturating_sub(began);
        tokio::time::sleep((Duration::from_millis(took) * REST_PER_WORK).min(REST_MAX)).await;
    }
}

impl Keeper {
    async fn round(&self) -> Result<(), ApiError> {
        self.remove_abandoned().await?;
        let view = self.inner.raft.local();
        // Of what nobody has there is nothing to fetch; that is the leader's to report.
        let state = &view.state;
        let is_somewhere = |row: &BundleRow| !row.is_nowhere();
        let needed: BTreeSet<BundleId> = state
            .bundles()
            .filter(|(_, row)| state.wants_copies(row) && is_somewhere(row))
            .map(|(id, _)| *id)
            .collect();
        let held: BTreeSet<BundleId> = self
            .blocking("list-held", |inner| inner.noted(inner.ledger.bundles()))
            .await?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let mut missing = 0;
        for bundle in needed.difference(&held) {
            // One that is being written is not missing.
            if lock(&self.inner.receiving).contains(bundle) {
                continue;
            }
            let repaired = self.repair(*bundle).await;
            if repaired.as_ref().is_err_and(|error| error.code() == Code::Busy) {
                // It is arriving this very moment.
                continue;
            }
            missing += u64::from(repaired.is_err());
            self.report_damage(*bundle, repaired.is_err()).await;
        }
        self.record_holdings().await?;
        self.report_snapshots().await?;
        let (count, bytes, free) = self.usage().await?;
        telemetry::disk(count, bytes, free, missing);
        Ok(())
    }

    /// Tells the fleet what this node has that it is not known for, and the other way round.
    async fn record_holdings(&self) -> Result<(), ApiError> {
        let state = self.inner.raft.local().state;
        let held: BTreeSet<BundleId> = self
            .blocking("list-held", |inner| inner.noted(inner.ledger.bundles()))
            .await?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        // Who has what the log has brought is not asked at once: together it costs less, and until
        // then it is known that a majority has it. A change of the voters waits for the names.
        let in_log_too = state.change().is_some()
            || !state.home().settled
            || self.inner.env.clock.elapsed_millis()
                >= self.inner.named.load(Ordering::Relaxed) + NAME_EVERY_MS;
        let mut news = Vec::new();
        for (id, row) in state.bundles() {
            if state.is_released(id) || (row.in_log && !in_log_too) {
                continue;
            }
            match (held.contains(id), row.holders.contains(&self.inner.this)) {
                (true, false) => news.push((*id, true)),
                (false, true) if !lock(&self.inner.receiving).contains(id) => {
                    news.push((*id, false));
                }
                _ => {}
            }
        }
        let ids: Vec<BundleId> = news.iter().map(|(id, _)| *id).collect();
        self.blocking("sync-carried", move |inner| inner.carried(inner.carried.sync_for(&ids)))
            .await?;
        for part in news.chunks(limits::RECORDED_HOLDERS_MAX) {
            let ids = |is_here: bool| {
                part.iter().filter(|(_, here)| *here == is_here).map(|(id, _)| *id).collect()
            };
            let command = Command::RecordHolders(RecordHolders {
                node: self.inner.this,
                present: ids(true),
                absent: ids(false),
                home: state.home().changed,
            });
            self.inner.raft.propose(core_request(None, command)).await?;
        }
        if in_log_too {
            self.inner.named.store(self.inner.env.clock.elapsed_millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes what uploads left that have ended without a commit (invariant B2): under the gate,
    /// by the state as applied here, never by a clock.
    async fn remove_abandoned(&self) -> Result<(), ApiError> {
        // A node that has just started may not have applied yet what it acknowledged before: a
        // lease that it does not know may still lie ahead in its log. After a linearizable read
        // it has applied everything that was committed, so such a lease has truly ended.
        self.inner.raft.read().await?;
        let gate = self.inner.gate.clone().lock_owned().await;
        let removed = self
            .blocking("remove-abandoned", move |inner| {
                let _gate = gate;
                remove_abandoned(inner)
            })
            .await?;
        for bundle in removed {
            telemetry::abandoned_removed(bundle);
        }
        Ok(())
    }
}

/// Under the gate. What is here is listed before the state is looked at: whatever is listed came
/// in under a lease that the state knows by then, or knows to be over.
fn remove_abandoned(inner: &Arc<Inner>) -> Result<Vec<BundleId>, ApiError> {
    let claims = inner.noted(inner.ledger.all_claims())?;
    let held = inner.noted(inner.ledger.bundles())?;
    let partials = inner.store.partials().map_err(store_error)?;
    // Listed between the two as well: what the log has just brought is here, and the state that
    // needs it follows.
    let arriving = inner.carried.arriving();
    let state = inner.raft.local().state;

    let is_live = |claim: &UploadClaim| state.brings_bundles(&claim.lease);
    let live: BTreeSet<BundleId> =
        claims.iter().filter(|claim| is_live(claim)).map(|claim| claim.bundle).collect();
    let mut unwanted = BTreeSet::new();
    let (mut ended, mut busy) = (BTreeSet::new(), BTreeSet::new());
    for claim in claims.iter().filter(|claim| !is_live(claim)) {
        ended.insert(claim.lease);
        if !live.contains(&claim.bundle) {
            unwanted.insert(claim.bundle);
        }
    }
    // Without a claim, as after the ledger was lost: nobody is uploading anything, so nobody can
    // be about to commit it.
    if state.uploads().next().is_none() && state.restore().is_none() {
        unwanted.extend(held.iter().map(|(bundle, _)| *bundle));
        unwanted.extend(partials.iter().map(|partial| partial.id));
    }
    let mut removed = Vec::new();
    // In the bucket, and so are all others: the copies here may go (invariant B1).
    unwanted.extend(held.iter().map(|(bundle, _)| *bundle).filter(|id| state.is_released(id)));
    for bundle in unwanted {
        if arriving.contains(&bundle) || (state.is_needed(&bundle) && !state.is_released(&bundle)) {
            continue;
        }
        // One that is being written stays: its writer finds the lease gone and wakes us again.
        let Ok(_writing) = inner.receiving(bundle) else {
            busy.insert(bundle);
            continue;
        };
        inner.wrote(inner.store.abandon(&bundle))?;
        inner.wrote(inner.store.delete(&bundle))?;
        inner.noted(inner.ledger.remove_bundle(&bundle))?;
        lock(&inner.verified).remove(&bundle);
        removed.push(bundle);
    }
    for claim in &claims {
        if busy.contains(&claim.bundle) {
            ended.remove(&claim.lease);
        }
    }
    // Uploads to the bucket that are over: what they hold in memory.
    if let Some(bucket) = &inner.bucket {
        for (bundle, generation) in bucket.begun() {
            let is_copy = state.home().copies == generation;
            if !is_copy && !state.is_announced(generation, &bundle) {
                inner.wrote(bucket.of(generation).abandon(&bundle))?;
            }
        }
    }
    for lease in ended {
        inner.noted(inner.ledger.release_claims(&lease))?;
    }
    Ok(removed)
}

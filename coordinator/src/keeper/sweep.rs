//! The keeper's housekeeping after every change of the state: fetches what is missing, tells the
//! fleet what this node holds, and removes what ended uploads left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use coordinator_core::{Command, RecordHolders, limits};
use proto::ApiError;
use proto_types::BundleId;
use storage::ledger::UploadClaim;

use super::{Keeper, ledger_error, lock, store_error};
use crate::service::core_request;
use crate::telemetry;

/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Even without a change, what failed is tried again.
const ROUND: Duration = Duration::from_secs(10);

/// Keeps house until it is dropped.
pub(crate) async fn keep_house(keeper: Keeper) {
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
        if let Err(error) = keeper.round().await {
            tracing::warn!(%error, "housekeeping is not complete and will be tried again");
        }
    }
}

impl Keeper {
    async fn round(&self) -> Result<(), ApiError> {
        self.remove_abandoned().await?;
        let view = self.inner.raft.local();
        let needed: BTreeSet<BundleId> = view.state.bundles().map(|(id, _)| *id).collect();
        let held: BTreeSet<BundleId> = self
            .blocking("list-held", |inner| inner.ledger.bundles().map_err(ledger_error))
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
            missing += u64::from(repaired.is_err());
            self.report_damage(*bundle, repaired.is_err()).await;
        }
        self.record_holdings().await?;
        let (count, bytes, free) = self.usage().await?;
        telemetry::disk(count, bytes, free, missing);
        Ok(())
    }

    /// Tells the fleet what this node has that it is not known for, and the other way round.
    async fn record_holdings(&self) -> Result<(), ApiError> {
        let state = self.inner.raft.local().state;
        let held: BTreeSet<BundleId> = self
            .blocking("list-held", |inner| inner.ledger.bundles().map_err(ledger_error))
            .await?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let mut present = Vec::new();
        let mut absent = Vec::new();
        for (id, row) in state.bundles() {
            match (held.contains(id), row.holders.contains(&self.inner.this)) {
                (true, false) => present.push(*id),
                (false, true) if !lock(&self.inner.receiving).contains(id) => absent.push(*id),
                _ => {}
            }
        }
        let half = limits::RECORDED_HOLDERS_MAX / 2;
        let rounds = present.len().max(absent.len()).div_ceil(half);
        for round in 0..rounds {
            let part = |ids: &[BundleId]| {
                ids.iter().skip(round * half).take(half).copied().collect::<Vec<_>>()
            };
            let command = Command::RecordHolders(RecordHolders {
                node: self.inner.this,
                present: part(&present),
                absent: part(&absent),
            });
            self.inner.raft.propose(core_request(None, command)).await?;
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
        let _gate = self.inner.gate.lock().await;
        let state = self.inner.raft.local().state;
        let receiving = lock(&self.inner.receiving).clone();
        let removed = self
            .blocking("remove-abandoned", move |inner| {
                let mut removed = Vec::new();
                let claims = inner.ledger.all_claims().map_err(ledger_error)?;
                let live: BTreeSet<BundleId> = claims
                    .iter()
                    .filter(|claim| state.upload(&claim.lease).is_some())
                    .map(|claim| claim.bundle)
                    .collect();
                let (mut ended, mut busy) = (BTreeSet::new(), BTreeSet::new());
                for UploadClaim { lease, bundle, .. } in claims {
                    if state.upload(&lease).is_some() {
                        continue;
                    }
                    if receiving.contains(&bundle) {
                        // Its writer finds the lease gone and wakes us again.
                        busy.insert(lease);
                        continue;
                    }
                    if !live.contains(&bundle) && !state.is_needed(&bundle) {
                        inner.store.abandon(&bundle).map_err(store_error)?;
                        inner.store.delete(&bundle).map_err(store_error)?;
                        inner.ledger.remove_bundle(&bundle).map_err(ledger_error)?;
                        removed.push(bundle);
                    }
                    ended.insert(lease);
                }
                // Without a claim, as after the ledger was lost: nobody is uploading anything, so
                // nobody can be about to commit it.
                if state.uploads().next().is_none() && receiving.is_empty() {
                    for (bundle, _) in inner.ledger.bundles().map_err(ledger_error)? {
                        if !state.is_needed(&bundle) {
                            inner.store.delete(&bundle).map_err(store_error)?;
                            inner.ledger.remove_bundle(&bundle).map_err(ledger_error)?;
                            removed.push(bundle);
                        }
                    }
                }
                for lease in ended.difference(&busy) {
                    inner.ledger.release_claims(lease).map_err(ledger_error)?;
                }
                Ok(removed)
            })
            .await?;
        for bundle in removed {
            telemetry::abandoned_removed(bundle);
        }
        Ok(())
    }
}

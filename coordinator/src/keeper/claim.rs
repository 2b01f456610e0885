//! Acknowledging bundles for an upload: only while its lease is live, only what is on stable
//! storage, and never beside a deletion (invariant B2).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::{ApiError, v1};
use proto_types::{BundleId, Code, LeaseId, LogIndex, NodeId};

use storage::ledger::UploadClaim;

use super::{Holders, Keeper, store_error};
use crate::service::lease_gone;

/// A peer that does not answer in this time does not count; repair will find its copy.
const CLAIM_DEADLINE: Duration = Duration::from_secs(3);
/// Once a majority has answered, the rest has this long.
const STRAGGLER_GRACE: Duration = Duration::from_millis(20);

impl Keeper {
    /// Says which of these bundles this node has for that upload. The caller has waited for the
    /// lease's index.
    pub(super) async fn acknowledge(
        &self,
        lease: LeaseId,
        ids: &[BundleId],
    ) -> Result<Vec<BundleId>, ApiError> {
        let gate = self.inner.gate.clone().lock_owned().await;
        self.inner.alive()?;
        let state = self.inner.raft.local().state;
        if !state.brings_bundles(&lease) && !ids.iter().all(|id| state.is_needed(id)) {
            self.wake();
            return Err(lease_gone(lease));
        }
        let ids = ids.to_vec();
        self.blocking("acknowledge", move |inner| {
            let _gate = gate;
            inner.carried(inner.carried.sync_for(&ids))?;
            let mut held = Vec::new();
            for id in ids {
                if let Some(bytes) = inner.store.size(&id).map_err(store_error)? {
                    if inner.noted(inner.ledger.bundle(&id))?.is_none() {
                        inner.note_held(id, bytes)?;
                    }
                    let claim = UploadClaim { lease, bundle: id, bytes: 0 };
                    inner.noted(inner.ledger.put_claim(claim))?;
                    held.push(id);
                }
            }
            Ok(held)
        })
        .await
    }

    /// The same of one bundle, which must be here.
    pub(super) async fn acknowledge_one(
        &self,
        lease: LeaseId,
        id: BundleId,
    ) -> Result<(), ApiError> {
        if self.acknowledge(lease, &[id]).await?.contains(&id) {
            return Ok(());
        }
        Err(ApiError::new(
            Code::Unavailable,
            format!("bundle {} was removed with an ended upload; send it again", id.short()),
        ))
    }

    /// The same, after this node has applied the log up to the lease.
    pub(crate) async fn claim_here(
        &self,
        lease: LeaseId,
        index: LogIndex,
        ids: &[BundleId],
    ) -> Result<Vec<BundleId>, ApiError> {
        self.inner.raft.applied(index).await?;
        self.acknowledge(lease, ids).await
    }

    /// Asks all coordinators which of these bundles they have for that upload: what a commit may
    /// say of its holders (invariant B1).
    pub(crate) async fn claim(
        &self,
        lease: LeaseId,
        index: LogIndex,
        ids: &[BundleId],
    ) -> Result<Holders, ApiError> {
        let voters = self.inner.raft.local().durable_on();
        let mut holders = Holders::new();
        // Who does not vote counts for nothing here; it reports what it holds by itself.
        let voting = voters.all();
        let mut note = |node: NodeId, held: Vec<BundleId>| {
            for id in held.into_iter().filter(|_| voting.contains(&node)) {
                holders.entry(id).or_default().push(node);
            }
        };
        note(self.inner.this, self.claim_here(lease, index, ids).await?);

        let message = v1::ClaimBundlesRequest {
            lease_id: Bytes::copy_from_slice(lease.as_bytes()),
            lease_log_index: index.get(),
            bundle_ids: ids.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())).collect(),
        };
        let mut answers: FuturesUnordered<_> = self
            .inner
            .peers
            .all()
            .map(|(node, mut peer)| {
                let message = message.clone();
                async move {
                    let call = tokio::time::timeout(CLAIM_DEADLINE, peer.claim_bundles(message));
                    let held: Vec<BundleId> = match call.await {
                        Ok(Ok(reply)) => reply
                            .into_inner()
                            .held_ids
                            .iter()
                            .filter_map(|id| BundleId::from_slice(id).ok())
                            .collect(),
                        // Not reached or refused: does not count.
                        Ok(Err(_)) | Err(_) => Vec::new(),
                    };
                    (node, held)
                }
            })
            .collect();
        let mut answered = BTreeSet::from([self.inner.this]);
        loop {
            let enough = voters.have_majority(&answered);
            let limit = if enough { STRAGGLER_GRACE } else { CLAIM_DEADLINE };
            match tokio::time::timeout(limit, answers.next()).await {
                Ok(Some((node, held))) => {
                    if held.len() == ids.len() {
                        answered.insert(node);
                    }
                    note(node, held);
                }
                Ok(None) | Err(_) => break,
            }
        }
        Ok(holders)
    }
}

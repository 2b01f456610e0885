//! Brings a bundle that this node should have and has not, or not whole, from a peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordinator_core::{Command, FindingKey, Outcome, RaiseFinding, Scope, Severity};
use futures::StreamExt;
use proto::{ApiError, v1};
use proto_types::{BundleId, Code, LeaseId, LogIndex, NodeId};

use super::{Keeper, Receiving, Upload, store_error};
use crate::peers::Peer;
use crate::service::core_request;
use crate::telemetry;

/// The finding for a bundle of which no good copy was reached.
pub(super) const FINDING_DAMAGED: &str = "bundle-damaged";

/// A peer that sends nothing for this long has gone, although its connection lives.
const PEER_PATIENCE: Duration = Duration::from_secs(30);

/// Where a copy may come from.
enum Source {
    Peer(NodeId, Box<Peer>),
    Object(LogIndex, u64),
}

fn silent(limit: Duration) -> ApiError {
    ApiError::new(Code::DeadlineExceeded, format!("the peer sent nothing for {limit:?}"))
}

async fn next_message(
    stream: &mut tonic::Streaming<v1::FetchBundleResponse>,
) -> Option<Result<v1::FetchBundleResponse, ApiError>> {
    match tokio::time::timeout(PEER_PATIENCE, stream.next()).await {
        Ok(message) => message.map(|message| message.map_err(ApiError::from)),
        Err(_) => Some(Err(silent(PEER_PATIENCE))),
    }
}

impl Keeper {
    /// Brings one bundle from whichever peer has a good copy. Goes on when the caller has gone, so
    /// that a request whose time is over finds more done when it comes again.
    ///
    /// # Errors
    /// The last peer's, when none has.
    pub(crate) async fn repair(&self, bundle: BundleId) -> Result<(), ApiError> {
        let (report, done) = tokio::sync::oneshot::channel();
        let keeper = self.clone();
        self.inner.env.spawn.task(
            "repair-bundle",
            Box::pin(async move {
                // Nobody may wait any more.
                let _ = report.send(keeper.repair_now(bundle).await);
            }),
        );
        done.await.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "the repair's task ended")))
    }

    async fn repair_now(&self, bundle: BundleId) -> Result<(), ApiError> {
        let receiving = self.receiving(bundle)?;
        // Somebody else brought it, or it was here and only the ledger did not say so.
        let here = self.blocking("find-held", move |inner| {
            let size = inner.store.size(&bundle).map_err(store_error)?;
            size.map(|bytes| inner.note_held(bundle, bytes)).transpose()
        });
        if here.await?.is_some() {
            return Ok(());
        }
        let state = self.inner.raft.local().state;
        let row = state.bundle(&bundle);
        let bytes = row.map(|row| row.facts.bytes);
        // Those that are known to have it first, then the bucket, then everybody else.
        let mut peers: Vec<(NodeId, Peer)> = self.inner.peers.all_for_bundles().collect();
        peers.sort_by_key(|(node, _)| !row.is_some_and(|row| row.holders.contains(node)));
        let known = peers
            .iter()
            .take_while(|(node, _)| row.is_some_and(|row| row.holders.contains(node)))
            .count();
        let others = peers.split_off(known);
        let object = row.and_then(|row| Some((row.object?, row.facts.bytes)));
        let mut last = None;
        let sources = peers.into_iter().map(|(node, peer)| Source::Peer(node, Box::new(peer)));
        let sources = sources.chain(object.map(|(of, bytes)| Source::Object(of, bytes)));
        let others = others.into_iter().map(|(node, peer)| Source::Peer(node, Box::new(peer)));
        for source in sources.chain(others) {
            let (node, peer) = match source {
                Source::Peer(node, peer) => (node, *peer),
                Source::Object(generation, bytes) => {
                    match self.fetch_object(&receiving, generation, bytes).await {
                        Ok(()) => {
                            self.stored(bundle, bytes, "repair");
                            telemetry::repaired_from_bucket(bundle);
                            drop(receiving);
                            return Ok(());
                        }
                        Err(error) if error.code() == Code::NoSpace => return Err(error),
                        Err(error) => last = Some(error),
                    }
                    continue;
                }
            };
            match self.fetch(peer, &receiving, bytes).await {
                Ok(bytes) => {
                    self.stored(bundle, bytes, "repair");
                    telemetry::repaired(bundle, node);
                    drop(receiving);
                    return Ok(());
                }
                // Ours, not the peer's: no other peer could help.
                Err(error) if error.code() == Code::NoSpace => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| {
            ApiError::new(Code::BundleNotFound, "there is no other coordinator to ask")
        });
        let error = ApiError::new(
            Code::BundleNotFound,
            format!("no coordinator has a good copy of bundle {}: {error}", bundle.short()),
        );
        telemetry::repair_failed(bundle, &error);
        Err(error)
    }

    async fn fetch(
        &self,
        mut peer: Peer,
        receiving: &Arc<Receiving>,
        expected: Option<u64>,
    ) -> Result<u64, ApiError> {
        let bundle_id = Bytes::copy_from_slice(receiving.bundle.as_bytes());
        // The peer reads its whole copy before it answers.
        let limit = Self::copy_limit(expected.unwrap_or(0));
        let call = peer.fetch_bundle(v1::FetchBundleRequest { bundle_id });
        let answer = tokio::time::timeout(limit, call).await.map_err(|_| silent(limit))?;
        let mut stream = answer?.into_inner();
        let Some(first) = next_message(&mut stream).await else {
            return Err(ApiError::new(Code::Damaged, "the peer sent an empty bundle"));
        };
        let first = first?;
        let bytes = first.total_bytes;
        if expected.is_some_and(|expected| expected != bytes) {
            return Err(ApiError::new(Code::Damaged, "the peer's copy has another length"));
        }
        let copy = self.begin_local(receiving, bytes, 0);
        let mut next = Some(Ok(first));
        while let Some(message) = next {
            match message {
                Ok(message) => {
                    if !copy.write(message.data).await {
                        break;
                    }
                }
                Err(error) => {
                    copy.abandon().await;
                    return Err(error);
                }
            }
            next = next_message(&mut stream).await;
        }
        copy.finish().await?;
        Ok(bytes)
    }

    /// Makes sure that this node has a bundle of an upload that was taken by another.
    pub(crate) async fn ensure_here(
        &self,
        bundle: BundleId,
        lease: LeaseId,
        index: LogIndex,
    ) -> Result<(), ApiError> {
        self.inner.raft.applied(index).await?;
        if self.holds(bundle).await? {
            return Ok(());
        }
        self.note_claim(Upload { lease, lease_index: index, bundle, bytes: 0, offset: 0 }).await?;
        match self.repair(bundle).await {
            // It is arriving this very moment.
            Err(error) if error.code() == Code::Busy => Err(error),
            // This node's own trouble, not the bundle's.
            Err(error) if matches!(error.code(), Code::NoSpace | Code::LocalIo) => Err(error),
            Err(_) => Err(ApiError::new(
                Code::BundleNotDurable,
                format!(
                    "the commit names bundle {}, which no coordinator has: upload it first",
                    bundle.short()
                ),
            )),
            Ok(()) => Ok(()),
        }
    }

    /// Tells people that a bundle could not be repaired, or that it could at last.
    pub(super) async fn report_damage(&self, bundle: BundleId, damaged: bool) {
        let key = FindingKey {
            scope: Scope::Node(self.inner.this),
            kind: FINDING_DAMAGED.to_owned(),
            subject: bundle.short(),
        };
        let stands = self.inner.raft.local().state.findings().any(|(k, _)| *k == key);
        if stands == damaged {
            return;
        }
        let command = if damaged {
            Command::RaiseFinding(RaiseFinding {
                key,
                severity: Severity::Critical,
                message: format!(
                    "node {} has no good copy of bundle {}, and found none at the others",
                    self.inner.this,
                    bundle.short()
                ),
                remedy: "start the coordinators that are down; if it stays, restore the points \
                         that need it from an export, or take a new full backup"
                    .to_owned(),
            })
        } else {
            Command::ClearFinding(coordinator_core::ClearFinding { key })
        };
        self.record_finding(command).await;
    }

    /// Has a finding raised or cleared, and says whether it was. What fails is tried again with
    /// the next round.
    pub(super) async fn record_finding(&self, command: Command) -> bool {
        match self.inner.raft.propose(core_request(None, command)).await {
            Ok((Outcome::Refused(refusal), _)) => {
                tracing::warn!(%refusal, "a finding was refused");
                false
            }
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "could not record a finding");
                false
            }
        }
    }
}

//! Takes a bundle from an agent and spreads it: to this node's disk and, while it arrives, to
//! the other coordinators. Answered when a majority of the voters has it on stable storage; or
//! when the bucket has it, where bundles are kept in one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordinator_core::Voters;
use coordinator_core::majority;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::env::BoxFuture;
use proto::{ApiError, v1};
use proto_types::{Code, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::fan_out::{FanOut, Lane, PEER_LAG_MAX};
use super::receive::next_piece;
use super::{Keeper, Pieces, Receiving, Upload};
use crate::peers::Peer;
use crate::telemetry;

/// Messages between a peer's queue and its call: what waits does so in the queue.
const MESSAGES_IN_CALL: usize = 1;
/// Once a majority has it, the rest may still join the commit's list of holders for this long:
/// far less than a log entry of their own costs.
const STRAGGLER_GRACE: Duration = Duration::from_millis(20);
/// A copy that makes no progress at all ends after this.
const COPY_DEADLINE: Duration = Duration::from_secs(60);

type CopyResult = (NodeId, Result<(), ApiError>);

impl Keeper {
    /// Takes a bundle. `pieces` begin at `upload.offset`.
    ///
    /// # Errors
    /// When the stream breaks (what arrived stays for a continuation), the digest is another,
    /// the disk is full, or no majority is reached.
    pub(crate) async fn upload(
        &self,
        upload: Upload,
        pieces: Pieces,
    ) -> Result<Vec<NodeId>, ApiError> {
        let started = self.inner.env.clock.elapsed_millis();
        telemetry::upload_started(upload.lease, upload.bundle, upload.bytes, upload.offset);
        match self.spread(upload, pieces).await {
            Ok(holders) => {
                let millis = self.inner.env.clock.elapsed_millis().saturating_sub(started);
                let seconds = Duration::from_millis(millis).as_secs_f64();
                telemetry::upload_stored(
                    upload.lease,
                    upload.bundle,
                    upload.bytes,
                    &holders,
                    seconds,
                );
                Ok(holders)
            }
            Err(error) => {
                telemetry::upload_failed(upload.lease, upload.bundle, &error);
                Err(error)
            }
        }
    }

    async fn spread(&self, upload: Upload, pieces: Pieces) -> Result<Vec<NodeId>, ApiError> {
        if self.goes_to_bucket() {
            self.upload_object(upload, pieces).await?;
            return Ok(Vec::new());
        }
        let voters = self.inner.raft.local().durable_on();
        let receiving = self.receiving(upload.bundle)?;
        let here = self.holds(upload.bundle).await?;
        let from_disk = here || upload.offset > 0;
        let (mut fan_out, mut results) = self.start_copies(upload, voters.clone(), from_disk);
        if !here {
            self.note_claim(upload).await?;
            self.receive(&receiving, upload, pieces, &mut fan_out).await?;
            self.stored(upload.bundle, upload.bytes, "upload");
        }
        drop(receiving);
        // Ends the peers' streams.
        drop(fan_out);
        self.acknowledge_one(upload.lease, upload.bundle).await?;

        let mut holders = BTreeSet::from([self.inner.this]);
        let needed = majority(voters.all().len());
        let enough = |holders: &BTreeSet<NodeId>| voters.have_majority(holders);
        let mut last = None;
        while !enough(&holders) {
            match results.next().await {
                Some((node, Ok(()))) => {
                    holders.insert(node);
                }
                Some((node, Err(error))) => {
                    telemetry::peer_copy_failed(upload.bundle, node, &error);
                    last = Some(error);
                }
                None => return Err(no_majority(holders.len(), needed, last)),
            }
        }
        let straggle = async {
            while let Some((node, result)) = results.next().await {
                match result {
                    Ok(()) => {
                        holders.insert(node);
                    }
                    Err(error) => telemetry::peer_copy_failed(upload.bundle, node, &error),
                }
            }
        };
        // Who does not make it in time goes on by itself and reports later.
        let _ = tokio::time::timeout(STRAGGLER_GRACE, straggle).await;
        Ok(holders.into_iter().collect())
    }

    /// From the agent's stream to the disk and to the peers' queues.
    async fn receive(
        &self,
        receiving: &Arc<Receiving>,
        upload: Upload,
        mut pieces: Pieces,
        fan_out: &mut FanOut,
    ) -> Result<(), ApiError> {
        let local = self.begin_local(receiving, upload.bytes, upload.offset);
        let mut first = true;
        while let Some(piece) = next_piece(&mut pieces).await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    local.abandon().await;
                    return Err(error);
                }
            };
            if first {
                telemetry::upload_progress(upload.lease, upload.bundle, piece.len() as u64);
                first = false;
            }
            if !local.write(piece.clone()).await {
                break;
            }
            if upload.offset == 0 {
                fan_out.send(&piece).await;
            }
        }
        local.finish().await
    }

    fn start_copies(
        &self,
        upload: Upload,
        voters: Voters,
        from_disk: bool,
    ) -> (FanOut, FuturesUnordered<BoxFuture<'static, CopyResult>>) {
        let results = FuturesUnordered::new();
        let mut fan_out = FanOut::new(self.inner.this, voters);
        for (node, peer) in self.inner.peers.all_for_bundles() {
            let Lane { pieces, left_behind } = fan_out.add(node);
            let keeper = self.clone();
            let (report, done) = tokio::sync::oneshot::channel();
            // A task of its own: a copy goes on when the agent was already answered.
            self.inner.env.spawn.task(
                "copy-bundle",
                Box::pin(async move {
                    let result = tokio::select! {
                        result = keeper.copy_to(peer, upload, from_disk, pieces) => result,
                        () = left_behind.cancelled() => Err(too_slow()),
                    };
                    let _ = report.send(result);
                }),
            );
            let lost = || ApiError::new(Code::Internal, "the copy's task ended");
            let result: BoxFuture<'static, CopyResult> =
                Box::pin(async move { (node, done.await.unwrap_or_else(|_| Err(lost()))) });
            results.push(result);
        }
        (fan_out, results)
    }

    /// Sends a whole bundle to one peer: as it comes, or from the disk once it is whole.
    async fn copy_to(
        &self,
        mut peer: Peer,
        upload: Upload,
        from_disk: bool,
        mut live: mpsc::Receiver<Bytes>,
    ) -> Result<(), ApiError> {
        // A continuation or a repeat: the peer may lack bytes from before. Wait until the bundle
        // is whole here (the queue is closed then), and send it from the disk. The peer is called
        // only then: it does not wait for long.
        let mut whole = None;
        if from_disk {
            while live.recv().await.is_some() {}
            whole = Some(self.clone().send_copy(upload.bundle).await?);
        }
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_CALL);
        let begin = v1::StoreBundleBegin {
            bundle_id: Bytes::copy_from_slice(upload.bundle.as_bytes()),
            bytes: upload.bytes,
            lease_id: Bytes::copy_from_slice(upload.lease.as_bytes()),
            lease_log_index: upload.lease_index.get(),
            offset: 0,
        };
        let feed = async move {
            use v1::store_bundle_request::Part;
            let send = |part| sender.send(v1::StoreBundleRequest { part: Some(part) });
            if send(Part::Begin(begin)).await.is_err() {
                return;
            }
            let Some(mut whole) = whole else {
                while let Some(piece) = live.recv().await {
                    if send(Part::Data(piece)).await.is_err() {
                        return;
                    }
                }
                return;
            };
            while let Some(Ok(piece)) = whole.next().await {
                if send(Part::Data(piece.data)).await.is_err() {
                    return;
                }
            }
        };
        // The peer's answer ends both: it may refuse before it has read everything.
        let call = peer.store_bundle(ReceiverStream::new(receiver));
        let both = async { tokio::join!(feed, call).1 };
        tokio::time::timeout(Self::copy_limit(upload.bytes), both)
            .await
            .map_err(|_| ApiError::new(Code::DeadlineExceeded, "the peer did not finish in time"))?
            .map_err(ApiError::from)
            .map(drop)
    }

    /// A minute, and a second more for each MiB: slower than that is as good as gone.
    pub(super) fn copy_limit(bytes: u64) -> Duration {
        COPY_DEADLINE + Duration::from_secs(bytes >> 20)
    }
}

fn too_slow() -> ApiError {
    ApiError::new(
        Code::DeadlineExceeded,
        format!(
            "the peer held the upload up for {PEER_LAG_MAX:?} in all, while a majority went on; \
             look at its disk and network if it happens again"
        ),
    )
}

fn no_majority(have: usize, needed: usize, last: Option<ApiError>) -> ApiError {
    let cause = last.map(|error| format!(" ({error})")).unwrap_or_default();
    ApiError::new(
        Code::BundleNotDurable,
        format!(
            "only {have} of the {needed} coordinators needed took the bundle{cause}; the fleet \
             lacks a majority: see `strongroom status`"
        ),
    )
}

//! `SaveSnapshot`: the leader confirms itself, takes the state, streams it, and has an entry
//! committed that only it could have appended (invariant S1). Any other node passes the stream on.

use std::time::Duration;

use coordinator_core::{Command, Outcome, SealSnapshot, State, codec};
use futures::StreamExt;
use proto::{ApiError, v1};
use proto_types::Code;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use super::fleet::core_request;
use super::{ReceiverStreamOf, Shared};
use crate::audit::PER_SEGMENT;
use crate::snapshot_file::{BUNDLES, META, Meta, STATE, Seal, Sums, audit_entry_name};

/// Bytes of one message.
const PIECE_BYTES: usize = 1 << 20;
/// Messages on their way; with what the transport buffers, a slow reader holds some megabytes.
const PIECES_IN_FLIGHT: usize = 4;

/// A reader gives a stream up that is silent for long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

type Out = mpsc::Sender<Result<v1::SnapshotPart, Status>>;

impl Shared {
    pub(super) async fn save_snapshot(
        &self,
        include_bundles: bool,
    ) -> Result<ReceiverStreamOf<v1::SnapshotPart>, ApiError> {
        let leader = self.raft.status().leader.ok_or_else(|| {
            ApiError::new(Code::Unavailable, "the fleet has no leader at the moment; ask again")
        })?;
        if leader == self.config.node_id {
            return self.save_snapshot_here(include_bundles);
        }
        let mut peer = self.peers.for_bundles(leader).ok_or_else(|| {
            ApiError::new(Code::Unavailable, format!("the leader, node {leader}, is not known yet"))
        })?;
        let request = v1::SaveSnapshotRequest { include_bundles };
        let mut source = peer.save_snapshot(request).await?.into_inner();
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        self.env.spawn.task(
            "pass-snapshot-on",
            Box::pin(async move {
                while let Some(part) = source.next().await {
                    if sender.send(part).await.is_err() {
                        return;
                    }
                }
            }),
        );
        Ok(ReceiverStreamOf::new(receiver))
    }

    /// On the leader; refused in the stream's first message by any other node.
    pub(crate) fn save_snapshot_here(
        &self,
        include_bundles: bool,
    ) -> Result<ReceiverStreamOf<v1::SnapshotPart>, ApiError> {
        let slot = self.snapshots_out.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                Code::ResourceExhausted,
                "other snapshots are being saved through this coordinator; ask again later",
            )
        })?;
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let shared = self.clone();
        self.env.spawn.task(
            "save-snapshot",
            Box::pin(async move {
                let _slot = slot;
                if let Err(error) = shared.stream_snapshot(include_bundles, &sender).await {
                    tracing::warn!(event = "snapshot_not_saved", %error, "a snapshot failed");
                    // Who does not read any more needs no reason.
                    let _ = sender.send(Err(error.into())).await;
                }
            }),
        );
        Ok(ReceiverStreamOf::new(receiver))
    }

    async fn stream_snapshot(&self, include_bundles: bool, out: &Out) -> Result<(), ApiError> {
        let (leadership, view) = self.raft.confirm().await?;
        let state = view.state;
        let fleet = state.fleet().ok_or_else(|| super::vanished("fleet"))?;
        let node = self.config.node_id.get();
        let meta = Meta::new(
            fleet.id,
            fleet.name.clone(),
            (node, leadership.term),
            (leadership.confirmed.get(), view.applied.get()),
            state.log_time().as_millis(),
            include_bundles,
            state.audit().base().number > 0,
            view.members.keys().map(|node| node.get()).collect(),
        );
        let meta = serde_json::to_vec_pretty(&meta)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        let mut sending = Sending { out, sums: Sums::default() };
        sending.whole(META, &meta).await?;
        let encoded = sending.while_waiting(self.encode(state.clone())).await??;
        sending.whole(STATE, &encoded).await?;
        drop(encoded);
        self.send_audit_segments(&state, &mut sending).await?;
        if include_bundles {
            self.send_bundles(&state, &mut sending).await?;
        }

        let mut nonce = [0; 16];
        self.env.random.fill(&mut nonce);
        let command = Command::SealSnapshot(SealSnapshot { nonce });
        let (outcome, index) = self.raft.seal(&leadership, core_request(None, command)).await?;
        let Outcome::SnapshotSealed { .. } = outcome else {
            return Err(super::unexpected(&outcome));
        };
        let seal = Seal {
            leader: node,
            term: leadership.term,
            sealed_index: index.get(),
            nonce: hex::encode(nonce),
            sums_sha256: sending.sums.sha256(),
        };
        tracing::info!(event = "snapshot_saved", index = view.applied.get(), sealed = index.get());
        sending
            .part(v1::snapshot_part::Part::Seal(v1::SnapshotSeal {
                leader_id: seal.leader,
                term: seal.term,
                sealed_index: seal.sealed_index,
                nonce: seal.nonce,
                sums_sha256: seal.sums_sha256,
            }))
            .await
    }

    /// The whole state in memory: a reader that is slow must not hold a thread.
    async fn encode(&self, state: State) -> Result<Vec<u8>, ApiError> {
        let encoded = self.env.blocking("encode-state", move || {
            let mut bytes = Vec::new();
            codec::write_state(&state, &mut bytes).map(|()| bytes)
        });
        let internal =
            |error: &dyn std::fmt::Display| ApiError::new(Code::Internal, error.to_string());
        encoded.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))
    }

    /// What of the audit log is in files. A snapshot is not refused for a segment that this node lacks:
    /// its reader says what is missing.
    async fn send_audit_segments(
        &self,
        state: &State,
        sending: &mut Sending<'_>,
    ) -> Result<(), ApiError> {
        let base = state.audit().base();
        for segment in 0..base.number / PER_SEGMENT {
            let book = self.book.clone();
            let reading =
                self.env.blocking("read-audit-segment", move || book.bytes_of(base, segment));
            let read = sending.while_waiting(reading).await?;
            match read.map_err(|error| ApiError::new(Code::Internal, error.to_string()))? {
                Ok(bytes) => sending.whole(&audit_entry_name(segment), &bytes).await?,
                Err(problem) => {
                    self.book.doubt();
                    tracing::warn!(event = "snapshot_lacks_audit", segment, %problem);
                }
            }
        }
        Ok(())
    }

    async fn send_bundles(&self, state: &State, sending: &mut Sending<'_>) -> Result<(), ApiError> {
        for (id, row) in state.bundles() {
            // Verified while it is read, and brought from a peer where it is missing here.
            let reading = self.keeper.clone().read(*id, 0, 0);
            let mut source = sending.while_waiting(reading).await??;
            let name = format!("{BUNDLES}{id}");
            sending.begin(&name, row.facts.bytes).await?;
            let mut hash = Sha256::new();
            while let Some(piece) = source.next().await {
                let piece = piece?.data;
                hash.update(&piece);
                sending.part(v1::snapshot_part::Part::Data(piece)).await?;
            }
            sending.sums.add(&name, &hash.finalize());
        }
        Ok(())
    }
}

struct Sending<'a> {
    out: &'a Out,
    sums: Sums,
}

impl Sending<'_> {
    async fn part(&self, part: v1::snapshot_part::Part) -> Result<(), ApiError> {
        self.send(Some(part)).await
    }

    async fn send(&self, part: Option<v1::snapshot_part::Part>) -> Result<(), ApiError> {
        let sent = self.out.send(Ok(v1::SnapshotPart { part })).await;
        sent.map_err(|_| ApiError::new(Code::Unavailable, "nobody reads the snapshot any more"))
    }

    /// Does something that takes its time, and tells the reader every now and then that it goes on.
    async fn while_waiting<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(SIGN_OF_LIFE) => self.send(None).await?,
            }
        }
    }

    async fn begin(&self, name: &str, bytes: u64) -> Result<(), ApiError> {
        let entry = v1::SnapshotEntry { name: name.to_owned(), bytes };
        self.part(v1::snapshot_part::Part::Entry(entry)).await
    }

    async fn whole(&mut self, name: &str, bytes: &[u8]) -> Result<(), ApiError> {
        self.begin(name, bytes.len() as u64).await?;
        for piece in bytes.chunks(PIECE_BYTES) {
            self.part(v1::snapshot_part::Part::Data(piece.to_vec().into())).await?;
        }
        self.sums.add(name, &Sha256::digest(bytes));
        Ok(())
    }
}

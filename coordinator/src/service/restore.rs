//! Bringing a snapshot into this fleet, while it is empty: the state piece by piece through the log,
//! the bundles as agents upload them. What is allowed is decided in `coordinator_core`.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use coordinator_core::{
    AbandonRestore, BeginRestore, Command, FinishRestore, Outcome, Restore as RestoreRow,
    RestorePiece, limits,
};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use proto::identity::Role;
use proto::v1::restore_server::Restore;
use proto::{ApiError, v1};
use proto_types::{Code, FleetId, LeaseId, NodeId};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, convert, core_request, lease_gone};
use crate::keeper::Upload;

/// Pieces on their way into the log at one time. Raft keeps the order in which they are handed over.
const PIECES_IN_FLIGHT: usize = 16;

/// The `Restore` service.
pub(crate) struct RestoreService(pub(crate) Shared);

impl RestoreService {
    fn admin<T>(&self, request: &Request<T>) -> Result<(), ApiError> {
        self.0.caller(request)?.operator("restore a snapshot of the coordinators", Role::Admin)
    }

    async fn begin(
        &self,
        message: v1::BeginRestoreRequest,
    ) -> Result<v1::BeginRestoreResponse, ApiError> {
        let state_sha256 = message
            .state_sha256
            .as_ref()
            .try_into()
            .map_err(|_| convert::invalid("state_sha256: expected 32 bytes"))?;
        let fleet = FleetId::from_slice(&message.fleet_id)
            .map_err(|_| convert::invalid("fleet_id: expected 16 bytes"))?;
        let command = Command::BeginRestore(BeginRestore {
            restore: LeaseId::random(&*self.0.env.random),
            fleet,
            fleet_name: message.fleet_name,
            force: message.force,
            state_sha256,
            state_bytes: message.state_bytes,
            nodes: message.node_ids.into_iter().map(NodeId::new).collect::<BTreeSet<_>>(),
        });
        match self.0.write(message.write_id.as_ref(), command).await? {
            Outcome::RestoreBegun { restore, index, received } => Ok(v1::BeginRestoreResponse {
                restore_id: convert::bytes_of(restore.as_bytes()),
                log_index: index.get(),
                received,
            }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    /// The restore of this name, which must be under way.
    async fn under_way(&self, id: LeaseId) -> Result<RestoreRow, ApiError> {
        let state = self.0.view(false).await?.state;
        state.restore().filter(|restore| restore.id == id).cloned().ok_or_else(|| lease_gone(id))
    }

    async fn send_state(
        &self,
        mut stream: Streaming<v1::SendStateRequest>,
    ) -> Result<v1::SendStateResponse, ApiError> {
        use v1::send_state_request::Part;
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(Part::Begin(begin)) = first else {
            return Err(convert::invalid("the state begins with the message `begin`"));
        };
        let restore = convert::lease_id(&begin.restore_id, "restore_id")?;
        self.under_way(restore).await?;
        let mut offset = begin.offset;
        let mut received = 0;
        let mut rest = BytesMut::new();
        let mut under_way = FuturesOrdered::new();
        loop {
            let message = stream.message().await?;
            let is_end = message.is_none();
            match message.and_then(|message| message.part) {
                Some(Part::Data(data)) => rest.extend_from_slice(&convert::piece(data)?),
                Some(Part::Begin(_)) => {
                    return Err(convert::invalid("a state has one `begin`, then only `data`"));
                }
                None if is_end => {}
                None => return Err(convert::invalid("a message without a part")),
            }
            for bytes in pieces(&mut rest, is_end) {
                let len = bytes.len() as u64;
                let piece = RestorePiece { restore, offset, bytes: bytes.as_ref().into() };
                offset += len;
                under_way.push_back(self.propose(piece));
                if under_way.len() >= self.in_flight()
                    && let Some(done) = under_way.next().await
                {
                    received = done?;
                }
            }
            if is_end {
                break;
            }
        }
        while let Some(done) = under_way.next().await {
            received = done?;
        }
        Ok(v1::SendStateResponse { received })
    }

    /// Only the leader's own queue keeps an order; through another node one piece goes at a time.
    fn in_flight(&self) -> usize {
        if self.0.raft.status().is_leader { PIECES_IN_FLIGHT } else { 1 }
    }

    async fn propose(&self, piece: RestorePiece) -> Result<u64, ApiError> {
        let request = core_request(None, Command::RestorePiece(piece));
        match self.0.accepted(request).boxed().await? {
            Outcome::RestoreReceived { received } => Ok(received),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn send_bundle(
        &self,
        mut stream: Streaming<v1::UploadBundleRequest>,
    ) -> Result<v1::UploadBundleResponse, ApiError> {
        use v1::upload_bundle_request::Part;
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(Part::Begin(begin)) = first else {
            return Err(convert::invalid("a bundle begins with the message `begin`"));
        };
        let restore = convert::lease_id(&begin.lease_id, "lease_id")?;
        let upload = Upload {
            lease: restore,
            // Ours and not the sender's word: the peers wait for this index.
            lease_index: self.under_way(restore).await?.index,
            bundle: convert::bundle_id(&begin.bundle_id, "bundle_id")?,
            bytes: begin.bytes,
            offset: begin.offset,
        };
        self.0.check_size(upload.bytes)?;
        let pieces = futures::stream::unfold(stream, |mut stream| async move {
            let piece = match stream.message().await {
                Ok(Some(message)) => match message.part {
                    Some(Part::Data(data)) => convert::piece(data),
                    Some(Part::Begin(_)) | None => {
                        Err(convert::invalid("a bundle has one `begin`, then only `data`"))
                    }
                },
                Ok(None) => return None,
                Err(status) => Err(ApiError::from(status)),
            };
            Some((piece, stream))
        });
        let holders = self.0.keeper.upload(upload, Box::pin(pieces)).await?;
        Ok(v1::UploadBundleResponse {
            in_bucket: false,
            holders: holders.into_iter().map(NodeId::get).collect(),
        })
    }

    async fn finish(
        &self,
        message: v1::FinishRestoreRequest,
    ) -> Result<v1::FinishRestoreResponse, ApiError> {
        let restore = convert::lease_id(&message.restore_id, "restore_id")?;
        let command = Command::FinishRestore(FinishRestore { restore });
        match self.0.write(message.write_id.as_ref(), command).await? {
            Outcome::Restored { generation } => Ok(v1::FinishRestoreResponse { generation }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn abandon(
        &self,
        message: v1::AbandonRestoreRequest,
    ) -> Result<v1::AbandonRestoreResponse, ApiError> {
        let state = self.0.view(false).await?.state;
        let restore = state.restore().map(|restore| restore.id).ok_or_else(|| {
            ApiError::new(
                Code::InvalidArgument,
                "no snapshot is being restored: nothing to give up",
            )
        })?;
        let command = Command::AbandonRestore(AbandonRestore { restore });
        self.0.write(message.write_id.as_ref(), command).await?;
        Ok(v1::AbandonRestoreResponse {})
    }
}

/// Cuts what has arrived into pieces of a log entry's length; the last one may be shorter.
fn pieces(rest: &mut BytesMut, is_end: bool) -> VecDeque<Bytes> {
    let mut pieces = VecDeque::new();
    while rest.len() >= limits::RESTORE_PIECE_BYTES_MAX {
        pieces.push_back(rest.split_to(limits::RESTORE_PIECE_BYTES_MAX).freeze());
    }
    if is_end && !rest.is_empty() {
        pieces.push_back(rest.split().freeze());
    }
    pieces
}

#[tonic::async_trait]
impl Restore for RestoreService {
    async fn begin(
        &self,
        request: Request<v1::BeginRestoreRequest>,
    ) -> Result<Response<v1::BeginRestoreResponse>, Status> {
        let work = async {
            self.admin(&request)?;
            self.begin(request.into_inner()).await
        };
        self.0.answer("BeginRestore", work).await
    }

    async fn send_state(
        &self,
        request: Request<Streaming<v1::SendStateRequest>>,
    ) -> Result<Response<v1::SendStateResponse>, Status> {
        let work = async {
            self.admin(&request)?;
            self.send_state(request.into_inner()).await
        };
        self.0.answer("SendState", work).await
    }

    async fn send_bundle(
        &self,
        request: Request<Streaming<v1::UploadBundleRequest>>,
    ) -> Result<Response<v1::UploadBundleResponse>, Status> {
        let work = async {
            self.admin(&request)?;
            self.send_bundle(request.into_inner()).await
        };
        self.0.answer("SendBundle", work).await
    }

    async fn finish(
        &self,
        request: Request<v1::FinishRestoreRequest>,
    ) -> Result<Response<v1::FinishRestoreResponse>, Status> {
        let work = async {
            self.admin(&request)?;
            self.finish(request.into_inner()).await
        };
        self.0.answer("FinishRestore", work).await
    }

    async fn abandon(
        &self,
        request: Request<v1::AbandonRestoreRequest>,
    ) -> Result<Response<v1::AbandonRestoreResponse>, Status> {
        let work = async {
            self.admin(&request)?;
            self.abandon(request.into_inner()).await
        };
        self.0.answer("AbandonRestore", work).await
    }
}

//! What coordinators ask of each other. Every call is checked for fleet and node identity first.

use bytes::Bytes;
use coordinator_core::codec;
use proto::v1::peer_server::Peer;
use proto::{ApiError, v1};
use proto_types::{Code, LogIndex, NodeId};
use tonic::{Request, Response, Status, Streaming};

use super::{ReceiverStreamOf, Shared, convert};
use crate::audit::Asked;
use crate::keeper::Upload;
use crate::peers::{check_stamp, levels_of};
use crate::raft::SnapshotData;

/// The act of calling what only coordinators may.
const CALL_PEER: &str = "call-peer";

/// The `Peer` service.
pub(crate) struct PeerService(pub(crate) Shared);

impl PeerService {
    fn check<T>(&self, request: &Request<T>) -> Result<NodeId, ApiError> {
        let caller = self.0.caller(request)?;
        let node = caller.coordinator().inspect_err(|error| {
            // Here, because not every call of a peer runs in `answer`.
            let sender = caller.sender(self.0.config.node_id);
            self.0.refusals.note(sender, CALL_PEER.to_owned(), error.code());
            Asked::recorded();
        })?;
        // What coordinators refuse each other is their own business.
        Asked::recorded();
        check_stamp(request.metadata(), self.0.config.fleet.id, self.0.config.node_id, node)?;
        Ok(node)
    }

    /// The same, of a call that only members may make.
    fn member<T>(&self, request: &Request<T>) -> Result<NodeId, ApiError> {
        let node = self.check(request)?;
        if self.0.raft.local().state.was_removed(node) {
            return Err(ApiError::new(
                Code::PermissionDenied,
                format!("node {node} was removed from the fleet: add it as a new node"),
            ));
        }
        let active = self.0.raft.local().state.level();
        let theirs = levels_of(request.metadata());
        self.0.raft.roll().levels().check_peer(node, theirs, active)?;
        Ok(node)
    }

    async fn receive_snapshot(
        &self,
        mut stream: Streaming<v1::SnapshotChunk>,
    ) -> Result<Vec<u8>, ApiError> {
        let Some(first) = stream.message().await? else {
            return Err(convert::invalid("an empty snapshot stream"));
        };
        let head = first.header;
        let pieces = futures::stream::unfold(stream, |mut stream| async move {
            match stream.message().await {
                Ok(Some(chunk)) => Some((Ok(chunk.data), stream)),
                Ok(None) => None,
                Err(status) => Some((Err(ApiError::from(status)), stream)),
            }
        });
        let data =
            SnapshotData::receive(&self.0.env, self.0.snapshots.clone(), &head, Box::pin(pieces))
                .await?;
        self.0.raft.handle_snapshot(&head, data).await
    }

    async fn store(
        &self,
        mut stream: Streaming<v1::StoreBundleRequest>,
    ) -> Result<v1::StoreBundleResponse, ApiError> {
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(v1::store_bundle_request::Part::Begin(begin)) = first else {
            return Err(convert::invalid("a copy begins with the message `begin`"));
        };
        let upload = Upload {
            lease: convert::lease_id(&begin.lease_id, "lease_id")?,
            lease_index: LogIndex::new(begin.lease_log_index),
            bundle: convert::bundle_id(&begin.bundle_id, "bundle_id")?,
            bytes: begin.bytes,
            offset: begin.offset,
        };
        self.0.check_size(upload.bytes)?;
        let pieces = futures::stream::unfold(stream, |mut stream| async move {
            let piece = match stream.message().await {
                Ok(Some(message)) => match message.part {
                    Some(v1::store_bundle_request::Part::Data(data)) => convert::piece(data),
                    Some(v1::store_bundle_request::Part::Begin(_)) | None => {
                        Err(convert::invalid("a copy has one `begin`, then only `data`"))
                    }
                },
                Ok(None) => return None,
                Err(status) => Err(ApiError::from(status)),
            };
            Some((piece, stream))
        });
        self.0.keeper.store_copy(upload, Box::pin(pieces)).await?;
        Ok(v1::StoreBundleResponse { node_id: self.0.config.node_id.get() })
    }
}

fn raft_message(payload: Vec<u8>) -> v1::RaftMessage {
    v1::RaftMessage { payload: payload.into() }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append_entries(
        &self,
        request: Request<v1::RaftMessage>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        self.member(&request)?;
        let reply = self.0.raft.handle_append(&request.get_ref().payload).await?;
        Ok(Response::new(raft_message(reply)))
    }

    async fn vote(
        &self,
        request: Request<v1::RaftMessage>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        self.member(&request)?;
        let reply = self.0.raft.handle_vote(&request.get_ref().payload).await?;
        Ok(Response::new(raft_message(reply)))
    }

    async fn pre_vote(
        &self,
        request: Request<v1::RaftMessage>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        self.member(&request)?;
        let reply = self.0.raft.handle_pre_vote(&request.get_ref().payload).await?;
        Ok(Response::new(raft_message(reply)))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::RaftMessage>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        self.member(&request)?;
        let reply = self.0.raft.handle_transfer(&request.get_ref().payload).await?;
        Ok(Response::new(raft_message(reply)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        let work = async {
            self.member(&request)?;
            Ok(raft_message(self.receive_snapshot(request.into_inner()).await?))
        };
        self.0.answer("InstallSnapshot", work).await
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let work = async {
            self.member(&request)?;
            let unknown = |error| {
                ApiError::new(Code::UnsupportedVersion, format!("a forwarded write: {error}"))
            };
            let message = request.into_inner();
            let mut request = codec::decode_request(&message.request).map_err(unknown)?;
            request.sender = if message.sender.is_empty() {
                // The coordinator's own.
                Asked::sender()
            } else {
                Some(codec::decode_sender(&message.sender).map_err(unknown)?)
            };
            // One hop only: a node that does not lead says so.
            let (outcome, index) = self.0.raft.propose_here(request).await?;
            Ok(v1::ProposeResponse {
                outcome: Bytes::from(codec::encode_outcome(&outcome)),
                log_index: index.get(),
            })
        };
        self.0.answer("Propose", work).await
    }

    async fn get_read_index(
        &self,
        request: Request<v1::GetReadIndexRequest>,
    ) -> Result<Response<v1::GetReadIndexResponse>, Status> {
        self.member(&request)?;
        let index = self.0.raft.read_index().await?;
        Ok(Response::new(v1::GetReadIndexResponse { log_index: index.get() }))
    }

    type SaveSnapshotStream = ReceiverStreamOf<v1::SnapshotPart>;

    async fn save_snapshot(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        self.member(&request)?;
        let stream = self.0.save_snapshot_here(request.get_ref().include_bundles)?;
        Ok(Response::new(stream))
    }

    async fn hand_over(
        &self,
        request: Request<v1::HandOverRequest>,
    ) -> Result<Response<v1::HandOverResponse>, Status> {
        self.member(&request)?;
        self.0.raft.hand_over_to(NodeId::new(request.get_ref().node_id)).await?;
        Ok(Response::new(v1::HandOverResponse {}))
    }

    async fn get_node_status(
        &self,
        request: Request<v1::GetNodeStatusRequest>,
    ) -> Result<Response<v1::GetNodeStatusResponse>, Status> {
        let caller = self.check(&request)?;
        if self.0.raft.status().leader == Some(caller) {
            self.0.raft.roll().told(request.get_ref().log_time_ms);
        }
        if request.get_ref().brief {
            return Ok(Response::new(self.0.brief_status()));
        }
        let mut status = self.0.own_status().await?;
        let state = self.0.raft.local().state;
        status.removed_caller = state.was_removed(caller);
        status.knows_caller = state.bundles().any(|(_, row)| row.holders.contains(&caller));
        Ok(Response::new(status))
    }

    async fn store_bundle(
        &self,
        request: Request<Streaming<v1::StoreBundleRequest>>,
    ) -> Result<Response<v1::StoreBundleResponse>, Status> {
        let work = async {
            self.member(&request)?;
            self.store(request.into_inner()).await
        };
        self.0.answer("StoreBundle", work).await
    }

    async fn claim_bundles(
        &self,
        request: Request<v1::ClaimBundlesRequest>,
    ) -> Result<Response<v1::ClaimBundlesResponse>, Status> {
        let work = async {
            self.member(&request)?;
            let message = request.into_inner();
            let lease = convert::lease_id(&message.lease_id, "lease_id")?;
            let index = LogIndex::new(message.lease_log_index);
            let ids = message
                .bundle_ids
                .iter()
                .map(|id| convert::bundle_id(id, "bundle_ids"))
                .collect::<Result<Vec<_>, _>>()?;
            let held = self.0.keeper.claim_here(lease, index, &ids).await?;
            Ok(v1::ClaimBundlesResponse {
                held_ids: held.iter().map(|id| convert::bytes_of(id.as_bytes())).collect(),
            })
        };
        self.0.answer("ClaimBundles", work).await
    }

    type FetchBundleStream = ReceiverStreamOf<v1::FetchBundleResponse>;

    async fn fetch_bundle(
        &self,
        request: Request<v1::FetchBundleRequest>,
    ) -> Result<Response<Self::FetchBundleStream>, Status> {
        let work = async {
            self.member(&request)?;
            let id = convert::bundle_id(&request.get_ref().bundle_id, "bundle_id")?;
            self.0.keeper.clone().send_copy(id).await
        };
        self.0.answer("FetchBundle", work).await
    }

    async fn fetch_audit_segment(
        &self,
        request: Request<v1::FetchAuditSegmentRequest>,
    ) -> Result<Response<v1::FetchAuditSegmentResponse>, Status> {
        let work = async {
            self.member(&request)?;
            self.0.audit_segment(request.get_ref().segment).await
        };
        self.0.answer("FetchAuditSegment", work).await
    }

    async fn check_audit(
        &self,
        request: Request<v1::CheckAuditRequest>,
    ) -> Result<Response<v1::NodeAudit>, Status> {
        let work = async {
            self.member(&request)?;
            let message = request.into_inner();
            self.0.check_audit_here(LogIndex::new(message.log_index), message.number).await
        };
        self.0.answer("CheckAudit", work).await
    }

    type ScrubStream = ReceiverStreamOf<v1::PeerScrubProgress>;

    async fn scrub(
        &self,
        request: Request<v1::PeerScrubRequest>,
    ) -> Result<Response<Self::ScrubStream>, Status> {
        let work = async {
            self.member(&request)?;
            Ok(self.0.keeper.clone().scrub_progress())
        };
        self.0.answer("Scrub", work).await
    }
}

//! Raft's messages to the other coordinators. Every call has a deadline of its own: openraft
//! hands one in and leaves it to the transport to keep it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use proto::ApiError;
use proto::env::Env;
use proto::v1;
use proto_types::{Code, NodeId};
use storage::raft_types::{Member, TypeConfig as C};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::figures::Elections;
use super::snapshot_data::SnapshotData;
use super::wire;
use crate::config;
use crate::peers::{Peer, Peers};

/// Pieces of a snapshot on their way: 4 of 1 MiB at a time.
const SNAPSHOT_PIECES_IN_FLIGHT: usize = 4;

/// Makes clients; there is one channel per peer, which HTTP/2 shares.
pub(super) struct Network {
    pub(super) env: Env,
    pub(super) this: NodeId,
    pub(super) peers: Peers,
    pub(super) elections: Elections,
}

impl RaftNetworkFactory<C> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        let target = NodeId::new(target);
        let member = config::Member { name: node.name.clone(), address: node.address.clone() };
        let peer = self.peers.meet(target, member);
        let (peers, elections) = (self.peers.clone(), self.elections.clone());
        PeerNetwork { env: self.env.clone(), this: self.this, target, peers, met: peer, elections }
    }
}

/// The way to one other coordinator.
pub(super) struct PeerNetwork {
    env: Env,
    this: NodeId,
    target: NodeId,
    peers: Peers,
    met: Peer,
    elections: Elections,
}

impl PeerNetwork {
    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<C> {
        Timeout { action, id: self.this.get(), target: self.target.get(), timeout }
    }

    /// Looked up for every call: openraft keeps this for as long as it replicates, also when the
    /// node has moved meanwhile.
    fn peer(&self) -> Peer {
        self.peers.get(self.target).unwrap_or_else(|| self.met.clone())
    }

    /// An error; and whoever is told that it does not belong to the fleet wants to know for sure.
    fn refused(&self, status: Status) -> RPCError<C> {
        let error = ApiError::from(status);
        if error.code() == Code::PermissionDenied {
            self.peers.note_refused();
        }
        rpc_error(error)
    }

    async fn call<F, Fut>(
        &self,
        action: RPCTypes,
        limit: Duration,
        payload: Vec<u8>,
        call: F,
    ) -> Result<Bytes, RPCError<C>>
    where
        F: FnOnce(Peer, v1::RaftMessage) -> Fut,
        Fut: Future<Output = Result<tonic::Response<v1::RaftMessage>, Status>>,
    {
        let message = v1::RaftMessage { payload: payload.into() };
        match tokio::time::timeout(limit, call(self.peer(), message)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().payload),
            Ok(Err(status)) => Err(self.refused(status)),
            Err(_) => Err(self.timeout(action, limit).into()),
        }
    }
}

/// Unreachable makes openraft wait before it tries again, a network error makes it try at once:
/// only a broken call, not a broken connection, is worth that.
fn rpc_error(error: ApiError) -> RPCError<C> {
    if error.is_retryable() {
        Unreachable::new(&error).into()
    } else {
        NetworkError::new(&error).into()
    }
}

fn unreadable(error: &ApiError) -> RPCError<C> {
    NetworkError::new(error).into()
}

impl RaftNetworkV2<C> for PeerNetwork {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let payload = wire::append_request(&rpc);
        let call = |mut peer: Peer, message| async move { peer.append_entries(message).await };
        let reply = self.call(RPCTypes::AppendEntries, option.hard_ttl(), payload, call).await?;
        wire::read_append_reply(&reply).map_err(|error| unreadable(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.elections.asks(rpc.vote.leader_id().term);
        let payload = wire::vote_request(&rpc);
        let call = |mut peer: Peer, message| async move { peer.vote(message).await };
        let reply = self.call(RPCTypes::Vote, option.hard_ttl(), payload, call).await?;
        wire::read_vote_reply(&reply).map_err(|error| unreadable(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let payload = wire::vote_request(&rpc);
        let call = |mut peer: Peer, message| async move { peer.pre_vote(message).await };
        let reply = self.call(RPCTypes::Vote, option.hard_ttl(), payload, call).await?;
        wire::read_vote_reply(&reply).map_err(|error| unreadable(&error))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let payload = wire::transfer_request(&rpc);
        let call = |mut peer: Peer, message| async move { peer.transfer_leader(message).await };
        let reply = self.call(RPCTypes::TransferLeader, option.hard_ttl(), payload, call).await?;
        wire::read_transfer_reply(&reply).map_err(|error| unreadable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let mut peer = self.peer();
        let (sender, receiver) = tokio::sync::mpsc::channel(SNAPSHOT_PIECES_IN_FLIGHT);
        let head = wire::snapshot_head(&vote, &snapshot.meta, snapshot.snapshot.0.digest());
        let data = snapshot.snapshot;
        // The reader ends when the receiver is dropped: with the call, or when it is cancelled.
        self.env.spawn.blocking(
            "send-snapshot",
            Box::new(move || data.send_pieces(head, |piece| sender.blocking_send(piece).is_ok())),
        );
        let limit = option.hard_ttl();
        let sent =
            tokio::time::timeout(limit, peer.install_snapshot(ReceiverStream::new(receiver)));
        let reply = tokio::select! {
            closed = cancel => return Err(closed.into()),
            sent = sent => match sent {
                Ok(Ok(reply)) => reply.into_inner().payload,
                Ok(Err(status)) => return Err(StreamingError::from(rpc_error(ApiError::from(status)))),
                Err(_) => return Err(self.timeout(RPCTypes::InstallSnapshot, limit).into()),
            },
        };
        wire::read_snapshot_reply(&reply).map_err(|error| NetworkError::new(&error).into())
    }
}

//! Raft's messages as versioned bytes: protobuf around the parts that `storage::raft_codec`
//! writes, so that disk and wire never disagree. A leading byte tells the version.

use openraft::alias::{LogIdOf, SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use proto::ApiError;
use proto_types::Code;
use storage::raft_codec as codec;
use storage::raft_types::TypeConfig as C;
use storage::snapshots::SnapshotDigest;

/// Version of all messages here; the receiver refuses a newer one in words.
pub(crate) const VERSION: u8 = 1;

#[derive(Message)]
struct AppendWire {
    #[prost(bytes = "vec", tag = "1")]
    vote: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    prev_log_id: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    entries: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    leader_commit: Option<Vec<u8>>,
}

#[derive(Message)]
struct AppendReplyWire {
    /// 1 success, 2 partial success, 3 conflict, 4 higher vote.
    #[prost(uint32, tag = "1")]
    outcome: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    log_id: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    vote: Option<Vec<u8>>,
}

#[derive(Message)]
struct VoteWire {
    #[prost(bytes = "vec", tag = "1")]
    vote: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    last_log_id: Option<Vec<u8>>,
    #[prost(bool, tag = "3")]
    leadership_transfer: bool,
}

#[derive(Message)]
struct VoteReplyWire {
    #[prost(bytes = "vec", tag = "1")]
    vote: Vec<u8>,
    #[prost(bool, tag = "2")]
    vote_granted: bool,
    #[prost(bytes = "vec", optional, tag = "3")]
    last_log_id: Option<Vec<u8>>,
}

#[derive(Message)]
struct TransferWire {
    #[prost(bytes = "vec", tag = "1")]
    from_leader: Vec<u8>,
    #[prost(uint64, tag = "2")]
    to_node: u64,
    #[prost(bytes = "vec", optional, tag = "3")]
    last_log_id: Option<Vec<u8>>,
}

#[derive(Message)]
struct TransferReplyWire {
    /// 0 accepted, 1 vote changed, 2 log not flushed.
    #[prost(uint32, tag = "1")]
    outcome: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    expected: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    actual: Option<Vec<u8>>,
}

#[derive(Message)]
struct SnapshotHeadWire {
    #[prost(bytes = "vec", tag = "1")]
    vote: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    meta: Vec<u8>,
    /// SHA-256 of the content.
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
}

#[derive(Message)]
struct SnapshotReplyWire {
    #[prost(bytes = "vec", tag = "1")]
    vote: Vec<u8>,
}

fn pack(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(VERSION);
    message.encode_raw(&mut out);
    out
}

fn unpack<M: Message + Default>(bytes: &[u8]) -> Result<M, ApiError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => M::decode(rest).map_err(|_| malformed()),
        Some((version, _)) => Err(ApiError::new(
            Code::UnsupportedVersion,
            format!(
                "a peer speaks version {version} of the Raft messages, this node {VERSION}: \
                 upgrade the older one"
            ),
        )),
        None => Err(malformed()),
    }
}

fn malformed() -> ApiError {
    ApiError::new(Code::InvalidArgument, "a Raft message of a peer cannot be read")
}

fn vote(bytes: &[u8]) -> Result<VoteOf<C>, ApiError> {
    codec::decode_vote(bytes).map_err(|_| malformed())
}

fn log_id(bytes: Option<Vec<u8>>) -> Result<Option<LogIdOf<C>>, ApiError> {
    bytes.map(|b| codec::decode_log_id(&b).map_err(|_| malformed())).transpose()
}

fn put_log_id(id: Option<&LogIdOf<C>>) -> Option<Vec<u8>> {
    id.map(codec::encode_log_id)
}

pub(super) fn append_request(message: &AppendEntriesRequest<C>) -> Vec<u8> {
    pack(&AppendWire {
        vote: codec::encode_vote(&message.vote),
        prev_log_id: put_log_id(message.prev_log_id.as_ref()),
        entries: message.entries.iter().map(codec::encode_entry).collect(),
        leader_commit: put_log_id(message.leader_commit.as_ref()),
    })
}

pub(super) fn read_append_request(bytes: &[u8]) -> Result<AppendEntriesRequest<C>, ApiError> {
    let wire: AppendWire = unpack(bytes)?;
    Ok(AppendEntriesRequest {
        vote: vote(&wire.vote)?,
        prev_log_id: log_id(wire.prev_log_id)?,
        entries: wire
            .entries
            .iter()
            .map(|entry| codec::decode_entry(entry).map_err(|_| malformed()))
            .collect::<Result<_, _>>()?,
        leader_commit: log_id(wire.leader_commit)?,
    })
}

pub(super) fn append_reply(message: &AppendEntriesResponse<C>) -> Vec<u8> {
    let (outcome, log_id, vote) = match message {
        AppendEntriesResponse::Success => (1, None, None),
        AppendEntriesResponse::PartialSuccess(id) => (2, put_log_id(id.as_ref()), None),
        AppendEntriesResponse::Conflict => (3, None, None),
        AppendEntriesResponse::HigherVote(vote) => (4, None, Some(codec::encode_vote(vote))),
    };
    pack(&AppendReplyWire { outcome, log_id, vote })
}

pub(super) fn read_append_reply(bytes: &[u8]) -> Result<AppendEntriesResponse<C>, ApiError> {
    let wire: AppendReplyWire = unpack(bytes)?;
    match wire.outcome {
        1 => Ok(AppendEntriesResponse::Success),
        2 => Ok(AppendEntriesResponse::PartialSuccess(log_id(wire.log_id)?)),
        3 => Ok(AppendEntriesResponse::Conflict),
        4 => Ok(AppendEntriesResponse::HigherVote(vote(&wire.vote.ok_or_else(malformed)?)?)),
        _ => Err(malformed()),
    }
}

pub(super) fn vote_request(message: &VoteRequest<C>) -> Vec<u8> {
    pack(&VoteWire {
        vote: codec::encode_vote(&message.vote),
        last_log_id: put_log_id(message.last_log_id.as_ref()),
        leadership_transfer: message.leadership_transfer,
    })
}

pub(super) fn read_vote_request(bytes: &[u8]) -> Result<VoteRequest<C>, ApiError> {
    let wire: VoteWire = unpack(bytes)?;
    Ok(VoteRequest {
        vote: vote(&wire.vote)?,
        last_log_id: log_id(wire.last_log_id)?,
        leadership_transfer: wire.leadership_transfer,
    })
}

pub(super) fn vote_reply(message: &VoteResponse<C>) -> Vec<u8> {
    pack(&VoteReplyWire {
        vote: codec::encode_vote(&message.vote),
        vote_granted: message.vote_granted,
        last_log_id: put_log_id(message.last_log_id.as_ref()),
    })
}

pub(super) fn read_vote_reply(bytes: &[u8]) -> Result<VoteResponse<C>, ApiError> {
    let wire: VoteReplyWire = unpack(bytes)?;
    Ok(VoteResponse {
        vote: vote(&wire.vote)?,
        vote_granted: wire.vote_granted,
        last_log_id: log_id(wire.last_log_id)?,
    })
}

pub(super) fn transfer_request(message: &TransferLeaderRequest<C>) -> Vec<u8> {
    pack(&TransferWire {
        from_leader: codec::encode_vote(message.from_leader()),
        to_node: *message.to_node_id(),
        last_log_id: put_log_id(message.last_log_id()),
    })
}

pub(super) fn read_transfer_request(bytes: &[u8]) -> Result<TransferLeaderRequest<C>, ApiError> {
    let wire: TransferWire = unpack(bytes)?;
    Ok(TransferLeaderRequest::new(
        vote(&wire.from_leader)?,
        wire.to_node,
        log_id(wire.last_log_id)?,
    ))
}

pub(super) fn transfer_reply(message: &TransferLeaderResponse<C>) -> Vec<u8> {
    pack(&match message {
        Ok(()) => TransferReplyWire { outcome: 0, expected: None, actual: None },
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferReplyWire {
            outcome: 1,
            expected: Some(codec::encode_vote(expected)),
            actual: Some(codec::encode_vote(actual)),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => TransferReplyWire {
            outcome: 2,
            expected: put_log_id(expected.as_ref()),
            actual: put_log_id(actual.as_ref()),
        },
    })
}

pub(super) fn read_transfer_reply(bytes: &[u8]) -> Result<TransferLeaderResponse<C>, ApiError> {
    let wire: TransferReplyWire = unpack(bytes)?;
    match wire.outcome {
        0 => Ok(Ok(())),
        1 => Ok(Err(TransferLeaderError::VoteChanged {
            expected: vote(&wire.expected.ok_or_else(malformed)?)?,
            actual: vote(&wire.actual.ok_or_else(malformed)?)?,
        })),
        2 => Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: log_id(wire.expected)?,
            actual: log_id(wire.actual)?,
        })),
        _ => Err(malformed()),
    }
}

pub(super) fn snapshot_head(
    vote: &VoteOf<C>,
    meta: &SnapshotMetaOf<C>,
    digest: SnapshotDigest,
) -> Vec<u8> {
    pack(&SnapshotHeadWire {
        vote: codec::encode_vote(vote),
        meta: codec::encode_snapshot_meta(meta),
        digest: digest.0.to_vec(),
    })
}

pub(super) fn read_snapshot_head(
    bytes: &[u8],
) -> Result<(VoteOf<C>, SnapshotMetaOf<C>, SnapshotDigest), ApiError> {
    let wire: SnapshotHeadWire = unpack(bytes)?;
    let meta = codec::decode_snapshot_meta(&wire.meta).map_err(|_| malformed())?;
    let digest = wire.digest.try_into().map_err(|_| malformed())?;
    Ok((vote(&wire.vote)?, meta, SnapshotDigest(digest)))
}

pub(super) fn snapshot_reply(message: &SnapshotResponse<C>) -> Vec<u8> {
    pack(&SnapshotReplyWire { vote: codec::encode_vote(&message.vote) })
}

pub(super) fn read_snapshot_reply(bytes: &[u8]) -> Result<SnapshotResponse<C>, ApiError> {
    let wire: SnapshotReplyWire = unpack(bytes)?;
    Ok(SnapshotResponse::new(vote(&wire.vote)?))
}

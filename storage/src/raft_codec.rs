//! Our own bytes for openraft's types, for disk and wire: protobuf behind one version byte, so
//! that no change inside openraft changes what we wrote. Tags are never reused or renumbered;
//! the frozen bytes are in `raft_codec_tests.rs`.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto_types::Code;

use crate::raft_types::{
    Command, Entry, EntryPayload, LeaderId, LogId, Member, Membership, SnapshotMeta,
    StoredMembership, Vote,
};

/// The version that this program writes, first byte of every encoding.
pub const CODEC_VERSION: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No bytes at all.
    #[error("an encoded {what} is empty")]
    Empty {
        /// What was expected.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "an encoded {what} has version {found}, this program reads {CODEC_VERSION}: \
         use a newer strongroom"
    )]
    UnsupportedVersion {
        /// What was expected.
        what: &'static str,
        /// The version found.
        found: u8,
    },
    /// Not valid protobuf.
    #[error("an encoded {what} cannot be read")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// Valid protobuf without a part that every writer writes, or with a contradiction.
    #[error("an encoded {what} lacks a valid {field}")]
    Field {
        /// What was expected.
        what: &'static str,
        /// The part.
        field: &'static str,
    },
}

impl CodecError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::UnsupportedVersion { .. } => Code::UnsupportedVersion,
            Self::Empty { .. } | Self::Malformed { .. } | Self::Field { .. } => Code::Damaged,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct LogIdForm {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VoteForm {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct MembershipForm {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<VotersForm>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberForm>,
}

#[derive(Clone, PartialEq, Message)]
struct VotersForm {
    #[prost(uint64, repeated, tag = "1")]
    nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberForm {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMembershipForm {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdForm>,
    #[prost(message, optional, tag = "2")]
    membership: Option<MembershipForm>,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotMetaForm {
    #[prost(message, optional, tag = "1")]
    last_log_id: Option<LogIdForm>,
    #[prost(message, optional, tag = "2")]
    last_membership: Option<StoredMembershipForm>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryForm {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdForm>,
    #[prost(oneof = "PayloadForm", tags = "2, 3, 4")]
    payload: Option<PayloadForm>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PayloadForm {
    #[prost(message, tag = "2")]
    Blank(BlankForm),
    #[prost(bytes = "bytes", tag = "3")]
    Command(bytes::Bytes),
    #[prost(message, tag = "4")]
    Membership(MembershipForm),
}

#[derive(Clone, PartialEq, Message)]
struct BlankForm {}

/// Encodes a log entry.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadForm::Blank(BlankForm {}),
        EntryPayload::Normal(command) => PayloadForm::Command(command.bytes().clone()),
        EntryPayload::Membership(membership) => {
            PayloadForm::Membership(membership_form(membership))
        }
    };
    versioned(&EntryForm { log_id: Some(log_id_form(&entry.log_id)), payload: Some(payload) })
}

/// Decodes a log entry.
///
/// # Errors
/// When the bytes are none, of a newer version, or lack a part.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    let form: EntryForm = unversioned(bytes, "log entry")?;
    let missing = |field| CodecError::Field { what: "log entry", field };
    let payload = match form.payload.ok_or(missing("payload"))? {
        PayloadForm::Blank(BlankForm {}) => EntryPayload::Blank,
        PayloadForm::Command(bytes) => EntryPayload::Normal(Command::new(bytes)),
        PayloadForm::Membership(form) => EntryPayload::Membership(membership(form)?),
    };
    Ok(Entry { log_id: log_id(&form.log_id.ok_or(missing("log id"))?), payload })
}

/// Encodes a vote.
#[must_use]
pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    versioned(&VoteForm {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    })
}

/// Decodes a vote.
///
/// # Errors
/// When the bytes are none, or of a newer version.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let form: VoteForm = unversioned(bytes, "vote")?;
    Ok(Vote {
        leader_id: LeaderId { term: form.term, node_id: form.node },
        committed: form.committed,
    })
}

/// Encodes a log id.
#[must_use]
pub fn encode_log_id(id: &LogId) -> Vec<u8> {
    versioned(&log_id_form(id))
}

/// Decodes a log id.
///
/// # Errors
/// When the bytes are none, or of a newer version.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    Ok(log_id(&unversioned(bytes, "log id")?))
}

/// Encodes a membership with its place in the log.
#[must_use]
pub fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    versioned(&stored_membership_form(stored))
}

/// Decodes a membership with its place in the log.
///
/// # Errors
/// When the bytes are none, of a newer version, or a voter has no address.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    stored_membership(unversioned(bytes, "membership")?)
}

/// Encodes what a snapshot covers.
#[must_use]
pub fn encode_snapshot_meta(meta: &SnapshotMeta) -> Vec<u8> {
    versioned(&SnapshotMetaForm {
        last_log_id: meta.last_log_id.as_ref().map(log_id_form),
        last_membership: Some(stored_membership_form(&meta.last_membership)),
    })
}

/// Decodes what a snapshot covers.
///
/// # Errors
/// When the bytes are none, of a newer version, or lack a part.
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    let form: SnapshotMetaForm = unversioned(bytes, "snapshot meta")?;
    let last_membership = form
        .last_membership
        .ok_or(CodecError::Field { what: "snapshot meta", field: "membership" })?;
    Ok(SnapshotMeta {
        last_log_id: form.last_log_id.as_ref().map(log_id),
        last_membership: stored_membership(last_membership)?,
    })
}

fn versioned(form: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + form.encoded_len());
    bytes.push(CODEC_VERSION);
    form.encode(&mut bytes).expect("a vector grows as needed");
    bytes
}

fn unversioned<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty { what }),
        Some((&CODEC_VERSION, rest)) => {
            M::decode(rest).map_err(|source| CodecError::Malformed { what, source })
        }
        Some((&found, _)) => Err(CodecError::UnsupportedVersion { what, found }),
    }
}

fn log_id_form(id: &LogId) -> LogIdForm {
    LogIdForm { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

fn log_id(form: &LogIdForm) -> LogId {
    crate::raft_types::log_id(form.term, form.node, form.index)
}

fn membership_form(membership: &Membership) -> MembershipForm {
    MembershipForm {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| VotersForm { nodes: voters.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(node, member)| MemberForm {
                node: *node,
                name: member.name.clone(),
                address: member.address.clone(),
            })
            .collect(),
    }
}

fn membership(form: MembershipForm) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<u64>> =
        form.configs.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect();
    let members: BTreeMap<u64, Member> = form
        .members
        .into_iter()
        .map(|m| (m.node, Member { name: m.name, address: m.address }))
        .collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members)
        .map_err(|_| CodecError::Field { what: "membership", field: "voter" })
}

fn stored_membership_form(stored: &StoredMembership) -> StoredMembershipForm {
    StoredMembershipForm {
        log_id: stored.log_id().as_ref().map(log_id_form),
        membership: Some(membership_form(stored.membership())),
    }
}

fn stored_membership(form: StoredMembershipForm) -> Result<StoredMembership, CodecError> {
    let members =
        form.membership.ok_or(CodecError::Field { what: "membership", field: "list of voters" })?;
    Ok(StoredMembership::new(form.log_id.as_ref().map(log_id), membership(members)?))
}

#[cfg(test)]
#[path = "raft_codec_tests.rs"]
mod tests;

//! The types openraft is instantiated with. Commands and outcomes are opaque bytes here: what they
//! mean is coordinator-core's business. Their form on disk and on the wire is in `raft_codec`.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An encoded command, as it stands in a log entry. The bytes carry their own version.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command(Bytes);

impl Command {
    /// Wraps encoded bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
    /// The encoded bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }
    /// Takes the encoded bytes out.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// An encoded outcome of a command.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome(Bytes);

impl Outcome {
    /// Wraps encoded bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
    /// The encoded bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }
    /// Takes the encoded bytes out.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

// openraft prints commands into its traces: their length only, never their content.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcome of {} bytes", self.0.len())
    }
}
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the membership knows of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the fleet, as its certificate has it.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

openraft::declare_raft_types!(
    /// openraft, as a fleet uses it.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_adv::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = openraft::impls::TokioRuntime,
);

/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What a log entry holds.
pub type EntryPayload = openraft::alias::EntryPayloadOf<TypeConfig>;
/// A place in the log, with the leader that wrote it.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// Term and node of a leader.
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership with the place in the log that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// Makes a log id out of its three numbers.
#[must_use]
pub fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: node }, index }
}

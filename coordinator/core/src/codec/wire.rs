//! What the encoded forms share: ids as bytes, lists of ids as one run of bytes, closed sets of
//! words as numbers, and the messages that occur in more than one of them.

use std::collections::BTreeSet;

use prost::Message;
use proto_types::{
    BundleId, BundleKind, ClusterId, DekId, FleetId, LeaseId, Level, NodeId, SessionId,
    SigningPublicKey,
};

use super::DecodeError;
use crate::audit::OperatorRole;
use crate::command::UploadEnd;
use crate::dropped::BundlePrefix;
use crate::rows::{
    BundleHome, FindingKey, Instance, Jump, NodeState, Proof, ProofState, ReadPurpose,
    RecoveryPublicKey, Scope, Severity,
};

/// Where a field stands, for the error.
#[derive(Clone, Copy)]
pub(super) struct At(pub(super) &'static str, pub(super) &'static str);

impl At {
    pub(super) fn invalid(self) -> DecodeError {
        DecodeError::Field { what: self.0, field: self.1 }
    }
}

/// An id of a fixed number of bytes.
pub(super) trait WireId: Sized + Copy + PartialEq {
    const LEN: usize;
    fn get(bytes: &[u8]) -> Option<Self>;
    fn put(&self) -> Vec<u8>;
}

macro_rules! wire_ids {
    ($($id:ident $len:literal)*) => { $(
        impl WireId for $id {
            const LEN: usize = $len;
            fn get(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map($id::from_bytes)
            }
            fn put(&self) -> Vec<u8> {
                self.as_bytes().to_vec()
            }
        }
    )* };
}

wire_ids! {
    BundlePrefix 8
    FleetId 16 ClusterId 16 LeaseId 16 SessionId 16 DekId 16 Instance 16
    BundleId 32 SigningPublicKey 32
}

pub(super) fn id<I: WireId>(at: At, bytes: &[u8]) -> Result<I, DecodeError> {
    I::get(bytes).ok_or_else(|| at.invalid())
}

/// No bytes are none.
pub(super) fn id_or_none<I: WireId>(at: At, bytes: &[u8]) -> Result<Option<I>, DecodeError> {
    if bytes.is_empty() { Ok(None) } else { id(at, bytes).map(Some) }
}

pub(super) fn put_or_none<I: WireId>(id: Option<&I>) -> Vec<u8> {
    id.map(WireId::put).unwrap_or_default()
}

/// A list of ids: one after the other, which at 32 bytes each saves two bytes of tag and length.
pub(super) fn put_ids<'a, I: WireId + 'a>(ids: impl IntoIterator<Item = &'a I>) -> Vec<u8> {
    ids.into_iter().flat_map(WireId::put).collect()
}

pub(super) fn ids<I: WireId>(at: At, bytes: &[u8]) -> Result<Vec<I>, DecodeError> {
    bytes.chunks(I::LEN).map(|chunk| id(at, chunk)).collect()
}

/// No bytes are none.
pub(super) fn array_or_none<const N: usize>(
    at: At,
    bytes: &[u8],
) -> Result<Option<[u8; N]>, DecodeError> {
    if bytes.is_empty() { Ok(None) } else { array(at, bytes).map(Some) }
}

pub(super) fn array<const N: usize>(at: At, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| at.invalid())
}

pub(super) fn put_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<u64> {
    nodes.into_iter().map(|node| node.get()).collect()
}

/// Ascending node ids, so that there is one encoding.
pub(super) fn nodes(at: At, wire: &[u64]) -> Result<BTreeSet<NodeId>, DecodeError> {
    if !wire.is_sorted_by(|a, b| a < b) {
        return Err(at.invalid());
    }
    Ok(wire.iter().copied().map(NodeId::new).collect())
}

pub(super) fn level(at: At, number: u64) -> Result<Level, DecodeError> {
    u16::try_from(number).ok().filter(|n| *n > 0).map(Level::new).ok_or_else(|| at.invalid())
}

pub(super) fn present<T>(at: At, value: Option<T>) -> Result<T, DecodeError> {
    value.ok_or_else(|| at.invalid())
}

/// A closed set of words, each with its number; numbers are never reused and never zero.
pub(super) trait WireWord: Sized {
    fn number(&self) -> u32;
    fn of(number: u32) -> Option<Self>;
}

macro_rules! wire_words {
    ($($name:ident { $($variant:ident = $number:literal)* })*) => { $(
        impl WireWord for $name {
            fn number(&self) -> u32 {
                match self { $($name::$variant => $number,)* }
            }
            fn of(number: u32) -> Option<Self> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }
    )* };
}

wire_words! {
    UploadEnd { Abandoned = 1 Failed = 2 }
    ReadPurpose { Restore = 1 Export = 2 Drill = 3 Snapshot = 4 }
    Severity { Info = 1 Warning = 2 Critical = 3 }
    NodeState { Admitted = 1 Removed = 2 }
    BundleHome { Disks = 1 Bucket = 2 }
    OperatorRole { Viewer = 1 Operator = 2 Admin = 3 }
}

pub(super) fn word<W: WireWord>(at: At, number: u32) -> Result<W, DecodeError> {
    W::of(number).ok_or_else(|| at.invalid())
}

pub(super) fn kind(at: At, number: u32) -> Result<BundleKind, DecodeError> {
    u8::try_from(number).ok().and_then(BundleKind::from_byte).ok_or_else(|| at.invalid())
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRecovery {
    #[prost(bytes = "vec", tag = "1")]
    hpke: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signing: Vec<u8>,
}

impl WireRecovery {
    pub(super) fn put(key: &RecoveryPublicKey) -> Self {
        Self { hpke: key.hpke.to_vec(), signing: key.signing.to_vec() }
    }
    pub(super) fn get(at: At, wire: Option<Self>) -> Result<RecoveryPublicKey, DecodeError> {
        let wire = present(at, wire)?;
        Ok(RecoveryPublicKey { hpke: array(at, &wire.hpke)?, signing: array(at, &wire.signing)? })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireJump {
    #[prost(sint64, tag = "1")]
    by_ms: i64,
    #[prost(bool, tag = "2")]
    elapsed_known: bool,
    /// Ascending.
    #[prost(uint64, repeated, tag = "3")]
    nodes: Vec<u64>,
}

impl WireJump {
    pub(super) fn put(jump: &Jump) -> Self {
        Self { by_ms: jump.by_ms, elapsed_known: jump.elapsed_known, nodes: put_nodes(&jump.nodes) }
    }
    pub(super) fn get(at: At, wire: Option<Self>) -> Result<Jump, DecodeError> {
        let wire = present(at, wire)?;
        Ok(Jump {
            by_ms: wire.by_ms,
            elapsed_known: wire.elapsed_known,
            nodes: nodes(at, &wire.nodes)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAuthority {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) root_certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) sealed_root_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireProof {
    #[prost(string, tag = "1")]
    source: String,
    /// 1 proved, 2 unproved, 3 failed.
    #[prost(uint32, tag = "2")]
    state: u32,
    #[prost(string, tag = "3")]
    reason: String,
}

impl WireProof {
    pub(super) fn put(proof: &Proof) -> Self {
        let (state, reason) = match &proof.state {
            ProofState::Proved => (1, String::new()),
            ProofState::Unproved { reason } => (2, reason.clone()),
            ProofState::Failed { reason } => (3, reason.clone()),
        };
        Self { source: proof.source.clone(), state, reason }
    }
    pub(super) fn get(at: At, wire: Self) -> Result<Proof, DecodeError> {
        let state = match wire.state {
            1 if wire.reason.is_empty() => ProofState::Proved,
            2 => ProofState::Unproved { reason: wire.reason },
            3 => ProofState::Failed { reason: wire.reason },
            _ => return Err(at.invalid()),
        };
        Ok(Proof { source: wire.source, state })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireFindingKey {
    /// 1 fleet, 2 node, 3 cluster.
    #[prost(uint32, tag = "1")]
    scope: u32,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bytes = "vec", tag = "3")]
    cluster: Vec<u8>,
    #[prost(string, tag = "4")]
    kind: String,
    #[prost(string, tag = "5")]
    subject: String,
}

impl WireFindingKey {
    pub(super) fn put(key: &FindingKey) -> Self {
        let (scope, node, cluster) = match &key.scope {
            Scope::Fleet => (1, 0, Vec::new()),
            Scope::Node(node) => (2, node.get(), Vec::new()),
            Scope::Cluster(cluster) => (3, 0, cluster.put()),
        };
        Self { scope, node, cluster, kind: key.kind.clone(), subject: key.subject.clone() }
    }
    pub(super) fn get(at: At, wire: Option<Self>) -> Result<FindingKey, DecodeError> {
        let wire = present(at, wire)?;
        let scope = match (wire.scope, wire.node, wire.cluster.is_empty()) {
            (1, 0, true) => Scope::Fleet,
            (2, node, true) => Scope::Node(NodeId::new(node)),
            (3, 0, false) => Scope::Cluster(id(at, &wire.cluster)?),
            _ => return Err(at.invalid()),
        };
        Ok(FindingKey { scope, kind: wire.kind, subject: wire.subject })
    }
}

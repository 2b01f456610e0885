//! The rows of an encoded state. Tags are never reused.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use prost::{Message, Oneof};
use proto_types::{
    BundleId, Epoch, LeaseId, Level, LogIndex, LogTime, NodeId, Sequence, SessionId,
};

use super::super::outcome::{self, WireOutcome};
use super::super::wire::{
    At, WireAuthority, WireFindingKey, WireId, WireJump, WireProof, WireRecovery, WireWord, array,
    array_or_none, id, id_or_none, ids, kind, level, nodes, present, put_ids, put_nodes,
    put_or_none, word,
};
use super::super::{DecodeError, audit, bucket, delayed, enrolment, keys};
use super::joining::WireJoinToken;
use crate::rows::{
    BundleFacts, BundleRow, Change, Cluster, Finding, FindingKey, Fleet, Freeze, Head, NodeRow,
    PointRow, ReadLease, Recovery, Restore, Session, UploadLease,
};
use crate::state::State;

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRow {
    #[prost(
        oneof = "Row",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 21, 23, 24, 26, 27, 28, 32, 40, 41, 42, 43, 44, 45, 46, 47, 53, 54, 55, 56"
    )]
    pub(super) row: Option<Row>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Row {
    #[prost(message, tag = "1")]
    Meta(WireMeta),
    #[prost(message, tag = "2")]
    Cluster(WireCluster),
    #[prost(message, tag = "3")]
    Bundle(WireBundle),
    #[prost(message, tag = "4")]
    Point(WirePoint),
    #[prost(message, tag = "5")]
    Upload(WireUpload),
    #[prost(message, tag = "6")]
    Read(WireRead),
    #[prost(message, tag = "7")]
    Session(WireSession),
    #[prost(message, tag = "8")]
    Finding(WireFinding),
    #[prost(message, tag = "9")]
    Node(WireNode),
    #[prost(message, tag = "10")]
    Change(WireChange),
    #[prost(message, tag = "15")]
    End(WireEnd),
    #[prost(message, tag = "23")]
    Restore(WireRestore),
    /// The next bytes of the state that is restored.
    #[prost(bytes = "vec", tag = "24")]
    RestorePiece(Vec<u8>),
    #[prost(message, tag = "32")]
    Recovery(WireForced),
    #[prost(message, tag = "26")]
    Home(bucket::WireHome),
    #[prost(message, tag = "27")]
    Object(bucket::WireObject),
    #[prost(message, tag = "28")]
    Snapshot(bucket::WireSnapshot),
    #[prost(message, tag = "20")]
    Authority(WireAuthority),
    #[prost(message, tag = "21")]
    JoinToken(WireJoinToken),
    #[prost(message, tag = "40")]
    AuditLog(audit::WireLog),
    /// An encoded entry after the last closed segment.
    #[prost(bytes = "vec", tag = "41")]
    AuditEntry(Vec<u8>),
    #[prost(message, tag = "42")]
    AuditPending(audit::WirePending),
    #[prost(message, tag = "43")]
    Party(enrolment::WirePartyRow),
    #[prost(message, tag = "44")]
    EnrolToken(enrolment::WireToken),
    #[prost(message, tag = "45")]
    Waiting(enrolment::WireWaiting),
    #[prost(message, tag = "46")]
    DelayedAct(delayed::WireActRow),
    #[prost(message, tag = "47")]
    ActDelay(delayed::WireDelay),
    #[prost(message, tag = "53")]
    FormerKey(keys::WireFormer),
    #[prost(message, tag = "54")]
    Attest(keys::WireAttest),
    #[prost(message, tag = "55")]
    KeyOrders(keys::WireOrders),
    #[prost(message, tag = "56")]
    Lineage(keys::WireLineage),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireEnd {
    /// Rows before this one.
    #[prost(uint64, tag = "1")]
    pub(super) rows: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireMeta {
    #[prost(uint64, tag = "1")]
    pub(super) time_ms: u64,
    #[prost(message, optional, tag = "2")]
    fleet: Option<WireFleet>,
    /// How often the fleet was restored.
    #[prost(uint32, tag = "13")]
    generation: u32,
    /// The last restore.
    #[prost(bytes = "vec", tag = "14")]
    restored_from: Vec<u8>,
    /// The active level; 0 stands for the first one, which is not written.
    #[prost(uint64, tag = "19")]
    level: u64,
    #[prost(message, optional, tag = "20")]
    freeze: Option<WireFreeze>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireFreeze {
    #[prost(uint64, tag = "1")]
    since_ms: u64,
    #[prost(message, optional, tag = "2")]
    jump: Option<WireJump>,
}

#[derive(Clone, PartialEq, Message)]
struct WireFleet {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    created_ms: u64,
    #[prost(message, optional, tag = "4")]
    recovery: Option<WireRecovery>,
}

pub(super) fn put_meta(state: &State) -> Row {
    let fleet = state.fleet().map(|fleet| WireFleet {
        id: fleet.id.put(),
        name: fleet.name.clone(),
        created_ms: fleet.created.as_millis(),
        recovery: Some(WireRecovery::put(&fleet.recovery)),
    });
    let level = Some(state.level).filter(|level| *level > Level::OLDEST);
    let freeze = state.freeze.as_ref().map(|freeze| WireFreeze {
        since_ms: freeze.since.as_millis(),
        jump: Some(WireJump::put(&freeze.jump)),
    });
    Row::Meta(WireMeta {
        time_ms: state.log_time().as_millis(),
        fleet,
        generation: state.fleet().map_or(0, |fleet| fleet.generation),
        restored_from: put_or_none(state.fleet().and_then(|fleet| fleet.restored_from.as_ref())),
        level: level.map_or(0, |level| u64::from(level.get())),
        freeze,
    })
}

/// A level that this program does not know is the state of a newer one.
pub(super) fn get_level(meta: &WireMeta) -> Result<Level, DecodeError> {
    if meta.level == 0 {
        return Ok(Level::OLDEST);
    }
    let at = At("meta row", "level");
    match level(at, meta.level)? {
        Level::OLDEST => Err(at.invalid()),
        level if level > Level::NEWEST => Err(DecodeError::Unknown { what: "state" }),
        level => Ok(level),
    }
}

pub(super) fn get_freeze(meta: &WireMeta) -> Result<Option<Freeze>, DecodeError> {
    let Some(wire) = &meta.freeze else { return Ok(None) };
    Ok(Some(Freeze {
        since: LogTime::from_millis(wire.since_ms),
        jump: WireJump::get(At("meta row", "jump"), wire.jump.clone())?,
    }))
}

pub(super) fn get_fleet(meta: WireMeta) -> Result<Option<Fleet>, DecodeError> {
    let restored_from = id_or_none(At("fleet row", "restored_from"), &meta.restored_from)?;
    if (meta.generation == 0) != restored_from.is_none() {
        return Err(At("fleet row", "generation").invalid());
    }
    let Some(wire) = meta.fleet else {
        return if meta.generation == 0 {
            Ok(None)
        } else {
            Err(At("fleet row", "generation").invalid())
        };
    };
    Ok(Some(Fleet {
        id: id(At("fleet row", "id"), &wire.id)?,
        name: wire.name,
        created: LogTime::from_millis(wire.created_ms),
        recovery: WireRecovery::get(At("fleet row", "recovery"), wire.recovery)?,
        generation: meta.generation,
        restored_from,
    }))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireCluster {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    signing_key: Vec<u8>,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
    #[prost(string, optional, tag = "5")]
    kube_system_uid: Option<String>,
    #[prost(uint64, tag = "6")]
    registered_ms: u64,
    #[prost(uint64, tag = "7")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "8")]
    instance: Vec<u8>,
    #[prost(uint64, tag = "9")]
    head_sequence: u64,
    #[prost(bytes = "vec", tag = "10")]
    head_manifest: Vec<u8>,
    #[prost(uint32, tag = "11")]
    lineage: u32,
    #[prost(uint64, tag = "20")]
    sequence_floor: u64,
}

pub(super) fn put_cluster(cluster: &Cluster) -> Row {
    Row::Cluster(WireCluster {
        id: cluster.id.put(),
        name: cluster.name.clone(),
        signing_key: cluster.signing_key.put(),
        labels: cluster.labels.clone(),
        kube_system_uid: cluster.kube_system_uid.clone(),
        registered_ms: cluster.registered.as_millis(),
        epoch: cluster.epoch.get(),
        instance: put_or_none(cluster.instance.as_ref()),
        head_sequence: cluster.head.sequence.get(),
        head_manifest: put_or_none(cluster.head.manifest.as_ref()),
        lineage: cluster.lineage,
        sequence_floor: cluster.sequence_floor.get(),
    })
}

pub(super) fn get_cluster(wire: WireCluster) -> Result<Cluster, DecodeError> {
    let at = |field| At("cluster row", field);
    Ok(Cluster {
        id: id(at("id"), &wire.id)?,
        name: wire.name,
        signing_key: id(at("signing_key"), &wire.signing_key)?,
        labels: wire.labels,
        kube_system_uid: wire.kube_system_uid,
        registered: LogTime::from_millis(wire.registered_ms),
        epoch: Epoch::new(wire.epoch),
        instance: id_or_none(at("instance"), &wire.instance)?,
        head: Head {
            sequence: Sequence::new(wire.head_sequence),
            manifest: id_or_none(at("head_manifest"), &wire.head_manifest)?,
        },
        lineage: wire.lineage,
        sequence_floor: Sequence::new(wire.sequence_floor),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireBundle {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    /// As in the file's header.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint64, tag = "4")]
    bytes: u64,
    /// DEK ids, one after the other.
    #[prost(bytes = "vec", tag = "5")]
    dek_ids: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    predecessor: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    base: Vec<u8>,
    #[prost(uint64, repeated, tag = "8")]
    holders: Vec<u64>,
    #[prost(uint64, tag = "9")]
    points: u64,
    /// The generation of its object; 0: it has none.
    #[prost(uint64, tag = "10")]
    object: u64,
    /// Of wraps: the number of recovery keys before theirs.
    #[prost(uint32, tag = "53")]
    recovery: u32,
    #[prost(bool, tag = "64")]
    in_log: bool,
}

pub(super) fn put_bundle(id: &BundleId, row: &BundleRow) -> Row {
    Row::Bundle(WireBundle {
        id: id.put(),
        cluster: row.facts.cluster.put(),
        kind: u32::from(row.facts.kind.to_byte()),
        bytes: row.facts.bytes,
        dek_ids: put_ids(&row.facts.dek_ids),
        predecessor: put_or_none(row.facts.predecessor.as_ref()),
        base: put_or_none(row.facts.base.as_ref()),
        holders: row.holders.iter().map(|node| node.get()).collect(),
        points: row.points,
        object: row.object.map_or(0, LogIndex::get),
        recovery: row.facts.recovery,
        in_log: row.in_log,
    })
}

pub(super) fn get_bundle(wire: WireBundle) -> Result<(BundleId, BundleRow), DecodeError> {
    let at = |field| At("bundle row", field);
    let facts = BundleFacts {
        cluster: id(at("cluster"), &wire.cluster)?,
        kind: kind(at("kind"), wire.kind)?,
        bytes: wire.bytes,
        dek_ids: ids(at("dek_ids"), &wire.dek_ids)?,
        predecessor: id_or_none(at("predecessor"), &wire.predecessor)?,
        base: id_or_none(at("base"), &wire.base)?,
        recovery: wire.recovery,
    };
    let row = BundleRow {
        facts: Arc::new(facts),
        holders: nodes(at("holders"), &wire.holders)?,
        points: wire.points,
        object: (wire.object != 0).then(|| LogIndex::new(wire.object)),
        in_log: wire.in_log,
    };
    Ok((id(at("id"), &wire.id)?, row))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WirePoint {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    parent: u64,
    #[prost(bytes = "vec", tag = "4")]
    manifest: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    base: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    key_bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    wraps: Vec<u8>,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "8")]
    added: Vec<u8>,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "9")]
    dropped: Vec<u8>,
    #[prost(uint64, tag = "10")]
    committed_ms: u64,
    #[prost(uint64, tag = "11")]
    index: u64,
    #[prost(uint64, tag = "12")]
    taken_ms: u64,
    #[prost(uint64, tag = "13")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "14")]
    lease: Vec<u8>,
    #[prost(message, repeated, tag = "15")]
    proofs: Vec<WireProof>,
    #[prost(uint64, tag = "16")]
    items: u64,
    #[prost(uint64, tag = "17")]
    logical_bytes: u64,
    #[prost(uint64, tag = "18")]
    stored_bytes_added: u64,
    /// The statement's signature; empty when there is none.
    #[prost(bytes = "vec", tag = "19")]
    statement: Vec<u8>,
    #[prost(uint32, tag = "20")]
    generation: u32,
    #[prost(uint32, tag = "53")]
    lineage: u32,
}

pub(super) fn put_point(point: &PointRow) -> Row {
    Row::Point(WirePoint {
        cluster: point.cluster.put(),
        sequence: point.sequence.get(),
        parent: point.parent.get(),
        manifest: point.manifest.put(),
        base: put_or_none(point.base.as_ref()),
        key_bundle: point.key_bundle.put(),
        wraps: point.wraps.put(),
        added: put_ids(&point.added),
        dropped: put_ids(&point.dropped),
        committed_ms: point.committed.as_millis(),
        index: point.index.get(),
        taken_ms: point.taken.as_millis(),
        epoch: point.epoch.get(),
        lease: put_or_none(point.lease.as_ref()),
        proofs: point.proofs.iter().map(WireProof::put).collect(),
        items: point.items,
        logical_bytes: point.logical_bytes,
        stored_bytes_added: point.stored_bytes_added,
        statement: point.statement.map(Vec::from).unwrap_or_default(),
        generation: point.generation,
        lineage: point.lineage,
    })
}

/// The point without what it needs, which the caller makes from its parent.
pub(super) fn get_point(wire: WirePoint) -> Result<PointRow, DecodeError> {
    let at = |field| At("point row", field);
    let proofs = wire.proofs.into_iter().map(|proof| WireProof::get(at("proofs"), proof));
    Ok(PointRow {
        cluster: id(at("cluster"), &wire.cluster)?,
        sequence: Sequence::new(wire.sequence),
        parent: Sequence::new(wire.parent),
        manifest: id(at("manifest"), &wire.manifest)?,
        base: id_or_none(at("base"), &wire.base)?,
        key_bundle: id(at("key_bundle"), &wire.key_bundle)?,
        wraps: id(at("wraps"), &wire.wraps)?,
        added: ids(at("added"), &wire.added)?,
        dropped: ids(at("dropped"), &wire.dropped)?,
        needs: OrdSet::new(),
        committed: LogTime::from_millis(wire.committed_ms),
        index: LogIndex::new(wire.index),
        taken: LogTime::from_millis(wire.taken_ms),
        epoch: Epoch::new(wire.epoch),
        lease: id_or_none(at("lease"), &wire.lease)?,
        proofs: proofs.collect::<Result<_, _>>()?,
        items: wire.items,
        logical_bytes: wire.logical_bytes,
        stored_bytes_added: wire.stored_bytes_added,
        statement: array_or_none(at("statement"), &wire.statement)?,
        generation: wire.generation,
        lineage: wire.lineage,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireUpload {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(uint64, tag = "4")]
    parent: u64,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(uint64, tag = "6")]
    ttl_ms: u64,
    #[prost(uint64, tag = "7")]
    expires_ms: u64,
}

pub(super) fn put_upload(id: &LeaseId, lease: &UploadLease) -> Row {
    Row::Upload(WireUpload {
        id: id.put(),
        cluster: lease.cluster.put(),
        epoch: lease.epoch.get(),
        parent: lease.parent.get(),
        index: lease.index.get(),
        ttl_ms: lease.ttl_ms,
        expires_ms: lease.expires.as_millis(),
    })
}

/// The lease without its pins, which are what its parent needs.
pub(super) fn get_upload(wire: WireUpload) -> Result<(LeaseId, UploadLease), DecodeError> {
    let at = |field| At("upload row", field);
    let lease = UploadLease {
        cluster: id(at("cluster"), &wire.cluster)?,
        epoch: Epoch::new(wire.epoch),
        parent: Sequence::new(wire.parent),
        index: LogIndex::new(wire.index),
        ttl_ms: wire.ttl_ms,
        expires: LogTime::from_millis(wire.expires_ms),
        pinned: OrdSet::new(),
    };
    Ok((id(at("id"), &wire.id)?, lease))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRead {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint32, tag = "4")]
    purpose: u32,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(uint64, tag = "6")]
    ttl_ms: u64,
    #[prost(uint64, tag = "7")]
    expires_ms: u64,
}

pub(super) fn put_read(id: &LeaseId, lease: &ReadLease) -> Row {
    Row::Read(WireRead {
        id: id.put(),
        cluster: lease.cluster.put(),
        sequence: lease.sequence.get(),
        purpose: lease.purpose.number(),
        index: lease.index.get(),
        ttl_ms: lease.ttl_ms,
        expires_ms: lease.expires.as_millis(),
    })
}

/// The lease without its pins, which are what its point needs.
pub(super) fn get_read(wire: WireRead) -> Result<(LeaseId, ReadLease), DecodeError> {
    let at = |field| At("read row", field);
    let lease = ReadLease {
        cluster: id(at("cluster"), &wire.cluster)?,
        sequence: Sequence::new(wire.sequence),
        purpose: word(at("purpose"), wire.purpose)?,
        index: LogIndex::new(wire.index),
        ttl_ms: wire.ttl_ms,
        expires: LogTime::from_millis(wire.expires_ms),
        pinned: OrdSet::new(),
    };
    Ok((id(at("id"), &wire.id)?, lease))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSession {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    last_used_ms: u64,
    #[prost(uint64, tag = "3")]
    forgotten: u64,
    #[prost(message, repeated, tag = "4")]
    results: Vec<WireResult>,
}

#[derive(Clone, PartialEq, Message)]
struct WireResult {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, tag = "2")]
    outcome: Option<WireOutcome>,
}

pub(super) fn put_session(id: &SessionId, session: &Session) -> Row {
    let result = |(number, outcome): (&u64, &crate::outcome::Outcome)| WireResult {
        number: *number,
        outcome: Some(outcome::to_wire(outcome)),
    };
    Row::Session(WireSession {
        id: id.put(),
        last_used_ms: session.last_used.as_millis(),
        forgotten: session.forgotten,
        results: session.results.iter().map(result).collect(),
    })
}

pub(super) fn get_session(wire: WireSession) -> Result<(SessionId, Session), DecodeError> {
    let at = |field| At("session row", field);
    let mut results = OrdMap::new();
    for result in wire.results {
        let outcome = outcome::from_wire(present(at("outcome"), result.outcome)?)?;
        if results.insert(result.number, outcome).is_some() {
            return Err(at("number").invalid());
        }
    }
    let session = Session {
        last_used: LogTime::from_millis(wire.last_used_ms),
        forgotten: wire.forgotten,
        results,
    };
    Ok((id(at("id"), &wire.id)?, session))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireFinding {
    #[prost(message, optional, tag = "1")]
    key: Option<WireFindingKey>,
    #[prost(uint32, tag = "2")]
    severity: u32,
    #[prost(uint64, tag = "3")]
    since_ms: u64,
    #[prost(uint64, tag = "4")]
    last_seen_ms: u64,
    #[prost(string, tag = "5")]
    message: String,
    #[prost(string, tag = "6")]
    remedy: String,
}

pub(super) fn put_finding(key: &FindingKey, finding: &Finding) -> Row {
    Row::Finding(WireFinding {
        key: Some(WireFindingKey::put(key)),
        severity: finding.severity.number(),
        since_ms: finding.since.as_millis(),
        last_seen_ms: finding.last_seen.as_millis(),
        message: finding.message.clone(),
        remedy: finding.remedy.clone(),
    })
}

pub(super) fn get_finding(wire: WireFinding) -> Result<(FindingKey, Finding), DecodeError> {
    let at = |field| At("finding row", field);
    let finding = Finding {
        severity: word(at("severity"), wire.severity)?,
        since: LogTime::from_millis(wire.since_ms),
        last_seen: LogTime::from_millis(wire.last_seen_ms),
        message: wire.message,
        remedy: wire.remedy,
    };
    Ok((WireFindingKey::get(at("key"), wire.key)?, finding))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireNode {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(uint32, tag = "4")]
    state: u32,
    #[prost(uint64, tag = "5")]
    since_ms: u64,
}

pub(super) fn put_node(node: &NodeRow) -> Row {
    Row::Node(WireNode {
        id: node.id.get(),
        name: node.name.clone(),
        address: node.address.clone(),
        state: node.state.number(),
        since_ms: node.since.as_millis(),
    })
}

pub(super) fn get_node(wire: WireNode) -> Result<NodeRow, DecodeError> {
    Ok(NodeRow {
        id: NodeId::new(wire.id),
        name: wire.name,
        address: wire.address,
        state: word(At("node row", "state"), wire.state)?,
        since: LogTime::from_millis(wire.since_ms),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireChange {
    /// Ascending.
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    /// 0: none.
    #[prost(uint64, tag = "2")]
    remove: u64,
    #[prost(uint64, tag = "3")]
    begun: u64,
    #[prost(bool, tag = "4")]
    sealed: bool,
}

pub(super) fn put_change(change: &Change) -> Row {
    Row::Change(WireChange {
        voters: put_nodes(&change.voters),
        remove: change.remove.map_or(0, NodeId::get),
        begun: change.begun.get(),
        sealed: change.sealed,
    })
}

pub(super) fn get_change(wire: &WireChange) -> Result<Change, DecodeError> {
    Ok(Change {
        voters: nodes(At("change row", "voters"), &wire.voters)?,
        remove: (wire.remove != 0).then(|| NodeId::new(wire.remove)),
        begun: LogIndex::new(wire.begun),
        sealed: wire.sealed,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRestore {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    begun_ms: u64,
    #[prost(bytes = "vec", tag = "4")]
    state_sha256: Vec<u8>,
    #[prost(uint64, tag = "5")]
    state_bytes: u64,
    /// Ascending.
    #[prost(uint64, repeated, tag = "6")]
    nodes: Vec<u64>,
}

pub(super) fn put_restore(restore: &Restore) -> Row {
    Row::Restore(WireRestore {
        id: restore.id.put(),
        index: restore.index.get(),
        begun_ms: restore.begun.as_millis(),
        state_sha256: restore.state_sha256.to_vec(),
        state_bytes: restore.state_bytes,
        nodes: put_nodes(&restore.nodes),
    })
}

/// The restore without its pieces, which are rows of their own behind it.
pub(super) fn get_restore(wire: &WireRestore) -> Result<Restore, DecodeError> {
    let at = |field| At("restore row", field);
    Ok(Restore {
        id: id(at("id"), &wire.id)?,
        index: LogIndex::new(wire.index),
        begun: LogTime::from_millis(wire.begun_ms),
        state_sha256: array(at("state_sha256"), &wire.state_sha256)?,
        state_bytes: wire.state_bytes,
        nodes: nodes(at("nodes"), &wire.nodes)?,
        pieces: imbl::Vector::new(),
        received: 0,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireForced {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    at_ms: u64,
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(uint64, tag = "5")]
    committed: u64,
    /// Ascending.
    #[prost(uint64, repeated, tag = "6")]
    removed: Vec<u64>,
    #[prost(uint64, tag = "7")]
    ids_from: u64,
    #[prost(uint64, tag = "8")]
    epochs_from: u64,
    #[prost(uint64, tag = "9")]
    lost_bundles: u64,
    #[prost(uint64, tag = "10")]
    lost_points: u64,
}

pub(super) fn put_recovery(row: &Recovery) -> Row {
    Row::Recovery(WireForced {
        number: row.number,
        node: row.node.get(),
        at_ms: row.at.as_millis(),
        index: row.index.get(),
        committed: row.committed.get(),
        removed: put_nodes(&row.removed),
        ids_from: row.ids_from.get(),
        epochs_from: row.epochs_from.get(),
        lost_bundles: row.lost_bundles,
        lost_points: row.lost_points,
    })
}

pub(super) fn get_recovery(wire: &WireForced) -> Result<Recovery, DecodeError> {
    Ok(Recovery {
        number: wire.number,
        node: NodeId::new(wire.node),
        at: LogTime::from_millis(wire.at_ms),
        index: LogIndex::new(wire.index),
        committed: LogIndex::new(wire.committed),
        removed: nodes(At("recovery row", "removed"), &wire.removed)?,
        ids_from: NodeId::new(wire.ids_from),
        epochs_from: Epoch::new(wire.epochs_from),
        lost_bundles: wire.lost_bundles,
        lost_points: wire.lost_points,
    })
}

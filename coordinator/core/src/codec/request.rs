//! Requests as they stand in the log. Tags are never reused; a new command gets a new tag.

use std::collections::BTreeMap;

use prost::{Message, Oneof};
use proto_types::{Epoch, Level, LogIndex, LogTime, NodeId, Sequence};

use super::wire::{
    At, WireAuthority, WireFindingKey, WireId, WireJump, WireProof, WireRecovery, WireWord, array,
    id, id_or_none, ids, level, nodes, present, put_ids, put_nodes, put_or_none, word,
};
use super::{DecodeError, audit, bucket, delayed, enrolment, keys};
use crate::command::{
    AbandonRestore, AcquireEpoch, AddNode, AddedBundle, BeginChange, BeginRestore, ChangedContent,
    ClearFinding, Command, CommitPoint, ConfirmTime, Content, CreateJoinToken, EndReadLease,
    EndUpload, ExpireLeases, ExpireSessions, FinishRestore, FreezeTime, InitFleet, MoveNode,
    OfChange, OpenReadLease, OpenUpload, RaiseFinding, RaiseLevel, RecordHolders, RecordSnapshot,
    RecoverByForce, RedeemJoinToken, RegisterCluster, RemoveNode, RenewLease, Request,
    RestorePiece, SealSnapshot, SetAuthority,
};
use crate::delayed::PerformAct;
use crate::dropped::Dropped;
use crate::enrolment::RevokeParty;

const WHAT: &str = "log entry";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRequest {
    /// Empty for the coordinators' own commands.
    #[prost(bytes = "vec", tag = "1")]
    session: Vec<u8>,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    time_ms: u64,
    /// Absent in the log of a fleet below level 2.
    #[prost(message, optional, tag = "4")]
    sender: Option<audit::WireSender>,
    #[prost(
        oneof = "WireCommand",
        tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, \
                34, 35, 36, 37, 38, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 52, 53, 60, 63, 64, 65, 66, 67, 68, 69, 70, 71, 75"
    )]
    command: Option<WireCommand>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireCommand {
    #[prost(message, tag = "16")]
    InitFleet(WireInitFleet),
    #[prost(message, tag = "17")]
    RegisterCluster(WireRegisterCluster),
    #[prost(message, tag = "18")]
    AcquireEpoch(WireAcquireEpoch),
    #[prost(message, tag = "19")]
    OpenUpload(WireOpenUpload),
    /// The lease.
    #[prost(bytes = "vec", tag = "20")]
    RenewLease(Vec<u8>),
    #[prost(message, tag = "21")]
    EndUpload(WireEndUpload),
    #[prost(message, tag = "22")]
    CommitPoint(WireCommitPoint),
    #[prost(message, tag = "23")]
    OpenReadLease(WireOpenReadLease),
    /// The lease.
    #[prost(bytes = "vec", tag = "24")]
    EndReadLease(Vec<u8>),
    /// Lease ids, one after the other.
    #[prost(bytes = "vec", tag = "25")]
    ExpireLeases(Vec<u8>),
    /// Session ids, one after the other.
    #[prost(bytes = "vec", tag = "26")]
    ExpireSessions(Vec<u8>),
    #[prost(message, tag = "27")]
    RecordHolders(WireRecordHolders),
    #[prost(message, tag = "28")]
    RaiseFinding(WireRaiseFinding),
    #[prost(message, tag = "29")]
    ClearFinding(WireFindingKey),
    #[prost(message, tag = "30")]
    AddNode(WireAddNode),
    #[prost(message, tag = "31")]
    BeginChange(WireBeginChange),
    #[prost(message, tag = "32")]
    SealChange(WireOfChange),
    #[prost(message, tag = "33")]
    EndChange(WireOfChange),
    /// The node.
    #[prost(uint64, tag = "34")]
    RemoveNode(u64),
    /// The nonce.
    #[prost(bytes = "vec", tag = "35")]
    SealSnapshot(Vec<u8>),
    #[prost(message, tag = "40")]
    BeginRestore(WireBeginRestore),
    #[prost(message, tag = "41")]
    RestorePiece(WireRestorePiece),
    /// The restore.
    #[prost(bytes = "vec", tag = "42")]
    FinishRestore(Vec<u8>),
    /// The restore.
    #[prost(bytes = "vec", tag = "43")]
    AbandonRestore(Vec<u8>),
    #[prost(message, tag = "52")]
    RecoverByForce(WireRecoverByForce),
    #[prost(message, tag = "53")]
    MoveNode(WireMoveNode),
    #[prost(message, tag = "44")]
    SetBundleHome(bucket::WireSetBundleHome),
    #[prost(message, tag = "45")]
    AnnounceObject(bucket::WireAnnounceObject),
    #[prost(message, tag = "46")]
    RecordObjects(bucket::WireRecordObjects),
    #[prost(message, tag = "47")]
    RecordSnapshot(bucket::WireSnapshot),
    #[prost(message, tag = "36")]
    SetAuthority(WireAuthority),
    #[prost(message, tag = "37")]
    CreateJoinToken(WireCreateJoinToken),
    #[prost(message, tag = "38")]
    RedeemJoinToken(WireRedeemJoinToken),
    /// The level.
    #[prost(uint64, tag = "48")]
    RaiseLevel(u64),
    #[prost(message, tag = "49")]
    FreezeTime(WireJump),
    #[prost(message, tag = "50")]
    ConfirmTime(WireConfirmTime),
    #[prost(message, tag = "60")]
    RecordAct(audit::WireRecordAct),
    #[prost(message, tag = "75")]
    Keys(keys::WireKeys),
    #[prost(message, tag = "63")]
    CreateEnrolToken(enrolment::WireCreate),
    #[prost(message, tag = "64")]
    RedeemEnrolToken(enrolment::WireRedeem),
    #[prost(message, tag = "65")]
    RecordCertificate(enrolment::WireRecord),
    #[prost(message, tag = "66")]
    RevokeParty(enrolment::WireParty),
    #[prost(message, tag = "67")]
    DecideEnrolment(enrolment::WireDecide),
    #[prost(message, tag = "68")]
    RequestAct(delayed::WireAct),
    #[prost(message, tag = "69")]
    DecideAct(delayed::WireDecideAct),
    /// The act.
    #[prost(uint64, tag = "70")]
    PerformAct(u64),
    #[prost(message, tag = "71")]
    SetActDelay(delayed::WireDelay),
}

#[derive(Clone, PartialEq, Message)]
struct WireBeginRestore {
    #[prost(bytes = "vec", tag = "1")]
    restore: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    fleet: Vec<u8>,
    #[prost(string, tag = "3")]
    fleet_name: String,
    #[prost(bool, tag = "4")]
    force: bool,
    #[prost(bytes = "vec", tag = "5")]
    state_sha256: Vec<u8>,
    #[prost(uint64, tag = "6")]
    state_bytes: u64,
    /// Ascending.
    #[prost(uint64, repeated, tag = "7")]
    nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WireRestorePiece {
    #[prost(bytes = "vec", tag = "1")]
    restore: Vec<u8>,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(bytes = "vec", tag = "3")]
    bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireCreateJoinToken {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(uint64, tag = "4")]
    ttl_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireRedeemJoinToken {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WireConfirmTime {}

#[derive(Clone, Copy, PartialEq, Message)]
struct WireOfChange {
    #[prost(uint64, tag = "1")]
    begun: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireAddNode {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireRecoverByForce {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    /// Ascending.
    #[prost(uint64, repeated, tag = "4")]
    members: Vec<u64>,
    #[prost(uint64, tag = "5")]
    committed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireMoveNode {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireBeginChange {
    /// Ascending.
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    /// 0: none.
    #[prost(uint64, tag = "2")]
    remove: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireInitFleet {
    #[prost(bytes = "vec", tag = "1")]
    fleet: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    recovery: Option<WireRecovery>,
}

#[derive(Clone, PartialEq, Message)]
struct WireRegisterCluster {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    signing_key: Vec<u8>,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
    #[prost(string, optional, tag = "5")]
    kube_system_uid: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct WireAcquireEpoch {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    instance: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireOpenUpload {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "3")]
    lease: Vec<u8>,
    #[prost(uint64, tag = "4")]
    parent: u64,
    #[prost(uint64, tag = "5")]
    ttl_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireEndUpload {
    #[prost(bytes = "vec", tag = "1")]
    lease: Vec<u8>,
    #[prost(uint32, tag = "2")]
    reason: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WireCommitPoint {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "3")]
    lease: Vec<u8>,
    #[prost(uint64, tag = "4")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "5")]
    parent_manifest: Vec<u8>,
    #[prost(uint64, tag = "6")]
    taken_ms: u64,
    #[prost(oneof = "WireContent", tags = "7, 8")]
    content: Option<WireContent>,
    #[prost(message, repeated, tag = "9")]
    proofs: Vec<WireProof>,
    #[prost(uint64, tag = "10")]
    items: u64,
    #[prost(uint64, tag = "11")]
    logical_bytes: u64,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireContent {
    #[prost(message, tag = "7")]
    Changed(WireChanged),
    /// The signature of the statement.
    #[prost(bytes = "vec", tag = "8")]
    Unchanged(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct WireChanged {
    #[prost(message, repeated, tag = "1")]
    added: Vec<WireAddedBundle>,
    /// First eight bytes of bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    dropped: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    manifest: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    key_bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    wraps: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAddedBundle {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    header: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    signature: Vec<u8>,
    #[prost(uint64, repeated, tag = "5")]
    holders: Vec<u64>,
    #[prost(bool, tag = "6")]
    in_bucket: bool,
    /// Absent in entries below level 2.
    #[prost(bytes = "vec", tag = "7")]
    carried: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireOpenReadLease {
    #[prost(bytes = "vec", tag = "1")]
    lease: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint32, tag = "4")]
    purpose: u32,
    #[prost(uint64, tag = "5")]
    ttl_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireRecordHolders {
    #[prost(uint64, tag = "1")]
    node: u64,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    present: Vec<u8>,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "3")]
    absent: Vec<u8>,
    #[prost(uint64, tag = "4")]
    home: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireRaiseFinding {
    #[prost(message, optional, tag = "1")]
    key: Option<WireFindingKey>,
    #[prost(uint32, tag = "2")]
    severity: u32,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(string, tag = "4")]
    remedy: String,
}

pub(super) fn to_wire(request: &Request) -> WireRequest {
    let (session, number) = match &request.session {
        Some((session, number)) => (session.put(), *number),
        None => (Vec::new(), 0),
    };
    WireRequest {
        session,
        number,
        time_ms: request.time.as_millis(),
        sender: request.sender.as_ref().map(audit::WireSender::put),
        command: Some(put_command(&request.command)),
    }
}

fn put_command(command: &Command) -> WireCommand {
    match command {
        Command::InitFleet(c) => WireCommand::InitFleet(WireInitFleet {
            fleet: c.fleet.put(),
            name: c.name.clone(),
            recovery: Some(WireRecovery::put(&c.recovery)),
        }),
        Command::RegisterCluster(c) => WireCommand::RegisterCluster(WireRegisterCluster {
            cluster: c.cluster.put(),
            name: c.name.clone(),
            signing_key: c.signing_key.put(),
            labels: c.labels.clone(),
            kube_system_uid: c.kube_system_uid.clone(),
        }),
        Command::AcquireEpoch(c) => WireCommand::AcquireEpoch(WireAcquireEpoch {
            cluster: c.cluster.put(),
            instance: c.instance.put(),
        }),
        Command::OpenUpload(c) => WireCommand::OpenUpload(WireOpenUpload {
            cluster: c.cluster.put(),
            epoch: c.epoch.get(),
            lease: c.lease.put(),
            parent: c.parent.get(),
            ttl_ms: c.ttl_ms,
        }),
        Command::RenewLease(c) => WireCommand::RenewLease(c.lease.put()),
        Command::EndUpload(c) => WireCommand::EndUpload(WireEndUpload {
            lease: c.lease.put(),
            reason: c.reason.number(),
        }),
        Command::CommitPoint(c) => WireCommand::CommitPoint(put_commit(c)),
        Command::OpenReadLease(c) => WireCommand::OpenReadLease(WireOpenReadLease {
            lease: c.lease.put(),
            cluster: c.cluster.put(),
            sequence: c.sequence.get(),
            purpose: c.purpose.number(),
            ttl_ms: c.ttl_ms,
        }),
        Command::EndReadLease(c) => WireCommand::EndReadLease(c.lease.put()),
        Command::ExpireLeases(c) => WireCommand::ExpireLeases(put_ids(&c.leases)),
        Command::ExpireSessions(c) => WireCommand::ExpireSessions(put_ids(&c.sessions)),
        Command::RecordHolders(c) => WireCommand::RecordHolders(WireRecordHolders {
            node: c.node.get(),
            present: put_ids(&c.present),
            absent: put_ids(&c.absent),
            home: c.home.get(),
        }),
        Command::RaiseFinding(c) => WireCommand::RaiseFinding(WireRaiseFinding {
            key: Some(WireFindingKey::put(&c.key)),
            severity: c.severity.number(),
            message: c.message.clone(),
            remedy: c.remedy.clone(),
        }),
        Command::ClearFinding(c) => WireCommand::ClearFinding(WireFindingKey::put(&c.key)),
        Command::AddNode(c) => {
            WireCommand::AddNode(WireAddNode { name: c.name.clone(), address: c.address.clone() })
        }
        Command::BeginChange(c) => WireCommand::BeginChange(WireBeginChange {
            voters: put_nodes(&c.voters),
            remove: c.remove.map_or(0, NodeId::get),
        }),
        Command::SealChange(c) => WireCommand::SealChange(WireOfChange { begun: c.begun.get() }),
        Command::EndChange(c) => WireCommand::EndChange(WireOfChange { begun: c.begun.get() }),
        Command::RemoveNode(c) => WireCommand::RemoveNode(c.node.get()),
        Command::SealSnapshot(c) => WireCommand::SealSnapshot(c.nonce.to_vec()),
        Command::BeginRestore(c) => WireCommand::BeginRestore(WireBeginRestore {
            restore: c.restore.put(),
            fleet: c.fleet.put(),
            fleet_name: c.fleet_name.clone(),
            force: c.force,
            state_sha256: c.state_sha256.to_vec(),
            state_bytes: c.state_bytes,
            nodes: put_nodes(&c.nodes),
        }),
        Command::RestorePiece(c) => WireCommand::RestorePiece(WireRestorePiece {
            restore: c.restore.put(),
            offset: c.offset,
            bytes: c.bytes.to_vec(),
        }),
        Command::FinishRestore(c) => WireCommand::FinishRestore(c.restore.put()),
        Command::AbandonRestore(c) => WireCommand::AbandonRestore(c.restore.put()),
        Command::RecoverByForce(c) => WireCommand::RecoverByForce(WireRecoverByForce {
            node: c.node.get(),
            name: c.name.clone(),
            address: c.address.clone(),
            members: put_nodes(&c.members),
            committed: c.committed.get(),
        }),
        Command::MoveNode(c) => WireCommand::MoveNode(WireMoveNode {
            node: c.node.get(),
            name: c.name.clone(),
            address: c.address.clone(),
        }),
        Command::SetBundleHome(c) => WireCommand::SetBundleHome(bucket::put_home(*c)),
        Command::AnnounceObject(c) => WireCommand::AnnounceObject(bucket::put_announce(c)),
        Command::RecordObjects(c) => WireCommand::RecordObjects(bucket::put_record(c)),
        Command::RecordSnapshot(c) => {
            WireCommand::RecordSnapshot(bucket::put_snapshot(&c.snapshot))
        }
        Command::SetAuthority(c) => WireCommand::SetAuthority(WireAuthority {
            root_certificate: c.root_certificate.clone(),
            sealed_root_key: c.sealed_root_key.clone(),
        }),
        Command::CreateJoinToken(c) => WireCommand::CreateJoinToken(WireCreateJoinToken {
            token: c.token.to_vec(),
            name: c.name.clone(),
            address: c.address.clone(),
            ttl_ms: c.ttl_ms,
        }),
        Command::RedeemJoinToken(c) => WireCommand::RedeemJoinToken(WireRedeemJoinToken {
            token: c.token.to_vec(),
            key: c.key.to_vec(),
        }),
        Command::RaiseLevel(c) => WireCommand::RaiseLevel(u64::from(c.to.get())),
        Command::FreezeTime(c) => WireCommand::FreezeTime(WireJump::put(&c.jump)),
        Command::ConfirmTime(ConfirmTime) => WireCommand::ConfirmTime(WireConfirmTime {}),
        Command::RecordAct(c) => WireCommand::RecordAct(audit::put_record(c)),
        Command::Keys(c) => WireCommand::Keys(keys::put(c)),
        Command::CreateEnrolToken(c) => WireCommand::CreateEnrolToken(enrolment::put_create(c)),
        Command::RedeemEnrolToken(c) => WireCommand::RedeemEnrolToken(enrolment::put_redeem(c)),
        Command::RecordCertificate(c) => WireCommand::RecordCertificate(enrolment::put_record(c)),
        Command::RevokeParty(c) => WireCommand::RevokeParty(enrolment::WireParty::put(&c.party)),
        Command::DecideEnrolment(c) => WireCommand::DecideEnrolment(enrolment::put_decide(c)),
        Command::RequestAct(c) => WireCommand::RequestAct(delayed::put_request(c)),
        Command::DecideAct(c) => WireCommand::DecideAct(delayed::put_decide(*c)),
        Command::PerformAct(c) => WireCommand::PerformAct(c.act.get()),
        Command::SetActDelay(c) => WireCommand::SetActDelay(delayed::put_set(*c)),
    }
}

fn put_commit(commit: &CommitPoint) -> WireCommitPoint {
    let content = match &commit.content {
        Content::Changed(content) => WireContent::Changed(WireChanged {
            added: content.added.iter().map(put_added).collect(),
            dropped: put_ids(content.dropped.prefixes()),
            manifest: content.manifest.put(),
            key_bundle: content.key_bundle.put(),
            wraps: content.wraps.put(),
        }),
        Content::Unchanged { signature } => WireContent::Unchanged(signature.to_vec()),
    };
    WireCommitPoint {
        cluster: commit.cluster.put(),
        epoch: commit.epoch.get(),
        lease: put_or_none(commit.lease.as_ref()),
        sequence: commit.sequence.get(),
        parent_manifest: commit.parent_manifest.put(),
        taken_ms: commit.taken.as_millis(),
        content: Some(content),
        proofs: commit.proofs.iter().map(WireProof::put).collect(),
        items: commit.items,
        logical_bytes: commit.logical_bytes,
    }
}

pub(super) fn put_added(bundle: &AddedBundle) -> WireAddedBundle {
    WireAddedBundle {
        id: bundle.id.put(),
        bytes: bundle.bytes,
        header: bundle.header.clone(),
        signature: bundle.signature.to_vec(),
        holders: bundle.holders.iter().map(|node| node.get()).collect(),
        in_bucket: bundle.in_bucket,
        carried: bundle.carried.clone(),
    }
}

pub(super) fn from_wire(wire: WireRequest) -> Result<Request, DecodeError> {
    let session = id_or_none(At(WHAT, "session"), &wire.session)?;
    if session.is_none() && wire.number != 0 {
        return Err(At(WHAT, "number").invalid());
    }
    Ok(Request {
        session: session.map(|session| (session, wire.number)),
        time: LogTime::from_millis(wire.time_ms),
        sender: wire.sender.map(audit::WireSender::get).transpose()?,
        // `exact` has noticed the tag of a newer command before; this is an entry without any.
        command: get_command(present(At(WHAT, "command"), wire.command)?)?,
    })
}

fn get_command(wire: WireCommand) -> Result<Command, DecodeError> {
    let at = |field| At(WHAT, field);
    Ok(match wire {
        WireCommand::InitFleet(c) => Command::InitFleet(InitFleet {
            fleet: id(at("fleet"), &c.fleet)?,
            name: c.name,
            recovery: WireRecovery::get(at("recovery"), c.recovery)?,
        }),
        WireCommand::RegisterCluster(c) => Command::RegisterCluster(RegisterCluster {
            cluster: id(at("cluster"), &c.cluster)?,
            name: c.name,
            signing_key: id(at("signing_key"), &c.signing_key)?,
            labels: c.labels,
            kube_system_uid: c.kube_system_uid,
        }),
        WireCommand::AcquireEpoch(c) => Command::AcquireEpoch(AcquireEpoch {
            cluster: id(at("cluster"), &c.cluster)?,
            instance: id(at("instance"), &c.instance)?,
        }),
        WireCommand::OpenUpload(c) => Command::OpenUpload(OpenUpload {
            cluster: id(at("cluster"), &c.cluster)?,
            epoch: Epoch::new(c.epoch),
            lease: id(at("lease"), &c.lease)?,
            parent: Sequence::new(c.parent),
            ttl_ms: c.ttl_ms,
        }),
        WireCommand::RenewLease(lease) => {
            Command::RenewLease(RenewLease { lease: id(at("lease"), &lease)? })
        }
        WireCommand::EndUpload(c) => Command::EndUpload(EndUpload {
            lease: id(at("lease"), &c.lease)?,
            reason: word(at("reason"), c.reason)?,
        }),
        WireCommand::CommitPoint(c) => Command::CommitPoint(Box::new(get_commit(c)?)),
        WireCommand::OpenReadLease(c) => Command::OpenReadLease(OpenReadLease {
            lease: id(at("lease"), &c.lease)?,
            cluster: id(at("cluster"), &c.cluster)?,
            sequence: Sequence::new(c.sequence),
            purpose: word(at("purpose"), c.purpose)?,
            ttl_ms: c.ttl_ms,
        }),
        WireCommand::EndReadLease(lease) => {
            Command::EndReadLease(EndReadLease { lease: id(at("lease"), &lease)? })
        }
        WireCommand::ExpireLeases(leases) => {
            Command::ExpireLeases(ExpireLeases { leases: ids(at("leases"), &leases)? })
        }
        WireCommand::ExpireSessions(sessions) => {
            Command::ExpireSessions(ExpireSessions { sessions: ids(at("sessions"), &sessions)? })
        }
        WireCommand::RecordHolders(c) => Command::RecordHolders(RecordHolders {
            node: NodeId::new(c.node),
            present: ids(at("present"), &c.present)?,
            absent: ids(at("absent"), &c.absent)?,
            home: LogIndex::new(c.home),
        }),
        WireCommand::RaiseFinding(c) => Command::RaiseFinding(RaiseFinding {
            key: WireFindingKey::get(at("key"), c.key)?,
            severity: word(at("severity"), c.severity)?,
            message: c.message,
            remedy: c.remedy,
        }),
        WireCommand::ClearFinding(key) => {
            Command::ClearFinding(ClearFinding { key: WireFindingKey::get(at("key"), Some(key))? })
        }
        WireCommand::AddNode(c) => Command::AddNode(AddNode { name: c.name, address: c.address }),
        WireCommand::BeginChange(c) => Command::BeginChange(BeginChange {
            voters: nodes(at("voters"), &c.voters)?,
            remove: (c.remove != 0).then(|| NodeId::new(c.remove)),
        }),
        WireCommand::SealChange(c) => {
            Command::SealChange(OfChange { begun: LogIndex::new(c.begun) })
        }
        WireCommand::EndChange(c) => Command::EndChange(OfChange { begun: LogIndex::new(c.begun) }),
        WireCommand::RemoveNode(node) => {
            Command::RemoveNode(RemoveNode { node: NodeId::new(node) })
        }
        WireCommand::SealSnapshot(nonce) => {
            Command::SealSnapshot(SealSnapshot { nonce: array(at("nonce"), &nonce)? })
        }
        WireCommand::BeginRestore(c) => Command::BeginRestore(BeginRestore {
            restore: id(at("restore"), &c.restore)?,
            fleet: id(at("fleet"), &c.fleet)?,
            fleet_name: c.fleet_name,
            force: c.force,
            state_sha256: array(at("state_sha256"), &c.state_sha256)?,
            state_bytes: c.state_bytes,
            nodes: nodes(at("nodes"), &c.nodes)?,
        }),
        WireCommand::RestorePiece(c) => Command::RestorePiece(RestorePiece {
            restore: id(at("restore"), &c.restore)?,
            offset: c.offset,
            bytes: c.bytes.into(),
        }),
        WireCommand::FinishRestore(restore) => {
            Command::FinishRestore(FinishRestore { restore: id(at("restore"), &restore)? })
        }
        WireCommand::AbandonRestore(restore) => {
            Command::AbandonRestore(AbandonRestore { restore: id(at("restore"), &restore)? })
        }
        WireCommand::RecoverByForce(c) => Command::RecoverByForce(Box::new(RecoverByForce {
            node: NodeId::new(c.node),
            name: c.name,
            address: c.address,
            members: nodes(at("members"), &c.members)?,
            committed: LogIndex::new(c.committed),
        })),
        WireCommand::MoveNode(c) => Command::MoveNode(MoveNode {
            node: NodeId::new(c.node),
            name: c.name,
            address: c.address,
        }),
        WireCommand::SetBundleHome(c) => Command::SetBundleHome(bucket::get_home(&c)?),
        WireCommand::AnnounceObject(c) => Command::AnnounceObject(bucket::get_announce(&c)?),
        WireCommand::RecordObjects(c) => Command::RecordObjects(bucket::get_record(&c)?),
        WireCommand::RecordSnapshot(c) => {
            let snapshot = bucket::get_snapshot(WHAT, c)?;
            Command::RecordSnapshot(Box::new(RecordSnapshot { snapshot }))
        }
        WireCommand::SetAuthority(c) => Command::SetAuthority(SetAuthority {
            root_certificate: c.root_certificate,
            sealed_root_key: c.sealed_root_key,
        }),
        WireCommand::CreateJoinToken(c) => Command::CreateJoinToken(CreateJoinToken {
            token: array(at("token"), &c.token)?,
            name: c.name,
            address: c.address,
            ttl_ms: c.ttl_ms,
        }),
        WireCommand::RedeemJoinToken(c) => Command::RedeemJoinToken(RedeemJoinToken {
            token: array(at("token"), &c.token)?,
            key: array(at("key"), &c.key)?,
        }),
        WireCommand::RaiseLevel(to) => {
            let to = level(at("level"), to)?;
            if to > Level::NEWEST {
                return Err(DecodeError::Unknown { what: WHAT });
            }
            Command::RaiseLevel(RaiseLevel { to })
        }
        WireCommand::FreezeTime(jump) => {
            Command::FreezeTime(FreezeTime { jump: WireJump::get(at("jump"), Some(jump))? })
        }
        WireCommand::ConfirmTime(WireConfirmTime {}) => Command::ConfirmTime(ConfirmTime),
        WireCommand::RecordAct(c) => Command::RecordAct(Box::new(audit::get_record(c)?)),
        WireCommand::Keys(c) => Command::Keys(Box::new(keys::get(c)?)),
        WireCommand::CreateEnrolToken(c) => {
            Command::CreateEnrolToken(Box::new(enrolment::get_create(c)?))
        }
        WireCommand::RedeemEnrolToken(c) => {
            Command::RedeemEnrolToken(Box::new(enrolment::get_redeem(c)?))
        }
        WireCommand::RecordCertificate(c) => Command::RecordCertificate(enrolment::get_record(c)?),
        WireCommand::RevokeParty(c) => {
            Command::RevokeParty(RevokeParty { party: enrolment::WireParty::get(Some(c))? })
        }
        WireCommand::DecideEnrolment(c) => Command::DecideEnrolment(enrolment::get_decide(&c)?),
        WireCommand::RequestAct(c) => Command::RequestAct(delayed::get_request(c)?),
        WireCommand::DecideAct(c) => Command::DecideAct(delayed::get_decide(c)),
        WireCommand::PerformAct(act) => Command::PerformAct(PerformAct { act: LogIndex::new(act) }),
        WireCommand::SetActDelay(c) => Command::SetActDelay(delayed::get_set(c)),
    })
}

fn get_commit(wire: WireCommitPoint) -> Result<CommitPoint, DecodeError> {
    let at = |field| At(WHAT, field);
    let content = match present(at("content"), wire.content)? {
        WireContent::Changed(changed) => Content::Changed(ChangedContent {
            added: changed.added.into_iter().map(get_added).collect::<Result<_, _>>()?,
            dropped: Dropped::from_prefixes(ids(at("dropped"), &changed.dropped)?),
            manifest: id(at("manifest"), &changed.manifest)?,
            key_bundle: id(at("key_bundle"), &changed.key_bundle)?,
            wraps: id(at("wraps"), &changed.wraps)?,
        }),
        WireContent::Unchanged(signature) => {
            Content::Unchanged { signature: array(at("signature"), &signature)? }
        }
    };
    let proofs = wire.proofs.into_iter().map(|proof| WireProof::get(at("proofs"), proof));
    Ok(CommitPoint {
        cluster: id(at("cluster"), &wire.cluster)?,
        epoch: Epoch::new(wire.epoch),
        lease: id_or_none(at("lease"), &wire.lease)?,
        sequence: Sequence::new(wire.sequence),
        parent_manifest: id(at("parent_manifest"), &wire.parent_manifest)?,
        taken: LogTime::from_millis(wire.taken_ms),
        content,
        proofs: proofs.collect::<Result<_, _>>()?,
        items: wire.items,
        logical_bytes: wire.logical_bytes,
    })
}

pub(super) fn get_added(wire: WireAddedBundle) -> Result<AddedBundle, DecodeError> {
    Ok(AddedBundle {
        id: id(At(WHAT, "added.id"), &wire.id)?,
        bytes: wire.bytes,
        header: wire.header,
        signature: array(At(WHAT, "added.signature"), &wire.signature)?,
        holders: wire.holders.into_iter().map(NodeId::new).collect(),
        in_bucket: wire.in_bucket,
        carried: wire.carried,
    })
}

//! What can be asked of the replicated state. Everything a command needs arrives inside it: ids
//! and nonces are drawn by the proposer, time is stamped by the leader. Who may send which command
//! is decided before, by the shell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto_types::{
    BundleId, ClusterId, Epoch, FleetId, LeaseId, Level, LogIndex, LogTime, NodeId, Sequence,
    SessionId, SigningPublicKey,
};

use crate::audit::{Sender, Subject};
use crate::delayed::{DecideAct, PerformAct, RequestAct, SetActDelay};
use crate::dropped::{BundlePrefix, Dropped};
use crate::enrolment::{
    CreateEnrolToken, DecideEnrolment, RecordCertificate, RedeemEnrolToken, RevokeParty,
};
use crate::keys::KeysCommand;
use crate::rows::{
    BundleHome, FindingKey, Instance, Jump, Proof, ProofState, ReadPurpose, RecoveryPublicKey,
    Severity, SnapshotRow,
};
use crate::voters::Voters;

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client's session and the request's number in it, from 1. A repeat of a number is
    /// answered from memory and has no second effect; after a refusal whose code is retryable it is
    /// executed anew. `None` for the coordinators' own commands.
    pub session: Option<(SessionId, u64)>,
    /// The leader's time. May lie before the state's time; the larger one counts.
    pub time: LogTime,
    /// Who asks, for the audit log; stamped by the coordinator that knows. `None` in a log of before
    /// the audit log: what such an entry does is not recorded.
    pub sender: Option<Sender>,
    /// What to do.
    pub command: Command,
}

/// What the log says about an entry besides its bytes. The same on every node.
#[derive(Debug, Clone, Copy)]
pub struct LogContext<'a> {
    /// Where the entry stands in the log.
    pub index: LogIndex,
    /// The voters as of this index.
    pub voters: &'a Voters,
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Creates the fleet. The first command of every log.
    InitFleet(InitFleet),
    /// Adds a workload cluster.
    RegisterCluster(RegisterCluster),
    /// Makes an agent instance the one that may commit.
    AcquireEpoch(AcquireEpoch),
    /// Begins an upload.
    OpenUpload(OpenUpload),
    /// Prolongs an upload or read lease.
    RenewLease(RenewLease),
    /// Gives an upload up.
    EndUpload(EndUpload),
    /// Makes a recovery point.
    CommitPoint(Box<CommitPoint>),
    /// Pins a point while somebody reads it.
    OpenReadLease(OpenReadLease),
    /// Ends a read.
    EndReadLease(EndReadLease),
    /// Ends leases whose time is over. Proposed by the leader: an end is always a log entry.
    ExpireLeases(ExpireLeases),
    /// Forgets sessions nobody has used for [`crate::limits::SESSION_IDLE_MS`].
    ExpireSessions(ExpireSessions),
    /// Records what a node found that it holds, or does not hold any more.
    RecordHolders(RecordHolders),
    /// Tells people something, or tells it again.
    RaiseFinding(RaiseFinding),
    /// Takes a finding back.
    ClearFinding(ClearFinding),
    /// Admits a coordinator and gives it its id.
    AddNode(AddNode),
    /// Begins to change who votes.
    BeginChange(BeginChange),
    /// Lets the change reach Raft, once every needed bundle is on a majority of the new voters.
    /// Proposed by the leader, until it is accepted.
    SealChange(OfChange),
    /// Ends the change. Proposed by the leader when Raft has the new voters, or by an admin who
    /// gives it up before it was sealed.
    EndChange(OfChange),
    /// Removes a coordinator that does not vote.
    RemoveNode(RemoveNode),
    /// Proves that one leader led while a snapshot was read from it (S1): appended by that leader
    /// alone, in that term, after the last byte. Changes nothing.
    SealSnapshot(SealSnapshot),
    /// Begins to bring a snapshot's state into an empty fleet.
    BeginRestore(BeginRestore),
    /// The next bytes of that state.
    RestorePiece(RestorePiece),
    /// Lets it take effect.
    FinishRestore(FinishRestore),
    /// Gives it up.
    AbandonRestore(AbandonRestore),
    /// Makes a node the only voter after a majority was lost for good. Never proposed: written to
    /// that node's own log while it is stopped, behind the membership that says so.
    RecoverByForce(Box<RecoverByForce>),
    /// Tells the others where a coordinator is reached from now on.
    MoveNode(MoveNode),
    /// Begins to move the bundles between the coordinators' disks and the bucket, or ends that.
    SetBundleHome(SetBundleHome),
    /// Makes an object of the bucket known before its first byte is written.
    AnnounceObject(AnnounceObject),
    /// Records what the leader copied to the bucket, found missing there, or deleted.
    RecordObjects(RecordObjects),
    /// Records how a scheduled snapshot ended.
    RecordSnapshot(Box<RecordSnapshot>),
    /// Records the fleet's certificate authority, once.
    SetAuthority(SetAuthority),
    /// Makes a one-time token known by which a coordinator may join.
    CreateJoinToken(CreateJoinToken),
    /// Admits the coordinator that a token is for.
    RedeemJoinToken(RedeemJoinToken),
    /// Raises the active level, once every member supports it. Proposed by the leader.
    RaiseLevel(RaiseLevel),
    /// Says that the clocks jumped (T1): nothing ends by time until an admin confirms it. Proposed
    /// by the leader.
    FreezeTime(FreezeTime),
    /// An admin says that the clocks are right now. The entry's time is the clocks' median.
    ConfirmTime(ConfirmTime),
    /// Records an act that is no command of its own, or one that was refused before it became one.
    RecordAct(Box<RecordAct>),
    /// About keys: which came before, which are wanted, which were shown.
    Keys(Box<KeysCommand>),
    /// Makes a token known by which agents or an operator enrol.
    CreateEnrolToken(Box<CreateEnrolToken>),
    /// Enrols whom a token is for, or has it wait for approval.
    RedeemEnrolToken(Box<RedeemEnrolToken>),
    /// Records that a party gets a new certificate over its still valid one.
    RecordCertificate(RecordCertificate),
    /// Makes all certificates void that a party has.
    RevokeParty(RevokeParty),
    /// Approves or rejects an agent that waits.
    DecideEnrolment(DecideEnrolment),
    /// Asks for an act that needs a second admin and waits.
    RequestAct(RequestAct),
    /// Approves such an act, or cancels it.
    DecideAct(DecideAct),
    /// Does it, when it is due. Proposed by the leader.
    PerformAct(PerformAct),
    /// Makes such acts wait longer.
    SetActDelay(SetActDelay),
}

impl Command {
    /// The command's name, for logs and metric labels.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InitFleet(_) => "init_fleet",
            Self::RegisterCluster(_) => "register_cluster",
            Self::AcquireEpoch(_) => "acquire_epoch",
            Self::OpenUpload(_) => "open_upload",
            Self::RenewLease(_) => "renew_lease",
            Self::EndUpload(_) => "end_upload",
            Self::CommitPoint(_) => "commit_point",
            Self::OpenReadLease(_) => "open_read_lease",
            Self::EndReadLease(_) => "end_read_lease",
            Self::ExpireLeases(_) => "expire_leases",
            Self::ExpireSessions(_) => "expire_sessions",
            Self::RecordHolders(_) => "record_holders",
            Self::RaiseFinding(_) => "raise_finding",
            Self::ClearFinding(_) => "clear_finding",
            Self::AddNode(_) => "add_node",
            Self::BeginChange(_) => "begin_change",
            Self::SealChange(_) => "seal_change",
            Self::EndChange(_) => "end_change",
            Self::RemoveNode(_) => "remove_node",
            Self::SealSnapshot(_) => "seal_snapshot",
            Self::BeginRestore(_) => "begin_restore",
            Self::RestorePiece(_) => "restore_piece",
            Self::FinishRestore(_) => "finish_restore",
            Self::AbandonRestore(_) => "abandon_restore",
            Self::RecoverByForce(_) => "recover_by_force",
            Self::MoveNode(_) => "move_node",
            Self::SetBundleHome(_) => "set_bundle_home",
            Self::AnnounceObject(_) => "announce_object",
            Self::RecordObjects(_) => "record_objects",
            Self::RecordSnapshot(_) => "record_snapshot",
            Self::SetAuthority(_) => "set_authority",
            Self::CreateJoinToken(_) => "create_join_token",
            Self::RedeemJoinToken(_) => "redeem_join_token",
            Self::RaiseLevel(_) => "raise_level",
            Self::FreezeTime(_) => "freeze_time",
            Self::ConfirmTime(_) => "confirm_time",
            Self::RecordAct(_) => "record_act",
            Self::Keys(command) => command.name(),
            Self::CreateEnrolToken(_) => "create_enrol_token",
            Self::RedeemEnrolToken(_) => "redeem_enrol_token",
            Self::RecordCertificate(_) => "record_certificate",
            Self::RevokeParty(_) => "revoke_party",
            Self::DecideEnrolment(_) => "decide_enrolment",
            Self::RequestAct(_) => "request_act",
            Self::DecideAct(_) => "decide_act",
            Self::PerformAct(_) => "perform_act",
            Self::SetActDelay(_) => "set_act_delay",
        }
    }

    /// Whether the active level must have it: not of the command that raises the level, nor of one
    /// that no leader proposes and only the node reads whose stopped program wrote it.
    #[must_use]
    pub const fn waits_for_level(&self) -> bool {
        !matches!(self, Self::RaiseLevel(_) | Self::RecoverByForce(_))
    }

    /// The level a program needs to apply it. A new command has that of the release it comes with:
    /// whoever adds one decides it here.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::CommitPoint(commit) if commit.carries() => Level::new(2),
            Self::InitFleet(_)
            | Self::RegisterCluster(_)
            | Self::AcquireEpoch(_)
            | Self::OpenUpload(_)
            | Self::RenewLease(_)
            | Self::EndUpload(_)
            | Self::CommitPoint(_)
            | Self::OpenReadLease(_)
            | Self::EndReadLease(_)
            | Self::ExpireLeases(_)
            | Self::ExpireSessions(_)
            | Self::RecordHolders(_)
            | Self::RaiseFinding(_)
            | Self::ClearFinding(_)
            | Self::AddNode(_)
            | Self::BeginChange(_)
            | Self::SealChange(_)
            | Self::EndChange(_)
            | Self::RemoveNode(_)
            | Self::SealSnapshot(_) => Level::new(1),
            // What follows it in the log may be of the level it raises to.
            Self::RaiseLevel(command) => command.to,
            Self::FreezeTime(_)
            | Self::ConfirmTime(_)
            | Self::BeginRestore(_)
            | Self::RestorePiece(_)
            | Self::FinishRestore(_)
            | Self::AbandonRestore(_)
            | Self::RecoverByForce(_)
            | Self::MoveNode(_)
            | Self::SetBundleHome(_)
            | Self::AnnounceObject(_)
            | Self::RecordObjects(_)
            | Self::RecordSnapshot(_)
            | Self::SetAuthority(_)
            | Self::CreateJoinToken(_)
            | Self::RedeemJoinToken(_)
            | Self::RecordAct(_)
            | Self::Keys(_)
            | Self::CreateEnrolToken(_)
            | Self::RedeemEnrolToken(_)
            | Self::RecordCertificate(_)
            | Self::RevokeParty(_)
            | Self::DecideEnrolment(_)
            | Self::RequestAct(_)
            | Self::DecideAct(_)
            | Self::PerformAct(_)
            | Self::SetActDelay(_) => Level::new(2),
        }
    }
}

/// See [`Command::InitFleet`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitFleet {
    /// The fleet's identity, drawn by the proposer.
    pub fleet: FleetId,
    /// What people call it; an RFC 1123 label like a cluster's name.
    pub name: String,
    /// The public halves of the recovery key.
    pub recovery: RecoveryPublicKey,
}

/// See [`Command::RegisterCluster`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterCluster {
    /// The cluster's identity, drawn by the proposer.
    pub cluster: ClusterId,
    /// What people call it; unique in the fleet.
    pub name: String,
    /// The key that signs everything the cluster sends.
    pub signing_key: SigningPublicKey,
    /// Labels that policies select by.
    pub labels: BTreeMap<String, String>,
    /// UID of the `kube-system` namespace, where the cluster is Kubernetes; unique in the fleet.
    pub kube_system_uid: Option<String>,
}

/// See [`Command::AcquireEpoch`]. The instance that holds the epoch gets it back; another one gets
/// the next, and the uploads of the one before end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquireEpoch {
    /// The agent's cluster.
    pub cluster: ClusterId,
    /// Drawn by the agent when it starts.
    pub instance: Instance,
}

/// See [`Command::OpenUpload`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The agent's cluster.
    pub cluster: ClusterId,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// Drawn by the proposer.
    pub lease: LeaseId,
    /// The point that the new one will follow, which must be the head; 0 before the first. What it
    /// needs stays while the lease lives.
    pub parent: Sequence,
    /// Milliseconds until the lease may be ended, from now and from each renewal.
    pub ttl_ms: u64,
}

/// See [`Command::RenewLease`]. A lease whose time is over but which no log entry has ended yet is
/// still live and may be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewLease {
    /// An upload or read lease.
    pub lease: LeaseId,
}

/// See [`Command::EndUpload`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndUpload {
    /// The upload's lease.
    pub lease: LeaseId,
    /// Why.
    pub reason: UploadEnd,
}

/// Why an agent ends an upload without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadEnd {
    /// The agent does not want it any more.
    Abandoned,
    /// Something went wrong.
    Failed,
}

/// See [`Command::CommitPoint`]. An exact repeat of the head's commit answers the same; the bundles
/// it added may be left out of a repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPoint {
    /// The agent's cluster.
    pub cluster: ClusterId,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The upload. Required when the content changed.
    pub lease: Option<LeaseId>,
    /// The new point: the head's and one, 1 for the first.
    pub sequence: Sequence,
    /// The head's manifest, zero before the first point.
    pub parent_manifest: BundleId,
    /// When the agent collected, by its clock.
    pub taken: LogTime,
    /// What changed.
    pub content: Content,
    /// Per source, whether the content is known to be complete. One entry per source.
    pub proofs: Vec<Proof>,
    /// Number of restorable items in the whole point.
    pub items: u64,
    /// Bytes of all items in clear.
    pub logical_bytes: u64,
}

/// What a commit says of the point's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is a new manifest.
    Changed(ChangedContent),
    /// The point equals its predecessor. The signature is over the
    /// [`proto_types::PointStatement`] of this commit with the head's manifest and key bundle.
    Unchanged {
        /// Ed25519 by the cluster's signing key.
        signature: [u8; 64],
    },
}

/// The bundles of a point that differs from its predecessor. It needs what its parent needs,
/// less `dropped`, with `added`; among that exactly one key bundle and wraps, the manifest, and
/// the full manifest that a delta is against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedContent {
    /// Bundles sealed for this point.
    pub added: Vec<AddedBundle>,
    /// Bundles that the parent needs and this point does not; collect their ids into it.
    pub dropped: Dropped,
    /// The new manifest, which is among `added`.
    pub manifest: BundleId,
    /// The key bundle that opens everything.
    pub key_bundle: BundleId,
    /// The wraps of that key bundle.
    pub wraps: BundleId,
}

/// A bundle that a commit brings in. The coordinator that takes the commit fills this in from the
/// file it verified, never from what the agent says: `apply` cannot see that id and header belong
/// to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedBundle {
    /// SHA-256 of the file.
    pub id: BundleId,
    /// Length of the file.
    pub bytes: u64,
    /// The clear header, as signed.
    pub header: Vec<u8>,
    /// The signature over it.
    pub signature: [u8; 64],
    /// The nodes that have it on stable storage.
    pub holders: Vec<NodeId>,
    /// Whether it is in the bucket, read back whole, under the name announced for this upload.
    pub in_bucket: bool,
    /// The whole file, where this entry carries it (decision 0018); empty where nodes or the bucket
    /// have it already.
    pub carried: Vec<u8>,
}

/// See [`Command::OpenReadLease`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReadLease {
    /// Drawn by the proposer.
    pub lease: LeaseId,
    /// Whose point.
    pub cluster: ClusterId,
    /// Which point; what it needs stays while the lease lives.
    pub sequence: Sequence,
    /// What for.
    pub purpose: ReadPurpose,
    /// Milliseconds until the lease may be ended, from now and from each renewal.
    pub ttl_ms: u64,
}

/// See [`Command::EndReadLease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndReadLease {
    /// The read lease.
    pub lease: LeaseId,
}

/// See [`Command::ExpireLeases`]. Those that were renewed meanwhile are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireLeases {
    /// At most [`crate::limits::EXPIRED_MAX`], as [`crate::State::leases_due`] gives them.
    pub leases: Vec<LeaseId>,
}

/// See [`Command::ExpireSessions`]. Those that were used meanwhile are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireSessions {
    /// At most [`crate::limits::EXPIRED_MAX`], as [`crate::State::sessions_due`] gives them.
    pub sessions: Vec<SessionId>,
}

/// See [`Command::RecordHolders`]. Truth is truth: `absent` counts even where it leaves a bundle
/// with less than a majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHolders {
    /// The node that looked at its own files.
    pub node: NodeId,
    /// Bundles it has on stable storage. Unknown ones are ignored.
    pub present: Vec<BundleId>,
    /// Bundles it lost, or found damaged.
    pub absent: Vec<BundleId>,
    /// [`crate::Home::changed`] as the node had applied it when it looked: what it said it had
    /// before the last change it may have deleted since.
    pub home: LogIndex,
}

/// See [`Command::RaiseFinding`]. Raised again, a finding keeps its `since`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseFinding {
    /// Which finding.
    pub key: FindingKey,
    /// How bad.
    pub severity: Severity,
    /// What is wrong. Never names an item: coordinators hold no plaintext (K1).
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// See [`Command::ClearFinding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearFinding {
    /// Which finding.
    pub key: FindingKey,
}

/// See [`Command::AddNode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddNode {
    /// What people call it; an RFC 1123 label, unique among the nodes that belong to the fleet.
    pub name: String,
    /// `host:port` of its gRPC.
    pub address: String,
}

/// See [`Command::BeginChange`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginChange {
    /// The voters after it: one more or one less than now.
    pub voters: BTreeSet<NodeId>,
    /// The voter that goes, if it is to leave the fleet with it.
    pub remove: Option<NodeId>,
}

/// See [`Command::SealChange`] and [`Command::EndChange`]: which change is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfChange {
    /// Where in the log it was begun.
    pub begun: LogIndex,
}

/// See [`Command::RemoveNode`]. Of a removed one it answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveNode {
    /// Which.
    pub node: NodeId,
}

/// See [`Command::SealSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealSnapshot {
    /// Drawn for this snapshot, so that each has an entry of its own.
    pub nonce: [u8; 16],
}

/// See [`Command::BeginRestore`]. Of the same state it answers how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginRestore {
    /// Names the restore, like the lease of an upload; drawn by the proposer.
    pub restore: LeaseId,
    /// The fleet that the snapshot is of, which must be this one: it is part of what every bundle
    /// is sealed and signed for.
    pub fleet: FleetId,
    /// That fleet's name.
    pub fleet_name: String,
    /// Do not compare the name.
    pub force: bool,
    /// SHA-256 of the encoded state.
    pub state_sha256: [u8; 32],
    /// Its length.
    pub state_bytes: u64,
    /// The coordinators of then, which must not come back.
    pub nodes: BTreeSet<NodeId>,
}

/// See [`Command::RestorePiece`]. Pieces come in order; one again answers the same.
#[derive(Clone, PartialEq, Eq)]
pub struct RestorePiece {
    /// The restore.
    pub restore: LeaseId,
    /// Where in the encoded state the piece begins.
    pub offset: u64,
    /// At most [`crate::limits::RESTORE_PIECE_BYTES_MAX`].
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for RestorePiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RestorePiece({}, {}, {} bytes)", self.restore, self.offset, self.bytes.len())
    }
}

/// See [`Command::FinishRestore`]. Once done it answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishRestore {
    /// The restore.
    pub restore: LeaseId,
}

/// See [`Command::AbandonRestore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonRestore {
    /// The restore.
    pub restore: LeaseId,
}
/// See [`Command::RecoverByForce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverByForce {
    /// The node that remains.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// `host:port` of its gRPC.
    pub address: String,
    /// Everybody whom Raft replicated to before.
    pub members: BTreeSet<NodeId>,
    /// Up to where the node knew its log to be committed.
    pub committed: LogIndex,
}

/// See [`Command::MoveNode`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveNode {
    /// Which.
    pub node: NodeId,
    /// What people call it; counts only for one of the first members, whose name only Raft knows.
    pub name: String,
    /// Its new `host:port`.
    pub address: String,
}
/// See [`Command::SetBundleHome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBundleHome {
    /// Bundles of new points go there from now on, and all others follow.
    Begin {
        /// Where to.
        to: BundleHome,
    },
    /// Every bundle is there. Proposed by the leader, until it is accepted.
    Settle {
        /// Where in the log the move was begun.
        began: LogIndex,
    },
}

/// See [`Command::AnnounceObject`]. The same one again answers the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceObject {
    /// The upload.
    pub lease: LeaseId,
    /// The bundle.
    pub bundle: BundleId,
    /// Its length.
    pub bytes: u64,
}

/// See [`Command::RecordObjects`]. Truth is truth: `absent` counts even where it leaves a bundle
/// nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordObjects {
    /// The move that the leader copied for; of another one, `present` counts for nothing.
    pub began: LogIndex,
    /// Bundles that are in the bucket now, read back whole. Unknown ones are ignored.
    pub present: Vec<BundleId>,
    /// Bundles whose object is missing or damaged.
    pub absent: Vec<BundleId>,
    /// Objects that were deleted, as [`crate::State::objects_to_delete`] gave them.
    pub gone: Vec<(LogIndex, BundleId)>,
}

/// See [`Command::RecordSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSnapshot {
    /// How it ended; `ended` is stamped when this is applied.
    pub snapshot: SnapshotRow,
}

/// See [`Command::SetAuthority`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAuthority {
    /// The root's certificate, DER.
    pub root_certificate: Vec<u8>,
    /// The root's private key, sealed to the recovery key.
    pub sealed_root_key: Vec<u8>,
}

/// See [`Command::CreateJoinToken`]. The same one again answers the same, until it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateJoinToken {
    /// SHA-256 of the token's secret, which the coordinators never keep.
    pub token: [u8; 32],
    /// What the node will be called; as in [`AddNode`].
    pub name: String,
    /// `host:port` of its gRPC.
    pub address: String,
    /// Milliseconds until it is refused.
    pub ttl_ms: u64,
}

/// See [`Command::RedeemJoinToken`]. The same one again answers the same, until the token is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedeemJoinToken {
    /// SHA-256 of the token's secret.
    pub token: [u8; 32],
    /// SHA-256 of the public key to be certified, proved to be the sender's.
    pub key: [u8; 32],
}

/// See [`Command::RaiseLevel`]. To the active level or one below it answers the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaiseLevel {
    /// The level every member supports.
    pub to: Level,
}

/// See [`Command::FreezeTime`]. While time is frozen it answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeTime {
    /// What the clocks did.
    pub jump: Jump,
}

/// See [`Command::ConfirmTime`]. While time is not frozen it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmTime;

/// See [`Command::RecordAct`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAct {
    /// The act's stable word: lower-case letters and hyphens.
    pub act: String,
    /// About what.
    pub subject: Subject,
    /// The code it was refused with; empty: it was accepted.
    pub refusal: String,
    /// How many alike were refused since the last that was recorded; 1 of what was accepted.
    pub count: u64,
}

impl CommitPoint {
    /// Whether it carries all bundles that it adds, and so needs no upload before it.
    #[must_use]
    pub fn carries(&self) -> bool {
        match &self.content {
            Content::Changed(content) => {
                let mut added = content.added.iter();
                !content.added.is_empty() && added.all(|bundle| !bundle.carried.is_empty())
            }
            Content::Unchanged { .. } => false,
        }
    }

    /// Bytes of all bundles that it carries.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        match &self.content {
            Content::Changed(content) => {
                content.added.iter().map(|bundle| bundle.carried.len() as u64).sum()
            }
            Content::Unchanged { .. } => 0,
        }
    }

    /// The bundles that it carries, taken out of it.
    #[must_use]
    pub fn into_carried(self) -> Vec<(BundleId, Vec<u8>)> {
        match self.content {
            Content::Changed(content) => content
                .added
                .into_iter()
                .filter(|bundle| !bundle.carried.is_empty())
                .map(|bundle| (bundle.id, bundle.carried))
                .collect(),
            Content::Unchanged { .. } => Vec::new(),
        }
    }

    /// An upper bound of the entry's length in the log without the bundles that it carries, in
    /// bytes. `apply` refuses more than
    /// [`crate::limits::COMMIT_BYTES_MAX`]; an agent asks before it seals a repack that drops too
    /// many bundles at once.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        // Ids, numbers, times and field tags outside the lists: 224 bytes at most.
        let mut bytes: usize = 256;
        if let Content::Changed(content) = &self.content {
            for bundle in &content.added {
                // Id, length, signature and tags; a node id is a varint of at most ten bytes.
                bytes += 32 + 10 + 64 + 18 + bundle.header.len() + 10 * bundle.holders.len();
            }
            bytes += BundlePrefix::LEN * content.dropped.prefixes().len();
        }
        for proof in &self.proofs {
            let reason = match &proof.state {
                ProofState::Proved => 0,
                ProofState::Unproved { reason } | ProofState::Failed { reason } => reason.len(),
            };
            bytes += 12 + proof.source.len() + reason;
        }
        bytes as u64
    }
}

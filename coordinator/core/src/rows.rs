//! The rows of the replicated state. What each field means, who advances it and what may be
//! assumed of it. Rows are plain data: the rules are in the modules that handle the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use proto_types::{
    BundleId, BundleKind, ClusterId, DekId, Epoch, FleetId, KeyFingerprint, LeaseId, LogIndex,
    LogTime, NodeId, Sequence, SigningPublicKey,
};

use crate::outcome::Outcome;

/// The public halves of a fleet's recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPublicKey {
    /// X25519, for HPKE.
    pub hpke: [u8; 32],
    /// Ed25519.
    pub signing: [u8; 32],
}

impl RecoveryPublicKey {
    /// The fingerprint that headers of key bundles and wraps name.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of_recovery_key(&self.hpke, &self.signing)
    }
}

/// The fleet. Written by `InitFleet`; its recovery key may be followed by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Its identity.
    pub id: FleetId,
    /// What people call it.
    pub name: String,
    /// Log time of its creation.
    pub created: LogTime,
    /// Public halves of the recovery key that key bundles are sealed to.
    pub recovery: RecoveryPublicKey,
    /// How often its state was restored from a snapshot.
    pub generation: u32,
    /// The restore that made this generation, if it is not the first.
    pub restored_from: Option<LeaseId>,
}

/// A snapshot's state on its way into an empty fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct Restore {
    /// Its name. Bundles come in under it as under the lease of an upload.
    pub id: LeaseId,
    /// Where in the log it was begun.
    pub index: LogIndex,
    /// Log time of that.
    pub begun: LogTime,
    /// SHA-256 of the whole encoded state.
    pub state_sha256: [u8; 32],
    /// Length of the whole encoded state.
    pub state_bytes: u64,
    /// The coordinators of the fleet that the snapshot is of.
    pub nodes: BTreeSet<NodeId>,
    /// What has come, in order.
    pub pieces: imbl::Vector<Arc<[u8]>>,
    /// Their bytes.
    pub received: u64,
}

impl fmt::Debug for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Restore({}, {} of {} bytes)", self.id, self.received, self.state_bytes)
    }
}

/// Drawn by an agent when it starts; tells two agents of one cluster apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance([u8; 16]);

impl Instance {
    /// Wraps raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({self})")
    }
}

/// The last committed point of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Its number; 0 before the first point.
    pub sequence: Sequence,
    /// Its manifest; `None` before the first point.
    pub manifest: Option<BundleId>,
}

/// A workload cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its identity.
    pub id: ClusterId,
    /// What people call it; unique in the fleet.
    pub name: String,
    /// The key that signs everything it sends.
    pub signing_key: SigningPublicKey,
    /// Labels that policies select by.
    pub labels: BTreeMap<String, String>,
    /// UID of its `kube-system` namespace, where it is Kubernetes.
    pub kube_system_uid: Option<String>,
    /// Log time of its registration.
    pub registered: LogTime,
    /// The epoch that may commit; 0 before any agent acquired one. Only grows.
    pub epoch: Epoch,
    /// The agent instance that holds the epoch.
    pub instance: Option<Instance>,
    /// The last committed point; advanced by commits only.
    pub head: Head,
    /// How often the chain of keys was broken and begun anew.
    pub lineage: u32,
    /// The next point's number is larger than this and the head's: numbers up to here may have been
    /// given out before a restore.
    pub sequence_floor: Sequence,
}

impl Cluster {
    /// The number of the next point.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.head.sequence.max(self.sequence_floor).next()
    }
}

/// Whether the content of one source is known to be complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The source.
    pub source: String,
    /// What its agent found.
    pub state: ProofState,
}

/// See [`Proof`]. Reasons never name items (K1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofState {
    /// Opened again and complete.
    Proved,
    /// Kept, but nothing proves it.
    Unproved {
        /// Why not.
        reason: String,
    },
    /// Proved wrong or incomplete.
    Failed {
        /// What failed.
        reason: String,
    },
}

/// A recovery point. Never changes once it is committed (B3), but for its wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointRow {
    /// Whose.
    pub cluster: ClusterId,
    /// Its number in the cluster, from 1.
    pub sequence: Sequence,
    /// The point before; 0 for the first.
    pub parent: Sequence,
    /// Its manifest: that of the parent where the point is a statement.
    pub manifest: BundleId,
    /// The full manifest that this one is a delta against.
    pub base: Option<BundleId>,
    /// The key bundle that opens everything.
    pub key_bundle: BundleId,
    /// The wraps of that key bundle: the one file that may be replaced, by wraps of the same bundle.
    pub wraps: BundleId,
    /// Bundles that the parent did not need, sorted.
    pub added: Vec<BundleId>,
    /// Bundles that only the parent needs, sorted.
    pub dropped: Vec<BundleId>,
    /// All bundles needed to restore it: config bundles, manifest, base, key bundle and wraps.
    pub needs: OrdSet<BundleId>,
    /// Log time of the commit. Never before that of the parent.
    pub committed: LogTime,
    /// Where in the log it was committed.
    pub index: LogIndex,
    /// Whose log: the fleet's generation then.
    pub generation: u32,
    /// When the agent collected, by its own clock. May be anything.
    pub taken: LogTime,
    /// The epoch of the agent.
    pub epoch: Epoch,
    /// The cluster's lineage then.
    pub lineage: u32,
    /// The upload it came from, for telling an exact repeat of the commit.
    pub lease: Option<LeaseId>,
    /// Per source, whether the content is known to be complete; sorted by source.
    pub proofs: Vec<Proof>,
    /// Number of restorable items.
    pub items: u64,
    /// Bytes of all items in clear.
    pub logical_bytes: u64,
    /// Bytes of the added bundles, one copy.
    pub stored_bytes_added: u64,
    /// The cluster's signature over the [`proto_types::PointStatement`] that nothing changed;
    /// such a point has no files of its own. Readers verify it.
    pub statement: Option<[u8; 64]>,
}

impl PointRow {
    /// Its place among all commits of the fleet: no two points share one.
    #[must_use]
    pub const fn place(&self) -> (u32, LogIndex) {
        (self.generation, self.index)
    }

    /// Whether every source was proved. Only such points count as good; one without any source
    /// proves nothing.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        !self.proofs.is_empty() && self.proofs.iter().all(|proof| proof.state == ProofState::Proved)
    }
}

/// What is known of a bundle since its commit; never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFacts {
    /// Whose.
    pub cluster: ClusterId,
    /// What it holds.
    pub kind: BundleKind,
    /// Length of the file.
    pub bytes: u64,
    /// Config and manifest: the keys its blobs are sealed under. Key: the keys it holds. Sorted.
    pub dek_ids: Vec<DekId>,
    /// Manifest: the one before. Key: the key bundle before. Wraps: the key bundle they open.
    pub predecessor: Option<BundleId>,
    /// Manifest: the full one that it is a delta against.
    pub base: Option<BundleId>,
    /// Wraps: how many recovery keys of the fleet came before the one that they are sealed to.
    pub recovery: u32,
}

/// A bundle that committed points need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// What never changes.
    pub facts: Arc<BundleFacts>,
    /// Nodes that have it on stable storage, as of their last word.
    pub holders: BTreeSet<NodeId>,
    /// Number of points that need it.
    pub points: u64,
    /// The generation of its object, where it is in the bucket.
    pub object: Option<LogIndex>,
    /// Its bytes came in the log entry of its commit: a majority of the voters has them by Raft's own
    /// rule, and which ones its `holders` will say. Until then (decision 0018).
    pub in_log: bool,
}

impl BundleRow {
    /// Whether no node and no bucket is known to have it.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.holders.is_empty() && self.object.is_none() && !self.in_log
    }
}

/// Where bundles are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BundleHome {
    /// On the disks of the coordinators.
    #[default]
    Disks,
    /// In the bucket that every coordinator's config names.
    Bucket,
}

impl BundleHome {
    /// The word for people, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disks => "disks",
            Self::Bucket => "bucket",
        }
    }
}

/// Where the bundles are, or are on their way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Where bundles of new points go.
    pub to: BundleHome,
    /// Where in the log that was decided; 0 before anybody did.
    pub began: LogIndex,
    /// The generation of what is copied to the bucket, or was the last time.
    pub copies: LogIndex,
    /// Whether every bundle was found there, so that copies elsewhere may go.
    pub settled: bool,
    /// Where in the log any of this was changed last.
    pub changed: LogIndex,
}

impl Default for Home {
    fn default() -> Self {
        let never = LogIndex::new(0);
        Self { to: BundleHome::Disks, began: never, copies: never, settled: true, changed: never }
    }
}

/// An object of the bucket that no committed point needs: on its way in, or on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRow {
    /// Length of the bundle.
    pub bytes: u64,
    /// The upload that it comes with; `None` when it is to be deleted.
    pub lease: Option<LeaseId>,
}

/// How a scheduled snapshot ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotRow {
    /// When it was due, by the schedule.
    pub due: LogTime,
    /// Log time when it was recorded.
    pub ended: LogTime,
    /// Where it was to be put: the target's URL, without anything secret.
    pub target: String,
    /// Its name there; empty where it did not come so far.
    pub name: String,
    /// The log index it is of.
    pub index: LogIndex,
    /// The term of its leader.
    pub term: u64,
    /// Its length.
    pub bytes: u64,
    /// Milliseconds from its beginning until it was read back.
    pub took_ms: u64,
    /// SHA-256 of the file, read back from the target; `None` where it is no good one.
    pub sha256: Option<[u8; 32]>,
    /// Why it is no good one; else empty. Names no item (K1).
    pub problem: String,
}

impl SnapshotRow {
    /// Whether it was read back from its target and found good.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.sha256.is_some()
    }
}

/// An upload under way. Live from the entry that opens it to the entry that ends it, whatever any
/// clock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadLease {
    /// Whose.
    pub cluster: ClusterId,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The point that the new one will follow; 0 before the first.
    pub parent: Sequence,
    /// Where in the log it was opened.
    pub index: LogIndex,
    /// Milliseconds that each renewal gives.
    pub ttl_ms: u64,
    /// From when on the leader may propose its end.
    pub expires: LogTime,
    /// What the parent needs; not deleted while the lease lives.
    pub pinned: OrdSet<BundleId>,
}

/// What a read lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPurpose {
    /// A restore.
    Restore,
    /// An export into a file.
    Export,
    /// A proof that the point opens.
    Drill,
    /// A snapshot of the coordinators with its bundles.
    Snapshot,
}

impl ReadPurpose {
    /// The word for people, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Export => "export",
            Self::Drill => "drill",
            Self::Snapshot => "snapshot",
        }
    }
}

/// A read under way. Live like an [`UploadLease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLease {
    /// Whose point.
    pub cluster: ClusterId,
    /// Which point.
    pub sequence: Sequence,
    /// What for.
    pub purpose: ReadPurpose,
    /// Where in the log it was opened.
    pub index: LogIndex,
    /// Milliseconds that each renewal gives.
    pub ttl_ms: u64,
    /// From when on the leader may propose its end.
    pub expires: LogTime,
    /// What the point needs; not deleted while the lease lives.
    pub pinned: OrdSet<BundleId>,
}

/// The results of a client's last writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    /// Log time of its last request.
    pub last_used: LogTime,
    /// The largest number whose result was dropped; it and all smaller ones are refused.
    pub forgotten: u64,
    /// Results by number; at most [`crate::limits::SESSION_RESULTS_MAX`].
    pub results: OrdMap<u64, Outcome>,
}

/// A coordinator, as far as Raft does not know it. Removed ones stay for ever: an id is never
/// given out twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// What people call it; empty where a first member was removed.
    pub name: String,
    /// `host:port` of its gRPC; empty where a first member was removed.
    pub address: String,
    /// Whether it still belongs to the fleet.
    pub state: NodeState,
    /// Log time of that.
    pub since: LogTime,
}

/// See [`NodeRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It may take part.
    Admitted,
    /// It may never take part again.
    Removed,
}

/// That one node was made the only voter by force, after a majority was lost for good. Stays for
/// ever: it tells this fleet from what its lost coordinators would make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Counts from 1.
    pub number: u64,
    /// The node.
    pub node: NodeId,
    /// Log time of it.
    pub at: LogTime,
    /// Where in the log it stands.
    pub index: LogIndex,
    /// Up to here the node knew its log to be committed; what lay between became so by force.
    pub committed: LogIndex,
    /// Nodes that were removed with it.
    pub removed: BTreeSet<NodeId>,
    /// The smallest node id given out from then on.
    pub ids_from: NodeId,
    /// The smallest epoch given out from then on.
    pub epochs_from: Epoch,
    /// Needed bundles that nobody held after it.
    pub lost_bundles: u64,
    /// Recovery points that needed one of them.
    pub lost_points: u64,
}

/// A change of voters under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The voters after it.
    pub voters: BTreeSet<NodeId>,
    /// The node that is removed with it.
    pub remove: Option<NodeId>,
    /// Where in the log it was begun.
    pub begun: LogIndex,
    /// Whether every needed bundle was found on a majority of the new voters, so that it may reach
    /// Raft. From then on commits need both majorities.
    pub sealed: bool,
}

/// What the voters' clocks did (T1), as the leader heard them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// Milliseconds that their median lies after log time as elapsed time has it; negative: before.
    pub by_ms: i64,
    /// Whether the elapsed time was known; else every coordinator had been stopped, and the jump is
    /// against the last log time.
    pub elapsed_known: bool,
    /// The nodes whose clocks disagree with log time.
    pub nodes: BTreeSet<NodeId>,
}

/// Time is frozen: retention and the end of leases and holds wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// Log time when it was noticed.
    pub since: LogTime,
    /// Why.
    pub jump: Jump,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The fleet as a whole.
    Fleet,
    /// One coordinator.
    Node(NodeId),
    /// One workload cluster.
    Cluster(ClusterId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Cluster(cluster) => write!(f, "cluster {cluster}"),
        }
    }
}

/// Which finding: there is one per scope, kind and subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FindingKey {
    /// What it is about.
    pub scope: Scope,
    /// A stable word for the kind: lower-case letters, digits and hyphens.
    pub kind: String,
    /// Which one of that kind; may be empty. Never names an item (K1).
    pub subject: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something to do soon.
    Warning,
    /// A restore would fail, or data is at risk.
    Critical,
}

impl Severity {
    /// The word for people, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad, as of the last time.
    pub severity: Severity,
    /// Log time when it was first raised.
    pub since: LogTime,
    /// Log time when it was last raised.
    pub last_seen: LogTime,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// The fleet's certificate authority. Written once, by `SetAuthority`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The root's certificate, DER.
    pub root_certificate: Vec<u8>,
    /// The root's private key, sealed to the recovery key. Coordinators cannot open it.
    pub sealed_root_key: Vec<u8>,
}

/// A one-time token by which a coordinator joins; known by the SHA-256 of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// What the node will be called.
    pub name: String,
    /// `host:port` of its gRPC.
    pub address: String,
    /// Log time from which on it is refused.
    pub expires: LogTime,
    /// By whom it was redeemed.
    pub redeemed: Option<Redeemed>,
}

/// See [`JoinToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redeemed {
    /// The id that was given out.
    pub node: NodeId,
    /// SHA-256 of the public key that was certified.
    pub key: [u8; 32],
}

//! What `apply` answers: an outcome for whoever asked, and events for the shell of every node.
//! Both follow from state and entry alone.

use proto_types::{
    BundleId, ClusterId, Epoch, FleetId, LeaseId, Level, LogIndex, LogTime, NodeId, Sequence,
};

use std::sync::Arc;

use crate::audit::Segment;
use crate::refusal::Refusal;
use crate::rows::{FindingKey, Instance};

/// What an entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For whoever sent the command.
    pub outcome: Outcome,
    /// For the shell, in order. Empty for a repeat.
    pub events: Vec<Event>,
}

/// The answer to a command. A refusal is an answer too (invariant R3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Refused; the state is as before, but for log time and the session.
    Refused(Refusal),
    /// The fleet exists.
    FleetReady {
        /// Its id.
        fleet: FleetId,
    },
    /// The cluster is registered.
    ClusterRegistered {
        /// Its id.
        cluster: ClusterId,
    },
    /// The instance is the active one.
    EpochAcquired {
        /// The cluster.
        cluster: ClusterId,
        /// The epoch to commit under.
        epoch: Epoch,
    },
    /// The upload may begin.
    UploadOpened {
        /// Its lease.
        lease: LeaseId,
        /// Where in the log the lease was opened. A node acknowledges bundles of this upload only
        /// after it has applied the log to here (B2).
        index: LogIndex,
        /// The parent's manifest, which the new manifest must name; zero before the first point.
        parent_manifest: BundleId,
        /// When the lease may be ended.
        expires: LogTime,
    },
    /// The read may begin.
    ReadOpened {
        /// Its lease.
        lease: LeaseId,
        /// Where in the log the lease was opened.
        index: LogIndex,
        /// When the lease may be ended.
        expires: LogTime,
    },
    /// The lease lives on.
    LeaseRenewed {
        /// The lease.
        lease: LeaseId,
        /// When it may be ended now.
        expires: LogTime,
    },
    /// The lease is over.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// Whether it lived until this entry.
        was_live: bool,
    },
    /// The recovery point exists.
    Committed {
        /// Whose.
        cluster: ClusterId,
        /// Its number.
        sequence: Sequence,
        /// Its manifest.
        manifest: BundleId,
        /// Where in the log it was committed.
        index: LogIndex,
        /// Log time of the commit.
        time: LogTime,
    },
    /// Leases or sessions were ended.
    Expired {
        /// How many ended.
        ended: u64,
        /// How many were not due, or gone already.
        skipped: u64,
    },
    /// The node's copies are recorded.
    HoldersRecorded {
        /// Bundles whose holders changed.
        changed: u64,
        /// Ids that no recovery point knows.
        unknown: u64,
    },
    /// The finding stands.
    FindingRaised {
        /// Whether it did not stand before.
        new: bool,
    },
    /// The finding does not stand.
    FindingCleared {
        /// Whether it stood before.
        existed: bool,
    },
    /// The node may take part.
    NodeAdded {
        /// Its id.
        node: NodeId,
    },
    /// The change of voters is under way.
    ChangeBegun,
    /// The change may reach Raft.
    ChangeSealed,
    /// The change is over.
    ChangeEnded {
        /// Whether it was made, and not given up.
        done: bool,
    },
    /// The node may not take part any more.
    NodeRemoved {
        /// Its id.
        node: NodeId,
    },
    /// The snapshot's leader led to its end.
    SnapshotSealed {
        /// Where in the log that is proved.
        index: LogIndex,
    },
    /// The restore may send the state.
    RestoreBegun {
        /// Its name: of an earlier try, where the state is the same.
        restore: LeaseId,
        /// Where in the log it was begun: bundles are acknowledged after this.
        index: LogIndex,
        /// Bytes of the state that are here already.
        received: u64,
    },
    /// The piece is here.
    RestoreReceived {
        /// Bytes of the state that are here.
        received: u64,
    },
    /// The fleet holds the snapshot's state.
    Restored {
        /// Its generation now.
        generation: u32,
    },
    /// One node is the only voter.
    RecoveredByForce {
        /// How many times that happened.
        number: u64,
    },
    /// The node's address is known.
    NodeMoved {
        /// Its id.
        node: NodeId,
    },
    /// Bundles are kept there, or are on their way.
    BundleHomeSet {
        /// Where in the log the move was begun.
        began: LogIndex,
        /// Whether it is over.
        settled: bool,
    },
    /// The object may be written.
    ObjectAnnounced {
        /// What its name ends with.
        generation: LogIndex,
    },
    /// The objects are recorded.
    ObjectsRecorded {
        /// Bundles and objects that changed.
        changed: u64,
        /// Those that did not, because they are not known, or of another move.
        unknown: u64,
    },
    /// How the scheduled snapshot ended is known.
    SnapshotRecorded {
        /// Whether it is the newest.
        recorded: bool,
    },
    /// The fleet's authority is recorded.
    AuthoritySet,
    /// The token can be redeemed.
    JoinTokenCreated {
        /// Until then.
        expires: LogTime,
    },
    /// The fleet has at least the level that was asked for.
    LevelRaised {
        /// The active one.
        level: Level,
    },
    /// Time is frozen.
    TimeFrozen {
        /// Whether it was not before.
        new: bool,
    },
    /// Time is not frozen.
    TimeConfirmed {
        /// Whether it was.
        was_frozen: bool,
        /// Log time from which it goes on.
        time: LogTime,
    },
    /// The act is in the audit log, or counted for it.
    ActRecorded {
        /// The audit log's last entry.
        number: u64,
    },
    /// What was said of keys is in the state.
    KeysNoted {
        /// Whether it was not before.
        new: bool,
    },
    /// Another recovery key is the fleet's.
    RecoveryRotated {
        /// How many came before it.
        generation: u32,
    },
    /// The cluster's next point begins anew.
    LineageBegun {
        /// Its lineage now.
        lineage: u32,
        /// Whether its points may be proved.
        approved: bool,
    },
    /// The cluster's agent is to change keys.
    KeysOrdered {
        /// Orders for the KEK.
        kek: u64,
        /// Orders for the data key.
        dek: u64,
    },
    /// The enrolment token is known.
    EnrolTokenCreated {
        /// The cluster that its holder will be, where it is one.
        cluster: Option<ClusterId>,
        /// Log time from which on it is refused.
        expires: LogTime,
    },
    /// The party is to be certified.
    Enrolled {
        /// The cluster, where it is one.
        cluster: Option<ClusterId>,
        /// The generation of its certificates.
        generation: u32,
    },
    /// The agent waits for approval.
    EnrolmentPending {
        /// The cluster that it will be.
        cluster: ClusterId,
    },
    /// The new certificate is recorded.
    CertificateRecorded {
        /// Its generation.
        generation: u32,
    },
    /// What the party has is void.
    PartyRevoked {
        /// Whether the fleet had recorded a certificate of it.
        was_known: bool,
    },
    /// The agent that waited was approved or rejected.
    EnrolmentDecided {
        /// Whether it was approved.
        approved: bool,
    },
    /// The act waits.
    ActRequested {
        /// Where in the log it was requested: its number.
        act: LogIndex,
    },
    /// The act was approved or cancelled.
    ActDecided {
        /// Whether it was approved.
        approved: bool,
        /// When it is done.
        due: LogTime,
    },
    /// The act is done.
    ActPerformed,
    /// Acts wait as long as this.
    ActDelaySet {
        /// Milliseconds.
        delay_ms: u64,
    },
}

impl Outcome {
    /// The refusal, if it is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Something every node's shell may act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The fleet was created.
    FleetCreated {
        /// Its id.
        fleet: FleetId,
    },
    /// A cluster was registered.
    ClusterRegistered {
        /// Its id.
        cluster: ClusterId,
    },
    /// An agent instance became active; older epochs can commit nothing from here on.
    EpochIssued {
        /// The cluster.
        cluster: ClusterId,
        /// The new epoch.
        epoch: Epoch,
        /// Who holds it.
        instance: Instance,
    },
    /// An upload lease lives.
    UploadOpened {
        /// The lease.
        lease: LeaseId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// A read lease lives.
    ReadOpened {
        /// The lease.
        lease: LeaseId,
        /// The cluster.
        cluster: ClusterId,
        /// The point.
        sequence: Sequence,
    },
    /// A lease is over. Bundles that came under it, and that [`crate::State::is_needed`] denies,
    /// may be deleted.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// The cluster.
        cluster: ClusterId,
        /// Why.
        end: LeaseEnd,
    },
    /// A recovery point exists.
    PointCommitted {
        /// Whose.
        cluster: ClusterId,
        /// Its number.
        sequence: Sequence,
        /// Its manifest.
        manifest: BundleId,
        /// The bundles it brought in; nodes that lack one fetch it.
        added: Vec<BundleId>,
    },
    /// Copies of these bundles went missing on a node; a repair is owed.
    CopiesLost {
        /// The bundles.
        bundles: Vec<BundleId>,
    },
    /// A finding was raised that did not stand before.
    FindingRaised {
        /// Which.
        key: FindingKey,
    },
    /// A node was admitted.
    NodeAdded {
        /// Its id.
        node: NodeId,
    },
    /// A node was removed; it must stop.
    NodeRemoved {
        /// Its id.
        node: NodeId,
    },
    /// The state came from a snapshot.
    Restored {
        /// The fleet's generation now.
        generation: u32,
    },
    /// A node was made the only voter by force.
    RecoveredByForce {
        /// Its id.
        node: NodeId,
        /// How many times that happened.
        number: u64,
    },
    /// A node has another address.
    NodeMoved {
        /// Its id.
        node: NodeId,
    },
    /// The fleet's authority was recorded.
    AuthoritySet,
    /// The active level rose.
    LevelRaised {
        /// To this.
        level: Level,
    },
    /// The audit log has one more entry.
    Audited {
        /// Its number.
        number: u64,
        /// Whether it is of a refusal.
        is_refused: bool,
    },
    /// Entries of the audit log left the state: the node must have their file before it answers.
    AuditSegmentClosed {
        /// The entries.
        segment: Arc<Segment>,
    },
    /// A finding that stood was cleared.
    FindingCleared {
        /// Which.
        key: FindingKey,
    },
}

/// Why a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Its upload became a recovery point.
    Committed,
    /// The agent gave the upload up.
    Abandoned,
    /// The upload failed.
    Failed,
    /// Another agent instance became active.
    Superseded,
    /// The reader is done.
    ReadDone,
    /// Nobody renewed it in time.
    Expired,
}

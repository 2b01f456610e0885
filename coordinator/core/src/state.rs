//! The replicated state: persistent ordered maps, so that a consistent snapshot is one cheap clone
//! while writes go on. Fields are private to the crate; the modules that handle commands keep what
//! holds between them, and everybody else asks.

use imbl::OrdMap;
use proto_types::{
    BundleId, ClusterId, LeaseId, Level, LogIndex, LogTime, NodeId, Sequence, SessionId,
};
use std::sync::Arc;

use crate::audit::AuditLog;
use crate::delayed::{ActDelay, DelayedRow};
use crate::enrolment::{EnrolToken, PartyId, PartyRow, PendingEnrolment};
use crate::keys::KeyBook;
use crate::rows::{
    Authority, BundleRow, Change, Cluster, Finding, FindingKey, Fleet, Freeze, Home, JoinToken,
    NodeRow, ObjectRow, PointRow, ReadLease, Recovery, Restore, Session, SnapshotRow, UploadLease,
};

/// The state of the whole fleet. A clone shares its structure and costs next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// `None` before `InitFleet`.
    pub(crate) fleet: Option<Arc<Fleet>>,
    /// The largest log time seen.
    pub(crate) time: LogTime,
    pub(crate) clusters: OrdMap<ClusterId, Arc<Cluster>>,
    /// All points of all clusters; the head of a cluster is its last one.
    pub(crate) points: OrdMap<(ClusterId, Sequence), Arc<PointRow>>,
    /// All bundles that points need, and no others.
    pub(crate) bundles: OrdMap<BundleId, BundleRow>,
    pub(crate) uploads: OrdMap<LeaseId, UploadLease>,
    pub(crate) reads: OrdMap<LeaseId, ReadLease>,
    pub(crate) sessions: OrdMap<SessionId, Session>,
    pub(crate) findings: OrdMap<FindingKey, Arc<Finding>>,
    pub(crate) nodes: OrdMap<NodeId, Arc<NodeRow>>,
    pub(crate) change: Option<Arc<Change>>,
    pub(crate) restore: Option<Restore>,
    /// Forced recoveries, by number from 1.
    pub(crate) recoveries: OrdMap<u64, Arc<Recovery>>,
    pub(crate) home: Home,
    /// Objects that no point needs, by generation.
    pub(crate) objects: OrdMap<(LogIndex, BundleId), ObjectRow>,
    pub(crate) last_snapshot: Option<SnapshotRow>,
    pub(crate) last_good_snapshot: Option<SnapshotRow>,
    /// `None` in a fleet that has its certificates from elsewhere.
    pub(crate) authority: Option<Arc<Authority>>,
    /// By the SHA-256 of the token's secret.
    pub(crate) join_tokens: OrdMap<[u8; 32], Arc<JoinToken>>,
    /// The active level: no command above it is applied. Only grows.
    pub(crate) level: Level,
    /// Since the clocks jumped, until an admin confirms it.
    pub(crate) freeze: Option<Arc<Freeze>>,
    pub(crate) audit: AuditLog,
    pub(crate) keys: KeyBook,
    /// What was certified and what is void, of parties that enrolled, renewed or were revoked.
    pub(crate) parties: OrdMap<PartyId, Arc<PartyRow>>,
    /// By the SHA-256 of the token's secret.
    pub(crate) enrol_tokens: OrdMap<[u8; 32], Arc<EnrolToken>>,
    /// Acts that wait, by where in the log they were requested.
    pub(crate) acts: OrdMap<LogIndex, Arc<DelayedRow>>,
    pub(crate) act_delay: ActDelay,
    /// Agents that wait for approval, and those that were rejected.
    pub(crate) waiting: OrdMap<ClusterId, Arc<PendingEnrolment>>,
}

impl State {
    /// The state before the first log entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The fleet, if it was created.
    #[must_use]
    pub fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_deref()
    }

    /// The largest log time seen. Never decreases, also across snapshots.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.time
    }

    /// A cluster by its id.
    #[must_use]
    pub fn cluster(&self, id: &ClusterId) -> Option<&Cluster> {
        self.clusters.get(id).map(AsRef::as_ref)
    }

    /// A cluster by its name.
    #[must_use]
    pub fn cluster_named(&self, name: &str) -> Option<&Cluster> {
        self.clusters().find(|cluster| cluster.name == name)
    }

    /// All clusters, by id.
    pub fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.values().map(AsRef::as_ref)
    }

    /// A recovery point.
    #[must_use]
    pub fn point(&self, cluster: &ClusterId, sequence: Sequence) -> Option<&PointRow> {
        self.points.get(&(*cluster, sequence)).map(AsRef::as_ref)
    }

    /// The points of a cluster, oldest first.
    pub fn points(&self, cluster: &ClusterId) -> impl DoubleEndedIterator<Item = &PointRow> {
        let first = (*cluster, Sequence::new(0));
        let last = (*cluster, Sequence::new(u64::MAX));
        self.points.range(first..=last).map(|(_, point)| point.as_ref())
    }

    /// What is known of a bundle; `None` when no committed point needs it.
    #[must_use]
    pub fn bundle(&self, id: &BundleId) -> Option<&BundleRow> {
        self.bundles.get(id)
    }

    /// All bundles that committed points need, by id.
    pub fn bundles(&self) -> impl Iterator<Item = (&BundleId, &BundleRow)> {
        self.bundles.iter()
    }

    /// A live upload lease.
    #[must_use]
    pub fn upload(&self, lease: &LeaseId) -> Option<&UploadLease> {
        self.uploads.get(lease)
    }

    /// All live upload leases, by id.
    pub fn uploads(&self) -> impl Iterator<Item = (&LeaseId, &UploadLease)> {
        self.uploads.iter()
    }

    /// A live read lease.
    #[must_use]
    pub fn read(&self, lease: &LeaseId) -> Option<&ReadLease> {
        self.reads.get(lease)
    }

    /// All live read leases, by id.
    pub fn reads(&self) -> impl Iterator<Item = (&LeaseId, &ReadLease)> {
        self.reads.iter()
    }

    /// A client's session.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// All findings that stand, by scope, kind and subject.
    pub fn findings(&self) -> impl Iterator<Item = (&FindingKey, &Finding)> {
        self.findings.iter().map(|(key, finding)| (key, finding.as_ref()))
    }
}

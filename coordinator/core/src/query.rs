//! What the shell asks of the state: what may be deleted, what is due, what is missing where, and
//! what people see. Pure reads; whether a read is linearizable is the shell's business (R4).

use std::collections::BTreeSet;

use proto_types::{BundleId, ClusterId, LeaseId, LogTime, NodeId, SessionId};

use crate::limits::{EXPIRED_MAX, SESSION_IDLE_MS};
use crate::rows::{BundleRow, Cluster, Finding, FindingKey, PointRow, Scope, UploadLease};
use crate::state::State;

/// A bundle that some voters lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderReplicated {
    /// The bundle.
    pub bundle: BundleId,
    /// Voters that lack it; never empty.
    pub missing: BTreeSet<NodeId>,
    /// Nodes to fetch it from; empty when nobody is known to have it.
    pub holders: BTreeSet<NodeId>,
}

/// A bundle that a node owes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBundle {
    /// The bundle.
    pub bundle: BundleId,
    /// Length of its file.
    pub bytes: u64,
    /// Nodes to fetch it from; empty when nobody is known to have it.
    pub holders: BTreeSet<NodeId>,
}

/// What `status` shows of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterStatus<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Its newest point.
    pub newest: Option<&'a PointRow>,
    /// Its newest point with every source proved: the last good one.
    pub newest_proved: Option<&'a PointRow>,
    /// Number of its points.
    pub points: u64,
    /// Number of its live uploads.
    pub uploads: u64,
    /// Number of findings about it.
    pub findings: u64,
}

impl State {
    /// Whether a committed point, a live upload or a live read needs the bundle (B2). A node may
    /// delete only what this denies, and what did not come in under a lease that is still live.
    #[must_use]
    pub fn is_needed(&self, bundle: &BundleId) -> bool {
        self.bundles.get(bundle).is_some_and(|row| row.points > 0)
            || self.uploads.values().any(|lease| lease.pinned.contains(bundle))
            || self.reads.values().any(|lease| lease.pinned.contains(bundle))
    }

    /// Whether the lease, of either kind, was opened and not yet ended by a log entry.
    #[must_use]
    pub fn lease_live(&self, lease: &LeaseId) -> bool {
        self.uploads.contains_key(lease)
            || self.reads.contains_key(lease)
            || self.restore.as_ref().is_some_and(|restore| restore.id == *lease)
    }

    /// Whether bundles may come in under this name: a live upload's, or that of the restore under
    /// way.
    #[must_use]
    pub fn brings_bundles(&self, lease: &LeaseId) -> bool {
        self.uploads.contains_key(lease)
            || self.restore.as_ref().is_some_and(|restore| restore.id == *lease)
    }

    /// The cluster that a live lease, of either kind, belongs to.
    #[must_use]
    pub fn lease_cluster(&self, lease: &LeaseId) -> Option<ClusterId> {
        let upload = self.uploads.get(lease).map(|lease| lease.cluster);
        upload.or_else(|| self.reads.get(lease).map(|lease| lease.cluster))
    }

    /// The live uploads of a cluster.
    pub fn uploads_of<'a>(
        &'a self,
        cluster: &'a ClusterId,
    ) -> impl Iterator<Item = (&'a LeaseId, &'a UploadLease)> {
        self.uploads.iter().filter(move |(_, lease)| lease.cluster == *cluster)
    }

    /// Leases whose time is over at `time`, as many as one `ExpireLeases` takes.
    #[must_use]
    pub fn leases_due(&self, time: LogTime) -> Vec<LeaseId> {
        let uploads = self.uploads.iter().map(|(id, lease)| (id, lease.expires));
        let reads = self.reads.iter().map(|(id, lease)| (id, lease.expires));
        let due = uploads.chain(reads).filter(|(_, expires)| *expires <= time);
        due.map(|(id, _)| *id).take(EXPIRED_MAX).collect()
    }

    /// Sessions that nobody has used for [`SESSION_IDLE_MS`] at `time`, as many as one
    /// `ExpireSessions` takes.
    #[must_use]
    pub fn sessions_due(&self, time: LogTime) -> Vec<SessionId> {
        let due = self.sessions.iter().filter(|(_, session)| is_idle(session.last_used, time));
        due.map(|(id, _)| *id).take(EXPIRED_MAX).collect()
    }

    /// Bundles that at least one of `voters` lacks, by id.
    #[must_use]
    pub fn under_replicated(&self, voters: &BTreeSet<NodeId>) -> Vec<UnderReplicated> {
        self.bundles
            .iter()
            // Who has what the log has brought is not known yet.
            .filter(|(_, row)| self.wants_copies(row) && !row.in_log)
            .filter(|(_, row)| !voters.is_subset(&row.holders))
            .map(|(bundle, row)| UnderReplicated {
                bundle: *bundle,
                missing: voters.difference(&row.holders).copied().collect(),
                holders: row.holders.clone(),
            })
            .collect()
    }

    /// Bundles that `node` lacks, by id.
    #[must_use]
    pub fn missing_on(&self, node: NodeId) -> Vec<MissingBundle> {
        self.bundles
            .iter()
            .filter(|(_, row)| self.wants_copies(row) && !row.in_log)
            .filter(|(_, row)| !row.holders.contains(&node))
            .map(|(bundle, row)| MissingBundle {
                bundle: *bundle,
                bytes: row.facts.bytes,
                holders: row.holders.clone(),
            })
            .collect()
    }

    /// The bundles that a point needs, with what is known of each.
    pub fn bundles_of<'a>(
        &'a self,
        point: &'a PointRow,
    ) -> impl Iterator<Item = (&'a BundleId, &'a BundleRow)> {
        // Every needed bundle has a row: `commit` creates it, and nothing removes it before.
        point.needs.iter().filter_map(|id| self.bundles.get(id).map(|row| (id, row)))
    }

    /// The newest point of a cluster.
    #[must_use]
    pub fn newest_point(&self, cluster: &ClusterId) -> Option<&PointRow> {
        self.points(cluster).next_back()
    }

    /// The newest point of a cluster with every source proved and every bundle held by somebody: the
    /// last good one.
    #[must_use]
    pub fn newest_proved_point(&self, cluster: &ClusterId) -> Option<&PointRow> {
        self.points(cluster).rev().find(|point| point.is_proved() && self.absent_of(point) == 0)
    }

    /// The newest point of a cluster that was committed at or before `time`.
    #[must_use]
    pub fn point_at(&self, cluster: &ClusterId, time: LogTime) -> Option<&PointRow> {
        self.points(cluster).rev().find(|point| point.committed <= time)
    }

    /// What `status` shows of one cluster.
    #[must_use]
    pub fn cluster_status(&self, id: &ClusterId) -> Option<ClusterStatus<'_>> {
        let cluster = self.cluster(id)?;
        Some(ClusterStatus {
            cluster,
            newest: self.newest_point(id),
            newest_proved: self.newest_proved_point(id),
            points: self.points(id).count() as u64,
            uploads: self.uploads.values().filter(|lease| lease.cluster == *id).count() as u64,
            findings: self.findings_of(Scope::Cluster(*id)).count() as u64,
        })
    }

    /// What `status` shows of every cluster, by id.
    #[must_use]
    pub fn status(&self) -> Vec<ClusterStatus<'_>> {
        self.clusters.keys().filter_map(|id| self.cluster_status(id)).collect()
    }

    /// The findings of one scope, by kind and subject.
    pub fn findings_of(&self, scope: Scope) -> impl Iterator<Item = (&FindingKey, &Finding)> {
        let first = FindingKey { scope, kind: String::new(), subject: String::new() };
        self.findings
            .range(first..)
            .take_while(move |(key, _)| key.scope == scope)
            .map(|(key, finding)| (key, finding.as_ref()))
    }
}

/// Whether a session last used at `last_used` may be forgotten at `time`.
pub(crate) fn is_idle(last_used: LogTime, time: LogTime) -> bool {
    time.millis_since(last_used) >= SESSION_IDLE_MS
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;

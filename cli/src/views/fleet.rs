//! The fleet as people and programs see it: nodes, clusters, findings.

use std::collections::BTreeMap;

use agent::shown::plain;
use jiff::tz::TimeZone;
use proto::v1;
use proto_types::{KeyFingerprint, LogTime};
use serde::Serialize;

use super::{PointView, id, size, time};
use crate::output::{Rows, count};
use crate::when;

/// A workload cluster.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub cluster_id: String,
    /// Labels, for policies.
    pub labels: BTreeMap<String, String>,
    /// Its public signing key.
    pub signing_key: String,
    /// SHA-256 of that key, which people compare.
    pub signing_key_fingerprint: String,
    /// UID of its `kube-system` namespace, where it is Kubernetes.
    pub kube_system_uid: Option<String>,
    /// Epoch of the active agent; 0: none was ever active.
    pub epoch: u64,
    /// Newest point's number; 0: none yet.
    pub head_sequence: u64,
    /// Newest point's manifest.
    pub head_manifest: Option<String>,
    /// When it was registered, RFC 3339.
    pub registered: String,
}

impl From<&v1::Cluster> for ClusterView {
    fn from(cluster: &v1::Cluster) -> Self {
        Self {
            name: cluster.name.clone(),
            cluster_id: hex::encode(&cluster.cluster_id),
            labels: cluster.labels.clone().into_iter().collect(),
            signing_key: hex::encode(&cluster.signing_key),
            signing_key_fingerprint: KeyFingerprint::of(&cluster.signing_key).to_string(),
            kube_system_uid: Some(cluster.kube_system_uid.clone()).filter(|uid| !uid.is_empty()),
            epoch: cluster.epoch,
            head_sequence: cluster.head_sequence,
            head_manifest: id(&cluster.head_manifest),
            registered: time(cluster.registered_ms),
        }
    }
}

/// Clusters as a table.
#[must_use]
pub fn cluster_rows(clusters: &[ClusterView]) -> String {
    let mut rows = Rows::new(&["NAME", "NEWEST POINT", "EPOCH", "LABELS", "SIGNING KEY", "ID"]);
    for cluster in clusters {
        let labels: Vec<String> = cluster.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        rows.push([
            cluster.name.clone(),
            match cluster.head_sequence {
                0 => "none".to_owned(),
                sequence => format!("{}@{sequence}", cluster.name),
            },
            cluster.epoch.to_string(),
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
            cluster.signing_key_fingerprint.chars().take(16).collect(),
            cluster.cluster_id.clone(),
        ]);
    }
    rows.render()
}

/// Something a person should know.
#[derive(Debug, Clone, Serialize)]
pub struct FindingView {
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// A stable word.
    pub kind: String,
    /// The cluster it is of, if it is of one.
    pub cluster: Option<String>,
    /// The node it is of, if it is of one.
    pub node_id: Option<u64>,
    /// Which one, when a kind can stand several times.
    pub subject: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// The same in milliseconds since 1970.
    pub since_ms: u64,
    /// What it is.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl From<&v1::Finding> for FindingView {
    fn from(finding: &v1::Finding) -> Self {
        Self {
            severity: match finding.severity() {
                v1::Severity::Critical => "critical",
                v1::Severity::Warning => "warning",
                v1::Severity::Info | v1::Severity::Unspecified => "info",
            },
            kind: finding.kind.clone(),
            cluster: Some(finding.cluster_name.clone()).filter(|name| !name.is_empty()),
            node_id: Some(finding.node_id).filter(|id| *id != 0),
            subject: finding.subject.clone(),
            since: time(finding.since_ms),
            since_ms: finding.since_ms,
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
        }
    }
}

impl FindingView {
    /// What it is of.
    #[must_use]
    pub fn of(&self) -> String {
        match (&self.cluster, self.node_id) {
            (Some(cluster), _) => format!("cluster {cluster}"),
            (None, Some(node)) => format!("node {node}"),
            (None, None) => "the fleet".to_owned(),
        }
    }

    /// What tells it from all others.
    #[must_use]
    pub fn name(&self) -> String {
        match self.subject.as_str() {
            "" => format!("{} of {}", self.kind, self.of()),
            subject => format!("{} ({subject}) of {}", self.kind, self.of()),
        }
    }
}

/// Findings as a table; each row has what `finding clear` needs.
#[must_use]
pub fn finding_rows(findings: &[FindingView], zone: &TimeZone) -> String {
    let mut rows = Rows::new(&["SEVERITY", "KIND", "OF", "SUBJECT", "SINCE", "WHAT", "HELP"]);
    for finding in findings {
        rows.push([
            finding.severity.to_owned(),
            finding.kind.clone(),
            finding.of(),
            Some(&finding.subject).filter(|s| !s.is_empty()).map_or("-", |s| s).to_owned(),
            when::local(LogTime::from_millis(finding.since_ms), zone),
            finding.message.clone(),
            finding.remedy.clone(),
        ]);
    }
    rows.render()
}

/// One coordinator.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Whether the coordinator that answered can reach it.
    pub reachable: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Its term.
    pub term: u64,
    /// End of its log.
    pub last_log_index: u64,
    /// What it has applied.
    pub applied_index: u64,
    /// Log entries that it has still to apply, against the leader's log.
    pub lag: u64,
    /// Free bytes on its disk.
    pub disk_free_bytes: u64,
    /// Bytes of the bundles it holds.
    pub bundle_bytes: u64,
    /// How many bundles it holds.
    pub bundle_count: u64,
    /// Bundles that points need and it is not known to hold.
    pub missing_bundles: u64,
    /// Version of its program.
    pub version: String,
    /// Highest level its program supports; 0: it does not answer.
    pub level_max: u32,
    /// Milliseconds of its clock after the median of all; none where it does not tell.
    pub clock_offset_ms: Option<i64>,
    /// Median of its log's syncs in the last ten seconds, in microseconds; 0: there were none.
    pub log_sync_median_micros: u64,
    /// 99th percentile of them in the last minute.
    pub log_sync_p99_micros: u64,
}

/// A change of voters under way.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeView {
    /// Who votes after it.
    pub voters: Vec<u64>,
    /// The node that leaves the fleet with it.
    pub remove: Option<u64>,
    /// Whether every bundle is where it must be, so that it is about to be made.
    pub sealed: bool,
    /// Bundles that are not yet on a majority of the new voters.
    pub bundles_waited_for: u64,
}

impl From<&v1::VoterChange> for ChangeView {
    fn from(change: &v1::VoterChange) -> Self {
        Self {
            voters: change.voters.clone(),
            remove: Some(change.remove).filter(|node| *node != 0),
            sealed: change.sealed,
            bundles_waited_for: change.bundles_waited_for,
        }
    }
}

impl ChangeView {
    fn describe(&self) -> String {
        let voters: Vec<String> = self.voters.iter().map(ToString::to_string).collect();
        let waits = match (self.sealed, self.bundles_waited_for) {
            (true, _) => "is being made".to_owned(),
            (false, 0) => "waits until the log is caught up".to_owned(),
            (false, 1) => "waits for 1 bundle".to_owned(),
            (false, n) => format!("waits for {n} bundles"),
        };
        format!("voters change to {}: {waits}\n", voters.join(", "))
    }
}

/// One cluster's standing.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterStatusView {
    /// The cluster.
    pub cluster: ClusterView,
    /// Its newest point.
    pub newest: Option<PointView>,
    /// Its newest proved point.
    pub newest_proved: Option<PointView>,
    /// How many points are kept.
    pub points: u64,
    /// Sealed bytes of one copy.
    pub stored_bytes: u64,
}

/// The whole fleet.
#[derive(Debug, Clone, Serialize)]
pub struct StatusView {
    /// Its id.
    pub fleet_id: String,
    /// Its name.
    pub fleet: String,
    /// How often it was restored from a snapshot.
    pub generation: u32,
    /// Whether a snapshot is being restored into it.
    pub restoring: bool,
    /// Bundles that points need and no coordinator has.
    pub absent_bundles: u64,
    /// Fingerprint of its recovery key.
    pub recovery_key_fingerprint: String,
    /// The leader's id; none between two leaders.
    pub leader_id: Option<u64>,
    /// The term.
    pub term: u64,
    /// Time of the log, RFC 3339.
    pub log_time: String,
    /// The same in milliseconds since 1970.
    pub log_time_ms: u64,
    /// Log index the answer is of.
    pub log_index: u64,
    /// Node that answered.
    pub answered_by: u64,
    /// Whether the answer was not confirmed by a quorum.
    pub stale: bool,
    /// The fleet's active level.
    pub level: u32,
    /// Log time at which the clocks jumped, RFC 3339; none while time flows.
    pub time_frozen_since: Option<String>,
    /// All coordinators.
    pub nodes: Vec<NodeView>,
    /// The change of voters under way.
    pub change: Option<ChangeView>,
    /// All workload clusters.
    pub clusters: Vec<ClusterStatusView>,
    /// What people should know.
    pub findings: Vec<FindingView>,
}

impl From<&v1::GetStatusResponse> for StatusView {
    fn from(status: &v1::GetStatusResponse) -> Self {
        let read = status.read.unwrap_or_default();
        // The end of the log as the leader knows it, or as anybody does.
        let end = status
            .nodes
            .iter()
            .filter(|node| node.leader || status.leader_id == 0)
            .map(|node| node.last_log_index)
            .max()
            .unwrap_or(0);
        Self {
            fleet_id: hex::encode(&status.fleet_id),
            fleet: status.fleet_name.clone(),
            generation: status.generation,
            restoring: status.restoring,
            absent_bundles: status.absent_bundles,
            recovery_key_fingerprint: hex::encode(&status.recovery_key_fingerprint),
            leader_id: Some(status.leader_id).filter(|id| *id != 0),
            term: status.term,
            log_time: time(status.log_time_ms),
            log_time_ms: status.log_time_ms,
            log_index: read.log_index,
            answered_by: read.node_id,
            stale: read.stale,
            level: status.level,
            time_frozen_since: Some(status.time_frozen_since_ms)
                .filter(|since| *since != 0)
                .map(time),
            nodes: status.nodes.iter().map(|node| node_view(node, end)).collect(),
            change: status.change.as_ref().map(ChangeView::from),
            clusters: status.clusters.iter().map(cluster_status).collect(),
            findings: status.findings.iter().map(FindingView::from).collect(),
        }
    }
}

fn node_view(node: &v1::NodeStatus, end: u64) -> NodeView {
    NodeView {
        node_id: node.node_id,
        name: node.name.clone(),
        address: node.address.clone(),
        reachable: node.reachable,
        leader: node.leader,
        voter: node.voter,
        term: node.term,
        last_log_index: node.last_log_index,
        applied_index: node.applied_index,
        lag: end.saturating_sub(node.applied_index),
        disk_free_bytes: node.disk_free_bytes,
        bundle_bytes: node.bundle_bytes,
        bundle_count: node.bundle_count,
        missing_bundles: node.missing_bundles,
        version: node.version.clone(),
        level_max: node.level_max,
        clock_offset_ms: node.clock_offset_ms,
        log_sync_median_micros: node.log_sync_median_micros,
        log_sync_p99_micros: node.log_sync_p99_micros,
    }
}

/// A duration of microseconds; none is a dash.
fn sync(micros: u64) -> String {
    match micros {
        0 => "-".to_owned(),
        micros => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
    }
}

/// How far a clock is off, in seconds.
fn offset(millis: Option<i64>) -> String {
    let Some(millis) = millis else { return "-".to_owned() };
    let sign = if millis < 0 { '-' } else { '+' };
    let millis = millis.unsigned_abs();
    format!("{sign}{}.{} s", millis / 1000, millis % 1000 / 100)
}

fn cluster_status(status: &v1::ClusterStatus) -> ClusterStatusView {
    ClusterStatusView {
        cluster: ClusterView::from(&status.cluster.clone().unwrap_or_default()),
        newest: status.newest.as_ref().map(PointView::from),
        newest_proved: status.newest_proved.as_ref().map(PointView::from),
        points: status.points,
        stored_bytes: status.stored_bytes,
    }
}

impl StatusView {
    /// The answer for people.
    ///
    /// `now` is this machine's clock: the log's own time stands still while nothing is committed,
    /// and ages by it would make old backups look fresh.
    #[must_use]
    pub fn describe(&self, zone: &TimeZone, now: LogTime) -> String {
        let now = now.max(LogTime::from_millis(self.log_time_ms));
        let leader = match self.leader_id {
            Some(leader) => {
                let name = self.nodes.iter().find(|node| node.node_id == leader);
                name.map_or_else(|| format!("node {leader}"), |node| plain(&node.name))
            }
            None => "none: a majority of the coordinators must run".to_owned(),
        };
        let mut text = format!(
            "fleet        {} ({})\nleader       {leader}, term {}\nrecovery key {}\n",
            plain(&self.fleet),
            self.fleet_id,
            self.term,
            self.recovery_key_fingerprint
        );
        if self.generation > 0 {
            text.push_str(&format!("generation   {}\n", self.generation));
        }
        if self.restoring {
            text.push_str("restoring    a snapshot is being restored into this fleet\n");
        }
        text.push_str(&self.level_line());
        if let Some(since) = &self.time_frozen_since {
            text.push_str(&format!("time         frozen since {since}: the clocks jumped\n"));
        }
        if self.stale {
            text.push_str("stale        not confirmed by a majority, as was asked\n");
        }
        text.push('\n');
        text.push_str(&self.node_rows());
        text.push('\n');
        text.push_str(&self.cluster_rows(zone, now));
        text.push('\n');
        text.push_str(&self.finding_lines(zone));
        text
    }

    /// The active level, and who holds it back.
    fn level_line(&self) -> String {
        let highest = self.nodes.iter().map(|node| node.level_max).max().unwrap_or(0);
        let holding = self.nodes.iter().filter(|node| node.level_max <= self.level);
        let names: Vec<String> = holding.map(|node| plain(&node.name)).collect();
        if highest <= self.level || names.is_empty() {
            return format!("level        {}\n", self.level);
        }
        format!(
            "level        {}, {highest} once these are upgraded: {}\n",
            self.level,
            names.join(", ")
        )
    }

    /// The coordinators, and the change of voters if there is one.
    #[must_use]
    pub fn node_rows(&self) -> String {
        let mut rows = Rows::new(&[
            "ID",
            "NODE",
            "ADDRESS",
            "STATE",
            "LAG",
            "BUNDLES",
            "HELD",
            "MISSING",
            "DISK FREE",
            "LOG SYNC",
            "CLOCK",
            "LEVEL",
        ]);
        for node in &self.nodes {
            let state = match (node.reachable, node.leader, node.voter) {
                (false, _, true) => "unreachable",
                (false, _, false) => "unreachable, no vote",
                (true, true, _) => "leader",
                (true, false, true) => "follower",
                (true, false, false) => "learner",
            };
            // Of a node that does not answer, nothing but its name is known.
            let known = |text: String| if node.reachable { text } else { "?".to_owned() };
            rows.push([
                node.node_id.to_string(),
                node.name.clone(),
                node.address.clone(),
                state.to_owned(),
                known(node.lag.to_string()),
                known(node.bundle_count.to_string()),
                known(size(node.bundle_bytes)),
                node.missing_bundles.to_string(),
                known(size(node.disk_free_bytes)),
                known(sync(node.log_sync_median_micros)),
                known(offset(node.clock_offset_ms)),
                known(node.level_max.to_string()),
            ]);
        }
        let mut text = rows.render();
        if let Some(change) = &self.change {
            text.push_str(&change.describe());
        }
        text
    }

    fn cluster_rows(&self, zone: &TimeZone, now: LogTime) -> String {
        if self.clusters.is_empty() {
            return "no cluster is registered: `strongroom cluster register` does it\n".to_owned();
        }
        let mut rows = Rows::new(&[
            "CLUSTER",
            "NEWEST POINT",
            "COMMITTED",
            "AGE",
            "PROOF",
            "POINTS",
            "STORED",
        ]);
        for status in &self.clusters {
            let newest = match &status.newest {
                Some(point) => {
                    let committed = LogTime::from_millis(point.committed_ms);
                    [
                        point.point.clone(),
                        when::local(committed, zone),
                        when::age(committed, now),
                        point.proof().to_owned(),
                    ]
                }
                None => ["none", "-", "-", "-"].map(str::to_owned),
            };
            let [point, committed, age, proof] = newest;
            rows.push([
                status.cluster.name.clone(),
                point,
                committed,
                age,
                proof,
                status.points.to_string(),
                size(status.stored_bytes),
            ]);
        }
        rows.render()
    }

    fn finding_lines(&self, zone: &TimeZone) -> String {
        if self.findings.is_empty() {
            return "no findings\n".to_owned();
        }
        let mut text = format!("{}\n", count(self.findings.len() as u64, "finding"));
        for finding in &self.findings {
            text.push_str(&format!(
                "  {} {}, since {}: {}\n    help: {}\n",
                finding.severity,
                plain(&finding.name()),
                when::local(LogTime::from_millis(finding.since_ms), zone),
                plain(&finding.message),
                plain(&finding.remedy)
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_backup_goes_on_while_the_log_stands_still() {
        let point = v1::Point {
            cluster_name: "harbour".to_owned(),
            sequence: 7,
            committed_ms: 1_000_000,
            ..v1::Point::default()
        };
        let cluster = v1::Cluster { name: "harbour".to_owned(), ..v1::Cluster::default() };
        let status = v1::ClusterStatus {
            cluster: Some(cluster),
            newest: Some(point),
            points: 7,
            ..v1::ClusterStatus::default()
        };
        let view = StatusView::from(&v1::GetStatusResponse {
            log_time_ms: 1_000_000,
            clusters: vec![status],
            ..v1::GetStatusResponse::default()
        });
        let text = view.describe(&TimeZone::UTC, LogTime::from_millis(1_000_000 + 7_200_000));
        let line = text.lines().find(|line| line.starts_with("harbour")).unwrap();
        assert!(line.contains("harbour@7") && line.contains(" 2h "), "{text}");
        assert!(text.contains("leader       none"), "{text}");
        assert!(text.ends_with("no findings\n"), "{text}");
    }

    #[test]
    fn findings_say_what_they_are_of() {
        let mut of_cluster = v1::Finding {
            kind: "source-unreadable".to_owned(),
            cluster_name: "harbour".to_owned(),
            subject: "conf".to_owned(),
            message: "2 files cannot be read".to_owned(),
            remedy: "look".to_owned(),
            since_ms: 1_795_269_930_125,
            ..v1::Finding::default()
        };
        of_cluster.set_severity(v1::Severity::Warning);
        let of_node = v1::Finding { node_id: 2, cluster_name: String::new(), ..of_cluster.clone() };
        let of_fleet = v1::Finding { subject: String::new(), node_id: 0, ..of_node.clone() };
        let views: Vec<FindingView> =
            [&of_cluster, &of_node, &of_fleet].map(FindingView::from).into();
        assert_eq!(
            views.iter().map(FindingView::name).collect::<Vec<_>>(),
            [
                "source-unreadable (conf) of cluster harbour",
                "source-unreadable (conf) of node 2",
                "source-unreadable of the fleet"
            ]
        );
        let table = finding_rows(&views, &TimeZone::UTC);
        let cells: Vec<Vec<&str>> =
            table.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let row = |at: usize| -> Vec<&str> {
            cells[at].iter().copied().filter(|cell| !cell.is_empty()).collect()
        };
        let since = "2026-11-21 14:05:30";
        let (kind, what) = ("source-unreadable", "2 files cannot be read");
        let expected = ["warning", kind, "cluster harbour", "conf", since, what, "look"];
        assert_eq!(row(1), expected, "{table}");
        assert_eq!(row(3), ["warning", kind, "the fleet", "-", since, what, "look"], "{table}");
    }

    #[test]
    fn what_a_fleet_says_adds_no_lines() {
        let evil = "a\nno findings\u{1b}[2J".to_owned();
        let finding = v1::Finding {
            kind: evil.clone(),
            subject: evil.clone(),
            message: evil.clone(),
            remedy: evil.clone(),
            ..v1::Finding::default()
        };
        let node = v1::NodeStatus { node_id: 1, name: evil.clone(), ..v1::NodeStatus::default() };
        let view = StatusView::from(&v1::GetStatusResponse {
            fleet_name: evil.clone(),
            leader_id: 1,
            nodes: vec![node],
            findings: vec![finding],
            ..v1::GetStatusResponse::default()
        });
        let text = view.describe(&TimeZone::UTC, LogTime::ZERO);
        assert!(!text.lines().any(|line| line.trim_start().starts_with("no findings")), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn a_node_that_does_not_answer_has_no_figures() {
        let node = |node_id, reachable, leader, applied_index| v1::NodeStatus {
            node_id,
            name: format!("coordinator-{node_id}"),
            reachable,
            leader,
            voter: true,
            last_log_index: 40,
            applied_index,
            ..v1::NodeStatus::default()
        };
        let view = StatusView::from(&v1::GetStatusResponse {
            leader_id: 1,
            nodes: vec![
                node(1, true, true, 40),
                node(2, true, false, 37),
                node(3, false, false, 0),
            ],
            ..v1::GetStatusResponse::default()
        });
        assert_eq!(view.nodes[1].lag, 3);
        let text = view.describe(&TimeZone::UTC, LogTime::ZERO);
        let cells = |name: &str| -> Vec<String> {
            let line =
                text.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert!(cells("coordinator-2").contains(&"follower".to_owned()), "{text}");
        let lost = cells("coordinator-3");
        assert_eq!(lost.iter().filter(|cell| *cell == "?").count(), 7, "{text}");
        assert!(text.contains("leader       coordinator-1"), "{text}");
    }
}

//! Everything this coordinator tells the outside while it runs: one function per fact, which
//! writes the log event and the metrics together. The names here are all there are; dashboards
//! are tested against [`METRICS`].

use std::collections::BTreeMap;

use coordinator_core::{Outcome, Sender, SnapshotRow};
use metrics::Unit;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use proto_types::{BundleId, ClusterId, Code, LeaseId, Level, NodeId, Sequence};

use crate::raft::{LeaderFigures, RaftStatus};

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with its unit.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// What it says.
    pub help: &'static str,
}

macro_rules! metric_names {
    ($($constant:ident $kind:ident $name:literal $help:literal;)*) => {
        $(const $constant: &str = $name;)*
        /// All metrics of a coordinator.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: MetricKind::$kind, help: $help },)*
            // Recorded where it is measured, in the file layer.
            Metric {
                name: storage::disk::METRIC_SYNC_SECONDS,
                kind: MetricKind::Histogram,
                help: "Duration of fsync and fdatasync, by kind.",
            },
        ];
    };
}

metric_names! {
    PROPOSALS Counter "strongroom_raft_proposals_total" "Commands answered by this node as leader, by command and result.";
    LEADER Gauge "strongroom_raft_is_leader" "1 while this node leads.";
    TERM Gauge "strongroom_raft_term" "Current Raft term.";
    LAST_LOG Gauge "strongroom_raft_last_log_index" "Index of the last entry in this node's log.";
    APPLIED Gauge "strongroom_raft_applied_index" "Index of the last entry this node applied.";
    APPLY_SECONDS Histogram "strongroom_raft_apply_seconds" "One batch of log entries applied to the state and published.";
    LEADER_CHANGES Counter "strongroom_raft_leader_changes_total" "Leader changes this node has seen.";
    UPLOADS Counter "strongroom_uploads_total" "Bundles taken from agents by this node, by result.";
    UPLOAD_BYTES Counter "strongroom_upload_bytes_total" "Sealed bytes taken from agents by this node.";
    UPLOAD_SECONDS Histogram "strongroom_upload_seconds" "From the first byte of a bundle to its majority.";
    STORED Counter "strongroom_bundles_stored_total" "Bundles fsynced by this node, by way (upload, repair).";
    POINTS Counter "strongroom_points_committed_total" "Recovery points committed through this node.";
    BUNDLES Gauge "strongroom_bundles" "Bundles this node holds.";
    BUNDLE_BYTES Gauge "strongroom_bundle_bytes" "Bytes of the bundles this node holds.";
    DISK_FREE Gauge "strongroom_disk_free_bytes" "Free bytes on the data directory's disk.";
    SCRUBBED Counter "strongroom_scrub_bundles_total" "Bundles read again, by result (good, damaged, missing).";
    REPAIRED Counter "strongroom_repairs_total" "Bundles fetched from a peer, by result.";
    UNDER_REPLICATED Gauge "strongroom_bundles_missing" "Bundles that points need and this node does not hold.";
    READ_BYTES Counter "strongroom_read_bytes_total" "Sealed bytes read by clients from this node.";
    SNAPSHOT_AGE Gauge "strongroom_snapshot_age_seconds" "Time since the last good scheduled snapshot was recorded; absent before the first.";
    SNAPSHOT_BYTES Gauge "strongroom_snapshot_bytes" "Size of the last scheduled snapshot that this node saved.";
    SNAPSHOT_SECONDS Histogram "strongroom_snapshot_save_seconds" "From the beginning of a scheduled snapshot until it was read back.";
    SNAPSHOTS Counter "strongroom_snapshots_total" "Scheduled snapshots that this node tried to save, by result.";
    REQUESTS Counter "strongroom_requests_total" "gRPC requests, by method and code.";
    REQUEST_SECONDS Histogram "strongroom_request_seconds" "Duration of gRPC requests, by method.";
    REJECTED Counter "strongroom_raft_proposals_rejected_total" "Commands this node as leader did not commit, or refused, by reason (the error code).";
    QUORUM_ACK_AGE Gauge "strongroom_raft_quorum_ack_age_seconds" "On the leader: since a majority last acknowledged that it leads; 0 elsewhere.";
    LAG Gauge "strongroom_raft_lag_entries" "On the leader: entries that a peer is behind, by peer; 0 elsewhere.";
    RAFT_SNAPSHOT_AGE Gauge "strongroom_raft_snapshot_age_seconds" "Age of the newest snapshot of the state on this node; 0 while it has none.";
    ELECTIONS Counter "strongroom_raft_elections_total" "Elections of this node, by event (started, won).";
    CLOCK_OFFSET Gauge "strongroom_clock_offset_seconds" "On the leader: a coordinator's clock minus log time, by peer; 0 elsewhere.";
    LEVEL Gauge "strongroom_level" "The fleet's active level, as this node has applied it.";
    AUDIT_ENTRIES Counter "strongroom_audit_entries_total" "Entries of the audit log that this node as leader brought about, by outcome (accepted, refused).";
    AUDIT_HEAD Gauge "strongroom_audit_head_number" "Number of the audit log's last entry, as this node has applied it.";
    AUDIT_SEGMENTS Counter "strongroom_audit_segments_total" "Closed segments of the audit log that were not as they should be on this node, by result (damaged, missing, repaired).";
    UNAUTHENTICATED Counter "strongroom_unauthenticated_refusals_total" "Requests that this node refused before it knew who asked.";
}

/// Tells the recorder what the metrics mean. Call once, after it is installed.
pub fn describe() {
    for metric in METRICS {
        let unit = if metric.name.contains("_seconds") {
            Unit::Seconds
        } else if metric.name.contains("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

pub(crate) fn serving(node: NodeId, listen: &str, metrics: Option<&str>) {
    tracing::info!(event = "serving", node = node.get(), listen, metrics, "serving");
}

pub(crate) fn stopping(node: NodeId, reason: &str) {
    tracing::info!(event = "stopping", node = node.get(), reason, "stopping");
}

pub(crate) fn proposal(command: &'static str, outcome: &Outcome) {
    let result = outcome.refusal().map_or("ok", |refusal| refusal.code().as_str());
    counter!(PROPOSALS, "command" => command, "result" => result).increment(1);
    if let Some(refusal) = outcome.refusal() {
        counter!(REJECTED, "reason" => result).increment(1);
        tracing::info!(event = "refused", command, code = result, %refusal, "refused");
    }
}

/// A command that did not get as far as the log.
pub(crate) fn not_proposed(command: &'static str, error: &proto::ApiError) {
    counter!(REJECTED, "reason" => error.code().as_str()).increment(1);
    tracing::info!(event = "not_proposed", command, code = error.code().as_str(), %error);
}

/// Log entries were applied.
pub(crate) fn applied(took: std::time::Duration) {
    histogram!(APPLY_SECONDS).record(took.as_secs_f64());
}

/// An election of this node.
pub(crate) fn election_started(term: u64) {
    counter!(ELECTIONS, "event" => "started").increment(1);
    tracing::info!(event = "election_started", term, "election started");
}

/// What this node knows as the leader; clocks in milliseconds after log time.
pub(crate) fn leads(figures: &LeaderFigures, clock_offsets: &BTreeMap<NodeId, i64>) {
    gauge!(QUORUM_ACK_AGE).set(figures.quorum_ack_age.unwrap_or_default().as_secs_f64());
    for (node, entries) in &figures.lag {
        gauge!(LAG, "peer" => node.to_string()).set(as_f64(*entries));
    }
    for (node, offset) in clock_offsets {
        let seconds = as_f64(offset.unsigned_abs()) / 1000.0;
        let seconds = if *offset < 0 { -seconds } else { seconds };
        gauge!(CLOCK_OFFSET, "peer" => node.to_string()).set(seconds);
    }
}

/// What only a leader knows is said by the next one.
pub(crate) fn leads_no_more(nodes: impl Iterator<Item = NodeId>) {
    gauge!(QUORUM_ACK_AGE).set(0.0);
    for node in nodes {
        gauge!(LAG, "peer" => node.to_string()).set(0.0);
        gauge!(CLOCK_OFFSET, "peer" => node.to_string()).set(0.0);
    }
}

pub(crate) fn raft_status(status: &RaftStatus, level: Level) {
    gauge!(LEVEL).set(f64::from(level.get()));
    gauge!(RAFT_SNAPSHOT_AGE).set(status.snapshot_age.unwrap_or_default().as_secs_f64());
    gauge!(LEADER).set(if status.is_leader { 1.0 } else { 0.0 });
    gauge!(TERM).set(as_f64(status.term));
    gauge!(LAST_LOG).set(as_f64(status.last_log_index));
    gauge!(APPLIED).set(as_f64(status.applied_index));
}

pub(crate) fn leader_changed(leader: Option<NodeId>, term: u64, is_this: bool) {
    counter!(LEADER_CHANGES).increment(1);
    if is_this {
        counter!(ELECTIONS, "event" => "won").increment(1);
    }
    let leader = leader.map(NodeId::get);
    tracing::info!(event = "leader_changed", leader, term, "leader changed");
}

pub(crate) fn upload_started(lease: LeaseId, bundle: BundleId, bytes: u64, offset: u64) {
    tracing::info!(event = "upload_started", %lease, %bundle, bytes, offset, "upload started");
}

/// The first piece of a bundle is here: from now on a stop of this node interrupts the upload.
pub(crate) fn upload_progress(lease: LeaseId, bundle: BundleId, bytes: u64) {
    tracing::info!(event = "upload_progress", %lease, %bundle, bytes, "upload in progress");
}

pub(crate) fn upload_stored(
    lease: LeaseId,
    bundle: BundleId,
    bytes: u64,
    holders: &[NodeId],
    seconds: f64,
) {
    counter!(UPLOADS, "result" => "stored").increment(1);
    counter!(UPLOAD_BYTES).increment(bytes);
    histogram!(UPLOAD_SECONDS).record(seconds);
    let holders: Vec<u64> = holders.iter().map(|node| node.get()).collect();
    tracing::info!(
        event = "upload_stored", %lease, %bundle, bytes, ?holders, seconds, "upload stored"
    );
}

pub(crate) fn upload_failed(lease: LeaseId, bundle: BundleId, error: &proto::ApiError) {
    counter!(UPLOADS, "result" => error.code().as_str()).increment(1);
    tracing::warn!(
        event = "upload_failed", %lease, %bundle, code = error.code().as_str(), %error,
        "upload failed"
    );
}

pub(crate) fn bundle_stored(bundle: BundleId, bytes: u64, way: &'static str) {
    counter!(STORED, "way" => way).increment(1);
    tracing::debug!(event = "bundle_stored", %bundle, bytes, way, "bundle stored");
}

pub(crate) fn peer_copy_failed(bundle: BundleId, peer: NodeId, error: &proto::ApiError) {
    tracing::warn!(
        event = "peer_copy_failed", %bundle, peer = peer.get(), code = error.code().as_str(),
        %error, "a peer did not take a copy; it will be repaired"
    );
}

pub(crate) fn point_committed(cluster: ClusterId, sequence: Sequence, added_bytes: u64) {
    counter!(POINTS).increment(1);
    tracing::info!(
        event = "point_committed", %cluster, sequence = sequence.get(), added_bytes,
        "recovery point committed"
    );
}

pub(crate) fn disk(bundles: u64, bundle_bytes: u64, free_bytes: u64, missing: u64) {
    gauge!(BUNDLES).set(as_f64(bundles));
    gauge!(BUNDLE_BYTES).set(as_f64(bundle_bytes));
    gauge!(DISK_FREE).set(as_f64(free_bytes));
    gauge!(UNDER_REPLICATED).set(as_f64(missing));
}

pub(crate) fn scrubbed(bundle: BundleId, result: &'static str) {
    counter!(SCRUBBED, "result" => result).increment(1);
    if result != "good" {
        tracing::error!(event = "scrub_found", %bundle, result, "a stored bundle is not good");
    }
}

pub(crate) fn damage_on_read(bundle: BundleId, error: &str) {
    tracing::error!(event = "damage_on_read", %bundle, error, "a stored bundle is damaged");
}

pub(crate) fn repaired(bundle: BundleId, from: NodeId) {
    counter!(REPAIRED, "result" => "ok").increment(1);
    tracing::info!(event = "repaired", %bundle, from = from.get(), "bundle repaired");
}

pub(crate) fn repaired_from_bucket(bundle: BundleId) {
    counter!(REPAIRED, "result" => "ok").increment(1);
    tracing::info!(event = "repaired_from_bucket", %bundle, "bundle brought from the bucket");
}

pub(crate) fn object_lost(bundle: BundleId) {
    tracing::error!(event = "object_lost", %bundle, "the bucket has no good object of a bundle");
}

pub(crate) fn repair_failed(bundle: BundleId, error: &proto::ApiError) {
    counter!(REPAIRED, "result" => error.code().as_str()).increment(1);
    tracing::warn!(event = "repair_failed", %bundle, %error, "no good copy was reached yet");
}

pub(crate) fn abandoned_removed(bundle: BundleId) {
    tracing::info!(event = "abandoned_removed", %bundle, "removed what an ended upload left");
}

pub(crate) fn snapshot_age(age_ms: Option<u64>) {
    if let Some(age_ms) = age_ms {
        gauge!(SNAPSHOT_AGE).set(as_f64(age_ms) / 1000.0);
    }
}

pub(crate) fn scheduled_snapshot(row: &SnapshotRow) {
    let result = if row.is_good() { "good" } else { "failed" };
    counter!(SNAPSHOTS, "result" => result).increment(1);
    if row.is_good() {
        gauge!(SNAPSHOT_BYTES).set(as_f64(row.bytes));
        histogram!(SNAPSHOT_SECONDS).record(as_f64(row.took_ms) / 1000.0);
        tracing::info!(
            event = "scheduled_snapshot_saved",
            target = row.target,
            name = row.name,
            index = row.index.get(),
            bytes = row.bytes,
            took_ms = row.took_ms,
            "snapshot saved"
        );
    } else {
        tracing::warn!(
            event = "scheduled_snapshot_failed",
            target = row.target,
            problem = row.problem,
            "a scheduled snapshot was not saved; it is tried again"
        );
    }
}

pub(crate) fn read_bytes(bytes: u64) {
    counter!(READ_BYTES).increment(bytes);
}

pub(crate) fn request(method: &'static str, code: &'static str, seconds: f64) {
    counter!(REQUESTS, "method" => method, "code" => code).increment(1);
    histogram!(REQUEST_SECONDS, "method" => method).record(seconds);
}

// Metrics are floating point; above 2^53 a gauge is off by a few bytes, which nobody sees.
#[allow(clippy::cast_precision_loss)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// An entry of the audit log, on the leader.
pub(crate) fn audited(is_refused: bool) {
    let outcome = if is_refused { "refused" } else { "accepted" };
    counter!(AUDIT_ENTRIES, "outcome" => outcome).increment(1);
}

pub(crate) fn audit_head(number: u64) {
    gauge!(AUDIT_HEAD).set(as_f64(number));
}

pub(crate) fn audit_segment(result: &'static str) {
    counter!(AUDIT_SEGMENTS, "result" => result).increment(1);
}

/// Somebody was refused before it was known who that is.
pub(crate) fn unauthenticated() {
    counter!(UNAUTHENTICATED).increment(1);
}

/// More kinds of refusals at one time than are counted for the audit log.
pub(crate) fn audit_refusal_not_counted(sender: &Sender, act: &str, code: Code) {
    tracing::warn!(
        event = "audit_refusal_not_counted",
        actor = sender.actor.kind(),
        name = sender.actor.name(),
        act,
        code = code.as_str(),
        "a refusal is not in the audit log: too many kinds of them at one time"
    );
}

/// Installs the recorder and serves `/metrics` on this address.
///
/// # Errors
/// When the address is taken or there is a recorder already.
pub(crate) fn install(
    address: std::net::SocketAddr,
) -> Result<(), metrics_exporter_prometheus::BuildError> {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    // From a fast fsync to a slow disk's minute.
    const BUCKETS: [f64; 14] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];
    PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install()?;
    describe();
    // There from the first look on, so that a rate over them begins at the first rejection.
    counter!(REJECTED, "reason" => proto_types::Code::Unavailable.as_str()).increment(0);
    gauge!(AUDIT_HEAD).set(0.0);
    counter!(UNAUTHENTICATED).increment(0);
    for outcome in ["accepted", "refused"] {
        counter!(AUDIT_ENTRIES, "outcome" => outcome).increment(0);
    }
    for result in ["damaged", "missing", "repaired"] {
        counter!(AUDIT_SEGMENTS, "result" => result).increment(0);
    }
    for event in ["started", "won"] {
        counter!(ELECTIONS, "event" => event).increment(0);
    }
    Ok(())
}

//! Recovery points as people and programs see them.

use agent::point_store::{PointInfo, ProofInfo};
use agent::shown::plain;
use jiff::tz::TimeZone;
use proto::v1;
use proto_types::LogTime;
use serde::Serialize;

use super::{id, size, time};
use crate::output::{Rows, count};
use crate::when;

/// A recovery point.
#[derive(Debug, Clone, Serialize)]
pub struct PointView {
    /// `CLUSTER@SEQUENCE`.
    pub point: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Number within the cluster, from 1.
    pub sequence: u64,
    /// When the fleet committed it, RFC 3339.
    pub committed: String,
    /// The same in milliseconds since 1970.
    pub committed_ms: u64,
    /// When the agent looked, by its own clock, RFC 3339.
    pub taken: String,
    /// The same in milliseconds since 1970.
    pub taken_ms: u64,
    /// The agent's epoch.
    pub epoch: u64,
    /// Counts how often the chain of keys was begun anew.
    pub lineage: u32,
    /// Whether every source proved complete.
    pub proved: bool,
    /// Per source.
    pub proofs: Vec<ProofView>,
    /// Items in it.
    pub items: u64,
    /// Their size, unsealed, in bytes.
    pub logical_bytes: u64,
    /// Sealed bytes that it added.
    pub added_bytes: u64,
    /// A signed statement that nothing changed.
    pub unchanged: bool,
    /// Whether its manifest is full, not a delta.
    pub full: bool,
    /// The manifest's bundle id.
    pub manifest: Option<String>,
    /// The full manifest that a delta is against.
    pub base_manifest: Option<String>,
    /// The key bundle that opens it.
    pub key_bundle: Option<String>,
    /// That key bundle's wraps.
    pub wraps: Option<String>,
    /// Bundles that it needs and no coordinator has: with more than none it cannot be restored.
    pub absent_bundles: u64,
    /// Its place in the log; none of a point in a file.
    pub log_index: Option<u64>,
    /// Whether it is what a restore overwrote: taken later than the point it has the times of.
    #[serde(skip)]
    pub safety_file: bool,
    /// All bundles that it needs; only where one point is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<BundleView>,
}

/// Whether a source proved complete.
#[derive(Debug, Clone, Serialize)]
pub struct ProofView {
    /// Kind of the source.
    pub source: String,
    /// `proved`, `unproved` or `failed`.
    pub state: &'static str,
    /// Why it is not proved; empty if it is.
    pub reason: String,
}

/// A bundle that a point needs.
#[derive(Debug, Clone, Serialize)]
pub struct BundleView {
    /// SHA-256 of its bytes.
    pub id: String,
    /// config, key, manifest or wraps.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// Node ids of the coordinators known to hold it.
    pub holders: Vec<u64>,
    /// It came by the log: a majority of the coordinators has it, and is not named yet.
    pub in_log: bool,
}

impl From<&v1::Point> for PointView {
    fn from(point: &v1::Point) -> Self {
        let proofs: Vec<ProofView> = point.proofs.iter().map(ProofView::from).collect();
        Self {
            point: format!("{}@{}", point.cluster_name, point.sequence),
            cluster: point.cluster_name.clone(),
            cluster_id: hex::encode(&point.cluster_id),
            sequence: point.sequence,
            committed: time(point.committed_ms),
            committed_ms: point.committed_ms,
            taken: time(point.taken_ms),
            taken_ms: point.taken_ms,
            epoch: point.epoch,
            lineage: point.lineage,
            proved: proofs.iter().all(|proof| proof.state == "proved"),
            proofs,
            items: point.items,
            logical_bytes: point.logical_bytes,
            added_bytes: point.added_bytes,
            unchanged: point.unchanged,
            full: point.base_manifest_id.is_empty(),
            manifest: id(&point.manifest_id),
            base_manifest: id(&point.base_manifest_id),
            key_bundle: id(&point.key_bundle_id),
            wraps: id(&point.wraps_id),
            absent_bundles: point.absent_bundles,
            log_index: Some(point.log_index),
            safety_file: false,
            bundles: point.bundles.iter().map(BundleView::from).collect(),
        }
    }
}

/// A point as an exported file tells it. Which nodes hold its bundles, and its place in the log,
/// are not in the file.
impl From<&PointInfo> for PointView {
    fn from(info: &PointInfo) -> Self {
        let proofs: Vec<ProofView> = info.proofs.iter().map(ProofView::from).collect();
        Self {
            point: format!("{}@{}", info.cluster_name, info.sequence),
            cluster: info.cluster_name.clone(),
            cluster_id: info.cluster.to_string(),
            sequence: info.sequence.get(),
            committed: when::rfc3339(info.committed_ms),
            committed_ms: info.committed_ms.as_millis(),
            taken: when::rfc3339(info.taken_ms),
            taken_ms: info.taken_ms.as_millis(),
            epoch: info.epoch.get(),
            lineage: info.lineage,
            proved: proofs.iter().all(|proof| proof.state == "proved"),
            proofs,
            items: info.items,
            logical_bytes: info.logical_bytes,
            added_bytes: info.added_bytes,
            unchanged: info.is_unchanged(),
            full: info.base.is_none(),
            manifest: Some(info.manifest.to_string()),
            base_manifest: info.base.map(|base| base.to_string()),
            key_bundle: Some(info.key_bundle.to_string()),
            wraps: Some(info.wraps.to_string()),
            absent_bundles: 0,
            log_index: None,
            safety_file: false,
            bundles: info
                .bundles
                .iter()
                .map(|bundle| BundleView {
                    id: bundle.id.to_string(),
                    kind: bundle.kind.clone(),
                    bytes: bundle.bytes,
                    holders: Vec::new(),
                    in_log: false,
                })
                .collect(),
        }
    }
}

impl From<&ProofInfo> for ProofView {
    fn from(proof: &ProofInfo) -> Self {
        let state = match proof.state.as_str() {
            "proved" => "proved",
            "failed" => "failed",
            _ => "unproved",
        };
        Self { source: proof.source.clone(), state, reason: proof.reason.clone() }
    }
}

impl From<&v1::SourceProof> for ProofView {
    fn from(proof: &v1::SourceProof) -> Self {
        let state = match proof.state() {
            v1::ProofState::Proved => "proved",
            v1::ProofState::Failed => "failed",
            // What a newer coordinator says and we do not know is not proved to us.
            v1::ProofState::Unproved | v1::ProofState::Unspecified => "unproved",
        };
        Self { source: proof.source.clone(), state, reason: proof.reason.clone() }
    }
}

impl From<&v1::BundleInfo> for BundleView {
    fn from(bundle: &v1::BundleInfo) -> Self {
        Self {
            id: hex::encode(&bundle.bundle_id),
            kind: bundle.kind.clone(),
            bytes: bundle.bytes,
            holders: bundle.holders.clone(),
            in_log: bundle.in_log,
        }
    }
}

impl PointView {
    /// What kind of point it is, in a word.
    #[must_use]
    pub const fn form(&self) -> &'static str {
        match (self.unchanged, self.full) {
            (true, _) => "unchanged",
            (false, true) => "full",
            (false, false) => "delta",
        }
    }

    /// Whether it is proved, in a word.
    #[must_use]
    pub fn proof(&self) -> &'static str {
        if self.absent_bundles > 0 {
            "absent"
        } else if self.proofs.iter().any(|proof| proof.state == "failed") {
            "failed"
        } else if self.proved {
            "proved"
        } else {
            "unproved"
        }
    }

    /// All that is known of it, a line per fact.
    #[must_use]
    pub fn describe(&self, zone: &TimeZone) -> String {
        let taken = LogTime::from_millis(self.taken_ms);
        let committed_ms = LogTime::from_millis(self.committed_ms);
        let committed = when::local(committed_ms, zone);
        let mut facts = vec![
            ("point", self.point.clone()),
            ("committed", committed),
            ("taken", format!("{} by the agent's clock", when::local(taken, zone))),
            ("form", self.form().to_owned()),
            ("items", self.items.to_string()),
            ("size", size(self.logical_bytes)),
            ("added", format!("{} sealed", size(self.added_bytes))),
            ("proof", self.proof().to_owned()),
            ("epoch", self.epoch.to_string()),
            ("manifest", self.manifest.clone().unwrap_or_default()),
        ];
        if let Some(base) = &self.base_manifest {
            facts.push(("base", base.clone()));
        }
        facts.push(("key bundle", self.key_bundle.clone().unwrap_or_default()));
        let mut text: String =
            facts.iter().map(|(name, value)| format!("{name:<11} {}\n", plain(value))).collect();
        if let Some(warning) = times_apart(taken, committed_ms).filter(|_| !self.safety_file) {
            text.push_str(&format!("{:<11} {warning}\n", "warning"));
        }
        if self.absent_bundles > 0 {
            text.push_str(&format!(
                "{:<11} {} that it needs are on no coordinator: it cannot be restored\n",
                "absent",
                count(self.absent_bundles, "bundle")
            ));
        }
        for proof in self.proofs.iter().filter(|proof| proof.state != "proved") {
            let (source, reason) = (plain(&proof.source), plain(&proof.reason));
            text.push_str(&format!("{:<11} {source}: {reason}\n", proof.state));
        }
        if !self.bundles.is_empty() {
            let mut rows = Rows::new(&["KIND", "SIZE", "HELD BY NODES", "BUNDLE"]);
            let mut bundles: Vec<&BundleView> = self.bundles.iter().collect();
            bundles.sort_by_key(|bundle| &bundle.kind);
            for bundle in bundles {
                let holders: Vec<String> = bundle.holders.iter().map(u64::to_string).collect();
                rows.push([
                    bundle.kind.clone(),
                    size(bundle.bytes),
                    match (&holders[..], bundle.in_log) {
                        ([], true) => "a majority".to_owned(),
                        ([], false) => "-".to_owned(),
                        _ => holders.join(","),
                    },
                    bundle.id.clone(),
                ]);
            }
            text.push('\n');
            text.push_str(&rows.render());
        }
        text
    }
}

/// Further apart than this, the agent's time of a point and the fleet's make a person wonder.
const TIMES_APART_MAX_MS: u64 = 10 * 60 * 1000;

/// What to say when a point was not committed about when it was taken. The time it was taken is
/// the agent's clock and signed; the time it was committed is the fleet's, and what `--at` goes by.
#[must_use]
pub fn times_apart(taken: LogTime, committed: LogTime) -> Option<String> {
    let (early, late) = (committed.millis_since(taken), taken.millis_since(committed));
    if early.max(late) <= TIMES_APART_MAX_MS {
        return None;
    }
    Some(if early > 0 {
        format!(
            "taken {} before it was committed: it holds nothing newer, whatever --at says; the \
             upload took long, or the agent's clock is behind the fleet's",
            when::age(taken, committed)
        )
    } else {
        format!(
            "taken {} after it was committed: the agent's clock is ahead of the fleet's, or the \
             fleet's is behind; --at goes by the fleet's",
            when::age(committed, taken)
        )
    })
}

/// Points as a table, newest first.
#[must_use]
pub fn point_rows(points: &[PointView], zone: &TimeZone, now: LogTime) -> String {
    let mut rows =
        Rows::new(&["POINT", "COMMITTED", "AGE", "FORM", "ITEMS", "SIZE", "ADDED", "PROOF"]);
    for point in points {
        let committed = LogTime::from_millis(point.committed_ms);
        rows.push([
            point.point.clone(),
            when::local(committed, zone),
            when::age(committed, now),
            point.form().to_owned(),
            point.items.to_string(),
            size(point.logical_bytes),
            size(point.added_bytes),
            point.proof().to_owned(),
        ]);
    }
    rows.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED_MS: u64 = 1_795_269_930_125;
    const MINUTE_MS: i64 = 60_000;

    fn taken(offset_ms: i64) -> LogTime {
        LogTime::from_millis(COMMITTED_MS.checked_add_signed(offset_ms).unwrap())
    }

    #[test]
    fn times_that_are_far_apart_are_told() {
        for (offset_ms, said) in [
            (0, None),
            (-10 * MINUTE_MS, None),
            (10 * MINUTE_MS, None),
            (-10 * MINUTE_MS - 1, Some("taken 10min before it was committed")),
            (10 * MINUTE_MS + 1, Some("taken 10min after it was committed")),
            (-180 * MINUTE_MS, Some("taken 3h before it was committed")),
            (3 * 1440 * MINUTE_MS, Some("taken 3d after it was committed")),
        ] {
            let told = times_apart(taken(offset_ms), LogTime::from_millis(COMMITTED_MS));
            match (&told, said) {
                (None, None) => {}
                (Some(told), Some(said)) => assert!(told.starts_with(said), "{told}"),
                (told, said) => panic!("{offset_ms}: {told:?}, not {said:?}"),
            }
        }
    }

    #[test]
    fn a_point_shows_when_it_was_taken_beside_when_it_was_committed() {
        let point = |offset_ms| v1::Point {
            cluster_name: "harbour".to_owned(),
            sequence: 7,
            committed_ms: COMMITTED_MS,
            taken_ms: taken(offset_ms).as_millis(),
            ..v1::Point::default()
        };
        let text = PointView::from(&point(-5000)).describe(&TimeZone::UTC);
        let lines: Vec<&str> = text.lines().skip(1).take(2).collect();
        let committed = "committed   2026-11-21 14:05:30";
        assert_eq!(lines, [committed, "taken       2026-11-21 14:05:25 by the agent's clock"]);
        assert!(!text.contains("\nwarning "), "{text}");
        let text = PointView::from(&point(-60 * MINUTE_MS)).describe(&TimeZone::UTC);
        assert!(text.contains("\nwarning     taken 60min before it was committed"), "{text}");
        let safety = PointView { safety_file: true, ..PointView::from(&point(60 * MINUTE_MS)) };
        assert!(!safety.describe(&TimeZone::UTC).contains("\nwarning "));
    }
}

//! Recovery points as people and programs see them.

use agent::point_store::{PointInfo, ProofInfo};
use agent::shown::plain;
use jiff::tz::TimeZone;
use proto::v1;
use proto_types::LogTime;
use serde::Serialize;

use super::{id, size, time};
use crate::output::Rows;
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
    /// Its place in the log; none of a point in a file.
    pub log_index: Option<u64>,
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
            log_index: Some(point.log_index),
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
            log_index: None,
            bundles: info
                .bundles
                .iter()
                .map(|bundle| BundleView {
                    id: bundle.id.to_string(),
                    kind: bundle.kind.clone(),
                    bytes: bundle.bytes,
                    holders: Vec::new(),
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
        if self.proofs.iter().any(|proof| proof.state == "failed") {
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
        let committed = when::local(LogTime::from_millis(self.committed_ms), zone);
        let mut facts = vec![
            ("point", self.point.clone()),
            ("committed", committed),
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
                    if holders.is_empty() { "-".to_owned() } else { holders.join(",") },
                    bundle.id.clone(),
                ]);
            }
            text.push('\n');
            text.push_str(&rows.render());
        }
        text
    }
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

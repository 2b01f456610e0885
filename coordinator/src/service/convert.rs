//! Between the state's rows and the protocol's messages. Nothing is decided here.

use std::collections::BTreeMap;

use bytes::Bytes;
use coordinator_core::{
    Cluster, Finding, FindingKey, PointRow, Proof, ProofState, ReadPurpose, Scope, Severity, State,
};
use proto::{ApiError, v1};
use proto_types::{BundleId, ClusterId, Code, LeaseId, NodeId, SessionId};

pub(super) fn invalid(what: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidArgument, what)
}

macro_rules! parse_id {
    ($name:ident, $type:ty) => {
        pub(super) fn $name(bytes: &[u8], field: &str) -> Result<$type, ApiError> {
            <$type>::from_slice(bytes).map_err(|_| {
                invalid(format!("{field}: expected {} bytes, got {}", <$type>::LEN, bytes.len()))
            })
        }
    };
}
parse_id!(bundle_id, BundleId);
parse_id!(cluster_id, ClusterId);
parse_id!(lease_id, LeaseId);

pub(super) fn bytes_of(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The session of a write.
pub(super) fn write_id(id: Option<&v1::WriteId>) -> Result<(SessionId, u64), ApiError> {
    let id = id.ok_or_else(|| invalid("write_id: every write carries one"))?;
    let session = SessionId::from_slice(&id.session_id)
        .map_err(|_| invalid("write_id.session_id: expected 16 bytes"))?;
    if id.sequence == 0 {
        return Err(invalid("write_id.sequence: begins at 1"));
    }
    Ok((session, id.sequence))
}

pub(super) fn cluster(row: &Cluster) -> v1::Cluster {
    v1::Cluster {
        cluster_id: bytes_of(row.id.as_bytes()),
        name: row.name.clone(),
        signing_key: bytes_of(row.signing_key.as_bytes()),
        labels: row.labels.clone().into_iter().collect(),
        kube_system_uid: row.kube_system_uid.clone().unwrap_or_default(),
        epoch: row.epoch.get(),
        lineage: row.lineage,
        head_sequence: row.head.sequence.get(),
        head_manifest: row.head.manifest.map(|id| bytes_of(id.as_bytes())).unwrap_or_default(),
        registered_ms: row.registered.as_millis(),
        next_sequence: row.next_sequence().get(),
    }
}

fn proof(row: &Proof) -> v1::SourceProof {
    let (state, reason) = match &row.state {
        ProofState::Proved => (v1::ProofState::Proved, String::new()),
        ProofState::Unproved { reason } => (v1::ProofState::Unproved, reason.clone()),
        ProofState::Failed { reason } => (v1::ProofState::Failed, reason.clone()),
    };
    v1::SourceProof { source: row.source.clone(), state: state.into(), reason }
}

pub(super) fn proof_row(message: v1::SourceProof) -> Result<Proof, ApiError> {
    let state = match message.state() {
        v1::ProofState::Proved => ProofState::Proved,
        v1::ProofState::Unproved => ProofState::Unproved { reason: message.reason },
        v1::ProofState::Failed => ProofState::Failed { reason: message.reason },
        v1::ProofState::Unspecified => return Err(invalid("proofs.state: not given")),
    };
    Ok(Proof { source: message.source, state })
}

/// A point without its bundles.
pub(super) fn point(state: &State, row: &PointRow, cluster: &Cluster) -> v1::Point {
    v1::Point {
        cluster_id: bytes_of(row.cluster.as_bytes()),
        cluster_name: cluster.name.clone(),
        sequence: row.sequence.get(),
        manifest_id: bytes_of(row.manifest.as_bytes()),
        base_manifest_id: row.base.map(|id| bytes_of(id.as_bytes())).unwrap_or_default(),
        key_bundle_id: bytes_of(row.key_bundle.as_bytes()),
        wraps_id: bytes_of(row.wraps.as_bytes()),
        committed_ms: row.committed.as_millis(),
        taken_ms: row.taken.as_millis(),
        log_index: row.index.get(),
        epoch: row.epoch.get(),
        lineage: row.lineage,
        proofs: row.proofs.iter().map(proof).collect(),
        items: row.items,
        logical_bytes: row.logical_bytes,
        added_bytes: row.stored_bytes_added,
        unchanged: row.statement.is_some(),
        bundles: Vec::new(),
        statement_signature: row.statement.map(|s| bytes_of(&s)).unwrap_or_default(),
        absent_bundles: state.absent_of(row),
    }
}

/// A point with all bundles that it needs and who holds them.
pub(crate) fn point_with_bundles(state: &State, row: &PointRow, cluster: &Cluster) -> v1::Point {
    let mut message = point(state, row, cluster);
    message.bundles = row
        .needs
        .iter()
        .filter_map(|id| {
            let bundle = state.bundle(id)?;
            Some(v1::BundleInfo {
                bundle_id: bytes_of(id.as_bytes()),
                kind: bundle.facts.kind.as_str().to_owned(),
                bytes: bundle.facts.bytes,
                holders: bundle.holders.iter().map(|node| node.get()).collect(),
                in_bucket: bundle.object.is_some(),
                in_log: bundle.in_log,
            })
        })
        .collect();
    message
}

const fn severity(value: Severity) -> v1::Severity {
    match value {
        Severity::Info => v1::Severity::Info,
        Severity::Warning => v1::Severity::Warning,
        Severity::Critical => v1::Severity::Critical,
    }
}

pub(super) fn severity_row(value: v1::Severity) -> Result<Severity, ApiError> {
    match value {
        v1::Severity::Info => Ok(Severity::Info),
        v1::Severity::Warning => Ok(Severity::Warning),
        v1::Severity::Critical => Ok(Severity::Critical),
        v1::Severity::Unspecified => Err(invalid("severity: not given")),
    }
}

pub(super) fn finding(
    key: &FindingKey,
    row: &Finding,
    names: &BTreeMap<ClusterId, String>,
) -> v1::Finding {
    let (cluster_id, node_id, cluster_name) = match key.scope {
        Scope::Fleet => (Bytes::new(), 0, String::new()),
        Scope::Node(node) => (Bytes::new(), node.get(), String::new()),
        Scope::Cluster(id) => {
            (bytes_of(id.as_bytes()), 0, names.get(&id).cloned().unwrap_or_default())
        }
    };
    v1::Finding {
        cluster_id,
        node_id,
        kind: key.kind.clone(),
        subject: key.subject.clone(),
        severity: severity(row.severity).into(),
        since_ms: row.since.as_millis(),
        last_seen_ms: row.last_seen.as_millis(),
        message: row.message.clone(),
        remedy: row.remedy.clone(),
        cluster_name,
    }
}

/// The scope that a message's ids name.
pub(super) fn scope(cluster: &[u8], node: u64) -> Result<Scope, ApiError> {
    match (cluster.is_empty(), node) {
        (true, 0) => Ok(Scope::Fleet),
        (true, node) => Ok(Scope::Node(NodeId::new(node))),
        (false, 0) => Ok(Scope::Cluster(cluster_id(cluster, "cluster_id")?)),
        (false, _) => Err(invalid("a finding is of a cluster or of a node, not of both")),
    }
}

pub(super) fn purpose(value: v1::ReadPurpose) -> Result<ReadPurpose, ApiError> {
    match value {
        v1::ReadPurpose::Restore => Ok(ReadPurpose::Restore),
        v1::ReadPurpose::Export => Ok(ReadPurpose::Export),
        v1::ReadPurpose::Drill => Ok(ReadPurpose::Drill),
        v1::ReadPurpose::Snapshot => Ok(ReadPurpose::Snapshot),
        v1::ReadPurpose::Unspecified => Err(invalid("purpose: not given")),
    }
}

/// A piece of a bundle, as long as the protocol allows: queues count pieces.
pub(super) fn piece(data: Bytes) -> Result<Bytes, ApiError> {
    const PIECE_BYTES_MAX: usize = 1 << 20;
    if data.len() <= PIECE_BYTES_MAX {
        return Ok(data);
    }
    Err(ApiError::new(
        Code::TooLarge,
        format!("a piece of {} bytes: send at most {PIECE_BYTES_MAX} in one message", data.len()),
    ))
}

//! The signed headers of the bundles a commit adds: signed by the cluster's registered key, and
//! made for exactly this point (K3). What they say is what the state keeps of the bundles.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_types::{BundleId, BundleKind, HeaderError, SignedHeader};

use super::carried;
use crate::command::{AddedBundle, ChangedContent, CommitPoint};
use crate::keys;
use crate::leases::within;
use crate::limits::{ADDED_MAX, HOLDERS_MAX};
use crate::refusal::{Field, HeaderField, HeaderProblem, Limit, Refusal, Role};
use crate::rows::{BundleFacts, BundleRow, Cluster, Fleet, PointRow};
use crate::state::State;

/// Checks each added bundle and makes its row.
pub(super) fn check(
    state: &State,
    fleet: &Fleet,
    cluster: &Cluster,
    parent: Option<&PointRow>,
    command: &CommitPoint,
    content: &ChangedContent,
) -> Result<BTreeMap<BundleId, BundleRow>, Refusal> {
    within(Limit::Added, content.added.len(), ADDED_MAX)?;
    let mut rows = BTreeMap::new();
    for bundle in &content.added {
        within(Limit::Holders, bundle.holders.len(), HOLDERS_MAX)?;
        carried::check(bundle)?;
        let row = BundleRow {
            facts: Arc::new(facts(state, fleet, cluster, parent, command, content, bundle)?),
            holders: bundle.holders.iter().copied().collect(),
            points: 0,
            object: None,
            in_log: !bundle.carried.is_empty(),
        };
        if row.holders.len() != bundle.holders.len() {
            return Err(Refusal::InvalidField { field: Field::Holders });
        }
        if rows.insert(bundle.id, row).is_some() {
            return Err(Refusal::BundleRepeated { bundle: bundle.id });
        }
    }
    Ok(rows)
}

fn facts(
    state: &State,
    fleet: &Fleet,
    cluster: &Cluster,
    parent: Option<&PointRow>,
    command: &CommitPoint,
    content: &ChangedContent,
    bundle: &AddedBundle,
) -> Result<BundleFacts, Refusal> {
    let signed = SignedHeader::from_parts(&bundle.header, &bundle.signature)
        .and_then(|signed| signed.verify(&cluster.signing_key).map(|()| signed))
        .map_err(|error| Refusal::HeaderRefused { bundle: bundle.id, problem: problem(&error) })?;
    let header = signed.header();
    let require = |same: bool, field: HeaderField| {
        if same { Ok(()) } else { Err(Refusal::HeaderMismatch { bundle: bundle.id, field }) }
    };
    require(header.fleet == fleet.id, HeaderField::Fleet)?;
    require(header.cluster == cluster.id, HeaderField::Cluster)?;
    require(header.lineage == cluster.lineage, HeaderField::Lineage)?;
    require(header.sequence == command.sequence, HeaderField::Sequence)?;
    require(header.epoch == command.epoch, HeaderField::Epoch)?;
    // Not `file_bytes`, which may overflow on what a hostile agent signs.
    let file_bytes = header.body_bytes.checked_add(signed.trailer_bytes());
    require(file_bytes == Some(bundle.bytes), HeaderField::Bytes)?;
    let predecessor = match header.kind {
        BundleKind::Config => None,
        BundleKind::Manifest => Some(cluster.head.manifest.unwrap_or(BundleId::ZERO)),
        BundleKind::Key => Some(parent.map_or(BundleId::ZERO, |parent| parent.key_bundle)),
        BundleKind::Wraps => Some(content.key_bundle),
    };
    if let Some(expected) = predecessor {
        require(header.predecessor == expected, HeaderField::Predecessor)?;
    }
    let mut recovery = None;
    if matches!(header.kind, BundleKind::Key | BundleKind::Wraps) {
        recovery = keys::number_of(state, fleet, header.recovery_key);
        require(recovery.is_some(), HeaderField::RecoveryKey)?;
    }
    Ok(BundleFacts {
        cluster: cluster.id,
        kind: header.kind,
        bytes: bundle.bytes,
        dek_ids: header.dek_ids.clone(),
        predecessor: some_id(header.predecessor),
        base: some_id(header.base),
        recovery: recovery.filter(|_| header.kind == BundleKind::Wraps).unwrap_or(0),
    })
}

/// What is kept of wraps that stand in the place of older ones of the same key bundle. They are
/// sealed to the fleet's recovery key of now, and signed by the cluster: for a key bundle of before
/// a lost signing key, by the key of then.
pub(crate) fn wraps_facts(
    state: &State,
    fleet: &Fleet,
    cluster: &Cluster,
    key_bundle: BundleId,
    bundle: &AddedBundle,
) -> Result<BundleFacts, Refusal> {
    within(Limit::Holders, bundle.holders.len(), HOLDERS_MAX)?;
    let refused =
        |error: HeaderError| Refusal::HeaderRefused { bundle: bundle.id, problem: problem(&error) };
    let signed = SignedHeader::from_parts(&bundle.header, &bundle.signature).map_err(refused)?;
    let former = state.lineage_of(&cluster.id).map_or(&[][..], |row| &row.former);
    if !former.iter().any(|key| signed.verify(key).is_ok()) {
        signed.verify(&cluster.signing_key).map_err(refused)?;
    }
    let header = signed.header();
    let require = |same: bool, field: HeaderField| {
        if same { Ok(()) } else { Err(Refusal::HeaderMismatch { bundle: bundle.id, field }) }
    };
    if header.kind != BundleKind::Wraps {
        return Err(Refusal::RoleWrong { role: Role::Wraps, bundle: bundle.id });
    }
    require(header.fleet == fleet.id, HeaderField::Fleet)?;
    require(header.cluster == cluster.id, HeaderField::Cluster)?;
    require(header.lineage <= cluster.lineage, HeaderField::Lineage)?;
    let file_bytes = header.body_bytes.checked_add(signed.trailer_bytes());
    require(file_bytes == Some(bundle.bytes), HeaderField::Bytes)?;
    require(header.predecessor == key_bundle, HeaderField::Predecessor)?;
    require(header.recovery_key == fleet.recovery.fingerprint(), HeaderField::RecoveryKey)?;
    Ok(BundleFacts {
        cluster: cluster.id,
        kind: header.kind,
        bytes: bundle.bytes,
        dek_ids: header.dek_ids.clone(),
        predecessor: some_id(header.predecessor),
        base: None,
        recovery: keys::number_of(state, fleet, header.recovery_key).unwrap_or(0),
    })
}

fn some_id(id: BundleId) -> Option<BundleId> {
    (id != BundleId::ZERO).then_some(id)
}

fn problem(error: &HeaderError) -> HeaderProblem {
    match error {
        HeaderError::UnsupportedVersion { .. } | HeaderError::UnsupportedSuite { .. } => {
            HeaderProblem::Unsupported
        }
        HeaderError::BadSignature => HeaderProblem::BadSignature,
        HeaderError::WrongSigner { .. } => HeaderProblem::WrongSigner,
        HeaderError::Truncated { .. }
        | HeaderError::NotABundle { .. }
        | HeaderError::Field { .. }
        | HeaderError::BodyMismatch => HeaderProblem::Malformed,
    }
}

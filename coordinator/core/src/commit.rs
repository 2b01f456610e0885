//! Committing a recovery point: the checks, in the order of who is told what first, and then the
//! one place where points and bundles come into being. Coordinators believe nothing here that is
//! not signed by the cluster (K3), and no copy that a node has not fsynced (B1).

mod carried;
mod headers;
mod needs;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;
use proto_types::{BundleId, PointStatement, Sequence};

use crate::apply::Context;
use crate::command::{CommitPoint, Content};
use crate::findings::is_word;
use crate::leases::within;
use crate::outcome::{Event, LeaseEnd, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{BundleRow, Cluster, Head, PointRow, Proof, ProofState};
use crate::state::State;
use crate::{bucket, clusters, fleet, keys, leases, limits};

pub(crate) use headers::wraps_facts;

/// What the content of a commit comes to, checked but not yet part of the state.
struct Prepared {
    manifest: BundleId,
    base: Option<BundleId>,
    key_bundle: BundleId,
    wraps: BundleId,
    /// Rows of the bundles that the commit brings in.
    rows: BTreeMap<BundleId, BundleRow>,
    dropped: Vec<BundleId>,
    needs: OrdSet<BundleId>,
    statement: Option<[u8; 64]>,
}

pub(crate) fn commit(
    state: &mut State,
    context: &mut Context<'_>,
    command: &CommitPoint,
) -> Result<Outcome, Refusal> {
    let cluster = clusters::require(state, &command.cluster)?;
    // Before everything else: it is done, whatever was done after it.
    if let Some(outcome) = repeated(state, cluster, command) {
        return Ok(outcome);
    }
    let cluster = clusters::require_epoch(state, &command.cluster, command.epoch)?;
    require_next(cluster, command)?;
    if command.carries() {
        carried::require_possible(state, command)?;
    } else {
        require_lease(state, cluster.head.sequence, command)?;
    }
    let proofs = keys::proofs(state, &cluster.id, check_proofs(&command.proofs)?);
    let bytes = command.entry_bytes();
    if bytes > limits::COMMIT_BYTES_MAX {
        return Err(Refusal::LimitReached {
            limit: Limit::CommitBytes,
            have: bytes,
            max: limits::COMMIT_BYTES_MAX,
        });
    }
    let parent = state.point(&cluster.id, cluster.head.sequence);
    let prepared = match &command.content {
        Content::Changed(content) => {
            let fleet = fleet::require(state)?;
            let mut rows = headers::check(state, fleet, cluster, parent, command, content)?;
            bucket::find_announced(state, command.lease, content, &mut rows)?;
            needs::resolve(state, parent, content, rows)?
        }
        Content::Unchanged { signature } => {
            unchanged(fleet::require(state)?.id, cluster, parent, command, signature)?
        }
    };
    require_durable(state, context, &prepared)?;
    Ok(install(state, context, command, proofs, prepared))
}

/// The outcome of the head's commit, if this is that commit again.
fn repeated(state: &State, cluster: &Cluster, command: &CommitPoint) -> Option<Outcome> {
    if command.sequence != cluster.head.sequence {
        return None;
    }
    let row = state.point(&cluster.id, command.sequence)?;
    let parent_manifest =
        state.point(&cluster.id, row.parent).map_or(BundleId::ZERO, |parent| parent.manifest);
    let same_content = match &command.content {
        Content::Changed(content) => {
            // Not the added ones: the manifest is theirs by its hash, and whoever takes a repeat may
            // not have their headers at hand any more.
            row.statement.is_none()
                && row.manifest == content.manifest
                && row.key_bundle == content.key_bundle
                && row.wraps == content.wraps
                && content.dropped.are(&row.dropped)
        }
        // The signature covers sequence, epoch and time, so the same ones are the same statement.
        Content::Unchanged { .. } => row.statement.is_some(),
    };
    let same = same_content
        && row.lease == command.lease
        && row.epoch == command.epoch
        && row.taken == command.taken
        && parent_manifest == command.parent_manifest
        && row.items == command.items
        && row.logical_bytes == command.logical_bytes
        && row.proofs == keys::proofs(state, &cluster.id, sorted(&command.proofs));
    same.then(|| committed(row))
}

fn committed(row: &PointRow) -> Outcome {
    Outcome::Committed {
        cluster: row.cluster,
        sequence: row.sequence,
        manifest: row.manifest,
        index: row.index,
        time: row.committed,
    }
}

fn require_next(cluster: &Cluster, command: &CommitPoint) -> Result<(), Refusal> {
    let head = cluster.head;
    if command.sequence != cluster.next_sequence() {
        return Err(Refusal::StaleHead {
            cluster: cluster.id,
            offered: command.sequence,
            head: head.sequence,
        });
    }
    if command.parent_manifest != head.manifest.unwrap_or(BundleId::ZERO) {
        return Err(Refusal::ParentManifestDiffers { cluster: cluster.id, head: head.sequence });
    }
    Ok(())
}

/// New content needs its upload's lease, so that what it builds on was pinned all the time.
fn require_lease(state: &State, head: Sequence, command: &CommitPoint) -> Result<(), Refusal> {
    let Some(id) = command.lease else {
        return match command.content {
            Content::Changed(_) => Err(Refusal::LeaseRequired),
            Content::Unchanged { .. } => Ok(()),
        };
    };
    let lease = state.upload(&id).ok_or(Refusal::LeaseGone { lease: id })?;
    // A new epoch has ended the uploads of the one before, so the epochs cannot differ while that
    // holds; E1 does not rest on it.
    let fits =
        lease.cluster == command.cluster && lease.epoch == command.epoch && lease.parent == head;
    if fits { Ok(()) } else { Err(Refusal::LeaseOfAnother { lease: id }) }
}

fn check_proofs(proofs: &[Proof]) -> Result<Vec<Proof>, Refusal> {
    within(Limit::Proofs, proofs.len(), limits::PROOFS_MAX)?;
    let sorted = sorted(proofs);
    let valid = sorted.iter().all(|proof| {
        is_word(&proof.source, limits::SOURCE_BYTES_MAX)
            && match &proof.state {
                ProofState::Proved => true,
                ProofState::Unproved { reason } | ProofState::Failed { reason } => {
                    reason.len() <= limits::REASON_BYTES_MAX
                }
            }
    });
    if !valid || !sorted.is_sorted_by(|a, b| a.source < b.source) {
        return Err(Refusal::InvalidField { field: Field::Proofs });
    }
    Ok(sorted)
}

fn sorted(proofs: &[Proof]) -> Vec<Proof> {
    let mut proofs = proofs.to_vec();
    proofs.sort_by(|a, b| a.source.cmp(&b.source));
    proofs
}

fn unchanged(
    fleet: proto_types::FleetId,
    cluster: &Cluster,
    parent: Option<&PointRow>,
    command: &CommitPoint,
    signature: &[u8; 64],
) -> Result<Prepared, Refusal> {
    let parent = parent.ok_or(Refusal::FirstPointUnchanged { cluster: cluster.id })?;
    let statement = PointStatement {
        fleet,
        cluster: cluster.id,
        lineage: cluster.lineage,
        sequence: command.sequence,
        epoch: command.epoch,
        taken: command.taken,
        manifest: parent.manifest,
        key_bundle: parent.key_bundle,
    };
    if !statement.is_signed_by(&cluster.signing_key, signature) {
        return Err(Refusal::BadStatement { cluster: cluster.id, sequence: command.sequence });
    }
    Ok(Prepared {
        manifest: parent.manifest,
        base: parent.base,
        key_bundle: parent.key_bundle,
        wraps: parent.wraps,
        rows: BTreeMap::new(),
        dropped: Vec::new(),
        needs: parent.needs.clone(),
        statement: Some(*signature),
    })
}

/// Invariant B1: every needed bundle, inherited ones included, is on a majority of the voters, or
/// in the bucket.
fn require_durable(
    state: &State,
    context: &Context<'_>,
    prepared: &Prepared,
) -> Result<(), Refusal> {
    let voters = state.durable_on(context.log.voters);
    for bundle in &prepared.needs {
        let row = prepared.rows.get(bundle).or_else(|| state.bundle(bundle));
        bucket::require_durable(*bundle, row, &voters)?;
    }
    Ok(())
}

/// Everything is checked: the point comes into being. Cannot fail, so it happens as a whole.
fn install(
    state: &mut State,
    context: &mut Context<'_>,
    command: &CommitPoint,
    proofs: Vec<Proof>,
    prepared: Prepared,
) -> Outcome {
    let added: Vec<BundleId> = prepared.rows.keys().copied().collect();
    let stored_bytes_added =
        prepared.rows.values().fold(0_u64, |sum, row| sum.saturating_add(row.facts.bytes));
    bucket::keep(state, prepared.rows.iter());
    state.bundles.extend(prepared.rows);
    for bundle in &prepared.needs {
        let row = state.bundles.get_mut(bundle).expect("needed bundles were found durable");
        row.points += 1;
    }
    let mut cluster = state.clusters[&command.cluster].as_ref().clone();
    let row = PointRow {
        cluster: command.cluster,
        sequence: command.sequence,
        parent: cluster.head.sequence,
        manifest: prepared.manifest,
        base: prepared.base,
        key_bundle: prepared.key_bundle,
        wraps: prepared.wraps,
        added: added.clone(),
        dropped: prepared.dropped,
        needs: prepared.needs,
        committed: context.now,
        index: context.log.index,
        generation: state.fleet().map_or(0, |fleet| fleet.generation),
        taken: command.taken,
        epoch: command.epoch,
        lineage: cluster.lineage,
        lease: command.lease,
        proofs,
        items: command.items,
        logical_bytes: command.logical_bytes,
        stored_bytes_added,
        statement: prepared.statement,
    };
    let outcome = committed(&row);
    cluster.head = Head { sequence: row.sequence, manifest: Some(row.manifest) };
    state.clusters.insert(cluster.id, Arc::new(cluster));
    context.events.push(Event::PointCommitted {
        cluster: row.cluster,
        sequence: row.sequence,
        manifest: row.manifest,
        added,
    });
    state.points.insert((row.cluster, row.sequence), Arc::new(row));
    if let Some(lease) = command.lease {
        leases::end_upload(state, context, lease, LeaseEnd::Committed);
    }
    // They build on what is the head no more, so they can never be committed: let go of them now.
    leases::supersede_uploads(state, context, &command.cluster);
    outcome
}

//! Another recovery key follows the fleet's. What is sealed to the one before is renewed file by
//! file: a wraps file is the one part of a point that may be replaced (B3), because its key bundle
//! stays the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;
use proto_types::{BundleId, BundleKind, ClusterId, RecoverySuccession, SigningPublicKey};

use super::{FORMER_MAX, FormerKey, ReplaceWraps, RotateRecovery, refused};
use crate::apply::Context;
use crate::limits::AUTHORITY_KEY_BYTES_MAX;
use crate::outcome::{LeaseEnd, Outcome};
use crate::refusal::{Field, KeysProblem, Refusal};
use crate::rows::{
    Authority, BundleFacts, BundleRow, Fleet, ObjectRow, PointRow, RecoveryPublicKey,
};
use crate::state::State;
use crate::{bucket, clusters, commit, fleet, leases};

pub(super) fn begin(
    state: &mut State,
    context: &Context<'_>,
    command: &RotateRecovery,
) -> Result<Outcome, Refusal> {
    let fleet = fleet::require(state)?;
    let last = state.keys.former.last();
    if fleet.recovery == command.successor && last.is_some_and(|f| f.signature == command.signature)
    {
        return Ok(Outcome::RecoveryRotated { generation: generation(state) });
    }
    if last.is_some_and(|former| !former.finished) {
        return Err(refused(KeysProblem::RotationUnderWay));
    }
    let keys = state.keys.former.iter().map(|former| former.key).chain([fleet.recovery]);
    if command.successor.hpke == [0; 32]
        || command.successor.signing == [0; 32]
        || keys.into_iter().any(|key| key == command.successor)
    {
        return Err(Refusal::InvalidField { field: Field::PublicKey });
    }
    let succession = RecoverySuccession {
        fleet: fleet.id,
        former: fleet.recovery.fingerprint(),
        hpke: command.successor.hpke,
        signing: command.successor.signing,
    };
    let signer = SigningPublicKey::from_bytes(fleet.recovery.signing);
    if !succession.is_signed_by(&signer, &command.signature) {
        return Err(refused(KeysProblem::NotSignedByFormer));
    }
    if state.keys.former.len() >= FORMER_MAX {
        return Err(refused(KeysProblem::TooMany));
    }
    let sealed = &command.sealed_root_key;
    let authority = match state.authority() {
        None if sealed.is_empty() => None,
        Some(there) if (1..=AUTHORITY_KEY_BYTES_MAX).contains(&sealed.len()) => {
            let root_certificate = there.root_certificate.clone();
            Some(Arc::new(Authority { root_certificate, sealed_root_key: sealed.clone() }))
        }
        Some(_) | None => return Err(Refusal::InvalidField { field: Field::Authority }),
    };
    let mut next = fleet.clone();
    let former = FormerKey {
        key: fleet.recovery,
        signature: command.signature,
        since: context.now,
        finished: false,
    };
    next.recovery = command.successor;
    state.fleet = Some(Arc::new(next));
    state.keys.former.push_back(Arc::new(former));
    // They are shares of the key before.
    state.keys.attests.clear();
    if authority.is_some() {
        state.authority = authority;
    }
    Ok(Outcome::RecoveryRotated { generation: generation(state) })
}

pub(super) fn replace(
    state: &mut State,
    context: &mut Context<'_>,
    command: &ReplaceWraps,
) -> Result<Outcome, Refusal> {
    let cluster = clusters::require(state, &command.cluster)?;
    let fleet = fleet::require(state)?;
    let points: Vec<Arc<PointRow>> = state
        .points
        .range((cluster.id, proto_types::Sequence::new(0))..)
        .take_while(|((of, _), _)| *of == cluster.id)
        .map(|(_, point)| point.clone())
        .collect();
    let old: BTreeSet<BundleId> = points
        .iter()
        .filter(|point| point.key_bundle == command.key_bundle)
        .map(|point| point.wraps)
        .collect();
    if old.contains(&command.wraps.id) {
        return Ok(Outcome::KeysNoted { new: false });
    }
    if old.is_empty() {
        return Err(refused(KeysProblem::WrapsUnknown));
    }
    if !command.wraps.carried.is_empty() {
        return Err(Refusal::InvalidField { field: Field::Carried });
    }
    let facts = commit::wraps_facts(state, fleet, cluster, command.key_bundle, &command.wraps)?;
    if state.bundle(&command.wraps.id).is_some() {
        return Err(Refusal::BundleRepeated { bundle: command.wraps.id });
    }
    let lease = state.upload(&command.lease).ok_or(Refusal::LeaseGone { lease: command.lease })?;
    if lease.cluster != cluster.id {
        return Err(Refusal::LeaseOfAnother { lease: command.lease });
    }
    // Whoever reads a point now was told the names of its files (B2).
    let in_use = state.reads.values().any(|lease| old.iter().any(|id| lease.pinned.contains(id)));
    if in_use {
        return Err(refused(KeysProblem::WrapsInUse));
    }
    let mut row = BundleRow {
        facts: Arc::new(facts),
        holders: command.wraps.holders.iter().copied().collect(),
        points: 0,
        object: None,
        in_log: false,
    };
    if row.holders.len() != command.wraps.holders.len() {
        return Err(Refusal::InvalidField { field: Field::Holders });
    }
    bucket::find_one_announced(state, Some(command.lease), &command.wraps, &mut row)?;
    let voters = state.durable_on(context.log.voters);
    bucket::require_durable(command.wraps.id, Some(&row), &voters)?;
    // Everything is checked.
    let id = cluster.id;
    leases::end_upload(state, context, command.lease, LeaseEnd::Committed);
    // They build on a point that is written down anew.
    leases::supersede_uploads(state, context, &id);
    if let Some(generation) = row.object {
        state.objects.remove(&(generation, command.wraps.id));
    }
    state.bundles.insert(command.wraps.id, row);
    rename(state, id, &old, command.wraps.id);
    Ok(Outcome::KeysNoted { new: true })
}

/// Everywhere in the cluster's points the new file stands for the old ones. In all of them, so that
/// what a point needs still follows from what its parent needs.
fn rename(state: &mut State, cluster: ClusterId, old: &BTreeSet<BundleId>, new: BundleId) {
    let keys: Vec<_> = state
        .points
        .range((cluster, proto_types::Sequence::new(0))..)
        .map(|(key, _)| *key)
        .take_while(|(of, _)| *of == cluster)
        .collect();
    let mut before = OrdSet::new();
    for key in keys {
        let point = &state.points[&key];
        let mut next = point.as_ref().clone();
        let takes = |ids: &[BundleId]| {
            let mut ids: Vec<BundleId> =
                ids.iter().map(|id| if old.contains(id) { new } else { *id }).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        for id in old {
            if next.needs.remove(id).is_some() {
                next.needs.insert(new);
                bear(state, &new, 1);
                bear(state, id, -1);
            }
        }
        if old.contains(&next.wraps) {
            next.wraps = new;
        }
        // A point whose wraps alone were replaced before adds and drops the same file now.
        let (added, dropped) = (takes(&next.added), takes(&next.dropped));
        let had = before.contains(&new);
        let has = next.needs.contains(&new);
        next.added = added.into_iter().filter(|id| *id != new || (has && !had)).collect();
        next.dropped = dropped.into_iter().filter(|id| *id != new || (had && !has)).collect();
        before = next.needs.clone();
        state.points.insert(key, Arc::new(next));
    }
    for id in old {
        let Some(row) = state.bundles.remove(id) else { continue };
        debug_assert_eq!(row.points, 0, "no other cluster's point needs the wraps");
        if let Some(generation) = row.object {
            let object = ObjectRow { bytes: row.facts.bytes, lease: None };
            state.objects.insert((generation, *id), object);
        }
    }
}

fn bear(state: &mut State, bundle: &BundleId, points: i64) {
    if let Some(row) = state.bundles.get_mut(bundle) {
        row.points = row.points.saturating_add_signed(points);
    }
}

pub(super) fn finish(state: &mut State) -> Result<Outcome, Refusal> {
    let Some(last) = state.keys.former.last().filter(|former| !former.finished) else {
        return Ok(Outcome::KeysNoted { new: false });
    };
    if state.wraps_owed().next().is_some() {
        return Err(refused(KeysProblem::WrapsLeft));
    }
    let finished = FormerKey { finished: true, ..last.as_ref().clone() };
    state.keys.former.pop_back();
    state.keys.former.push_back(Arc::new(finished));
    Ok(Outcome::KeysNoted { new: true })
}

/// Which of the fleet's recovery keys this is, by the number of those before it; `None`: none that
/// bundles may be sealed to now.
pub(crate) fn number_of(
    state: &State,
    fleet: &Fleet,
    named: proto_types::KeyFingerprint,
) -> Option<u32> {
    let of = |key: &RecoveryPublicKey| key.fingerprint() == named;
    if of(&fleet.recovery) {
        return Some(generation(state));
    }
    // An agent that does not know of the successor yet goes on, until the rotation is over.
    let last = state.keys.former.last().filter(|former| !former.finished && of(&former.key));
    last.map(|_| generation(state) - 1)
}

fn generation(state: &State) -> u32 {
    u32::try_from(state.keys.former.len()).unwrap_or(u32::MAX)
}

impl State {
    /// Wraps that are sealed to a former recovery key, with their facts.
    pub fn wraps_owed(&self) -> impl Iterator<Item = (&BundleId, &BundleFacts)> {
        let newest = generation(self);
        self.bundles
            .iter()
            .filter(move |(_, row)| {
                row.facts.kind == BundleKind::Wraps && row.facts.recovery < newest
            })
            .map(|(id, row)| (id, row.facts.as_ref()))
    }

    /// Whether another recovery key follows and not everything is renewed.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.keys.former.last().is_some_and(|former| !former.finished)
    }

    /// The key bundles of a cluster whose wraps are sealed to a former recovery key, oldest point
    /// first, each once, with a point that needs it.
    #[must_use]
    pub fn key_bundles_owed(&self, cluster: &ClusterId) -> Vec<(BundleId, proto_types::Sequence)> {
        let newest = generation(self);
        let mut found: Vec<(BundleId, proto_types::Sequence)> = Vec::new();
        for point in self.points(cluster) {
            let owed = self.bundle(&point.wraps).is_some_and(|row| row.facts.recovery < newest);
            if owed && !found.iter().any(|(id, _)| *id == point.key_bundle) {
                found.push((point.key_bundle, point.sequence));
            }
        }
        found
    }
}

//! A cluster whose agent lost the keys that open its last point begins a new lineage: its next point
//! is full, under new keys. Signed by the registered signing key that is all; with a new signing key
//! an operator has to say that it is the cluster's, and until then its points are not proved (K3).

use std::sync::Arc;

use proto_types::{ClusterId, LineageStatement, SigningPublicKey};

use super::{ApproveLineage, BeginLineage, LINEAGE_UNAPPROVED, Lineage, refused};
use crate::apply::Context;
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, KeysProblem, Refusal};
use crate::rows::{Finding, FindingKey, Proof, ProofState, Scope, Severity};
use crate::state::State;
use crate::{clusters, fleet, leases};

/// Signing keys that a cluster may have lost before somebody looks into it.
const FORMER_SIGNERS_MAX: usize = 64;
/// Why no point of an unapproved key is proved.
const UNAPPROVED: &str = "signed by a new key that no operator has approved";

pub(super) fn begin(
    state: &mut State,
    context: &mut Context<'_>,
    command: &BeginLineage,
) -> Result<Outcome, Refusal> {
    let cluster = clusters::require_epoch(state, &command.cluster, command.epoch)?.clone();
    let fleet = fleet::require(state)?;
    let there = state.keys.lineages.get(&cluster.id).cloned();
    let approved = |lineage: Option<&Lineage>| lineage.is_none_or(|l| l.unapproved.is_none());
    if cluster.lineage == command.lineage && cluster.signing_key == command.signing_key {
        let approved = approved(there.as_deref());
        return Ok(Outcome::LineageBegun { lineage: cluster.lineage, approved });
    }
    if Some(command.lineage) != cluster.lineage.checked_add(1) {
        return Err(refused(KeysProblem::LineageNotNext));
    }
    if command.signing_key == SigningPublicKey::ZERO {
        return Err(Refusal::InvalidField { field: Field::PublicKey });
    }
    let statement = LineageStatement {
        fleet: fleet.id,
        cluster: cluster.id,
        lineage: command.lineage,
        signing_key: command.signing_key,
    };
    if !statement.is_signed_by(&command.signing_key, &command.signature) {
        return Err(refused(KeysProblem::LineageNotSigned));
    }
    let mut row = there.map_or_else(
        || Lineage { former: Vec::new(), unapproved: None },
        |row| row.as_ref().clone(),
    );
    let same_signer = cluster.signing_key == command.signing_key;
    if !same_signer {
        // One that nobody approved never was the cluster's, so it is not remembered as such.
        if row.unapproved.is_none() {
            row.former.push(cluster.signing_key);
        }
        if row.former.len() > FORMER_SIGNERS_MAX {
            return Err(refused(KeysProblem::TooMany));
        }
        // One that was approved before needs nobody's word again.
        let known = row.former.contains(&command.signing_key);
        row.unapproved = (!known).then_some(context.now);
    }
    // Everything is checked. What the agent had under way is sealed under keys that are gone.
    let approved = row.unapproved.is_none();
    let mut next = cluster;
    (next.lineage, next.signing_key) = (command.lineage, command.signing_key);
    let id = next.id;
    if approved {
        state.findings.remove(&finding_key(id));
    } else {
        raise(state, context, id, &command.signing_key);
    }
    state.clusters.insert(id, Arc::new(next));
    state.keys.lineages.insert(id, Arc::new(row));
    leases::supersede_uploads(state, context, &id);
    Ok(Outcome::LineageBegun { lineage: command.lineage, approved })
}

pub(super) fn approve(
    state: &mut State,
    context: &mut Context<'_>,
    command: ApproveLineage,
) -> Result<Outcome, Refusal> {
    let cluster = clusters::require(state, &command.cluster)?;
    if cluster.signing_key != command.signing_key {
        return Err(refused(KeysProblem::OtherSigningKey));
    }
    let id = cluster.id;
    let Some(row) = state.keys.lineages.get(&id).filter(|row| row.unapproved.is_some()) else {
        return Ok(Outcome::KeysNoted { new: false });
    };
    let row = Lineage { unapproved: None, ..row.as_ref().clone() };
    state.keys.lineages.insert(id, Arc::new(row));
    let key = finding_key(id);
    if state.findings.remove(&key).is_some() {
        context.events.push(Event::FindingCleared { key });
    }
    Ok(Outcome::KeysNoted { new: true })
}

fn finding_key(cluster: ClusterId) -> FindingKey {
    FindingKey {
        scope: Scope::Cluster(cluster),
        kind: LINEAGE_UNAPPROVED.to_owned(),
        subject: String::new(),
    }
}

fn raise(state: &mut State, context: &mut Context<'_>, id: ClusterId, signer: &SigningPublicKey) {
    let key = finding_key(id);
    let finding = Finding {
        severity: Severity::Critical,
        since: context.now,
        last_seen: context.now,
        message: format!(
            "the cluster's agent signs with a new key, fingerprint {}: it says that the one before \
             is lost; no point is proved until an operator approves the key",
            signer.fingerprint()
        ),
        remedy:
            "compare the fingerprint with what `strongroom agent keys` prints on the cluster, then \
                 `strongroom cluster approve-lineage`; if nobody lost a key, revoke the agent"
                .to_owned(),
    };
    context.events.push(Event::FindingRaised { key: key.clone() });
    state.findings.insert(key, Arc::new(finding));
}

/// What is proved by a point of this cluster: nothing, while its signing key waits for an operator.
pub(crate) fn proofs(state: &State, cluster: &ClusterId, proofs: Vec<Proof>) -> Vec<Proof> {
    if state.lineage_of(cluster).is_none_or(|row| row.unapproved.is_none()) {
        return proofs;
    }
    let unapproved = |mut proof: Proof| {
        if proof.state == ProofState::Proved {
            proof.state = ProofState::Unproved { reason: UNAPPROVED.to_owned() };
        }
        proof
    };
    proofs.into_iter().map(unapproved).collect()
}

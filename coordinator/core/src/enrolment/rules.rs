//! What tokens, renewals, revocations and approvals do.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use proto_types::{ClusterId, LogTime, SigningPublicKey};

use super::{
    CreateEnrolToken, DecideEnrolment, EnrolGrant, EnrolToken, Enrolled, Enrolment, PartyId,
    PartyRow, PendingEnrolment, RecordCertificate, RedeemEnrolToken, RevokeParty,
};
use crate::apply::Context;
use crate::audit::{Actor, OperatorRole, Sender};
use crate::command::RegisterCluster;
use crate::limits::{
    ENROL_APPROVED_MS, ENROL_COUNT_MAX, ENROL_TOKEN_TTL_MS_MAX, ENROL_TOKENS_MAX,
    ENROLMENTS_WAITING_MAX,
};
use crate::outcome::Outcome;
use crate::refusal::{Field, Limit, Refusal};
use crate::state::State;
use crate::{clusters, fleet, leases};

/// Generations of a restored fleet begin this much later: what the lost one gave out and revoked
/// after the snapshot is never given out again.
const GENERATION_STEP: u32 = 1_000_000;

/// Makes a token known. One for the same party takes the place of those that are open.
pub(crate) fn create(
    state: &mut State,
    context: &mut Context<'_>,
    command: &CreateEnrolToken,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    if state.authority().is_none() {
        return Err(Refusal::AuthorityMissing);
    }
    let invalid = |field| Refusal::InvalidField { field };
    if !(1..=ENROL_TOKEN_TTL_MS_MAX).contains(&command.ttl_ms) {
        return Err(invalid(Field::EnrolTtl));
    }
    let is_for_many = matches!(command.grant, EnrolGrant::Clusters { .. });
    let most = if is_for_many { ENROL_COUNT_MAX } else { 1 };
    if !(1..=most).contains(&command.count) {
        return Err(invalid(Field::EnrolCount));
    }
    if let Some(there) = state.enrol_token(&command.token) {
        let same = there.left == command.count && is_same(&there.grant, &command.grant);
        return if same { Ok(created(there)) } else { Err(Refusal::EnrolTokenRefused) };
    }
    let grant = checked(state, &command.grant)?;
    let replaced = |token: &EnrolToken| token.left > 0 && is_for_same_party(&token.grant, &grant);
    let gone: Vec<_> = state
        .enrol_tokens
        .iter()
        .filter(|(_, token)| token.expires <= context.now || replaced(token))
        .map(|(hash, _)| *hash)
        .collect();
    let kept = state.enrol_tokens.len() - gone.len() + 1;
    leases::within(Limit::EnrolTokens, kept, ENROL_TOKENS_MAX)?;
    for hash in gone {
        state.enrol_tokens.remove(&hash);
    }
    let expires = context.now.plus_millis(command.ttl_ms);
    let token = EnrolToken { grant, left: command.count, expires };
    let outcome = created(&token);
    state.enrol_tokens.insert(command.token, Arc::new(token));
    Ok(outcome)
}

fn created(token: &EnrolToken) -> Outcome {
    let cluster = match &token.grant {
        EnrolGrant::Cluster { cluster, .. } => Some(*cluster),
        EnrolGrant::Operator { .. } | EnrolGrant::Clusters { .. } => None,
    };
    Outcome::EnrolTokenCreated { cluster, expires: token.expires }
}

/// Ids of new clusters are drawn anew by each try.
fn is_same(there: &EnrolGrant, asked: &EnrolGrant) -> bool {
    match (there, asked) {
        (
            EnrolGrant::Cluster { name, labels, again, .. },
            EnrolGrant::Cluster { name: n, labels: l, again: a, .. },
        ) => (name, again) == (n, a) && (*again || labels == l),
        _ => there == asked,
    }
}

fn is_for_same_party(there: &EnrolGrant, asked: &EnrolGrant) -> bool {
    match (there, asked) {
        (EnrolGrant::Cluster { name, .. }, EnrolGrant::Cluster { name: asked, .. })
        | (EnrolGrant::Operator { name, .. }, EnrolGrant::Operator { name: asked, .. }) => {
            name == asked
        }
        _ => false,
    }
}

/// The grant, if it can be given.
fn checked(state: &State, grant: &EnrolGrant) -> Result<EnrolGrant, Refusal> {
    match grant {
        EnrolGrant::Cluster { cluster, name, labels, again } => {
            check_new(name, labels)?;
            let there = state.cluster_named(name);
            match (there, again) {
                (Some(there), true) => Ok(EnrolGrant::Cluster {
                    cluster: there.id,
                    name: name.clone(),
                    labels: BTreeMap::new(),
                    again: true,
                }),
                (Some(there), false) => {
                    Err(Refusal::ClusterNameTaken { name: name.clone(), cluster: there.id })
                }
                (None, true) => Err(Refusal::NotEnrolled { name: name.clone() }),
                (None, false) if state.cluster(cluster).is_some() => {
                    Err(Refusal::ClusterExists { cluster: *cluster })
                }
                (None, false) => Ok(grant.clone()),
            }
        }
        EnrolGrant::Operator { name, again, .. } => {
            check_operator(name)?;
            let is_there =
                state.party(&PartyId::Operator(name.clone())).is_some_and(|row| !row.is_revoked());
            match (is_there, again) {
                (true, false) => Err(Refusal::AlreadyEnrolled { name: name.clone() }),
                // The first one came with the fleet's files, and no entry says so.
                (true | false, true) | (false, false) => Ok(grant.clone()),
            }
        }
        EnrolGrant::Clusters { labels } => {
            clusters::check_labels(labels)?;
            Ok(grant.clone())
        }
    }
}

fn check_new(name: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    proto_types::check_cluster_name(name)
        .map_err(|_| Refusal::InvalidField { field: Field::ClusterName })?;
    clusters::check_labels(labels)
}

fn check_operator(name: &str) -> Result<(), Refusal> {
    // A label of a DNS name, as that of a cluster.
    proto_types::check_cluster_name(name)
        .map_err(|_| Refusal::InvalidField { field: Field::OperatorName })
}

/// Enrols the holder of a token, or has it wait. Asked again with the same key, as when the answer
/// was lost, it answers the same.
pub(crate) fn redeem(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RedeemEnrolToken,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    match state.enrolment(&command.token, &command.key, context.now) {
        Some(Enrolment::Done { party, generation }) => {
            return Ok(Outcome::Enrolled { cluster: cluster_of(&party), generation });
        }
        Some(Enrolment::Waits { cluster }) => return Ok(Outcome::EnrolmentPending { cluster }),
        Some(Enrolment::Refused) => return Err(Refusal::EnrolTokenRefused),
        None => {}
    }
    let token = state.enrol_tokens.get(&command.token).cloned();
    let token = token
        .filter(|token| token.left > 0 && token.expires > context.now)
        .ok_or(Refusal::EnrolTokenRefused)?;
    let enrolled = Enrolled { token: command.token, key: command.key, until: token.expires };
    let outcome = match &token.grant {
        EnrolGrant::Cluster { cluster, name, labels, .. } => {
            let newcomer = Newcomer {
                cluster: *cluster,
                name,
                labels,
                signing_key: command.signing_key,
                kube_system_uid: command.kube_system_uid.as_ref(),
            };
            newcomer.take_in(state, context)?;
            let party = PartyId::Agent(*cluster);
            let generation = begin(state, context.now, party, None, enrolled, command.ends);
            Outcome::Enrolled { cluster: Some(*cluster), generation }
        }
        EnrolGrant::Operator { name, role, .. } => {
            let party = PartyId::Operator(name.clone());
            let role = Some(*role);
            let generation = begin(state, context.now, party, role, enrolled, command.ends);
            Outcome::Enrolled { cluster: None, generation }
        }
        EnrolGrant::Clusters { labels } => wait(state, context, command, labels, enrolled)?,
    };
    let token = EnrolToken { left: token.left - 1, ..token.as_ref().clone() };
    state.enrol_tokens.insert(command.token, Arc::new(token));
    Ok(outcome)
}

const fn cluster_of(party: &PartyId) -> Option<ClusterId> {
    match party {
        PartyId::Agent(cluster) => Some(*cluster),
        PartyId::Coordinator(_) | PartyId::Operator(_) => None,
    }
}

/// An agent that comes, of a cluster that is there or is to be.
struct Newcomer<'a> {
    cluster: ClusterId,
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    signing_key: SigningPublicKey,
    kube_system_uid: Option<&'a String>,
}

impl Newcomer<'_> {
    /// Registers the cluster; of one that is there, checks that it is the same.
    fn take_in(&self, state: &mut State, context: &mut Context<'_>) -> Result<(), Refusal> {
        if let Some(there) = state.cluster(&self.cluster) {
            return if there.signing_key == self.signing_key {
                Ok(())
            } else {
                Err(Refusal::SigningKeyDiffers { cluster: self.cluster })
            };
        }
        let command = RegisterCluster {
            cluster: self.cluster,
            name: self.name.to_owned(),
            signing_key: self.signing_key,
            labels: self.labels.clone(),
            kube_system_uid: self.kube_system_uid.cloned(),
        };
        clusters::register(state, context, &command).map(drop)
    }
}

/// Begins a new generation of the party's certificates: all before it are void.
fn begin(
    state: &mut State,
    now: LogTime,
    party: PartyId,
    role: Option<OperatorRole>,
    enrolled: Enrolled,
    ends: LogTime,
) -> u32 {
    let before = state.party(&party).cloned().unwrap_or_default();
    let generation = before.issued.saturating_add(1).max(before.least);
    let row = PartyRow {
        least: generation,
        issued: generation,
        since: now,
        ends,
        role,
        enrolled: Some(enrolled),
    };
    state.parties.insert(party, Arc::new(row));
    generation
}

fn wait(
    state: &mut State,
    context: &Context<'_>,
    command: &RedeemEnrolToken,
    labels: &BTreeMap<String, String>,
    enrolled: Enrolled,
) -> Result<Outcome, Refusal> {
    let (name, cluster) = (&command.name, command.candidate);
    check_new(name, labels)?;
    let uid = command.kube_system_uid.as_ref();
    clusters::check_identity(&command.signing_key, uid)?;
    let known = state.cluster_named(name).map(|there| there.id);
    let waits = state.waiting.iter().find(|(_, row)| !row.rejected && row.name == *name);
    if let Some(there) = known.or_else(|| waits.map(|(id, _)| *id)) {
        return Err(Refusal::ClusterNameTaken { name: name.clone(), cluster: there });
    }
    if state.cluster(&cluster).is_some() || state.waiting.contains_key(&cluster) {
        return Err(Refusal::ClusterExists { cluster });
    }
    let over: Vec<ClusterId> = state
        .waiting
        .iter()
        .filter(|(_, row)| row.rejected && row.enrolled.until <= context.now)
        .map(|(id, _)| *id)
        .collect();
    let kept = state.waiting.len() - over.len() + 1;
    leases::within(Limit::Waiting, kept, ENROLMENTS_WAITING_MAX)?;
    for id in over {
        state.waiting.remove(&id);
    }
    let row = PendingEnrolment {
        name: name.clone(),
        labels: labels.clone(),
        signing_key: command.signing_key,
        kube_system_uid: command.kube_system_uid.clone(),
        enrolled,
        since: context.now,
        rejected: false,
    };
    state.waiting.insert(cluster, Arc::new(row));
    Ok(Outcome::EnrolmentPending { cluster })
}

/// Approves or rejects an agent that waits. Said again it answers the same.
pub(crate) fn decide(
    state: &mut State,
    context: &mut Context<'_>,
    command: DecideEnrolment,
) -> Result<Outcome, Refusal> {
    let cluster = command.cluster;
    let decided = Ok(Outcome::EnrolmentDecided { approved: command.approve });
    let Some(row) = state.waiting.get(&cluster).cloned() else {
        let is_enrolled = state.party(&PartyId::Agent(cluster)).is_some();
        return if command.approve && is_enrolled {
            decided
        } else {
            Err(Refusal::NobodyWaits { cluster })
        };
    };
    if !command.approve {
        let row = PendingEnrolment { rejected: true, ..row.as_ref().clone() };
        state.waiting.insert(cluster, Arc::new(row));
        return decided;
    }
    let newcomer = Newcomer {
        cluster,
        name: &row.name,
        labels: &row.labels,
        signing_key: row.signing_key,
        kube_system_uid: row.kube_system_uid.as_ref(),
    };
    newcomer.take_in(state, context)?;
    state.waiting.remove(&cluster);
    // It comes for its certificate when it asks the next time.
    let until = row.enrolled.until.max(context.now.plus_millis(ENROL_APPROVED_MS));
    let enrolled = Enrolled { until, ..row.enrolled };
    begin(state, context.now, PartyId::Agent(cluster), None, enrolled, LogTime::ZERO);
    decided
}

/// Records that a party gets a new certificate over a valid one.
pub(crate) fn renew(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RecordCertificate,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let (party, generation) = (&command.party, command.generation);
    match party {
        PartyId::Coordinator(node) if state.was_removed(*node) => {
            return Err(Refusal::NodeWasRemoved { node: *node });
        }
        PartyId::Agent(cluster) => drop(clusters::require(state, cluster)?.id),
        PartyId::Operator(name) => check_operator(name)?,
        PartyId::Coordinator(_) => {}
    }
    if state.is_void(party, generation) {
        return Err(Refusal::CertificateVoid);
    }
    let row = state.party(party).cloned().unwrap_or_default();
    let row = PartyRow {
        issued: row.issued.max(generation),
        since: context.now,
        ends: command.ends,
        ..row
    };
    state.parties.insert(party.clone(), Arc::new(row));
    Ok(Outcome::CertificateRecorded { generation })
}

/// Makes void what a party has. An operator cannot do it to himself, so that one admin remains.
pub(crate) fn revoke(
    state: &mut State,
    context: &mut Context<'_>,
    sender: Option<&Sender>,
    command: &RevokeParty,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let party = &command.party;
    match party {
        // One that must go is removed, which is for ever.
        PartyId::Coordinator(node) => return Err(Refusal::NodeUnknown { node: *node }),
        PartyId::Agent(cluster) => drop(clusters::require(state, cluster)?.id),
        PartyId::Operator(name) => {
            check_operator(name)?;
            let own = sender.map(|sender| &sender.actor);
            if matches!(own, Some(Actor::Operator { name: own, .. }) if own == name) {
                return Err(Refusal::OwnCertificate);
            }
        }
    }
    let before = state.party(party).cloned();
    let was_known = before.is_some();
    let before = before.unwrap_or_default();
    if !before.is_revoked() {
        let least = before.issued.max(before.least).saturating_add(1);
        let row = PartyRow { least, since: context.now, ends: LogTime::ZERO, ..before };
        state.parties.insert(party.clone(), Arc::new(row));
    }
    withdraw(state, party);
    Ok(Outcome::PartyRevoked { was_known })
}

/// What the party might still enrol with goes.
fn withdraw(state: &mut State, party: &PartyId) {
    let gone: Vec<_> = state
        .enrol_tokens
        .iter()
        .filter(|(_, token)| token.left > 0 && is_for(&token.grant, party))
        .map(|(hash, _)| *hash)
        .collect();
    for hash in gone {
        state.enrol_tokens.remove(&hash);
    }
}

fn is_for(grant: &EnrolGrant, party: &PartyId) -> bool {
    match (grant, party) {
        (EnrolGrant::Cluster { cluster, .. }, PartyId::Agent(id)) => cluster == id,
        (EnrolGrant::Operator { name, .. }, PartyId::Operator(of)) => name == of,
        _ => false,
    }
}

/// Takes over what a snapshot says of agents and operators; coordinators are new. Tokens end with
/// the fleet that gave them.
pub(crate) fn adopt(state: &mut State, theirs: &OrdMap<PartyId, Arc<PartyRow>>) {
    for (party, row) in theirs {
        if matches!(party, PartyId::Coordinator(_)) {
            continue;
        }
        let ours = state.party(party).cloned().unwrap_or_default();
        let mut row = row.as_ref().clone();
        row.least = row.least.max(ours.least);
        let was_revoked = row.is_revoked();
        row.issued = row.issued.max(ours.issued).saturating_add(GENERATION_STEP);
        if was_revoked {
            // Nobody has one of these.
            row.least = row.issued.saturating_add(1);
        }
        row.enrolled = None;
        state.parties.insert(party.clone(), Arc::new(row));
    }
}

/// The party is gone: what it has is void, and stays so.
pub(crate) fn forget(state: &mut State, party: &PartyId) {
    let before = state.party(party).cloned().unwrap_or_default();
    let least = before.issued.max(before.least).saturating_add(1);
    let row = PartyRow { least, ends: LogTime::ZERO, enrolled: None, ..before };
    state.parties.insert(party.clone(), Arc::new(row));
    withdraw(state, party);
}

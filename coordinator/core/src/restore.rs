//! Bringing a snapshot's state into an empty fleet: the encoded state arrives in pieces through the
//! log, so that it is durable on a majority like everything else, and takes effect in one entry, or
//! not at all. The fleet goes on as a new generation: what the old one may have issued after the
//! snapshot (epochs, numbers of points, node ids) is never issued again.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use proto_types::{Epoch, LeaseId, NodeId, Sequence};
use sha2::{Digest, Sha256};

use crate::apply::Context;
use crate::command::{AbandonRestore, BeginRestore, FinishRestore, RestorePiece};
use crate::leases::within;
use crate::outcome::{Event, LeaseEnd, Outcome};
use crate::refusal::{Field, Limit, Refusal, RestoreProblem};
use crate::rows::{
    BundleHome, Cluster, Finding, FindingKey, Home, NodeRow, NodeState, ObjectRow, Restore, Scope,
    Severity,
};
use crate::state::State;
use crate::{codec, delayed, enrolment, fleet, limits};

/// Points of a new generation are numbered from the next multiple of this and one: no cluster makes
/// as many between two snapshots, and a number tells at a glance that a restore lies before it.
const SEQUENCE_STEP: u64 = 1_000_000;
/// Epochs of a new generation begin this much later: an agent instance takes one each.
const EPOCH_STEP: u64 = 1_000_000;

/// Begins a restore, or goes on with the same one.
pub(crate) fn begin(
    state: &mut State,
    context: &mut Context<'_>,
    command: &BeginRestore,
) -> Result<Outcome, Refusal> {
    let fleet = fleet::require(state)?;
    if fleet.id != command.fleet {
        return Err(Refusal::RestoreRefused { problem: RestoreProblem::OtherFleet });
    }
    if !command.force && fleet.name != command.fleet_name {
        return Err(Refusal::RestoreRefused { problem: RestoreProblem::OtherName });
    }
    if !(1..=limits::RESTORE_BYTES_MAX).contains(&command.state_bytes) {
        return Err(Refusal::InvalidField { field: Field::RestoreSize });
    }
    within(Limit::RestoreNodes, command.nodes.len(), limits::RESTORE_NODES_MAX)?;
    if let Some(restore) = &state.restore
        && restore.state_sha256 == command.state_sha256
        && restore.state_bytes == command.state_bytes
    {
        return Ok(begun(restore));
    }
    require_empty(state)?;
    if let Some(restore) = &state.restore {
        return Err(Refusal::RestoreUnderWay { restore: restore.id });
    }
    if state.lease_live(&command.restore) {
        return Err(Refusal::LeaseExists { lease: command.restore });
    }
    let restore = Restore {
        id: command.restore,
        index: context.log.index,
        begun: context.now,
        state_sha256: command.state_sha256,
        state_bytes: command.state_bytes,
        nodes: command.nodes.clone(),
        pieces: imbl::Vector::new(),
        received: 0,
    };
    let outcome = begun(&restore);
    state.restore = Some(restore);
    Ok(outcome)
}

fn begun(restore: &Restore) -> Outcome {
    Outcome::RestoreBegun { restore: restore.id, index: restore.index, received: restore.received }
}

/// Nothing is ever overwritten: a fleet that has clusters keeps them.
fn require_empty(state: &State) -> Result<(), Refusal> {
    if state.clusters.is_empty() {
        Ok(())
    } else {
        Err(Refusal::RestoreRefused { problem: RestoreProblem::NotEmpty })
    }
}

/// Takes the next piece of the encoded state. One that is there already answers the same.
pub(crate) fn piece(state: &mut State, command: &RestorePiece) -> Result<Outcome, Refusal> {
    let restore = require(state, command.restore)?;
    let bytes = command.bytes.len() as u64;
    let end = command.offset.saturating_add(bytes);
    let fits = (1..=limits::RESTORE_PIECE_BYTES_MAX).contains(&command.bytes.len())
        && end <= restore.state_bytes;
    if !fits {
        return Err(Refusal::InvalidField { field: Field::RestorePiece });
    }
    if end > restore.received {
        if command.offset != restore.received {
            return Err(Refusal::InvalidField { field: Field::RestorePiece });
        }
        let restore = state.restore.as_mut().expect("it was just found");
        restore.pieces.push_back(command.bytes.clone());
        restore.received = end;
    }
    let received = state.restore.as_ref().map_or(0, |restore| restore.received);
    Ok(Outcome::RestoreReceived { received })
}

/// Gives a restore up; the fleet is empty again.
pub(crate) fn abandon(
    state: &mut State,
    context: &mut Context<'_>,
    command: &AbandonRestore,
) -> Result<Outcome, Refusal> {
    let id = require(state, command.restore)?.id;
    end(state, context, id, LeaseEnd::Abandoned);
    Ok(Outcome::LeaseEnded { lease: id, was_live: true })
}

fn end(state: &mut State, context: &mut Context<'_>, id: LeaseId, how: LeaseEnd) {
    state.restore = None;
    // Of no cluster: what it brought in belongs to many.
    let cluster = proto_types::ClusterId::ZERO;
    context.events.push(Event::LeaseEnded { lease: id, cluster, end: how });
}

fn require(state: &State, id: LeaseId) -> Result<&Restore, Refusal> {
    state
        .restore
        .as_ref()
        .filter(|restore| restore.id == id)
        .ok_or(Refusal::LeaseGone { lease: id })
}

/// The whole state is here: it takes the place of the empty one.
pub(crate) fn finish(
    state: &mut State,
    context: &mut Context<'_>,
    command: &FinishRestore,
) -> Result<Outcome, Refusal> {
    if let Some(fleet) = state.fleet()
        && fleet.restored_from == Some(command.restore)
    {
        return Ok(Outcome::Restored { generation: fleet.generation });
    }
    let restore = require(state, command.restore)?;
    require_empty(state)?;
    let problem = |problem| Refusal::RestoreRefused { problem };
    if restore.received != restore.state_bytes {
        return Err(problem(RestoreProblem::Incomplete));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(restore.state_bytes).unwrap_or(0));
    for piece in &restore.pieces {
        bytes.extend_from_slice(piece);
    }
    if Sha256::digest(&bytes)[..] != restore.state_sha256[..] {
        return Err(problem(RestoreProblem::Damaged));
    }
    let snapshot = codec::read_state(&mut &bytes[..]).map_err(|error| match error {
        codec::DecodeError::UnsupportedVersion { .. } | codec::DecodeError::Unknown { .. } => {
            problem(RestoreProblem::Newer)
        }
        _ => problem(RestoreProblem::Damaged),
    })?;
    // A program that reads it comes to the same answer as one that does not.
    if snapshot.level() > state.level() {
        return Err(problem(RestoreProblem::Newer));
    }
    let (ours, theirs) = (fleet::require(state)?, snapshot.fleet());
    let theirs = theirs.ok_or_else(|| problem(RestoreProblem::Damaged))?;
    if theirs.id != ours.id {
        return Err(problem(RestoreProblem::OtherFleet));
    }
    if theirs.recovery != ours.recovery {
        return Err(problem(RestoreProblem::OtherRecoveryKey));
    }
    // Nobody whom the snapshot's fleet knew could connect to this one.
    if let (Some(ours), Some(theirs)) = (state.authority(), snapshot.authority())
        && ours.root_certificate != theirs.root_certificate
    {
        return Err(problem(RestoreProblem::OtherAuthority));
    }
    let generation = theirs.generation.max(ours.generation).saturating_add(1);
    let (id, old_nodes) = (restore.id, restore.nodes.clone());
    // This fleet's own audit log goes on. Where the other one ended is said in it for ever, so that
    // the log in the snapshot can be held against it.
    let before = snapshot.audit().head();
    context.audit_note = format!(
        "generation {generation}, audit log before ended with entry {} {}",
        before.number,
        hex::encode(before.hash)
    );
    adopt(state, context, snapshot, generation, id, &old_nodes);
    end(state, context, id, LeaseEnd::Committed);
    context.events.push(Event::Restored { generation });
    Ok(Outcome::Restored { generation })
}

/// Everything is checked. What the snapshot says of clusters, points and bundles is taken over, what
/// it says of the coordinators of then is not.
fn adopt(
    state: &mut State,
    context: &Context<'_>,
    snapshot: State,
    generation: u32,
    restore: LeaseId,
    old_nodes: &BTreeSet<NodeId>,
) {
    let mut gone = old_nodes.clone();
    gone.extend(snapshot.nodes.keys());
    for row in snapshot.bundles.values() {
        gone.extend(&row.holders);
    }
    let snapshot_time = snapshot.time;
    state.time = state.time.max(snapshot.time);
    let mut fleet = state.fleet.as_deref().expect("a restore was begun in a fleet").clone();
    fleet.generation = generation;
    fleet.restored_from = Some(restore);
    // When the fleet began, not when its new coordinators did.
    fleet.created = snapshot.fleet.as_deref().map_or(fleet.created, |theirs| theirs.created);
    state.fleet = Some(Arc::new(fleet));
    // The new coordinators' own, where they have one: it signed their certificates.
    if state.authority.is_none() {
        state.authority = snapshot.authority;
    }
    state.clusters = snapshot.clusters.iter().map(|(id, row)| (*id, Arc::new(next(row)))).collect();
    state.points = snapshot.points;
    state.bundles = snapshot
        .bundles
        .into_iter()
        .map(|(id, mut row)| {
            // Nobody has it until a node of this fleet says so.
            row.holders.clear();
            row.in_log = false;
            (id, row)
        })
        .collect();
    // Leases end with the fleet that gave them; sessions' results stay, so that what was done is not
    // done again.
    state.uploads = OrdMap::new();
    // Bundles that were in a bucket are fetched to the disks first: what of it is still there nobody
    // knows, and copies that came with the snapshot must not be released for it. What the old
    // fleet's uploads had begun there is given up.
    if state.bundles.values().any(|row| row.object.is_some()) {
        let index = context.log.index;
        state.home = Home {
            to: BundleHome::Disks,
            began: index,
            copies: snapshot.home.copies,
            settled: false,
            changed: index,
        };
    }
    state.objects = snapshot
        .objects
        .into_iter()
        .map(|(key, row)| (key, ObjectRow { lease: None, ..row }))
        .collect();
    state.keys = snapshot.keys;
    state.last_snapshot = snapshot.last_snapshot;
    state.last_good_snapshot = snapshot.last_good_snapshot;
    state.reads = OrdMap::new();
    enrolment::adopt(state, &snapshot.parties);
    // What waited then is asked for again, if it is still wanted; findings of it go with it.
    state.act_delay = snapshot.act_delay;
    state.sessions = state.sessions.clone().union(snapshot.sessions);
    let findings = snapshot
        .findings
        .into_iter()
        .filter(|(key, _)| !matches!(key.scope, Scope::Node(_)) && key.kind != delayed::FINDING);
    for (key, finding) in findings {
        if !state.findings.contains_key(&key) {
            state.findings.insert(key, finding);
        }
    }
    remove_old_nodes(state, context, snapshot.nodes, gone);
    let key = FindingKey {
        scope: Scope::Fleet,
        kind: "restored".to_owned(),
        subject: generation.to_string(),
    };
    let finding = Finding {
        severity: Severity::Warning,
        since: context.now,
        last_seen: context.now,
        message: format!(
            "the fleet was restored from a snapshot of log time {} ms and is generation \
             {generation}: what was committed after that moment is not here",
            snapshot_time.as_millis()
        ),
        remedy: "make sure that no coordinator of the old fleet runs any more, let every cluster \
                 back up, look at `strongroom backup list`, then clear this finding"
            .to_owned(),
    };
    state.findings.insert(key, Arc::new(finding));
}

/// The cluster in the new generation: its agents begin new sessions, its points new numbers.
fn next(row: &Cluster) -> Cluster {
    let mut cluster = row.clone();
    cluster.epoch = Epoch::new(cluster.epoch.get().saturating_add(EPOCH_STEP));
    cluster.instance = None;
    cluster.sequence_floor = floor_after(row);
    cluster
}

/// Beyond every number that the cluster's points may have had in what is lost.
pub(crate) fn floor_after(cluster: &Cluster) -> Sequence {
    let issued = cluster.sequence_floor.max(cluster.head.sequence).get();
    Sequence::new((issued / SEQUENCE_STEP).saturating_add(1).saturating_mul(SEQUENCE_STEP))
}

/// Coordinators of the old fleet must never take part again: they still have their certificates.
fn remove_old_nodes(
    state: &mut State,
    context: &Context<'_>,
    rows: OrdMap<NodeId, Arc<NodeRow>>,
    gone: BTreeSet<NodeId>,
) {
    for node in gone {
        let belongs = context.log.voters.all().contains(&node)
            || state.nodes.get(&node).is_some_and(|row| row.state == NodeState::Admitted);
        if belongs {
            continue;
        }
        let (name, address) = match rows.get(&node) {
            Some(row) => (row.name.clone(), row.address.clone()),
            None => (String::new(), String::new()),
        };
        let row =
            NodeRow { id: node, name, address, state: NodeState::Removed, since: context.now };
        state.nodes.insert(node, Arc::new(row));
    }
}

impl State {
    /// The restore under way.
    #[must_use]
    pub fn restore(&self) -> Option<&Restore> {
        self.restore.as_ref()
    }

    /// Bundles that points need and no coordinator is known to have.
    #[must_use]
    pub fn absent_bundles(&self) -> BTreeSet<proto_types::BundleId> {
        self.bundles.iter().filter(|(_, row)| row.is_nowhere()).map(|(id, _)| *id).collect()
    }

    /// How many of the bundles that a point needs no coordinator is known to have: with more than
    /// none the point cannot be restored.
    #[must_use]
    pub fn absent_of(&self, point: &crate::rows::PointRow) -> u64 {
        self.bundles_of(point).filter(|(_, row)| row.is_nowhere()).count() as u64
    }
}

//! What remains of a fleet when a majority of its coordinators is lost for good and one of those
//! left is made the only voter by force: who is out, from where on ids and epochs count, and what
//! nobody holds any more. The entry is written to a stopped node's own log; nobody else may.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto_types::{Epoch, NodeId};

use crate::apply::Context;
use crate::command::RecoverByForce;
use crate::outcome::{Event, Outcome};
use crate::refusal::Refusal;
use crate::rows::{Cluster, Finding, FindingKey, NodeRow, NodeState, Recovery, Scope, Severity};
use crate::state::State;
use crate::{fleet, members, restore};

/// The kind of the finding that every forced recovery leaves.
pub const FINDING_RECOVERED: &str = "recovered-by-force";

/// Ids of a recovered fleet begin in a new hundred: the lost majority may have given out some that
/// this node never heard of.
const IDS_STEP: u64 = 100;
/// Epochs begin so far behind the largest known one, for the same reason.
const EPOCHS_STEP: u64 = 1000;
/// Ids named in the finding's text before the rest are counted.
const NAMED_MAX: usize = 20;

pub(crate) fn recover(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RecoverByForce,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let node = command.node;
    // Raft's own membership says so before this entry does.
    if context.log.voters.settled() != Some(&BTreeSet::from([node])) {
        return Err(Refusal::NotTheOnlyVoter { node });
    }
    let held: BTreeSet<NodeId> =
        state.bundles.values().flat_map(|row| row.holders.iter().copied()).collect();
    let mut gone: BTreeSet<NodeId> =
        state.nodes().filter(|row| row.state == NodeState::Admitted).map(|row| row.id).collect();
    gone.extend(command.members.iter().chain(&held));
    gone.remove(&node);
    for id in &gone {
        members::mark_removed(state, context, *id);
    }
    state.change = None;
    members::forget_log(state);
    let row = NodeRow {
        id: node,
        name: command.name.clone(),
        address: command.address.clone(),
        state: NodeState::Admitted,
        since: context.now,
    };
    state.nodes.insert(node, Arc::new(row));

    // Points that only the lost ones had acknowledged keep their numbers to themselves.
    let clusters = state.clusters.iter().map(|(id, row)| {
        let sequence_floor = restore::floor_after(row);
        (*id, Arc::new(Cluster { sequence_floor, ..row.as_ref().clone() }))
    });
    state.clusters = clusters.collect();
    let largest = state.nodes.keys().next_back().map_or(0, |id| id.get());
    let epoch = state.clusters.values().map(|cluster| cluster.epoch.get()).max().unwrap_or(0);
    let number = state.recoveries.len() as u64 + 1;
    let recovery = Recovery {
        number,
        node,
        at: context.now,
        index: context.log.index,
        committed: command.committed,
        removed: gone,
        ids_from: NodeId::new((largest / IDS_STEP + 1) * IDS_STEP + 1),
        epochs_from: Epoch::new((epoch / EPOCHS_STEP + 1) * EPOCHS_STEP),
        lost_bundles: state.absent_bundles().len() as u64,
        lost_points: state.points.values().filter(|row| state.absent_of(row) > 0).count() as u64,
    };
    let key = FindingKey {
        scope: Scope::Fleet,
        kind: FINDING_RECOVERED.to_owned(),
        subject: number.to_string(),
    };
    let finding = Finding {
        severity: Severity::Critical,
        since: context.now,
        last_seen: context.now,
        message: message(&recovery, state.points.len()),
        remedy: REMEDY.to_owned(),
    };
    context.events.push(Event::FindingRaised { key: key.clone() });
    context.events.push(Event::RecoveredByForce { node, number });
    state.findings.insert(key, Arc::new(finding));
    state.recoveries.insert(number, Arc::new(recovery));
    Ok(Outcome::RecoveredByForce { number })
}

const REMEDY: &str = "wipe the removed coordinators, which must not come back; add new ones until \
                      three vote; have every agent back up. Then clear this finding";

fn message(recovery: &Recovery, points: usize) -> String {
    let named: Vec<String> =
        recovery.removed.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = recovery.removed.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let forced = recovery.index.get().saturating_sub(recovery.committed.get() + 1);
    format!(
        "node {} was made the only voter by force; removed: {}{more}. What only those had \
         acknowledged is lost. Up to {forced} log entries that it had, and that were not known to \
         be committed, became so. {} bundles are held by nobody any more, so that {} of {points} \
         recovery points do not restore in full",
        recovery.node,
        named.join(", "),
        recovery.lost_bundles,
        recovery.lost_points,
    )
}

impl State {
    /// The forced recoveries that this fleet went through, oldest first.
    pub fn recoveries(&self) -> impl DoubleEndedIterator<Item = &Recovery> {
        self.recoveries.values().map(AsRef::as_ref)
    }

    /// How many they are. Of two nodes that each say that the other was removed, the one that knows
    /// more of them is right.
    #[must_use]
    pub fn recovery_count(&self) -> u64 {
        self.recoveries.len() as u64
    }

    /// Ids below this one that nobody was admitted under belong to a lost majority.
    pub(crate) fn ids_from(&self) -> NodeId {
        self.recoveries().next_back().map_or(NodeId::new(0), |recovery| recovery.ids_from)
    }

    /// The smallest epoch that may be given out next.
    pub(crate) fn epochs_from(&self) -> Epoch {
        self.recoveries().next_back().map_or(Epoch::new(0), |recovery| recovery.epochs_from)
    }
}

//! Who belongs to the fleet's coordinators and how that changes: one change at a time, decided by
//! log order, and no change of voters before every needed bundle is on a majority of the new ones
//! (invariant B1). Who votes at this moment is Raft's own and arrives with each entry; here is what
//! Raft does not keep: ids that were ever given out, nodes that were removed, the change under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto_types::NodeId;

use crate::apply::Context;
use crate::command::{AddNode, BeginChange, OfChange, RemoveNode};
use crate::limits::{NODE_ADDRESS_BYTES_MAX, NODES_MAX, VOTERS_MAX};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{BundleRow, Change, NodeRow, NodeState};
use crate::state::State;
use crate::voters::Voters;
use crate::{bucket, fleet, leases};

/// Gives out an id that nobody ever had. The same name and address again get the same one, while
/// the node has not begun to vote.
pub(crate) fn add(
    state: &mut State,
    context: &mut Context<'_>,
    command: &AddNode,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    check_names(&command.name, &command.address)?;
    let same = state.nodes.values().find(|row| {
        row.state == NodeState::Admitted
            && row.name == command.name
            && row.address == command.address
    });
    if let Some(row) = same {
        let node = row.id;
        let coming = state.change.as_ref().is_some_and(|change| change.voters.contains(&node));
        if coming || context.log.voters.all().contains(&node) {
            return Err(Refusal::NodeVotes { node });
        }
        return Ok(Outcome::NodeAdded { node });
    }
    if let Some(row) = state
        .nodes
        .values()
        .find(|row| row.state == NodeState::Admitted && row.name == command.name)
    {
        return Err(Refusal::NodeNameTaken { name: command.name.clone(), node: row.id });
    }
    let node = admit(state, context, &command.name, &command.address)?;
    Ok(Outcome::NodeAdded { node })
}

/// What people call a node, and where others reach it.
pub(crate) fn check_names(name: &str, address: &str) -> Result<(), Refusal> {
    proto_types::check_cluster_name(name)
        .map_err(|_| Refusal::InvalidField { field: Field::NodeName })?;
    if !is_address(address) {
        return Err(Refusal::InvalidField { field: Field::NodeAddress });
    }
    Ok(())
}

/// A row for a new node, under an id that nobody ever had.
pub(crate) fn admit(
    state: &mut State,
    context: &mut Context<'_>,
    name: &str,
    address: &str,
) -> Result<NodeId, Refusal> {
    let admitted = state.nodes.values().filter(|row| row.state == NodeState::Admitted).count();
    leases::within(Limit::Nodes, admitted + 1, NODES_MAX)?;
    let given = state.nodes.keys().next_back().copied();
    let voting = context.log.voters.all().last().copied();
    let next = given.max(voting).map_or(1, |last| last.get() + 1);
    let node = NodeId::new(next).max(state.ids_from());
    let row = NodeRow {
        id: node,
        name: name.to_owned(),
        address: address.to_owned(),
        state: NodeState::Admitted,
        since: context.now,
    };
    state.nodes.insert(node, Arc::new(row));
    context.events.push(Event::NodeAdded { node });
    Ok(node)
}

/// Begins to change who votes, by one node.
pub(crate) fn begin(
    state: &mut State,
    context: &mut Context<'_>,
    command: &BeginChange,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    if let Some(change) = &state.change {
        let same = change.voters == command.voters && change.remove == command.remove;
        return if same { Ok(Outcome::ChangeBegun) } else { Err(Refusal::ChangeUnderWay) };
    }
    let Some(now) = context.log.voters.settled() else { return Err(Refusal::ChangeUnderWay) };
    leases::within(Limit::Voters, command.voters.len(), VOTERS_MAX)?;
    let coming: Vec<_> = command.voters.difference(now).copied().collect();
    let going: Vec<_> = now.difference(&command.voters).copied().collect();
    let one_step = match (&coming[..], &going[..], command.remove) {
        ([_], [], None) | ([], [_], None) => true,
        ([], [gone], Some(remove)) => *gone == remove,
        _ => false,
    };
    if !one_step || command.voters.is_empty() {
        return Err(Refusal::ChangeNotOneStep);
    }
    for node in coming {
        require_admitted(state, node)?;
    }
    state.change = Some(Arc::new(Change {
        voters: command.voters.clone(),
        remove: command.remove,
        begun: context.log.index,
        sealed: false,
    }));
    Ok(Outcome::ChangeBegun)
}

/// From here on the change may reach Raft: every needed bundle is on a majority of the new voters,
/// and no point is committed any more that is not (invariant B1).
pub(crate) fn seal(state: &mut State, of: OfChange) -> Result<Outcome, Refusal> {
    let change = require_change(state, of)?;
    if !change.sealed {
        // One that nobody holds gets no worse by it, and would hold up every change for ever.
        for (id, row) in state.bundles.iter().filter(|(_, row)| !row.is_nowhere()) {
            // By name: that the old voters' log has it says nothing of the new ones.
            let named = BundleRow { in_log: false, ..row.clone() };
            bucket::require_durable(*id, Some(&named), &Voters::of(change.voters.clone()))?;
        }
        state.change = Some(Arc::new(Change { sealed: true, ..change.as_ref().clone() }));
    }
    Ok(Outcome::ChangeSealed)
}

/// Ends the change: done when Raft has the new voters, given up when it was not sealed yet.
pub(crate) fn end(
    state: &mut State,
    context: &mut Context<'_>,
    of: OfChange,
) -> Result<Outcome, Refusal> {
    let change = require_change(state, of)?;
    let done = context.log.voters.settled() == Some(&change.voters);
    if !done && change.sealed {
        return Err(Refusal::ChangeUnderWay);
    }
    state.change = None;
    if done {
        forget_log(state);
    }
    if done && let Some(node) = change.remove {
        mark_removed(state, context, node);
    }
    Ok(Outcome::ChangeEnded { done })
}

/// Removes a node that does not vote. Its id is never given out again.
pub(crate) fn remove(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RemoveNode,
) -> Result<Outcome, Refusal> {
    let node = command.node;
    let row = state.nodes.get(&node).ok_or(Refusal::NodeUnknown { node })?;
    if row.state == NodeState::Removed {
        return Ok(Outcome::NodeRemoved { node });
    }
    let coming = state.change.as_ref().is_some_and(|change| change.voters.contains(&node));
    if coming || context.log.voters.all().contains(&node) {
        return Err(Refusal::NodeVotes { node });
    }
    mark_removed(state, context, node);
    Ok(Outcome::NodeRemoved { node })
}

/// Who votes is others now: of every bundle only those named count that have it. Before the change
/// was sealed they were a majority of the new voters.
pub(crate) fn forget_log(state: &mut State) {
    let in_log: Vec<_> =
        state.bundles.iter().filter(|(_, row)| row.in_log).map(|(id, _)| *id).collect();
    for id in in_log {
        if let Some(row) = state.bundles.get_mut(&id) {
            row.in_log = false;
        }
    }
}

/// Takes a node out for ever; its copies count for nothing from here on.
pub(crate) fn mark_removed(state: &mut State, context: &mut Context<'_>, node: NodeId) {
    let (name, address) = match state.nodes.get(&node) {
        Some(row) => (row.name.clone(), row.address.clone()),
        // One of the first members, of whom Raft alone knew.
        None => (String::new(), String::new()),
    };
    let row = NodeRow { id: node, name, address, state: NodeState::Removed, since: context.now };
    state.nodes.insert(node, Arc::new(row));
    let held: Vec<_> = state
        .bundles
        .iter()
        .filter(|(_, row)| row.holders.contains(&node))
        .map(|(id, _)| *id)
        .collect();
    for id in held {
        if let Some(row) = state.bundles.get_mut(&id) {
            row.holders.remove(&node);
        }
    }
    context.events.push(Event::NodeRemoved { node });
}

/// The change that is meant: another one may have begun meanwhile.
fn require_change(state: &State, of: OfChange) -> Result<Arc<Change>, Refusal> {
    let change = state.change.clone().filter(|change| change.begun == of.begun);
    change.ok_or(Refusal::NoChange)
}

fn require_admitted(state: &State, node: NodeId) -> Result<(), Refusal> {
    match state.nodes.get(&node).map(|row| row.state) {
        Some(NodeState::Admitted) => Ok(()),
        Some(NodeState::Removed) => Err(Refusal::NodeWasRemoved { node }),
        None => Err(Refusal::NodeUnknown { node }),
    }
}

/// `host:port`, without spaces: anything that a connection may be tried to.
pub(crate) fn is_address(address: &str) -> bool {
    (1..=NODE_ADDRESS_BYTES_MAX).contains(&address.len())
        && !address.chars().any(|c| c.is_control() || c.is_whitespace())
        && address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl State {
    /// All nodes that were ever admitted or removed, by id. The first members are not among them
    /// while nothing happened to them.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.values().map(AsRef::as_ref)
    }

    /// Whether this node was removed from the fleet. So was, by a forced recovery, everybody whom the
    /// majority that was lost may have admitted without this node hearing of it.
    #[must_use]
    pub fn was_removed(&self, node: NodeId) -> bool {
        match self.nodes.get(&node) {
            Some(row) => row.state == NodeState::Removed,
            None => node < self.ids_from(),
        }
    }

    /// The change of voters under way.
    #[must_use]
    pub fn change(&self) -> Option<&Change> {
        self.change.as_deref()
    }

    /// Bundles that less than a majority of `voters` has: what a change of voters waits for. Not
    /// for those that nobody has, or the bucket.
    #[must_use]
    pub fn not_durable_on(&self, voters: &BTreeSet<NodeId>) -> u64 {
        let voters = Voters::of(voters.clone());
        let waited_for = |row: &&BundleRow| {
            row.object.is_none() && !row.is_nowhere() && !voters.have_majority(&row.holders)
        };
        self.bundles.values().filter(waited_for).count() as u64
    }

    /// Who has to have a bundle before it counts as durable: Raft's voters and, once a change is
    /// sealed, the new ones as well.
    #[must_use]
    pub fn durable_on(&self, voters: &Voters) -> Voters {
        match &self.change {
            Some(change) if change.sealed => voters.and(&change.voters),
            Some(_) | None => voters.clone(),
        }
    }
}

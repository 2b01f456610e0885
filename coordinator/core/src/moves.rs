//! A coordinator's new address. Raft's membership follows the row; the leader sees to it.

use std::sync::Arc;

use crate::apply::Context;
use crate::command::MoveNode;
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Refusal};
use crate::rows::{NodeRow, NodeState};
use crate::state::State;
use crate::{fleet, members};

pub(crate) fn move_node(
    state: &mut State,
    context: &mut Context<'_>,
    command: &MoveNode,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let node = command.node;
    if !members::is_address(&command.address) {
        return Err(Refusal::InvalidField { field: Field::NodeAddress });
    }
    let name = match state.nodes.get(&node) {
        Some(row) if row.state == NodeState::Admitted => row.name.clone(),
        Some(_) => return Err(Refusal::NodeWasRemoved { node }),
        // One of the first members, of whom Raft alone knew.
        None if context.log.voters.all().contains(&node) => command.name.clone(),
        None => return Err(Refusal::NodeUnknown { node }),
    };
    proto_types::check_cluster_name(&name)
        .map_err(|_| Refusal::InvalidField { field: Field::NodeName })?;
    let other = state.nodes().find(|row| {
        row.id != node && row.state == NodeState::Admitted && row.address == command.address
    });
    if let Some(row) = other {
        let address = command.address.clone();
        return Err(Refusal::NodeAddressTaken { address, node: row.id });
    }
    let is_there = state.nodes.get(&node).is_some_and(|row| row.address == command.address);
    if !is_there {
        let since = state.nodes.get(&node).map_or(context.now, |row| row.since);
        let address = command.address.clone();
        let row = NodeRow { id: node, name, address, state: NodeState::Admitted, since };
        state.nodes.insert(node, Arc::new(row));
        context.events.push(Event::NodeMoved { node });
    }
    Ok(Outcome::NodeMoved { node })
}

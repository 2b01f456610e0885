//! Who belongs to the fleet's coordinators: what admins ask for. The leader carries it out
//! (`crate::membership`).

use std::collections::{BTreeMap, BTreeSet};

use coordinator_core::{
    AddNode, BeginChange, Command, MoveNode, NodeState, OfChange, Outcome, RemoveNode,
};
use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use super::Shared;
use crate::config::Member;
use crate::raft::Published;

fn settled(view: &Published) -> Result<&BTreeSet<NodeId>, ApiError> {
    view.voters.settled().ok_or_else(|| {
        ApiError::new(Code::Conflict, "a change of voters is under way: wait until it is over")
    })
}

impl Shared {
    pub(super) async fn add_node(
        &self,
        message: v1::AddNodeRequest,
    ) -> Result<v1::AddNodeResponse, ApiError> {
        let view = self.view(false).await?;
        // The first members are Raft's alone: `apply` does not know their names.
        let taken = view.members.iter().find(|(_, member)| member.name == message.name);
        if let Some((node, member)) = taken
            && member.address != message.address
        {
            return Err(ApiError::new(
                Code::AlreadyExists,
                format!("the name {} already belongs to node {node}", message.name),
            ));
        }
        let command = Command::AddNode(AddNode { name: message.name, address: message.address });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::NodeAdded { node } => Ok(v1::AddNodeResponse { node_id: node.get() }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    pub(super) async fn promote_node(
        &self,
        message: v1::PromoteNodeRequest,
    ) -> Result<v1::PromoteNodeResponse, ApiError> {
        let node = NodeId::new(message.node_id);
        let view = self.view(false).await?;
        let mut voters = settled(&view)?.clone();
        if voters.insert(node) {
            let command = Command::BeginChange(BeginChange { voters, remove: None });
            self.write(message.write_id.as_ref(), command).await?;
        }
        Ok(v1::PromoteNodeResponse {})
    }

    pub(super) async fn remove_node(
        &self,
        message: v1::RemoveNodeRequest,
    ) -> Result<v1::RemoveNodeResponse, ApiError> {
        let node = NodeId::new(message.node_id);
        let view = self.view(false).await?;
        let mut voters = settled(&view)?.clone();
        let command = if voters.remove(&node) {
            Command::BeginChange(BeginChange { voters, remove: Some(node) })
        } else {
            Command::RemoveNode(RemoveNode { node })
        };
        self.write(message.write_id.as_ref(), command).await?;
        Ok(v1::RemoveNodeResponse {})
    }

    pub(super) async fn move_node(
        &self,
        message: v1::MoveNodeRequest,
    ) -> Result<v1::MoveNodeResponse, ApiError> {
        let node = NodeId::new(message.node_id);
        let known = known(&self.view(false).await?);
        // The first members are Raft's alone: `apply` does not know their addresses.
        let other = known.iter().find(|(id, m)| **id != node && m.address == message.address);
        if let Some((other, _)) = other {
            return Err(ApiError::new(
                Code::AlreadyExists,
                format!("the address {} already belongs to node {other}", message.address),
            ));
        }
        let name = known.get(&node).map(|member| member.name.clone()).unwrap_or_default();
        let command = Command::MoveNode(MoveNode { node, name, address: message.address });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::NodeMoved { .. } => Ok(v1::MoveNodeResponse {}),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    pub(super) async fn abandon_change(
        &self,
        message: v1::AbandonChangeRequest,
    ) -> Result<v1::AbandonChangeResponse, ApiError> {
        let view = self.view(false).await?;
        let begun = view.state.change().map(|change| change.begun).unwrap_or_default();
        let command = Command::EndChange(OfChange { begun });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::ChangeEnded { done } => Ok(v1::AbandonChangeResponse { done }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }
}

/// Everybody who belongs to the fleet's coordinators, also who was admitted a moment ago.
pub(super) fn known(view: &Published) -> BTreeMap<NodeId, Member> {
    let mut known = view.members.clone();
    for row in view.state.nodes().filter(|row| row.state == NodeState::Admitted) {
        known
            .entry(row.id)
            .or_insert_with(|| Member { name: row.name.clone(), address: row.address.clone() });
    }
    known
}

/// What `status` shows of a change of voters.
pub(super) fn change(view: &Published) -> Option<v1::VoterChange> {
    let change = view.state.change()?;
    Some(v1::VoterChange {
        voters: change.voters.iter().map(|node| node.get()).collect(),
        remove: change.remove.map_or(0, NodeId::get),
        sealed: change.sealed,
        bundles_waited_for: view.state.not_durable_on(&change.voters),
    })
}

//! What the leader does to make Raft's membership what the replicated state says: one step per
//! round, each of which may be repeated by the next leader.

use std::collections::BTreeSet;

use coordinator_core::{Change, Command, NodeRow, NodeState, OfChange, Outcome, State, Voters};
use proto::ApiError;
use proto_types::NodeId;

use crate::config::Member;
use crate::raft::{Membership, RaftNode};
use crate::service::core_request;

/// Whether there is something to do, so that the next round comes soon.
pub(crate) fn is_owed(raft: &RaftNode, state: &State) -> bool {
    let members = raft.membership().members;
    state.change().is_some()
        || state
            .nodes()
            .any(|row| (row.state == NodeState::Admitted) != members.contains_key(&row.id))
        || state.nodes().any(|row| has_moved(row, members.get(&row.id)))
}

/// Whether Raft knows the node at another address than it was moved to.
fn has_moved(row: &NodeRow, member: Option<&Member>) -> bool {
    row.state == NodeState::Admitted && member.is_some_and(|m| m.address != row.address)
}

/// One round. Waiting is no error: the next round looks again.
pub(crate) async fn drive(this: NodeId, raft: &RaftNode) -> Result<(), ApiError> {
    // At a confirmed index: a leader that is new may have applied less than its log holds, and
    // must not make a membership of the past again.
    let view = raft.applied(raft.read_index().await?).await?;
    let state = &view.state;
    let now = raft.membership();
    let voting = now.voters.all();
    for row in state.nodes() {
        let is_member = now.members.contains_key(&row.id);
        match row.state {
            NodeState::Admitted if !is_member => {
                let member = Member { name: row.name.clone(), address: row.address.clone() };
                raft.add_learner(row.id, member).await?;
                tracing::info!(event = "node_learns", node = row.id.get(), address = row.address);
            }
            NodeState::Admitted if has_moved(row, now.members.get(&row.id)) => {
                let member = Member { name: row.name.clone(), address: row.address.clone() };
                raft.readdress(row.id, member).await?;
                tracing::info!(event = "node_moved", node = row.id.get(), address = row.address);
            }
            // It may not have heard of it yet: then it asks (`wiped::until_removed`).
            NodeState::Removed if is_member && !voting.contains(&row.id) => {
                raft.forget(row.id).await?;
                tracing::info!(event = "node_forgotten", node = row.id.get());
            }
            NodeState::Admitted | NodeState::Removed => {}
        }
    }
    match state.change() {
        Some(change) => step(this, raft, state, change, &now, &voting).await,
        None => Ok(()),
    }
}

async fn step(
    this: NodeId,
    raft: &RaftNode,
    state: &State,
    change: &Change,
    now: &Membership,
    voting: &BTreeSet<NodeId>,
) -> Result<(), ApiError> {
    let of = OfChange { begun: change.begun };
    if now.voters.settled() == Some(&change.voters) {
        raft.propose_here(core_request(None, Command::EndChange(of))).await?;
        tracing::info!(event = "voters_changed", voters = ?change.voters);
        return Ok(());
    }
    if !change.sealed {
        // Not before the new voters can decide something: once sealed it cannot be given up, and a
        // majority that does not answer would be the end of every write.
        let ready: BTreeSet<NodeId> =
            change.voters.iter().copied().filter(|node| raft.is_ready(*node)).collect();
        let coming_ready = change.voters.difference(voting).all(|node| ready.contains(node));
        if !coming_ready
            || !Voters::of(change.voters.clone()).have_majority(&ready)
            || state.not_durable_on(&change.voters) > 0
        {
            return Ok(());
        }
        let request = core_request(None, Command::SealChange(of));
        let (outcome, _) = raft.propose_here(request).await?;
        if let Outcome::Refused(refusal) = outcome {
            tracing::debug!(%refusal, "the change of voters waits");
        }
        return Ok(());
    }
    // Who goes does not lead the way: the next leader makes the change.
    if !change.voters.contains(&this) {
        raft.hand_over().await;
        return Ok(());
    }
    raft.change_voters(&change.voters).await
}

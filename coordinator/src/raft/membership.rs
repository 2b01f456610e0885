//! Raft's own membership: who is replicated to, who votes, who leads. When it may change is decided
//! in the replicated state; here it is only carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coordinator_core::Voters;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant};
use proto::{ApiError, v1};
use proto_types::{Code, NodeId};
use storage::raft_types::{Member as RaftMember, TypeConfig as C};

use super::node::{Leader, RaftNode, not_leader, stopped};
use super::state_machine::members;
use super::successor::{Follower, successor};
use crate::config::Member;

/// Entries that a learner may be behind and still count as caught up: what arrives in a moment.
const LAG_MAX: u64 = 64;

/// Raft's membership as this node has it in its log, applied or not.
pub(crate) struct Membership {
    pub(crate) voters: Voters,
    pub(crate) members: BTreeMap<NodeId, Member>,
}

type Written<T> = Result<T, RaftError<C, ClientWriteError<C>>>;

impl RaftNode {
    /// Who belongs to Raft.
    pub(crate) fn membership(&self) -> Membership {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let stored = &metrics.membership_config;
        let sets = stored.membership().get_joint_config().iter();
        let sets = sets.map(|set| set.iter().copied().map(NodeId::new).collect());
        Membership { voters: Voters::joint(sets), members: members(stored) }
    }

    /// On the leader: whether this node answers, and has all but the last few entries.
    pub(crate) fn is_ready(&self, node: NodeId) -> bool {
        if node == self.this {
            return true;
        }
        let metrics = self.raft.metrics().borrow_watched().clone();
        let patience = Duration::from_millis(self.timing.election_timeout_max_ms);
        let heard = metrics.heartbeat.unwrap_or_default().get(&node.get()).copied().flatten();
        if heard.is_none_or(|at| at.elapsed() > patience) {
            return false;
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.unwrap_or_default();
        let matched = replication.get(&node.get()).and_then(Option::as_ref);
        matched.is_some_and(|id| id.index() + LAG_MAX >= last)
    }

    /// On the leader: begins to replicate to a node that does not vote.
    pub(crate) async fn add_learner(&self, node: NodeId, member: Member) -> Result<(), ApiError> {
        let member = RaftMember { name: member.name, address: member.address };
        self.settled(self.raft.add_learner(node.get(), member, false).await)
    }

    /// On the leader: makes these the voters; who does not vote any more stays as a learner.
    pub(crate) async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), ApiError> {
        let voters = voters.iter().map(|node| node.get()).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.settled(self.raft.change_membership(change, true).await)
    }

    /// On the leader: ends replication to a node that does not vote.
    pub(crate) async fn forget(&self, node: NodeId) -> Result<(), ApiError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.get()]));
        self.settled(self.raft.change_membership(change, true).await)
    }

    /// On the leader: tells everybody where a node is reached. Who votes does not change.
    pub(crate) async fn readdress(&self, node: NodeId, member: Member) -> Result<(), ApiError> {
        let member = RaftMember { name: member.name, address: member.address };
        let change = ChangeMembers::SetNodes(BTreeMap::from([(node.get(), member)]));
        self.settled(self.raft.change_membership(change, true).await)
    }

    /// Lets this node stand for election. It does not from the start: first it asks the others
    /// whether it still belongs to them.
    pub(crate) fn allow_elections(&self) {
        self.raft.runtime_config().elect(true);
    }

    fn settled<T>(&self, written: Written<T>) -> Result<(), ApiError> {
        match written {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                let code = match error {
                    ChangeMembershipError::InProgress(_) => Code::Unavailable,
                    _ => Code::Internal,
                };
                Err(ApiError::new(code, format!("the membership cannot change: {error}")))
            }
            Err(RaftError::APIError(_)) => Err(not_leader(self.this)),
            Err(RaftError::Fatal(error)) => Err(stopped(&error.to_string())),
        }
    }

    /// Hands leadership to the reachable voter that is furthest, so that a planned stop fails no
    /// write. Where there is none, the others elect.
    pub(crate) async fn hand_over(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.current_leader != Some(self.this.get()) {
            return;
        }
        let Some(replication) = metrics.replication else { return };
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let heard = metrics.heartbeat.unwrap_or_default();
        let followers = replication.into_iter().filter(|(node, _)| *node != self.this.get()).map(
            |(node, matched)| Follower {
                node: NodeId::new(node),
                is_voter: voters.contains(&node),
                matched: matched.map(|id| id.index()),
                silent: heard.get(&node).copied().flatten().map(|at| at.elapsed()),
            },
        );
        // Who is silent for longer would soon elect another leader itself.
        let patience = Duration::from_millis(self.timing.election_timeout_min_ms);
        let Some(target) = successor(followers, patience) else {
            tracing::info!(
                "no other voter answers: leadership is not handed over, they will elect"
            );
            return;
        };
        let moved = self.hand_over_to(target).await;
        tracing::info!(target_node = target.get(), moved = moved.is_ok(), "leadership_handed_over");
    }

    /// On the leader: hands leadership to one voter and waits until it has it.
    pub(crate) async fn hand_over_to(&self, target: NodeId) -> Result<(), ApiError> {
        if target == self.this {
            return Ok(());
        }
        if !self.membership().voters.all().contains(&target) {
            return Err(ApiError::new(
                Code::InvalidArgument,
                format!("node {target} does not vote, so it cannot lead: promote it first"),
            ));
        }
        let failed = |error: &dyn std::fmt::Display| stopped(&error.to_string());
        self.raft.trigger().transfer_leader(target.get()).await.map_err(|e| failed(&e))?;
        let limit = Some(Duration::from_millis(self.timing.election_timeout_max_ms * 2));
        let (this, to) = (self.this.get(), target.get());
        let waited = self.raft.wait(limit);
        let elected =
            waited.metrics(|m| m.current_leader.is_some_and(|l| l != this), "leadership moved");
        match elected.await {
            Ok(metrics) if metrics.current_leader == Some(to) => Ok(()),
            Ok(_) | Err(_) => Err(ApiError::new(
                Code::Unavailable,
                format!("node {target} did not become the leader; ask again"),
            )),
        }
    }

    /// Hands leadership to one voter, from whichever node this is.
    pub(crate) async fn transfer(&self, target: NodeId) -> Result<(), ApiError> {
        self.through_leader("transfer", Code::DeadlineExceeded, |leader| async move {
            match leader {
                Leader::This => self.hand_over_to(target).await,
                Leader::Peer(mut peer) => {
                    peer.hand_over(v1::HandOverRequest { node_id: target.get() }).await?;
                    Ok(())
                }
            }
        })
        .await
    }
}

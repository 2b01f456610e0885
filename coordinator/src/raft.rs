//! The only room of the coordinator that knows openraft. The rest sees [`RaftNode`]: propose,
//! read, watch.

mod figures;
mod force;
mod leadership;
mod membership;
mod network;
mod node;
mod replay;
mod snapshot_data;
mod state_machine;
mod successor;
mod wire;

pub(crate) use figures::LeaderFigures;
pub(crate) use force::entries_of_one;
pub(crate) use membership::Membership;
pub(crate) use node::{Published, RaftNode, RaftStatus};
pub(crate) use replay::{Replayed, replay};
pub(crate) use snapshot_data::SnapshotData;
pub(crate) use state_machine::StateMachine;
pub(crate) use wire::VERSION as RAFT_MESSAGES_VERSION;

#[cfg(test)]
mod suite_tests;

//! The log entries that make a stopped node the only voter: a membership of it alone, what its disk
//! holds, and the command that removes all others. Made here, written by `crate::recover`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coordinator_core::{Actor, Command, Request, Sender, codec};
use proto::ApiError;
use proto_types::{Code, Level, LogTime, NodeId};
use storage::raft_log::LogContents;
use storage::raft_types::{
    Command as CommandBytes, Entry, EntryPayload, LeaderId, LogId, Member as RaftMember,
    Membership, Vote, log_id,
};

use crate::config::Member;

/// A vote of its own in a term after any that this node knows, and entries behind the last one:
/// the membership, then the commands.
pub(crate) fn entries_of_one(
    this: NodeId,
    member: &Member,
    last: LogId,
    log: &LogContents,
    now: LogTime,
    commands: Vec<Command>,
) -> Result<(Vote, Vec<Entry>), ApiError> {
    let term = log.vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1;
    let leader = LeaderId { term, node_id: this.get() };
    let only = BTreeSet::from([this.get()]);
    let node = RaftMember { name: member.name.clone(), address: member.address.clone() };
    let membership = Membership::new(vec![only], BTreeMap::from([(this.get(), node)]))
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    let commands = commands.into_iter().map(|command| {
        // Whoever has the node's files: nobody authenticated them.
        let actor = Actor::Console(this);
        let sender = Sender { actor, certificate: None, via: this };
        let is_audited = command.level() >= Level::new(2);
        let sender = is_audited.then_some(sender);
        let request = Request { session: None, time: now, sender, command };
        let bytes = Bytes::from(codec::encode_request(&request));
        EntryPayload::Normal(CommandBytes::new(bytes))
    });
    let payloads = std::iter::once(EntryPayload::Membership(membership)).chain(commands);
    let entries = (last.index + 1..)
        .zip(payloads)
        .map(|(index, payload)| Entry { log_id: log_id(term, this.get(), index), payload })
        .collect();
    Ok((Vote { leader_id: leader, committed: true }, entries))
}

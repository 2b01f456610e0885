//! The state that a snapshot and a log amount to, without Raft running: of a coordinator that is
//! stopped. What it cannot know is which of the last entries were committed.

use std::collections::BTreeMap;
use std::io::BufReader;

use coordinator_core::{Command, LogContext, Outcome, State, Voters, apply, codec};
use proto::ApiError;
use proto_types::{BundleId, Code, LogIndex, NodeId};
use storage::raft_log::LogContents;
use storage::raft_types::{EntryPayload, LogId, StoredMembership};
use storage::snapshots::StoredSnapshot;

use super::state_machine::{members, voters};
use crate::config::Member;

/// See [`replay`].
pub(crate) struct Replayed {
    /// The state after every entry that is there.
    pub(crate) state: State,
    /// The last entry applied; none where nothing was.
    pub(crate) last: Option<LogId>,
    /// Up to here the log is known to be committed.
    pub(crate) committed: LogIndex,
    /// Who votes after the last entry.
    pub(crate) voters: Voters,
    /// All of Raft's nodes after the last entry.
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// Bundles that entries of the log carry: their files may not have reached the disk.
    pub(crate) carried: BTreeMap<BundleId, Vec<u8>>,
    /// Whether the log begins after the snapshot ends, so that none of it could be applied.
    pub(crate) has_gap: bool,
}

/// Reads the snapshot and applies the log behind it.
///
/// # Errors
/// When the snapshot or an entry is of a newer program, or the disk says no.
pub(crate) fn replay(
    snapshot: Option<&StoredSnapshot>,
    log: &LogContents,
) -> Result<Replayed, ApiError> {
    let mut state = State::new();
    let mut last = None;
    let mut membership = StoredMembership::default();
    let mut carried = BTreeMap::new();
    if let Some(snapshot) = snapshot {
        let mut reader = BufReader::with_capacity(1 << 20, snapshot.reader());
        state = codec::read_state(&mut reader)
            .map_err(|error| unreadable("the newest snapshot", &error))?;
        last = snapshot.meta().last_log_id;
        membership = snapshot.meta().last_membership.clone();
    }
    let covered = last.map_or(0, |id: LogId| id.index);
    let from = last.map_or(0, |id| id.index + 1);
    // A snapshot holds only what was committed.
    let committed = covered.max(log.committed.map_or(0, |id| id.index));
    let has_gap = log.bounds.purged.is_some_and(|purged| purged.index > covered);
    let entries = if has_gap { &[][..] } else { &log.entries[..] };
    for entry in entries.iter().filter(|entry| entry.log_id.index >= from) {
        let index = entry.log_id.index;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(command) => {
                let request = codec::decode_request(command.bytes())
                    .map_err(|error| unreadable(&format!("log entry {index}"), &error))?;
                let voters = voters(&membership);
                let context = LogContext { index: LogIndex::new(index), voters: &voters };
                let applied = apply(&mut state, &request, &context);
                if let (Command::CommitPoint(commit), Outcome::Committed { .. }) =
                    (request.command, applied.outcome)
                {
                    carried.extend(commit.into_carried());
                }
            }
            EntryPayload::Membership(changed) => {
                membership = StoredMembership::new(Some(entry.log_id), changed.clone());
            }
        }
        last = Some(entry.log_id);
    }
    let end = last.map_or(0, |id| id.index);
    Ok(Replayed {
        state,
        last,
        committed: LogIndex::new(committed.min(end)),
        voters: voters(&membership),
        members: members(&membership),
        carried,
        has_gap,
    })
}

fn unreadable(what: &str, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(
        Code::UnsupportedVersion,
        format!(
            "{what} cannot be understood by this program ({error}): use the strongroom that wrote it"
        ),
    )
}

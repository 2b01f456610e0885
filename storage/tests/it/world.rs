//! What the tests of this binary share: identities, log options, and a log's content as a value.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use proto_types::{FleetId, NodeId};
use storage::disk::Disk;
use storage::disk::sim::{Operation, SimDisk};
use storage::home::{DataDir, HomeError, HomeIdentity};
use storage::log::{LogError, LogOptions};
use storage::raft_log::RaftLogStore;
use storage::raft_types::{Command, Entry, EntryPayload, LogId, Vote, log_id};
use storage::spawn::Driver;

/// The data directory in every test.
pub(crate) const HOME: &str = "/home";

/// A few entries fill a segment, so that a short story crosses several; nothing is cached, so
/// that reads prove what is on disk.
pub(crate) const SMALL: LogOptions = LogOptions {
    segment_bytes: 600,
    cache_bytes: 0,
    unflushed_bytes_max: 1 << 20,
    batch_bytes_max: 1 << 20,
    idle_millis: 1,
};

pub(crate) fn identity() -> HomeIdentity {
    HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(1) }
}

pub(crate) fn home_path() -> &'static Path {
    Path::new(HOME)
}

pub(crate) fn home(disk: &SimDisk) -> Result<DataDir, HomeError> {
    DataDir::open_or_create(Arc::new(disk.clone()), home_path(), identity())
}

/// Opens the log inline: no thread, the same operations on every run.
pub(crate) fn open_log(home: &DataDir) -> Result<RaftLogStore, LogError> {
    RaftLogStore::open(home, SMALL, Driver::Inline)
}

/// Runs a future to its end.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    pub(crate) entries: Vec<(LogId, Vec<u8>)>,
}

/// Reads a log whole.
pub(crate) fn content_of(log: &RaftLogStore) -> std::io::Result<Content> {
    let mut log = log.clone();
    wait(async move {
        let entries = log.try_get_log_entries(..).await?;
        let entries = entries
            .into_iter()
            .map(|entry| match entry.payload {
                EntryPayload::Normal(command) => (entry.log_id, command.bytes().to_vec()),
                EntryPayload::Blank | EntryPayload::Membership(_) => (entry.log_id, Vec::new()),
            })
            .collect();
        Ok(Content { vote: log.read_vote().await?, purged: log.bounds().purged, entries })
    })
}

/// Opens a data directory and its log, and reads it whole.
pub(crate) fn reopen(disk: &SimDisk) -> Result<Content, String> {
    let home = home(disk).map_err(|e| format!("home: {e}"))?;
    let log = open_log(&home).map_err(|e| format!("log: {e}"))?;
    content_of(&log).map_err(|e| format!("read: {e}"))
}

/// The files of the log, oldest segment first, without the marker.
pub(crate) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    files
}

/// One thing done to a log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Vote(u64),
    /// So many entries of that term, of that many bytes each.
    Append(u64, u64, usize),
    /// A vote for itself and so many entries of that term, as a whole or not at all.
    Whole(u64, u64),
    /// Entries from this index on.
    TruncateFrom(u64),
    /// Entries up to this index, if it is there.
    PurgeTo(u64),
    /// Brings the marker up to date.
    Settle,
    /// Stops and starts again.
    Reopen,
    /// An append that was written when the process was killed before its sync.
    KillBeforeSync(u64),
    /// Likewise while segments are changed, before the sync of the directory.
    KillBeforeDirSync(u64),
    /// A sync that fails, so that the kernel forgets what it was to write; then the process stops.
    FailSync(Failing),
}

/// Which sync fails, during what.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failing {
    /// Of the segment, during an append.
    Append(u64),
    /// Of the directory, during an append that changes segments.
    Directory(u64),
    /// Of the segment, during a vote.
    Vote(u64),
    /// Of the marker, during a vote.
    VoteMarker(u64),
    /// Of the marker, during a purge up to this index that frees segments.
    PurgeMarker(u64),
}

impl Failing {
    /// What is done while it fails.
    const fn step(self) -> Step {
        match self {
            Self::Append(term) | Self::Directory(term) => Step::Append(term, 1, 20),
            Self::Vote(term) | Self::VoteMarker(term) => Step::Vote(term),
            Self::PurgeMarker(index) => Step::PurgeTo(index),
        }
    }

    /// What fails, on which path.
    pub(crate) const fn fault(self) -> (Operation, &'static str) {
        match self {
            Self::Append(_) | Self::Vote(_) => (Operation::SyncFile, ".wal"),
            Self::Directory(_) => (Operation::SyncDir, "/home/log"),
            Self::VoteMarker(_) | Self::PurgeMarker(_) => (Operation::SyncFile, "MARKER"),
        }
    }
}

impl Step {
    /// The content after the step.
    pub(crate) fn after(self, before: &Content) -> Content {
        let mut after = before.clone();
        match self {
            Self::Vote(term) => after.vote = Some(Vote::new(term, 1)),
            Self::Append(term, count, bytes) => {
                let next = next_index(before);
                for index in next..next + count {
                    after.entries.push((log_id(term, 1, index), vec![index as u8; bytes]));
                }
            }
            Self::Whole(term, count) => {
                after = Self::Append(term, count, 30).after(before);
                after.vote = Some(own_vote(term));
            }
            Self::TruncateFrom(index) => after.entries.retain(|(id, _)| id.index < index),
            Self::PurgeTo(index) => {
                if let Some((last, _)) = before.entries.iter().find(|(id, _)| id.index == index) {
                    after.purged = Some(*last);
                    after.entries.retain(|(id, _)| id.index > index);
                }
            }
            Self::KillBeforeSync(term) | Self::KillBeforeDirSync(term) => {
                return Self::Append(term, 1, 20).after(before);
            }
            Self::FailSync(failing) => return failing.step().after(before),
            Self::Settle | Self::Reopen => {}
        }
        after
    }

    /// Does the step; `before` is what the log holds.
    pub(crate) fn perform(self, log: &mut RaftLogStore, before: &Content) -> Result<(), String> {
        let done = if let Self::FailSync(failing) = self { failing.step() } else { self };
        wait(async {
            match done {
                Self::Vote(term) => log.save_vote(&Vote::new(term, 1)).await,
                Self::Append(..) | Self::KillBeforeSync(_) | Self::KillBeforeDirSync(_) => {
                    let after = self.after(before);
                    append(log, &after.entries[before.entries.len()..]).await
                }
                Self::Whole(term, _) => {
                    let after = self.after(before);
                    let entries = after.entries[before.entries.len()..].iter().map(entry);
                    log.append_whole(own_vote(term), entries.collect()).await
                }
                Self::TruncateFrom(index) => {
                    let last = before.entries.iter().rfind(|(id, _)| id.index < index);
                    log.truncate_after(last.map(|(id, _)| *id).or(before.purged)).await
                }
                Self::PurgeTo(_) => match self.after(before).purged {
                    Some(last) => log.purge(last).await,
                    None => Ok(()),
                },
                Self::Settle => log.settle().await.map_err(std::io::Error::other),
                Self::Reopen => log.close().await.map_err(std::io::Error::other),
                Self::FailSync(_) => Err(std::io::Error::other("fails only another step")),
            }
        })
        .map_err(|e| e.to_string())
    }
}

fn next_index(content: &Content) -> u64 {
    let last = content.entries.last().map(|(id, _)| *id).or(content.purged);
    last.map_or(0, |last| last.index + 1)
}

fn entry((id, bytes): &(LogId, Vec<u8>)) -> Entry {
    Entry { log_id: *id, payload: EntryPayload::Normal(Command::new(bytes.clone())) }
}

fn own_vote(term: u64) -> Vote {
    Vote { committed: true, ..Vote::new(term, 1) }
}

/// Appends entries and waits until they are durable.
pub(crate) async fn append(
    log: &mut RaftLogStore,
    entries: &[(LogId, Vec<u8>)],
) -> std::io::Result<()> {
    let entries: Vec<Entry> = entries.iter().map(entry).collect();
    log.blocking_append(entries).await.map_err(std::io::Error::other)
}

/// The disk as the product takes it.
pub(crate) fn handed_in(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

//! openraft's log storage over the write-ahead log of [`crate::log`]: entries, vote, truncation,
//! purge. What it adds is the memory between the two: entries are readable when `append` returns,
//! durable when the callback is called, and cached up to a bound after that.
//! No other module of this package implements a trait of openraft.

mod memory;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::disk::DiskFile;
use crate::home::DataDir;
use crate::log::{
    Location, LogError, LogHandle, LogOptions, Record, RecordKind, Recovered, Submission,
    SyncTimes, to_io_error,
};
use crate::raft_codec;
use crate::raft_types::{Entry, LogId, TypeConfig, Vote};
use crate::spawn::Driver;
use memory::{Found, Memory};

/// A read of entries for replication stops after about this many bytes: one AppendEntries.
const LIMITED_READ_BYTES: usize = 1 << 20;

/// The Raft log and vote of a coordinator. Clones are handles to the same log; the last one's
/// drop stops the writer, [`RaftLogStore::close`] also waits for it.
#[derive(Clone)]
pub struct RaftLogStore {
    log: LogHandle,
    memory: Arc<Mutex<Memory>>,
}

/// Which entries a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBounds {
    /// The last entry that was deleted because a snapshot covers it.
    pub purged: Option<LogId>,
    /// The last entry; the purged one when there is none.
    pub last: Option<LogId>,
}

impl RaftLogStore {
    /// Opens the log of a data directory, cuts a torn tail off, starts the writer.
    ///
    /// # Errors
    /// When anything that was durable is missing or damaged, when it belongs to another fleet or
    /// node, was written by a newer program, or the disk says no. It never starts empty.
    pub fn open(home: &DataDir, options: LogOptions, driver: Driver) -> Result<Self, LogError> {
        let (log, recovered) = LogHandle::open(home, options, driver)?;
        let memory =
            load(recovered, options.cache_bytes).map_err(|source| not_understood(home, source))?;
        Ok(Self { log, memory: Arc::new(Mutex::new(memory)) })
    }

    /// Which entries it holds: what a snapshot store needs to know when it opens.
    #[must_use]
    pub fn bounds(&self) -> LogBounds {
        self.lock().bounds()
    }

    /// How long its fdatasyncs take.
    #[must_use]
    pub fn sync_times(&self) -> SyncTimes {
        self.log.sync_times()
    }

    /// Why the log takes no more writes, if one failed: a health check shows it.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.log.poisoned()
    }

    /// Waits until all that was submitted is durable and the idle marker says so. The writer's
    /// thread does this by itself; a simulation, which has none, calls it when it is idle.
    ///
    /// # Errors
    /// When the log is poisoned or closed.
    pub async fn settle(&self) -> Result<(), LogError> {
        self.log.settle().await
    }

    /// Stops the writer after all that was submitted is durable and the marker says so. The lock
    /// of the data directory is free once all handles are dropped, too.
    ///
    /// # Errors
    /// When the log is poisoned.
    pub async fn close(&self) -> Result<(), LogError> {
        self.log.close().await
    }

    /// Submits under the memory's lock, so that the order on disk is the order in memory.
    fn submit(&self, change: impl FnOnce(&mut Memory) -> io::Result<Submission>) -> io::Result<()> {
        {
            let mut memory = self.lock();
            if let Some(reason) = self.log.poisoned() {
                return Err(to_io_error(Arc::new(LogError::Poisoned { reason })));
            }
            let submission = change(&mut memory)?;
            self.log.enqueue(submission).map_err(|e| to_io_error(Arc::new(e)))?;
        }
        self.log.kick();
        Ok(())
    }

    /// Submits one record and waits until it is durable.
    async fn submit_one(&self, record: Record, change: impl FnOnce(&mut Memory)) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(|memory| {
            change(memory);
            Ok(Submission {
                records: vec![record],
                // A caller that went away does not want to know.
                done: Box::new(move |result| drop(sender.send(result.map(drop)))),
            })
        })?;
        match receiver.await {
            Ok(result) => result.map_err(to_io_error),
            Err(_) => Err(to_io_error(Arc::new(LogError::Closed))),
        }
    }

    /// Writes a vote, entries that follow the last one, and that all of it is committed, as one
    /// batch: after a crash it is there as a whole or not at all. For a node that does not run, and
    /// whose log nobody else writes to.
    ///
    /// # Errors
    /// When the entries do not follow, or the disk says no; the node must then not be started
    /// before this was tried again.
    pub async fn append_whole(&self, vote: Vote, entries: Vec<Entry>) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        self.submit(move |memory| {
            let Some(last) = entries.last().map(|entry| entry.log_id) else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "no entries to append"));
            };
            let record = |kind, index, payload| Record { kind, index, payload };
            let mut records = vec![record(RecordKind::Vote, 0, raft_codec::encode_vote(&vote))];
            records.extend(entries.iter().map(|entry| {
                let payload = raft_codec::encode_entry(entry);
                record(RecordKind::Entry, entry.log_id.index, payload)
            }));
            let sizes: Vec<usize> = records.iter().skip(1).map(|r| r.payload.len()).collect();
            records.push(record(RecordKind::Committed, 0, raft_codec::encode_log_id(&last)));
            memory.append(entries, sizes.into_iter())?;
            memory.vote = Some(vote);
            memory.committed = Some(last);
            // A caller that went away does not want to know.
            let done = move |result: Result<Vec<Location>, _>| drop(sender.send(result.map(drop)));
            Ok(Submission { records, done: Box::new(done) })
        })?;
        match receiver.await {
            Ok(result) => result.map_err(to_io_error),
            Err(_) => Err(to_io_error(Arc::new(LogError::Closed))),
        }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        enum Source {
            Cached(Entry),
            Disk(Arc<dyn DiskFile>, Location),
        }
        // The files are looked up under the lock: a segment outlives its last entry in memory.
        let sources: Vec<Source> = {
            let memory = self.lock();
            let mut bytes = 0;
            let mut sources = Vec::new();
            for (found, entry_bytes) in memory.range(start, end) {
                bytes += entry_bytes;
                if !sources.is_empty() && bytes > bytes_max {
                    break;
                }
                sources.push(match found {
                    Found::Cached(entry) => Source::Cached(entry.clone()),
                    Found::OnDisk(location) => {
                        let file = self.log.file(location.segment).ok_or_else(|| {
                            io::Error::other("a live entry's log segment is not open")
                        })?;
                        Source::Disk(file, location)
                    }
                });
            }
            sources
        };
        sources
            .into_iter()
            .map(|source| match source {
                Source::Cached(entry) => Ok(entry),
                Source::Disk(file, location) => {
                    let bytes =
                        self.log.read(&*file, location).map_err(|e| to_io_error(Arc::new(e)))?;
                    raft_codec::decode_entry(&bytes)
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
                }
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

impl RaftLogReader<TypeConfig> for RaftLogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, LIMITED_READ_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for RaftLogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.bounds();
        Ok(LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let payload = raft_codec::encode_vote(vote);
        self.submit_one(Record { kind: RecordKind::Vote, index: 0, payload }, |memory| {
            memory.vote = Some(*vote);
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Nobody waits for it: after a crash the state is merely replayed from a little earlier.
        self.lock().committed = committed;
        self.log
            .note_committed(committed.as_ref().map_or_else(Vec::new, raft_codec::encode_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.log.room().await;
        let mut records = Vec::with_capacity(entries.len());
        for entry in &entries {
            let payload = raft_codec::encode_entry(entry);
            if payload.len() > crate::log::RECORD_BYTES_MAX {
                let error = LogError::TooLarge { bytes: payload.len() };
                return Err(to_io_error(Arc::new(error)));
            }
            records.push(Record { kind: RecordKind::Entry, index: entry.log_id.index, payload });
        }
        let shared = Arc::clone(&self.memory);
        let cache_bytes = self.log.options().cache_bytes;
        let first_index = entries.first().map_or(0, |entry| entry.log_id.index);
        self.submit(move |memory| {
            let sizes = records.iter().map(|r| r.payload.len());
            let ticket = memory.append(entries, sizes)?;
            let done = Box::new(move |result: Result<Vec<Location>, Arc<LogError>>| match result {
                Ok(locations) => {
                    lock(&shared).written(ticket, first_index, &locations, cache_bytes);
                    callback.io_completed(Ok(()));
                }
                Err(error) => callback.io_completed(Err(to_io_error(error))),
            });
            Ok(Submission { records, done })
        })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let record = Record { kind: RecordKind::TruncateFrom, index: from, payload: Vec::new() };
        self.submit_one(record, |memory| memory.truncate_from(from)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let payload = raft_codec::encode_log_id(&log_id);
        let record = Record { kind: RecordKind::Purge, index: log_id.index, payload };
        self.submit_one(record, |memory| memory.purge(log_id)).await
    }
}

/// What a log holds, read without changing anything: of a coordinator that does not run.
#[derive(Debug, Default)]
pub struct LogContents {
    /// The entries that are not purged, in order.
    pub entries: Vec<Entry>,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry that this node is known to have learned to be committed. More may be: it is
    /// written from time to time only.
    pub committed: Option<LogId>,
    /// Which entries it holds.
    pub bounds: LogBounds,
}

impl LogContents {
    /// Reads the log of a data directory, which may be on a [`crate::disk::ReadOnlyDisk`].
    ///
    /// # Errors
    /// As [`RaftLogStore::open`].
    pub fn read(home: &DataDir) -> Result<Self, LogError> {
        let dir = home.log_dir();
        let recovered = crate::log::look(&**home.disk(), &dir, home.identity())?;
        Self::decode(recovered).map_err(|source| not_understood(home, source))
    }

    fn decode(recovered: Recovered) -> Result<Self, raft_codec::CodecError> {
        let entries = recovered
            .entries
            .iter()
            .map(|entry| raft_codec::decode_entry(&entry.payload))
            .collect::<Result<Vec<_>, _>>()?;
        let purged = recovered.purged.as_ref();
        let purged = purged.map(|(_, id)| raft_codec::decode_log_id(id)).transpose()?;
        let last = entries.last().map(|entry| entry.log_id).or(purged);
        Ok(Self {
            vote: recovered.vote.as_deref().map(raft_codec::decode_vote).transpose()?,
            committed: recovered.committed.as_deref().map(raft_codec::decode_log_id).transpose()?,
            entries,
            bounds: LogBounds { purged, last },
        })
    }
}

/// The checksums fit, so these bytes are what a program wrote: not this one.
fn not_understood(home: &DataDir, source: raft_codec::CodecError) -> LogError {
    LogError::Io {
        action: "understand a record of",
        path: home.log_dir(),
        source: io::Error::new(io::ErrorKind::InvalidData, source),
    }
}

fn load(recovered: Recovered, cache_bytes: usize) -> Result<Memory, raft_codec::CodecError> {
    let mut memory = Memory::default();
    memory.vote = recovered.vote.as_deref().map(raft_codec::decode_vote).transpose()?;
    memory.committed = recovered.committed.as_deref().map(raft_codec::decode_log_id).transpose()?;
    if let Some((_, payload)) = &recovered.purged {
        memory.purge(raft_codec::decode_log_id(payload)?);
    }
    for entry in recovered.entries {
        let decoded = raft_codec::decode_entry(&entry.payload)?;
        memory.load(decoded, entry.payload.len(), entry.location, cache_bytes);
    }
    Ok(memory)
}

// Callbacks run outside the lock, so a panic of theirs cannot leave the memory half changed.
fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What is in the log, in memory: for every entry its id and where it is on disk, the newest also
//! whole. Entries that are not yet durable are always held; the others up to a bound of bytes.

use std::collections::VecDeque;
use std::io;

use super::LogBounds;
use crate::log::Location;
use crate::raft_types::{Entry, LogId, Vote};

/// The log as readers see it.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    /// Consecutive entries.
    slots: VecDeque<Slot>,
    /// Bytes of the entries held whole.
    cached_bytes: usize,
    /// Entries before this index are not held whole, so there is nothing to evict among them.
    evicted_below: u64,
    /// Number of the last append: tells an entry from a later one at the same index.
    last_ticket: u64,
}

/// An entry: held whole, or on disk, or both.
struct Slot {
    log_id: LogId,
    ticket: u64,
    bytes: usize,
    whole: Option<Entry>,
    /// Known once it is durable.
    location: Option<Location>,
}

/// Where a reader finds an entry.
pub(super) enum Found<'a> {
    /// Here.
    Cached(&'a Entry),
    /// There.
    OnDisk(Location),
}

impl Memory {
    pub(super) fn bounds(&self) -> LogBounds {
        let last = self.slots.back().map(|slot| slot.log_id).or(self.purged);
        LogBounds { purged: self.purged, last }
    }

    /// Takes entries in that follow the last one, and gives a ticket for [`Memory::written`].
    pub(super) fn append(
        &mut self,
        entries: Vec<Entry>,
        sizes: impl Iterator<Item = usize>,
    ) -> io::Result<u64> {
        let mut last = self.bounds().last;
        for entry in &entries {
            if let Some(last) = last
                && entry.log_id.index != last.index + 1
            {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("log entry {} does not follow {last}", entry.log_id),
                ));
            }
            last = Some(entry.log_id);
        }
        self.last_ticket += 1;
        for (entry, bytes) in entries.into_iter().zip(sizes) {
            self.push(entry, bytes, None);
        }
        Ok(self.last_ticket)
    }

    /// Notes where the entries of an append are on disk. Those truncated or purged meanwhile are
    /// passed over.
    pub(super) fn written(
        &mut self,
        ticket: u64,
        first_index: u64,
        locations: &[Location],
        cache_bytes: usize,
    ) {
        for (index, location) in (first_index..).zip(locations) {
            if let Some(slot) = self.slot_mut(index)
                && slot.ticket == ticket
            {
                slot.location = Some(*location);
            }
        }
        self.evict(cache_bytes);
    }

    /// Takes in an entry that was found on disk at open.
    pub(super) fn load(
        &mut self,
        entry: Entry,
        bytes: usize,
        location: Location,
        cache_bytes: usize,
    ) {
        self.push(entry, bytes, Some(location));
        self.evict(cache_bytes);
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: u64) {
        while self.slots.back().is_some_and(|slot| slot.log_id.index >= index) {
            let slot = self.slots.pop_back();
            self.cached_bytes -= held_bytes(slot.as_ref());
        }
        self.evicted_below = self.evicted_below.min(index);
    }

    /// Forgets the entries up to `log_id`.
    pub(super) fn purge(&mut self, log_id: LogId) {
        while self.slots.front().is_some_and(|slot| slot.log_id.index <= log_id.index) {
            let slot = self.slots.pop_front();
            self.cached_bytes -= held_bytes(slot.as_ref());
        }
        self.purged = self.purged.max(Some(log_id));
    }

    /// The entries of `[start, end)` that the log has, with their lengths.
    pub(super) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = (Found<'_>, usize)> {
        let first = self.first_index();
        let from = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let to = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
        let from = from.min(self.slots.len());
        let to = to.clamp(from, self.slots.len());
        self.slots.range(from..to).map(|slot| {
            let found = match (&slot.whole, slot.location) {
                (Some(entry), _) => Found::Cached(entry),
                (None, Some(location)) => Found::OnDisk(location),
                (None, None) => unreachable!("only entries with a location are evicted"),
            };
            (found, slot.bytes)
        })
    }

    fn push(&mut self, entry: Entry, bytes: usize, location: Option<Location>) {
        self.cached_bytes += bytes;
        self.slots.push_back(Slot {
            log_id: entry.log_id,
            ticket: self.last_ticket,
            bytes,
            whole: Some(entry),
            location,
        });
    }

    /// Drops the oldest whole entries that are durable until the rest is within the bound.
    fn evict(&mut self, cache_bytes: usize) {
        let mut index = self.evicted_below.max(self.first_index());
        while self.cached_bytes > cache_bytes {
            let Some(slot) = self.slot_mut(index) else { break };
            if slot.location.is_none() {
                break;
            }
            let freed = held_bytes(Some(slot));
            slot.whole = None;
            self.cached_bytes -= freed;
            index += 1;
        }
        self.evicted_below = index;
    }

    fn first_index(&self) -> u64 {
        self.slots.front().map_or(0, |slot| slot.log_id.index)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.first_index())?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }
}

fn held_bytes(slot: Option<&Slot>) -> usize {
    slot.filter(|slot| slot.whole.is_some()).map_or(0, |slot| slot.bytes)
}

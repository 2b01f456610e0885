//! The whole audit log as this node has it: the closed segments in files, the rest in the state. Read
//! from its end, which the state knows, to its beginning: every segment says where the one before it
//! ends, so that nothing is told of a file that any byte of was changed. Blocking.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coordinator_core::limits::AUDIT_SEGMENT_ENTRIES;
use coordinator_core::{AuditEntry, AuditHead, AuditLog, ChainError, Segment};
use proto_types::FleetId;
use storage::audit::AuditFiles;
use storage::home::DataDir;
use tokio::sync::Notify;

/// Entries of a closed segment.
pub(crate) const PER_SEGMENT: u64 = AUDIT_SEGMENT_ENTRIES as u64;

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lack {
    /// There is no such file.
    #[error("it is missing")]
    Missing,
    /// It is not what it was.
    #[error("it is damaged or was changed: {0}")]
    Damaged(ChainError),
    /// The disk says no.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

/// A segment that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("segment {segment} of the audit log (entries {} to {}): {lack}", first(*segment), last(*segment))]
pub(crate) struct Problem {
    pub(crate) segment: u64,
    /// Where it must end.
    pub(crate) end: AuditHead,
    pub(crate) lack: Lack,
}

/// Number of the first entry of a segment.
pub(crate) const fn first(segment: u64) -> u64 {
    segment * PER_SEGMENT + 1
}

/// Number of its last entry.
pub(crate) const fn last(segment: u64) -> u64 {
    (segment + 1) * PER_SEGMENT
}

/// What a check of the whole log found.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The hash at the entry that was asked for; `None` where it cannot be vouched for.
    pub(crate) compared: Option<AuditHead>,
    /// Segments read and found whole.
    pub(crate) segments: u64,
    /// What is wrong, if anything: from there back nothing can be vouched for.
    pub(crate) problem: Option<Problem>,
}

/// A file that was not what it should be and lies aside; somebody has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) segment: u64,
    pub(crate) what: String,
    pub(crate) aside: PathBuf,
}

/// An entry with the hash over it and all before.
pub(crate) type Hashed = (AuditEntry, [u8; 32]);

/// The audit log of this node. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fleet: FleetId,
    files: AuditFiles,
    /// Where segments end, as the chain says: once known, for ever true.
    ends: Mutex<BTreeMap<u64, AuditHead>>,
    damages: Mutex<Vec<Damage>>,
    doubted: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    pub(crate) fn new(home: DataDir) -> Self {
        let inner = Inner {
            fleet: home.identity().fleet,
            files: AuditFiles::new(home),
            ends: Mutex::default(),
            damages: Mutex::default(),
            doubted: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes a segment that left the state; durable when this returns. While the log is replayed its
    /// file is mostly there already; another content than the log's own is put aside.
    pub(crate) fn close(&self, segment: &Segment) -> io::Result<()> {
        let number = segment.number();
        let bytes = segment.encode();
        match self.inner.files.read(number) {
            Ok(Some(found)) if found == bytes => return Ok(()),
            Ok(Some(_)) => self.set_aside(number, "it was not what the log says")?,
            // What cannot be read is written anew.
            Ok(None) | Err(_) => {}
        }
        self.inner.files.put(number, &bytes)
    }

    /// Gives a segment's file another name, to be told of.
    pub(crate) fn set_aside(&self, segment: u64, what: &str) -> io::Result<()> {
        let aside = self.inner.files.put_aside(segment)?;
        let damage = Damage { segment, what: what.to_owned(), aside };
        tracing::error!(event = "audit_segment_damaged", segment, what, "put aside");
        lock(&self.inner.damages).push(damage);
        Ok(())
    }

    /// Files that were put aside since this node started, and nobody was told of yet.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        lock(&self.inner.damages).clone()
    }

    /// Somebody was told of it.
    pub(crate) fn told(&self, damage: &Damage) {
        lock(&self.inner.damages).retain(|other| other != damage);
    }

    /// Has every file read again soon: one was found that is not whole.
    pub(crate) fn doubt(&self) {
        self.inner.doubted.notify_one();
    }

    /// Waits until somebody doubts.
    pub(crate) async fn doubted(&self) {
        self.inner.doubted.notified().await;
    }

    /// A segment's file as it lies there.
    pub(crate) fn raw(&self, segment: u64) -> io::Result<Option<Vec<u8>>> {
        self.inner.files.read(segment)
    }

    /// Takes a segment from somebody else, if it is the one that ends there.
    ///
    /// # Errors
    /// When it is not, or the disk says no.
    pub(crate) fn take(&self, bytes: &[u8], end: AuditHead) -> Result<(), Lack> {
        let segment = Segment::decode(bytes, self.inner.fleet, end).map_err(Lack::Damaged)?;
        self.inner.files.put(segment.number(), bytes).map_err(Lack::Io)
    }

    fn segment(&self, segment: u64, end: AuditHead) -> Result<Segment, Problem> {
        let problem = |lack| Problem { segment, end, lack };
        let bytes = self.inner.files.read(segment).map_err(|error| problem(Lack::Io(error)))?;
        let bytes = bytes.ok_or_else(|| problem(Lack::Missing))?;
        let found = Segment::decode(&bytes, self.inner.fleet, end)
            .map_err(|error| problem(Lack::Damaged(error)))?;
        if let Some(before) = segment.checked_sub(1) {
            lock(&self.inner.ends).insert(before, found.previous);
        } else if found.previous != AuditHead::first(self.inner.fleet) {
            return Err(problem(Lack::Damaged(ChainError::Hash { number: 0 })));
        }
        Ok(found)
    }

    /// Where a closed segment ends: by the nearest later one that is known, and those between.
    fn end_of(&self, base: AuditHead, segment: u64) -> Result<AuditHead, Problem> {
        let newest = base.number / PER_SEGMENT - 1;
        let known = lock(&self.inner.ends).range(segment..newest).next().map(|(n, end)| (*n, *end));
        let (mut at, mut end) = known.unwrap_or((newest, base));
        while at > segment {
            end = self.segment(at, end)?.previous;
            at -= 1;
        }
        Ok(end)
    }

    /// Reads every closed segment that `is_known` does not vouch for, newest first, up to the first
    /// that is not whole. Gives those read.
    pub(crate) fn check_files(
        &self,
        base: AuditHead,
        is_known: impl Fn(u64) -> bool,
    ) -> (Vec<u64>, Option<Problem>) {
        let mut read = Vec::new();
        for segment in (0..base.number / PER_SEGMENT).rev() {
            if is_known(segment) {
                continue;
            }
            let end = self.end_of(base, segment);
            if let Err(problem) = end.and_then(|end| self.segment(segment, end)) {
                return (read, Some(problem));
            }
            read.push(segment);
        }
        (read, None)
    }

    /// Reads everything, and says the hash at one entry.
    pub(crate) fn check(&self, log: &AuditLog, compare: u64) -> Verdict {
        let (read, problem) = self.check_files(log.base(), |_| false);
        let compared = match &problem {
            Some(problem) if compare <= last(problem.segment) && compare < log.base().number => {
                None
            }
            _ => self.place(log, compare),
        };
        Verdict { compared, segments: read.len() as u64, problem }
    }

    fn place(&self, log: &AuditLog, number: u64) -> Option<AuditHead> {
        let base = log.base();
        if number > log.head().number {
            return None;
        }
        let (start, entries): (AuditHead, Vec<Arc<[u8]>>) = if number >= base.number {
            (base, log.tail().cloned().collect())
        } else {
            let segment = number / PER_SEGMENT;
            let end = self.end_of(base, segment).ok()?;
            let segment = self.segment(segment, end).ok()?;
            (segment.previous, segment.entries)
        };
        let steps = usize::try_from(number.checked_sub(start.number)?).ok()?;
        Some(entries.iter().take(steps).fold(start, |at, entry| at.link(entry)))
    }

    /// Entries with a smaller number than `before`, newest first, of the state and of at most
    /// `segments_max` files, until `each` says that it has enough. Gives the number from which to go
    /// on, 0 at the beginning of the log.
    ///
    /// # Errors
    /// The first segment that is not whole; what `each` was given before is.
    pub(crate) fn backwards(
        &self,
        log: &AuditLog,
        before: u64,
        segments_max: usize,
        mut each: impl FnMut(Hashed) -> bool,
    ) -> Result<u64, Problem> {
        let base = log.base();
        let mut next = before.min(log.head().number.saturating_add(1));
        if next > base.number + 1 {
            let entries: Vec<Arc<[u8]>> = log.tail().cloned().collect();
            for hashed in hashed(base, &entries).into_iter().rev() {
                if hashed.0.number < next {
                    next = hashed.0.number;
                    if !each(hashed) {
                        return Ok(next);
                    }
                }
            }
        }
        for _ in 0..segments_max {
            // `next` is the last that was told: the one before it is wanted.
            let Some(segment) = next.checked_sub(2).map(|index| index / PER_SEGMENT) else {
                return Ok(0);
            };
            let end = self.end_of(base, segment)?;
            let found = self.segment(segment, end)?;
            for hashed in hashed(found.previous, &found.entries).into_iter().rev() {
                if hashed.0.number < next {
                    next = hashed.0.number;
                    if !each(hashed) {
                        return Ok(next);
                    }
                }
            }
        }
        Ok(if next <= 1 { 0 } else { next })
    }

    /// The entries of a closed segment, oldest first.
    ///
    /// # Errors
    /// When it is not whole.
    pub(crate) fn entries_of(&self, base: AuditHead, segment: u64) -> Result<Vec<Hashed>, Problem> {
        let end = self.end_of(base, segment)?;
        let found = self.segment(segment, end)?;
        Ok(hashed(found.previous, &found.entries))
    }

    /// The bytes of a closed segment, checked.
    ///
    /// # Errors
    /// When it is not whole.
    pub(crate) fn bytes_of(&self, base: AuditHead, segment: u64) -> Result<Vec<u8>, Problem> {
        let end = self.end_of(base, segment)?;
        Ok(self.segment(segment, end)?.encode())
    }
}

/// Entries that were checked already, each with its hash.
pub(crate) fn hashed(mut at: AuditHead, entries: &[Arc<[u8]>]) -> Vec<Hashed> {
    entries
        .iter()
        .map_while(|entry| {
            let read = at.follow(entry).ok()?;
            Some((read, at.hash))
        })
        .collect()
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;

//! Opening a log: read every segment, tell a torn tail from damage, replay the records.
//!
//! The first byte that is no valid frame is a torn tail only if nothing says that it was durable:
//! it stands in the last segment, at or after the marker, and no valid frame after it was written
//! when that place was already durable. Everything else is damage and opening fails.
//!
//! What stands after the marker is written anew before it is believed. It was read through the
//! page cache, and after a failed fdatasync Linux keeps pages there that are neither dirty nor on
//! the disk: another sync would succeed on nothing.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, FrameKind, RecordKind, RecordRef};
use super::marker::{Mark, Marker};
use super::segment::{self, HEADER_BYTES, Location};
use super::writer::{Active, Checkpoint, Sealed, Writer};
use super::{LogError, LogOptions, Position};
use crate::disk::{self, Disk, DiskFile, EntryKind};
use crate::home::HomeIdentity;

/// What the records of a log amount to.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The live entries, consecutive.
    pub(crate) entries: VecDeque<RecoveredEntry>,
    /// The last vote.
    pub(crate) vote: Option<Vec<u8>>,
    /// Index and log id of the last purged entry.
    pub(crate) purged: Option<(u64, Vec<u8>)>,
    /// The last committed log id that was saved.
    pub(crate) committed: Option<Vec<u8>>,
}

/// A live entry.
#[derive(Debug)]
pub(crate) struct RecoveredEntry {
    /// Its place in the Raft log.
    pub(crate) index: u64,
    /// Encoded by `raft_codec`.
    pub(crate) payload: Vec<u8>,
    /// Where it is.
    pub(crate) location: Location,
}

/// Opens a log, cuts a torn tail off, and brings what is left to stable storage: a process that
/// died may have left bytes that were written but not synced, or whose sync failed, and they are
/// about to be believed.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    owner: HomeIdentity,
    options: LogOptions,
) -> Result<(Writer, Recovered), LogError> {
    let Scanned { mut marker, leftovers, last, mut segments, recovered } =
        scan(&**disk, dir, owner)?;
    let mark = marker.mark();

    // The sync that was to make this name durable may have failed. Removed, it is made anew by the
    // first batch; nothing is lost with it, since the marker goes ahead of a segment's frames.
    if segments.len() > 1
        && let Some(successor) = segments.pop_back_if(|found| found.is_empty_beyond(mark))
    {
        let path = segment::path(dir, successor.number);
        disk.remove(&path).map_err(LogError::io("remove", &path))?;
    }
    for found in &segments {
        found.make_durable(dir)?;
    }
    let Some(active) = segments.pop_back() else {
        return Err(LogError::Missing { path: segment::path(dir, last) });
    };
    let end = Position { segment: active.number, offset: active.end };
    marker.renew(Mark { first_segment: mark.first_segment, durable: end })?;
    // Not before: the `first_segment` on whose word they go may have been in the cache only.
    for path in leftovers {
        disk.remove(&path).map_err(LogError::io("remove", &path))?;
    }

    let checkpoint = Checkpoint {
        vote: recovered.vote.clone(),
        purged: recovered.purged.clone(),
        committed: recovered.committed.clone(),
    };
    let sealed = segments
        .into_iter()
        .map(|found| Sealed { number: found.number, max_index: found.max_index, file: found.file })
        .collect();
    let active = Active {
        number: active.number,
        offset: active.end,
        max_index: active.max_index,
        is_sealed: active.is_sealed,
        file: active.file,
    };
    let writer =
        Writer::new(Arc::clone(disk), dir, owner, options, marker, active, sealed, checkpoint);
    Ok((writer, recovered))
}

/// What the records of a log amount to, as they stand there: nothing is cut off, written or
/// removed.
///
/// # Errors
/// As opening the log.
pub(crate) fn look(
    disk: &dyn Disk,
    dir: &Path,
    owner: HomeIdentity,
) -> Result<Recovered, LogError> {
    scan(disk, dir, owner).map(|scanned| scanned.recovered)
}

/// A log that was read through.
struct Scanned {
    marker: Marker,
    leftovers: Vec<PathBuf>,
    /// Number of the last segment.
    last: u64,
    segments: VecDeque<Found>,
    recovered: Recovered,
}

fn scan(disk: &dyn Disk, dir: &Path, owner: HomeIdentity) -> Result<Scanned, LogError> {
    super::require(disk, dir)?;
    let marker = Marker::open(disk, dir)?;
    let mark = marker.mark();
    let Names { segments: numbers, leftovers } = names(disk, dir, mark)?;
    let last = numbers.last().copied().unwrap_or(mark.durable.segment);

    let mut recovered = Recovered::default();
    let mut segments = VecDeque::new();
    for number in numbers {
        let scan = Scan { disk, dir, owner, number, is_last: number == last };
        segments.push_back(scan.run(mark, &mut recovered)?);
    }
    check_continuity(dir, last, &recovered)?;
    Ok(Scanned { marker, leftovers, last, segments, recovered })
}

/// What is in the directory.
struct Names {
    segments: Vec<u64>,
    /// Half written, or of purged segments.
    leftovers: Vec<PathBuf>,
}

/// Lists the segments, which must be without a gap from the first that the marker names and reach
/// at least the one it stands in, and what is to be removed.
fn names(disk: &dyn Disk, dir: &Path, mark: Mark) -> Result<Names, LogError> {
    let mut found = Names { segments: Vec::new(), leftovers: Vec::new() };
    for entry in disk.list(dir).map_err(LogError::io("list", dir))? {
        let number = segment::number(&entry.name);
        let is_leftover = number.is_some_and(|n| n < mark.first_segment)
            || entry.name.as_encoded_bytes().ends_with(disk::TEMPORARY_SUFFIX.as_bytes());
        if entry.kind != EntryKind::File {
            continue;
        }
        if is_leftover {
            found.leftovers.push(dir.join(&entry.name));
        } else if let Some(number) = number {
            found.segments.push(number);
        }
    }
    let last = found.segments.last().copied().unwrap_or(0).max(mark.durable.segment);
    for expected in mark.first_segment..=last {
        if found.segments.binary_search(&expected).is_err() {
            return Err(LogError::Missing { path: segment::path(dir, expected) });
        }
    }
    Ok(found)
}

/// Reading one segment.
struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    owner: HomeIdentity,
    number: u64,
    is_last: bool,
}

/// What a segment turned out to hold.
struct Found {
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
    /// Garbage after the end; zeros do not count.
    cut_bytes: u64,
    /// Whether nothing at all follows the end, not even zeros.
    is_at_end_of_file: bool,
    /// What is not known durable: the valid bytes after the marker, up to the end.
    tail: Vec<u8>,
    is_sealed: bool,
    max_index: Option<u64>,
}

impl Found {
    /// Whether this is a segment that the marker has not reached and nothing was written to.
    fn is_empty_beyond(&self, mark: Mark) -> bool {
        self.number > mark.durable.segment && self.end == HEADER_BYTES && self.cut_bytes == 0
    }

    /// Cuts off what is torn, and brings to stable storage what the marker does not vouch for.
    fn make_durable(&self, dir: &Path) -> Result<(), LogError> {
        let path = segment::path(dir, self.number);
        if self.cut_bytes > 0 {
            tracing::warn!(
                file = %path.display(), offset = self.end, bytes = self.cut_bytes,
                "cut off the torn tail of the log: a write that nobody was told of"
            );
        }
        // A file that ends here may have been cut by a process whose sync then failed.
        let is_cut = self.cut_bytes > 0 || self.is_at_end_of_file;
        if is_cut && !self.is_sealed {
            self.file.truncate(self.end).map_err(LogError::io("truncate", &path))?;
        }
        if !self.tail.is_empty() {
            // In place, with what is there already: a write that is torn takes nothing away.
            let at = self.end - self.tail.len() as u64;
            self.file.write_at(at, &self.tail).map_err(LogError::io("write", &path))?;
        }
        if !self.tail.is_empty() || !self.is_sealed {
            self.file.sync_data().map_err(LogError::io("sync", &path))?;
        }
        Ok(())
    }
}

impl Scan<'_> {
    fn run(&self, mark: Mark, recovered: &mut Recovered) -> Result<Found, LogError> {
        let path = segment::path(self.dir, self.number);
        let file: Arc<dyn DiskFile> =
            Arc::from(self.disk.open(&path).map_err(LogError::io("open", &path))?);
        let length = file.len().map_err(LogError::io("measure", &path))?;
        let mut bytes = vec![0; usize::try_from(length).expect("a segment fits into memory")];
        disk::read_exact_at(&*file, 0, &mut bytes).map_err(LogError::io("read", &path))?;
        segment::check_header(&path, &bytes, self.number, self.owner)?;

        let mut at = HEADER_BYTES;
        let mut is_sealed = false;
        let mut max_index = None;
        while !is_sealed {
            let position = Position { segment: self.number, offset: at };
            let Some(frame) = frame::parse(rest_of(&bytes, at), position) else { break };
            for (record, offset) in &frame.records {
                if record.kind == RecordKind::Entry {
                    max_index = max_index.max(Some(record.index));
                }
                let location = Location {
                    segment: self.number,
                    offset: at + *offset as u64,
                    payload_bytes: u32::try_from(record.payload.len()).expect("was a u32"),
                };
                replay(recovered, *record, location).map_err(|what| LogError::Damaged {
                    path: path.clone(),
                    offset: location.offset,
                    what,
                })?;
            }
            is_sealed = frame.kind == FrameKind::Seal;
            at += frame.bytes as u64;
        }

        // Here the valid frames end. Who says that there must be more?
        let damaged = |what| LogError::Damaged { path: path.clone(), offset: at, what };
        let end = Position { segment: self.number, offset: at };
        if !self.is_last && !is_sealed {
            return Err(damaged("the segment ends before its seal, and another follows it"));
        }
        if end < mark.durable && mark.durable.segment == self.number {
            return Err(damaged("the marker says that the log was durable beyond this"));
        }
        let later = frame::durable_according_to_later_frames(&bytes, self.number, at);
        if later.is_some_and(|durable| durable > end) {
            return Err(damaged("a later frame says that the log was durable beyond this"));
        }
        let garbage = rest_of(&bytes, at).iter().rposition(|b| *b != 0).map_or(0, |i| i as u64 + 1);
        if is_sealed && garbage > 0 {
            return Err(damaged("bytes follow the segment's seal"));
        }
        let is_at_end_of_file = at == length;
        let trusted = match self.number.cmp(&mark.durable.segment) {
            Ordering::Less => at,
            Ordering::Equal => mark.durable.offset,
            Ordering::Greater => 0,
        };
        // No marker stands behind the end: that was refused above.
        let tail = rest_of(&bytes, trusted);
        let tail = tail[..usize::try_from(at - trusted).unwrap_or(tail.len())].to_vec();
        Ok(Found {
            number: self.number,
            file,
            end: at,
            cut_bytes: garbage,
            is_at_end_of_file,
            tail,
            is_sealed,
            max_index,
        })
    }
}

fn rest_of(bytes: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default()
}

fn replay(
    recovered: &mut Recovered,
    record: RecordRef<'_>,
    location: Location,
) -> Result<(), &'static str> {
    let index = record.index;
    let payload = || record.payload.to_vec();
    match record.kind {
        RecordKind::Entry => {
            if let Some(last) = recovered.entries.back()
                && index != last.index + 1
            {
                return Err("an entry does not follow the one before it");
            }
            recovered.entries.push_back(RecoveredEntry { index, payload: payload(), location });
        }
        RecordKind::Vote => recovered.vote = Some(payload()),
        RecordKind::TruncateFrom => {
            while recovered.entries.back().is_some_and(|last| last.index >= index) {
                recovered.entries.pop_back();
            }
        }
        RecordKind::Purge => {
            while recovered.entries.front().is_some_and(|first| first.index <= index) {
                recovered.entries.pop_front();
            }
            recovered.purged = Some((index, payload()));
        }
        RecordKind::Committed => {
            recovered.committed = (!record.payload.is_empty()).then(payload);
        }
    }
    Ok(())
}

/// The live entries must begin right after what was purged: the segments before were deleted on
/// that ground.
fn check_continuity(dir: &Path, last: u64, recovered: &Recovered) -> Result<(), LogError> {
    match (&recovered.purged, recovered.entries.front()) {
        (Some((purged, _)), Some(first)) if first.index != purged + 1 => Err(LogError::Damaged {
            path: segment::path(dir, last),
            offset: 0,
            what: "entries between the last purged and the first kept one are missing",
        }),
        _ => Ok(()),
    }
}

//! Opening a log: read every segment, tell a torn tail from damage, replay the records.
//!
//! The first byte that is no valid frame is a torn tail only if nothing says that it was durable:
//! it stands in the last segment, at or after the marker, and no valid frame after it was written
//! when that place was already durable. Everything else is damage and opening fails.

use std::collections::VecDeque;
use std::path::Path;
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
/// died may have left bytes that were written but not synced, and they are about to be believed.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    owner: HomeIdentity,
    options: LogOptions,
) -> Result<(Writer, Recovered), LogError> {
    super::require(&**disk, dir)?;
    let mut marker = Marker::open(&**disk, dir)?;
    let segments = live_segments(&**disk, dir, marker.mark())?;
    let last = *segments.last().expect("live_segments returns at least the marker's segment");

    let mut recovered = Recovered::default();
    let mut sealed = VecDeque::new();
    let mut active = None;
    for number in segments {
        let scan = Scan { disk: &**disk, dir, owner, number, is_last: number == last };
        let found = scan.run(marker.mark(), &mut recovered)?;
        if number == last {
            active = Some(found);
        } else {
            sealed.push_back(Sealed { number, max_index: found.max_index, file: found.file });
        }
    }
    let found = active.expect("the last segment was scanned");
    check_continuity(dir, last, &recovered)?;

    let path = segment::path(dir, last);
    if found.cut_bytes > 0 {
        tracing::warn!(
            file = %path.display(), offset = found.end, bytes = found.cut_bytes,
            "cut off the torn tail of the log: a write that nobody was told of"
        );
        found.file.truncate(found.end).map_err(LogError::io("truncate", &path))?;
    }
    found.file.sync_data().map_err(LogError::io("sync", &path))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    let end = Position { segment: last, offset: found.end };
    marker.write(Mark { first_segment: marker.mark().first_segment, durable: end })?;

    let checkpoint = Checkpoint {
        vote: recovered.vote.clone(),
        purged: recovered.purged.clone(),
        committed: recovered.committed.clone(),
    };
    let active = Active {
        number: last,
        offset: found.end,
        max_index: found.max_index,
        is_sealed: found.is_sealed,
        file: found.file,
    };
    let writer =
        Writer::new(Arc::clone(disk), dir, owner, options, marker, active, sealed, checkpoint);
    Ok((writer, recovered))
}

/// Removes leftovers and lists the segments, which must be without a gap from the first that the
/// marker names and reach at least the one it stands in.
fn live_segments(disk: &dyn Disk, dir: &Path, mark: Mark) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    for entry in disk.list(dir).map_err(LogError::io("list", dir))? {
        let path = dir.join(&entry.name);
        let number = segment::number(&entry.name);
        let is_leftover = number.is_some_and(|n| n < mark.first_segment)
            || entry.name.as_encoded_bytes().ends_with(disk::TEMPORARY_SUFFIX.as_bytes());
        if entry.kind != EntryKind::File {
            continue;
        }
        if is_leftover {
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
        } else if let Some(number) = number {
            numbers.push(number);
        }
    }
    let last = numbers.last().copied().unwrap_or(0).max(mark.durable.segment);
    for expected in mark.first_segment..=last {
        if numbers.binary_search(&expected).is_err() {
            return Err(LogError::Missing { path: segment::path(dir, expected) });
        }
    }
    Ok(numbers)
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
    file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
    /// Garbage after the end; zeros do not count.
    cut_bytes: u64,
    is_sealed: bool,
    max_index: Option<u64>,
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
        Ok(Found { file, end: at, cut_bytes: garbage, is_sealed, max_index })
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

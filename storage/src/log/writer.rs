//! The one writer of a log: turns batches of records into frames, one fdatasync each, changes
//! segments, keeps the marker, deletes what was purged. Single-threaded; who calls it and on
//! which thread is `queue`'s business.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::frame::{self, FRAME_HEADER_BYTES, FrameKind, Record, RecordKind};
use super::marker::{Mark, Marker};
use super::segment::{self, HEADER_BYTES, Location};
use super::{LogError, LogOptions, Position, SyncTimes};
use crate::disk::{Disk, DiskFile};
use crate::home::HomeIdentity;
use crate::spawn::Driver;

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the next frame goes; everything before it is durable.
    pub(super) offset: u64,
    /// Largest index of any entry ever written to it.
    pub(super) max_index: Option<u64>,
    /// A crash fell between its seal and its successor.
    pub(super) is_sealed: bool,
}

/// A segment that has a successor.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Largest index of any entry ever written to it: once purged, the segment may go.
    pub(super) max_index: Option<u64>,
    pub(super) file: Arc<dyn DiskFile>,
}

/// What must not get lost with a deleted segment: repeated in the first frame of every segment.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    pub(super) vote: Option<Vec<u8>>,
    pub(super) purged: Option<(u64, Vec<u8>)>,
    pub(super) committed: Option<Vec<u8>>,
}

/// Open segment files by number, shared with the readers.
pub(super) type SegmentFiles = Arc<Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>>;

/// The writer.
#[derive(Debug)]
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    owner: HomeIdentity,
    options: LogOptions,
    marker: Marker,
    active: Active,
    sealed: VecDeque<Sealed>,
    checkpoint: Checkpoint,
    files: SegmentFiles,
    preparation: Arc<Mutex<Preparation>>,
    sync_times: SyncTimes,
}

/// The next segment's file, zero-filled in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparation {
    /// Not yet begun.
    None,
    /// Under way.
    Running,
    /// There.
    Ready,
    /// Not for this segment: a disk too full for it is not to be filled again and again.
    Failed,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "the parts that recovery found, named once")]
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        owner: HomeIdentity,
        options: LogOptions,
        marker: Marker,
        active: Active,
        sealed: VecDeque<Sealed>,
        checkpoint: Checkpoint,
    ) -> Self {
        let files = sealed.iter().map(|s| (s.number, Arc::clone(&s.file)));
        let files = files.chain([(active.number, Arc::clone(&active.file))]).collect();
        Self {
            disk,
            dir: dir.to_owned(),
            owner,
            options,
            marker,
            active,
            sealed,
            checkpoint,
            files: Arc::new(Mutex::new(files)),
            preparation: Arc::new(Mutex::new(Preparation::None)),
            sync_times: SyncTimes::default(),
        }
    }

    /// How long its syncs take.
    pub(super) fn sync_times(&self) -> SyncTimes {
        self.sync_times.clone()
    }

    /// The open files, for readers.
    pub(super) fn files(&self) -> SegmentFiles {
        Arc::clone(&self.files)
    }

    /// Whether the marker lags behind what is durable.
    pub(super) fn is_marker_behind(&self) -> bool {
        self.marker.mark().durable != self.end()
    }

    /// Writes records as one frame and brings it to stable storage. When this returns they are
    /// durable, and each has the location at its place in the result. After an error nothing may
    /// be written any more.
    pub(super) fn commit(
        &mut self,
        records: &[Record],
        driver: &Driver,
    ) -> Result<Vec<Location>, LogError> {
        let bytes = FRAME_HEADER_BYTES as u64
            + records.iter().map(|r| r.encoded_bytes() as u64).sum::<u64>()
            + FRAME_HEADER_BYTES as u64 // room for the seal
            + frame::ALIGNMENT;
        let is_first = self.active.offset == HEADER_BYTES;
        if self.active.is_sealed
            || (!is_first && self.active.offset + bytes > self.options.segment_bytes)
        {
            self.change_segment()?;
        }
        // Also when a crash fell between the change of segments and the first frame.
        let checkpoint = if self.active.offset == HEADER_BYTES {
            self.checkpoint.to_records()
        } else {
            Vec::new()
        };
        let all: Vec<&Record> = checkpoint.iter().chain(records).collect();
        let start = self.end();
        let (frame, offsets) = frame::encode(FrameKind::Batch, start, start, &all);
        self.append(&frame)?;

        let mut locations = Vec::with_capacity(records.len());
        for (record, offset) in all.iter().zip(offsets).skip(checkpoint.len()) {
            locations.push(Location {
                segment: start.segment,
                offset: start.offset + offset as u64,
                payload_bytes: u32::try_from(record.payload.len()).expect("checked by the queue"),
            });
            self.note(record);
        }
        if records.iter().any(|r| r.kind == RecordKind::Purge) {
            self.delete_purged()?;
        }
        if records.iter().any(|r| r.kind == RecordKind::Vote) {
            // An entry lost to a fault of the medium is on other replicas; a vote is nowhere else.
            // Elections are rare, so a vote pays for the marker at once.
            self.settle()?;
        }
        self.prepare_next(driver);
        Ok(locations)
    }

    /// Brings the marker up to date. Called when nothing else is to be done.
    pub(super) fn settle(&mut self) -> Result<(), LogError> {
        if self.is_marker_behind() {
            let first_segment = self.marker.mark().first_segment;
            self.marker.write(Mark { first_segment, durable: self.end() })?;
        }
        Ok(())
    }

    fn end(&self) -> Position {
        Position { segment: self.active.number, offset: self.active.offset }
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), LogError> {
        let path = segment::path(&self.dir, self.active.number);
        let file = &self.active.file;
        file.write_at(self.active.offset, frame).map_err(LogError::io("write", &path))?;
        self.sync_times.measure(|| file.sync_data()).map_err(LogError::io("sync", &path))?;
        self.active.offset += frame.len() as u64;
        Ok(())
    }

    fn note(&mut self, record: &Record) {
        let payload = || record.payload.clone();
        match record.kind {
            RecordKind::Entry => {
                self.active.max_index = self.active.max_index.max(Some(record.index));
            }
            RecordKind::Vote => self.checkpoint.vote = Some(payload()),
            RecordKind::TruncateFrom => {}
            RecordKind::Purge => self.checkpoint.purged = Some((record.index, payload())),
            RecordKind::Committed => {
                self.checkpoint.committed = (!record.payload.is_empty()).then(payload);
            }
        }
    }

    /// Seals the active segment and goes on in the next. The seal is durable before the next
    /// segment has its name, and the marker stands in the next one before anything is written to
    /// it: so a missing or short segment is always noticed.
    fn change_segment(&mut self) -> Result<(), LogError> {
        if !self.active.is_sealed {
            let start = self.end();
            let (seal, _) = frame::encode(FrameKind::Seal, start, start, &[]);
            self.append(&seal)?;
        }
        let number = self.active.number + 1;
        let mut preparation = lock(&self.preparation);
        let is_ready = *preparation == Preparation::Ready;
        if *preparation != Preparation::Running {
            *preparation = Preparation::None;
        }
        let file = if is_ready {
            segment::adopt(&*self.disk, &self.dir, number, self.owner)?
        } else {
            // Not ready in time: go on without preallocation rather than wait for zeros.
            segment::create(&*self.disk, &self.dir, number, self.owner)?
        };
        drop(preparation);
        self.disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))?;
        lock(&self.files).insert(number, Arc::clone(&file));
        let next = Active { number, file, offset: HEADER_BYTES, max_index: None, is_sealed: false };
        let old = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(Sealed {
            number: old.number,
            max_index: old.max_index,
            file: old.file,
        });
        self.settle()
    }

    /// Deletes the segments at the front that hold nothing but purged entries. The marker says so
    /// first; a crash in between leaves files that the next open removes.
    fn delete_purged(&mut self) -> Result<(), LogError> {
        let Some((purged, _)) = &self.checkpoint.purged else { return Ok(()) };
        let gone = self
            .sealed
            .iter()
            .take_while(|s| s.max_index.is_none_or(|index| index <= *purged))
            .count();
        if gone == 0 {
            return Ok(());
        }
        let first_segment = self.sealed.get(gone).map_or(self.active.number, |s| s.number);
        self.marker.write(Mark { first_segment, durable: self.end() })?;
        for old in self.sealed.drain(..gone).collect::<Vec<_>>() {
            lock(&self.files).remove(&old.number);
            let path = segment::path(&self.dir, old.number);
            self.disk.remove(&path).map_err(LogError::io("remove", &path))?;
        }
        Ok(())
    }

    /// Has the next segment zero-filled while this one is written: done in the writer, it would
    /// hold up appends for more than a tenth of a second.
    fn prepare_next(&self, driver: &Driver) {
        let mut preparation = lock(&self.preparation);
        if *preparation != Preparation::None {
            return;
        }
        *preparation = Preparation::Running;
        drop(preparation);
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        let (bytes, outcome) = (self.options.segment_bytes, Arc::clone(&self.preparation));
        let task = move || {
            // A failure here costs only the preallocation. A full disk shows in the append.
            *lock(&outcome) = match segment::prepare_next(&*disk, &dir, bytes) {
                Ok(()) => Preparation::Ready,
                Err(error) => {
                    tracing::warn!(%error, "could not prepare the next segment of the log");
                    Preparation::Failed
                }
            };
        };
        match driver {
            Driver::Inline => task(),
            Driver::Thread(spawn) => {
                if let Err(error) = spawn.spawn("log-prepare", Box::new(task)) {
                    tracing::warn!(%error, "no thread to prepare the next segment of the log");
                    *lock(&self.preparation) = Preparation::Failed;
                }
            }
        }
    }
}

impl Checkpoint {
    fn to_records(&self) -> Vec<Record> {
        let record =
            |kind, index, payload: &Vec<u8>| Record { kind, index, payload: payload.clone() };
        let vote = self.vote.iter().map(|p| record(RecordKind::Vote, 0, p));
        let purged = self.purged.iter().map(|(i, p)| record(RecordKind::Purge, *i, p));
        let committed = self.committed.iter().map(|p| record(RecordKind::Committed, 0, p));
        vote.chain(purged).chain(committed).collect()
    }
}

// A panic while one of these was held cannot leave it half changed: every change is one store.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

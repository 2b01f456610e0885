//! The idle marker: how far the log is known durable, in two checksummed slots that are written
//! in turn, each in a block of its own, so that a torn write leaves the other. While the log is
//! busy its frames say the same with one batch of delay; the marker closes that gap at rest.

use std::path::{Path, PathBuf};

use super::segment::HEADER_BYTES;
use super::{LOG_VERSION, LogError, Position};
use crate::disk::{self, Disk, DiskFile};

const MAGIC: [u8; 8] = *b"SRWALMRK";
const SLOT_BYTES: usize = 64;
/// Slots are this far apart: no disk tears a write of one block into the next but one.
const SLOT_DISTANCE: u64 = 4096;

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The oldest segment that must be there; older ones are leftovers.
    pub(super) first_segment: u64,
    /// Everything before this is on stable storage.
    pub(super) durable: Position,
}

/// The open marker file.
#[derive(Debug)]
pub(super) struct Marker {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Number of the slot written last; its parity says where it is.
    counter: u64,
    mark: Mark,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("MARKER")
}

/// Makes the marker of a new log. Its name is durable only after a sync of `dir`.
pub(super) fn create(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let path = path(dir);
    let mark = Mark { first_segment: 1, durable: Position { segment: 1, offset: HEADER_BYTES } };
    let file = disk.create(&path).map_err(LogError::io("create", &path))?;
    let mut content = vec![0; SLOT_DISTANCE as usize * 2];
    for counter in [0, 1] {
        let at = (counter % 2 * SLOT_DISTANCE) as usize;
        content[at..at + SLOT_BYTES].copy_from_slice(&encode(counter, mark));
    }
    file.write_at(0, &content).map_err(LogError::io("write", &path))?;
    file.sync_all().map_err(LogError::io("sync", &path))
}

impl Marker {
    /// Opens the marker and takes the newest slot that reads.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        let path = path(dir);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LogError::Missing { path });
            }
            Err(source) => return Err(LogError::Io { action: "open", path, source }),
        };
        let mut newest: Option<(u64, Mark)> = None;
        for slot in [0, SLOT_DISTANCE] {
            let mut bytes = [0; SLOT_BYTES];
            match disk::read_exact_at(&*file, slot, &mut bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(source) => return Err(LogError::Io { action: "read", path, source }),
            }
            if let Some(found) = decode(&path, &bytes)?
                && newest.is_none_or(|(counter, _)| counter < found.0)
            {
                newest = Some(found);
            }
        }
        match newest {
            Some((counter, mark)) => Ok(Self { file, path, counter, mark }),
            None => Err(LogError::Damaged { path, offset: 0, what: "neither slot is whole" }),
        }
    }

    /// What it says.
    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    /// Writes the slot that was not written last, and syncs it.
    pub(super) fn write(&mut self, mark: Mark) -> Result<(), LogError> {
        let counter = self.counter + 1;
        self.put(counter, mark)?;
        self.counter = counter;
        self.mark = mark;
        Ok(())
    }

    /// [`Marker::write`] of a process that has just opened it. The slot that it read may be in the
    /// cache only, its sync having failed: it is written again first, since the other one is
    /// about to be overwritten and might be the only one on the disk.
    pub(super) fn renew(&mut self, mark: Mark) -> Result<(), LogError> {
        self.put(self.counter, self.mark)?;
        self.write(mark)
    }

    fn put(&self, counter: u64, mark: Mark) -> Result<(), LogError> {
        let at = counter % 2 * SLOT_DISTANCE;
        self.file
            .write_at(at, &encode(counter, mark))
            .map_err(LogError::io("write", &self.path))?;
        self.file.sync_data().map_err(LogError::io("sync", &self.path))
    }
}

// magic[8] version:u8 0[7] counter:u64 first_segment:u64 durable_segment:u64 durable_offset:u64
// 0[12] crc32c:u32
fn encode(counter: u64, mark: Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = LOG_VERSION;
    let numbers = [counter, mark.first_segment, mark.durable.segment, mark.durable.offset];
    for (i, number) in numbers.into_iter().enumerate() {
        bytes[16 + i * 8..24 + i * 8].copy_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(path: &Path, bytes: &[u8; SLOT_BYTES]) -> Result<Option<(u64, Mark)>, LogError> {
    let checksum = u32::from_le_bytes(bytes[60..].try_into().expect("four bytes"));
    if bytes[..8] != MAGIC || checksum != crc32c::crc32c(&bytes[..60]) {
        return Ok(None);
    }
    if bytes[8] != LOG_VERSION {
        return Err(LogError::UnsupportedVersion { path: path.to_owned(), found: bytes[8] });
    }
    let number =
        |i: usize| u64::from_le_bytes(bytes[16 + i * 8..24 + i * 8].try_into().expect("8 bytes"));
    Ok(Some((
        number(0),
        Mark {
            first_segment: number(1),
            durable: Position { segment: number(2), offset: number(3) },
        },
    )))
}

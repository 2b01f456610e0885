//! A segment file: its name, its header, and reading one record of it. The header was synced
//! before the file got its name, so a header that does not read is always damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_types::{FleetId, NodeId};

use super::frame::{self, RECORD_HEADER_BYTES};
use super::{LOG_VERSION, LogError};
use crate::disk::{self, Disk, DiskFile};
use crate::home::HomeIdentity;

/// Frames begin here.
pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"SRWALSEG";
const SUFFIX: &str = ".wal";

/// Where the payload of one record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The segment.
    pub(crate) segment: u64,
    /// Offset of the record's own header.
    pub(crate) offset: u64,
    /// Length of the payload.
    pub(crate) payload_bytes: u32,
}

/// The file of a segment.
pub(super) fn path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:016x}{SUFFIX}"))
}

/// The number in a segment's file name.
pub(super) fn number(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(SUFFIX)?;
    if digits.len() != 16 || digits.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

// magic[8] version:u8 0[7] fleet[16] node:u64 segment:u64 0[12] crc32c:u32
pub(super) fn header(segment: u64, owner: HomeIdentity) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = LOG_VERSION;
    bytes[16..32].copy_from_slice(owner.fleet.as_bytes());
    bytes[32..40].copy_from_slice(&owner.node.get().to_le_bytes());
    bytes[40..48].copy_from_slice(&segment.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn check_header(
    path: &Path,
    bytes: &[u8],
    segment: u64,
    owner: HomeIdentity,
) -> Result<(), LogError> {
    let damaged = |what| LogError::Damaged { path: path.to_owned(), offset: 0, what };
    let bytes: &[u8; HEADER_BYTES as usize] = bytes
        .get(..HEADER_BYTES as usize)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| damaged("the file ends within its header"))?;
    if bytes[..8] != MAGIC {
        return Err(damaged("the header does not begin as one"));
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let checksum = u32::from_le_bytes(bytes[60..].try_into().expect("four bytes"));
    if checksum != crc32c::crc32c(&bytes[..60]) {
        return Err(damaged("the header's checksum does not fit"));
    }
    if bytes[8] != LOG_VERSION {
        return Err(LogError::UnsupportedVersion { path: path.to_owned(), found: bytes[8] });
    }
    let fleet = FleetId::from_slice(&bytes[16..32]).expect("sixteen bytes");
    let node = NodeId::new(word(32));
    if (HomeIdentity { fleet, node }) != owner {
        return Err(LogError::WrongIdentity {
            path: path.to_owned(),
            found_fleet: fleet,
            found_node: node,
        });
    }
    if word(40) != segment {
        return Err(damaged("the header belongs to another segment"));
    }
    Ok(())
}

/// Makes a segment without preallocated bytes. Its name is durable only after a sync of `dir`.
pub(super) fn create(
    disk: &dyn Disk,
    dir: &Path,
    segment: u64,
    owner: HomeIdentity,
) -> Result<Arc<dyn DiskFile>, LogError> {
    let temporary = disk::temporary_name(&path(dir, segment));
    disk::remove_if_exists(disk, &temporary).map_err(LogError::io("remove", &temporary))?;
    let file = disk.create(&temporary).map_err(LogError::io("create", &temporary))?;
    publish(disk, dir, segment, owner, &temporary, Arc::from(file))
}

/// Takes the file of [`prepare_next`]. Its name is durable only after a sync of `dir`.
pub(super) fn adopt(
    disk: &dyn Disk,
    dir: &Path,
    segment: u64,
    owner: HomeIdentity,
) -> Result<Arc<dyn DiskFile>, LogError> {
    let prepared = next_path(dir);
    let temporary = disk::temporary_name(&path(dir, segment));
    disk.rename(&prepared, &temporary).map_err(LogError::io("rename", &prepared))?;
    let file = disk.open(&temporary).map_err(LogError::io("open", &temporary))?;
    publish(disk, dir, segment, owner, &temporary, Arc::from(file))
}

// The header is durable before the name is there: from then on its absence is damage.
fn publish(
    disk: &dyn Disk,
    dir: &Path,
    segment: u64,
    owner: HomeIdentity,
    temporary: &Path,
    file: Arc<dyn DiskFile>,
) -> Result<Arc<dyn DiskFile>, LogError> {
    file.write_at(0, &header(segment, owner)).map_err(LogError::io("write", temporary))?;
    file.sync_all().map_err(LogError::io("sync", temporary))?;
    disk.rename(temporary, &path(dir, segment)).map_err(LogError::io("rename", temporary))?;
    Ok(file)
}

/// Fills the file that [`adopt`] makes a segment of with zeros. One that cannot be filled is
/// removed: the space is needed for appends.
pub(super) fn prepare_next(disk: &dyn Disk, dir: &Path, bytes: u64) -> Result<(), LogError> {
    let path = next_path(dir);
    let result = fill_with_zeros(disk, &path, bytes);
    if result.is_err() {
        disk::remove_if_exists(disk, &path).map_err(LogError::io("remove", &path))?;
    }
    result
}

fn fill_with_zeros(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<(), LogError> {
    const CHUNK_BYTES: usize = 1 << 20;
    disk::remove_if_exists(disk, path).map_err(LogError::io("remove", path))?;
    let file = disk.create(path).map_err(LogError::io("create", path))?;
    // Written, not only allocated: the first write into an allocated but unwritten extent changes
    // metadata, which would make every fdatasync of an append a journal commit.
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let chunk = usize::try_from(bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_at(at, &zeros[..chunk]).map_err(LogError::io("write", path))?;
        at += chunk as u64;
    }
    // Here rather than with the header, so that the writer does not wait for all these bytes.
    file.sync_all().map_err(LogError::io("sync", path))
}

fn next_path(dir: &Path) -> PathBuf {
    disk::temporary_name(&dir.join("NEXT"))
}

/// Reads one record's payload back and checks it.
pub(super) fn read_payload(
    file: &dyn DiskFile,
    dir: &Path,
    location: Location,
) -> Result<Vec<u8>, LogError> {
    let path = path(dir, location.segment);
    let mut bytes = vec![0; RECORD_HEADER_BYTES + location.payload_bytes as usize];
    disk::read_exact_at(file, location.offset, &mut bytes).map_err(LogError::io("read", &path))?;
    match frame::parse_record(&bytes) {
        Some((record, _)) => Ok(record.payload.to_vec()),
        None => Err(LogError::Damaged {
            path,
            offset: location.offset,
            what: "a record's checksum does not fit",
        }),
    }
}

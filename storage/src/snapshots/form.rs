//! The bytes of a snapshot file: header with what it covers, content, trailer with length and
//! SHA-256. Every byte is under one of the three checksums.

use std::path::Path;

use proto_types::FleetId;
use sha2::{Digest, Sha256};

use super::{SNAPSHOT_VERSION, SnapshotDigest, SnapshotError};
use crate::disk::{self, DiskFile};
use crate::raft_codec;
use crate::raft_types::SnapshotMeta;

const HEADER_MAGIC: [u8; 8] = *b"SRSNAPSH";
const TRAILER_MAGIC: [u8; 8] = *b"SRSNAPEN";
const HEADER_FIXED_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
pub(super) const TRAILER_BYTES: usize = 56;
/// A membership of a thousand nodes with long names is far below this.
const META_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 1 << 20;

/// What a whole, verified file says.
pub(super) struct Parsed {
    pub(super) meta: SnapshotMeta,
    pub(super) content_at: u64,
    pub(super) content_bytes: u64,
    pub(super) digest: SnapshotDigest,
}

// magic[8] version:u16 0:u16 meta_bytes:u32 fleet[16] meta crc32c:u32
pub(super) fn header(meta: &SnapshotMeta, fleet: FleetId) -> Vec<u8> {
    let meta = raft_codec::encode_snapshot_meta(meta);
    let mut bytes = Vec::with_capacity(HEADER_FIXED_BYTES + meta.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(&HEADER_MAGIC);
    bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    let length = u32::try_from(meta.len()).expect("a membership is short");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(fleet.as_bytes());
    bytes.extend_from_slice(&meta);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

// content_bytes:u64 sha256[32] 0:u32 crc32c:u32 magic[8]
pub(super) fn trailer(content_bytes: u64, digest: SnapshotDigest) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..8].copy_from_slice(&content_bytes.to_le_bytes());
    bytes[8..40].copy_from_slice(&digest.0);
    let checksum = crc32c::crc32c(&bytes[..44]);
    bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
    bytes[48..].copy_from_slice(&TRAILER_MAGIC);
    bytes
}

/// Reads a whole file and compares every byte with a checksum.
pub(super) fn verify(
    file: &dyn DiskFile,
    path: &Path,
    fleet: FleetId,
) -> Result<Parsed, SnapshotError> {
    let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
    let read = |offset: u64, buffer: &mut [u8]| {
        disk::read_exact_at(file, offset, buffer).map_err(SnapshotError::io("read", path))
    };
    let length = file.len().map_err(SnapshotError::io("measure", path))?;
    if length < (HEADER_FIXED_BYTES + CHECKSUM_BYTES + TRAILER_BYTES) as u64 {
        return Err(damaged("it is shorter than any snapshot"));
    }
    let mut fixed = [0; HEADER_FIXED_BYTES];
    read(0, &mut fixed)?;
    if fixed[..8] != HEADER_MAGIC {
        return Err(damaged("it does not begin as a snapshot"));
    }
    let meta_bytes = u32::from_le_bytes(fixed[12..16].try_into().expect("four bytes")) as usize;
    let content_at = (HEADER_FIXED_BYTES + meta_bytes + CHECKSUM_BYTES) as u64;
    if meta_bytes > META_BYTES_MAX || content_at + TRAILER_BYTES as u64 > length {
        return Err(damaged("its header is longer than the file"));
    }
    let mut rest = vec![0; meta_bytes + CHECKSUM_BYTES];
    read(HEADER_FIXED_BYTES as u64, &mut rest)?;
    let (meta, checksum) = rest.split_at(meta_bytes);
    let checksum = u32::from_le_bytes(checksum.try_into().expect("four bytes"));
    if checksum != crc32c::crc32c_append(crc32c::crc32c(&fixed), meta) {
        return Err(damaged("its header's checksum does not fit"));
    }
    // Only now is the version to be believed; every version keeps this checksum in its place.
    let version = u16::from_le_bytes([fixed[8], fixed[9]]);
    if version != SNAPSHOT_VERSION {
        return Err(SnapshotError::UnsupportedVersion { path: path.to_owned(), found: version });
    }
    let found = FleetId::from_slice(&fixed[16..32]).expect("sixteen bytes");
    if found != fleet {
        return Err(SnapshotError::WrongFleet { path: path.to_owned(), found });
    }
    let meta = raft_codec::decode_snapshot_meta(meta)
        .map_err(|source| SnapshotError::Meta { path: path.to_owned(), source })?;

    let trailer_at = length - TRAILER_BYTES as u64;
    let mut found = [0; TRAILER_BYTES];
    read(trailer_at, &mut found)?;
    let content_bytes = trailer_at - content_at;
    let digest =
        digest_of(file, content_at, content_bytes).map_err(SnapshotError::io("read", path))?;
    // One comparison covers length, digest, checksum and magic.
    if found != trailer(content_bytes, digest) {
        return Err(damaged("length or SHA-256 of its content do not fit its trailer"));
    }
    Ok(Parsed { meta, content_at, content_bytes, digest })
}

fn digest_of(file: &dyn DiskFile, from: u64, bytes: u64) -> std::io::Result<SnapshotDigest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0;
    while done < bytes {
        let chunk = usize::try_from(bytes - done).unwrap_or(READ_BYTES).min(READ_BYTES);
        disk::read_exact_at(file, from + done, &mut buffer[..chunk])?;
        hash.update(&buffer[..chunk]);
        done += chunk as u64;
    }
    Ok(SnapshotDigest(hash.finalize().into()))
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;

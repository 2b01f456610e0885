//! How entries hang together, and a closed segment's bytes. Whoever knows where a segment ends, from
//! the state or from the segment after it, can tell whether any byte of it was changed.

use std::sync::Arc;

use proto_types::FleetId;
use sha2::{Digest, Sha256};

use super::AuditEntry;
use crate::codec;
use crate::limits::{AUDIT_ENTRY_BYTES_MAX, AUDIT_SEGMENT_ENTRIES};

const FIRST: &[u8] = b"strongroom audit log v1\0";
const LINK: &[u8] = b"strongroom audit entry v1\0";
const MAGIC: &[u8; 8] = b"SRAUDIT1";
const HEADER_BYTES: usize = 8 + FleetId::LEN + 8 + 32 + 4;

/// A place in the log: an entry's number and the hash over it and all before it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditHead {
    /// The entry's number; 0: before the first.
    pub number: u64,
    /// SHA-256 over label, the hash before, and the encoded entry.
    pub hash: [u8; 32],
}

impl std::fmt::Debug for AuditHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditHead({}, {})", self.number, hex::encode(self.hash))
    }
}

/// Why bytes are not the log they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No segment, or cut short.
    #[error("it is no whole segment of an audit log")]
    Form,
    /// Of another fleet.
    #[error("it is of fleet {found}")]
    OtherFleet {
        /// Which.
        found: FleetId,
    },
    /// An entry does not decode.
    #[error("entry {number} cannot be read")]
    Entry {
        /// The number it should have.
        number: u64,
    },
    /// An entry has another number than its place.
    #[error("entry {found} stands where entry {number} belongs")]
    Number {
        /// The number that belongs there.
        number: u64,
        /// The number found.
        found: u64,
    },
    /// The hashes do not lead to where they must.
    #[error("its entries do not lead to the hash of entry {number}: one of them was changed")]
    Hash {
        /// The last entry's number.
        number: u64,
    },
}

impl AuditHead {
    /// Before the first entry of a fleet's log.
    #[must_use]
    pub fn first(fleet: FleetId) -> Self {
        let hash = Sha256::new().chain_update(FIRST).chain_update(fleet.as_bytes()).finalize();
        Self { number: 0, hash: hash.into() }
    }

    /// After one more entry, whatever it says.
    #[must_use]
    pub fn link(&self, encoded: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(LINK)
            .chain_update(self.hash)
            .chain_update(encoded)
            .finalize();
        Self { number: self.number + 1, hash: hash.into() }
    }

    /// Reads the entry that must follow.
    ///
    /// # Errors
    /// When it does not decode, or has another number.
    pub fn follow(&mut self, encoded: &[u8]) -> Result<AuditEntry, ChainError> {
        let number = self.number + 1;
        let entry = codec::decode_audit_entry(encoded).map_err(|_| ChainError::Entry { number })?;
        if entry.number != number {
            return Err(ChainError::Number { number, found: entry.number });
        }
        *self = self.link(encoded);
        Ok(entry)
    }
}

/// A closed part of the log: always [`AUDIT_SEGMENT_ENTRIES`] entries.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Whose log.
    pub fleet: FleetId,
    /// Where the segment before ends.
    pub previous: AuditHead,
    /// The encoded entries.
    pub entries: Vec<Arc<[u8]>>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({}, {} entries)", self.number(), self.entries.len())
    }
}

impl Segment {
    /// Its number, from 0: the segments of a log are all of one length.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.previous.number / AUDIT_SEGMENT_ENTRIES as u64
    }

    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length: usize = self.entries.iter().map(|entry| 4 + entry.len()).sum();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.fleet.as_bytes());
        bytes.extend_from_slice(&self.previous.number.to_le_bytes());
        bytes.extend_from_slice(&self.previous.hash);
        bytes.extend_from_slice(&length_of(self.entries.len()));
        for entry in &self.entries {
            bytes.extend_from_slice(&length_of(entry.len()));
            bytes.extend_from_slice(entry);
        }
        bytes
    }

    /// Reads a file and checks that it is the segment of this fleet that ends there.
    ///
    /// # Errors
    /// When it is anything else, by as much as one bit.
    pub fn decode(bytes: &[u8], fleet: FleetId, end: AuditHead) -> Result<Self, ChainError> {
        let segment = Self::parse(bytes)?;
        if segment.fleet != fleet {
            return Err(ChainError::OtherFleet { found: segment.fleet });
        }
        if segment.read()?.1 != end {
            return Err(ChainError::Hash { number: end.number });
        }
        Ok(segment)
    }

    /// Its entries, and where they end by their own hashes.
    ///
    /// # Errors
    /// When an entry cannot be read, or has another number than its place.
    pub fn read(&self) -> Result<(Vec<AuditEntry>, AuditHead), ChainError> {
        let mut at = self.previous;
        let entries = self.entries.iter().map(|encoded| at.follow(encoded));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        Ok((entries, at))
    }

    /// Reads the form alone: whether the entries are those once written is for a hash to say.
    ///
    /// # Errors
    /// When it is no whole segment.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChainError> {
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len())? != MAGIC {
            return Err(ChainError::Form);
        }
        let fleet = FleetId::from_bytes(array(take(&mut rest, FleetId::LEN)?)?);
        let number = u64::from_le_bytes(array(take(&mut rest, 8)?)?);
        let previous = AuditHead { number, hash: array(take(&mut rest, 32)?)? };
        let count = length(&mut rest)?;
        if count != AUDIT_SEGMENT_ENTRIES || !number.is_multiple_of(AUDIT_SEGMENT_ENTRIES as u64) {
            return Err(ChainError::Form);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let length = length(&mut rest)?;
            if length > AUDIT_ENTRY_BYTES_MAX {
                return Err(ChainError::Form);
            }
            entries.push(take(&mut rest, length)?.into());
        }
        if !rest.is_empty() {
            return Err(ChainError::Form);
        }
        // `previous` may hold any number: past the end of counting there is no log.
        number.checked_add(count as u64 + 1).ok_or(ChainError::Form)?;
        Ok(Self { fleet, previous, entries })
    }
}

fn length_of(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("entries and their number are bounded").to_le_bytes()
}

fn length(rest: &mut &[u8]) -> Result<usize, ChainError> {
    let length = u32::from_le_bytes(array(take(rest, 4)?)?);
    usize::try_from(length).map_err(|_| ChainError::Form)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], ChainError> {
    let (taken, tail) = rest.split_at_checked(bytes).ok_or(ChainError::Form)?;
    *rest = tail;
    Ok(taken)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ChainError> {
    bytes.try_into().map_err(|_| ChainError::Form)
}

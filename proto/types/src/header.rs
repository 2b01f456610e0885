//! The clear header of a bundle file, version 1: who sealed it, for whom, under which keys.
//! Coordinators read it, verify its signature and compare its key ids (invariant B4); nothing in
//! it is secret. The layout is written to the byte in `docs/formats.md`.
//!
//! ```text
//! file    = lead body trailer
//! lead    = "strgroom" version:u16 kind:u8 0:u8 0:u32      16 bytes; hashed as part of the body
//! trailer = header signature[64] header_len:u32 "SRTRAIL1"
//! ```
//! The header stands at the end so that a file of any size is written in one pass.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::{
    BundleId, ClusterId, DekId, Epoch, FleetId, Generation, KeyFingerprint, LogTime, Sequence,
    SigningPublicKey,
};

/// Format version that this program writes.
pub const FORMAT_VERSION: u16 = 1;
/// AES-256-GCM blobs under HKDF-SHA-256 keys, HMAC-SHA-256 blob ids, Ed25519 signatures.
pub const SUITE_AES256GCM_HKDF_SHA256: u16 = 1;
/// First bytes of every bundle file.
pub const LEAD_MAGIC: [u8; 8] = *b"strgroom";
/// Length of the lead.
pub const LEAD_BYTES: usize = 16;
/// Last bytes of every bundle file.
pub const TRAILER_MAGIC: [u8; 8] = *b"SRTRAIL1";
/// A header names at most this many DEKs, so that a commit stays under 4 KiB: at one DEK in 30
/// days this is over seven years.
pub const MAX_DEK_IDS: usize = 96;
/// Longest trailer: reading this many bytes from the end of a file always suffices.
pub const MAX_TRAILER_BYTES: usize = FIXED_BYTES + MAX_DEK_IDS * DekId::LEN + 64 + 4 + 8;

const FIXED_BYTES: usize = 2 + 2 + 1 + 1 + 16 + 16 + 4 + 8 + 8 + 8 + 8 + 4 + 32 * 5 + 4 + 2;
const SIGNING_DOMAIN: &[u8] = b"strongroom bundle header v1\0";

/// What a bundle file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BundleKind {
    /// Sealed items.
    Config,
    /// The keyring and the sources' secrets, under a content key of its own.
    Key,
    /// The sealed list of items, full or delta.
    Manifest,
    /// The content key of one key bundle, wrapped under the KEK and to the recovery key.
    Wraps,
}

impl BundleKind {
    /// The byte in the file.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Key => 2,
            Self::Manifest => 3,
            Self::Wraps => 4,
        }
    }
    /// The kind of a byte, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Config),
            2 => Some(Self::Key),
            3 => Some(Self::Manifest),
            4 => Some(Self::Wraps),
            _ => None,
        }
    }
    /// The word for people, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Manifest => "manifest",
            Self::Wraps => "wraps",
        }
    }
}

/// The clear header. Unused ids are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearHeader {
    /// What the file holds.
    pub kind: BundleKind,
    /// Cryptographic suite.
    pub suite: u16,
    /// The fleet it was sealed for.
    pub fleet: FleetId,
    /// The cluster it was sealed for.
    pub cluster: ClusterId,
    /// Counts how often the chain of keys was broken and begun anew.
    pub lineage: u32,
    /// The recovery point it was sealed for.
    pub sequence: Sequence,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The agent's clock; information only.
    pub created: LogTime,
    /// Bytes before the header, lead included.
    pub body_bytes: u64,
    /// Number of sealed blobs in the body.
    pub blob_count: u32,
    /// SHA-256 of the bytes before the header.
    pub body_sha256: [u8; 32],
    /// Who signed: the cluster's signing key.
    pub signer: SigningPublicKey,
    /// Manifest: the manifest before. Key: the key bundle before. Wraps: the key bundle they open.
    pub predecessor: BundleId,
    /// Manifest: the full manifest that a delta is against; zero when full.
    pub base: BundleId,
    /// Key and wraps: fingerprint of the recovery key that the second wrap is sealed to.
    pub recovery_key: KeyFingerprint,
    /// Key and wraps: generation of the KEK of the first wrap.
    pub kek_generation: Generation,
    /// Config and manifest: the DEKs its blobs are sealed under. Key: the DEKs it holds. Sorted,
    /// no duplicates.
    pub dek_ids: Vec<DekId>,
}

/// Why bytes are no valid bundle header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is shorter than its own header says, or than any bundle.
    #[error("the bundle is cut short: {have} bytes where at least {need} are needed")]
    Truncated {
        /// Bytes that are there.
        have: u64,
        /// Bytes that are needed.
        need: u64,
    },
    /// The first or last bytes are not a bundle's.
    #[error("this is no strongroom bundle: the {place} bytes are wrong")]
    NotABundle {
        /// "first" or "last".
        place: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "bundle format version {found} is newer than this program reads ({FORMAT_VERSION}): \
         use a newer strongroom"
    )]
    UnsupportedVersion {
        /// The version found.
        found: u16,
    },
    /// A suite this program does not know.
    #[error("cryptographic suite {found} is unknown to this program: use a newer strongroom")]
    UnsupportedSuite {
        /// The suite found.
        found: u16,
    },
    /// A field holds what no writer writes.
    #[error("the bundle's header field {field} is not valid")]
    Field {
        /// The field's name in `docs/formats.md`.
        field: &'static str,
    },
    /// The signature does not fit header and signer.
    #[error("the bundle's signature does not fit its header")]
    BadSignature,
    /// Signed, but by somebody else.
    #[error("the bundle is signed by {found}, not by the cluster's key {expected}")]
    WrongSigner {
        /// Fingerprint of the signer in the header.
        found: KeyFingerprint,
        /// Fingerprint of the key it should be.
        expected: KeyFingerprint,
    },
    /// The body is not the one the header was signed for.
    #[error("the bundle's bytes are not those that were signed")]
    BodyMismatch,
}

/// What an Ed25519 signature of a header covers.
#[must_use]
pub fn header_signing_input(header: &[u8]) -> Vec<u8> {
    [SIGNING_DOMAIN, header].concat()
}

impl ClearHeader {
    /// The header's bytes, as signed.
    ///
    /// # Panics
    /// When it names more than [`MAX_DEK_IDS`] DEKs, which a caller must refuse before.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.dek_ids.len() <= MAX_DEK_IDS, "too many DEK ids for a header");
        let mut out = Vec::with_capacity(FIXED_BYTES + self.dek_ids.len() * DekId::LEN);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.suite.to_le_bytes());
        out.push(self.kind.to_byte());
        out.push(0);
        out.extend_from_slice(self.fleet.as_bytes());
        out.extend_from_slice(self.cluster.as_bytes());
        out.extend_from_slice(&self.lineage.to_le_bytes());
        out.extend_from_slice(&self.sequence.get().to_le_bytes());
        out.extend_from_slice(&self.epoch.get().to_le_bytes());
        out.extend_from_slice(&self.created.as_millis().to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        out.extend_from_slice(&self.blob_count.to_le_bytes());
        out.extend_from_slice(&self.body_sha256);
        out.extend_from_slice(self.signer.as_bytes());
        out.extend_from_slice(self.predecessor.as_bytes());
        out.extend_from_slice(self.base.as_bytes());
        out.extend_from_slice(self.recovery_key.as_bytes());
        out.extend_from_slice(&self.kek_generation.get().to_le_bytes());
        let count = u16::try_from(self.dek_ids.len()).expect("checked above");
        out.extend_from_slice(&count.to_le_bytes());
        for id in &self.dek_ids {
            out.extend_from_slice(id.as_bytes());
        }
        out
    }

    /// Reads a header; every byte must be accounted for.
    ///
    /// # Errors
    /// When it is cut short, newer than this program, or holds a value no writer writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader { bytes, at: 0 };
        let version = u16::from_le_bytes(reader.take()?);
        if version == 0 {
            return Err(HeaderError::Field { field: "format_version" });
        }
        if version > FORMAT_VERSION {
            return Err(HeaderError::UnsupportedVersion { found: version });
        }
        let suite = u16::from_le_bytes(reader.take()?);
        if suite != SUITE_AES256GCM_HKDF_SHA256 {
            return Err(HeaderError::UnsupportedSuite { found: suite });
        }
        let [kind] = reader.take()?;
        let kind = BundleKind::from_byte(kind).ok_or(HeaderError::Field { field: "kind" })?;
        if reader.take()? != [0u8] {
            return Err(HeaderError::Field { field: "reserved" });
        }
        let header = Self {
            kind,
            suite,
            fleet: FleetId::from_bytes(reader.take()?),
            cluster: ClusterId::from_bytes(reader.take()?),
            lineage: u32::from_le_bytes(reader.take()?),
            sequence: Sequence::new(u64::from_le_bytes(reader.take()?)),
            epoch: Epoch::new(u64::from_le_bytes(reader.take()?)),
            created: LogTime::from_millis(u64::from_le_bytes(reader.take()?)),
            body_bytes: u64::from_le_bytes(reader.take()?),
            blob_count: u32::from_le_bytes(reader.take()?),
            body_sha256: reader.take()?,
            signer: SigningPublicKey::from_bytes(reader.take()?),
            predecessor: BundleId::from_bytes(reader.take()?),
            base: BundleId::from_bytes(reader.take()?),
            recovery_key: KeyFingerprint::from_bytes(reader.take()?),
            kek_generation: Generation::new(u32::from_le_bytes(reader.take()?)),
            dek_ids: {
                let count = usize::from(u16::from_le_bytes(reader.take()?));
                if count > MAX_DEK_IDS {
                    return Err(HeaderError::Field { field: "dek_count" });
                }
                (0..count)
                    .map(|_| reader.take().map(DekId::from_bytes))
                    .collect::<Result<_, _>>()?
            },
        };
        if reader.at != bytes.len() {
            return Err(HeaderError::Field { field: "header_len" });
        }
        if !header.dek_ids.is_sorted_by(|a, b| a < b) {
            return Err(HeaderError::Field { field: "dek_ids" });
        }
        if header.sequence.get() == 0 {
            return Err(HeaderError::Field { field: "sequence" });
        }
        Ok(header)
    }
}

/// A header with the signature over it, as it travels in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    header: ClearHeader,
    bytes: Vec<u8>,
    signature: [u8; 64],
}

impl SignedHeader {
    /// Puts header and signature together, as a sealer does.
    #[must_use]
    pub fn new(header: ClearHeader, signature: [u8; 64]) -> Self {
        let bytes = header.encode();
        Self { header, bytes, signature }
    }

    /// Reads header bytes and a signature that travelled apart from their file.
    ///
    /// # Errors
    /// When the header is not valid or the signature is not 64 bytes. Does not verify.
    pub fn from_parts(header: &[u8], signature: &[u8]) -> Result<Self, HeaderError> {
        Ok(Self {
            header: ClearHeader::decode(header)?,
            bytes: header.to_vec(),
            signature: signature
                .try_into()
                .map_err(|_| HeaderError::Field { field: "signature" })?,
        })
    }

    /// Reads the trailer at the end of a file. `tail` is the end of the file, at least
    /// [`MAX_TRAILER_BYTES`] of it or all; `file_bytes` its whole length.
    ///
    /// # Errors
    /// When the file is cut short or its trailer is not valid. Does not verify the signature.
    pub fn from_tail(tail: &[u8], file_bytes: u64) -> Result<Self, HeaderError> {
        let smallest = FIXED_BYTES + 64 + 4 + 8;
        let truncated =
            |need: usize| HeaderError::Truncated { have: file_bytes, need: need as u64 };
        if tail.len() < smallest {
            return Err(truncated(smallest + LEAD_BYTES));
        }
        let (rest, magic) = tail.split_at(tail.len() - TRAILER_MAGIC.len());
        if magic != TRAILER_MAGIC {
            return Err(HeaderError::NotABundle { place: "last" });
        }
        let (rest, len) = rest.split_at(rest.len() - 4);
        let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
        let (rest, signature) = rest.split_at(rest.len() - 64);
        if !(FIXED_BYTES..=FIXED_BYTES + MAX_DEK_IDS * DekId::LEN).contains(&len) {
            return Err(HeaderError::Field { field: "header_len" });
        }
        if rest.len() < len {
            return Err(truncated(LEAD_BYTES + len + 64 + 4 + 8));
        }
        let signed = Self::from_parts(&rest[rest.len() - len..], signature)?;
        if signed.header.body_bytes.checked_add(signed.trailer_bytes()) != Some(file_bytes) {
            return Err(HeaderError::Field { field: "body_bytes" });
        }
        Ok(signed)
    }

    /// The whole trailer of a file.
    #[must_use]
    pub fn to_trailer(&self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("a header is short");
        [&self.bytes[..], &self.signature, &len.to_le_bytes(), &TRAILER_MAGIC].concat()
    }

    /// Length of the trailer.
    #[must_use]
    pub fn trailer_bytes(&self) -> u64 {
        (self.bytes.len() + 64 + 4 + 8) as u64
    }

    /// Length of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.header.body_bytes + self.trailer_bytes()
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &ClearHeader {
        &self.header
    }
    /// The header's bytes, as signed.
    #[must_use]
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// The signature.
    #[must_use]
    pub const fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// Checks that `signer` signed this header. Pure, so `apply` may do it.
    ///
    /// # Errors
    /// [`HeaderError::WrongSigner`] when another key is named, [`HeaderError::BadSignature`] when
    /// the signature does not fit.
    pub fn verify(&self, signer: &SigningPublicKey) -> Result<(), HeaderError> {
        if self.header.signer != *signer {
            return Err(HeaderError::WrongSigner {
                found: self.header.signer.fingerprint(),
                expected: signer.fingerprint(),
            });
        }
        let key =
            VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| HeaderError::BadSignature)?;
        // Strict: rejects small-order keys and non-canonical encodings, so that all replicas agree.
        key.verify_strict(
            &header_signing_input(&self.bytes),
            &Signature::from_bytes(&self.signature),
        )
        .map_err(|_| HeaderError::BadSignature)
    }
}

/// The first 16 bytes of a bundle file.
impl BundleKind {
    /// The lead of a file of this kind.
    #[must_use]
    pub fn lead(self) -> [u8; LEAD_BYTES] {
        let mut lead = [0; LEAD_BYTES];
        lead[..8].copy_from_slice(&LEAD_MAGIC);
        lead[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        lead[10] = self.to_byte();
        lead
    }
    /// Reads a lead.
    ///
    /// # Errors
    /// When it is no lead of a version this program reads.
    pub fn from_lead(lead: &[u8]) -> Result<Self, HeaderError> {
        let lead: &[u8; LEAD_BYTES] = lead
            .get(..LEAD_BYTES)
            .and_then(|l| l.try_into().ok())
            .ok_or(HeaderError::Truncated { have: lead.len() as u64, need: LEAD_BYTES as u64 })?;
        if lead[..8] != LEAD_MAGIC {
            return Err(HeaderError::NotABundle { place: "first" });
        }
        let version = u16::from_le_bytes([lead[8], lead[9]]);
        if version == 0 || version > FORMAT_VERSION {
            return Err(HeaderError::UnsupportedVersion { found: version });
        }
        if lead[11..] != [0; 5] {
            return Err(HeaderError::Field { field: "lead" });
        }
        Self::from_byte(lead[10]).ok_or(HeaderError::Field { field: "kind" })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let end = self.at + N;
        let Some(slice) = self.bytes.get(self.at..end) else {
            return Err(HeaderError::Truncated { have: self.bytes.len() as u64, need: end as u64 });
        };
        self.at = end;
        Ok(slice.try_into().expect("length was asked for"))
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;

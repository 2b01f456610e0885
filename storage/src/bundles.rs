//! Where bundle files are kept. One trait, [`BundleStore`]; [`FileBundleStore`] keeps them on the
//! coordinator's disk, [`BucketBundleStore`] in an object store, [`FaultyBundleStore`] misbehaves on
//! request, and [`conformance`] holds for all. A store checks that bytes are those of their name; it cannot open a bundle, and it does
//! not decide what may be deleted.

mod bucket;
pub mod conformance;
mod faulty;
mod file;

use std::fmt;
use std::io;
use std::path::PathBuf;

use proto_types::{BundleId, ByteCount, Code, HeaderError, SignedHeader};

use crate::bucket::BucketError;

pub use bucket::BucketBundleStore;
pub use faulty::{Fault, FaultyBundleStore, Operation};
pub use file::{BundleOptions, FileBundleStore};

/// Keeps immutable files named by the SHA-256 of their bytes. Blocking: call it on a thread that
/// may block. All methods may be called from many threads at once.
pub trait BundleStore: Send + Sync + fmt::Debug + 'static {
    /// Begins an upload, or resumes one that was cut off, and says how many bytes are already
    /// there. Where the bundle is already held, that is all `expected_bytes`.
    ///
    /// # Errors
    /// [`BundleError::NoSpace`] when so many bytes would touch the reserve.
    fn begin(&self, id: &BundleId, expected_bytes: u64) -> Result<u64, BundleError>;

    /// Appends to an upload. `offset` must be what is there, as [`BundleStore::begin`] said and
    /// earlier writes have added; nothing of this is durable yet.
    ///
    /// # Errors
    /// [`BundleError::WrongOffset`] with the right one, [`BundleError::NotBegun`],
    /// [`BundleError::NoSpace`], after which the upload is gone.
    fn write(&self, id: &BundleId, offset: u64, bytes: &[u8]) -> Result<(), BundleError>;

    /// Ends an upload: compares length and SHA-256 of all bytes, brings file and name to stable
    /// storage. When this returns the bundle is held and durable. Fine to repeat.
    ///
    /// # Errors
    /// [`BundleError::WrongLength`] when bytes are missing, after which it can be resumed, or too
    /// many; [`BundleError::WrongDigest`], after which the upload is gone.
    fn finish(&self, id: &BundleId, expected_bytes: u64) -> Result<(), BundleError>;

    /// Writes a whole bundle that is kept durably elsewhere, as in the log: held at once, durable only
    /// after [`BundleStore::sync`]. Written anew where it is held already, since nobody knows what a
    /// process that died has left.
    ///
    /// # Errors
    /// [`BundleError::WrongDigest`], [`BundleError::NoSpace`] when the disk is full: the reserve is
    /// not kept, because whoever calls this has promised the bytes already.
    fn put(&self, id: &BundleId, bytes: &[u8]) -> Result<(), BundleError> {
        let have = self.begin(id, bytes.len() as u64)?;
        let rest = usize::try_from(have).ok().and_then(|have| bytes.get(have..));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            self.write(id, have, rest)?;
        }
        self.finish(id, bytes.len() as u64)
    }

    /// Brings all that was put to stable storage.
    ///
    /// # Errors
    /// As the storage reports it. After one, nothing is known of what was put before.
    fn sync(&self) -> Result<(), BundleError> {
        Ok(())
    }

    /// Forgets an upload that was begun; fine when there is none.
    ///
    /// # Errors
    /// As the storage reports it.
    fn abandon(&self, id: &BundleId) -> Result<(), BundleError>;

    /// The uploads that were begun and not ended, also by an earlier process.
    ///
    /// # Errors
    /// As the storage reports it.
    fn partials(&self) -> Result<Vec<HeldBundle>, BundleError>;

    /// The length of a bundle that is held.
    ///
    /// # Errors
    /// As the storage reports it; absence is no error.
    fn size(&self, id: &BundleId) -> Result<Option<u64>, BundleError>;

    /// Whether a bundle is held and durable.
    ///
    /// # Errors
    /// As the storage reports it.
    fn contains(&self, id: &BundleId) -> Result<bool, BundleError> {
        Ok(self.size(id)?.is_some())
    }

    /// A whole bundle, compared with its name.
    ///
    /// # Errors
    /// [`BundleError::NotFound`], [`BundleError::Damaged`].
    fn read(&self, id: &BundleId) -> Result<Vec<u8>, BundleError>;

    /// Part of a bundle, not compared with anything: whoever opens it notices damage by its seal.
    /// Fewer bytes than asked for only at its end.
    ///
    /// # Errors
    /// [`BundleError::NotFound`].
    fn read_range(
        &self,
        id: &BundleId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BundleError>;

    /// The signed clear header at the end of a bundle. Its signature is not verified here.
    ///
    /// # Errors
    /// [`BundleError::NotFound`], [`BundleError::Header`].
    fn header(&self, id: &BundleId) -> Result<SignedHeader, BundleError> {
        let size = self.size(id)?.ok_or(BundleError::NotFound { id: *id })?;
        let tail = proto_types::MAX_TRAILER_BYTES;
        let from = size.saturating_sub(tail as u64);
        let tail = self.read_range(id, from, tail)?;
        SignedHeader::from_tail(&tail, size)
            .map_err(|source| BundleError::Header { id: *id, source })
    }

    /// Reads a whole bundle and compares it with its name, without keeping it in memory: what a
    /// scrub does.
    ///
    /// # Errors
    /// [`BundleError::NotFound`], [`BundleError::Damaged`].
    fn verify(&self, id: &BundleId) -> Result<(), BundleError>;

    /// Deletes a bundle, durably; fine when it is not there. The caller knows that it may (B2).
    ///
    /// # Errors
    /// As the storage reports it.
    fn delete(&self, id: &BundleId) -> Result<(), BundleError>;

    /// All bundles that are held, in the order of their names.
    ///
    /// # Errors
    /// As the storage reports it.
    fn list(&self) -> Result<Vec<HeldBundle>, BundleError>;

    /// Puts a bad copy aside, durably: it is no longer held, and can be uploaded anew.
    ///
    /// # Errors
    /// [`BundleError::NotFound`].
    fn quarantine(&self, id: &BundleId) -> Result<(), BundleError>;

    /// The copies that were put aside.
    ///
    /// # Errors
    /// As the storage reports it.
    fn quarantined(&self) -> Result<Vec<HeldBundle>, BundleError>;

    /// How much room there is.
    ///
    /// # Errors
    /// As the storage reports it.
    fn space(&self) -> Result<Space, BundleError>;
}

/// A bundle, or part of one, and how many bytes of it are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldBundle {
    /// Its name.
    pub id: BundleId,
    /// Its length, as it is on disk.
    pub bytes: u64,
}

/// Room for bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that could still be written.
    pub free_bytes: u64,
    /// Bytes that are kept free for the log: uploads are refused before they are touched.
    pub reserve_bytes: u64,
}

impl Space {
    /// Whether so many more bytes would leave the reserve alone.
    #[must_use]
    pub const fn has_room_for(self, bytes: u64) -> bool {
        self.free_bytes.saturating_sub(bytes) >= self.reserve_bytes && self.free_bytes >= bytes
    }
}

/// Why a bundle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The reserve would be touched, or the disk is full.
    #[error(
        "no room for bundle {id}: {} are free and {} are kept in reserve; new bundles are taken \
         again by themselves once there is room", ByteCount::new(*free_bytes),
        ByteCount::new(*reserve_bytes)
    )]
    NoSpace {
        /// The bundle.
        id: BundleId,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that are kept free.
        reserve_bytes: u64,
    },
    /// Not held here.
    #[error("bundle {id} is not held here")]
    NotFound {
        /// The bundle.
        id: BundleId,
    },
    /// Written to without a begin.
    #[error("no upload of bundle {id} was begun here: begin it again")]
    NotBegun {
        /// The bundle.
        id: BundleId,
    },
    /// A write that does not continue what is there.
    #[error("bundle {id} has {have} bytes here, so a write at {offset} does not continue it")]
    WrongOffset {
        /// The bundle.
        id: BundleId,
        /// Bytes that are there.
        have: u64,
        /// Where the write was meant to go.
        offset: u64,
    },
    /// An upload ended with another length than announced.
    #[error("bundle {id} has {have} bytes where {expected} were announced")]
    WrongLength {
        /// The bundle.
        id: BundleId,
        /// Bytes that are there.
        have: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// An upload whose bytes are not those of its name.
    #[error("the bytes uploaded as bundle {id} have the digest {found}: send it again")]
    WrongDigest {
        /// The name.
        id: BundleId,
        /// The name these bytes would have.
        found: BundleId,
    },
    /// A held copy whose bytes are not those of its name.
    #[error("the copy of bundle {id} kept here is damaged: its bytes have the digest {found}")]
    Damaged {
        /// The name.
        id: BundleId,
        /// The name these bytes would have.
        found: BundleId,
    },
    /// The object store said no, or nothing.
    #[error("{source}")]
    Bucket {
        /// What it said.
        source: Box<BucketError>,
    },
    /// The end of the file is no header.
    #[error("the copy of bundle {id} kept here has no valid header")]
    Header {
        /// The bundle.
        id: BundleId,
        /// Why.
        #[source]
        source: HeaderError,
    },
}

impl BundleError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::LocalIo,
            Self::NoSpace { .. } => Code::NoSpace,
            Self::Bucket { .. } => Code::Unavailable,
            Self::NotFound { .. } => Code::BundleNotFound,
            Self::NotBegun { .. } | Self::WrongOffset { .. } => Code::InvalidArgument,
            Self::WrongLength { .. } | Self::WrongDigest { .. } => Code::DigestMismatch,
            Self::Damaged { .. } | Self::Header { .. } => Code::Damaged,
        }
    }
}

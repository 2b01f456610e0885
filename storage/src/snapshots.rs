//! Raft snapshot files: written beside, synced, read back, renamed, two kept. The content is
//! opaque here; what it covers ([`crate::raft_types::SnapshotMeta`]) is in the header. A damaged newest file is never
//! passed over in silence, and where the log no longer reaches back to the one before, opening
//! fails. The bytes are in `docs/formats-storage.md`.

mod form;
mod store;
mod stored;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_types::{Code, FleetId};

use crate::disk;
use crate::home::REJOIN;
use crate::raft_codec::CodecError;

pub use store::SnapshotStore;
pub use stored::{SnapshotReader, StoredSnapshot};
pub use writer::SnapshotWriter;

/// The version that this program writes.
pub const SNAPSHOT_VERSION: u16 = 1;

/// SHA-256 of a snapshot's content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SnapshotDigest(pub [u8; 32]);

impl std::fmt::Debug for SnapshotDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Display for SnapshotDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A snapshot file that was found damaged when a store opened, and put aside under another name. A
/// person should know: it is a finding, whatever else works.
#[derive(Debug, Clone)]
pub struct DamagedSnapshot {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: Arc<SnapshotError>,
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system said no.
    #[error("cannot {action} the snapshot file {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("the snapshot file {} is damaged ({what})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What it covers does not read.
    #[error("the snapshot file {} is damaged (what it covers does not read)", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// Written by a newer program.
    #[error(
        "the snapshot file {} has version {found}, this program reads {SNAPSHOT_VERSION}: \
         start the newer strongroom that wrote it", path.display()
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// Of another fleet.
    #[error("the snapshot file {} was made by fleet {found}, not by this one", path.display())]
    WrongFleet {
        /// The file.
        path: PathBuf,
        /// The fleet in it.
        found: FleetId,
    },
    /// Without this file the state cannot be rebuilt: the log begins after the next older one.
    #[error(
        "{} is missing or damaged, and the log alone does not reach back to the snapshot before \
         it: the state of this node cannot be rebuilt; {REJOIN}", path.display()
    )]
    Unrecoverable {
        /// The file, or the directory when there is none at all.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Option<Box<SnapshotError>>,
    },
    /// A received snapshot is not the one that was sent.
    #[error("the snapshot that was received has the digest {found}, the one sent {expected}")]
    WrongDigest {
        /// Of what was received.
        found: SnapshotDigest,
        /// Of what was sent.
        expected: SnapshotDigest,
    },
}

impl SnapshotError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if disk::is_no_space(source) => Code::NoSpace,
            Self::Io { .. } => Code::LocalIo,
            Self::Damaged { .. } | Self::Meta { .. } | Self::Unrecoverable { .. } => Code::Damaged,
            Self::UnsupportedVersion { .. } => Code::UnsupportedVersion,
            Self::WrongFleet { .. } => Code::WrongFleet,
            Self::WrongDigest { .. } => Code::DigestMismatch,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

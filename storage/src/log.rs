//! The Raft log and vote on disk: a segmented write-ahead log with one writer, group commit and
//! one fdatasync per batch. It stores opaque records and knows nothing of openraft; `raft_log`
//! does. Why it is our own is decision 0002; its bytes are in `docs/formats-storage.md`.
//!
//! The rule everything here serves: what was acknowledged is there after any crash, or opening
//! fails. A torn tail is cut off; damage at or before the last known durable position is an error
//! that names file, offset and the way out.

mod frame;
mod marker;
mod queue;
mod recover;
mod segment;
mod sync_times;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use proto_types::{Code, FleetId, NodeId};

use crate::disk::{self, Disk};
use crate::home::{HomeIdentity, REJOIN};

pub(crate) use frame::{Record, RecordKind};
pub(crate) use queue::{LogHandle, Submission, to_io_error};
pub(crate) use recover::{Recovered, look};
pub(crate) use segment::Location;
pub use sync_times::{SyncFigure, SyncTimes};

/// The version of segment, frame and marker that this program writes.
pub const LOG_VERSION: u8 = 1;

/// Longest single record: a Raft entry stays under 4 KiB, so this is far from any real one.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// How the log behaves. The defaults are what a coordinator uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment file, zero-filled in advance so that an append changes no metadata.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory for readers, beside those not yet durable.
    pub cache_bytes: usize,
    /// Appends wait while this many bytes are not yet durable.
    pub unflushed_bytes_max: usize,
    /// A batch takes queued records until it has this many bytes.
    pub batch_bytes_max: usize,
    /// Milliseconds without a new record after which the log counts as idle and the marker is
    /// brought up to date. Long enough not to delay a steady trickle of appends by a second sync.
    pub idle_millis: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            cache_bytes: 32 << 20,
            unflushed_bytes_max: 16 << 20,
            batch_bytes_max: 1 << 20,
            idle_millis: 10,
        }
    }
}

/// A place in the log. Ordered as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u64,
    /// Bytes from the start of its file.
    pub offset: u64,
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system said no.
    #[error("cannot {action} the log file {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Bytes that were durable are not what was written.
    #[error("the log file {} is damaged at byte {offset} ({what}); {REJOIN}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first byte that does not fit.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A file or directory that must be there is gone.
    #[error("the log's {} is missing; {REJOIN}", path.display())]
    Missing {
        /// What is gone.
        path: PathBuf,
    },
    /// A segment of another fleet or node.
    #[error(
        "the log file {} was written by node {found_node} of fleet {found_fleet}: \
         it does not belong into this data directory", path.display()
    )]
    WrongIdentity {
        /// The file.
        path: PathBuf,
        /// The fleet in it.
        found_fleet: FleetId,
        /// The node in it.
        found_node: NodeId,
    },
    /// Written by a newer program.
    #[error(
        "the log file {} has version {found}, this program reads {LOG_VERSION}: \
         start the newer strongroom that wrote it", path.display()
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// A record longer than any this log takes.
    #[error("a record of {bytes} bytes is too long for the log, which takes {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// An earlier write or sync failed; what is on disk is not known, so nothing more is written.
    #[error(
        "the log takes no more writes since one failed ({reason}): restart the node once the \
         disk is sound"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if disk::is_no_space(source) => Code::NoSpace,
            Self::Io { .. } | Self::Poisoned { .. } => Code::LocalIo,
            Self::Damaged { .. } | Self::Missing { .. } => Code::Damaged,
            Self::WrongIdentity { .. } => Code::WrongFleet,
            Self::UnsupportedVersion { .. } => Code::UnsupportedVersion,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Closed => Code::Unavailable,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Makes an empty log, removing what an earlier attempt left. Only `home` calls this, and only
/// for a data directory from which nothing can have been acknowledged.
pub(crate) fn create(disk: &dyn Disk, dir: &Path, owner: HomeIdentity) -> Result<(), LogError> {
    for entry in disk.list(dir).map_err(LogError::io("list", dir))? {
        let path = dir.join(&entry.name);
        disk.remove(&path).map_err(LogError::io("remove", &path))?;
    }
    segment::create(disk, dir, 1, owner)?;
    marker::create(disk, dir)?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))
}

/// Checks that a log is there, without reading it.
pub(crate) fn require(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let marker = marker::path(dir);
    for path in [dir, &marker] {
        if !disk.exists(path).map_err(LogError::io("look for", path))? {
            return Err(LogError::Missing { path: path.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "log/log_tests.rs"]
mod tests;

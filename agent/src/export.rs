//! A recovery point in one file, from which it is restored with no coordinator at all (invariant
//! A1). A tar of `point.json`, `bundles/<sha256>` and `SHA256SUMS`, so that plain tools can look
//! at it; everything in the bundles stays sealed. The same format holds safety files (P1).

mod reader;
mod writer;

use std::path::PathBuf;

use bundle::OpenError;
use proto::env::BlockingPanicked;
use proto_types::{BundleId, Code};
use serde::{Deserialize, Serialize};

use crate::home::io_code;
use crate::point_store::{PointInfo, StoreError};

pub use reader::ExportPointStore;
pub(crate) use writer::ExportWriter;
pub use writer::{ExportReport, write_export};

const FORMAT: &str = "strongroom export";
const VERSION: u32 = 1;
const POINT_NAME: &str = "point.json";
const SUMS_NAME: &str = "SHA256SUMS";
/// A tar ends with two blocks of zeros.
const BLOCK_BYTES: u64 = 512;
const END_BYTES: u64 = 2 * BLOCK_BYTES;

/// What an exported file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportKind {
    /// A recovery point, as committed.
    RecoveryPoint,
    /// What a restore was about to overwrite; never committed anywhere.
    Safety,
}

/// `point.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: String,
    version: u32,
    kind: ExportKind,
    point: PointInfo,
}

/// Why an exported file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file system refused.
    #[error("cannot {what} {}: {source}", crate::shown::path(path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is a file of that name; exports are never overwritten.
    #[error(
        "{} already exists: choose another name, or remove it yourself",
        crate::shown::path(path)
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Some other file.
    #[error("{} is no strongroom export: {what}", crate::shown::path(path))]
    NotAnExport {
        /// The file.
        path: PathBuf,
        /// How one can tell.
        what: &'static str,
    },
    /// Of a newer program.
    #[error("{} has export version {found}: use a newer strongroom", crate::shown::path(path))]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its end is missing.
    #[error(
        "the export {} is cut short ({bytes} bytes): copy it again from where it was whole",
        crate::shown::path(path)
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Bytes that are there.
        bytes: u64,
    },
    /// An entry is not what it was when the file was written.
    #[error("the export {} is damaged: {entry} {what}; use another copy", crate::shown::path(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A bundle in it is not what it should be.
    #[error("the export {}: bundle {id}: {source}", crate::shown::path(path))]
    Bundle {
        /// The file.
        path: PathBuf,
        /// The bundle.
        id: BundleId,
        /// What is wrong with it.
        #[source]
        source: Box<OpenError>,
    },
    /// A bundle that the point needs could not be read from the store.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] BlockingPanicked),
}

impl ExportError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Exists { .. } => Code::AlreadyExists,
            Self::NotAnExport { .. } | Self::CutShort { .. } | Self::Damaged { .. } => {
                Code::Damaged
            }
            Self::Version { .. } => Code::UnsupportedVersion,
            Self::Bundle { source, .. } => source.code(),
            Self::Store(error) => error.code(),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

fn bundle_name(id: BundleId) -> String {
    format!("bundles/{id}")
}

//! A snapshot of the coordinators in one file (invariant S1): what `strongroom snapshot` writes and
//! reads. A tar under zstd of `meta.json`, `state.bin`, `audit/<number>`, `bundles/<sha256>`, `SHA256SUMS` and, last,
//! `seal.json`, without which it is no snapshot. The bytes are in `docs/formats-snapshot.md`.

mod audit;
mod reader;
mod writer;

use std::collections::BTreeSet;

use proto_types::{Code, FleetId};
use serde::{Deserialize, Serialize};

pub(crate) use audit::entry_name as audit_entry_name;
pub use audit::{AuditFound, audit_entries};
pub use reader::{Counts, Entry, Inspection, entries, inspect};
pub use writer::Writer;

pub(crate) const META: &str = "meta.json";
pub(crate) const STATE: &str = "state.bin";
pub(crate) const SUMS: &str = "SHA256SUMS";
pub(crate) const SEAL: &str = "seal.json";
pub(crate) const BUNDLES: &str = "bundles/";
pub(crate) const AUDIT: &str = "audit/";
const FORMAT: &str = "strongroom snapshot";
/// Version 1 did not name the coordinators; 2 has no segments of the audit log, and is still written
/// where there are none.
const VERSION: u32 = 3;
const VERSION_WITHOUT_AUDIT: u32 = 2;
const VERSION_MIN: u32 = 1;

/// `meta.json`: what the snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    format: String,
    version: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// Its name.
    pub fleet_name: String,
    /// The leader it was read from.
    pub leader: u64,
    /// The leader's term.
    pub term: u64,
    /// The log index that a quorum confirmed before the state was taken.
    pub confirmed_index: u64,
    /// The log index the state is of; never before the confirmed one.
    pub index: u64,
    /// The state's log time, in milliseconds since 1970.
    pub log_time_ms: u64,
    /// Whether the bundles are in it.
    pub includes_bundles: bool,
    /// Version of the program that read it.
    pub program: String,
    /// The coordinators of then, voters or not; not known of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<BTreeSet<u64>>,
}

impl Meta {
    /// The meta of a snapshot in this format version.
    #[allow(clippy::too_many_arguments, reason = "one argument per field of the file")]
    pub(crate) fn new(
        fleet: FleetId,
        fleet_name: String,
        (leader, term): (u64, u64),
        (confirmed_index, index): (u64, u64),
        log_time_ms: u64,
        includes_bundles: bool,
        has_audit: bool,
        nodes: BTreeSet<u64>,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: if has_audit { VERSION } else { VERSION_WITHOUT_AUDIT },
            fleet,
            fleet_name,
            leader,
            term,
            confirmed_index,
            index,
            log_time_ms,
            includes_bundles,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            nodes: Some(nodes),
        }
    }
}

/// `seal.json`: that the leader led until the last byte was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The leader.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// The entry that only it could have appended, after the last byte.
    pub sealed_index: u64,
    /// The nonce in that entry, hexadecimal.
    pub nonce: String,
    /// SHA-256 of `SHA256SUMS` as the leader computed it, hexadecimal.
    pub sums_sha256: String,
}

/// Why a file is no good snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// Reading or writing failed.
    #[error("cannot {what} the snapshot: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some other file.
    #[error("this is no strongroom snapshot: {what}")]
    NotASnapshot {
        /// How one can tell.
        what: String,
    },
    /// Of a newer program.
    #[error("the snapshot has version {found}: use a newer strongroom")]
    Version {
        /// Its version.
        found: u32,
    },
    /// Not to its end.
    #[error("the snapshot is cut short: save it again, or use another copy")]
    CutShort,
    /// No seal: nobody proved that its leader led to the end.
    #[error(
        "the snapshot has no seal: nothing proves that its leader led until the last byte was read; \
         save it again"
    )]
    Unsealed,
    /// Something in it is not as it was.
    #[error("the snapshot is damaged: {entry} {what}; use another copy")]
    Damaged {
        /// The entry.
        entry: String,
        /// What is wrong.
        what: String,
    },
}

impl SnapshotFileError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Code::NoSpace
            }
            Self::Io { .. } => Code::LocalIo,
            Self::Version { .. } => Code::UnsupportedVersion,
            Self::NotASnapshot { .. } | Self::CutShort | Self::Unsealed | Self::Damaged { .. } => {
                Code::Damaged
            }
        }
    }
}

/// Lines of `SHA256SUMS`, in the order of the entries.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    text: String,
}

impl Sums {
    pub(crate) fn add(&mut self, name: &str, sha256: &[u8]) {
        self.text.push_str(&format!("{}  {name}\n", hex::encode(sha256)));
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn sha256(&self) -> String {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(self.text.as_bytes()))
    }
}

#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod tests;

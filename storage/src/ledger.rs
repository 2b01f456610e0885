//! Each coordinator's ledger: which bundles it holds and when they were last read through, what
//! uploads claim, which repairs it owes. Never the only copy of anything: it is compared with the
//! bundle files at every start and rebuilt from them, so losing all of it costs a directory walk.
//! [`SledLedger`] keeps it on disk, [`MemoryLedger`] is its twin for simulations.

pub mod conformance;
mod memory;
mod rows;
mod sled_ledger;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use proto_types::{BundleId, Code, LeaseId, LogTime};

use crate::bundles::HeldBundle;

pub use memory::MemoryLedger;
pub use sled_ledger::{LedgerOpened, SledLedger};

/// The books of one coordinator. Small values, cheap calls; blocking where it is on disk. What
/// was written is durable after [`Ledger::flush`] at the latest.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Notes that a bundle is held.
    ///
    /// # Errors
    /// When the ledger cannot be written, as all below.
    fn put_bundle(&self, id: &BundleId, row: BundleRow) -> Result<(), LedgerError>;

    /// Notes that a bundle is no longer held; fine when it was not.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn remove_bundle(&self, id: &BundleId) -> Result<(), LedgerError>;

    /// What is known of a bundle that is held.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn bundle(&self, id: &BundleId) -> Result<Option<BundleRow>, LedgerError>;

    /// All bundles that are held, in the order of their names.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn bundles(&self) -> Result<Vec<(BundleId, BundleRow)>, LedgerError>;

    /// Notes that a bundle was read through and found good. Nothing happens when it is not held.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn mark_scrubbed(&self, id: &BundleId, at: LogTime) -> Result<(), LedgerError>;

    /// The bundles that were not read through for longest, those never read through first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn due_for_scrub(&self, count_max: usize) -> Result<Vec<(BundleId, BundleRow)>, LedgerError> {
        let mut bundles = self.bundles()?;
        bundles.sort_by_key(|(id, row)| (row.last_scrubbed, *id));
        bundles.truncate(count_max);
        Ok(bundles)
    }

    /// Notes how far an upload under a lease has come.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn put_claim(&self, claim: UploadClaim) -> Result<(), LedgerError>;

    /// The uploads under a lease.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn claims(&self, lease: &LeaseId) -> Result<Vec<UploadClaim>, LedgerError>;

    /// All uploads, in the order of their leases.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn all_claims(&self) -> Result<Vec<UploadClaim>, LedgerError>;

    /// Forgets all uploads under a lease that has ended.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn release_claims(&self, lease: &LeaseId) -> Result<(), LedgerError>;

    /// Notes that this node owes a copy of a bundle.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn put_repair(&self, repair: RepairRow) -> Result<(), LedgerError>;

    /// Notes that a copy is no longer owed; fine when it was not.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn settle_repair(&self, id: &BundleId) -> Result<(), LedgerError>;

    /// The copies that are owed, in the order of their names.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn repairs(&self) -> Result<Vec<RepairRow>, LedgerError>;

    /// Brings everything written so far to stable storage.
    ///
    /// # Errors
    /// When that cannot be done; then the next start rebuilds.
    fn flush(&self) -> Result<(), LedgerError>;

    /// Makes the ledger agree with the bundle files: what is on disk is held, what is not is not.
    /// Scrub times stay where the length still fits. Called at every start.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    fn rebuild_from(&self, held: &[HeldBundle]) -> Result<RebuildReport, LedgerError> {
        let mut held: BTreeMap<BundleId, u64> = held.iter().map(|b| (b.id, b.bytes)).collect();
        let mut report = RebuildReport::default();
        for (id, row) in self.bundles()? {
            match held.get(&id) {
                Some(bytes) if *bytes == row.bytes => {
                    report.kept += 1;
                    held.remove(&id);
                }
                // Another length: a row of its own below.
                Some(_) => {}
                None => {
                    self.remove_bundle(&id)?;
                    report.removed += 1;
                }
            }
        }
        for (id, bytes) in held {
            self.put_bundle(&id, BundleRow { bytes, last_scrubbed: None })?;
            report.added += 1;
        }
        self.flush()?;
        Ok(report)
    }
}

/// What is known of a bundle that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleRow {
    /// Its length.
    pub bytes: u64,
    /// When it was last read through and found good; never, after a rebuild.
    pub last_scrubbed: Option<LogTime>,
}

/// An upload in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadClaim {
    /// The lease it is under.
    pub lease: LeaseId,
    /// The bundle.
    pub bundle: BundleId,
    /// Bytes so far; the partial file knows better.
    pub bytes: u64,
}

/// A copy that this node owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairRow {
    /// The bundle.
    pub bundle: BundleId,
    /// Why.
    pub reason: RepairReason,
    /// Since when.
    pub since: LogTime,
}

/// Why a copy is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairReason {
    /// It was never here, or its file is gone.
    Missing,
    /// It was here and did not read back as written.
    Damaged,
}

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RebuildReport {
    /// Rows that agreed with their file.
    pub kept: u64,
    /// Rows made for files without one, or of another length.
    pub added: u64,
    /// Rows removed, whose files are not there.
    pub removed: u64,
}

/// Why the ledger could not be read or written. None of these loses anything: stop, delete the
/// ledger's directory, start.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// sled said no.
    #[error(
        "cannot {action} the ledger {}: it may be deleted while the coordinator is stopped, and \
         is rebuilt at the next start", path.display()
    )]
    Sled {
        /// What was tried.
        action: &'static str,
        /// Where it is.
        path: PathBuf,
        /// sled's answer.
        #[source]
        source: sled::Error,
    },
    /// The file system said no.
    #[error("cannot {action} the ledger {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A row that no program wrote.
    #[error(
        "the ledger {} holds a row that cannot be read: delete the directory while the \
         coordinator is stopped, and it is rebuilt at the next start", path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
    },
}

impl LedgerError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Sled { .. } | Self::Io { .. } => Code::LocalIo,
            Self::Damaged { .. } => Code::Damaged,
        }
    }
}

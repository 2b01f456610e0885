//! The ledger on sled 0.34. What sled does not do by itself is done here: it never fsyncs on
//! flush, and a damaged file may panic at open (decision 0001). Either way the answer is to
//! rebuild, which is why nothing but the ledger is here.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use proto_types::{BundleId, LeaseId, LogTime};

use super::{BundleRow, Ledger, LedgerError, RepairRow, UploadClaim, rows};
use crate::home::DataDir;

/// sled's default is 1 GiB; the ledger of 100,000 bundles is some 10 MiB.
const CACHE_BYTES: u64 = 16 << 20;
/// The one file that holds everything while values stay far below sled's blob threshold.
const DATABASE_FILE: &str = "db";

/// The ledger on disk.
#[derive(Debug)]
pub struct SledLedger {
    path: PathBuf,
    /// Kept for `sync_data` of our own; the inode is what counts, not sled's descriptor.
    file: File,
    db: sled::Db,
    bundles: sled::Tree,
    claims: sled::Tree,
    repairs: sled::Tree,
    _home: DataDir,
}

/// What opening a ledger came to. In either case [`Ledger::rebuild_from`] follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerOpened {
    /// It was there and could be read.
    Found,
    /// There was none.
    Created,
    /// It could not be read and was begun anew; why, for the log.
    Replaced {
        /// What sled said, or its panic.
        reason: String,
    },
}

impl SledLedger {
    /// Opens the ledger of a data directory. One that is damaged is deleted and begun anew: it is
    /// never the only copy of anything.
    ///
    /// # Errors
    /// When a new one cannot be made either.
    pub fn open(home: &DataDir) -> Result<(Self, LedgerOpened), LedgerError> {
        let path = home.ledger_dir();
        let io = |action| {
            let path = path.clone();
            move |source| LedgerError::Io { action, path, source }
        };
        let is_there = path.try_exists().map_err(io("look for"))?;
        match Self::try_open(home, &path) {
            Ok(ledger) => {
                let opened = if is_there { LedgerOpened::Found } else { LedgerOpened::Created };
                Ok((ledger, opened))
            }
            Err(error) if is_there => {
                std::fs::remove_dir_all(&path).map_err(io("remove"))?;
                let ledger = Self::try_open(home, &path)?;
                Ok((ledger, LedgerOpened::Replaced { reason: chain(&error) }))
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(home: &DataDir, path: &Path) -> Result<Self, LedgerError> {
        let sled = |source| LedgerError::Sled { action: "open", path: path.to_owned(), source };
        let open = || -> Result<_, sled::Error> {
            let db = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .open()?;
            let trees =
                [db.open_tree("bundles")?, db.open_tree("claims")?, db.open_tree("repairs")?];
            Ok((db, trees))
        };
        // sled 0.34 panics on some damage instead of returning an error (spacejam/sled#1533).
        let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
            Err(sled::Error::ReportableBug("sled panicked while opening the ledger".to_owned()))
        });
        let (db, [bundles, claims, repairs]) = opened.map_err(sled)?;
        let file = File::open(path.join(DATABASE_FILE)).map_err(|source| LedgerError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        let ledger =
            Self { path: path.to_owned(), file, db, bundles, claims, repairs, _home: home.clone() };
        // A row that does not read makes the whole of it suspect.
        ledger.bundles()?;
        ledger.all_claims()?;
        ledger.repairs()?;
        Ok(ledger)
    }

    fn sled(&self, action: &'static str) -> impl FnOnce(sled::Error) -> LedgerError {
        let path = self.path.clone();
        move |source| LedgerError::Sled { action, path, source }
    }

    fn damaged(&self) -> LedgerError {
        LedgerError::Damaged { path: self.path.clone() }
    }

    fn put(&self, tree: &sled::Tree, key: &[u8], value: Vec<u8>) -> Result<(), LedgerError> {
        tree.insert(key, value).map(drop).map_err(self.sled("write"))
    }

    fn remove(&self, tree: &sled::Tree, key: &[u8]) -> Result<(), LedgerError> {
        tree.remove(key).map(drop).map_err(self.sled("write"))
    }

    fn collect<T>(
        &self,
        rows: sled::Iter,
        decode: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, LedgerError> {
        rows.map(|row| {
            let (key, value) = row.map_err(self.sled("read"))?;
            decode(&key, &value).ok_or_else(|| self.damaged())
        })
        .collect()
    }
}

impl Ledger for SledLedger {
    fn put_bundle(&self, id: &BundleId, row: BundleRow) -> Result<(), LedgerError> {
        self.put(&self.bundles, id.as_bytes(), rows::encode_bundle(row))
    }

    fn remove_bundle(&self, id: &BundleId) -> Result<(), LedgerError> {
        self.remove(&self.bundles, id.as_bytes())
    }

    fn bundle(&self, id: &BundleId) -> Result<Option<BundleRow>, LedgerError> {
        let Some(value) = self.bundles.get(id.as_bytes()).map_err(self.sled("read"))? else {
            return Ok(None);
        };
        rows::decode_bundle(&value).map(Some).ok_or_else(|| self.damaged())
    }

    fn bundles(&self) -> Result<Vec<(BundleId, BundleRow)>, LedgerError> {
        self.collect(self.bundles.iter(), |key, value| {
            Some((BundleId::from_slice(key).ok()?, rows::decode_bundle(value)?))
        })
    }

    fn mark_scrubbed(&self, id: &BundleId, at: LogTime) -> Result<(), LedgerError> {
        let mark = |old: Option<&[u8]>| {
            let row = rows::decode_bundle(old?)?;
            Some(rows::encode_bundle(BundleRow { last_scrubbed: Some(at), ..row }))
        };
        self.bundles.update_and_fetch(id.as_bytes(), mark).map(drop).map_err(self.sled("write"))
    }

    fn put_claim(&self, claim: UploadClaim) -> Result<(), LedgerError> {
        let key = rows::claim_key(&claim.lease, &claim.bundle);
        self.put(&self.claims, &key, rows::encode_claim(claim))
    }

    fn claims(&self, lease: &LeaseId) -> Result<Vec<UploadClaim>, LedgerError> {
        self.collect(self.claims.scan_prefix(lease.as_bytes()), rows::decode_claim)
    }

    fn all_claims(&self) -> Result<Vec<UploadClaim>, LedgerError> {
        self.collect(self.claims.iter(), rows::decode_claim)
    }

    fn release_claims(&self, lease: &LeaseId) -> Result<(), LedgerError> {
        for key in self.claims.scan_prefix(lease.as_bytes()).keys() {
            let key = key.map_err(self.sled("read"))?;
            self.remove(&self.claims, &key)?;
        }
        Ok(())
    }

    fn put_repair(&self, repair: RepairRow) -> Result<(), LedgerError> {
        self.put(&self.repairs, repair.bundle.as_bytes(), rows::encode_repair(repair))
    }

    fn settle_repair(&self, id: &BundleId) -> Result<(), LedgerError> {
        self.remove(&self.repairs, id.as_bytes())
    }

    fn repairs(&self) -> Result<Vec<RepairRow>, LedgerError> {
        self.collect(self.repairs.iter(), rows::decode_repair)
    }

    fn flush(&self) -> Result<(), LedgerError> {
        self.db.flush().map_err(self.sled("flush"))?;
        // sled's flush is sync_file_range on Linux, which neither empties the drive's cache nor
        // writes metadata.
        rustix::fs::fdatasync(&self.file).map_err(|error| LedgerError::Io {
            action: "sync",
            path: self.path.clone(),
            source: error.into(),
        })
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}

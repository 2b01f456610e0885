//! The ledger's twin in memory, for simulations and tests. Nothing of it outlives the process,
//! which is a state every coordinator must be able to start from; and it can forget what was not
//! flushed, as a disk does that loses its power.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto_types::{BundleId, LeaseId, LogTime};

use super::{BundleRow, Ledger, LedgerError, RepairRow, UploadClaim};

/// A ledger in memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    books: Mutex<Books>,
    /// As of the last flush.
    flushed: Mutex<Books>,
}

#[derive(Debug, Default, Clone)]
struct Books {
    bundles: BTreeMap<BundleId, BundleRow>,
    claims: BTreeMap<(LeaseId, BundleId), UploadClaim>,
    repairs: BTreeMap<BundleId, RepairRow>,
}

impl MemoryLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes back to what was there at the last flush.
    pub fn lose_unflushed(&self) {
        let flushed = lock(&self.flushed).clone();
        *self.lock() = flushed;
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }
}

impl Ledger for MemoryLedger {
    fn put_bundle(&self, id: &BundleId, row: BundleRow) -> Result<(), LedgerError> {
        self.lock().bundles.insert(*id, row);
        Ok(())
    }

    fn remove_bundle(&self, id: &BundleId) -> Result<(), LedgerError> {
        self.lock().bundles.remove(id);
        Ok(())
    }

    fn bundle(&self, id: &BundleId) -> Result<Option<BundleRow>, LedgerError> {
        Ok(self.lock().bundles.get(id).copied())
    }

    fn bundles(&self) -> Result<Vec<(BundleId, BundleRow)>, LedgerError> {
        Ok(self.lock().bundles.iter().map(|(id, row)| (*id, *row)).collect())
    }

    fn mark_scrubbed(&self, id: &BundleId, at: LogTime) -> Result<(), LedgerError> {
        if let Some(row) = self.lock().bundles.get_mut(id) {
            row.last_scrubbed = Some(at);
        }
        Ok(())
    }

    fn put_claim(&self, claim: UploadClaim) -> Result<(), LedgerError> {
        self.lock().claims.insert((claim.lease, claim.bundle), claim);
        Ok(())
    }

    fn claims(&self, lease: &LeaseId) -> Result<Vec<UploadClaim>, LedgerError> {
        let mut claims = self.all_claims()?;
        claims.retain(|claim| claim.lease == *lease);
        Ok(claims)
    }

    fn all_claims(&self) -> Result<Vec<UploadClaim>, LedgerError> {
        Ok(self.lock().claims.values().copied().collect())
    }

    fn release_claims(&self, lease: &LeaseId) -> Result<(), LedgerError> {
        self.lock().claims.retain(|(of, _), _| of != lease);
        Ok(())
    }

    fn put_repair(&self, repair: RepairRow) -> Result<(), LedgerError> {
        self.lock().repairs.insert(repair.bundle, repair);
        Ok(())
    }

    fn settle_repair(&self, id: &BundleId) -> Result<(), LedgerError> {
        self.lock().repairs.remove(id);
        Ok(())
    }

    fn repairs(&self) -> Result<Vec<RepairRow>, LedgerError> {
        Ok(self.lock().repairs.values().copied().collect())
    }

    fn flush(&self) -> Result<(), LedgerError> {
        let books = self.lock().clone();
        *lock(&self.flushed) = books;
        Ok(())
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

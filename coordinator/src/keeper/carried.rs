//! Bundles that came in log entries (decision 0018), on their way to files of their own. They are
//! written when their commit is applied, and synced together: before a snapshot says that the log
//! behind it is not needed, and before this node says that it holds them. Until then the log has them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::env::Env;
use proto_types::BundleId;
use storage::bundles::{BundleError, BundleStore};
use storage::ledger::{BundleRow, Ledger, LedgerError};

/// Where the bundles of applied entries go. Cheap to clone; blocking.
#[derive(Clone)]
pub(crate) struct Carried {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    store: Arc<dyn BundleStore>,
    ledger: Arc<dyn Ledger>,
    /// Written, and not yet needed in the published state: nobody may take them for abandoned.
    arriving: Mutex<BTreeSet<BundleId>>,
    /// Written, and not known to be on stable storage.
    unsynced: Mutex<BTreeSet<BundleId>>,
    /// Held while files are being synced.
    syncing: Mutex<()>,
}

/// Why bundles could not be written: the node must end (R3).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarriedError {
    /// The bundles' disk said no.
    #[error(transparent)]
    Store(#[from] BundleError),
    /// The ledger did.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

/// A poisoned lock only says that some thread panicked between two consistent states.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Carried {
    pub(crate) fn new(env: Env, store: Arc<dyn BundleStore>, ledger: Arc<dyn Ledger>) -> Self {
        let inner = Inner {
            env,
            store,
            ledger,
            arriving: Mutex::default(),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes bundles under their names. They count as arriving until [`Carried::published`].
    pub(crate) fn put(&self, bundles: &[(BundleId, Vec<u8>)]) -> Result<(), CarriedError> {
        let inner = &*self.inner;
        lock(&inner.arriving).extend(bundles.iter().map(|(id, _)| *id));
        let now = inner.env.clock.now();
        for (id, bytes) in bundles {
            inner.store.put(id, bytes)?;
            // Not before: a sync meanwhile would take it off the list without having met the file.
            lock(&inner.unsynced).insert(*id);
            let row = BundleRow { bytes: bytes.len() as u64, last_scrubbed: Some(now) };
            inner.ledger.put_bundle(id, row)?;
        }
        Ok(())
    }

    /// The state that needs them is published.
    pub(crate) fn published(&self) {
        lock(&self.inner.arriving).clear();
    }

    /// The bundles that were written and that the published state does not need yet, but soon.
    pub(crate) fn arriving(&self) -> BTreeSet<BundleId> {
        lock(&self.inner.arriving).clone()
    }

    /// Brings all that was written to stable storage, if anything was since the last time.
    pub(crate) fn sync(&self) -> Result<(), CarriedError> {
        self.sync_if(|unsynced| !unsynced.is_empty())
    }

    /// The same where one of these bundles may be in the page cache only.
    pub(crate) fn sync_for(&self, ids: &[BundleId]) -> Result<(), CarriedError> {
        self.sync_if(|unsynced| ids.iter().any(|id| unsynced.contains(id)))
    }

    fn sync_if(&self, is_due: impl Fn(&BTreeSet<BundleId>) -> bool) -> Result<(), CarriedError> {
        // Whoever comes while another syncs waits: what is off the list is not synced before the end.
        let _one = lock(&self.inner.syncing);
        let taken = {
            let mut unsynced = lock(&self.inner.unsynced);
            if !is_due(&unsynced) {
                return Ok(());
            }
            std::mem::take(&mut *unsynced)
        };
        self.inner.store.sync().inspect_err(|_| lock(&self.inner.unsynced).extend(taken))?;
        Ok(())
    }
}

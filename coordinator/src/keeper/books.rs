//! Brings the ledger to stable storage, now and then and at the end. What a power cut takes of it
//! is found again by the walk over the bundle files at the next start, but for the times of scrubs
//! and the claims of uploads: so this saves work, and no answer ever waits for it.

use std::sync::Arc;
use std::time::Duration;

use proto::env::Env;
use storage::ledger::{Ledger, LedgerError};

use super::Keeper;

/// How much of the ledger a power cut may take: the next start scrubs again what was scrubbed in
/// this time. An fdatasync as rarely as this disturbs no upload.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

impl Keeper {
    /// Flushes for ever, until the ledger fails, which ends the node.
    pub(super) async fn keep_books(&self) {
        let Err(error) = flush_regularly(&self.inner.env, &self.inner.ledger).await;
        // Has the node end; there is nobody to answer.
        let _ = self.inner.noted::<()>(Err(error));
        std::future::pending::<()>().await;
    }

    /// The last flush, when nothing is written any more.
    pub(crate) async fn close_books(&self) {
        if let Err(error) = flush(&self.inner.env, &self.inner.ledger).await {
            tracing::warn!(
                error = super::chain(&error),
                "the ledger could not be flushed; the next start rebuilds it"
            );
        }
    }
}

async fn flush_regularly(
    env: &Env,
    ledger: &Arc<dyn Ledger>,
) -> Result<std::convert::Infallible, LedgerError> {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        flush(env, ledger).await?;
    }
}

async fn flush(env: &Env, ledger: &Arc<dyn Ledger>) -> Result<(), LedgerError> {
    let ledger = ledger.clone();
    // A panic of sled's is its bug, and this flush's loss alone.
    env.blocking("flush-ledger", move || ledger.flush()).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use proto_types::{BundleId, LogTime};
    use storage::ledger::{BundleRow, MemoryLedger};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_noted_is_on_stable_storage_before_long() {
        let memory = Arc::new(MemoryLedger::new());
        let ledger: Arc<dyn Ledger> = memory.clone();
        let row = BundleRow { bytes: 1, last_scrubbed: Some(LogTime::from_millis(5)) };
        let [first, second] = [b"first".as_slice(), b"second"].map(BundleId::of);
        ledger.put_bundle(&first, row).unwrap();
        let env = Env::system();
        let flushing = flush_regularly(&env, &ledger);
        // The clock is the test's: it jumps to whoever wakes next. Between two flushes, so that none
        // is under way when this ends.
        tokio::time::timeout(FLUSH_EVERY * 3 / 2, flushing).await.unwrap_err();
        ledger.put_bundle(&second, row).unwrap();
        memory.lose_unflushed();
        assert_eq!(ledger.bundles().unwrap(), [(first, row)]);
    }
}

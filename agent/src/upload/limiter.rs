//! Holds all uploads of a backup together under so many bytes per second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto_types::env::Clock;

/// A limit on bytes per second, shared by several streams.
pub(crate) struct Limiter {
    bytes_per_second: u64,
    clock: Arc<dyn Clock>,
    /// When all that was let through so far is paid off, in microseconds of elapsed time.
    paid_micros: Mutex<u64>,
}

impl Limiter {
    /// 0: no limit.
    pub(crate) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_second, clock, paid_micros: Mutex::new(0) }
    }

    /// How much to send at once: at least four times a second, so that nobody takes a slow
    /// upload for a broken one.
    pub(crate) fn chunk_bytes(&self, most: usize) -> usize {
        const LEAST: usize = 4 << 10;
        match self.bytes_per_second {
            0 => most,
            rate => usize::try_from(rate / 4).unwrap_or(most).clamp(LEAST, most),
        }
    }

    /// Waits until `bytes` more may go.
    pub(crate) async fn pass(&self, bytes: usize) {
        let wait = self.reserve(bytes as u64);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn reserve(&self, bytes: u64) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let now = self.clock.elapsed_millis().saturating_mul(1000);
        let cost = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let mut paid = self.paid_micros.lock().unwrap_or_else(PoisonError::into_inner);
        // Time without sending is not saved up.
        let begin = (*paid).max(now);
        *paid = begin.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
        Duration::from_micros(begin - now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proto_types::LogTime;

    use super::*;

    #[derive(Default)]
    struct Still(AtomicU64);
    impl Clock for Still {
        fn now(&self) -> LogTime {
            LogTime::ZERO
        }
        fn elapsed_millis(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn upload_limit_spaces_bytes_evenly_and_saves_nothing_up() {
        let clock = Arc::new(Still::default());
        let limiter = Limiter::new(1000, clock.clone());
        assert_eq!(limiter.reserve(500), Duration::ZERO);
        assert_eq!(limiter.reserve(500), Duration::from_millis(500));
        assert_eq!(limiter.reserve(1), Duration::from_secs(1));
        clock.0.store(100_000, Ordering::Relaxed);
        assert_eq!(limiter.reserve(1000), Duration::ZERO);
        assert_eq!(limiter.reserve(1000), Duration::from_secs(1));
        let free = Limiter::new(0, clock);
        assert_eq!(free.reserve(u64::MAX), Duration::ZERO);
        assert_eq!(free.chunk_bytes(1 << 20), 1 << 20);
        assert_eq!(Limiter::new(1 << 20, limiter.clock.clone()).chunk_bytes(1 << 20), 256 << 10);
        assert_eq!(limiter.chunk_bytes(1 << 20), 4 << 10);
    }
}

//! How long the log's fdatasyncs take, over the last minute: whether this disk is slow is decided
//! elsewhere. A sync under way counts with the time it has taken so far, or a disk that hangs
//! would look like one that has nothing to do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the median is of: recent, so that a disk that became slow is noticed.
const RECENT: Duration = Duration::from_secs(10);
/// What the 99th percentile is of.
const KEPT: Duration = Duration::from_secs(60);
/// A bound on memory: the last of them, where there are more in a minute.
const SAMPLES_MAX: usize = 8192;

/// The log's fdatasyncs. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct SyncTimes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When each ended, and how long it took.
    done: VecDeque<(Instant, Duration)>,
    running: Option<Instant>,
}

/// A summary of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncFigure {
    /// How many there were in the last ten seconds.
    pub recent: u32,
    /// Median of those, in microseconds.
    pub median_micros: u64,
    /// 99th percentile of the last minute, in microseconds.
    pub p99_micros: u64,
}

impl SyncTimes {
    /// Measures one.
    pub(super) fn measure<T>(&self, sync: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        self.lock().running = Some(begun);
        let result = sync();
        let mut inner = self.lock();
        inner.running = None;
        inner.note(Instant::now(), begun.elapsed());
        result
    }

    /// As of now.
    #[must_use]
    pub fn figure(&self) -> SyncFigure {
        self.lock().figure(Instant::now())
    }

    // A panic while it is held cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, ended: Instant, took: Duration) {
        self.done.push_back((ended, took));
        while self.done.len() > SAMPLES_MAX
            || self.done.front().is_some_and(|(at, _)| ended.duration_since(*at) > KEPT)
        {
            self.done.pop_front();
        }
    }

    fn figure(&self, now: Instant) -> SyncFigure {
        let running = self.running.map(|begun| (now, now.saturating_duration_since(begun)));
        let within = |age: Duration| {
            let all = self.done.iter().copied().chain(running);
            let kept = all.filter(move |(at, _)| now.saturating_duration_since(*at) <= age);
            let mut micros: Vec<u64> =
                kept.map(|(_, took)| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)).collect();
            micros.sort_unstable();
            micros
        };
        let (recent, minute) = (within(RECENT), within(KEPT));
        let at = |micros: &[u64], rank: usize| micros.get(rank).copied().unwrap_or(0);
        SyncFigure {
            recent: u32::try_from(recent.len()).unwrap_or(u32::MAX),
            median_micros: at(&recent, recent.len() / 2),
            p99_micros: at(&minute, (minute.len() * 99).div_ceil(100).saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_times_are_of_the_last_seconds_with_the_one_under_way() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut inner = Inner::default();
        assert_eq!(inner.figure(start), SyncFigure::default());
        for second in 0..100 {
            inner.note(at(second), Duration::from_micros(if second < 95 { 200 } else { 9000 }));
        }
        // Ten seconds back from the last: 89 to 99, of which five are slow.
        let expected = SyncFigure { recent: 11, median_micros: 200, p99_micros: 9000 };
        assert_eq!(inner.figure(at(99)), expected);
        let later = inner.figure(at(104));
        assert_eq!((later.recent, later.median_micros), (6, 9000));
        // Nothing for long, and one that hangs.
        assert_eq!(inner.figure(at(300)).recent, 0);
        inner.running = Some(at(300));
        let hangs = SyncFigure { recent: 1, median_micros: 2_000_000, p99_micros: 2_000_000 };
        assert_eq!(inner.figure(at(302)), hangs);
        assert!(inner.done.len() <= 61, "what is older than a minute is let go");
    }
}

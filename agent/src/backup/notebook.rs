//! Notes on the disk which points the fleet acknowledged, to tell an older state from it later
//! (invariant K3). The fleet has the points; what is noted late is only noticed late if it goes
//! missing. So one note is written at once, and of a storm of them at most one a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::env::Env;
use proto_types::{ClusterId, FleetId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::BackupError;
use crate::heads::{KnownHeads, SeenHead};

/// From one write to the next at least.
const PAUSE: Duration = Duration::from_secs(1);

/// The newest acknowledged points, in memory and, a little later, on the disk.
pub(super) struct Notebook {
    env: Env,
    pause: Duration,
    heads: Arc<Mutex<KnownHeads>>,
    /// When the last write began, in elapsed milliseconds.
    written_ms: Option<u64>,
    later: Option<Later>,
}

/// A write that waits for its time.
struct Later {
    now: CancellationToken,
    done: oneshot::Receiver<()>,
}

fn lock(heads: &Mutex<KnownHeads>) -> MutexGuard<'_, KnownHeads> {
    heads.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notebook {
    pub(super) fn new(env: Env, heads: KnownHeads) -> Self {
        Self {
            env,
            pause: PAUSE,
            heads: Arc::new(Mutex::new(heads)),
            written_ms: None,
            later: None,
        }
    }

    /// The newest point of a cluster that was acknowledged.
    pub(super) fn seen(&self, cluster: ClusterId) -> Option<SeenHead> {
        lock(&self.heads).cluster(cluster).and_then(|known| known.head)
    }

    /// Notes a point.
    pub(super) async fn note(
        &mut self,
        fleet: FleetId,
        cluster: ClusterId,
        name: &str,
        seen: SeenHead,
    ) {
        if !lock(&self.heads).observe(fleet, cluster, name, seen) || self.is_waiting() {
            return;
        }
        let now_ms = self.env.clock.elapsed_millis();
        let pause_ms = u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX);
        let since_ms = self.written_ms.map_or(pause_ms, |at| now_ms.saturating_sub(at));
        if since_ms >= pause_ms {
            self.written_ms = Some(now_ms);
            write(&self.env, &self.heads).await;
            return;
        }
        let wait = Duration::from_millis(pause_ms - since_ms);
        self.written_ms = Some(now_ms + (pause_ms - since_ms));
        let (ended, done) = oneshot::channel();
        let (env, heads, now) = (self.env.clone(), self.heads.clone(), CancellationToken::new());
        self.later = Some(Later { now: now.clone(), done });
        self.env.spawn.task(
            "note-heads",
            Box::pin(async move {
                // At once when somebody closes the book.
                let _ = tokio::time::timeout(wait, now.cancelled()).await;
                write(&env, &heads).await;
                let _ = ended.send(());
            }),
        );
    }

    /// Whether a write that will hold everything noted so far is still to come.
    fn is_waiting(&mut self) -> bool {
        let Some(later) = &mut self.later else { return false };
        matches!(later.done.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Writes what waits.
    pub(super) async fn close(&mut self) {
        if let Some(later) = self.later.take() {
            later.now.cancel();
            // An error is that it was written before.
            let _ = later.done.await;
        }
    }
}

async fn write(env: &Env, heads: &Arc<Mutex<KnownHeads>>) {
    // Not under the lock: a note must not wait for a disk.
    let mut snapshot = lock(heads).clone();
    let written = env
        .blocking("note-heads", move || snapshot.save())
        .await
        .map_err(BackupError::from)
        .and_then(|written| written.map_err(BackupError::from));
    // The point is committed; what is lost is the means to notice that it went missing.
    if let Err(error) = written {
        tracing::warn!(%error, "the acknowledged point could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use proto_types::env::Clock;
    use proto_types::{BundleId, LogTime, Sequence};

    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([1; 16]);
    const CLUSTER: ClusterId = ClusterId::from_bytes([2; 16]);

    fn seen(sequence: u64) -> SeenHead {
        SeenHead {
            sequence: Sequence::new(sequence),
            manifest: BundleId::from_bytes([3; 32]),
            manifest_sequence: Sequence::new(1),
            committed_ms: None,
        }
    }

    /// A clock that stands still.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> LogTime {
            LogTime::ZERO
        }
        fn elapsed_millis(&self) -> u64 {
            7
        }
    }

    fn book(path: &std::path::Path, pause: Duration) -> Notebook {
        let env = Env { clock: Arc::new(Still), ..Env::system() };
        Notebook { pause, ..Notebook::new(env, KnownHeads::load(path).unwrap()) }
    }

    #[tokio::test]
    async fn of_a_storm_of_notes_the_first_is_written_at_once_and_the_last_when_the_book_is_closed()
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("head.json");
        let on_disk = || {
            let heads = KnownHeads::load(&path).unwrap();
            heads.cluster(CLUSTER).and_then(|known| known.head).map(|head| head.sequence.get())
        };
        let mut book = book(&path, Duration::from_secs(3600));
        for sequence in 1..=50 {
            book.note(FLEET, CLUSTER, "prod", seen(sequence)).await;
            assert_eq!(book.seen(CLUSTER), Some(seen(sequence)));
            assert_eq!(on_disk(), Some(1));
        }
        book.close().await;
        assert_eq!(on_disk(), Some(50));
    }

    #[tokio::test]
    async fn what_waits_is_written_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("head.json");
        let mut book = book(&path, Duration::from_millis(5));
        book.note(FLEET, CLUSTER, "prod", seen(1)).await;
        book.note(FLEET, CLUSTER, "prod", seen(2)).await;
        let later = book.later.take().expect("the second waits");
        later.done.await.expect("it was written");
        let heads = KnownHeads::load(&path).unwrap();
        assert_eq!(heads.cluster(CLUSTER).and_then(|known| known.head), Some(seen(2)));
    }
}

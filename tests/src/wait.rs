//! Waiting for facts: ask, and ask again, until it is so or a deadline has passed. Nothing in
//! these tests sleeps in the hope that something has happened meanwhile.

use std::time::{Duration, Instant};

/// Enough for anything that takes seconds on a machine that does nothing else; the tests' machine
/// does.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(25);

/// Waits until `ask` gives something.
///
/// # Panics
/// When it has not after [`PATIENCE`].
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    until_in(PATIENCE, what, ask).await
}

/// The same with another deadline.
///
/// # Panics
/// When it has passed.
pub async fn until_in<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < deadline, "not so after {deadline:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `ask` says yes.
///
/// # Panics
/// When it has not after [`PATIENCE`].
pub async fn until_so(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    until(what, async || ask().await.then_some(())).await;
}

//! At most two fleets run at a time on one machine, over all test threads and processes: more
//! would measure the machine's patience instead of the product. A lock on a file, so that the
//! place of a test that was killed is free at once.

use std::fs::File;
use std::time::Duration;

const PLACES: usize = 2;
/// Longer than everything before us in the queue can take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A place to run a fleet in; given back on drop.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "holds the lock")] File);

/// Waits for a place.
///
/// # Panics
/// When none becomes free.
pub async fn enter() -> Place {
    crate::wait::until_in(PATIENCE, "a place to run a fleet in", async || {
        (0..PLACES).find_map(try_enter)
    })
    .await
}

fn try_enter(number: usize) -> Option<Place> {
    let path = std::env::temp_dir().join(format!("strongroom-tests-fleet-{number}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .expect("the temporary directory is writable");
    file.try_lock().is_ok().then_some(Place(file))
}

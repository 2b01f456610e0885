//! Waits for facts, with a deadline. Nothing here sleeps for a guessed time: each look asks for
//! the fact itself.

use std::time::Duration;

use proto_types::Code;
use tokio::time::MissedTickBehavior;

use crate::error::{CliError, Result};

/// Between two looks. Short, because a look is a local call or a read of a few lines.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until `look` finds what it looks for.
///
/// # Errors
/// `DEADLINE_EXCEEDED` naming the fact; or at once, what `look` itself fails with.
pub(super) async fn until<T, F>(fact: &str, deadline: Duration, mut look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Option<T>>,
{
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    };
    match tokio::time::timeout(deadline, looking).await {
        Ok(found) => found,
        Err(_) => Err(CliError::new(
            Code::DeadlineExceeded,
            format!("{fact} did not happen within {} s", deadline.as_secs()),
        )),
    }
}

//! Tests that cannot run everywhere say so, and on a machine where they must run they fail
//! instead: `STRONGROOM_E2E=required`. What was skipped is listed by the last test.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes that `test` did not show what it should, and why.
///
/// # Panics
/// When the environment says that everything must run.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("STRONGROOM_E2E").is_none_or(|value| value != "required"),
        "{test} cannot run: {why}, and STRONGROOM_E2E=required"
    );
    say(&format!("skipped: {test}: {why}"));
    SKIPPED.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{test}: {why}"));
}

/// All that was skipped in this process until now.
#[must_use]
pub fn skipped() -> Vec<String> {
    SKIPPED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A line for whoever watches the tests, not caught by the test runner.
pub fn say(line: &str) {
    // Nobody watches: nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}

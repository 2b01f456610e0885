//! Says on standard error what is being measured; standard output is for figures only.

use std::io::Write;

/// One line for the person who waits. A closed standard error stops no measurement.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "benches: {text}");
}

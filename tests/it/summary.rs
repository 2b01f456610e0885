//! What this run could not show, in one place for whoever reads the output.

use tests::skip::{conditions, say};

#[test]
fn zz_summary() {
    let missing: Vec<String> = conditions().into_iter().filter_map(Result::err).collect();
    if missing.is_empty() {
        say("summary: every test of this binary could run here");
    }
    for what in missing {
        say(&format!("summary: did not run, or on less than meant: {what}"));
    }
}

//! Where the product's one binary is: in the directory of the build profile that the tests
//! themselves were built with.

use std::path::{Path, PathBuf};

/// The `strongroom` binary of this build.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn strongroom() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/it-HASH, or a program of this package in target/PROFILE
    let beside = test.parent().expect("a binary lies in a directory");
    let profile = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let profile = profile.expect("a test's binary lies in target/PROFILE/deps");
    let binary = profile.join("strongroom");
    assert!(
        binary.is_file(),
        "{} is missing: build it with `cargo build -p cli` (and --release, if the tests are), or \
         run `cargo test --workspace`, which builds it",
        binary.display()
    );
    binary
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

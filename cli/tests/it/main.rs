//! The binary as people and programs meet it: help, exit codes, errors, files it makes. Nothing
//! here needs a fleet; the story with real processes is told by the tests package.

mod configs;
mod key_init;
mod keys;
mod shape;
mod shares;
mod terminal;
mod verbs;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the binary ended with.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
}

/// The binary with nothing of the developer's settings.
fn strongroom() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    strongroom().args(arguments).output().expect("the binary runs").into()
}

/// Runs in a directory, so that messages carry short paths.
fn run_in<S: AsRef<OsStr>>(directory: &Path, arguments: impl IntoIterator<Item = S>) -> Ran {
    strongroom().current_dir(directory).args(arguments).output().expect("the binary runs").into()
}

impl Ran {
    /// The JSON error on standard error.
    fn error(&self) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.stderr));
        value["error"].clone()
    }
}

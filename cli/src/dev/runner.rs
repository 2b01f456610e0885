//! Runs operator's verbs as a person would: this very program, with arguments, in a process of
//! its own. The story uses no back door.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use proto_types::Code;
use serde_json::Value;
use tokio::process::Command;

use super::process::forget_settings;
use crate::error::{CliError, Result};

/// No verb of the story takes longer, even on a slow disk with a debug build.
const DEADLINE: Duration = Duration::from_secs(900);

/// This program, as an operator of one fleet.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    exe: PathBuf,
    operator_dir: PathBuf,
}

/// A verb under way.
pub(super) struct Running {
    what: String,
    child: tokio::process::Child,
}

impl Runner {
    /// `exe` with the operator's directory.
    pub(super) const fn new(exe: PathBuf, operator_dir: PathBuf) -> Self {
        Self { exe, operator_dir }
    }

    /// Runs a verb to its end and gives its JSON answer.
    ///
    /// # Errors
    /// The verb's own error, with its code.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Value> {
        self.start(arguments)?.finish().await
    }

    /// Starts a verb.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub(super) fn start<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        let arguments: Vec<OsString> =
            arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let words = arguments.iter().take(2).map(|word| word.to_string_lossy());
        let what = words.filter(|word| !word.starts_with('-')).collect::<Vec<_>>().join(" ");
        let mut command = Command::new(&self.exe);
        command
            .arg("--operator-dir")
            .arg(&self.operator_dir)
            .args(["--output", "json"])
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        forget_settings(&mut command);
        let child = command.spawn().map_err(|error| CliError::io("start", &self.exe, &error))?;
        Ok(Running { what, child })
    }
}

impl Running {
    /// Whether it has ended, well or not.
    ///
    /// # Errors
    /// When the system does not say.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        self.child.try_wait().map(|status| status.is_some()).map_err(|error| {
            CliError::new(Code::Internal, format!("`strongroom {}`: {error}", self.what))
        })
    }

    /// Waits for the end and gives the JSON answer.
    ///
    /// # Errors
    /// The verb's own error, with its code.
    pub(super) async fn finish(self) -> Result<Value> {
        let what = self.what;
        let output = tokio::time::timeout(DEADLINE, self.child.wait_with_output())
            .await
            .map_err(|_| {
                CliError::new(
                    Code::DeadlineExceeded,
                    format!("`strongroom {what}` did not end within {} s", DEADLINE.as_secs()),
                )
            })?
            .map_err(|error| {
                CliError::new(Code::Internal, format!("`strongroom {what}`: {error}"))
            })?;
        if !output.status.success() {
            return Err(read_error(&what, &output.stderr));
        }
        let answer = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        serde_json::from_slice(answer.unwrap_or_default()).map_err(|error| {
            CliError::new(
                Code::Internal,
                format!("`strongroom {what}` gave an answer that is not JSON: {error}"),
            )
        })
    }
}

/// The error that a verb printed as JSON, the last line of its standard error.
fn read_error(what: &str, stderr: &[u8]) -> CliError {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    let parsed: Option<Value> = serde_json::from_str(line).ok();
    let field = |name: &str| {
        let error = parsed.as_ref()?.get("error")?;
        error.get(name)?.as_str().map(str::to_owned)
    };
    let code = field("code").and_then(|code| code.parse().ok()).unwrap_or(Code::Internal);
    let message = field("message").unwrap_or_else(|| line.to_owned());
    let error = CliError::new(code, format!("`strongroom {what}`: {message}"));
    match field("remedy") {
        Some(remedy) => error.with_remedy(remedy),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verbs_error_keeps_its_code() {
        let error = read_error(
            "backup now",
            b"noise\n{\"error\":{\"code\":\"BUSY\",\"message\":\"one is running\"}}\n",
        );
        assert_eq!(error.code(), Code::Busy);
        assert_eq!(error.message(), "`strongroom backup now`: one is running");
        assert_eq!(read_error("x", b"what?").code(), Code::Internal);
    }
}

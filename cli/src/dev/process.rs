//! Child processes of the driver: started with their log in a file, stopped or killed by their
//! own handle only. They end by themselves when the driver goes, whatever way it goes.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use proto_types::Code;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{CliError, Result};

/// How long a server may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A running server.
pub(super) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    /// Its end tells the child that the driver is gone.
    _stdin: Option<ChildStdin>,
}

impl Server {
    /// Starts `exe` with these arguments, its standard error appended to `log`.
    ///
    /// # Errors
    /// When log or process cannot be made.
    pub(super) fn start(
        exe: &Path,
        name: &str,
        arguments: Vec<OsString>,
        log: &Path,
    ) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| CliError::io("open the log", log, &error))?;
        let mut command = Command::new(exe);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            // A group of its own: Ctrl-C reaches the driver, which stops the children in order.
            .process_group(0)
            .kill_on_drop(true);
        forget_settings(&mut command);
        let mut child = command.spawn().map_err(|error| CliError::io("start", exe, &error))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), _stdin: stdin })
    }

    /// Process id; `None` when it has ended.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if it has ended by itself, with the end of its log.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(CliError::new(
                Code::Unavailable,
                format!("{} ended by itself ({status}): {}", self.name, last_line(&self.log)),
            )
            .with_remedy(format!("its log is {}", agent::shown::path(&self.log)))),
            Err(error) => Err(CliError::io("watch", &self.log, &error)),
        }
    }

    /// SIGKILL, as a power cut would: nothing is flushed, nobody is told.
    pub(super) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(|error| {
            CliError::new(Code::Internal, format!("cannot kill {}: {error}", self.name))
        })
    }

    /// SIGTERM, and waits for the end.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            // Between the question and this it may have ended, which is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        match tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let name = self.name.clone();
                self.kill().await?;
                Err(CliError::new(
                    Code::DeadlineExceeded,
                    format!(
                        "{name} did not stop within {} s of SIGTERM and was killed",
                        STOP_DEADLINE.as_secs()
                    ),
                ))
            }
        }
    }
}

/// Children are told everything by arguments; what is set for the driver is not for them.
pub(super) fn forget_settings(command: &mut Command) {
    for name in [
        "STRONGROOM_OPERATOR_DIR",
        "STRONGROOM_OUTPUT",
        "STRONGROOM_LOG",
        "STRONGROOM_LOG_LEVEL",
        "STRONGROOM_CONFIG",
        "STRONGROOM_SOCKET",
    ] {
        command.env_remove(name);
    }
}

/// The end of a log, for a sentence.
fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.unwrap_or("it logged nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_noticed_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let arguments = ["-c", "echo one >&2; echo 'the last words' >&2; exit 3"];
        let mut server = Server::start(
            Path::new("/bin/sh"),
            "coordinator-1",
            arguments.map(OsString::from).to_vec(),
            &log,
        )
        .unwrap();
        server.child.wait().await.unwrap();
        let error = server.require_alive().unwrap_err();
        assert!(error.message().contains("the last words"), "{error}");
        assert!(error.message().contains("coordinator-1"), "{error}");
    }

    #[tokio::test]
    async fn a_server_is_stopped_by_sigterm_and_by_the_end_of_the_driver() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let start = |script: &str| {
            let arguments = vec![OsString::from("-c"), OsString::from(script)];
            Server::start(Path::new("/bin/sh"), "agent", arguments, &log).unwrap()
        };
        // `cat` ends when its input does: dropping the pipe is the end of the driver.
        let mut reader = start("cat; echo done >&2");
        reader._stdin = None;
        reader.child.wait().await.unwrap();
        assert_eq!(last_line(&log), "done");
        start("exec cat").stop().await.unwrap();
    }
}

//! A child process of a test: its log in a file, stopped, frozen or killed by its own handle
//! only, and never left behind. It also ends by itself when the test's process dies.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until_in;

/// How long a server may take to end after it was asked to.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both outputs appended to `log`. Its standard input stays open as
    /// long as the test lives.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("cannot open the log {}: {error}", log.display()));
        let errors = output.try_clone().expect("a file can be opened twice");
        let child = command
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("an own child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends a signal. A process that has ended already gets none.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a child has a process id"), signal).expect("a signal can be sent");
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end within [`STOP_DEADLINE`].
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(STOP_DEADLINE).await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not in time.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ended", self.name);
        until_in(deadline, &what, async || self.ended()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Runs the product's command line as a person or a program would, and takes its output apart.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use proto::tls::TlsFiles;
use serde_json::Value;

use crate::binary::strongroom;

/// A run of the command line ends within this time or is a failure.
const DEADLINE: Duration = Duration::from_secs(300);

/// An operator's directory to run verbs with.
#[derive(Debug, Clone)]
pub struct Cli {
    operator: Option<PathBuf>,
}

/// How one run ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// The exit code.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What is set for the tests themselves is not for the programs they run.
pub fn forget_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STRONGROOM_") {
            command.env_remove(name);
        }
    }
}

impl Cli {
    /// Without any operator's directory.
    #[must_use]
    pub const fn alone() -> Self {
        Self { operator: None }
    }

    /// Makes an operator's directory for these coordinators.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn for_fleet(directory: &Path, addresses: &[String], tls: &TlsFiles) -> Self {
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let text = format!(
            "coordinators = [{}]\n[tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            list.join(", "),
            tls.ca.display(),
            tls.certificate.display(),
            tls.key.display()
        );
        std::fs::write(directory.join("operator.toml"), text).expect("a file can be made");
        Self { operator: Some(directory.to_owned()) }
    }

    /// The command, not yet run, with JSON output.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(strongroom());
        forget_settings(&mut command);
        command.args(["--output", "json"]);
        if let Some(operator) = &self.operator {
            command.arg("--operator-dir").arg(operator);
        }
        command.args(arguments);
        command
    }

    /// Runs a verb with JSON output to its end.
    ///
    /// # Panics
    /// When it does not end, or was ended by a signal.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        Self::finish(self.command(arguments)).await
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not end, or was ended by a signal.
    pub async fn finish(command: Command) -> Done {
        let shown = format!("{command:?}");
        let mut command = tokio::process::Command::from(command);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output: Output = tokio::time::timeout(DEADLINE, command.output())
            .await
            .unwrap_or_else(|_| panic!("does not end: {shown}"))
            .unwrap_or_else(|error| panic!("cannot run {shown}: {error}"));
        Done {
            exit: output.status.code().unwrap_or_else(|| panic!("{}: {shown}", output.status)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a verb that must succeed, and gives its JSON.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub async fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Value {
        self.run(arguments).await.success().json()
    }
}

impl Done {
    /// The same, if it succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.exit, 0, "failed: {}{}", self.stderr, self.stdout);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", self.stdout))
    }

    /// Code and message of the error it printed, the message with the remedy.
    ///
    /// # Panics
    /// When it printed none.
    #[must_use]
    #[track_caller]
    pub fn error(&self) -> (String, String) {
        let found = self.stderr.lines().rev().find_map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            let error = value.get("error")?;
            let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            Some((text("code"), format!("{} {}", text("message"), text("remedy"))))
        });
        found.unwrap_or_else(|| panic!("no JSON error: exit {} {:?}", self.exit, self.stderr))
    }

    /// Asserts that it failed with this code and its exit code, and that the message contains
    /// each of `parts`.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn assert_refused(&self, what: &str, code: proto_types::Code, parts: &[&str]) {
        if let Err(problem) = self.check_refused(what, code, parts) {
            panic!("{problem}");
        }
    }

    /// The same for a row of a table, whose other rows should be looked at too.
    ///
    /// # Errors
    /// In words what is not so.
    ///
    /// # Panics
    /// When it failed without a JSON error.
    #[track_caller]
    pub fn check_refused(
        &self,
        what: &str,
        code: proto_types::Code,
        parts: &[&str],
    ) -> Result<(), String> {
        if self.exit == 0 {
            return Err(format!("{what}: was not refused: {}", self.stdout));
        }
        let (found, message) = self.error();
        if found != code.as_str() || self.exit != i32::from(code.exit_code()) {
            return Err(format!("{what}: {found}, exit {}, not {code}: {message}", self.exit));
        }
        match parts.iter().find(|part| !message.contains(**part)) {
            Some(part) => Err(format!("{what}: {part:?} is not in {message:?}")),
            None => Ok(()),
        }
    }
}

/// What is wrong in the rows of a table; asserted to be nothing at its end.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Takes the outcome of a row.
    pub fn note(&mut self, row: Result<(), String>) {
        self.0.extend(row.err());
    }
    /// Asserts that every row was as it should be.
    ///
    /// # Panics
    /// When one was not; names all.
    #[track_caller]
    pub fn assert_none(&self) {
        assert!(self.0.is_empty(), "{} rows are wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

//! A real agent process with its directory, enrolled by the verbs a person would use.

use std::path::{Path, PathBuf};
use std::process::Command;

use proto::identity::{Party as Who, Role};
use proto_types::ClusterId;
use serde_json::Value;

use crate::binary::strongroom;
use crate::cli::{Cli, Done, forget_settings};
use crate::fleet::Fleet;
use crate::logs::Log;
use crate::process::Process;
use crate::wait::until;

/// An agent of one cluster.
pub struct Agent {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub id: ClusterId,
    /// What it backs up.
    pub source: PathBuf,
    /// An admin's command line for its fleet.
    pub cli: Cli,
    directory: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Makes the keys, registers the cluster, writes the config and starts the agent. `keys` are
    /// the patterns of what goes into the key bundle.
    ///
    /// # Panics
    /// When a step fails.
    pub async fn enrol(fleet: &Fleet, cluster: &str, source: &Path, keys: &[&str]) -> Self {
        let quoted: Vec<String> = keys.iter().map(|text| format!("{text:?}")).collect();
        let tables = format!(
            "[[sources]]\nkind = \"directory\"\npath = \"{}\"\nkeys = [{}]\n",
            source.display(),
            quoted.join(", ")
        );
        Self::enrol_with(fleet, cluster, source, &tables).await
    }

    /// The same with other sources, as they stand in its config; `source` is a directory among
    /// them, or any path.
    ///
    /// # Panics
    /// When a step fails.
    pub async fn enrol_with(fleet: &Fleet, cluster: &str, source: &Path, tables: &str) -> Self {
        let directory = fleet.directory().join(format!("agent-{cluster}"));
        let admin = fleet.operator(Role::Admin);
        let operator = fleet.directory().join("operator");
        let cli = Cli::for_fleet(&operator, &fleet.addresses(), admin.files());
        let path = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
        let made = cli.json(&["agent", "init", "--dir", &path(&directory)]).await;
        let signing = text(&made, "signing_public_key");
        let registered =
            cli.json(&["cluster", "register", cluster, "--signing-key", &signing]).await;
        let id: ClusterId = text(&registered, "cluster_id").parse().expect("a cluster id");
        let tls = fleet.pki.issue(&format!("agent-{cluster}"), Who::Agent(id));
        let quoted = |texts: &[&str]| {
            texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
        };
        let addresses = fleet.addresses();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let recovery = fleet.recovery_files().with_file_name("recovery.pub");
        let config = format!(
            "cluster = \"{cluster}\"\ncoordinators = [{}]\nstate_dir = \".\"\n\
             recovery_key = \"{}\"\n[tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
             {tables}",
            quoted(&addresses),
            recovery.display(),
            tls.ca.display(),
            tls.certificate.display(),
            tls.key.display(),
        );
        std::fs::write(directory.join("agent.toml"), config).expect("a file can be made");
        let cluster = cluster.to_owned();
        let source = source.to_owned();
        let mut agent = Self { cluster, id, source, cli, directory, process: None };
        agent.start().await;
        agent
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cluster's KEK.
    #[must_use]
    pub fn kek(&self) -> PathBuf {
        self.directory.join("kek.key")
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::at(&self.directory.join("log.json"))
    }

    /// Its config file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }

    /// Starts it and waits for its socket.
    ///
    /// # Panics
    /// When it ends meanwhile.
    pub async fn start(&mut self) {
        let mut command = Command::new(strongroom());
        command
            .args(["--log", "json", "agent", "run", "--stop-with-stdin", "--config"])
            .arg(self.config());
        forget_settings(&mut command);
        let log_path = self.directory.join("log.json");
        let mut process = Process::start("agent", &mut command, &log_path);
        let socket = self.directory.join("agent.sock");
        until("the agent's socket answers", async || {
            if let Some(status) = process.ended() {
                panic!("the agent ended with {status}: {}", Log::at(&log_path).tail());
            }
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        })
        .await;
        self.process = Some(process);
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("the agent runs").kill();
    }

    /// Asks it for a backup and waits for the acknowledgement; the point's number. An agent that
    /// was started a moment ago is still opening its session.
    ///
    /// # Panics
    /// When the backup fails.
    pub async fn backup(&self) -> u64 {
        let done = until("the agent takes a backup", async || {
            let done = self.try_backup().await;
            let is_busy = done.exit != 0 && done.error().0 == "BUSY";
            (!is_busy).then_some(done)
        })
        .await;
        let point = done.success().json();
        point["sequence"].as_u64().unwrap_or_else(|| panic!("no sequence in {point}"))
    }

    /// The same, however it ends.
    pub async fn try_backup(&self) -> Done {
        let config = self.config();
        let config = config.to_str().expect("test paths are UTF-8");
        self.cli.run(&["backup", "now", "--config", config]).await
    }

    /// Restores with this agent's KEK; `which` is `--at TIME`, `--point ID` or nothing.
    pub async fn restore(&self, which: &[&str], to: &Path) -> Done {
        let (kek, to) = (self.kek(), to.to_owned());
        let mut arguments = vec!["restore", "--cluster", &self.cluster];
        arguments.extend(which);
        arguments.extend(["--to", to.to_str().expect("test paths are UTF-8")]);
        arguments.extend(["--kek", kek.to_str().expect("test paths are UTF-8")]);
        self.cli.run(&arguments).await
    }
}

/// A text field of a JSON answer.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key:?} in {value}")).to_owned()
}

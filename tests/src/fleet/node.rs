//! One coordinator process with its config, data directory and log.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use bundle::RecoveryPublic;
use proto::tls::TlsFiles;
use proto_types::{BundleId, FleetId};
use rustix::process::Signal;

use super::Settings;
use crate::binary::strongroom;
use crate::logs::Log;
use crate::ports::Port;
use crate::process::Process;

/// A coordinator, running or not.
pub struct Node {
    /// Its node id.
    pub id: u64,
    directory: PathBuf,
    data: PathBuf,
    port: Port,
    metrics_port: Port,
    process: Option<Process>,
}

impl Node {
    pub(super) fn new(root: &Path, id: u64) -> Self {
        let directory = root.join(format!("coordinator-{id}"));
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        Self {
            id,
            data: directory.join("data"),
            directory,
            port: Port::reserve(),
            metrics_port: Port::reserve(),
            process: None,
        }
    }

    /// `host:port` of its gRPC.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// `host:port` of its metrics.
    #[must_use]
    pub fn metrics_address(&self) -> String {
        self.metrics_port.address()
    }

    /// Where its config, log and data are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Says that it has moved to another port, as its config says already, or will.
    pub fn moved_to(&mut self, port: Port) {
        self.port = port;
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its config file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("coordinator.toml")
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::at(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log.json")
    }

    pub(super) fn write_config(
        &self,
        fleet: FleetId,
        recovery: &RecoveryPublic,
        tls: &TlsFiles,
        addresses: &[String],
        settings: &Settings,
    ) {
        let mut text = format!(
            "node_id = {id}\nname = \"coordinator-{id}\"\ndata_dir = \"data\"\n\
             listen = \"{listen}\"\nmetrics_listen = \"{metrics}\"\n{extra}\n\
             [tls]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             [fleet]\nid = \"{fleet}\"\nname = \"test\"\nrecovery_hpke = \"{hpke}\"\n\
             recovery_signing = \"{signing}\"\n\
             [raft]\nheartbeat_ms = 100\nelection_timeout_min_ms = 300\n\
             election_timeout_max_ms = 600\nsnapshot_every_entries = {every}\n\
             snapshot_keep_entries = {keep}\n\
             [limits]\nrequest_bytes_max = {request}\nbundle_bytes_max = {bundle}\n\
             disk_reserve_bytes = {reserve}\n",
            id = self.id,
            listen = self.address(),
            metrics = self.metrics_address(),
            extra = settings.extra,
            ca = tls.ca.display(),
            certificate = tls.certificate.display(),
            key = tls.key.display(),
            hpke = hex::encode(recovery.hpke),
            signing = hex::encode(recovery.signing),
            every = settings.snapshot_every_entries,
            keep = settings.snapshot_keep_entries,
            request = settings.request_bytes_max,
            bundle = settings.bundle_bytes_max,
            reserve = settings.disk_reserve_bytes,
        );
        for (id, address) in (1..).zip(addresses) {
            let _ = write!(
                text,
                "[[members]]\nid = {id}\nname = \"coordinator-{id}\"\naddress = \"{address}\"\n"
            );
        }
        std::fs::write(self.config(), text).expect("a file can be made");
    }

    /// Changes the text of its config file.
    ///
    /// # Panics
    /// When `from` does not stand in it.
    pub fn edit_config(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("the config can be read");
        assert!(text.contains(from), "{from:?} is not in {}", self.config().display());
        std::fs::write(self.config(), text.replacen(from, to, 1)).expect("a file can be made");
    }

    /// Has the node keep its data elsewhere from the next start on.
    pub fn move_data(&mut self, to: &Path) {
        self.edit_config("data_dir = \"data\"", &format!("data_dir = \"{}\"", to.display()));
        self.data = to.to_owned();
    }

    /// The command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(strongroom());
        command
            .args(["--log", "json", "--log-level", "info"])
            .args(["coordinator", "run", "--stop-with-stdin", "--config"])
            .arg(self.config());
        crate::cli::forget_settings(&mut command);
        command
    }

    /// Starts it; does not wait until it serves.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let name = format!("coordinator-{}", self.id);
        self.process = Some(Process::start(&name, &mut self.command(), &self.log_path()));
    }

    /// Whether it was started and not ended by the test.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended by itself, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Fails the test if it has ended by itself.
    ///
    /// # Panics
    /// When it has.
    pub fn require_running(&mut self) {
        let log = self.log();
        if let Some(status) = self.ended() {
            panic!("node {} ended by itself with {status}:\n{}", self.id, log.tail());
        }
    }

    fn take(&mut self) -> Process {
        self.process.take().unwrap_or_else(|| panic!("node {} does not run", self.id))
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.take().kill();
    }

    /// Lets go of a process that has ended by itself.
    pub fn forget(&mut self) {
        drop(self.process.take());
    }

    pub(super) fn kill_if_running(&mut self) {
        drop(self.process.take());
    }

    /// SIGTERM; how it ended.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.take().stop().await
    }

    /// Waits until it ends by itself, and gives how.
    ///
    /// # Panics
    /// When it does not.
    pub async fn wait_end(&mut self) -> ExitStatus {
        self.take().wait(crate::wait::PATIENCE).await
    }

    /// SIGSTOP: it is there, and silent.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&mut self) {
        self.process.as_mut().expect("it runs").signal(Signal::STOP);
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&mut self) {
        self.process.as_mut().expect("it runs").signal(Signal::CONT);
    }

    /// The path of a stored bundle.
    #[must_use]
    pub fn bundle_path(&self, id: BundleId) -> PathBuf {
        let name = id.to_string();
        self.data.join("bundles").join(&name[..2]).join(&name[2..4]).join(&name)
    }

    /// Every file below the bundle directory that holds bytes of bundles, whole or partial, but
    /// not what was quarantined.
    #[must_use]
    pub fn bundle_files(&self) -> Vec<PathBuf> {
        walkdir::WalkDir::new(self.data.join("bundles"))
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .map(walkdir::DirEntry::into_path)
            .collect()
    }

    /// Flips one bit in the middle of a stored bundle.
    ///
    /// # Panics
    /// When it is not there.
    pub fn flip_bit(&self, id: BundleId) {
        let path = self.bundle_path(id);
        let mut bytes = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        // In place: the product's files may be read-only, but root and the owner can do it.
        std::fs::write(&path, bytes)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

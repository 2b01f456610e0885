//! A fleet as people make one, by the product's own verbs: founded on the first host, joined by the
//! others with tokens. A host is a directory, an address and, where the test wants it, a network
//! namespace of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use bundle::RecoverySecret;
use proto::identity::Party as Who;
use proto::tls::TlsFiles;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::strongroom;
use crate::cli::{Cli, Done, forget_settings};
use crate::gate::{self, Place};
use crate::logs::Log;
use crate::ports::Port;
use crate::process::Process;
use crate::skip::say;
use crate::wait::until;

/// One host.
pub struct Host {
    name: String,
    address: String,
    directory: PathBuf,
    namespace: Option<String>,
    _port: Option<Port>,
    process: Option<Process>,
}

impl Host {
    /// One on loopback, with a port of its own.
    #[must_use]
    pub fn on_loopback(root: &Path, number: u64) -> Self {
        let port = Port::reserve();
        Self::new(root, number, port.address(), None, Some(port))
    }

    /// One in a network namespace, at an address of its own.
    #[must_use]
    pub fn in_namespace(root: &Path, number: u64, namespace: &str, address: &str) -> Self {
        Self::new(root, number, address.to_owned(), Some(namespace.to_owned()), None)
    }

    fn new(
        root: &Path,
        number: u64,
        address: String,
        namespace: Option<String>,
        port: Option<Port>,
    ) -> Self {
        let name = format!("coordinator-{number}");
        let directory = root.join(&name);
        Self { name, address, directory, namespace, _port: port, process: None }
    }

    /// Its name in the fleet.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` of its gRPC.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file in its directory, as text.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        let path = self.directory.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::at(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.directory.with_extension("log.json")
    }

    /// The product's command on this host, with JSON output.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(strongroom()),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(strongroom());
                command
            }
        };
        forget_settings(&mut command);
        command.args(["--output", "json"]).args(arguments);
        command
    }

    /// Runs a verb on this host to its end.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        Cli::finish(self.command(arguments)).await
    }

    /// Starts its coordinator by its config file.
    pub fn start(&mut self) {
        let config = self.directory.join("coordinator.toml");
        let mut command = self.command(&["--log", "json", "--log-level", "info"]);
        command.args(["coordinator", "run", "--stop-with-stdin", "--config"]).arg(config);
        self.start_by(command);
    }

    /// Starts its coordinator by a command.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_by(&mut self, mut command: Command) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(Process::start(&self.name, &mut command, &self.log_path()));
    }

    /// Whether it was started and not ended by the test.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// SIGTERM; how it ended.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("it runs").stop().await
    }

    /// Fails the test if it has ended by itself.
    ///
    /// # Panics
    /// When it has.
    pub fn require_running(&mut self) {
        let log = self.log();
        if let Some(status) = self.process.as_mut().and_then(Process::ended) {
            panic!("{} ended by itself with {status}:\n{}", self.name, log.tail());
        }
    }
}

/// The fleet that was founded on the first of some hosts.
pub struct Founded {
    /// The hosts; the first founded it.
    pub hosts: Vec<Host>,
    /// Its recovery key.
    pub recovery: RecoverySecret,
    directory: Option<TempDir>,
    _place: Place,
}

impl Founded {
    /// Founds a fleet on the first of `hosts`, which are made below the given directory, and waits
    /// until it serves.
    ///
    /// # Panics
    /// When a verb fails.
    pub async fn found(hosts: impl FnOnce(&Path) -> Vec<Host>) -> Self {
        let place = gate::enter().await;
        proto::tls::install_crypto_provider();
        let directory = tempfile::Builder::new().prefix("srf-").tempdir().expect("a directory");
        let hosts = hosts(directory.path());
        let keys = directory.path().join("keys");
        let seed = keys.join("recovery.key");
        let [key, init, out, seed_file] = ["key", "init", "--out", "--seed-file"].map(OsStr::new);
        let made =
            Cli::alone().run(&[key, init, out, keys.as_ref(), seed_file, seed.as_ref()]).await;
        let _ = made.success();
        let text = std::fs::read_to_string(seed).expect("a key");
        let recovery = RecoverySecret::from_text(&text).expect("a recovery key");
        let mut founded = Self { hosts, recovery, directory: Some(directory), _place: place };
        let done = founded.init(&[]).await;
        let _ = done.success();
        founded.hosts[0].start();
        founded.serves().await;
        founded
    }

    /// Runs `fleet init` on the first host, with more arguments.
    pub async fn init(&self, more: &[&str]) -> Done {
        let host = &self.hosts[0];
        let keys = self.directory().join("keys/recovery.pub");
        let mut command = host.command(&["fleet", "init", "--name", "home", "--listen"]);
        command.arg(host.address()).arg("--dir").arg(host.directory());
        command.arg("--recovery-key").arg(keys).args(more);
        Cli::finish(command).await
    }

    /// Directory of everything.
    ///
    /// # Panics
    /// Never while the fleet lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("there until the fleet is dropped").path()
    }

    /// The first operator's directory.
    #[must_use]
    pub fn operator(&self) -> PathBuf {
        self.hosts[0].directory().join("operator")
    }

    /// The first operator's certificate.
    #[must_use]
    pub fn admin(&self) -> TlsFiles {
        let at = |name: &str| self.operator().join(name);
        TlsFiles { ca: at("ca.pem"), certificate: at("operator.pem"), key: at("operator.key") }
    }

    /// The first operator runs a verb on a host.
    pub async fn operate(&self, host: usize, arguments: &[&str]) -> Done {
        let mut command = self.hosts[host].command(&["--operator-dir"]);
        command.arg(self.operator()).args(arguments);
        Cli::finish(command).await
    }

    /// The same, of a verb that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn json(&self, host: usize, arguments: &[&str]) -> Value {
        self.operate(host, arguments).await.success().json()
    }

    /// Waits until the first operator gets an answer of the whole fleet.
    ///
    /// # Panics
    /// When a host has ended by itself.
    pub async fn serves(&mut self) {
        until("the fleet serves", async || {
            for host in &mut self.hosts {
                host.require_running();
            }
            let done = self.operate(0, &["status"]).await;
            (done.exit == 0 && done.json()["fleet"] == "home").then_some(())
        })
        .await;
    }

    /// Makes a token for a host.
    pub async fn token(&self, host: usize, more: &[&str]) -> String {
        let host = &self.hosts[host];
        let arguments = ["node", "token", host.name(), "--address", host.address()];
        let made = self.json(0, &[&arguments[..], more].concat()).await;
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A host joins with a token; not started.
    pub async fn join(&self, host: usize, token: &str) -> Done {
        let host = &self.hosts[host];
        let mut command = host.command(&["coordinator", "join", token, "--listen"]);
        command.arg(host.address()).arg("--dir").arg(host.directory());
        Cli::finish(command).await
    }

    /// A host joins, runs, and votes.
    ///
    /// # Panics
    /// When one of these does not succeed.
    pub async fn join_and_vote(&mut self, host: usize) {
        let token = self.token(host, &[]).await;
        let _ = self.join(host, &token).await.success();
        self.hosts[host].start();
        let name = self.hosts[host].name().to_owned();
        let done = self.json(0, &["node", "promote", &name]).await;
        assert_eq!(done["done"], true, "{done}");
        // Whoever works with the fleet asks all of it.
        let path = self.operator().join("operator.toml");
        let text = std::fs::read_to_string(&path).expect("operator.toml");
        let more = format!("\"{}\", ", self.hosts[host].address());
        let text = text.replacen("coordinators = [", &format!("coordinators = [{more}"), 1);
        std::fs::write(&path, text).expect("operator.toml");
    }

    /// A certificate for somebody, as coordinators will give them out.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn certify(&self, name: &str, party: Who) -> TlsFiles {
        use proto::authority::{Intermediate, PrivateKey, Term};
        use proto_types::env::{Clock, SystemClock, SystemRandom};
        let host = &self.hosts[0];
        let authority = Intermediate::from_pem(
            host.text("tls/authority.pem").as_bytes(),
            &host.text("tls/authority.key"),
        );
        let admin = self.admin().load().expect("the operator's files");
        let identity = proto::identity::Identity { fleet: admin.identity().fleet, party };
        let key = PrivateKey::generate().expect("a key");
        let certified = authority
            .and_then(|a| {
                a.certify(
                    &identity,
                    &key,
                    &Term::first(&identity.party),
                    SystemClock.now(),
                    &SystemRandom,
                )
            })
            .expect("a certificate");
        let at = |what: &str| self.directory().join(format!("{name}.{what}"));
        std::fs::write(at("pem"), certified.chain).expect("a file");
        std::fs::write(at("key"), key.to_pem().as_bytes()).expect("a file");
        TlsFiles { ca: self.admin().ca, certificate: at("pem"), key: at("key") }
    }
}

impl Drop for Founded {
    fn drop(&mut self) {
        self.hosts.clear();
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            say(&format!("the fleet's files are kept in {}", directory.keep().display()));
        }
    }
}

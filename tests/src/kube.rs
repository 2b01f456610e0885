//! A real Kubernetes API server over a real etcd, per test: processes of the Go program in
//! `tests/peers`, which is built once for all tests and kept outside of `target`. Nothing here
//! stands in for Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use ::kube::Client;
use ::kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::binary::workspace;
use crate::logs::Log;
use crate::ports::Port;
use crate::process::Process;
use crate::wait::until_in;

/// A server starts in seconds; two cores may be busy.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// The Go of `tests/peers/go.mod`.
const GO_MIN: (u32, u32) = (1, 24);

/// The program of the peers, built unless it was.
///
/// # Errors
/// In words why it cannot be had here.
pub fn peers() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

/// Whether the peers can be had: built already, or a Go is here that can build them. Builds
/// nothing.
///
/// # Errors
/// In words why not.
pub fn available() -> Result<(), String> {
    if place()?.is_file() { Ok(()) } else { go() }
}

fn go() -> Result<(), String> {
    let missing = || format!("Go {}.{} or later is missing", GO_MIN.0, GO_MIN.1);
    let found = Command::new("go").args(["env", "GOVERSION"]).output().map_err(|_| missing())?;
    let text = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let mut numbers = text.trim_start_matches("go").split('.').map(|part| part.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= GO_MIN => Ok(()),
        _ => Err(format!("{}; found {text:?}", missing())),
    }
}

fn directory() -> PathBuf {
    workspace().join("tests/peers")
}

/// Where the built program is kept: by what it is made of.
fn place() -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        let bytes = std::fs::read(directory().join(name)).map_err(|e| format!("{name}: {e}"))?;
        hash.update(bytes);
    }
    let cache = match std::env::var_os("STRONGROOM_PEERS") {
        Some(cache) => PathBuf::from(cache),
        None => {
            let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
            Path::new(&home).join(".cache/strongroom-peers")
        }
    };
    Ok(cache.join(&hex::encode(hash.finalize())[..16]).join("peers"))
}

fn build() -> Result<PathBuf, String> {
    let program = place()?;
    if program.is_file() {
        return Ok(program);
    }
    go()?;
    crate::skip::say("building the peers (kube-apiserver and etcd): some minutes, once");
    // It takes a lock: several test binaries may come here at once.
    let built = Command::new(directory().join("build"))
        .output()
        .map_err(|error| format!("tests/peers/build cannot be run: {error}"))?;
    if built.status.success() {
        return Ok(program);
    }
    let words = String::from_utf8_lossy(&built.stderr);
    Err(format!("the peers cannot be built: {}", words.trim()))
}

/// An API server with an etcd of its own, both on loopback.
pub struct KubeServer {
    directory: PathBuf,
    program: PathBuf,
    port: Port,
    etcd_ports: [Port; 2],
    etcd: Option<Process>,
    server: Option<Process>,
    controllers: Option<Process>,
    client: Option<Client>,
    arguments: Vec<String>,
}

/// Who may do everything.
const ADMIN: &str = "admin";

impl KubeServer {
    /// Starts one with its files in `directory`, and waits until it serves and has the system's
    /// namespaces; `None`, said aloud, where there is no Go.
    ///
    /// # Panics
    /// When it does not start, or may not be missing.
    pub async fn start(test: &str, directory: &Path) -> Option<Self> {
        Self::start_with(test, directory, &[]).await
    }

    /// The same with further flags of the API server.
    ///
    /// # Panics
    /// When it does not start, or may not be missing.
    pub async fn start_with(test: &str, directory: &Path, flags: &[&str]) -> Option<Self> {
        let program = match tokio::task::spawn_blocking(peers).await.expect("it does not panic") {
            Ok(program) => program,
            Err(why) => {
                crate::skip::skip(test, &why);
                return None;
            }
        };
        std::fs::create_dir_all(directory).expect("a directory can be made");
        make_files(directory);
        let mut server = Self {
            directory: directory.to_owned(),
            program,
            port: Port::reserve(),
            etcd_ports: [Port::reserve(), Port::reserve()],
            etcd: None,
            server: None,
            controllers: None,
            client: None,
            arguments: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        server.add_account(ADMIN, "system:masters");
        server.start_etcd();
        server.start_server().await;
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn add_account(&self, name: &str, group: &str) {
        let path = self.path("tokens.csv");
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        text.push_str(&format!("token-{name},{name},{name},\"{group}\"\n"));
        std::fs::write(path, text).expect("a file can be made");
    }

    fn start_etcd(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("etcd").arg(&self.directory);
        command.args(self.etcd_ports.iter().map(|port| port.number().to_string()));
        self.etcd = Some(Process::start("etcd", &mut command, &self.path("etcd.log")));
    }

    /// Starts the API server, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends meanwhile.
    pub async fn start_server(&mut self) {
        let file = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new(&self.program);
        command.args([
            "apiserver".to_owned(),
            format!("--etcd-servers=http://{}", self.etcd_ports[0].address()),
            format!("--secure-port={}", self.port.number()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--tls-cert-file={}", file("server.pem")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--cert-dir={}", file("certificates")),
            "--allow-privileged=true".to_owned(),
            // No controller makes accounts or their tokens here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]);
        command.args(&self.arguments);
        let mut process = Process::start("kube-apiserver", &mut command, &self.path("server.log"));
        let client = self.client_of(ADMIN).await;
        let ready = until_in(START_DEADLINE, "the API server is ready", async || {
            if let Some(status) = process.ended() {
                panic!("it ended with {status}: {}", Log::at(&self.path("server.log")).tail());
            }
            let ready = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            client.request_text(ready).await.ok()?;
            let system = http::Request::get("/api/v1/namespaces/kube-system");
            client.request_text(system.body(Vec::new()).expect("a request")).await.ok()
        });
        ready.await;
        self.client = Some(client);
        self.server = Some(process);
    }

    /// Starts the controller manager: namespaces finish deleting, what owners owned is collected.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_controllers(&mut self) {
        let mut command = Command::new(&self.program);
        command.args([
            "controllers".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig(ADMIN).display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--controllers=namespace-controller,garbage-collector-controller".to_owned(),
        ]);
        let log = self.path("controllers.log");
        self.controllers = Some(Process::start("controllers", &mut command, &log));
    }

    /// SIGKILL of the API server; etcd goes on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_server(&mut self) {
        self.server.take().expect("the server runs").kill();
    }

    /// The kubeconfig of an account.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn kubeconfig(&self, account: &str) -> PathBuf {
        self.kubeconfig_with(account, &format!("token-{account}"))
    }

    /// The kubeconfig of whoever has a token.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn kubeconfig_with(&self, account: &str, token: &str) -> PathBuf {
        let path = self.path(&format!("{account}.kubeconfig"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.port.address()),
                "certificate-authority": self.path("ca.pem"),
            }}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": account}}],
        });
        std::fs::write(&path, text.to_string()).expect("a file can be made");
        path
    }

    async fn client_of(&self, account: &str) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig(account)).expect("it was just written");
        let options = KubeConfigOptions::default();
        let mut config = ::kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .expect("it is a kubeconfig");
        config.default_retry = false;
        Client::try_from(config).expect("a client can be made")
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("the server was started")
    }

    /// Asks as the admin; an answer that is not 2xx is `Err` with its code and message.
    ///
    /// # Errors
    /// What the server refused.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, (u16, String)> {
        let content = match (method, body) {
            ("PATCH", _) => "application/apply-patch+yaml",
            _ => "application/json",
        };
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(bytes)
            .expect("a request");
        match self.client().request_text(request).await {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
            Err(::kube::Error::Api(status)) => Err((status.code, status.message)),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Reads one object.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Whether something is there.
    pub async fn has(&self, path: &str) -> bool {
        self.ask("GET", path, None).await.is_ok()
    }

    /// Makes an object in a collection.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn create(&self, collection: &str, object: &Value) -> Value {
        self.ask("POST", collection, Some(object))
            .await
            .unwrap_or_else(|error| panic!("POST {collection}: {error:?}"))
    }

    /// Changes an object by a server-side apply of the tests' own manager.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn apply(&self, path: &str, object: &Value) -> Value {
        let path = format!("{path}?fieldManager=tests&force=true");
        self.ask("PATCH", &path, Some(object))
            .await
            .unwrap_or_else(|error| panic!("PATCH {path}: {error:?}"))
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn delete(&self, path: &str) {
        self.ask("DELETE", path, None).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }

    /// The UID of `kube-system`.
    pub async fn uid(&self) -> String {
        let found = self.get("/api/v1/namespaces/kube-system").await;
        found["metadata"]["uid"].as_str().expect("a uid").to_owned()
    }

    /// One number of the server's metrics: how many requests of a verb it has answered.
    ///
    /// # Panics
    /// When the metrics cannot be read.
    pub async fn requests(&self, verb: &str, agent_only: bool) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
        let text = self.client().request_text(request).await.expect("metrics");
        let wanted = format!("verb=\"{verb}\"");
        text.lines()
            .filter(|line| line.starts_with("apiserver_request_total{") && line.contains(&wanted))
            .filter(|line| !agent_only || !line.contains("resource=\"leases\""))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .map(|number| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count
                {
                    number as u64
                }
            })
            .sum()
    }
}

/// Certificate and keys of a server.
fn make_files(directory: &Path) {
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("a file can be made");
    };
    let key = KeyPair::generate().expect("a key can be made");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = authority.self_signed(&key).expect("a certificate can be made");
    let issuer = Issuer::from_params(&authority, &key);
    let server_key = KeyPair::generate().expect("a key can be made");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = CertificateParams::new(names).expect("parameters");
    let server = server.signed_by(&server_key, &issuer).expect("a certificate can be made");
    write("ca.pem", ca.pem());
    write("server.pem", server.pem());
    write("server.key", server_key.serialize_pem());
    let accounts = KeyPair::generate().expect("a key can be made");
    write("accounts.key", accounts.serialize_pem());
    write("accounts.pub", accounts.public_key_pem());
}

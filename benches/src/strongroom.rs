//! Our side: the real binary, three coordinator processes and an agent process per cluster, set
//! up by config files and verbs as a person would, driven by the operator's verbs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::tls::TlsFiles;
use serde_json::Value;

use crate::memory::Memory;
use crate::pki::Pki;
use crate::process::{self, Finished, Server};
use crate::progress::say;
use crate::{files, ports};

/// Coordinators of a fleet, and nodes of its peers.
pub(crate) const NODES: usize = 3;
/// The product's default timing, written into the config so that both sides surely have it.
pub(crate) const HEARTBEAT_MS: u64 = 200;
const ELECTION_TIMEOUT_MIN_MS: u64 = 600;
/// See [`HEARTBEAT_MS`].
pub(crate) const ELECTION_TIMEOUT_MAX_MS: u64 = 1200;

const FLEET_ID: &str = "62656e6368657362656e636865736265";
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// A node that was away may have to fetch a gibibyte.
const WHOLE_DEADLINE: Duration = Duration::from_secs(180);

/// The binary that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Program(PathBuf);

impl Program {
    /// A binary that is there already.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("there is no program {}", path.display()))?;
        Ok(Self(path))
    }

    /// Builds it, optimised, into the target directory of this program.
    pub(crate) fn build() -> Result<Self> {
        say("building target/release/strongroom");
        let target = files::target_directory()?;
        // Set by `cargo run`.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--release", "--locked", "--package", "cli", "--target-dir"])
            .arg(&target)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        process::run(&mut command)?;
        Self::at(&target.join("release/strongroom"))
    }

    /// A verb without settings from the environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STRONGROOM_") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Three running coordinators.
pub(crate) struct Fleet {
    program: Program,
    directory: PathBuf,
    operator_files: TlsFiles,
    operator_tls: String,
    pki: Pki,
    ports: [u16; NODES],
    metrics_ports: [u16; NODES],
    servers: [Option<Server>; NODES],
}

impl Fleet {
    /// Sets up a fleet in `directory`, starts it and waits until it has a leader.
    pub(crate) fn start(program: &Program, directory: &Path) -> Result<Self> {
        let operator = directory.join("operator");
        std::fs::create_dir_all(&operator)
            .with_context(|| format!("cannot make {}", operator.display()))?;
        process::run(program.command().args(["key", "init", "--out"]).arg(&operator))?;
        let pki = Pki::new(&directory.join("pki"), FLEET_ID)?;
        let files = pki.operator()?;
        let free: [u16; 2 * NODES] = ports::free()?;
        let (ports, metrics_ports) =
            (std::array::from_fn(|at| free[at]), std::array::from_fn(|at| free[NODES + at]));
        let mut fleet = Self {
            program: program.clone(),
            directory: directory.to_owned(),
            operator_files: files.tls(),
            operator_tls: files.table(),
            pki,
            ports,
            metrics_ports,
            servers: std::array::from_fn(|_| None),
        };
        fleet.write_coordinator_configs()?;
        write_operator_config(&operator, &fleet.addresses(), &fleet.operator_tls)?;
        for at in 0..NODES {
            fleet.start_node(at)?;
        }
        fleet.wait_whole()?;
        Ok(fleet)
    }

    /// `host:port` of all coordinators.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn coordinator(&self, at: usize) -> PathBuf {
        self.directory.join(format!("coordinator-{}", at + 1))
    }

    fn write_coordinator_configs(&self) -> Result<()> {
        let recovery = RecoveryPublic::read(&self.directory.join("operator/recovery.pub"))?;
        let mut common = format!(
            "[fleet]\nid = {FLEET_ID:?}\nname = \"benches\"\nrecovery_hpke = {:?}\n\
             recovery_signing = {:?}\n[raft]\nheartbeat_ms = {HEARTBEAT_MS}\n\
             election_timeout_min_ms = {ELECTION_TIMEOUT_MIN_MS}\n\
             election_timeout_max_ms = {ELECTION_TIMEOUT_MAX_MS}\n",
            recovery.hpke, recovery.signing
        );
        for (at, address) in self.addresses().iter().enumerate() {
            let id = at + 1;
            common.push_str(&format!(
                "[[members]]\nid = {id}\nname = \"coordinator-{id}\"\naddress = {address:?}\n"
            ));
        }
        for (at, address) in self.addresses().iter().enumerate() {
            let id = at + 1;
            let tls = self.pki.coordinator(id)?.table();
            let directory = self.coordinator(at);
            std::fs::create_dir_all(&directory)?;
            let config = format!(
                "node_id = {id}\nname = \"coordinator-{id}\"\ndata_dir = \"data\"\n\
                 listen = {address:?}\nmetrics_listen = \"127.0.0.1:{}\"\n{tls}{common}",
                self.metrics_ports[at]
            );
            write(&directory.join("coordinator.toml"), &config)?;
        }
        Ok(())
    }

    /// Starts one coordinator, counting from 0.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<()> {
        let name = format!("coordinator-{}", at + 1);
        let directory = self.coordinator(at);
        let mut command = self.program.command();
        command
            .args(["--log", "json", "coordinator", "run", "--stop-with-stdin", "--config"])
            .arg(directory.join("coordinator.toml"));
        let server = Server::start(&name, &mut command, &directory.join("log"))?;
        self.servers[at] = Some(server);
        Ok(())
    }

    /// Waits until all coordinators answer, none lags, and none lacks a bundle.
    pub(crate) fn wait_whole(&mut self) -> Result<()> {
        process::until("a whole fleet", WHOLE_DEADLINE, || {
            for server in self.servers.iter_mut().flatten() {
                server.require_alive()?;
            }
            // Between two leaders nobody answers.
            let Ok(status) = self.status() else { return Ok(None) };
            let Some(nodes) = status.get("nodes").and_then(Value::as_array) else {
                bail!("`strongroom status` names no nodes: {status}");
            };
            let is_whole = |node: &Value| {
                node.get("reachable") == Some(&Value::Bool(true))
                    && number(node, "lag") == Some(0)
                    && number(node, "missing_bundles") == Some(0)
            };
            let led = number(&status, "leader_id").is_some();
            Ok((led && nodes.len() == NODES && nodes.iter().all(is_whole)).then_some(()))
        })
    }

    /// Which coordinator leads, counting from 0.
    pub(crate) fn leader(&self) -> Result<usize> {
        let leader = number(&self.status()?, "leader_id").context("the fleet has no leader")?;
        let at = usize::try_from(leader)?.checked_sub(1).filter(|at| *at < NODES);
        at.with_context(|| format!("node {leader} leads, which is not of this fleet"))
    }

    /// SIGKILLs one coordinator.
    pub(crate) fn kill(&mut self, at: usize, memory: &mut Memory) -> Result<()> {
        let server = self.servers[at].take().context("that coordinator does not run")?;
        memory.of_coordinator(&server)?;
        server.kill()
    }

    /// A small write to any coordinator but one: a cluster becomes known. Each is of another
    /// operator, who has heard which coordinator is down, as etcd's client is told too.
    pub(crate) fn write(&self, without: usize, name: &str, signing_key: &Path) -> Result<Command> {
        let operator = self.directory.join(format!("operator-{name}"));
        std::fs::create_dir(&operator)
            .with_context(|| format!("cannot make {}", operator.display()))?;
        let mut survivors = self.addresses();
        survivors.remove(without);
        write_operator_config(&operator, &survivors, &self.operator_tls)?;
        let mut command = self.program.command();
        command
            .arg("--operator-dir")
            .arg(operator)
            .args(["cluster", "register", name, "--signing-key"])
            .arg(signing_key);
        Ok(command)
    }

    /// The keys of a cluster in a directory of its own, which is given back.
    pub(crate) fn make_keys(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        process::run(self.program.command().args(["agent", "init", "--dir"]).arg(&directory))?;
        Ok(directory)
    }

    /// Makes a cluster whose agent backs up `source`, and starts the agent.
    pub(crate) fn enrol(&self, name: &str, source: &Path) -> Result<Agent> {
        let directory = self.make_keys(name)?;
        let mut register = self.operator();
        register
            .args(["--output", "json", "cluster", "register", name, "--signing-key"])
            .arg(directory.join("signing.key"));
        let cluster = json(&process::run(&mut register)?)?;
        let id = cluster.get("cluster_id").and_then(Value::as_str);
        let id = id.with_context(|| format!("registering gave no cluster_id: {cluster}"))?;
        // A path of a socket has at most 107 bytes; the working directory may be deep.
        let sockets = tempfile::Builder::new().prefix("strongroom-").tempdir()?;
        let socket = sockets.path().join("agent.sock");
        self.configure(&directory, id, name, source, &socket, &self.addresses())?;
        let mut command = self.program.command();
        command
            .args(["--log", "json", "agent", "run", "--stop-with-stdin", "--config"])
            .arg(directory.join("agent.toml"));
        let mut server = Server::start(name, &mut command, &directory.join("log"))?;
        // Its session with the fleet, as an agent that runs since yesterday has it.
        process::until("the agent's session", READY_DEADLINE, || {
            server.require_alive()?;
            let epoch = self.status_of(name)?.pointer("/cluster/epoch").and_then(Value::as_u64);
            Ok((epoch > Some(0) && socket.exists()).then_some(()))
        })?;
        Ok(Agent { name: name.to_owned(), directory, socket, server, _sockets: sockets })
    }

    /// Writes the config of a registered cluster's agent, with a certificate of its own.
    pub(crate) fn configure(
        &self,
        directory: &Path,
        cluster_id: &str,
        name: &str,
        source: &Path,
        socket: &Path,
        coordinators: &[String],
    ) -> Result<()> {
        let config = format!(
            "cluster = {name:?}\ncoordinators = {coordinators:?}\nstate_dir = \".\"\n\
             socket = {socket:?}\nrecovery_key = {:?}\n{}[[sources]]\nkind = \"directory\"\n\
             path = {source:?}\n",
            self.directory.join("operator/recovery.pub"),
            self.pki.agent(cluster_id)?.table(),
        );
        write(&directory.join("agent.toml"), &config)
    }

    /// A client in this process with the rights of the operator; asks these first to last.
    pub(crate) fn client(&self, coordinators: Vec<String>) -> Result<Arc<FleetClient>> {
        let tls = self.operator_files.load()?;
        Ok(FleetClient::new(Env::system(), coordinators, &tls, RetryPolicy::default())?)
    }

    /// Where a cluster's agent has its files.
    pub(crate) fn agent_directory(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Ends one coordinator by SIGTERM, counting from 0.
    pub(crate) fn stop_node(&mut self, at: usize) -> Result<()> {
        self.servers[at].take().context("that coordinator does not run")?.stop()
    }

    /// How many values of a metric a coordinator, counting from 0, has seen above this bound, which
    /// is one of its histogram's.
    pub(crate) fn seen_above(&self, at: usize, metric: &str, bound: &str) -> Result<u64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.metrics_ports[at]))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|value| value.trim().parse::<u64>().ok());
            value.with_context(|| format!("/metrics has no {name}"))
        };
        let within = value(&format!("{metric}_bucket{{le=\"{bound}\"}}"))?;
        Ok(value(&format!("{metric}_count"))? - within)
    }

    /// The most bytes that were resident in any of the coordinators.
    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        let peaks = self.servers.iter().flatten().map(Server::peak_resident_bytes);
        Ok(peaks.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or_default())
    }

    /// Has the agent back up now; ends when a majority of the coordinators has fsynced it.
    pub(crate) fn backup(&self, agent: &Agent) -> Result<Finished> {
        process::run(self.operator().args(["backup", "now", "--socket"]).arg(&agent.socket))
    }

    /// Restores a cluster's newest point into `target`.
    pub(crate) fn restore(&self, agent: &Agent, target: &Path) -> Result<Finished> {
        let status = self.status_of(&agent.name)?;
        let point = status.pointer("/newest/point").and_then(Value::as_str);
        let point = point.with_context(|| format!("the cluster has no point: {status}"))?;
        let mut command = self.operator();
        command
            .args(["restore", "--cluster", &agent.name, "--point", point, "--kek"])
            .arg(agent.directory.join("kek.key"))
            .arg("--to")
            .arg(target);
        process::run(&mut command)
    }

    /// Bytes of bundles on one coordinator, once all of them have everything.
    pub(crate) fn bytes_of_one_copy(&mut self) -> Result<u64> {
        self.wait_whole()?;
        let mut most = 0;
        for at in 0..NODES {
            most = most.max(files::bytes_below(&self.coordinator(at).join("data/bundles"))?);
        }
        Ok(most)
    }

    /// User and system time of all coordinators since their start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.servers.iter().flatten().map(Server::cpu).sum()
    }

    /// Stops all, and notes what they needed.
    pub(crate) fn stop(mut self, memory: &mut Memory) -> Result<()> {
        for server in self.servers.iter().flatten() {
            memory.of_coordinator(server)?;
        }
        for server in self.servers.iter_mut().filter_map(Option::take) {
            server.stop()?;
        }
        Ok(())
    }

    /// A verb of the operator.
    pub(crate) fn operator(&self) -> Command {
        let mut command = self.program.command();
        command.arg("--operator-dir").arg(self.directory.join("operator"));
        command
    }

    fn status(&self) -> Result<Value> {
        json(&process::run(self.operator().args(["--output", "json", "status"]))?)
    }

    fn status_of(&self, cluster: &str) -> Result<Value> {
        let status = self.status()?;
        let clusters = status.get("clusters").and_then(Value::as_array);
        let found = clusters
            .into_iter()
            .flatten()
            .find(|entry| entry.pointer("/cluster/name").and_then(Value::as_str) == Some(cluster));
        Ok(found.with_context(|| format!("the fleet does not know {cluster}: {status}"))?.clone())
    }
}

/// A running agent of one cluster.
#[derive(Debug)]
pub(crate) struct Agent {
    name: String,
    directory: PathBuf,
    socket: PathBuf,
    server: Server,
    _sockets: tempfile::TempDir,
}

impl Agent {
    /// User and system time of the agent since its start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.server.cpu()
    }

    /// Stops it, and notes what it needed.
    pub(crate) fn stop(self, memory: &mut Memory) -> Result<()> {
        memory.of_agent(&self.server)?;
        self.server.stop()
    }
}

/// The public halves that coordinators are told.
struct RecoveryPublic {
    hpke: String,
    signing: String,
}

impl RecoveryPublic {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no public half", path.display()))
    }

    /// Lines of a name and 64 hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let words = text.lines().filter_map(|line| line.split_once(' '));
            let found = words.into_iter().find(|(word, _)| *word == name);
            found.map(|(_, value)| value.trim().to_owned()).filter(|value| value.len() == 64)
        };
        Some(Self { hpke: value("hpke")?, signing: value("signing")? })
    }
}

/// The last line of a verb's answer, which is JSON.
pub(crate) fn json(finished: &Finished) -> Result<Value> {
    let line = finished.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    serde_json::from_slice(line.unwrap_or_default()).context("a verb's answer is not JSON")
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name).and_then(Value::as_u64)
}

fn write_operator_config(directory: &Path, coordinators: &[String], tls: &str) -> Result<()> {
    write(&directory.join("operator.toml"), &format!("coordinators = {coordinators:?}\n{tls}"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

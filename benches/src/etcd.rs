//! Debian's etcd as the peer for the time without a leader: three nodes on loopback and the same
//! disk, with our heartbeat and our longest election timeout as its election timeout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::ports;
use crate::process::{self, Server};
use crate::strongroom::{ELECTION_TIMEOUT_MAX_MS, HEARTBEAT_MS, NODES};

/// How to get it.
pub(crate) const HOW: &str = "not installed: apt-get install etcd-server etcd-client";
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// The installed programs.
#[derive(Debug, Clone)]
pub(crate) struct Etcd {
    server: PathBuf,
    client: PathBuf,
}

/// Three running nodes.
#[derive(Debug)]
pub(crate) struct Cluster {
    etcd: Etcd,
    directory: PathBuf,
    client_ports: [u16; NODES],
    peer_ports: [u16; NODES],
    servers: [Option<Server>; NODES],
}

impl Etcd {
    /// Looks for both on the path.
    pub(crate) fn find() -> Option<Self> {
        Some(Self { server: process::find("etcd")?, client: process::find("etcdctl")? })
    }

    /// Starts a cluster with its data in `directory` and waits until it has a leader.
    pub(crate) fn start(&self, directory: &Path) -> Result<Cluster> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let ports = ports::free::<{ 2 * NODES }>()?;
        let mut cluster = Cluster {
            etcd: self.clone(),
            directory: directory.to_owned(),
            client_ports: std::array::from_fn(|at| ports[at]),
            peer_ports: std::array::from_fn(|at| ports[NODES + at]),
            servers: std::array::from_fn(|_| None),
        };
        for at in 0..NODES {
            cluster.start_node(at)?;
        }
        cluster.wait_whole()?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Starts one node, counting from 0.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let name = |at: usize| format!("etcd-{}", at + 1);
        let members: Vec<String> =
            (0..NODES).map(|at| format!("{}={}", name(at), url(self.peer_ports[at]))).collect();
        let mut command = Command::new(&self.etcd.server);
        command
            .args(["--name", &name(at)])
            .arg("--data-dir")
            .arg(self.directory.join(name(at)))
            .args(["--listen-client-urls", &url(self.client_ports[at])])
            .args(["--advertise-client-urls", &url(self.client_ports[at])])
            .args(["--listen-peer-urls", &url(self.peer_ports[at])])
            .args(["--initial-advertise-peer-urls", &url(self.peer_ports[at])])
            .args(["--initial-cluster", &members.join(",")])
            .args(["--initial-cluster-state", "new"])
            // The state of a tenfold run is larger than the default of 2 GiB.
            .args(["--quota-backend-bytes", &(8_u64 << 30).to_string()])
            .args(["--heartbeat-interval", &HEARTBEAT_MS.to_string()])
            .args(["--election-timeout", &ELECTION_TIMEOUT_MAX_MS.to_string()])
            .args(["--logger", "zap", "--log-level", "warn"]);
        let log = self.directory.join(format!("{}.log", name(at)));
        self.servers[at] = Some(Server::start(&name(at), &mut command, &log)?);
        Ok(())
    }

    /// Waits until all nodes answer, follow one leader and have applied what it had.
    pub(crate) fn wait_whole(&mut self) -> Result<()> {
        process::until("a whole etcd cluster", READY_DEADLINE, || {
            for server in self.servers.iter_mut().flatten() {
                server.require_alive()?;
            }
            let Some(nodes) = self.status() else { return Ok(None) };
            let leader = nodes[0].leader;
            let whole = leader != 0 && nodes.iter().all(|node| node.leader == leader);
            let applied = nodes.iter().map(|node| node.applied);
            let caught_up = applied.clone().min() == applied.max();
            Ok((nodes.len() == NODES && whole && caught_up).then_some(()))
        })
    }

    /// Which node leads, counting from 0.
    pub(crate) fn leader(&self) -> Result<usize> {
        let nodes = self.status().context("etcd does not tell its status")?;
        nodes.iter().position(|node| node.id == node.leader).context("etcd has no leader")
    }

    /// SIGKILLs one node.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        self.servers[at].take().context("that etcd node does not run")?.kill()
    }

    /// A small write to any node but one.
    pub(crate) fn write(&self, without: usize, key: &str) -> Command {
        let survivors = (0..NODES).filter(|at| *at != without);
        let mut command = self.client(survivors);
        command.args(["put", key, "a small value"]);
        command
    }

    /// `host:port` of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.client_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// Has one node write its state to a file.
    pub(crate) fn save(&self, at: usize, out: &Path) -> Command {
        let mut command = self.client(at..=at);
        command.args(["--command-timeout", "10m", "snapshot", "save"]).arg(out);
        command
    }

    fn client(&self, nodes: impl Iterator<Item = usize>) -> Command {
        let endpoints: Vec<String> =
            nodes.map(|at| format!("127.0.0.1:{}", self.client_ports[at])).collect();
        let mut command = Command::new(&self.etcd.client);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        command
    }

    /// What each node says, in their order; `None` unless all answer.
    fn status(&self) -> Option<Vec<Node>> {
        let mut command = self.client(0..NODES);
        command.args(["--command-timeout", "2s", "endpoint", "status", "--write-out", "json"]);
        let answer: Value =
            serde_json::from_slice(&process::run(&mut command).ok()?.stdout).ok()?;
        let nodes: Option<Vec<Node>> = answer.as_array()?.iter().map(Node::read).collect();
        nodes.filter(|nodes| nodes.len() == NODES)
    }
}

/// What one node says of itself.
#[derive(Debug)]
struct Node {
    id: u64,
    leader: u64,
    applied: u64,
}

impl Node {
    fn read(answer: &Value) -> Option<Self> {
        let status = answer.get("Status")?;
        Some(Self {
            id: status.get("header")?.get("member_id")?.as_u64()?,
            // Absent while there is none.
            leader: status.get("leader").and_then(Value::as_u64).unwrap_or(0),
            applied: status.get("raftAppliedIndex")?.as_u64()?,
        })
    }
}

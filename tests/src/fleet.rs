//! A fleet of three coordinator processes on loopback, as an operator would set it up: config
//! files, certificates, data directories, JSON logs. Its directory is kept when the test fails.

mod node;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use bundle::{RecoveryPublic, RecoveryPublicFile, RecoverySecret, ShareDigests};
use proto::identity::{Party as Who, Role};
use proto::v1;
use proto_types::env::SystemRandom;
use proto_types::{FleetId, NodeId};
use tempfile::TempDir;

pub use node::Node;

use crate::cli::Cli;
use crate::client::{Answer, Party};
use crate::gate::{self, Place};
use crate::pki::Pki;
use crate::skip::say;
use crate::wait::until;

/// Node ids of a fleet.
pub const NODES: [u64; 3] = [1, 2, 3];

/// What a test wants otherwise than usual.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Log entries between two snapshots of the Raft state.
    pub snapshot_every_entries: u64,
    /// Log entries kept behind a snapshot.
    pub snapshot_keep_entries: u64,
    /// Largest gRPC message, in bytes.
    pub request_bytes_max: usize,
    /// Largest bundle, in bytes.
    pub bundle_bytes_max: u64,
    /// Free bytes below which bundles are refused.
    pub disk_reserve_bytes: u64,
    /// Lines put into the config files as they are.
    pub extra: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snapshot_every_entries: 5000,
            snapshot_keep_entries: 1000,
            request_bytes_max: 4 << 20,
            bundle_bytes_max: 1 << 30,
            disk_reserve_bytes: 1 << 20,
            extra: String::new(),
        }
    }
}

/// The longest the product says that a request may wait for a leader: four times
/// `election_timeout_max_ms` to find one, and as much again for what it then answers.
pub const LEADER_PATIENCE: Duration = Duration::from_millis(4 * 600);

/// A fleet, running or not.
pub struct Fleet {
    /// Its identity.
    pub id: FleetId,
    /// Its recovery key.
    pub recovery: RecoverySecret,
    /// Its authority.
    pub pki: Pki,
    nodes: Vec<Node>,
    settings: Settings,
    directory: Option<TempDir>,
    _place: Place,
}

impl Fleet {
    /// Starts a fleet and waits until every node serves.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// The same with settings of its own.
    pub async fn start_with(settings: Settings) -> Self {
        let mut fleet = Self::prepare(settings).await;
        fleet.start_all();
        fleet.ready().await;
        fleet
    }

    /// Makes everything a fleet needs and starts nothing.
    ///
    /// # Panics
    /// When files cannot be made.
    pub async fn prepare(settings: Settings) -> Self {
        let place = gate::enter().await;
        proto::tls::install_crypto_provider();
        let directory = tempfile::Builder::new().prefix("srt-").tempdir().expect("a directory");
        let id = FleetId::random(&SystemRandom);
        let pki = Pki::create(&directory.path().join("pki"), id);
        let recovery = RecoverySecret::generate(&SystemRandom);
        let mut nodes: Vec<Node> =
            NODES.iter().map(|id| Node::new(directory.path(), *id)).collect();
        let addresses: Vec<String> = nodes.iter().map(|node| node.address()).collect();
        for node in &mut nodes {
            let tls =
                pki.issue(&format!("node-{}", node.id), Who::Coordinator(NodeId::new(node.id)));
            node.write_config(id, &recovery.public(), &tls, &addresses, &settings);
        }
        Self { id, recovery, pki, nodes, settings, directory: Some(directory), _place: place }
    }

    /// Admits another node and starts it as one that joins, with an empty directory; gives its id.
    ///
    /// # Panics
    /// When the fleet refuses.
    pub async fn add_node(&mut self) -> u64 {
        let id = self.nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1;
        let seeds: Vec<String> =
            self.nodes.iter().filter(|node| node.runs()).map(Node::address).collect();
        self.prepare_node(id, &seeds);
        let admin = self.operator(Role::Admin);
        let request = v1::AddNodeRequest {
            write_id: Some(admin.write_id()),
            name: format!("coordinator-{id}"),
            address: self.address(id),
        };
        let added = admin.fleet(&seeds[0]).add_node(request).await.answer();
        assert_eq!(added.expect("the node is admitted").node_id, id, "ids are given out in order");
        self.node_mut(id).start();
        id
    }

    /// Makes certificate and config of a node that will join under this id; starts nothing. `seeds`
    /// are the addresses that its config names, of nodes 1, 2 and so on.
    ///
    /// # Panics
    /// When files cannot be made.
    pub fn prepare_node(&mut self, id: u64, seeds: &[String]) {
        let node = Node::new(self.directory(), id);
        let who = Who::Coordinator(NodeId::new(id));
        let tls = self.pki.issue(&format!("node-{id}"), who);
        let settings = Settings {
            extra: format!("join = true\n{}", self.settings.extra),
            ..self.settings.clone()
        };
        node.write_config(self.id, &self.recovery.public(), &tls, seeds, &settings);
        self.nodes.push(node);
    }

    /// Ids of the nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.runs()).map(|node| node.id).collect()
    }

    /// The command line of an admin who asks the nodes that run.
    #[must_use]
    pub fn admin_cli(&self) -> Cli {
        let addresses: Vec<String> =
            self.nodes.iter().filter(|node| node.runs()).map(Node::address).collect();
        let admin = self.operator(Role::Admin);
        Cli::for_fleet(&self.scratch("admin"), &addresses, admin.files())
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        for node in &mut self.nodes {
            if !node.runs() {
                node.start();
            }
        }
    }

    /// Waits until every running node answers a linearizable read.
    pub async fn ready(&mut self) {
        let admin = self.operator(Role::Admin);
        for id in NODES {
            if self.node(id).runs() {
                self.serves(&admin, id).await;
            }
        }
    }

    /// Waits until this node answers a linearizable read of a fleet that has its identity.
    ///
    /// # Panics
    /// When it does not, or ends meanwhile.
    pub async fn serves(&mut self, admin: &Party, id: u64) {
        let address = self.address(id);
        let mut client = admin.fleet(&address);
        let node = self.node_mut(id);
        until(&format!("node {id} serves"), async || {
            node.require_running();
            let asked = client.get_status(v1::GetStatusRequest { stale: false }).await.answer();
            asked.ok().filter(|status| !status.fleet_name.is_empty()).map(drop)
        })
        .await;
    }

    /// Directory of the whole fleet.
    ///
    /// # Panics
    /// Never while the fleet lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("there until the fleet is dropped").path()
    }

    /// A place for a test's own files in it, made.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.directory().join("scratch").join(name);
        std::fs::create_dir_all(&path).expect("a directory can be made");
        path
    }

    /// One of the nodes.
    ///
    /// # Panics
    /// When there is none of this id.
    #[must_use]
    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("nodes are 1 to 3")
    }

    /// One of the nodes, to start or end it.
    ///
    /// # Panics
    /// When there is none of this id.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("nodes are 1 to 3")
    }

    /// `host:port` of a node.
    #[must_use]
    pub fn address(&self, id: u64) -> String {
        self.node(id).address()
    }

    /// `host:port` of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// The nodes other than this one.
    #[must_use]
    pub fn others(id: u64) -> [u64; 2] {
        let mut others = NODES.into_iter().filter(|other| *other != id);
        [others.next().expect("three nodes"), others.next().expect("three nodes")]
    }

    /// Starts a node and waits until it serves.
    pub async fn start_node(&mut self, id: u64) {
        self.node_mut(id).start();
        let admin = self.operator(Role::Admin);
        self.serves(&admin, id).await;
    }

    /// Stops all nodes by SIGTERM, one after the other.
    ///
    /// # Panics
    /// When one does not end well.
    pub async fn stop_all(&mut self) {
        for id in NODES {
            if self.node(id).runs() {
                let status: ExitStatus = self.node_mut(id).stop().await;
                assert!(status.success(), "node {id} ended with {status}");
            }
        }
    }

    /// The fleet's status as this node gives it.
    ///
    /// # Panics
    /// When it does not.
    pub async fn status(&self, id: u64) -> v1::GetStatusResponse {
        let asked = self
            .operator(Role::Viewer)
            .fleet(&self.address(id))
            .get_status(v1::GetStatusRequest { stale: false })
            .await
            .answer();
        asked.unwrap_or_else(|error| panic!("status of node {id}: {}: {error}", error.code()))
    }

    /// Waits until the running nodes agree on a leader that runs, and gives its id.
    pub async fn leader(&self) -> u64 {
        let viewer = self.operator(Role::Viewer);
        let running: Vec<u64> =
            self.nodes.iter().filter(|node| node.runs()).map(|node| node.id).collect();
        until("the fleet has a leader", async || {
            let mut leaders = Vec::new();
            for id in &running {
                let mut client = viewer.fleet(&self.address(*id));
                let request = v1::GetStatusRequest { stale: true };
                let status = client.get_status(request).await.answer().ok()?;
                leaders.push(status.leader_id);
            }
            let first = *leaders.first()?;
            (running.contains(&first) && leaders.iter().all(|leader| *leader == first))
                .then_some(first)
        })
        .await
    }

    /// Waits until a node has applied what the leader had in its log when this was called.
    pub async fn caught_up(&self, id: u64) {
        let leader = self.leader().await;
        let goal = self
            .status(leader)
            .await
            .nodes
            .iter()
            .find(|node| node.node_id == leader)
            .map_or(0, |node| node.last_log_index);
        until(&format!("node {id} has applied {goal}"), async || {
            let status = self.status(leader).await;
            let node = status.nodes.into_iter().find(|node| node.node_id == id)?;
            (node.reachable && node.applied_index >= goal).then_some(())
        })
        .await;
    }

    /// An operator of this role.
    #[must_use]
    pub fn operator(&self, role: Role) -> Party {
        let who = Who::Operator { name: "test".to_owned(), role };
        Party::with(&self.pki.issue(&format!("operator-{}", role.as_str()), who))
    }

    /// The public half of the recovery key.
    #[must_use]
    pub fn recovery_public(&self) -> RecoveryPublic {
        self.recovery.public()
    }

    /// Writes the fleet's recovery key as the files `key init` makes; gives the secret's path.
    ///
    /// # Panics
    /// When files cannot be made.
    #[must_use]
    pub fn recovery_files(&self) -> PathBuf {
        let directory = self.directory().join("recovery");
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        let path = directory.join("recovery.key");
        std::fs::write(&path, self.recovery.to_text().as_bytes()).expect("a file can be made");
        std::fs::write(directory.join("recovery.pub"), self.recovery_public().to_text())
            .expect("a file can be made");
        path
    }

    /// Gives the fleet's recovery key to five holders, any three of whom have it: the first three's
    /// files, beside a `recovery.pub` that knows of all.
    ///
    /// # Panics
    /// When files cannot be made.
    #[must_use]
    pub fn recovery_shares(&self) -> [PathBuf; 3] {
        let shares = self.recovery.split(3, 5, &SystemRandom).expect("three of five");
        let digests = ShareDigests::of(&shares);
        let file = RecoveryPublicFile { public: self.recovery_public(), shares: digests };
        let directory = self.scratch("shares");
        std::fs::write(directory.join("recovery.pub"), file.to_text()).expect("a file can be made");
        [0, 1, 2].map(|at| {
            let path = directory.join(format!("share-{}", at + 1));
            std::fs::write(&path, shares[at].to_file_text().as_bytes())
                .expect("a file can be made");
            path
        })
    }

    /// Asserts that no server wrote an ERROR other than events of these names, and none panicked.
    ///
    /// # Panics
    /// When one did.
    pub fn assert_quiet(&self, allowed: &[&str]) {
        for node in &self.nodes {
            for event in node.log().events() {
                assert!(
                    event.level() != "ERROR" || allowed.contains(&event.name()),
                    "unexpected in the log of node {}: {}",
                    node.id,
                    event.line()
                );
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Servers first, so that nobody writes into what is removed.
        for node in &mut self.nodes {
            node.kill_if_running();
        }
        if !std::thread::panicking() {
            return;
        }
        if let Some(directory) = self.directory.take() {
            let kept = directory.keep();
            say(&format!("the failed test's fleet is kept in {}", kept.display()));
            for node in &self.nodes {
                say(&format!("end of the log of node {}:\n{}", node.id, node.log().tail()));
            }
        }
    }
}

//! The product's agents in this process: each backs up a directory with one file of 1 KiB.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::backup::{BackupRequest, Engine};
use agent::config::Config;
use agent::home::Home;
use agent::progress::NoProgress;
use anyhow::{Context, Result};
use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::v1;
use proto_types::ClusterId;
use proto_types::env::SystemRandom;

use super::rates::Writer;
use crate::progress::say;
use crate::strongroom::Fleet;

/// Bytes of the one item.
pub(super) const ITEM_BYTES: usize = 1024;

/// Name of the cluster with this number.
pub(super) fn name(number: usize) -> String {
    format!("cluster-{number}")
}

/// Makes clusters known, each with keys, certificate and config; asks the coordinators in another
/// order each, so that they share the work.
pub(super) async fn enrol(fleet: &Fleet, count: usize) -> Result<()> {
    say(&format!("enrolling {count} clusters"));
    let operator = fleet.client(fleet.addresses())?;
    for number in 0..count {
        let name = name(number);
        let directory = fleet.agent_directory(&name);
        let source = directory.join("source");
        std::fs::create_dir_all(&source)?;
        let made = agent::init(&directory, &SystemRandom)?;
        let request = v1::RegisterClusterRequest {
            write_id: Some(operator.next_write_id()),
            name: name.clone(),
            signing_key: made.signing_public.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let registered = operator
            .call("registering a cluster", |channel| {
                let request = request.clone();
                async move {
                    v1::fleet_client::FleetClient::new(channel).register_cluster(request).await
                }
            })
            .await?;
        let cluster = registered.cluster.context("registering gave no cluster")?;
        let id = ClusterId::from_slice(&cluster.cluster_id)?.to_string();
        let mut coordinators = fleet.addresses();
        let first = number % coordinators.len();
        coordinators.rotate_left(first);
        let socket = Path::new("unused.sock");
        fleet.configure(&directory, &id, &name, &source, socket, &coordinators)?;
    }
    Ok(())
}

/// What an agent has on its disk, and its connections.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) home: Home,
    pub(super) client: Arc<FleetClient>,
}

/// Opens what [`enrol`] made; asks this coordinator first, where one is named.
pub(super) fn open(fleet: &Fleet, number: usize, first: Option<&str>) -> Result<Opened> {
    let directory = fleet.agent_directory(&name(number));
    let mut config = Config::load(&directory.join("agent.toml"))?;
    if let Some(first) = first {
        config.coordinators.sort_by_key(|address| address != first);
    }
    let home = Home::open(&config.state_dir, &SystemRandom)?;
    let tls = config.tls.load()?;
    let policy = RetryPolicy::default();
    let client = FleetClient::new(Env::system(), config.coordinators.clone(), &tls, policy)?;
    Ok(Opened { config, home, client })
}

/// One agent that makes one backup after the other.
pub(super) struct BackingUp {
    engine: Engine,
    file: PathBuf,
    /// Whether the item is another one each time.
    changes: bool,
}

impl BackingUp {
    /// An agent with its session and its first point.
    pub(super) async fn start(fleet: &Fleet, number: usize, first: Option<&str>) -> Result<Self> {
        let Opened { config, home, client } = open(fleet, number, first)?;
        let file = fleet.agent_directory(&name(number)).join("source/item");
        let recovery = agent::home::load_recovery_public(&config.recovery_key)?;
        let engine = Engine::new(config, Env::system(), home, client, recovery)?;
        let mut agent = Self { engine, file, changes: true };
        agent.write().await?;
        Ok(agent)
    }

    /// From now on its item changes every time, or never.
    pub(super) fn changing(mut self, changes: bool) -> Self {
        self.changes = changes;
        self
    }
}

impl Writer for BackingUp {
    async fn write(&mut self) -> Result<()> {
        if self.changes {
            let mut item = [0; ITEM_BYTES];
            fastrand::fill(&mut item);
            std::fs::write(&self.file, item)?;
        }
        self.engine.run(BackupRequest::default(), Arc::new(NoProgress)).await?;
        Ok(())
    }
}

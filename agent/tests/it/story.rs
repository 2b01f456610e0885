//! A cluster's agent and its operator in one place: what the tests tell their stories with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::backup::{BackupError, BackupRequest, Engine};
use agent::config::Config;
use agent::heads::KnownHeads;
use agent::home::Home;
use agent::point_store::{FleetPointStore, PointSelector, SharedStore};
use agent::progress::NoProgress;
use agent::restore::{ConflictPolicy, RestoreError, RestoreOptions, RestorePlan, RestoreReport};
use agent::{OpenedPoint, Opener};
use bundle::RecoverySecret;
use proto::env::Env;
use proto::fleet_client::FleetClient;
use proto::v1::{self, ReadPurpose};

use crate::fleet::{CLUSTER_NAME, Fleet, quick};

pub(crate) struct Story {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) env: Env,
    pub(crate) fleet: Fleet,
    pub(crate) keys: &'static [&'static str],
    pub(crate) engine: Option<Engine>,
}

impl Story {
    /// A fleet of three, a registered cluster with its agent, and an empty source.
    pub(crate) async fn begin() -> Self {
        Self::with_keys(&["secrets/**"]).await
    }

    pub(crate) async fn with_keys(keys: &'static [&'static str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let env = Env::system();
        let fleet = Fleet::start(3).await;
        std::fs::create_dir(temp.path().join("source")).unwrap();
        let recovery = RecoverySecret::generate(&*env.random);
        std::fs::write(temp.path().join("recovery.key"), recovery.to_text().as_bytes()).unwrap();
        std::fs::write(temp.path().join("recovery.pub"), recovery.public().to_text()).unwrap();
        let report = agent::init(&temp.path().join("state"), &*env.random).unwrap();
        {
            let mut state = fleet.lock();
            state.signing_key = report.signing_public.as_bytes().to_vec();
            state.recovery = Some(recovery.public());
        }
        let mut story = Self { temp, env, fleet, keys, engine: None };
        story.start_agent();
        story
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }
    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn config(&self) -> Config {
        let tls = self.fleet.tls("agent");
        let text = format!(
            "cluster = {CLUSTER_NAME:?}\ncoordinators = {:?}\nstate_dir = \"state\"\n\
             recovery_key = \"recovery.pub\"\n[tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
             [[sources]]\nkind = \"directory\"\npath = \"source\"\nkeys = {:?}\n",
            self.fleet.addresses, tls.ca, tls.certificate, tls.key, self.keys
        );
        Config::parse(&self.path("agent.toml"), &text).unwrap()
    }

    pub(crate) fn agent_client(&self) -> Arc<FleetClient> {
        let tls = self.fleet.tls("agent").load().unwrap();
        FleetClient::new(self.env.clone(), self.fleet.addresses.clone(), &tls, quick()).unwrap()
    }

    /// Starts the agent, or starts it again as after a crash.
    pub(crate) fn start_agent(&mut self) {
        self.engine = None;
        let home = Home::open(&self.path("state"), &*self.env.random).unwrap();
        let recovery = agent::home::load_recovery_public(&self.path("recovery.pub")).unwrap();
        let client = self.agent_client();
        let engine = Engine::new(self.config(), self.env.clone(), home, client, recovery);
        self.engine = Some(engine.unwrap());
    }

    pub(crate) async fn try_backup(&mut self, full: bool) -> Result<v1::Point, BackupError> {
        let request = BackupRequest { full, ..BackupRequest::default() };
        self.engine.as_mut().unwrap().run(request, Arc::new(NoProgress)).await
    }

    pub(crate) async fn backup(&mut self) -> v1::Point {
        self.try_backup(false).await.unwrap()
    }

    pub(crate) async fn store(&self, selector: PointSelector) -> SharedStore {
        let client = self.fleet.operator(&self.env);
        let store = FleetPointStore::open(client, CLUSTER_NAME, selector, ReadPurpose::Restore);
        Arc::new(store.await.unwrap())
    }

    pub(crate) fn kek(&self) -> Opener {
        Opener::from_kek_file(&self.path("state/kek.key")).unwrap()
    }
    pub(crate) fn recovery(&self) -> Opener {
        Opener::from_recovery_file(&self.path("recovery.key")).unwrap()
    }

    pub(crate) async fn open(&self, sequence: u64) -> OpenedPoint {
        let selector = PointSelector::Sequence(proto_types::Sequence::new(sequence));
        let store = self.store(selector).await;
        OpenedPoint::open(store, &self.kek(), &mut KnownHeads::nothing(), &self.env).await.unwrap()
    }

    pub(crate) async fn restore(&self, sequence: u64, to: &Path) -> RestoreReport {
        let point = self.open(sequence).await;
        restore(&point, &options(to)).await.unwrap()
    }
}

pub(crate) fn options(to: &Path) -> RestoreOptions {
    RestoreOptions {
        to: to.to_owned(),
        include: agent::patterns::Patterns::default(),
        exclude: agent::patterns::Patterns::default(),
        on_conflict: ConflictPolicy::Fail,
        safety_directory: None,
    }
}

pub(crate) async fn plan(point: &OpenedPoint, options: &RestoreOptions) -> RestorePlan {
    agent::restore::plan(point, options).await.unwrap()
}

pub(crate) async fn restore(
    point: &OpenedPoint,
    options: &RestoreOptions,
) -> Result<RestoreReport, RestoreError> {
    let plan = agent::restore::plan(point, options).await?;
    agent::restore::execute(point, &plan, options, Arc::new(NoProgress)).await
}

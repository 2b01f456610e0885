//! One backup after the other: the session with the fleet, the newest point, and what people are
//! told. State is put back only after an acknowledgement; any error drops it, and the next backup
//! begins by asking the fleet where it stands. The steps of one backup are in `run`.

use std::sync::Arc;

use bundle::RecoveryPublic;
use bytes::Bytes;
use proto::env::Env;
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{ClusterId, Code, Epoch, FleetId};

use super::BackupError;
use super::findings::{self, Troubles};
use super::hints::Hints;
use super::previous::{Head, Previous, Shelf};
use super::run::Run;
use crate::config::Config;
use crate::home::Home;
use crate::progress::{Phase, Progress, ProgressEvent};
use crate::sources::{SourceError, Trouble};

/// What is asked of a backup.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackupRequest {
    /// Bytes per second; 0: as the agent is configured.
    pub limit_bytes_per_second: u64,
    /// A full manifest and fresh sealed bytes.
    pub full: bool,
}

/// Where an engine stands, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct EngineStatus {
    /// The agent's epoch; 0 before the first session.
    pub epoch: u64,
    /// The newest acknowledged point known here.
    pub head_sequence: u64,
}

/// What the fleet said when it made this agent the active one.
pub(super) struct Session {
    pub(super) fleet: FleetId,
    pub(super) cluster: ClusterId,
    pub(super) lineage: u32,
    pub(super) epoch: Epoch,
}

/// Makes backups of one cluster.
pub struct Engine {
    pub(super) config: Config,
    pub(super) env: Env,
    pub(super) home: Arc<Home>,
    pub(super) client: Arc<FleetClient>,
    pub(super) recovery: RecoveryPublic,
    pub(super) hints: Arc<Hints>,
    /// Kept through errors: opening it again would fence off a newer agent.
    session: Option<Session>,
    /// Whether `previous` is known to be where the fleet stands.
    synced: bool,
    /// `None` before the first point, and while not synced.
    previous: Option<Previous>,
    /// What was last reported as findings; `None`: unknown.
    reported: Option<Troubles>,
    runs: u64,
    status: EngineStatus,
}

impl Engine {
    /// An engine over an opened home.
    ///
    /// # Errors
    /// When the cache directory cannot be written.
    pub fn new(
        config: Config,
        env: Env,
        home: Home,
        client: Arc<FleetClient>,
        recovery: RecoveryPublic,
    ) -> Result<Self, BackupError> {
        let hints = Hints::open(&home.hints()).map_err(|error| {
            proto::ApiError::new(Code::LocalIo, format!("cannot open the agent's cache: {error}"))
        })?;
        let mut config = config;
        // Manifests are sorted by source.
        config.sources.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            config,
            env,
            home: Arc::new(home),
            client,
            recovery,
            hints: Arc::new(hints),
            session: None,
            synced: false,
            previous: None,
            reported: None,
            runs: 0,
            status: EngineStatus::default(),
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.status.clone()
    }

    /// Makes this agent the active one of its cluster, unless it is already, and finds out where
    /// the fleet stands.
    ///
    /// # Errors
    /// When the fleet does not answer or refuses, or its keys are not those pinned here.
    pub async fn ensure_session(&mut self) -> Result<(), BackupError> {
        if self.synced {
            return Ok(());
        }
        let head = match self.session {
            None => self.open_session().await?,
            Some(_) => self.newest_point().await?,
        };
        let head = head.as_ref().map(Head::from_wire).transpose()?;
        self.status.head_sequence = head.as_ref().map_or(0, |head| head.sequence.get());
        self.previous = match head {
            Some(head) => Some(self.open_previous(head).await?),
            None => None,
        };
        self.synced = true;
        Ok(())
    }

    /// Opens the session; returns the newest point.
    async fn open_session(&mut self) -> Result<Option<v1::Point>, BackupError> {
        let request = v1::OpenAgentSessionRequest {
            write_id: Some(self.client.next_write_id()),
            instance_id: Bytes::copy_from_slice(self.home.instance().as_bytes()),
        };
        let response = self
            .client
            .call("opening the agent's session", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).open_agent_session(request).await }
            })
            .await?;
        let session = self.check_session(&response)?;
        self.status.epoch = session.epoch.get();
        tracing::info!(epoch = self.status.epoch, "session_opened");
        self.session = Some(session);
        Ok(response.head)
    }

    /// Where the fleet stands after a backup whose end is not known.
    async fn newest_point(&self) -> Result<Option<v1::Point>, BackupError> {
        let request = v1::GetPointRequest {
            cluster_name: self.config.cluster.clone(),
            which: Some(v1::get_point_request::Which::Newest(true)),
            stale: false,
        };
        let asked = self
            .client
            .call("asking for the newest point", |channel| {
                let request = request.clone();
                async move { CatalogClient::new(channel).get_point(request).await }
            })
            .await;
        match asked {
            Ok(response) => Ok(response.point),
            Err(error) if error.code() == Code::PointNotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn open_previous(&self, head: Head) -> Result<Previous, BackupError> {
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        let mut previous = self.shelf(session).open(head).await?;
        let (hints, current) = (self.hints.clone(), previous.current.clone());
        let key = (previous.head.sequence, previous.head.manifest);
        let loaded =
            self.env.blocking("load hints", move || hints.load(key, &current.items)).await?;
        previous.hints = loaded.unwrap_or_else(|error| {
            tracing::warn!(%error, "the cache is of no use: everything will be read again");
            vec![None; previous.current.items.len()]
        });
        Ok(previous)
    }

    fn check_session(
        &self,
        response: &v1::OpenAgentSessionResponse,
    ) -> Result<Session, BackupError> {
        let cluster = response.cluster.as_ref().ok_or(BackupError::Answer("the cluster"))?;
        if cluster.name != self.config.cluster {
            return Err(BackupError::OtherCluster {
                expected: self.config.cluster.clone(),
                found: cluster.name.clone(),
            });
        }
        let ours = self.home.signing_key().public();
        if cluster.signing_key[..] != ours.as_bytes()[..] {
            let registered = proto_types::KeyFingerprint::of(&cluster.signing_key);
            let ours = ours.fingerprint();
            return Err(BackupError::OtherSigningKey { registered, ours });
        }
        let half = |bytes: &[u8]| {
            <[u8; 32]>::try_from(bytes).map_err(|_| BackupError::Answer("the recovery key"))
        };
        let found = RecoveryPublic {
            hpke: half(&response.recovery_hpke)?,
            signing: half(&response.recovery_signing)?,
        };
        if found != self.recovery {
            let (pinned, found) = (self.recovery.fingerprint(), found.fingerprint());
            return Err(BackupError::OtherRecoveryKey { pinned, found });
        }
        let fleet = FleetId::from_slice(&response.fleet_id);
        let id = ClusterId::from_slice(&cluster.cluster_id);
        Ok(Session {
            fleet: fleet.map_err(|_| BackupError::Answer("the fleet's id"))?,
            cluster: id.map_err(|_| BackupError::Answer("the cluster's id"))?,
            lineage: cluster.lineage,
            epoch: Epoch::new(response.epoch),
        })
    }

    pub(super) fn shelf<'a>(&'a self, session: &Session) -> Shelf<'a> {
        Shelf {
            home: &self.home,
            client: &self.client,
            cluster_name: &self.config.cluster,
            fleet: session.fleet,
            cluster: session.cluster,
        }
    }

    /// Makes one backup; returns the acknowledged point.
    ///
    /// # Errors
    /// Whatever kept it from being acknowledged. `STALE_EPOCH` is final: a newer agent of the
    /// cluster is active.
    pub async fn run(
        &mut self,
        request: BackupRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<v1::Point, BackupError> {
        self.ensure_session().await?;
        // Until an acknowledgement, nothing of it is believed any more: also when this future is
        // dropped half way.
        self.synced = false;
        let previous = self.previous.take();
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        self.runs += 1;
        let spool = self.home.spool(&format!("backup-{}", self.runs));
        crate::home::make_directory(&spool)?;
        let run = Run {
            engine: self,
            session,
            request,
            progress: progress.clone(),
            spool: spool.clone(),
            started: self.env.clock.now(),
        };
        let result = run.run(previous).await;
        if let Err(error) = std::fs::remove_dir_all(&spool) {
            tracing::warn!(%error, "the spool could not be cleared");
        }
        if let Err(BackupError::Source(SourceError::Root { name, .. })) = &result {
            // What was reported of the others still stands.
            let mut troubles = self.reported.clone().unwrap_or_default();
            troubles.insert((name.clone(), Trouble::OutOfReach), 1);
            self.report(troubles).await;
        }
        let (point, previous, troubles) = result?;
        self.status.head_sequence = point.sequence;
        self.previous = Some(previous);
        self.synced = true;
        self.report(troubles).await;
        progress.on(ProgressEvent { items: point.items, ..ProgressEvent::begin(Phase::Done) });
        Ok(point)
    }

    /// Raises and clears findings when they differ from those last reported.
    async fn report(&mut self, troubles: Troubles) {
        if self.reported.as_ref() == Some(&troubles) {
            return;
        }
        let sources: Vec<String> = self.config.sources.iter().map(|s| s.name.clone()).collect();
        let (raise, clear) = findings::report(&troubles, &sources);
        let request = v1::ReportFindingsRequest {
            write_id: Some(self.client.next_write_id()),
            epoch: self.status.epoch,
            raise,
            clear,
        };
        let reported = self
            .client
            .call("reporting findings", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).report_findings(request).await }
            })
            .await;
        match reported {
            Ok(_) => self.reported = Some(troubles),
            // The point is committed; the next backup tells again.
            Err(error) => tracing::warn!(%error, "findings could not be reported"),
        }
    }
}

//! One backup after the other: the session with the fleet, the newest point, and what people are
//! told. State is put back only after an acknowledgement; any error drops it, and the next backup
//! begins by asking the fleet where it stands. The steps of one backup are in `run`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bundle::RecoveryPublic;
use bytes::Bytes;
use proto::env::Env;
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{ClusterId, Code, Epoch, FleetId, Sequence, SigningPublicKey};

use super::findings::{self, RolledBack, Troubles};
use super::hints::Hints;
use super::keys::{Blind, Wanted};
use super::notebook::Notebook;
use super::previous::{Head, Previous, Shelf};
use super::run::Run;
use super::{BackupError, opening};
use crate::config::{Config, SourceConfig, SourceKind};
use crate::heads::KnownHeads;
use crate::home::Home;
use crate::kubernetes::Mirror;
use crate::opened::check_head;
use crate::point_store::{Offered, PointInfo};
use crate::progress::{Phase, Progress, ProgressEvent};
use crate::sources::Trouble;

/// What is asked of a backup.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackupRequest {
    /// Bytes per second; 0: as the agent is configured.
    pub limit_bytes_per_second: u64,
    /// A full manifest and fresh sealed bytes.
    pub full: bool,
    /// Clusters are not listed: what their watches told is enough.
    pub changes_only: bool,
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
    /// The key that the cluster is registered with.
    pub(super) signer: SigningPublicKey,
    /// The newest point, where nobody here can open it.
    pub(super) blind: Option<Blind>,
    pub(super) epoch: Epoch,
    /// The next point's number is at least this: after a restore of the fleet there is a gap.
    pub(super) next_sequence: Sequence,
}

/// Clusters that are followed, by source.
pub(crate) type Mirrors = BTreeMap<String, Arc<Mirror>>;

fn followed(config: &Config, env: &Env) -> Mirrors {
    let mirror = |source: &SourceConfig| match &source.kind {
        SourceKind::Kubernetes(kubernetes) if kubernetes.on_change => {
            Some((source.name.clone(), Arc::new(Mirror::new(env.clock.clone()))))
        }
        SourceKind::Kubernetes(_) | SourceKind::Directory(_) => None,
    };
    config.sources.iter().filter_map(mirror).collect()
}

/// Makes backups of one cluster.
pub struct Engine {
    pub(super) config: Config,
    pub(super) env: Env,
    pub(super) home: Arc<Home>,
    pub(super) client: Arc<FleetClient>,
    /// The pinned recovery key: the configured one, or one that followed it.
    pub(super) recovery: RecoveryPublic,
    pub(super) configured_recovery: RecoveryPublic,
    pub(super) hints: Arc<Hints>,
    /// Clusters that are followed, by source.
    pub(super) mirrors: Mirrors,
    /// Kept through errors: opening it again would fence off a newer agent.
    pub(super) session: Option<Session>,
    /// Whether `previous` is known to be where the fleet stands.
    synced: bool,
    /// `None` before the first point, and while not synced.
    pub(super) previous: Option<Previous>,
    /// What operators want of the keys.
    pub(super) wanted: Mutex<Wanted>,
    /// How many recovery keys came before the pinned one.
    pub(super) known_generation: u32,
    /// Whether older key bundles may be sealed to a former recovery key.
    pub(super) owes_wraps: bool,
    /// What was last reported as findings; `None`: unknown.
    reported: Option<(Troubles, Option<RolledBack>)>,
    /// The newest point that the fleet acknowledged to this agent.
    notebook: Notebook,
    rolled_back: Option<RolledBack>,
    runs: u64,
    pub(super) status: EngineStatus,
}

impl Engine {
    /// An engine over an opened home.
    ///
    /// # Errors
    /// When the cache directory cannot be written, or what was noted of the newest point is
    /// damaged.
    pub fn new(
        config: Config,
        env: Env,
        home: Home,
        client: Arc<FleetClient>,
        recovery: RecoveryPublic,
    ) -> Result<Self, BackupError> {
        let configured_recovery = recovery;
        let recovery = home.pinned_recovery(configured_recovery)?;
        let hints = Hints::open(&home.hints()).map_err(|error| {
            proto::ApiError::new(Code::LocalIo, format!("cannot open the agent's cache: {error}"))
        })?;
        let notebook = Notebook::new(env.clone(), KnownHeads::load(&home.heads())?);
        let mut config = config;
        // Manifests are sorted by source.
        config.sources.sort_by(|a, b| a.name.cmp(&b.name));
        let mirrors = followed(&config, &env);
        Ok(Self {
            config,
            env,
            home: Arc::new(home),
            client,
            recovery,
            configured_recovery,
            wanted: Mutex::default(),
            known_generation: 0,
            owes_wraps: false,
            hints: Arc::new(hints),
            mirrors,
            session: None,
            synced: false,
            previous: None,
            reported: None,
            notebook,
            rolled_back: None,
            runs: 0,
            status: EngineStatus::default(),
        })
    }

    /// Clusters that are followed, by source.
    pub(crate) const fn mirrors(&self) -> &Mirrors {
        &self.mirrors
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
        self.status.head_sequence = head.as_ref().map_or(0, |head| head.sequence);
        self.previous = self.open_or_begin_anew(head.as_ref()).await?;
        if let Some(previous) = &self.previous {
            self.home.store_secret().settle(&previous.keyring)?;
        }
        self.note_rollback();
        self.synced = true;
        Ok(())
    }

    /// Whether the fleet lost or withholds points that it acknowledged to this agent (invariant
    /// K3). Backups go on all the same: they are what protects; a person has to look into it.
    fn note_rollback(&mut self) {
        let Some(session) = &self.session else { return };
        let Some(seen) = self.notebook.seen(session.cluster) else { return };
        let offered = self.previous.as_ref().map(Previous::seen);
        // What cannot be opened is not believed, but it is there.
        let blind = session.blind.as_ref().map(|blind| blind.head.sequence);
        let rolled_back = match offered {
            None if blind.is_some_and(|head| head >= seen.sequence) => false,
            None => true,
            Some(offered) => check_head(Some(seen), offered, Offered::Newest).is_err(),
        };
        if rolled_back {
            let offered = offered.map_or(Sequence::new(0), |offered| offered.sequence);
            tracing::error!(
                code = %Code::Rollback,
                acknowledged = seen.sequence.get(),
                offered = offered.get(),
                "the fleet's newest point of this cluster is not what it acknowledged"
            );
            self.rolled_back = Some(RolledBack { acknowledged: seen.sequence, offered });
        }
    }

    /// Remembers an acknowledged point, to tell an older state from it later.
    async fn note_head(&mut self) {
        let (Some(session), Some(previous)) = (&self.session, &self.previous) else { return };
        let (fleet, cluster, seen) = (session.fleet, session.cluster, previous.seen());
        self.notebook.note(fleet, cluster, &self.config.cluster, seen).await;
    }

    /// Ends it well: what was to be noted a little later is noted now.
    pub async fn close(&mut self) {
        self.notebook.close().await;
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
        self.note_wanted(response.key_orders, 0);
        self.owes_wraps = !response.key_bundles_owed.is_empty();
        self.status.epoch = session.epoch.get();
        tracing::info!(epoch = self.status.epoch, "session_opened");
        self.session = Some(session);
        Ok(response.head)
    }

    /// Where the fleet stands after a backup whose end is not known.
    async fn newest_point(&mut self) -> Result<Option<v1::Point>, BackupError> {
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
            Ok(response) => {
                // It moves on when coordinators were lost.
                if let (Some(session), Some(cluster)) = (&mut self.session, &response.cluster) {
                    session.next_sequence = Sequence::new(cluster.next_sequence.max(1));
                }
                Ok(response.point)
            }
            // Nothing to be fenced off: the session's answer tells the number.
            Err(error) if error.code() == Code::PointNotFound => self.open_session().await,
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn open_previous(&self, point: &v1::Point) -> Result<Previous, BackupError> {
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        let info = PointInfo::from_wire(session.fleet, point.clone())?;
        let mut previous = self.shelf(session).open(Head::from_wire(point)?).await?;
        info.check_manifest(previous.current.sequence, &self.home.signing_key().public())
            .map_err(opening("the last point"))?;
        let (hints, current) = (self.hints.clone(), previous.current.clone());
        let key = previous.head.manifest;
        let loaded =
            self.env.blocking("load hints", move || hints.load(key, &current.items)).await?;
        previous.is_absent = point.absent_bundles > 0;
        previous.hints = loaded.unwrap_or_else(|error| {
            tracing::warn!(%error, "the cache is of no use: everything will be read again");
            vec![None; previous.current.items.len()]
        });
        Ok(previous)
    }

    fn check_session(
        &mut self,
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
        let signer = SigningPublicKey::from_slice(&cluster.signing_key)
            .map_err(|_| BackupError::Answer("the signing key"))?;
        if signer == ours {
            if self.home.signing_key_is_new() {
                // Told before a crash.
                self.home.keep_signing_key()?;
            }
        } else if !self.home.signing_key_is_new() {
            let (registered, ours) = (signer.fingerprint(), ours.fingerprint());
            return Err(BackupError::OtherSigningKey { registered, ours });
        }
        let half = |bytes: &[u8]| {
            <[u8; 32]>::try_from(bytes).map_err(|_| BackupError::Answer("the recovery key"))
        };
        let found = RecoveryPublic {
            hpke: half(&response.recovery_hpke)?,
            signing: half(&response.recovery_signing)?,
        };
        self.follow_recovery(self.client.fleet(), found, &response.former_recovery_keys)?;
        let fleet = FleetId::from_slice(&response.fleet_id);
        let id = ClusterId::from_slice(&cluster.cluster_id);
        Ok(Session {
            fleet: fleet.map_err(|_| BackupError::Answer("the fleet's id"))?,
            cluster: id.map_err(|_| BackupError::Answer("the cluster's id"))?,
            lineage: cluster.lineage,
            signer,
            blind: None,
            epoch: Epoch::new(response.epoch),
            next_sequence: Sequence::new(cluster.next_sequence.max(1)),
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
        let mut point = self.run_mended(request, progress.clone()).await?;
        // An acknowledgement may tell what operators want of the keys: it is done at once.
        if self.keys_wanted() {
            if self.with_wanted(|wanted| wanted.generation) > self.known_generation {
                // The session's answer tells the recovery key that follows, and who signed it.
                (self.session, self.synced) = (None, false);
            }
            match self.run_mended(BackupRequest { full: false, ..request }, progress).await {
                Ok(with_keys) => point = with_keys,
                Err(error) => tracing::warn!(%error, "what is wanted of the keys waits"),
            }
        }
        if self.owes_wraps {
            self.renew_wraps().await;
        }
        Ok(point)
    }

    /// What is known of the newest point may not be so any more: the next backup asks.
    pub(super) fn forget_previous(&mut self) {
        self.previous = None;
        self.synced = false;
    }

    /// The keys of the newest point.
    pub(super) fn newest_keyring(&self) -> Option<&Arc<bundle::Keyring>> {
        self.previous.as_ref().map(|previous| &previous.keyring)
    }

    /// One backup, once more where what was in the way is known to be gone.
    async fn run_mended(
        &mut self,
        request: BackupRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<v1::Point, BackupError> {
        match self.run_once(request, progress.clone()).await {
            // The fleet was restored from a snapshot and does not know this session: no newer agent
            // took its place, so this one goes on with a new one.
            Err(error) if error.code() == Code::SessionExpired => {
                tracing::warn!(%error, "the fleet forgot this agent's session: it opens a new one");
                self.session = None;
                self.synced = false;
                self.client.new_session();
                self.run_once(request, progress).await
            }
            // It is looked at again, and what is there now is used.
            Err(error @ BackupError::KekChanged) => {
                tracing::warn!(%error, "the backup is made once more");
                self.run_once(request, progress).await
            }
            // The fleet stands elsewhere than this agent thought: after it lost coordinators, or when
            // an acknowledgement did not arrive. It asks, and goes on from there.
            Err(error) if error.code() == Code::StaleHead => {
                tracing::warn!(%error, "the agent asks where the fleet stands");
                self.run_once(request, progress).await
            }
            Err(error) if error.code().is_retryable() && !request.full => {
                // What a commit waited for in vain may be gone for ever: the fleet knows.
                let known = self.ensure_session().await;
                let is_absent = self.previous.as_ref().is_some_and(|previous| previous.is_absent);
                if known.is_ok() && is_absent {
                    self.run_once(request, progress).await
                } else {
                    Err(error)
                }
            }
            result => result,
        }
    }

    async fn run_once(
        &mut self,
        mut request: BackupRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<v1::Point, BackupError> {
        self.prepare_keys()?;
        self.ensure_session().await?;
        // An order that came with the session.
        self.prepare_keys()?;
        // On bytes that are nowhere nothing can be built.
        request.full |= self.previous.as_ref().is_some_and(|previous| previous.is_absent);
        // Until an acknowledgement, nothing of it is believed any more: also when this future is
        // dropped half way.
        self.synced = false;
        let previous = self.previous.take();
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        self.runs += 1;
        let spool = self.home.spool(&format!("backup-{}", self.runs));
        let run = Run {
            engine: self,
            session,
            request,
            progress: progress.clone(),
            spool: spool.clone(),
            started: self.env.clock.now(),
        };
        let result = run.run(previous).await;
        // A point that is a statement needs none.
        if let Err(error) = std::fs::remove_dir_all(&spool)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the spool could not be cleared");
        }
        if let Err(BackupError::Source(error)) = &result {
            // What was reported of the others still stands.
            let mut troubles =
                self.reported.clone().map(|(troubles, _)| troubles).unwrap_or_default();
            troubles.insert((error.source_name().to_owned(), Trouble::OutOfReach), 1);
            self.report(troubles).await;
        }
        let (point, previous, troubles) = result?;
        self.status.head_sequence = point.sequence;
        self.previous = Some(previous);
        self.synced = true;
        if let Some(session) = &mut self.session {
            session.blind = None;
        }
        self.settle_keys().await?;
        self.note_head().await;
        self.report(troubles).await;
        progress.on(ProgressEvent { items: point.items, ..ProgressEvent::begin(Phase::Done) });
        Ok(point)
    }

    /// Raises and clears findings when they differ from those last reported.
    async fn report(&mut self, troubles: Troubles) {
        let now = (troubles, self.rolled_back);
        let notices = self.home.notices();
        if self.reported.as_ref() == Some(&now) && notices.is_empty() {
            return;
        }
        let sources: Vec<String> = self.config.sources.iter().map(|s| s.name.clone()).collect();
        let (mut raise, clear) = findings::report(&now.0, now.1, &sources);
        raise.extend(notices.iter().map(|notice| notice.finding()));
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
            Ok(_) => {
                self.home.clear_notices();
                self.reported = Some((now.0, None));
                // Told once: when it is cleared, only a new one raises it again.
                self.rolled_back = None;
            }
            // The point is committed; the next backup tells again.
            Err(error) => tracing::warn!(%error, "findings could not be reported"),
        }
    }
}

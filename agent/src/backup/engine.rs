//! One backup after the other: the session with the fleet, the newest point, and the order of
//! steps from listing to acknowledgement. State is put back only after an acknowledgement; any
//! error drops it, and the next backup begins by asking the fleet where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bundle::{Identity, Keyring, RecoveryPublic};
use bytes::Bytes;
use proto::env::Env;
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{BundleId, ClusterId, Code, Epoch, FleetId, LogTime, PointStatement, Sequence};

use super::BackupError;
use super::assemble::{self, Survey};
use super::decide::{self, FullReason, Shape};
use super::files::{self, Files, Made};
use super::findings::{self, Troubles};
use super::hints::{Hint, Hints};
use super::previous::{Head, Previous, Shelf};
use super::seal::{self, SealInput};
use crate::config::{Config, SourceKind};
use crate::home::Home;
use crate::progress::{Phase, Progress, ProgressEvent};
use crate::sources::{DirectorySource, Entry, Listing, Source};
use crate::upload::{Lease, Limiter, UploadFile, Uploader};

/// A lease outlives any upload at the configured rate by so much.
const LEASE_MILLIS: u64 = 60 * 60 * 1000;

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

struct Session {
    fleet: FleetId,
    cluster: ClusterId,
    lineage: u32,
    epoch: Epoch,
}

/// Makes backups of one cluster.
pub struct Engine {
    config: Config,
    env: Env,
    home: Arc<Home>,
    client: Arc<FleetClient>,
    recovery: RecoveryPublic,
    hints: Arc<Hints>,
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

    fn shelf<'a>(&'a self, session: &Session) -> Shelf<'a> {
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

/// One backup.
struct Run<'a> {
    engine: &'a Engine,
    session: &'a Session,
    request: BackupRequest,
    progress: Arc<dyn Progress>,
    spool: std::path::PathBuf,
    started: LogTime,
}

type Outcome = (v1::Point, Previous, Troubles);

impl Run<'_> {
    async fn run(&self, previous: Option<Previous>) -> Result<Outcome, BackupError> {
        self.progress.on(ProgressEvent::begin(Phase::Scanning));
        let (sources, listings) = self.list().await?;
        let mut troubles = Troubles::new();
        let mut surveys = Vec::new();
        for (source, listing) in sources.iter().zip(listings) {
            findings::count(&mut troubles, source.name(), &listing.troubles);
            surveys.push(Survey::make(source.name(), listing.entries, previous.as_ref()));
        }
        if let Some(known) = &previous
            && !self.request.full
            && assemble::is_unchanged(&surveys, known)
            && files::proofs(&surveys, &troubles) == known.current.proofs
        {
            let point = self.commit_unchanged(known).await?;
            let previous = self.acknowledge_unchanged(previous, None, &point).await?;
            return Ok((point, previous, troubles));
        }
        self.changed(sources, surveys, troubles, previous).await
    }

    async fn list(&self) -> Result<(Vec<Arc<dyn Source>>, Vec<Listing>), BackupError> {
        let configs = self.engine.config.sources.clone();
        let listed = self.engine.env.blocking("list sources", move || {
            let mut sources: Vec<Arc<dyn Source>> = Vec::new();
            let mut listings = Vec::new();
            for config in &configs {
                let SourceKind::Directory(directory) = &config.kind;
                let source = DirectorySource::open(&config.name, directory)?;
                listings.push(source.list()?);
                sources.push(Arc::new(source));
            }
            Ok::<_, crate::sources::SourceError>((sources, listings))
        });
        Ok(listed.await??)
    }

    async fn changed(
        &self,
        sources: Vec<Arc<dyn Source>>,
        mut surveys: Vec<Survey>,
        mut troubles: Troubles,
        mut previous: Option<Previous>,
    ) -> Result<Outcome, BackupError> {
        let full = self.decide(&surveys, previous.as_ref());
        let repacked = self.choose_repacked(&mut surveys, previous.as_ref(), full).await?;
        let (keyring, rotated) = self.keyring(previous.as_mut())?;
        let identity = self.identity(previous.as_ref());
        let known = match &previous {
            Some(_) if self.request.full => seal::KnownBlobs::new(),
            Some(previous) => assemble::known_blobs(&previous.current.items, &repacked),
            None => seal::KnownBlobs::new(),
        };
        let to_read: Vec<(Arc<dyn Source>, Vec<Entry>)> = sources
            .into_iter()
            .zip(&surveys)
            .map(|(source, survey)| (source, survey.changed().cloned().collect()))
            .collect();
        let bytes_total =
            to_read.iter().flat_map(|(_, entries)| entries).map(|entry| entry.stat.size).sum();
        let input = SealInput {
            env: self.engine.env.clone(),
            keyring: keyring.clone(),
            identity,
            known: Arc::new(known),
            spool: self.spool.join("config"),
            progress: self.progress.clone(),
            bytes_total,
            secrets_apart: true,
        };
        let mut output = self
            .engine
            .env
            .blocking("read and seal", move || seal::seal(&input, &to_read))
            .await??;
        for (survey, found) in surveys.iter().zip(&output.troubles) {
            findings::count(&mut troubles, &survey.source, found);
        }
        let assembled = assemble::assemble(&surveys, &output, previous.as_ref(), self.started)?;
        let proofs = files::proofs(&surveys, &troubles);
        if let Some(known) = &previous
            && !self.request.full
            && !rotated
            && assemble::same_list(&assembled.items, &known.current)
            && proofs == known.current.proofs
        {
            // Stamps moved and nothing else: those are worth remembering.
            let point = self.commit_unchanged(known).await?;
            let hints = Some(assembled.hints);
            let previous = self.acknowledge_unchanged(previous, hints, &point).await?;
            return Ok((point, previous, troubles));
        }
        let files = Files {
            env: &self.engine.env,
            shelf: self.engine.shelf(self.session),
            recovery: &self.engine.recovery,
            keyring: &keyring,
            identity,
            spool: &self.spool,
        };
        let secrets = std::mem::take(&mut output.secrets);
        let config = output.bundle.take();
        let made = files
            .make(config, secrets, assembled, proofs, previous.as_ref(), full.is_some(), rotated)
            .await?;
        let point = self.upload_and_commit(&made, previous.as_ref()).await?;
        let previous = self.acknowledge(made, keyring, previous, &point).await?;
        Ok((point, previous, troubles))
    }

    fn decide(&self, surveys: &[Survey], previous: Option<&Previous>) -> Option<FullReason> {
        let shape = previous.map(|previous| Shape {
            base_items: previous.base.manifest.items.len() as u64,
            delta_items: assemble::delta_items(surveys, previous),
            points_since_base: previous
                .head
                .sequence
                .next()
                .get()
                .saturating_sub(previous.base.manifest.sequence.get()),
            bundles: previous.config_bundles().len() + 1,
        });
        let reason = decide::form(shape, self.request.full);
        if let Some(reason) = reason {
            tracing::info!(reason = reason.as_str(), "this point gets a full manifest");
        }
        reason
    }

    /// Which bundles a full manifest repacks; what is in them will be read again.
    async fn choose_repacked(
        &self,
        surveys: &mut [Survey],
        previous: Option<&Previous>,
        full: Option<FullReason>,
    ) -> Result<BTreeSet<BundleId>, BackupError> {
        let (Some(previous), Some(_)) = (previous, full) else { return Ok(BTreeSet::new()) };
        if self.request.full {
            surveys.iter_mut().for_each(Survey::read_all);
            return Ok(previous.config_bundles());
        }
        let sizes = self.bundle_sizes(previous).await?;
        let usages = assemble::usages(surveys, &previous.current.items, &sizes);
        let repacked = decide::repack(&usages);
        for survey in surveys {
            survey.read_again(&previous.current.items, &repacked);
        }
        Ok(repacked)
    }

    /// Lengths of the config bundles that the last point needs, as the fleet stores them.
    async fn bundle_sizes(
        &self,
        previous: &Previous,
    ) -> Result<BTreeMap<BundleId, u64>, BackupError> {
        let request = v1::GetPointRequest {
            cluster_name: self.engine.config.cluster.clone(),
            which: Some(v1::get_point_request::Which::Sequence(previous.head.sequence.get())),
            stale: false,
        };
        let response = self
            .engine
            .client
            .call("asking for the last point's bundles", |channel| {
                let request = request.clone();
                async move { CatalogClient::new(channel).get_point(request).await }
            })
            .await?;
        let needed = previous.config_bundles();
        let point = response.point.ok_or(BackupError::Answer("the last point"))?;
        let sizes = point.bundles.iter().filter_map(|info| {
            let id = BundleId::from_slice(&info.bundle_id).ok()?;
            needed.contains(&id).then_some((id, info.bytes))
        });
        Ok(sizes.collect())
    }

    /// The keyring to seal under, and whether it changed, so that a new key bundle is needed.
    fn keyring(
        &self,
        previous: Option<&mut Previous>,
    ) -> Result<(Arc<Keyring>, bool), BackupError> {
        let engine = self.engine;
        let Some(previous) = previous else {
            let keyring = Keyring::create(
                self.session.lineage,
                engine.home.kek(),
                engine.home.signing_key(),
                self.started,
                &*engine.env.random,
            );
            return Ok((Arc::new(keyring), true));
        };
        if !previous.keyring.dek_due(self.started) {
            return Ok((previous.keyring.clone(), false));
        }
        let mut needed = previous.current.key_needs().deks;
        needed.extend(previous.base.manifest.key_needs().deks);
        needed.extend(previous.base.dek);
        // Nobody else holds the keyring between backups.
        let keyring = Arc::get_mut(&mut previous.keyring).ok_or(BackupError::Lost)?;
        keyring.retain_deks(&needed);
        keyring.add_dek(self.started, &*engine.env.random)?;
        tracing::info!("the data key is 30 days old: a new one is used from now on");
        Ok((previous.keyring.clone(), true))
    }

    fn identity(&self, previous: Option<&Previous>) -> Identity {
        Identity {
            fleet: self.session.fleet,
            cluster: self.session.cluster,
            lineage: self.session.lineage,
            sequence: previous.map_or(Sequence::new(1), |p| p.head.sequence.next()),
            epoch: self.session.epoch,
            created: self.started,
        }
    }

    async fn upload_and_commit(
        &self,
        made: &Made,
        previous: Option<&Previous>,
    ) -> Result<v1::Point, BackupError> {
        let bytes_total: u64 = made.uploads.iter().map(|file| file.sealed.bytes).sum();
        let limit = match self.request.limit_bytes_per_second {
            0 => self.engine.config.upload.limit_bytes_per_second,
            limit => limit,
        };
        let slowest = bytes_total.saturating_mul(1000).checked_div(limit).unwrap_or(0);
        let lease = self.open_lease(previous, LEASE_MILLIS.saturating_add(slowest)).await?;
        let uploader = Uploader {
            client: self.engine.client.clone(),
            lease: lease.clone(),
            limiter: Limiter::new(limit, self.engine.env.clock.clone()),
        };
        let result = async {
            let holders = self.upload(&uploader, &made.uploads, bytes_total).await?;
            self.commit_changed(made, previous, &lease, holders).await
        }
        .await;
        if let Err(error) = &result {
            self.end_lease(&lease, error).await;
        }
        result
    }

    async fn open_lease(
        &self,
        previous: Option<&Previous>,
        ttl_ms: u64,
    ) -> Result<Lease, BackupError> {
        let request = v1::OpenUploadRequest {
            write_id: Some(self.engine.client.next_write_id()),
            epoch: self.session.epoch.get(),
            parent_sequence: previous.map_or(0, |previous| previous.head.sequence.get()),
            ttl_ms,
        };
        let response = self
            .engine
            .client
            .call("opening the upload", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).open_upload(request).await }
            })
            .await?;
        Ok(Lease { id: response.lease_id, log_index: response.log_index })
    }

    async fn upload(
        &self,
        uploader: &Uploader,
        files: &[UploadFile],
        bytes_total: u64,
    ) -> Result<Vec<Vec<u64>>, BackupError> {
        let sent: Vec<std::sync::atomic::AtomicU64> = files.iter().map(|_| 0.into()).collect();
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let told = |index: usize, bytes: u64| {
            sent[index].store(bytes, relaxed);
            self.progress.on(ProgressEvent {
                bytes_done: sent.iter().map(|sent| sent.load(relaxed)).sum(),
                bytes_total,
                ..ProgressEvent::begin(Phase::Uploading)
            });
        };
        let told = &told;
        let uploads = files.iter().enumerate().map(|(index, file)| async move {
            uploader.upload(file, &|bytes| told(index, bytes)).await
        });
        // At most four at once: config, key, wraps, manifest.
        Ok(futures::future::try_join_all(uploads).await?)
    }

    async fn commit_changed(
        &self,
        made: &Made,
        previous: Option<&Previous>,
        lease: &Lease,
        holders: Vec<Vec<u64>>,
    ) -> Result<v1::Point, BackupError> {
        let bytes = |id: &BundleId| Bytes::copy_from_slice(id.as_bytes());
        let added = made
            .uploads
            .iter()
            .zip(holders)
            .map(|(file, holders)| v1::AddedBundle {
                bundle_id: bytes(&file.sealed.id),
                bytes: file.sealed.bytes,
                header: Bytes::copy_from_slice(file.sealed.header.header_bytes()),
                signature: Bytes::copy_from_slice(file.sealed.header.signature()),
                holders,
            })
            .collect();
        let dropped = previous
            .map(|previous| previous.needs.difference(&made.needs).map(bytes).collect())
            .unwrap_or_default();
        self.commit(
            lease.id.clone(),
            made.identity.sequence,
            previous,
            v1::commit_point_request::Content::Changed(v1::ChangedPoint {
                added,
                dropped,
                manifest_id: bytes(&made.head.manifest),
                key_bundle_id: bytes(&made.head.key_bundle),
                wraps_id: bytes(&made.head.wraps),
            }),
            files::wire_proofs(&made.current.proofs),
            made.current.totals,
        )
        .await
    }

    async fn commit_unchanged(&self, known: &Previous) -> Result<v1::Point, BackupError> {
        let statement = PointStatement {
            fleet: self.session.fleet,
            cluster: self.session.cluster,
            lineage: self.session.lineage,
            sequence: known.head.sequence.next(),
            epoch: self.session.epoch,
            taken: self.started,
            manifest: known.head.manifest,
            key_bundle: known.head.key_bundle,
        };
        let signature = known.keyring.signing_key().sign_statement(&statement);
        let content = v1::UnchangedPoint { signature: Bytes::copy_from_slice(&signature) };
        self.commit(
            Bytes::new(),
            statement.sequence,
            Some(known),
            v1::commit_point_request::Content::Unchanged(content),
            files::wire_proofs(&known.current.proofs),
            known.current.totals,
        )
        .await
    }

    async fn commit(
        &self,
        lease_id: Bytes,
        sequence: Sequence,
        previous: Option<&Previous>,
        content: v1::commit_point_request::Content,
        proofs: Vec<v1::SourceProof>,
        totals: bundle::Totals,
    ) -> Result<v1::Point, BackupError> {
        self.progress
            .on(ProgressEvent { items: totals.items, ..ProgressEvent::begin(Phase::Committing) });
        let parent = previous.map(|p| Bytes::copy_from_slice(p.head.manifest.as_bytes()));
        let request = v1::CommitPointRequest {
            write_id: Some(self.engine.client.next_write_id()),
            epoch: self.session.epoch.get(),
            lease_id,
            sequence: sequence.get(),
            parent_manifest_id: parent.unwrap_or_default(),
            taken_ms: self.started.as_millis(),
            content: Some(content),
            proofs,
            items: totals.items,
            logical_bytes: totals.bytes,
        };
        let response = self
            .engine
            .client
            .call("committing the point", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).commit_point(request).await }
            })
            .await?;
        let point = response.point.ok_or(BackupError::Answer("the committed point"))?;
        if point.sequence != sequence.get() {
            return Err(BackupError::Answer("the point that was committed"));
        }
        Ok(point)
    }

    /// Gives up the lease, so that what was uploaded can go. It ends by itself otherwise.
    async fn end_lease(&self, lease: &Lease, error: &BackupError) {
        let request = v1::EndUploadRequest {
            write_id: Some(self.engine.client.next_write_id()),
            lease_id: lease.id.clone(),
            reason: error.code().to_string(),
        };
        let ended = self
            .engine
            .client
            .call("ending the upload", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).end_upload(request).await }
            })
            .await;
        if let Err(error) = ended {
            tracing::debug!(%error, "the upload's lease could not be ended");
        }
    }

    async fn acknowledge_unchanged(
        &self,
        previous: Option<Previous>,
        hints: Option<Vec<Option<Hint>>>,
        point: &v1::Point,
    ) -> Result<Previous, BackupError> {
        let mut previous = previous.ok_or(BackupError::Lost)?;
        previous.head.sequence = Sequence::new(point.sequence);
        let mut changes = Vec::new();
        if let Some(hints) = hints {
            let items = previous.current.items.iter().map(|item| &item.key);
            let pairs = items.zip(previous.hints.iter().zip(&hints));
            changes.extend(
                pairs.filter(|(_, (old, new))| old != new).map(|(key, (_, n))| (key.clone(), *n)),
            );
            previous.hints = hints;
        }
        self.note_hints(&previous.head, changes, false).await;
        Ok(previous)
    }

    /// Takes over an acknowledged point: keeps its sealed files, then remembers what was sent.
    async fn acknowledge(
        &self,
        made: Made,
        keyring: Arc<Keyring>,
        old: Option<Previous>,
        point: &v1::Point,
    ) -> Result<Previous, BackupError> {
        let mut head = made.head;
        head.sequence = Sequence::new(point.sequence);
        let kept = [head.manifest, head.key_bundle, head.wraps, made.base.id];
        let home = self.engine.home.clone();
        let moved: Vec<(std::path::PathBuf, BundleId)> =
            made.uploads.iter().map(|file| (file.path.clone(), file.id())).collect();
        let keeping = self.engine.env.blocking("keep sealed files", move || {
            for (path, id) in moved.iter().filter(|(_, id)| kept.contains(id)) {
                std::fs::rename(path, home.bundle(*id))?;
            }
            for found in std::fs::read_dir(home.bundles())? {
                let found = found?;
                if !kept.iter().any(|id| found.file_name() == id.to_string().as_str()) {
                    std::fs::remove_file(found.path())?;
                }
            }
            Ok::<_, std::io::Error>(())
        });
        if let Err(error) = keeping.await? {
            tracing::warn!(%error, "sealed files could not be kept: they will be fetched");
        }
        let previous = Previous {
            head,
            keyring,
            base: made.base,
            current: made.current,
            hints: made.hints,
            needs: made.needs,
        };
        let changes = super::previous::hint_changes(&previous, old.as_ref());
        self.note_hints(&previous.head, changes, old.is_none()).await;
        Ok(previous)
    }

    /// Writes what changed of the hints, with the head they now belong to.
    async fn note_hints(
        &self,
        head: &Head,
        changes: Vec<(bundle::ItemKey, Option<Hint>)>,
        reset: bool,
    ) {
        let head = (head.sequence, head.manifest);
        let hints = self.engine.hints.clone();
        let noted = self.engine.env.blocking("note hints", move || {
            if reset {
                hints.reset()?;
            }
            hints.note(head, changes.iter().map(|(key, hint)| (key, *hint)))
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the cache could not be written"),
            Err(error) => tracing::warn!(%error, "the cache could not be written"),
        }
    }
}

//! The steps of one backup, in order: list, compare, decide, read and seal, make the small files,
//! send and commit. The last two are in `files` and `commit`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bundle::Identity;
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{BundleId, LogTime, Sequence};

use super::BackupError;
use super::assemble::{self, Survey};
use super::decide::{self, FullReason, Shape};
use super::engine::{BackupRequest, Engine, Session};
use super::files::{self, Files};
use super::findings::{self, Troubles};
use super::previous::Previous;
use super::seal::{self, SealInput};
use crate::config::SourceKind;
use crate::kubernetes::KubernetesSource;
use crate::progress::{Phase, Progress, ProgressEvent};
use crate::sources::{DirectorySource, Entry, Listing, Source, Trouble};

/// One backup.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    pub(super) session: &'a Session,
    pub(super) request: BackupRequest,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) spool: PathBuf,
    pub(super) started: LogTime,
}

/// The acknowledged point, what is known of it, and what was in the way.
type Outcome = (v1::Point, Previous, Troubles);

impl Run<'_> {
    /// Counts troubles for the fleet, and lists their paths for this machine's owner.
    fn note(
        &self,
        troubles: &mut Troubles,
        source: &str,
        found: &[(Trouble, Vec<u8>)],
    ) -> Result<(), BackupError> {
        if found.is_empty() {
            return Ok(());
        }
        findings::count(troubles, source, found);
        let home = &self.engine.home;
        home.add_skipped(&findings::lines(source, found))?;
        tracing::warn!(
            source,
            count = found.len(),
            list = %home.skipped().display(),
            "items are not backed up as they should be; the list names them"
        );
        Ok(())
    }

    /// From listing to acknowledgement.
    pub(super) async fn run(&self, previous: Option<Previous>) -> Result<Outcome, BackupError> {
        self.progress.on(ProgressEvent::begin(Phase::Scanning));
        self.engine.home.clear_skipped()?;
        let (sources, listings) = self.list().await?;
        let mut troubles = Troubles::new();
        let mut surveys = Vec::new();
        for (source, listing) in sources.iter().zip(listings) {
            self.note(&mut troubles, source.name(), &listing.troubles)?;
            surveys.push(Survey::make(source.name(), listing.entries, previous.as_ref()));
        }
        if let Some(known) = &previous
            && !self.request.full
            && !self.keys_due(known)
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
        let mirrors = self.request.changes_only.then(|| self.engine.mirrors.clone());
        let listed = self.engine.env.blocking("list sources", move || {
            let mut sources: Vec<Arc<dyn Source>> = Vec::new();
            let mut listings = Vec::new();
            for config in &configs {
                let source: Arc<dyn Source> = match &config.kind {
                    SourceKind::Directory(directory) => {
                        Arc::new(DirectorySource::open(&config.name, directory)?)
                    }
                    SourceKind::Kubernetes(kubernetes) => {
                        let mirror =
                            mirrors.as_ref().and_then(|all| all.get(&config.name).cloned());
                        Arc::new(KubernetesSource::open(&config.name, kubernetes, mirror)?)
                    }
                };
                listings.push(source.list()?);
                sources.push(source);
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
        crate::home::make_directory(&self.spool)?;
        let full = self.decide(&surveys, previous.as_ref());
        let repacked = self.choose_repacked(&mut surveys, previous.as_ref(), full).await?;
        let (keyring, rotated) = self.keyring(previous.as_mut())?;
        // The last key bundle is nowhere either, for all that is known.
        let rotated = rotated || previous.as_ref().is_some_and(|previous| previous.is_absent);
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
            self.note(&mut troubles, &survey.source, found)?;
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
            parent: self.parent(previous.as_ref()),
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

    /// The number of the point that follows.
    pub(super) fn next_sequence(&self, previous: Option<&Previous>) -> Sequence {
        let next = previous.map_or(Sequence::new(1), |previous| previous.head.sequence.next());
        next.max(self.session.next_sequence)
    }

    fn identity(&self, previous: Option<&Previous>) -> Identity {
        Identity {
            fleet: self.session.fleet,
            cluster: self.session.cluster,
            lineage: self.session.lineage,
            sequence: self.next_sequence(previous),
            epoch: self.session.epoch,
            created: self.started,
        }
    }
}

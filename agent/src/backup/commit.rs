//! The last steps of a backup: lease, uploads, commit, and what is remembered once the fleet has
//! acknowledged it. Nothing is remembered before.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bundle::{ItemKey, Keyring};
use bytes::Bytes;
use proto::ApiError;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto_types::{BundleId, Code, PointStatement, Sequence};

use super::BackupError;
use super::files::{self, Made};
use super::hints::Hint;
use super::previous::Previous;
use super::run::Run;
use crate::progress::{Phase, ProgressEvent};
use crate::upload::{Lease, Limiter, UploadFile, Uploader};

/// What an agent that died leaves pinned for so long; a live one renews its lease.
const LEASE_MILLIS: u64 = 10 * 60 * 1000;

impl Run<'_> {
    pub(super) async fn upload_and_commit(
        &self,
        made: &Made,
        previous: Option<&Previous>,
    ) -> Result<v1::Point, BackupError> {
        let bytes_total: u64 = made.uploads.iter().map(|file| file.sealed.bytes).sum();
        let limit = match self.request.limit_bytes_per_second {
            0 => self.engine.config.upload.limit_bytes_per_second,
            limit => limit,
        };
        if limit == 0 && bytes_total <= self.engine.config.upload.carry_bytes_max {
            match self.commit_carried(made, previous).await {
                Err(BackupError::Api(error))
                    if matches!(error.code(), Code::UploadFirst | Code::LevelTooLow) =>
                {
                    tracing::debug!(%error, "the point is uploaded before its commit");
                }
                done => return done,
            }
        }
        let (lease, renew_every) = self.open_lease(previous).await?;
        let uploader = Uploader {
            client: self.engine.client.clone(),
            lease: lease.clone(),
            limiter: Limiter::new(limit, self.engine.env.clock.clone()),
        };
        let result = async {
            tokio::select! {
                uploaded = self.upload(&uploader, &made.uploads, bytes_total) => uploaded?,
                ended = self.keep_lease(&lease, renew_every) => return Err(ended),
            }
            self.commit_changed(made, previous, &lease).await
        }
        .await;
        if result.is_err() {
            self.end_lease(&lease).await;
        }
        result
    }

    async fn open_lease(
        &self,
        previous: Option<&Previous>,
    ) -> Result<(Lease, Duration), BackupError> {
        let request = v1::OpenUploadRequest {
            write_id: Some(self.engine.client.next_write_id()),
            epoch: self.session.epoch.get(),
            parent_sequence: self.parent(previous).map_or(0, |head| head.sequence.get()),
            ttl_ms: LEASE_MILLIS,
        };
        let response = self
            .engine
            .client
            .call("opening the upload", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).open_upload(request).await }
            })
            .await?;
        let lease = Lease { id: response.lease_id, log_index: response.log_index };
        // Two renewals may fail before the lease is over.
        Ok((lease, Duration::from_millis(response.ttl_ms / 3)))
    }

    /// Renews the lease until this is dropped; returns when the fleet says that it is over.
    async fn keep_lease(&self, lease: &Lease, renew_every: Duration) -> BackupError {
        loop {
            tokio::time::sleep(renew_every).await;
            let request = v1::RenewUploadRequest {
                write_id: Some(self.engine.client.next_write_id()),
                lease_id: lease.id.clone(),
            };
            let renewed = self
                .engine
                .client
                .call("renewing the upload", |channel| {
                    let request = request.clone();
                    async move { BackupClient::new(channel).renew_upload(request).await }
                })
                .await;
            match renewed {
                Ok(_) => {}
                // Whether it matters shows when the next one is due, or at the commit.
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the upload's lease could not be renewed");
                }
                Err(error) => return error.into(),
            }
        }
    }

    async fn upload(
        &self,
        uploader: &Uploader,
        files: &[UploadFile],
        bytes_total: u64,
    ) -> Result<(), BackupError> {
        let sent: Vec<AtomicU64> = files.iter().map(|_| 0.into()).collect();
        let relaxed = Ordering::Relaxed;
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
        futures::future::try_join_all(uploads).await?;
        Ok(())
    }

    async fn commit_changed(
        &self,
        made: &Made,
        previous: Option<&Previous>,
        lease: &Lease,
    ) -> Result<v1::Point, BackupError> {
        let changed = changed(made, self.parent_needs(previous), Vec::new());
        self.commit_content(lease.id.clone(), made, previous, changed).await
    }

    /// All in one call: the bundles come in the commit.
    async fn commit_carried(
        &self,
        made: &Made,
        previous: Option<&Previous>,
    ) -> Result<v1::Point, BackupError> {
        let paths: Vec<PathBuf> = made.uploads.iter().map(|file| file.path.clone()).collect();
        let read = self.engine.env.blocking("read the spool", move || {
            paths
                .iter()
                .map(|path| std::fs::read(path).map(Bytes::from))
                .collect::<Result<Vec<_>, _>>()
        });
        let carried: Vec<Bytes> = read.await?.map_err(|error: std::io::Error| {
            ApiError::new(Code::LocalIo, format!("cannot read the spool: {error}"))
        })?;
        let changed = changed(made, self.parent_needs(previous), carried);
        self.commit_content(Bytes::new(), made, previous, changed).await
    }

    async fn commit_content(
        &self,
        lease_id: Bytes,
        made: &Made,
        previous: Option<&Previous>,
        changed: v1::ChangedPoint,
    ) -> Result<v1::Point, BackupError> {
        self.require_same_kek()?;
        self.commit(
            lease_id,
            made.identity.sequence,
            previous,
            v1::commit_point_request::Content::Changed(changed),
            files::wire_proofs(&made.current.proofs),
            made.current.totals,
        )
        .await
    }

    pub(super) async fn commit_unchanged(
        &self,
        known: &Previous,
    ) -> Result<v1::Point, BackupError> {
        let statement = PointStatement {
            fleet: self.session.fleet,
            cluster: self.session.cluster,
            lineage: self.session.lineage,
            sequence: self.next_sequence(Some(known)),
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
        let parent = self.parent(previous).map(|h| Bytes::copy_from_slice(h.manifest.as_bytes()));
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
        self.engine.note_wanted(response.key_orders, response.recovery_generation);
        let point = response.point.ok_or(BackupError::Answer("the committed point"))?;
        if point.sequence != sequence.get() {
            return Err(BackupError::Answer("the point that was committed"));
        }
        Ok(point)
    }

    /// Gives up the lease, so that what was uploaded can go. It ends by itself otherwise.
    async fn end_lease(&self, lease: &Lease) {
        let request = v1::EndUploadRequest {
            write_id: Some(self.engine.client.next_write_id()),
            lease_id: lease.id.clone(),
            failed: true,
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

    pub(super) async fn acknowledge_unchanged(
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
        if !changes.is_empty() {
            let manifest = previous.head.manifest;
            self.note_hints(Some(manifest), manifest, changes).await;
        }
        Ok(previous)
    }

    /// Takes over an acknowledged point: keeps its sealed files, then remembers what was sent.
    pub(super) async fn acknowledge(
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
        let moved: Vec<(PathBuf, BundleId)> =
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
            recovery: self.engine.recovery.fingerprint(),
            base: made.base,
            current: made.current,
            hints: made.hints,
            needs: made.needs,
            is_absent: false,
        };
        let changes = super::previous::hint_changes(&previous, old.as_ref());
        let since = old.map(|old| old.head.manifest);
        self.note_hints(since, previous.head.manifest, changes).await;
        Ok(previous)
    }

    /// Writes what changed of the hints, with the manifest they now belong to.
    async fn note_hints(
        &self,
        since: Option<BundleId>,
        manifest: BundleId,
        changes: Vec<(ItemKey, Option<Hint>)>,
    ) {
        let hints = self.engine.hints.clone();
        let noted = self.engine.env.blocking("note hints", move || {
            hints.note(since, manifest, changes.iter().map(|(key, hint)| (key, *hint)))
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the cache could not be written"),
            Err(error) => tracing::warn!(%error, "the cache could not be written"),
        }
    }
}

/// What a point brings and no longer needs. `carried`: the files of `added`, or none of them.
fn changed(
    made: &Made,
    parent_needs: Option<&BTreeSet<BundleId>>,
    carried: Vec<Bytes>,
) -> v1::ChangedPoint {
    let bytes = |id: &BundleId| Bytes::copy_from_slice(id.as_bytes());
    v1::ChangedPoint {
        added: made.uploads.iter().map(|file| bytes(&file.sealed.id)).collect(),
        dropped: parent_needs
            .map(|needs| needs.difference(&made.needs).map(bytes).collect())
            .unwrap_or_default(),
        manifest_id: bytes(&made.head.manifest),
        key_bundle_id: bytes(&made.head.key_bundle),
        wraps_id: bytes(&made.head.wraps),
        carried,
    }
}

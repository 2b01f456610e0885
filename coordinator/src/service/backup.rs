//! What agents do: become the active one, upload, commit.

use std::collections::BTreeMap;

use coordinator_core::{
    AcquireEpoch, AddedBundle, ChangedContent, ClearFinding, Command, CommitPoint, Content,
    EndUpload, FindingKey, Instance, OpenUpload, Outcome, RaiseFinding, RenewLease, Scope,
    UploadEnd,
};
use proto::v1::backup_server::Backup;
use proto::{ApiError, v1};
use proto_types::{
    BundleId, CARRIED_BYTES_MAX, ClusterId, Code, Epoch, LeaseId, LogTime, NodeId, Sequence,
    SignedHeader,
};
use tonic::{Request, Response, Status, Streaming};

use super::fleet::core_request;
use super::{Shared, convert};
use crate::keeper::Upload;
use crate::telemetry;

/// Findings that one report may raise and clear together: each is a log entry.
const FINDINGS_PER_REPORT_MAX: usize = 64;

/// The `Backup` service.
pub(crate) struct BackupService(pub(crate) Shared);

/// An upload lease of this cluster, live in this node's state.
pub(super) fn live_lease(
    shared: &Shared,
    cluster: ClusterId,
    lease: LeaseId,
) -> Result<coordinator_core::UploadLease, ApiError> {
    let state = shared.raft.local().state;
    match state.upload(&lease) {
        Some(row) if row.cluster == cluster => Ok(row.clone()),
        // Another cluster's lease is as good as none: its existence is not told.
        Some(_) | None => Err(lease_gone(lease)),
    }
}

/// The same of a lease that may have been opened through another node a moment ago. A lease that
/// this node knows is not asked for: what it says never changes, and whether it still lives when
/// it matters is for `apply` and the gate of the bundles to say.
async fn known_lease(
    shared: &Shared,
    cluster: ClusterId,
    lease: LeaseId,
) -> Result<coordinator_core::UploadLease, ApiError> {
    if let Ok(row) = live_lease(shared, cluster, lease) {
        return Ok(row);
    }
    shared.view(false).await?;
    live_lease(shared, cluster, lease)
}

pub(crate) fn lease_gone(lease: LeaseId) -> ApiError {
    ApiError::new(
        Code::LeaseGone,
        format!("upload lease {} is over or never was: begin a new upload", lease.short()),
    )
}

/// Fills in what the state must know of each new bundle: from this node's own verified copy, never
/// from the agent's words.
pub(super) async fn describe(
    shared: &Shared,
    lease: LeaseId,
    index: proto_types::LogIndex,
    ids: &[BundleId],
) -> Result<Vec<AddedBundle>, ApiError> {
    let keeper = &shared.keeper;
    let mut in_bucket = BTreeMap::new();
    for id in ids {
        if let Some(signed) = keeper.uploaded_object(*id, index).await? {
            in_bucket.insert(*id, signed);
        }
    }
    let on_disks: Vec<BundleId> =
        ids.iter().filter(|id| !in_bucket.contains_key(*id)).copied().collect();
    for id in &on_disks {
        keeper.ensure_here(*id, lease, index).await?;
    }
    let holders: BTreeMap<BundleId, Vec<NodeId>> = if on_disks.is_empty() {
        BTreeMap::new()
    } else {
        keeper.claim(lease, index, &on_disks).await?
    };
    let mut added = Vec::with_capacity(ids.len());
    for id in ids {
        let object = in_bucket.remove(id);
        let is_object = object.is_some();
        let signed = match object {
            Some(signed) => signed,
            None => keeper.header(*id).await?,
        };
        added.push(AddedBundle {
            id: *id,
            bytes: signed.file_bytes(),
            header: signed.header_bytes().to_vec(),
            signature: *signed.signature(),
            holders: holders.get(id).cloned().unwrap_or_default(),
            in_bucket: is_object,
            carried: Vec::new(),
        });
    }
    Ok(added)
}

impl BackupService {
    async fn open_session(
        &self,
        cluster: ClusterId,
        message: v1::OpenAgentSessionRequest,
    ) -> Result<v1::OpenAgentSessionResponse, ApiError> {
        let instance: [u8; 16] = message
            .instance_id
            .as_ref()
            .try_into()
            .map_err(|_| convert::invalid("instance_id: expected 16 bytes"))?;
        let command = Command::AcquireEpoch(AcquireEpoch {
            cluster,
            instance: Instance::from_bytes(instance),
        });
        let outcome = self.0.write(message.write_id.as_ref(), command).await?;
        let Outcome::EpochAcquired { epoch, .. } = outcome else {
            return Err(super::unexpected(&outcome));
        };
        let view = self.0.raft.local();
        let state = &view.state;
        let row = state.cluster(&cluster).ok_or_else(|| super::vanished("cluster"))?;
        let recovery = state.fleet().ok_or_else(|| super::vanished("fleet"))?.recovery;
        Ok(v1::OpenAgentSessionResponse {
            fleet_id: convert::bytes_of(self.0.config.fleet.id.as_bytes()),
            cluster: Some(convert::cluster(row)),
            epoch: epoch.get(),
            recovery_hpke: convert::bytes_of(&recovery.hpke),
            recovery_signing: convert::bytes_of(&recovery.signing),
            head: state
                .point(&cluster, row.head.sequence)
                .map(|point| convert::point_with_bundles(state, point, row)),
            former_recovery_keys: super::keys::former(state),
            key_orders: Some(super::keys::orders(state.key_orders(&cluster))),
            key_bundles_owed: if state.is_rotating() {
                let owed = state.key_bundles_owed(&cluster).into_iter();
                owed.map(|(id, _)| convert::bytes_of(id.as_bytes())).collect()
            } else {
                Vec::new()
            },
        })
    }

    async fn open_upload(
        &self,
        cluster: ClusterId,
        message: v1::OpenUploadRequest,
    ) -> Result<v1::OpenUploadResponse, ApiError> {
        let ttl_ms = message.ttl_ms;
        let command = Command::OpenUpload(OpenUpload {
            cluster,
            epoch: Epoch::new(message.epoch),
            lease: LeaseId::random(&*self.0.env.random),
            parent: Sequence::new(message.parent_sequence),
            ttl_ms,
        });
        match self.0.write(message.write_id.as_ref(), command).await? {
            Outcome::UploadOpened { lease, index, .. } => Ok(v1::OpenUploadResponse {
                lease_id: convert::bytes_of(lease.as_bytes()),
                log_index: index.get(),
                ttl_ms,
            }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn renew(
        &self,
        cluster: ClusterId,
        message: v1::RenewUploadRequest,
    ) -> Result<v1::RenewUploadResponse, ApiError> {
        let lease = convert::lease_id(&message.lease_id, "lease_id")?;
        self.0.view(false).await?;
        live_lease(&self.0, cluster, lease)?;
        let command = Command::RenewLease(RenewLease { lease });
        self.0.write(message.write_id.as_ref(), command).await?;
        Ok(v1::RenewUploadResponse {})
    }

    async fn offset(
        &self,
        cluster: ClusterId,
        message: v1::GetUploadOffsetRequest,
    ) -> Result<v1::GetUploadOffsetResponse, ApiError> {
        let lease = convert::lease_id(&message.lease_id, "lease_id")?;
        let index = known_lease(&self.0, cluster, lease).await?.index;
        let id = convert::bundle_id(&message.bundle_id, "bundle_id")?;
        let (offset, complete) = if self.0.keeper.goes_to_bucket() {
            self.0.keeper.object_offset(id, index).await?
        } else {
            self.0.keeper.upload_offset(id).await?
        };
        Ok(v1::GetUploadOffsetResponse { offset, complete })
    }

    async fn upload(
        &self,
        cluster: ClusterId,
        mut stream: Streaming<v1::UploadBundleRequest>,
    ) -> Result<v1::UploadBundleResponse, ApiError> {
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(v1::upload_bundle_request::Part::Begin(begin)) = first else {
            return Err(convert::invalid("an upload begins with the message `begin`"));
        };
        let mut upload = Upload {
            lease: convert::lease_id(&begin.lease_id, "lease_id")?,
            lease_index: proto_types::LogIndex::new(begin.lease_log_index),
            bundle: convert::bundle_id(&begin.bundle_id, "bundle_id")?,
            bytes: begin.bytes,
            offset: begin.offset,
        };
        self.0.check_size(upload.bytes)?;
        self.0.raft.applied(upload.lease_index).await?;
        // Ours and not the agent's word: the peers wait for this index before they acknowledge.
        upload.lease_index = live_lease(&self.0, cluster, upload.lease)?.index;
        // Before the first byte is taken.
        let state = self.0.raft.local().state;
        let _admitted = self.0.uploads.admit(&state, cluster, upload.bundle, upload.bytes)?;
        let pieces = futures::stream::unfold(stream, |mut stream| async move {
            let piece = match stream.message().await {
                Ok(Some(message)) => match message.part {
                    Some(v1::upload_bundle_request::Part::Data(data)) => convert::piece(data),
                    Some(v1::upload_bundle_request::Part::Begin(_)) | None => {
                        Err(convert::invalid("an upload has one `begin`, then only `data`"))
                    }
                },
                Ok(None) => return None,
                Err(status) => Err(ApiError::from(status)),
            };
            Some((piece, stream))
        });
        let holders = self.0.keeper.upload(upload, Box::pin(pieces)).await?;
        Ok(v1::UploadBundleResponse {
            // None of the nodes: the bucket has it.
            in_bucket: holders.is_empty(),
            holders: holders.into_iter().map(NodeId::get).collect(),
        })
    }

    async fn describe(
        &self,
        lease: LeaseId,
        index: proto_types::LogIndex,
        ids: &[BundleId],
    ) -> Result<Vec<AddedBundle>, ApiError> {
        describe(&self.0, lease, index, ids).await
    }

    /// The same of bundles that come with the commit.
    async fn carried(&self, changed: &v1::ChangedPoint) -> Result<Vec<AddedBundle>, ApiError> {
        let bytes: u64 = changed.carried.iter().map(|file| file.len() as u64).sum();
        if bytes > CARRIED_BYTES_MAX {
            return Err(ApiError::new(
                Code::TooLarge,
                format!(
                    "a commit carries at most {CARRIED_BYTES_MAX} bytes of bundles, this one {bytes}: \
                     upload them first"
                ),
            ));
        }
        if changed.carried.len() != changed.added.len() {
            return Err(convert::invalid("carried: not one file for each bundle of `added`"));
        }
        let mut added = Vec::with_capacity(changed.added.len());
        for (id, file) in changed.added.iter().zip(&changed.carried) {
            let id = convert::bundle_id(id, "added")?;
            let found = BundleId::of(file);
            if found != id {
                return Err(ApiError::new(
                    Code::DigestMismatch,
                    format!("the bytes sent as bundle {} have the digest {}", id, found.short()),
                ));
            }
            let signed = SignedHeader::from_tail(file, file.len() as u64).map_err(|error| {
                convert::invalid(format!("bundle {} has no valid header: {error}", id.short()))
            })?;
            added.push(AddedBundle {
                id,
                bytes: file.len() as u64,
                header: signed.header_bytes().to_vec(),
                signature: *signed.signature(),
                holders: Vec::new(),
                in_bucket: false,
                carried: file.to_vec(),
            });
        }
        if let Some(first) = added.first() {
            self.0.keeper.require_room(first.id, bytes).await?;
        }
        Ok(added)
    }

    async fn content(
        &self,
        cluster: ClusterId,
        lease: Option<LeaseId>,
        content: Option<v1::commit_point_request::Content>,
    ) -> Result<Content, ApiError> {
        use v1::commit_point_request::Content as Wire;
        match content {
            None => Err(convert::invalid("content: neither changed nor unchanged is given")),
            Some(Wire::Unchanged(unchanged)) => Ok(Content::Unchanged {
                signature: unchanged
                    .signature
                    .as_ref()
                    .try_into()
                    .map_err(|_| convert::invalid("unchanged.signature: expected 64 bytes"))?,
            }),
            Some(Wire::Changed(changed)) if !changed.carried.is_empty() => {
                let added = self.carried(&changed).await?;
                let lengths = added.iter().map(|bundle| (bundle.id, bundle.bytes));
                self.0.uploads.check_commit(&self.0.raft.local().state, cluster, lengths)?;
                Self::changed(changed, added)
            }
            Some(Wire::Changed(changed)) => {
                let lease = lease.ok_or_else(|| convert::invalid("lease_id: not given"))?;
                let row = match known_lease(&self.0, cluster, lease).await {
                    Ok(row) => row,
                    // A repeat of a commit that went through finds its lease ended; apply knows.
                    Err(error) if error.code() == Code::LeaseGone => return self.repeated(changed),
                    Err(error) => return Err(error),
                };
                if changed.added.len() > coordinator_core::limits::ADDED_MAX {
                    return Err(ApiError::new(
                        Code::TooLarge,
                        format!(
                            "a commit adds at most {} bundles, this one {}",
                            coordinator_core::limits::ADDED_MAX,
                            changed.added.len()
                        ),
                    ));
                }
                let ids = changed
                    .added
                    .iter()
                    .map(|id| convert::bundle_id(id, "added"))
                    .collect::<Result<Vec<_>, _>>()?;
                let added = self.describe(lease, row.index, &ids).await?;
                let lengths = added.iter().map(|bundle| (bundle.id, bundle.bytes));
                self.0.uploads.check_commit(&self.0.raft.local().state, cluster, lengths)?;
                Self::changed(changed, added)
            }
        }
    }

    /// A commit whose lease is gone: the state answers a repeat, and refuses all else.
    fn repeated(&self, changed: v1::ChangedPoint) -> Result<Content, ApiError> {
        Self::changed(changed, Vec::new())
    }

    fn changed(changed: v1::ChangedPoint, added: Vec<AddedBundle>) -> Result<Content, ApiError> {
        // An id that is not given is zero: apply refuses it and says which bundle is lacking.
        let optional = |bytes: &[u8], field: &str| {
            if bytes.is_empty() { Ok(BundleId::ZERO) } else { convert::bundle_id(bytes, field) }
        };
        Ok(Content::Changed(ChangedContent {
            added,
            dropped: changed
                .dropped
                .iter()
                .map(|id| convert::bundle_id(id, "dropped"))
                .collect::<Result<_, _>>()?,
            manifest: optional(&changed.manifest_id, "manifest_id")?,
            key_bundle: optional(&changed.key_bundle_id, "key_bundle_id")?,
            wraps: optional(&changed.wraps_id, "wraps_id")?,
        }))
    }

    async fn commit(
        &self,
        cluster: ClusterId,
        message: v1::CommitPointRequest,
    ) -> Result<v1::CommitPointResponse, ApiError> {
        let lease = (!message.lease_id.is_empty())
            .then(|| convert::lease_id(&message.lease_id, "lease_id"))
            .transpose()?;
        let parent_manifest = if message.parent_manifest_id.is_empty() {
            BundleId::ZERO
        } else {
            convert::bundle_id(&message.parent_manifest_id, "parent_manifest_id")?
        };
        let command = Command::CommitPoint(Box::new(CommitPoint {
            cluster,
            epoch: Epoch::new(message.epoch),
            lease,
            sequence: Sequence::new(message.sequence),
            parent_manifest,
            taken: LogTime::from_millis(message.taken_ms),
            content: self.content(cluster, lease, message.content).await?,
            proofs: message.proofs.into_iter().map(convert::proof_row).collect::<Result<_, _>>()?,
            items: message.items,
            logical_bytes: message.logical_bytes,
        }));
        let outcome = self.0.write(message.write_id.as_ref(), command).await?;
        let Outcome::Committed { sequence, .. } = outcome else {
            return Err(super::unexpected(&outcome));
        };
        let view = self.0.raft.local();
        let state = &view.state;
        let row = state.cluster(&cluster).ok_or_else(|| super::vanished("cluster"))?;
        let point = state.point(&cluster, sequence).ok_or_else(|| super::vanished("point"))?;
        telemetry::point_committed(cluster, sequence, point.stored_bytes_added);
        let generation = state.former_recovery_keys().count();
        Ok(v1::CommitPointResponse {
            point: Some(convert::point_with_bundles(state, point, row)),
            key_orders: Some(super::keys::orders(state.key_orders(&cluster))),
            recovery_generation: u32::try_from(generation).unwrap_or(u32::MAX),
        })
    }

    async fn end(
        &self,
        cluster: ClusterId,
        message: v1::EndUploadRequest,
    ) -> Result<v1::EndUploadResponse, ApiError> {
        let lease = convert::lease_id(&message.lease_id, "lease_id")?;
        self.0.view(false).await?;
        // Gone already: nothing to end.
        if live_lease(&self.0, cluster, lease).is_ok() {
            let reason = if message.failed { UploadEnd::Failed } else { UploadEnd::Abandoned };
            let command = Command::EndUpload(EndUpload { lease, reason });
            self.0.write(message.write_id.as_ref(), command).await?;
        }
        Ok(v1::EndUploadResponse {})
    }

    async fn report(
        &self,
        cluster: ClusterId,
        message: v1::ReportFindingsRequest,
    ) -> Result<v1::ReportFindingsResponse, ApiError> {
        let view = self.0.view(false).await?;
        let row = view.state.cluster(&cluster).ok_or_else(|| super::vanished("cluster"))?;
        if row.epoch.get() != message.epoch {
            return Err(ApiError::new(
                Code::StaleEpoch,
                format!("epoch {} is not current, {} is", message.epoch, row.epoch),
            ));
        }
        let findings = message.raise.len() + message.clear.len();
        if findings > FINDINGS_PER_REPORT_MAX {
            return Err(ApiError::new(
                Code::TooLarge,
                format!(
                    "one report holds at most {FINDINGS_PER_REPORT_MAX} findings, this one {findings}"
                ),
            ));
        }
        let key = |finding: &v1::Finding| FindingKey {
            scope: Scope::Cluster(cluster),
            kind: finding.kind.clone(),
            subject: finding.subject.clone(),
        };
        // Raising and clearing twice is the same as once: no session is needed.
        for finding in message.raise {
            let command = Command::RaiseFinding(RaiseFinding {
                key: key(&finding),
                severity: convert::severity_row(finding.severity())?,
                message: finding.message,
                remedy: finding.remedy,
            });
            self.0.accepted(core_request(None, command)).await?;
        }
        for finding in message.clear {
            let command = Command::ClearFinding(ClearFinding { key: key(&finding) });
            self.0.accepted(core_request(None, command)).await?;
        }
        Ok(v1::ReportFindingsResponse {})
    }
}

#[tonic::async_trait]
impl Backup for BackupService {
    async fn open_agent_session(
        &self,
        request: Request<v1::OpenAgentSessionRequest>,
    ) -> Result<Response<v1::OpenAgentSessionResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.open_session(cluster, request.into_inner()).await
        };
        self.0.answer("OpenAgentSession", work).await
    }

    async fn open_upload(
        &self,
        request: Request<v1::OpenUploadRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            BackupService::open_upload(self, cluster, request.into_inner()).await
        };
        self.0.answer("OpenUpload", work).await
    }

    async fn renew_upload(
        &self,
        request: Request<v1::RenewUploadRequest>,
    ) -> Result<Response<v1::RenewUploadResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.renew(cluster, request.into_inner()).await
        };
        self.0.answer("RenewUpload", work).await
    }

    async fn get_upload_offset(
        &self,
        request: Request<v1::GetUploadOffsetRequest>,
    ) -> Result<Response<v1::GetUploadOffsetResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.offset(cluster, request.into_inner()).await
        };
        self.0.answer("GetUploadOffset", work).await
    }

    async fn upload_bundle(
        &self,
        request: Request<Streaming<v1::UploadBundleRequest>>,
    ) -> Result<Response<v1::UploadBundleResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.upload(cluster, request.into_inner()).await
        };
        self.0.answer("UploadBundle", work).await
    }

    async fn commit_point(
        &self,
        request: Request<v1::CommitPointRequest>,
    ) -> Result<Response<v1::CommitPointResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.commit(cluster, request.into_inner()).await
        };
        self.0.answer("CommitPoint", work).await
    }

    async fn end_upload(
        &self,
        request: Request<v1::EndUploadRequest>,
    ) -> Result<Response<v1::EndUploadResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.end(cluster, request.into_inner()).await
        };
        self.0.answer("EndUpload", work).await
    }

    async fn report_findings(
        &self,
        request: Request<v1::ReportFindingsRequest>,
    ) -> Result<Response<v1::ReportFindingsResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.report(cluster, request.into_inner()).await
        };
        self.0.answer("ReportFindings", work).await
    }
}

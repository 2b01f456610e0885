//! What agents and operators say of keys. No key comes here: public halves, signatures, and wraps,
//! which are sealed.

use coordinator_core::{
    AcquireEpoch, ApproveLineage, AttestShare, BeginLineage, Cluster, Command, FormerKey, Instance,
    KeyOrders, KeysCommand, OpenUpload, OrderKeys, Outcome, RecordKeys, RecoveryPublicKey,
    ReplaceWraps, RotateRecovery, State,
};
use proto::identity::Role;
use proto::v1::keys_server::Keys;
use proto::{ApiError, v1};
use proto_types::{BundleId, ClusterId, Code, Epoch, KeyFingerprint, LeaseId, SigningPublicKey};
use tonic::{Request, Response, Status};

use super::fleet::core_request;
use super::{Shared, convert};
use crate::auth::Caller;
use crate::keeper::Upload;

/// A wraps file is a header of some hundred bytes and two records.
const WRAPS_BYTES_MAX: usize = 64 << 10;
/// The coordinator brings the file in itself: this long is enough.
const LEASE_MILLIS: u64 = 60 * 1000;

/// The `Keys` service.
pub(crate) struct KeysService(pub(crate) Shared);

fn array<const N: usize>(bytes: &[u8], field: &str) -> Result<[u8; N], ApiError> {
    bytes.try_into().map_err(|_| convert::invalid(format!("{field}: expected {N} bytes")))
}

fn byte(number: u32, field: &str) -> Result<u8, ApiError> {
    u8::try_from(number).map_err(|_| convert::invalid(format!("{field}: {number} is too large")))
}

fn signing_key(bytes: &[u8]) -> Result<SigningPublicKey, ApiError> {
    Ok(SigningPublicKey::from_bytes(array(bytes, "signing_key")?))
}

pub(super) fn orders(row: KeyOrders) -> v1::KeyOrders {
    v1::KeyOrders { kek: row.kek, kek_done: row.kek_done, dek: row.dek, dek_done: row.dek_done }
}

pub(super) fn former(state: &State) -> Vec<v1::FormerRecoveryKey> {
    let row = |row: &FormerKey| v1::FormerRecoveryKey {
        hpke: convert::bytes_of(&row.key.hpke),
        signing: convert::bytes_of(&row.key.signing),
        signature: convert::bytes_of(&row.signature),
        since_ms: row.since.as_millis(),
        finished: row.finished,
    };
    state.former_recovery_keys().map(row).collect()
}

fn named<'a>(state: &'a State, name: &str) -> Result<&'a Cluster, ApiError> {
    state.cluster_named(name).ok_or_else(|| {
        ApiError::new(
            Code::ClusterNotFound,
            format!("there is no cluster {name:?}: `strongroom cluster list` lists them"),
        )
    })
}

impl KeysService {
    async fn status(
        &self,
        caller: &Caller,
        stale: bool,
    ) -> Result<v1::GetKeyStatusResponse, ApiError> {
        let only = caller.restricted_to();
        let view = self.0.view(stale).await?;
        let state = &view.state;
        let fleet = state.fleet().ok_or_else(|| super::vanished("fleet"))?;
        let seen = |cluster: &&Cluster| only.is_none_or(|own| own == cluster.id);
        let owed = state.clusters().filter(seen).filter_map(|cluster| {
            let key_bundles: Vec<_> = state
                .key_bundles_owed(&cluster.id)
                .into_iter()
                .map(|(id, sequence)| v1::OwedKeyBundle {
                    key_bundle_id: convert::bytes_of(id.as_bytes()),
                    sequence: sequence.get(),
                })
                .collect();
            let cluster = Some(convert::cluster(cluster));
            (!key_bundles.is_empty()).then_some(v1::OwedKeys { cluster, key_bundles })
        });
        let attested = state.attests().filter(|_| only.is_none());
        let is_admin = caller.operator("see the sealed root key", Role::Admin).is_ok();
        let authority = state.authority();
        Ok(v1::GetKeyStatusResponse {
            read: Some(self.0.read_info(&view, stale)),
            fleet_id: convert::bytes_of(fleet.id.as_bytes()),
            recovery_hpke: convert::bytes_of(&fleet.recovery.hpke),
            recovery_signing: convert::bytes_of(&fleet.recovery.signing),
            former: former(state),
            owed: if state.is_rotating() { owed.collect() } else { Vec::new() },
            attested: attested
                .map(|((set, index), row)| v1::AttestedShare {
                    set: convert::bytes_of(set),
                    index: u32::from(*index),
                    threshold: u32::from(row.threshold),
                    total: u32::from(row.total),
                    at_ms: row.at.as_millis(),
                })
                .collect(),
            attest_overdue: state.attested(state.log_time()).is_overdue,
            clusters: state
                .clusters()
                .filter(seen)
                .map(|cluster| v1::ClusterKeys {
                    cluster: Some(convert::cluster(cluster)),
                    orders: Some(orders(state.key_orders(&cluster.id))),
                    unapproved: state
                        .lineage_of(&cluster.id)
                        .is_some_and(|row| row.unapproved.is_some()),
                })
                .collect(),
            root_certificate: authority
                .map(|row| convert::bytes_of(&row.root_certificate))
                .unwrap_or_default(),
            sealed_root_key: authority
                .filter(|_| is_admin)
                .map(|row| convert::bytes_of(&row.sealed_root_key))
                .unwrap_or_default(),
        })
    }

    async fn keys(
        &self,
        write_id: Option<&v1::WriteId>,
        command: KeysCommand,
    ) -> Result<Outcome, ApiError> {
        self.0.write(write_id, Command::Keys(Box::new(command))).await
    }

    async fn rotate(
        &self,
        message: v1::RotateRecoveryRequest,
    ) -> Result<v1::RotateRecoveryResponse, ApiError> {
        let command = KeysCommand::RotateRecovery(RotateRecovery {
            successor: RecoveryPublicKey {
                hpke: array(&message.hpke, "hpke")?,
                signing: array(&message.signing, "signing")?,
            },
            signature: array(&message.signature, "signature")?,
            sealed_root_key: message.sealed_root_key.to_vec(),
        });
        match self.keys(message.write_id.as_ref(), command).await? {
            Outcome::RecoveryRotated { generation } => {
                Ok(v1::RotateRecoveryResponse { generation })
            }
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    /// Brings the file in under an upload of its own, as any other bundle, and has it take the place
    /// of the older ones.
    async fn replace(
        &self,
        caller: &Caller,
        message: v1::ReplaceWrapsRequest,
    ) -> Result<v1::ReplaceWrapsResponse, ApiError> {
        let view = self.0.view(false).await?;
        let cluster = if message.cluster_name.is_empty() {
            caller.agent()?
        } else {
            caller.operator("replace a cluster's wraps", Role::Admin)?;
            named(&view.state, &message.cluster_name)?.id
        };
        if message.wraps.len() > WRAPS_BYTES_MAX {
            return Err(ApiError::new(
                Code::TooLarge,
                format!("a wraps file of {} bytes: none is so long", message.wraps.len()),
            ));
        }
        let key_bundle = convert::bundle_id(&message.key_bundle_id, "key_bundle_id")?;
        // The lead is read again by the keeper; this is for a clear word before anything is stored.
        convert::write_id(message.write_id.as_ref())?;
        let (lease, index) = self.open(&view.state, cluster).await?;
        let result = self.bring(cluster, key_bundle, lease, index, &message).await;
        if result.is_err() {
            let reason = coordinator_core::UploadEnd::Failed;
            let end = Command::EndUpload(coordinator_core::EndUpload { lease, reason });
            // It ends by itself otherwise.
            let _ = self.0.accepted(core_request(None, end)).await;
        }
        result
    }

    async fn open(
        &self,
        state: &State,
        cluster: ClusterId,
    ) -> Result<(LeaseId, proto_types::LogIndex), ApiError> {
        let row = state.cluster(&cluster).ok_or_else(|| super::vanished("cluster"))?;
        let mut epoch = row.epoch;
        if row.instance.is_none() {
            // No agent of this generation of the fleet: nobody is fenced off by it.
            let mut bytes = [0; 16];
            self.0.env.random.fill(&mut bytes);
            let instance = Instance::from_bytes(bytes);
            let command = Command::AcquireEpoch(AcquireEpoch { cluster, instance });
            match self.0.accepted(core_request(None, command)).await? {
                Outcome::EpochAcquired { epoch: acquired, .. } => epoch = acquired,
                outcome => return Err(super::unexpected(&outcome)),
            }
        }
        let command = Command::OpenUpload(OpenUpload {
            cluster,
            epoch,
            lease: LeaseId::random(&*self.0.env.random),
            parent: row.head.sequence,
            ttl_ms: LEASE_MILLIS,
        });
        match self.0.accepted(core_request(None, command)).await? {
            Outcome::UploadOpened { lease, index, .. } => Ok((lease, index)),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn bring(
        &self,
        cluster: ClusterId,
        key_bundle: BundleId,
        lease: LeaseId,
        index: proto_types::LogIndex,
        message: &v1::ReplaceWrapsRequest,
    ) -> Result<v1::ReplaceWrapsResponse, ApiError> {
        self.0.raft.applied(index).await?;
        let upload = Upload {
            lease,
            lease_index: index,
            bundle: BundleId::of(&message.wraps),
            bytes: message.wraps.len() as u64,
            offset: 0,
        };
        let state = self.0.raft.local().state;
        let _admitted = self.0.uploads.admit(&state, cluster, upload.bundle, upload.bytes)?;
        let piece = futures::stream::iter([Ok(message.wraps.clone())]);
        self.0.keeper.upload(upload, Box::pin(piece)).await?;
        let added = super::backup::describe(&self.0, lease, index, &[upload.bundle]).await?;
        let [wraps] = <[_; 1]>::try_from(added).map_err(|_| super::vanished("wraps"))?;
        let command =
            KeysCommand::ReplaceWraps(Box::new(ReplaceWraps { cluster, key_bundle, lease, wraps }));
        match self.keys(message.write_id.as_ref(), command).await? {
            Outcome::KeysNoted { new } => Ok(v1::ReplaceWrapsResponse { replaced: new }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn attest(
        &self,
        message: v1::AttestShareRequest,
    ) -> Result<v1::AttestShareResponse, ApiError> {
        let command = KeysCommand::AttestShare(AttestShare {
            set: array(&message.set, "set")?,
            key: KeyFingerprint::from_bytes(array(&message.fingerprint, "fingerprint")?),
            index: byte(message.index, "index")?,
            threshold: byte(message.threshold, "threshold")?,
            total: byte(message.total, "total")?,
        });
        self.keys(message.write_id.as_ref(), command).await?;
        Ok(v1::AttestShareResponse {})
    }

    async fn order(
        &self,
        message: v1::OrderKeysRequest,
    ) -> Result<v1::OrderKeysResponse, ApiError> {
        let view = self.0.view(false).await?;
        let cluster = named(&view.state, &message.cluster_name)?.id;
        let (kek, dek) = (message.kek, message.dek);
        let command = KeysCommand::OrderKeys(OrderKeys { cluster, kek, dek });
        self.keys(message.write_id.as_ref(), command).await?;
        let row = self.0.raft.local().state.key_orders(&cluster);
        Ok(v1::OrderKeysResponse { orders: Some(orders(row)) })
    }

    async fn record(
        &self,
        cluster: ClusterId,
        message: v1::RecordKeysRequest,
    ) -> Result<v1::RecordKeysResponse, ApiError> {
        let command = KeysCommand::RecordKeys(RecordKeys {
            cluster,
            epoch: Epoch::new(message.epoch),
            kek: message.kek,
            dek: message.dek,
        });
        self.keys(message.write_id.as_ref(), command).await?;
        Ok(v1::RecordKeysResponse {})
    }

    async fn begin(
        &self,
        cluster: ClusterId,
        message: v1::BeginLineageRequest,
    ) -> Result<v1::BeginLineageResponse, ApiError> {
        let command = KeysCommand::BeginLineage(BeginLineage {
            cluster,
            epoch: Epoch::new(message.epoch),
            lineage: message.lineage,
            signing_key: signing_key(&message.signing_key)?,
            signature: array(&message.signature, "signature")?,
        });
        match self.keys(message.write_id.as_ref(), command).await? {
            Outcome::LineageBegun { lineage, approved } => {
                Ok(v1::BeginLineageResponse { lineage, approved })
            }
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn approve(
        &self,
        message: v1::ApproveLineageRequest,
    ) -> Result<v1::ApproveLineageResponse, ApiError> {
        let view = self.0.view(false).await?;
        let command = KeysCommand::ApproveLineage(ApproveLineage {
            cluster: named(&view.state, &message.cluster_name)?.id,
            signing_key: signing_key(&message.signing_key)?,
        });
        match self.keys(message.write_id.as_ref(), command).await? {
            Outcome::KeysNoted { new } => Ok(v1::ApproveLineageResponse { approved: new }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }
}

#[tonic::async_trait]
impl Keys for KeysService {
    async fn get_key_status(
        &self,
        request: Request<v1::GetKeyStatusRequest>,
    ) -> Result<Response<v1::GetKeyStatusResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            if caller.restricted_to().is_none() {
                caller.operator("see the state of the keys", Role::Viewer)?;
            }
            self.status(&caller, request.get_ref().stale).await
        };
        self.0.answer("GetKeyStatus", work).await
    }

    async fn rotate_recovery(
        &self,
        request: Request<v1::RotateRecoveryRequest>,
    ) -> Result<Response<v1::RotateRecoveryResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("rotate the recovery key", Role::Admin)?;
            self.rotate(request.into_inner()).await
        };
        self.0.answer("RotateRecovery", work).await
    }

    async fn replace_wraps(
        &self,
        request: Request<v1::ReplaceWrapsRequest>,
    ) -> Result<Response<v1::ReplaceWrapsResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.replace(&caller, request.into_inner()).await
        };
        self.0.answer("ReplaceWraps", work).await
    }

    async fn attest_share(
        &self,
        request: Request<v1::AttestShareRequest>,
    ) -> Result<Response<v1::AttestShareResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("attest a share", Role::Operator)?;
            self.attest(request.into_inner()).await
        };
        self.0.answer("AttestShare", work).await
    }

    async fn order_keys(
        &self,
        request: Request<v1::OrderKeysRequest>,
    ) -> Result<Response<v1::OrderKeysResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("have keys changed", Role::Admin)?;
            self.order(request.into_inner()).await
        };
        self.0.answer("OrderKeys", work).await
    }

    async fn record_keys(
        &self,
        request: Request<v1::RecordKeysRequest>,
    ) -> Result<Response<v1::RecordKeysResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.record(cluster, request.into_inner()).await
        };
        self.0.answer("RecordKeys", work).await
    }

    async fn begin_lineage(
        &self,
        request: Request<v1::BeginLineageRequest>,
    ) -> Result<Response<v1::BeginLineageResponse>, Status> {
        let work = async {
            let cluster = self.0.caller(&request)?.agent()?;
            self.begin(cluster, request.into_inner()).await
        };
        self.0.answer("BeginLineage", work).await
    }

    async fn approve_lineage(
        &self,
        request: Request<v1::ApproveLineageRequest>,
    ) -> Result<Response<v1::ApproveLineageResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("approve a signing key", Role::Admin)?;
            self.approve(request.into_inner()).await
        };
        self.0.answer("ApproveLineage", work).await
    }
}

//! What operators ask of the fleet: status, clusters, findings, scrub.

use std::collections::BTreeMap;

use coordinator_core::{
    ClearFinding, Command, ConfirmTime, FindingKey, Outcome, RegisterCluster,
    Request as CoreRequest, State, Subject,
};
use proto::identity::Role;
use proto::v1::fleet_server::Fleet;
use proto::{ApiError, v1};
use proto_types::{ClusterId, Code, LogTime, NodeId, SigningPublicKey};
use tonic::{Request, Response, Status};

use super::{ReceiverStreamOf, Shared};
use super::{bundles, convert, members};
use crate::raft::Published;

/// The `Fleet` service.
pub(crate) struct FleetService(pub(crate) Shared);

/// Cluster names by id, for findings.
fn names(state: &State) -> BTreeMap<ClusterId, String> {
    state.clusters().map(|cluster| (cluster.id, cluster.name.clone())).collect()
}

impl FleetService {
    async fn status(&self, stale: bool) -> Result<v1::GetStatusResponse, ApiError> {
        let view = self.0.view(stale).await?;
        let raft = self.0.raft.status();
        let nodes = self.0.node_statuses(&view).await;
        let state = &view.state;
        let names = names(state);
        let fleet = state.fleet();
        Ok(v1::GetStatusResponse {
            read: Some(self.0.read_info(&view, stale)),
            fleet_id: convert::bytes_of(self.0.config.fleet.id.as_bytes()),
            fleet_name: fleet.map(|f| f.name.clone()).unwrap_or_default(),
            recovery_key_fingerprint: fleet
                .map(|f| convert::bytes_of(f.recovery.fingerprint().as_bytes()))
                .unwrap_or_default(),
            leader_id: raft.leader.map_or(0, NodeId::get),
            term: raft.term,
            log_time_ms: state.log_time().as_millis(),
            nodes,
            clusters: state.clusters().map(|c| cluster_status(state, c.id)).collect(),
            findings: state
                .findings()
                .map(|(key, row)| convert::finding(key, row, &names))
                .collect(),
            change: members::change(&view),
            generation: fleet.map_or(0, |fleet| fleet.generation),
            restoring: state.restore().is_some(),
            absent_bundles: state.absent_bundles().len() as u64,
            last_snapshot: state.last_snapshot().map(bundles::scheduled_snapshot),
            last_good_snapshot: state.last_good_snapshot().map(bundles::scheduled_snapshot),
            level: u32::from(state.level().get()),
            time_frozen_since_ms: state.freeze().map_or(0, |freeze| freeze.since.as_millis()),
        })
    }

    async fn register(
        &self,
        message: v1::RegisterClusterRequest,
    ) -> Result<v1::RegisterClusterResponse, ApiError> {
        let signing_key = SigningPublicKey::from_slice(&message.signing_key)
            .map_err(|_| convert::invalid("signing_key: expected 32 bytes"))?;
        let command = Command::RegisterCluster(RegisterCluster {
            cluster: ClusterId::random(&*self.0.env.random),
            name: message.name,
            signing_key,
            labels: message.labels.into_iter().collect(),
            kube_system_uid: Some(message.kube_system_uid).filter(|uid| !uid.is_empty()),
        });
        let outcome = self.0.write(message.write_id.as_ref(), command).await?;
        let Outcome::ClusterRegistered { cluster } = outcome else {
            return Err(super::unexpected(&outcome));
        };
        let view = self.0.raft.local();
        let row = view.state.cluster(&cluster).ok_or_else(|| super::vanished("cluster"))?;
        Ok(v1::RegisterClusterResponse { cluster: Some(convert::cluster(row)) })
    }
}

fn cluster_status(state: &State, id: ClusterId) -> v1::ClusterStatus {
    let Some(status) = state.cluster_status(&id) else { return v1::ClusterStatus::default() };
    let cluster = status.cluster;
    v1::ClusterStatus {
        cluster: Some(convert::cluster(cluster)),
        newest: status.newest.map(|row| convert::point(state, row, cluster)),
        newest_proved: status.newest_proved.map(|row| convert::point(state, row, cluster)),
        points: status.points,
        stored_bytes: state
            .bundles()
            .filter(|(_, row)| row.facts.cluster == id)
            .map(|(_, row)| row.facts.bytes)
            .sum(),
    }
}

#[tonic::async_trait]
impl Fleet for FleetService {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("see the fleet's status", Role::Viewer)?;
            self.status(request.get_ref().stale).await
        };
        self.0.answer("GetStatus", work).await
    }

    async fn register_cluster(
        &self,
        request: Request<v1::RegisterClusterRequest>,
    ) -> Result<Response<v1::RegisterClusterResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("register a cluster", Role::Admin)?;
            self.register(request.into_inner()).await
        };
        self.0.answer("RegisterCluster", work).await
    }

    async fn list_clusters(
        &self,
        request: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("list clusters", Role::Viewer)?;
            let stale = request.get_ref().stale;
            let view = self.0.view(stale).await?;
            Ok(v1::ListClustersResponse {
                read: Some(self.0.read_info(&view, stale)),
                clusters: view.state.clusters().map(convert::cluster).collect(),
            })
        };
        self.0.answer("ListClusters", work).await
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("add a coordinator", Role::Admin)?;
            self.0.add_node(request.into_inner()).await
        };
        self.0.answer("AddNode", work).await
    }

    async fn promote_node(
        &self,
        request: Request<v1::PromoteNodeRequest>,
    ) -> Result<Response<v1::PromoteNodeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("change who votes", Role::Admin)?;
            self.0.promote_node(request.into_inner()).await
        };
        self.0.answer("PromoteNode", work).await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("remove a coordinator", Role::Admin)?;
            self.0.remove_node(request.into_inner()).await
        };
        self.0.answer("RemoveNode", work).await
    }

    async fn abandon_change(
        &self,
        request: Request<v1::AbandonChangeRequest>,
    ) -> Result<Response<v1::AbandonChangeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("change who votes", Role::Admin)?;
            self.0.abandon_change(request.into_inner()).await
        };
        self.0.answer("AbandonChange", work).await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("choose the leader", Role::Admin)?;
            let node = NodeId::new(request.get_ref().node_id);
            self.0.record_act("transfer-leader", Subject::node(node)).await?;
            self.0.raft.transfer(node).await?;
            Ok(v1::TransferLeaderResponse {})
        };
        self.0.answer("TransferLeader", work).await
    }

    async fn move_node(
        &self,
        request: Request<v1::MoveNodeRequest>,
    ) -> Result<Response<v1::MoveNodeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("move a coordinator", Role::Admin)?;
            self.0.move_node(request.into_inner()).await
        };
        self.0.answer("MoveNode", work).await
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("let a coordinator join", Role::Admin)?;
            self.0.create_join_token(request.into_inner()).await
        };
        self.0.answer("CreateJoinToken", work).await
    }

    type SaveSnapshotStream = ReceiverStreamOf<v1::SnapshotPart>;

    async fn save_snapshot(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("save a snapshot", Role::Operator)?;
            let include_bundles = request.get_ref().include_bundles;
            let what = if include_bundles { "state and bundles" } else { "state" };
            self.0.record_act("save-snapshot", Subject::text(what)).await?;
            self.0.save_snapshot(include_bundles).await
        };
        self.0.answer("SaveSnapshot", work).await
    }

    async fn clear_finding(
        &self,
        request: Request<v1::ClearFindingRequest>,
    ) -> Result<Response<v1::ClearFindingResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("clear a finding", Role::Operator)?;
            let message = request.into_inner();
            let key = FindingKey {
                scope: convert::scope(&message.cluster_id, message.node_id)?,
                kind: message.kind,
                subject: message.subject,
            };
            let command = Command::ClearFinding(ClearFinding { key });
            self.0.write(message.write_id.as_ref(), command).await?;
            Ok(v1::ClearFindingResponse {})
        };
        self.0.answer("ClearFinding", work).await
    }

    async fn set_bundle_home(
        &self,
        request: Request<v1::SetBundleHomeRequest>,
    ) -> Result<Response<v1::SetBundleHomeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("say where bundles are kept", Role::Admin)?;
            self.0.set_bundle_home(request.into_inner()).await
        };
        self.0.answer("SetBundleHome", work).await
    }

    async fn get_bundle_home(
        &self,
        request: Request<v1::GetBundleHomeRequest>,
    ) -> Result<Response<v1::GetBundleHomeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("see where bundles are kept", Role::Viewer)?;
            self.0.bundle_home(request.get_ref().stale).await
        };
        self.0.answer("GetBundleHome", work).await
    }

    async fn confirm_time(
        &self,
        request: Request<v1::ConfirmTimeRequest>,
    ) -> Result<Response<v1::ConfirmTimeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("confirm the time", Role::Admin)?;
            let write_id = request.into_inner().write_id;
            match self.0.write(write_id.as_ref(), Command::ConfirmTime(ConfirmTime)).await? {
                Outcome::TimeConfirmed { was_frozen, time } => {
                    Ok(v1::ConfirmTimeResponse { was_frozen, log_time_ms: time.as_millis() })
                }
                outcome => Err(super::unexpected(&outcome)),
            }
        };
        self.0.answer("ConfirmTime", work).await
    }

    type ScrubNodeStream = ReceiverStreamOf<v1::ScrubProgress>;

    async fn scrub_node(
        &self,
        request: Request<v1::ScrubNodeRequest>,
    ) -> Result<Response<Self::ScrubNodeStream>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("scrub a node", Role::Operator)?;
            let node = match request.get_ref().node_id {
                0 => self.0.config.node_id,
                id => NodeId::new(id),
            };
            self.0.record_act("scrub-node", Subject::node(node)).await?;
            self.0.scrub_stream(node).await
        };
        self.0.answer("ScrubNode", work).await
    }
}

/// A request on behalf of the coordinators themselves or of a session.
pub(crate) const fn core_request(
    session: Option<(proto_types::SessionId, u64)>,
    command: Command,
) -> CoreRequest {
    CoreRequest { session, time: LogTime::ZERO, sender: None, command }
}

/// Checks that a name of a cluster is known.
pub(super) fn cluster_by_name<'a>(
    view: &'a Published,
    name: &str,
) -> Result<&'a coordinator_core::Cluster, ApiError> {
    view.state.cluster_named(name).ok_or_else(|| {
        ApiError::new(
            Code::ClusterNotFound,
            format!(
                "there is no cluster {name:?}; `strongroom cluster list` shows those there are"
            ),
        )
    })
}

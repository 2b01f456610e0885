//! Acts that need a second admin and wait.

use coordinator_core::{
    Command, DecideAct, DelayedAct, DelayedRow, Outcome, RequestAct, SetActDelay, State,
};
use proto::identity::Role;
use proto::v1::acts_server::Acts;
use proto::{ApiError, v1};
use proto_types::LogIndex;
use tonic::{Request, Response, Status};

use super::fleet::cluster_by_name;
use super::{Shared, convert};

/// The `Acts` service.
pub(crate) struct ActsService(pub(crate) Shared);

impl Shared {
    async fn request_act(
        &self,
        message: v1::RequestActRequest,
    ) -> Result<v1::RequestActResponse, ApiError> {
        let what = match (message.delete_cluster.as_str(), message.shorten_delay_ms) {
            (name, 0) if !name.is_empty() => {
                let cluster = cluster_by_name(&self.view(false).await?, name)?.id;
                DelayedAct::DeleteCluster { cluster }
            }
            ("", delay_ms) if delay_ms > 0 => DelayedAct::ShortenDelay { delay_ms },
            _ => {
                return Err(convert::invalid(
                    "delete_cluster, shorten_delay_ms: give one of the two",
                ));
            }
        };
        let command = Command::RequestAct(RequestAct { what });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::ActRequested { act } => Ok(v1::RequestActResponse { act: act.get() }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn decide_act(
        &self,
        message: v1::DecideActRequest,
    ) -> Result<v1::DecideActResponse, ApiError> {
        let act = LogIndex::new(message.act);
        let command = Command::DecideAct(DecideAct { act, approve: message.approve });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::ActDecided { due, .. } => {
                Ok(v1::DecideActResponse { due_ms: due.as_millis() })
            }
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn set_act_delay(
        &self,
        message: v1::SetActDelayRequest,
    ) -> Result<v1::SetActDelayResponse, ApiError> {
        let delay = SetActDelay { delay_ms: message.delay_ms, floor: message.floor };
        match self.write(message.write_id.as_ref(), Command::SetActDelay(delay)).await? {
            Outcome::ActDelaySet { .. } => Ok(v1::SetActDelayResponse {}),
            outcome => Err(super::unexpected(&outcome)),
        }
    }
}

fn waiting(state: &State, act: LogIndex, row: &DelayedRow) -> v1::WaitingAct {
    let (what, cluster, delay_ms) = match &row.what {
        DelayedAct::DeleteCluster { cluster } => ("delete-cluster", Some(cluster), 0),
        DelayedAct::ShortenDelay { delay_ms } => ("shorten-delay", None, *delay_ms),
    };
    let named = cluster.and_then(|cluster| state.cluster(cluster));
    v1::WaitingAct {
        act: act.get(),
        what: what.to_owned(),
        cluster_id: cluster.map(|id| convert::bytes_of(id.as_bytes())).unwrap_or_default(),
        cluster: named.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        delay_ms,
        requested_by: row.requested_by.clone(),
        requested_ms: row.requested.as_millis(),
        approved_by: row.approved_by.clone().unwrap_or_default(),
        due_ms: row.due.as_millis(),
    }
}

#[tonic::async_trait]
impl Acts for ActsService {
    async fn request_act(
        &self,
        request: Request<v1::RequestActRequest>,
    ) -> Result<Response<v1::RequestActResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("ask for this", Role::Admin)?;
            self.0.request_act(request.into_inner()).await
        };
        self.0.answer("RequestAct", work).await
    }

    async fn decide_act(
        &self,
        request: Request<v1::DecideActRequest>,
    ) -> Result<Response<v1::DecideActResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("approve or cancel an act", Role::Admin)?;
            self.0.decide_act(request.into_inner()).await
        };
        self.0.answer("DecideAct", work).await
    }

    async fn set_act_delay(
        &self,
        request: Request<v1::SetActDelayRequest>,
    ) -> Result<Response<v1::SetActDelayResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("say how long acts wait", Role::Admin)?;
            self.0.set_act_delay(request.into_inner()).await
        };
        self.0.answer("SetActDelay", work).await
    }

    async fn list_waiting_acts(
        &self,
        request: Request<v1::ListWaitingActsRequest>,
    ) -> Result<Response<v1::ListWaitingActsResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("see which acts wait", Role::Viewer)?;
            let stale = request.get_ref().stale;
            let view = self.0.view(stale).await?;
            let state = &view.state;
            let delay = state.act_delay();
            Ok(v1::ListWaitingActsResponse {
                read: Some(self.0.read_info(&view, stale)),
                acts: state.acts().map(|(act, row)| waiting(state, act, row)).collect(),
                delay_ms: delay.delay_ms,
                floor: delay.has_floor,
                frozen: state.time_is_frozen(),
            })
        };
        self.0.answer("ListWaitingActs", work).await
    }
}

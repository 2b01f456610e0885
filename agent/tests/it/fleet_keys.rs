//! What the fake fleet answers about keys: only what the agent's own tests ask.

use proto::v1;
use proto::v1::keys_server::Keys;
use proto_types::Code;
use tonic::{Request, Response, Status};

use super::{Node, refuse};

#[tonic::async_trait]
impl Keys for Node {
    async fn record_keys(
        &self,
        request: Request<v1::RecordKeysRequest>,
    ) -> Result<Response<v1::RecordKeysResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        if request.epoch != state.epoch {
            return refuse(Code::StaleEpoch, "a newer agent is active");
        }
        state.orders.kek_done = request.kek;
        state.orders.dek_done = request.dek;
        Ok(Response::new(v1::RecordKeysResponse {}))
    }

    async fn get_key_status(
        &self,
        _: Request<v1::GetKeyStatusRequest>,
    ) -> Result<Response<v1::GetKeyStatusResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn rotate_recovery(
        &self,
        _: Request<v1::RotateRecoveryRequest>,
    ) -> Result<Response<v1::RotateRecoveryResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn replace_wraps(
        &self,
        _: Request<v1::ReplaceWrapsRequest>,
    ) -> Result<Response<v1::ReplaceWrapsResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn attest_share(
        &self,
        _: Request<v1::AttestShareRequest>,
    ) -> Result<Response<v1::AttestShareResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn order_keys(
        &self,
        _: Request<v1::OrderKeysRequest>,
    ) -> Result<Response<v1::OrderKeysResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn begin_lineage(
        &self,
        _: Request<v1::BeginLineageRequest>,
    ) -> Result<Response<v1::BeginLineageResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }

    async fn approve_lineage(
        &self,
        _: Request<v1::ApproveLineageRequest>,
    ) -> Result<Response<v1::ApproveLineageResponse>, Status> {
        refuse(Code::Internal, "not asked in these tests")
    }
}

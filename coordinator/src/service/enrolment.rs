//! Tokens, approvals, revocations and renewals.

use coordinator_core::{
    Command, CreateEnrolToken, DecideEnrolment, EnrolGrant, OperatorRole, Outcome, PartyId,
    RecordCertificate, RevokeParty, State,
};
use proto::authority::{Term, certificate_digest};
use proto::identity::{Identity, Role};
use proto::v1::enrolment_server::Enrolment;
use proto::{ApiError, v1};
use proto_types::{ClusterId, Code, LogTime};
use tonic::{Request, Response, Status};

use super::fleet::cluster_by_name;
use super::{Shared, convert, members};
use crate::auth::Caller;
use crate::authority::Authority;

/// The `Enrolment` service.
pub(crate) struct EnrolmentService(pub(crate) Shared);

fn role_of(word: &str) -> Result<OperatorRole, ApiError> {
    [OperatorRole::Viewer, OperatorRole::Operator, OperatorRole::Admin]
        .into_iter()
        .find(|role| role.as_str() == word)
        .ok_or_else(|| convert::invalid("role: expected viewer, operator or admin"))
}

fn grant_of(message: &v1::CreateEnrolTokenRequest, id: ClusterId) -> Result<EnrolGrant, ApiError> {
    let labels = message.labels.clone().into_iter().collect();
    match (message.cluster.as_str(), message.operator.as_str()) {
        ("", "") => Ok(EnrolGrant::Clusters { labels }),
        (name, "") => Ok(EnrolGrant::Cluster {
            cluster: id,
            name: name.to_owned(),
            labels,
            again: message.again,
        }),
        ("", name) => Ok(EnrolGrant::Operator {
            name: name.to_owned(),
            role: role_of(&message.role)?,
            again: message.again,
        }),
        _ => Err(convert::invalid("cluster, operator: give one of the two")),
    }
}

impl Shared {
    /// The authority that this coordinator certifies with.
    pub(super) fn certifies(&self) -> Result<&Authority, ApiError> {
        self.authority.as_deref().ok_or_else(|| {
            ApiError::new(
                Code::Unavailable,
                "this coordinator holds no certificate authority: ask another one",
            )
        })
    }

    async fn create_enrol_token(
        &self,
        message: v1::CreateEnrolTokenRequest,
    ) -> Result<v1::CreateEnrolTokenResponse, ApiError> {
        let token = <[u8; 32]>::try_from(&message.token_hash[..])
            .map_err(|_| convert::invalid("token_hash: expected 32 bytes"))?;
        let state = self.view(false).await?.state;
        if self.authority.as_ref().is_some_and(|authority| authority.is_owed(&state)) {
            return Err(ApiError::new(
                Code::Unavailable,
                "the fleet was founded this moment and has not recorded its authority: ask again",
            ));
        }
        let command = Command::CreateEnrolToken(Box::new(CreateEnrolToken {
            token,
            grant: grant_of(&message, ClusterId::random(&*self.env.random))?,
            count: message.count,
            ttl_ms: message.ttl_ms,
        }));
        let (cluster, expires) = match self.write(message.write_id.as_ref(), command).await? {
            Outcome::EnrolTokenCreated { cluster, expires } => (cluster, expires),
            outcome => return Err(super::unexpected(&outcome)),
        };
        let root = state.authority().ok_or_else(|| super::vanished("authority"))?;
        Ok(v1::CreateEnrolTokenResponse {
            expires_ms: expires.as_millis(),
            cluster_id: cluster.map(|id| convert::bytes_of(id.as_bytes())).unwrap_or_default(),
            root_sha256: convert::bytes_of(&certificate_digest(&root.root_certificate)),
        })
    }

    async fn enrolments(&self, stale: bool) -> Result<v1::ListEnrolmentsResponse, ApiError> {
        let view = self.view(stale).await?;
        let now = self.raft.log_time_now().await;
        let state = &view.state;
        let nodes = members::known(&view);
        let name_of = |party: &PartyId| match party {
            PartyId::Coordinator(id) => {
                let node = nodes.iter().find(|(node, _)| *node == id);
                node.map(|(_, member)| member.name.clone()).unwrap_or_default()
            }
            PartyId::Agent(id) => state.cluster(id).map(|c| c.name.clone()).unwrap_or_default(),
            PartyId::Operator(name) => name.clone(),
        };
        let parties = state.parties().map(|(party, row)| {
            let (kind, node_id, cluster) = match party {
                PartyId::Coordinator(node) => ("coordinator", node.get(), None),
                PartyId::Agent(cluster) => ("agent", 0, Some(cluster)),
                PartyId::Operator(_) => ("operator", 0, None),
            };
            v1::PartyCertificate {
                kind: kind.to_owned(),
                node_id,
                cluster_id: cluster.map(|c| convert::bytes_of(c.as_bytes())).unwrap_or_default(),
                name: name_of(party),
                role: row.role.map(|role| role.as_str().to_owned()).unwrap_or_default(),
                generation: row.issued,
                revoked: row.is_revoked(),
                since_ms: row.since.as_millis(),
                ends_ms: row.ends.as_millis(),
            }
        });
        Ok(v1::ListEnrolmentsResponse {
            read: Some(self.read_info(&view, stale)),
            parties: parties.collect(),
            tokens: open_tokens(state, now),
            waiting: waiting(state),
        })
    }

    async fn revoke(&self, message: v1::RevokeRequest) -> Result<v1::RevokeResponse, ApiError> {
        let party = match (message.cluster.as_str(), message.operator.as_str()) {
            (name, "") if !name.is_empty() => {
                PartyId::Agent(cluster_by_name(&self.view(false).await?, name)?.id)
            }
            ("", name) if !name.is_empty() => PartyId::Operator(name.to_owned()),
            _ => return Err(convert::invalid("cluster, operator: give one of the two")),
        };
        let command = Command::RevokeParty(RevokeParty { party });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::PartyRevoked { was_known } => Ok(v1::RevokeResponse { was_known }),
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn renew(
        &self,
        caller: &Caller,
        message: v1::RenewCertificateRequest,
    ) -> Result<v1::RenewCertificateResponse, ApiError> {
        let authority = self.certifies()?;
        let now = self.raft.log_time_now().await;
        let party = caller.party();
        let life_ms = self.config.certificates.life_ms(party);
        let ends = now.plus_millis(life_ms).min(authority.intermediate.ends());
        // Before anything is logged for it.
        proto::authority::requested_key(&message.request)?;
        let (id, generation) = (caller.party_id(), caller.generation());
        let command = Command::RecordCertificate(RecordCertificate { party: id, generation, ends });
        let request = super::core_request(None, command);
        match self.accepted(request).await? {
            Outcome::CertificateRecorded { .. } => {}
            outcome => return Err(super::unexpected(&outcome)),
        }
        let identity = Identity { fleet: self.config.fleet.id, party: party.clone() };
        let term = Term { generation, life_ms };
        let random = &*self.env.random;
        let certified = authority.intermediate.certify_request(
            &identity,
            &message.request,
            &term,
            now,
            random,
        )?;
        Ok(v1::RenewCertificateResponse {
            certificate_pem: certified.chain,
            ends_ms: ends.as_millis(),
        })
    }
}

fn open_tokens(state: &State, now: LogTime) -> Vec<v1::OpenToken> {
    let open = state.enrol_tokens().filter(|(_, token)| token.left > 0 && token.expires > now);
    open.map(|(hash, token)| {
        let mut message = v1::OpenToken {
            token_hash: convert::bytes_of(&hash[..8]),
            left: token.left,
            expires_ms: token.expires.as_millis(),
            ..Default::default()
        };
        match &token.grant {
            EnrolGrant::Cluster { name, labels, .. } => {
                message.cluster.clone_from(name);
                message.labels = labels.clone().into_iter().collect();
            }
            EnrolGrant::Operator { name, role, .. } => {
                message.operator.clone_from(name);
                message.role = role.as_str().to_owned();
            }
            EnrolGrant::Clusters { labels } => {
                message.labels = labels.clone().into_iter().collect();
            }
        }
        message
    })
    .collect()
}

fn waiting(state: &State) -> Vec<v1::WaitingAgent> {
    let all = state.waiting().map(|(cluster, row)| v1::WaitingAgent {
        cluster_id: convert::bytes_of(cluster.as_bytes()),
        name: row.name.clone(),
        labels: row.labels.clone().into_iter().collect(),
        signing_key: convert::bytes_of(row.signing_key.as_bytes()),
        kube_system_uid: row.kube_system_uid.clone().unwrap_or_default(),
        since_ms: row.since.as_millis(),
        token_hash: convert::bytes_of(&row.enrolled.token[..8]),
        rejected: row.rejected,
    });
    all.collect()
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn create_enrol_token(
        &self,
        request: Request<v1::CreateEnrolTokenRequest>,
    ) -> Result<Response<v1::CreateEnrolTokenResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("let anybody enrol", Role::Admin)?;
            self.0.create_enrol_token(request.into_inner()).await
        };
        self.0.answer("CreateEnrolToken", work).await
    }

    async fn list_enrolments(
        &self,
        request: Request<v1::ListEnrolmentsRequest>,
    ) -> Result<Response<v1::ListEnrolmentsResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("see who is enrolled", Role::Viewer)?;
            self.0.enrolments(request.get_ref().stale).await
        };
        self.0.answer("ListEnrolments", work).await
    }

    async fn decide_enrolment(
        &self,
        request: Request<v1::DecideEnrolmentRequest>,
    ) -> Result<Response<v1::DecideEnrolmentResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("approve or reject an agent", Role::Admin)?;
            let message = request.into_inner();
            let cluster = convert::cluster_id(&message.cluster_id, "cluster_id")?;
            let command =
                Command::DecideEnrolment(DecideEnrolment { cluster, approve: message.approve });
            match self.0.write(message.write_id.as_ref(), command).await? {
                Outcome::EnrolmentDecided { .. } => Ok(v1::DecideEnrolmentResponse {}),
                outcome => Err(super::unexpected(&outcome)),
            }
        };
        self.0.answer("DecideEnrolment", work).await
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("revoke a certificate", Role::Admin)?;
            self.0.revoke(request.into_inner()).await
        };
        self.0.answer("Revoke", work).await
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.0.renew(&caller, request.into_inner()).await
        };
        self.0.answer("RenewCertificate", work).await
    }
}

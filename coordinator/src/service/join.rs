//! Lets a coordinator join that has nothing but a one-time token. Whoever can connect may ask, so
//! nothing is written for a token that the state does not know, and few are heard at one time.

use coordinator_core::{
    Actor, Command, CreateJoinToken, JoinToken, Outcome, RedeemJoinToken, Refusal, Sender, State,
};
use proto::authority::{Term, certificate_digest, requested_key};
use proto::identity::{Identity, Party};
use proto::v1::join_server::Join;
use proto::{ApiError, v1};
use proto_types::{Code, FleetId, LogTime, NodeId, join_token_hash};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Shared, convert, core_request, members};
use crate::authority::Authority;

/// Strangers heard at one time: each costs a question to a majority, and joins are rare.
const HEARD_MAX: usize = 4;
/// Largest message: a certificate request and a token are below a kilobyte.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// The `Join` service.
pub(crate) struct JoinService {
    shared: Shared,
    heard: Semaphore,
}

fn refused(refusal: &Refusal) -> ApiError {
    ApiError::new(refusal.code(), refusal.to_string())
}

/// The token of this hash. Compared with each in constant time: how long an answer takes says
/// nothing of how near a guess was.
fn known(state: &State, hash: &[u8; 32], now: LogTime) -> Result<JoinToken, ApiError> {
    let mut found = None;
    for (candidate, token) in state.join_tokens() {
        if bool::from(candidate.ct_eq(hash)) {
            found = Some(token.clone());
        }
    }
    // Decided again by `apply`, by the log's own time.
    found.filter(|token| token.expires > now).ok_or_else(|| refused(&Refusal::JoinTokenRefused))
}

impl JoinService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, heard: Semaphore::new(HEARD_MAX) }
    }

    pub(super) const fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Leave to be heard, while it is held.
    pub(super) fn hear(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let busy = |_| ApiError::new(Code::Busy, "others are joining: ask again");
        self.heard.try_acquire().map_err(busy)
    }

    async fn join(&self, message: v1::JoinFleetRequest) -> Result<v1::JoinFleetResponse, ApiError> {
        let _heard = self.hear()?;
        let authority = self.shared.certifies()?;
        let fleet = self.shared.config.fleet.id;
        let secret = Zeroizing::new(message.secret.to_vec());
        let secret = <&[u8; 32]>::try_from(secret.as_slice())
            .map_err(|_| convert::invalid("secret: expected 32 bytes"))?;
        let asked = FleetId::from_slice(&message.fleet_id)
            .map_err(|_| convert::invalid("fleet_id: expected 16 bytes"))?;
        if asked != fleet {
            return Err(ApiError::new(
                Code::WrongFleet,
                format!(
                    "the token is of fleet {}, this is fleet {}: make a token for this fleet",
                    asked.short(),
                    fleet.short()
                ),
            ));
        }
        let hash = join_token_hash(fleet, secret);
        let view = self.shared.view(false).await?;
        let now = self.shared.raft.log_time_now().await;
        let token = known(&view.state, &hash, now)?;
        let key = requested_key(&message.request)?;
        if !message.address.is_empty() && message.address != token.address {
            return Err(convert::invalid(format!(
                "the token is for a coordinator at {}, not at {}: advertise that address, or make \
                 another token",
                token.address, message.address
            )));
        }
        check_root(authority, &view.state)?;
        let command = Command::RedeemJoinToken(RedeemJoinToken { token: hash, key });
        let mut request = core_request(None, command);
        request.sender = Some(self.holder_of(&hash));
        let node = match self.shared.accepted(request).await? {
            Outcome::NodeAdded { node } => node,
            outcome => return Err(super::unexpected(&outcome)),
        };
        self.answer(authority, node, &token, &message.request, now)
    }

    /// Whoever holds a token that the fleet knows, as the audit log names it.
    fn holder_of(&self, hash: &[u8; 32]) -> Sender {
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        let via = self.shared.config.node_id;
        Sender { actor: Actor::Token(first), certificate: None, via }
    }

    fn answer(
        &self,
        authority: &Authority,
        node: NodeId,
        token: &JoinToken,
        request: &[u8],
        now: LogTime,
    ) -> Result<v1::JoinFleetResponse, ApiError> {
        let config = &self.shared.config;
        let identity = Identity { fleet: config.fleet.id, party: Party::Coordinator(node) };
        let env = &self.shared.env;
        let intermediate = &authority.intermediate;
        let term = Term { generation: 0, life_ms: config.certificates.life_ms(&identity.party) };
        let certified =
            intermediate.certify_request(&identity, request, &term, now, &*env.random)?;
        let others = members::known(&self.shared.raft.local());
        let others = others.into_iter().filter(|(id, _)| *id != node).map(|(id, member)| {
            v1::JoinMember { node_id: id.get(), name: member.name, address: member.address }
        });
        tracing::info!(
            event = "node_joins",
            node = node.get(),
            name = token.name,
            address = token.address,
            "a coordinator joins with a token"
        );
        Ok(v1::JoinFleetResponse {
            node_id: node.get(),
            name: token.name.clone(),
            address: token.address.clone(),
            certificate_pem: certified.chain,
            authority_pem: intermediate.chain().to_owned(),
            authority_key_pem: intermediate.key().to_pem().to_string(),
            fleet_name: config.fleet.name.clone(),
            recovery_hpke: convert::bytes_of(&config.fleet.recovery_hpke),
            recovery_signing: convert::bytes_of(&config.fleet.recovery_signing),
            members: others.collect(),
        })
    }
}

/// What this coordinator certifies with must lead to the root that the token pins.
pub(super) fn check_root(authority: &Authority, state: &State) -> Result<(), ApiError> {
    let recorded = state.authority().ok_or_else(|| refused(&Refusal::AuthorityMissing))?;
    if recorded.root_certificate == authority.intermediate.root() {
        return Ok(());
    }
    Err(ApiError::new(
        Code::InvalidConfig,
        "this coordinator's certificate authority is not the fleet's: correct [authority] in its \
         config",
    ))
}

impl Shared {
    pub(super) async fn create_join_token(
        &self,
        message: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, ApiError> {
        let token = <[u8; 32]>::try_from(&message.token_hash[..])
            .map_err(|_| convert::invalid("token_hash: expected 32 bytes"))?;
        let view = self.view(false).await?;
        // The first members are Raft's alone: `apply` does not know them.
        for (node, member) in members::known(&view) {
            let taken = match () {
                () if member.name == message.name => "name",
                () if member.address == message.address => "address",
                () => continue,
            };
            return Err(ApiError::new(
                Code::AlreadyExists,
                format!("the {taken} already belongs to node {node} ({})", member.name),
            ));
        }
        if self.authority.as_ref().is_some_and(|authority| authority.is_owed(&view.state)) {
            return Err(ApiError::new(
                Code::Unavailable,
                "the fleet was founded this moment and has not recorded its authority: ask again",
            ));
        }
        let command = Command::CreateJoinToken(CreateJoinToken {
            token,
            name: message.name,
            address: message.address,
            ttl_ms: message.ttl_ms,
        });
        let expires = match self.write(message.write_id.as_ref(), command).await? {
            Outcome::JoinTokenCreated { expires } => expires,
            outcome => return Err(super::unexpected(&outcome)),
        };
        let root = view.state.authority().map(|authority| &authority.root_certificate);
        let root = root.ok_or_else(|| refused(&Refusal::AuthorityMissing))?;
        Ok(v1::CreateJoinTokenResponse {
            expires_ms: expires.as_millis(),
            root_sha256: convert::bytes_of(&certificate_digest(root)),
        })
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join_fleet(
        &self,
        request: Request<v1::JoinFleetRequest>,
    ) -> Result<Response<v1::JoinFleetResponse>, Status> {
        self.shared.answer("JoinFleet", self.join(request.into_inner())).await
    }

    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        self.shared.answer("Enrol", self.enrol(request.into_inner())).await
    }
}

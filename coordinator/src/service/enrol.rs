//! Lets an agent or an operator in that has nothing but a token. As with coordinators that join,
//! whoever can connect may ask: nothing is written for a token that the state does not know or that
//! is over, few are heard at one time, and all that is refused is refused alike.

use coordinator_core::{
    Actor, Command, EnrolGrant, Enrolment, OperatorRole, Outcome, PartyId, RedeemEnrolToken,
    Refusal, Sender, State,
};
use proto::authority::{Term, requested_key};
use proto::identity::{Identity, Party, Role};
use proto::{ApiError, v1};
use proto_types::{ClusterId, Code, FleetId, LogTime, SigningPublicKey, enrol_token_hash};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::join::{JoinService, check_root};
use super::{Shared, convert, core_request, members};
use crate::audit::Asked;
use crate::authority::Authority;

fn refused() -> ApiError {
    let refusal = Refusal::EnrolTokenRefused;
    ApiError::new(refusal.code(), refusal.to_string())
}

/// Whether a token of this hash can come to anything: it is open, or was used by this key. Compared
/// with each in constant time: how long an answer takes says nothing of how near a guess was.
fn is_good(state: &State, hash: &[u8; 32], key: &[u8; 32], now: LogTime) -> bool {
    let mut open = false;
    for (candidate, token) in state.enrol_tokens() {
        if bool::from(candidate.ct_eq(hash)) {
            open = token.left > 0 && token.expires > now;
        }
    }
    open || state.enrolment(hash, key, now).is_some_and(|found| found != Enrolment::Refused)
}

/// Whoever holds a token, as the audit log names it; all unknown ones are one party, so that
/// guessing cannot fill it.
fn holder(shared: &Shared, state: &State, hash: &[u8; 32]) -> Sender {
    let mut first = [0; 8];
    let is_known = state.enrol_token(hash).is_some()
        || state.parties().any(|(_, row)| row.enrolled.is_some_and(|by| by.token == *hash));
    if is_known {
        first.copy_from_slice(&hash[..8]);
    }
    Sender { actor: Actor::Token(first), certificate: None, via: shared.config.node_id }
}

/// Who is to be certified.
struct Certify {
    party: Party,
    name: String,
    generation: u32,
}

impl JoinService {
    pub(super) async fn enrol(
        &self,
        message: v1::EnrolRequest,
    ) -> Result<v1::EnrolResponse, ApiError> {
        let _heard = self.hear()?;
        let shared = self.shared();
        let authority = shared.certifies()?;
        let fleet = shared.config.fleet.id;
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
        let hash = enrol_token_hash(fleet, secret);
        let key = requested_key(&message.request)?;
        let view = shared.view(false).await?;
        let now = shared.raft.log_time_now().await;
        let sender = holder(shared, &view.state, &hash);
        Asked::by(sender.clone());
        if !is_good(&view.state, &hash, &key, now) {
            return Err(refused());
        }
        check_root(authority, &view.state)?;
        // Who waits asks again and again: that writes nothing.
        let found = match view.state.enrolment(&hash, &key, now) {
            Some(found) => found,
            None => self.redeem(&message, authority, &view.state, hash, key, now, sender).await?,
        };
        let state = shared.view(false).await?.state;
        match found {
            Enrolment::Refused => Err(refused()),
            Enrolment::Waits { cluster } => Ok(v1::EnrolResponse {
                pending: true,
                cluster_id: convert::bytes_of(cluster.as_bytes()),
                fleet_name: shared.config.fleet.name.clone(),
                ..Default::default()
            }),
            Enrolment::Done { party, generation } => {
                let certify = certify(&state, &party, generation)?;
                self.answer_enrolled(authority, certify, &message.request, now)
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn redeem(
        &self,
        message: &v1::EnrolRequest,
        authority: &Authority,
        state: &State,
        token: [u8; 32],
        key: [u8; 32],
        now: LogTime,
        sender: Sender,
    ) -> Result<Enrolment, ApiError> {
        let shared = self.shared();
        let signing_key = if message.signing_key.is_empty() {
            SigningPublicKey::ZERO
        } else {
            SigningPublicKey::from_slice(&message.signing_key)
                .map_err(|_| convert::invalid("signing_key: expected 32 bytes"))?
        };
        let grant = &state.enrol_token(&token).ok_or_else(refused)?.grant;
        // An operator's token must not be used by an agent, nor the other way round: what it would
        // become is not what the sender thinks it is.
        let is_operator = matches!(grant, EnrolGrant::Operator { .. });
        if is_operator != (signing_key == SigningPublicKey::ZERO) {
            return Err(convert::invalid(
                "signing_key: agents send theirs, and operators have none: use the verb that was \
                 printed with the token",
            ));
        }
        let candidate = ClusterId::random(&*shared.env.random);
        let life_ms = match grant {
            EnrolGrant::Operator { name, role, .. } => {
                let party = Party::Operator { name: name.clone(), role: role_of(*role) };
                shared.config.certificates.life_ms(&party)
            }
            EnrolGrant::Cluster { .. } | EnrolGrant::Clusters { .. } => {
                shared.config.certificates.life_ms(&Party::Agent(candidate))
            }
        };
        let command = Command::RedeemEnrolToken(Box::new(RedeemEnrolToken {
            token,
            key,
            name: message.name.clone(),
            candidate,
            signing_key,
            kube_system_uid: Some(message.kube_system_uid.clone()).filter(|uid| !uid.is_empty()),
            ends: now.plus_millis(life_ms).min(authority.intermediate.ends()),
        }));
        let mut request = core_request(None, command);
        request.sender = Some(sender);
        match shared.accepted(request).await? {
            Outcome::EnrolmentPending { cluster } => Ok(Enrolment::Waits { cluster }),
            Outcome::Enrolled { cluster, generation } => {
                let party = match (cluster, grant) {
                    (Some(cluster), _) => PartyId::Agent(cluster),
                    (None, EnrolGrant::Operator { name, .. }) => PartyId::Operator(name.clone()),
                    (None, _) => return Err(super::vanished("token")),
                };
                Ok(Enrolment::Done { party, generation })
            }
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    fn answer_enrolled(
        &self,
        authority: &Authority,
        certify: Certify,
        request: &[u8],
        now: LogTime,
    ) -> Result<v1::EnrolResponse, ApiError> {
        let shared = self.shared();
        let config = &shared.config;
        let Certify { party, name, generation } = certify;
        let term = Term { generation, life_ms: config.certificates.life_ms(&party) };
        let identity = Identity { fleet: config.fleet.id, party };
        let random = &*shared.env.random;
        let certified =
            authority.intermediate.certify_request(&identity, request, &term, now, random)?;
        tracing::info!(event = "enrolled", party = %identity.party, generation, "a party enrolled");
        let (cluster_id, role) = match &identity.party {
            Party::Agent(cluster) => (convert::bytes_of(cluster.as_bytes()), String::new()),
            Party::Operator { role, .. } => (Default::default(), role.as_str().to_owned()),
            Party::Coordinator(_) => return Err(super::vanished("token")),
        };
        let all = members::known(&shared.raft.local()).into_iter().map(|(id, member)| {
            v1::JoinMember { node_id: id.get(), name: member.name, address: member.address }
        });
        Ok(v1::EnrolResponse {
            pending: false,
            cluster_id,
            name,
            role,
            certificate_pem: certified.chain,
            fleet_name: config.fleet.name.clone(),
            recovery_hpke: convert::bytes_of(&config.fleet.recovery_hpke),
            recovery_signing: convert::bytes_of(&config.fleet.recovery_signing),
            members: all.collect(),
        })
    }
}

pub(super) const fn role_of(role: OperatorRole) -> Role {
    match role {
        OperatorRole::Viewer => Role::Viewer,
        OperatorRole::Operator => Role::Operator,
        OperatorRole::Admin => Role::Admin,
    }
}

fn certify(state: &State, party: &PartyId, generation: u32) -> Result<Certify, ApiError> {
    match party {
        PartyId::Agent(cluster) => {
            let row = state.cluster(cluster).ok_or_else(|| super::vanished("cluster"))?;
            Ok(Certify { party: Party::Agent(*cluster), name: row.name.clone(), generation })
        }
        PartyId::Operator(name) => {
            let row = state.party(party).ok_or_else(|| super::vanished("operator"))?;
            let role = role_of(row.role.ok_or_else(|| super::vanished("role"))?);
            let party = Party::Operator { name: name.clone(), role };
            Ok(Certify { party, name: name.clone(), generation })
        }
        PartyId::Coordinator(_) => Err(super::vanished("token")),
    }
}

//! Who calls, and what they may: a table of roles, read before any handler does anything.

use coordinator_core::{Actor, OperatorRole, PartyId, Sender, State};
use proto::ApiError;
use proto::authority::Facts;
use proto::identity::{Identity, Party, Role};
use proto_types::{ClusterId, Code, FleetId, LogTime, NodeId};
use sha2::{Digest, Sha256};
use tonic::{Request, Status};

use crate::{revocation, telemetry};

fn no_certificate() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "the connection has no client certificate: give certificate and key of this fleet",
    )
}

/// In front of every service but the one for those who join: nobody without a certificate gets
/// further, whatever a handler does or forgets to do.
pub(crate) fn require_certificate(request: Request<()>) -> Result<Request<()>, Status> {
    match request.peer_certs() {
        Some(certificates) if !certificates.is_empty() => Ok(request),
        Some(_) | None => {
            let refused = no_certificate();
            // Before anybody is known, refusals are only counted.
            telemetry::request("none", refused.code().as_str(), 0.0);
            telemetry::unauthenticated();
            Err(refused.into())
        }
    }
}

fn party_id(party: &Party) -> PartyId {
    match party {
        Party::Coordinator(node) => PartyId::Coordinator(*node),
        Party::Agent(cluster) => PartyId::Agent(*cluster),
        Party::Operator { name, .. } => PartyId::Operator(name.clone()),
    }
}

/// The caller of a request, proved by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    party: Party,
    /// SHA-256 of the certificate.
    certificate: [u8; 32],
    facts: Facts,
}

impl Caller {
    /// Reads the caller from the connection's certificate.
    pub(crate) fn of<T>(request: &Request<T>, fleet: FleetId) -> Result<Self, ApiError> {
        let certificates = request.peer_certs().ok_or_else(no_certificate)?;
        let leaf = certificates.first().ok_or_else(|| {
            ApiError::new(Code::Unauthenticated, "the client certificate chain is empty")
        })?;
        let certificate = Sha256::digest(leaf).into();
        let facts = Facts::of(leaf)?;
        Self::from_identity(Identity::from_certificate(leaf)?, certificate, facts, fleet)
    }

    /// Whose certificate (DER) it is, and of which generation; `None` where it is nobody's.
    pub(crate) fn party_of(leaf: &[u8]) -> Option<(PartyId, u32)> {
        let party = Identity::from_certificate(leaf).ok()?.party;
        Some((party_id(&party), Facts::of(leaf).ok()?.generation))
    }

    /// Who it is.
    pub(crate) const fn party(&self) -> &Party {
        &self.party
    }

    /// Who it is, as the state names it.
    pub(crate) fn party_id(&self) -> PartyId {
        party_id(&self.party)
    }

    /// The generation of its certificate.
    pub(crate) const fn generation(&self) -> u32 {
        self.facts.generation
    }

    /// Refuses a certificate that was revoked, or has ended since the connection was made.
    pub(crate) fn require_valid(&self, state: &State, now: LogTime) -> Result<(), ApiError> {
        if self.facts.ends <= now {
            return Err(ApiError::new(
                Code::Unauthenticated,
                format!("the certificate of {} has ended: connect with a newer one", self.party),
            ));
        }
        // A coordinator that was removed hears that, and not this.
        let is_coordinator = matches!(self.party, Party::Coordinator(_));
        if !is_coordinator && state.is_void(&self.party_id(), self.facts.generation) {
            return Err(revocation::void());
        }
        Ok(())
    }

    fn from_identity(
        identity: Identity,
        certificate: [u8; 32],
        facts: Facts,
        fleet: FleetId,
    ) -> Result<Self, ApiError> {
        if identity.fleet != fleet {
            return Err(ApiError::new(
                Code::WrongFleet,
                format!(
                    "the certificate is of fleet {}, this is fleet {}: use a certificate of this \
                     fleet",
                    identity.fleet.short(),
                    fleet.short()
                ),
            ));
        }
        Ok(Self { party: identity.party, certificate, facts })
    }

    /// The caller as the audit log names it, authenticated by this coordinator.
    pub(crate) fn sender(&self, via: NodeId) -> Sender {
        let actor = match &self.party {
            Party::Coordinator(node) => Actor::Coordinator(*node),
            Party::Agent(cluster) => Actor::Agent(*cluster),
            Party::Operator { name, role } => Actor::Operator {
                name: name.clone(),
                role: match role {
                    Role::Viewer => OperatorRole::Viewer,
                    Role::Operator => OperatorRole::Operator,
                    Role::Admin => OperatorRole::Admin,
                },
            },
        };
        Sender { actor, certificate: Some(self.certificate), via }
    }

    fn refuse(&self, what: &str, needs: &str) -> ApiError {
        ApiError::new(
            Code::PermissionDenied,
            format!("{} may not {what}: it takes {needs}", self.party),
        )
    }

    /// Another coordinator.
    pub(crate) fn coordinator(&self) -> Result<NodeId, ApiError> {
        match &self.party {
            Party::Coordinator(node) => Ok(*node),
            Party::Agent(_) | Party::Operator { .. } => {
                Err(self.refuse("call this", "a coordinator's certificate"))
            }
        }
    }

    /// An agent; the cluster its certificate names.
    pub(crate) fn agent(&self) -> Result<ClusterId, ApiError> {
        match &self.party {
            Party::Agent(cluster) => Ok(*cluster),
            Party::Coordinator(_) | Party::Operator { .. } => {
                Err(self.refuse("back up", "an agent's certificate"))
            }
        }
    }

    /// An operator of at least this role.
    pub(crate) fn operator(&self, what: &str, least: Role) -> Result<(), ApiError> {
        match &self.party {
            Party::Operator { role, .. } if *role >= least => Ok(()),
            Party::Operator { .. } | Party::Agent(_) | Party::Coordinator(_) => {
                Err(self.refuse(what, &format!("the role {}", least.as_str())))
            }
        }
    }

    /// Whoever may read this cluster's sealed data: operators every one, an agent its own.
    pub(crate) fn reader_of(&self, cluster: ClusterId) -> Result<(), ApiError> {
        match &self.party {
            Party::Operator { .. } => Ok(()),
            Party::Agent(own) if *own == cluster => Ok(()),
            Party::Agent(_) | Party::Coordinator(_) => {
                Err(self
                    .refuse("read this cluster's data", "an operator or the cluster's own agent"))
            }
        }
    }

    /// The only cluster this caller may see, if it is restricted to one.
    pub(crate) const fn restricted_to(&self) -> Option<ClusterId> {
        match &self.party {
            Party::Agent(cluster) => Some(*cluster),
            Party::Coordinator(_) | Party::Operator { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([1; 16]);
    const FACTS: Facts =
        Facts { generation: 2, made: LogTime::ZERO, ends: LogTime::from_millis(9000) };

    fn caller(party: Party) -> Caller {
        Caller::from_identity(Identity { fleet: FLEET, party }, [3; 32], FACTS, FLEET).unwrap()
    }

    #[test]
    fn another_fleet_is_refused() {
        let identity = Identity { fleet: FLEET, party: Party::Coordinator(NodeId::new(1)) };
        let error = Caller::from_identity(identity, [3; 32], FACTS, FleetId::from_bytes([2; 16]))
            .unwrap_err();
        assert_eq!(error.code(), Code::WrongFleet);
    }

    #[test]
    fn each_party_may_do_its_own_and_no_more() {
        let own = ClusterId::from_bytes([7; 16]);
        let other = ClusterId::from_bytes([8; 16]);
        let node = caller(Party::Coordinator(NodeId::new(1)));
        let agent = caller(Party::Agent(own));
        let viewer = caller(Party::Operator { name: "v".into(), role: Role::Viewer });
        let admin = caller(Party::Operator { name: "a".into(), role: Role::Admin });

        assert!(node.coordinator().is_ok());
        assert!(agent.coordinator().is_err());
        assert!(admin.coordinator().is_err());
        assert_eq!(agent.agent().unwrap(), own);
        assert!(admin.agent().is_err());
        assert!(node.agent().is_err());
        assert!(admin.operator("register", Role::Admin).is_ok());
        assert!(viewer.operator("register", Role::Admin).is_err());
        assert!(agent.operator("look", Role::Viewer).is_err());
        assert!(agent.reader_of(own).is_ok());
        assert_eq!(agent.reader_of(other).unwrap_err().code(), Code::PermissionDenied);
        assert!(viewer.reader_of(other).is_ok());
        assert!(node.reader_of(own).is_err());
        assert_eq!(agent.restricted_to(), Some(own));
    }

    #[test]
    fn audit_names_the_party_and_its_certificate() {
        let via = NodeId::new(4);
        let admin = caller(Party::Operator { name: "a".into(), role: Role::Admin });
        let actor = Actor::Operator { name: "a".into(), role: OperatorRole::Admin };
        assert_eq!(admin.sender(via), Sender { actor, certificate: Some([3; 32]), via });
        let cluster = ClusterId::from_bytes([7; 16]);
        assert_eq!(caller(Party::Agent(cluster)).sender(via).actor, Actor::Agent(cluster));
        let node = NodeId::new(1);
        assert_eq!(caller(Party::Coordinator(node)).sender(via).actor, Actor::Coordinator(node));
    }

    #[test]
    fn a_certificate_that_ended_is_refused_on_an_open_connection() {
        let agent = caller(Party::Agent(ClusterId::from_bytes([7; 16])));
        let state = State::new();
        assert!(agent.require_valid(&state, LogTime::from_millis(8999)).is_ok());
        let refused = agent.require_valid(&state, LogTime::from_millis(9000)).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

//! Who is at the other end of a connection, as DNS names in its certificate: rustls checks name
//! constraints on DNS names and not on URIs.
//!
//! ```text
//! <node>.coordinator.<fleet>.strongroom.internal     and  coordinator.<fleet>.strongroom.internal
//! <cluster id>.agent.<fleet>.strongroom.internal
//! <name>.<role>.operator.<fleet>.strongroom.internal
//! ```

use std::fmt;

use proto_types::{ClusterId, Code, FleetId, NodeId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::ApiError;

/// What all names of parties end with.
pub(crate) const SUFFIX: &str = "strongroom.internal";

/// What an operator may do. Ordered: each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Backs up, restores, scrubs.
    Operator,
    /// Registers clusters and changes the fleet.
    Admin,
}

impl Role {
    /// The word in certificates and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The kinds of parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// A member of the fleet.
    Coordinator(NodeId),
    /// The program on a workload cluster.
    Agent(ClusterId),
    /// A person or a program of theirs.
    Operator {
        /// A label that is only shown.
        name: String,
        /// What it may do.
        role: Role,
    },
}

/// A party of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The fleet it belongs to.
    pub fleet: FleetId,
    /// Who it is.
    pub party: Party,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(node) => write!(f, "coordinator {node}"),
            Self::Agent(cluster) => write!(f, "agent of cluster {cluster}"),
            Self::Operator { name, role } => write!(f, "{} {name}", role.as_str()),
        }
    }
}

/// The name every coordinator of a fleet has, which clients verify.
#[must_use]
pub fn coordinator_server_name(fleet: FleetId) -> String {
    format!("coordinator.{fleet}.{SUFFIX}")
}

impl Identity {
    /// The DNS names for this identity's certificate; the first one tells who it is.
    #[must_use]
    pub fn dns_names(&self) -> Vec<String> {
        let fleet = self.fleet;
        match &self.party {
            Party::Coordinator(node) => {
                vec![format!("{node}.coordinator.{fleet}.{SUFFIX}"), coordinator_server_name(fleet)]
            }
            Party::Agent(cluster) => vec![format!("{cluster}.agent.{fleet}.{SUFFIX}")],
            Party::Operator { name, role } => {
                vec![format!("{name}.{}.operator.{fleet}.{SUFFIX}", role.as_str())]
            }
        }
    }

    /// Reads the identity out of a certificate (DER) that TLS has already verified.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it names nobody of strongroom.
    pub fn from_certificate(der: &[u8]) -> Result<Self, ApiError> {
        let wrong = |what: &str| ApiError::new(Code::Unauthenticated, what.to_owned());
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| wrong("the client certificate cannot be read"))?;
        let names = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or_else(|| wrong("the client certificate has no names"))?;
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::DNSName(name) => Self::from_dns_name(name),
                _ => None,
            })
            .ok_or_else(|| wrong("the client certificate names no coordinator, agent or operator"))
    }

    fn from_dns_name(name: &str) -> Option<Self> {
        let labels: Vec<&str> = name.strip_suffix(SUFFIX)?.strip_suffix('.')?.split('.').collect();
        let (party, fleet) = match labels.as_slice() {
            [node, "coordinator", fleet] => (Party::Coordinator(node.parse().ok()?), fleet),
            [cluster, "agent", fleet] => (Party::Agent(cluster.parse().ok()?), fleet),
            [name, role, "operator", fleet] => {
                let role = [Role::Viewer, Role::Operator, Role::Admin]
                    .into_iter()
                    .find(|known| known.as_str() == *role)?;
                (Party::Operator { name: (*name).to_owned(), role }, fleet)
            }
            _ => return None,
        };
        Some(Self { fleet: fleet.parse().ok()?, party })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_through_dns_names() {
        let fleet = FleetId::from_bytes([7; 16]);
        for party in [
            Party::Coordinator(NodeId::new(3)),
            Party::Agent(ClusterId::from_bytes([9; 16])),
            Party::Operator { name: "ann".into(), role: Role::Admin },
        ] {
            let identity = Identity { fleet, party };
            let names = identity.dns_names();
            assert_eq!(Identity::from_dns_name(&names[0]), Some(identity));
        }
        for bad in [
            "example.com",
            "1.coordinator.0707.strongroom.internal",
            "x.root.operator.07070707070707070707070707070707.strongroom.internal",
            "coordinator.07070707070707070707070707070707.strongroom.internal",
        ] {
            assert_eq!(Identity::from_dns_name(bad), None, "{bad}");
        }
    }
}

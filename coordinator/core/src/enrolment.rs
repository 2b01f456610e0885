//! Who has certificates of the fleet: agents and operators that enrolled with a token, and every
//! party that renewed or was revoked. Certificates of a party have a generation; each enrolment
//! begins one, a revocation ends all, and what is older than the least that counts is void.

mod rules;

use std::collections::BTreeMap;

use proto_types::{ClusterId, LogTime, NodeId, SigningPublicKey};

use crate::audit::OperatorRole;
use crate::state::State;

pub(crate) use rules::{adopt, create, decide, forget, redeem, renew, revoke};

/// A party, as certificates name it; operators of one name are one party, whatever their role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartyId {
    /// A member of the fleet.
    Coordinator(NodeId),
    /// The agents of a cluster.
    Agent(ClusterId),
    /// A person or a program of theirs.
    Operator(String),
}

/// What is known of a party's certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartyRow {
    /// Certificates of a smaller generation are void.
    pub least: u32,
    /// The largest generation ever given out; where it is smaller than `least`, the party was revoked.
    pub issued: u32,
    /// Log time when the last certificate was recorded.
    pub since: LogTime,
    /// When that one ends; zero where none was recorded.
    pub ends: LogTime,
    /// The role that the party enrolled with, of an operator.
    pub role: Option<OperatorRole>,
    /// How it enrolled, for a repeat.
    pub enrolled: Option<Enrolled>,
}

impl PartyRow {
    /// Whether nothing that the party has counts.
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        self.issued < self.least
    }
}

/// See [`PartyRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolled {
    /// SHA-256 of the token's secret.
    pub token: [u8; 32],
    /// SHA-256 of the public key that was certified.
    pub key: [u8; 32],
    /// Until when the same is answered again.
    pub until: LogTime,
}

/// What a token lets its holder become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolGrant {
    /// The agent of one cluster.
    Cluster {
        /// The cluster's id: drawn by the proposer for a new one.
        cluster: ClusterId,
        /// Its name.
        name: String,
        /// Its labels, of a new one.
        labels: BTreeMap<String, String>,
        /// It is registered already, and what it has becomes void when the token is used.
        again: bool,
    },
    /// An operator.
    Operator {
        /// The name.
        name: String,
        /// What it may do.
        role: OperatorRole,
        /// The name is enrolled already, and what it has becomes void when the token is used.
        again: bool,
    },
    /// Agents of new clusters, each of which says its name and waits for approval.
    Clusters {
        /// Their labels.
        labels: BTreeMap<String, String>,
    },
}

/// A token by which agents or an operator enrol; known by the SHA-256 of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolToken {
    /// What for.
    pub grant: EnrolGrant,
    /// How often it can still be used.
    pub left: u32,
    /// Log time from which on it is refused.
    pub expires: LogTime,
}

/// An agent that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEnrolment {
    /// The name that it gave its cluster.
    pub name: String,
    /// The labels of its token.
    pub labels: BTreeMap<String, String>,
    /// The key that signs everything it will send.
    pub signing_key: SigningPublicKey,
    /// UID of its `kube-system` namespace, where it is Kubernetes.
    pub kube_system_uid: Option<String>,
    /// How it came, and until when it is kept.
    pub enrolled: Enrolled,
    /// Log time when it came.
    pub since: LogTime,
    /// Whether it was rejected: kept, so that it does not come back by the same token.
    pub rejected: bool,
}

/// See [`crate::Command::CreateEnrolToken`]. The same one again answers the same, until it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateEnrolToken {
    /// SHA-256 of the token's secret, which the coordinators never keep.
    pub token: [u8; 32],
    /// What for.
    pub grant: EnrolGrant,
    /// How often it can be used: once, where it names one party.
    pub count: u32,
    /// Milliseconds until it is refused.
    pub ttl_ms: u64,
}

/// See [`crate::Command::RedeemEnrolToken`]. The same token and key again answer the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedeemEnrolToken {
    /// SHA-256 of the token's secret.
    pub token: [u8; 32],
    /// SHA-256 of the public key to be certified, proved to be the sender's.
    pub key: [u8; 32],
    /// The cluster's name, where the token does not say it; else empty.
    pub name: String,
    /// An id for a cluster that waits, drawn by the proposer.
    pub candidate: ClusterId,
    /// The key that signs everything an agent sends; of an operator zero.
    pub signing_key: SigningPublicKey,
    /// UID of the `kube-system` namespace, where the cluster is Kubernetes.
    pub kube_system_uid: Option<String>,
    /// When the certificate will end.
    pub ends: LogTime,
}

/// See [`crate::Command::RecordCertificate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordCertificate {
    /// Whose.
    pub party: PartyId,
    /// The generation of the certificate that it renews.
    pub generation: u32,
    /// When the new one will end.
    pub ends: LogTime,
}

/// See [`crate::Command::RevokeParty`]. Of a revoked one it answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeParty {
    /// Whose.
    pub party: PartyId,
}

/// See [`crate::Command::DecideEnrolment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecideEnrolment {
    /// The id under which the agent waits.
    pub cluster: ClusterId,
    /// Whether it becomes a cluster of the fleet.
    pub approve: bool,
}

/// What came of a token and a key before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolment {
    /// The party is to be certified.
    Done {
        /// Who.
        party: PartyId,
        /// The generation of its certificates.
        generation: u32,
    },
    /// The agent waits for approval.
    Waits {
        /// The cluster that it will be.
        cluster: ClusterId,
    },
    /// It was rejected, or revoked since.
    Refused,
}

impl State {
    /// All enrolment tokens that are kept, by the SHA-256 of their secret: open, used and over.
    pub fn enrol_tokens(&self) -> impl Iterator<Item = (&[u8; 32], &EnrolToken)> {
        self.enrol_tokens.iter().map(|(hash, token)| (hash, token.as_ref()))
    }

    /// An enrolment token.
    #[must_use]
    pub fn enrol_token(&self, hash: &[u8; 32]) -> Option<&EnrolToken> {
        self.enrol_tokens.get(hash).map(AsRef::as_ref)
    }

    /// All parties of which certificates were recorded or revoked.
    pub fn parties(&self) -> impl Iterator<Item = (&PartyId, &PartyRow)> {
        self.parties.iter().map(|(party, row)| (party, row.as_ref()))
    }

    /// What is known of a party's certificates.
    #[must_use]
    pub fn party(&self, party: &PartyId) -> Option<&PartyRow> {
        self.parties.get(party).map(AsRef::as_ref)
    }

    /// Whether a certificate of this party and generation counts for nothing. (A coordinator is
    /// removed, which is another matter.)
    #[must_use]
    pub fn is_void(&self, party: &PartyId, generation: u32) -> bool {
        self.party(party).is_some_and(|row| generation < row.least)
    }

    /// Agents that wait for approval, or were rejected.
    pub fn waiting(&self) -> impl Iterator<Item = (&ClusterId, &PendingEnrolment)> {
        self.waiting.iter().map(|(cluster, waiting)| (cluster, waiting.as_ref()))
    }

    /// What came of this token and key before, if they came.
    #[must_use]
    pub fn enrolment(&self, token: &[u8; 32], key: &[u8; 32], now: LogTime) -> Option<Enrolment> {
        let same = |enrolled: &Enrolled| {
            enrolled.token == *token && enrolled.key == *key && now < enrolled.until
        };
        let done = self.parties.iter().find(|(_, row)| row.enrolled.as_ref().is_some_and(same));
        if let Some((party, row)) = done {
            return Some(if row.is_revoked() {
                Enrolment::Refused
            } else {
                Enrolment::Done { party: party.clone(), generation: row.issued }
            });
        }
        let (cluster, waits) = self.waiting.iter().find(|(_, row)| same(&row.enrolled))?;
        Some(match waits.rejected {
            true => Enrolment::Refused,
            false => Enrolment::Waits { cluster: *cluster },
        })
    }
}

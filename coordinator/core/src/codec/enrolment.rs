//! What is encoded of enrolment: parties, tokens and agents that wait, in requests and in the state.

use std::collections::BTreeMap;

use prost::Message;
use proto_types::{ClusterId, LogTime, NodeId, SigningPublicKey};

use super::DecodeError;
use super::wire::{At, WireId, WireWord, array, id, present, word};
use crate::enrolment::{
    CreateEnrolToken, DecideEnrolment, EnrolGrant, EnrolToken, Enrolled, PartyId, PartyRow,
    PendingEnrolment, RecordCertificate, RedeemEnrolToken,
};

const ENTRY: &str = "log entry";
const STATE: &str = "state";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireParty {
    /// 1 coordinator, 2 agent, 3 operator.
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Of a coordinator.
    #[prost(uint64, tag = "2")]
    node: u64,
    /// Of an agent.
    #[prost(bytes = "vec", tag = "3")]
    cluster: Vec<u8>,
    /// Of an operator.
    #[prost(string, tag = "4")]
    name: String,
}

impl WireParty {
    pub(super) fn put(party: &PartyId) -> Self {
        let empty = Self::default();
        match party {
            PartyId::Coordinator(node) => Self { kind: 1, node: node.get(), ..empty },
            PartyId::Agent(cluster) => Self { kind: 2, cluster: cluster.put(), ..empty },
            PartyId::Operator(name) => Self { kind: 3, name: name.clone(), ..empty },
        }
    }

    pub(super) fn get(wire: Option<Self>) -> Result<PartyId, DecodeError> {
        let at = At(ENTRY, "party");
        let wire = present(at, wire)?;
        let party = match wire.kind {
            1 => PartyId::Coordinator(NodeId::new(wire.node)),
            2 => PartyId::Agent(id(at, &wire.cluster)?),
            3 => PartyId::Operator(wire.name.clone()),
            _ => return Err(at.invalid()),
        };
        // Fields that mean nothing for this kind must not be there.
        if Self::put(&party) == wire { Ok(party) } else { Err(at.invalid()) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WireGrant {
    /// 1 one cluster, 2 an operator, 3 clusters that wait.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
    #[prost(uint32, tag = "5")]
    role: u32,
    #[prost(bool, tag = "6")]
    again: bool,
}

impl WireGrant {
    fn put(grant: &EnrolGrant) -> Self {
        let empty = Self::default();
        match grant {
            EnrolGrant::Cluster { cluster, name, labels, again } => Self {
                kind: 1,
                cluster: cluster.put(),
                name: name.clone(),
                labels: labels.clone(),
                again: *again,
                ..empty
            },
            EnrolGrant::Operator { name, role, again } => {
                Self { kind: 2, name: name.clone(), role: role.number(), again: *again, ..empty }
            }
            EnrolGrant::Clusters { labels } => Self { kind: 3, labels: labels.clone(), ..empty },
        }
    }

    fn get(wire: Option<Self>) -> Result<EnrolGrant, DecodeError> {
        let at = At(ENTRY, "grant");
        let wire = present(at, wire)?;
        let grant = match wire.kind {
            1 => EnrolGrant::Cluster {
                cluster: id(at, &wire.cluster)?,
                name: wire.name.clone(),
                labels: wire.labels.clone(),
                again: wire.again,
            },
            2 => EnrolGrant::Operator {
                name: wire.name.clone(),
                role: word(at, wire.role)?,
                again: wire.again,
            },
            3 => EnrolGrant::Clusters { labels: wire.labels.clone() },
            _ => return Err(at.invalid()),
        };
        if Self::put(&grant) == wire { Ok(grant) } else { Err(at.invalid()) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WireEnrolled {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(uint64, tag = "3")]
    until_ms: u64,
}

impl WireEnrolled {
    fn put(enrolled: &Enrolled) -> Self {
        Self {
            token: enrolled.token.to_vec(),
            key: enrolled.key.to_vec(),
            until_ms: enrolled.until.as_millis(),
        }
    }

    fn get(wire: &Self) -> Result<Enrolled, DecodeError> {
        Ok(Enrolled {
            token: array(At(STATE, "token"), &wire.token)?,
            key: array(At(STATE, "key"), &wire.key)?,
            until: LogTime::from_millis(wire.until_ms),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireCreate {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    grant: Option<WireGrant>,
    #[prost(uint32, tag = "3")]
    count: u32,
    #[prost(uint64, tag = "4")]
    ttl_ms: u64,
}

pub(super) fn put_create(command: &CreateEnrolToken) -> WireCreate {
    WireCreate {
        token: command.token.to_vec(),
        grant: Some(WireGrant::put(&command.grant)),
        count: command.count,
        ttl_ms: command.ttl_ms,
    }
}

pub(super) fn get_create(wire: WireCreate) -> Result<CreateEnrolToken, DecodeError> {
    Ok(CreateEnrolToken {
        token: array(At(ENTRY, "token"), &wire.token)?,
        grant: WireGrant::get(wire.grant)?,
        count: wire.count,
        ttl_ms: wire.ttl_ms,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRedeem {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bytes = "vec", tag = "4")]
    candidate: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    signing_key: Vec<u8>,
    #[prost(string, optional, tag = "6")]
    kube_system_uid: Option<String>,
    #[prost(uint64, tag = "7")]
    ends_ms: u64,
}

pub(super) fn put_redeem(command: &RedeemEnrolToken) -> WireRedeem {
    WireRedeem {
        token: command.token.to_vec(),
        key: command.key.to_vec(),
        name: command.name.clone(),
        candidate: command.candidate.put(),
        signing_key: command.signing_key.put(),
        kube_system_uid: command.kube_system_uid.clone(),
        ends_ms: command.ends.as_millis(),
    }
}

pub(super) fn get_redeem(wire: WireRedeem) -> Result<RedeemEnrolToken, DecodeError> {
    let at = |field| At(ENTRY, field);
    Ok(RedeemEnrolToken {
        token: array(at("token"), &wire.token)?,
        key: array(at("key"), &wire.key)?,
        name: wire.name,
        candidate: id::<ClusterId>(at("candidate"), &wire.candidate)?,
        signing_key: id::<SigningPublicKey>(at("signing_key"), &wire.signing_key)?,
        kube_system_uid: wire.kube_system_uid,
        ends: LogTime::from_millis(wire.ends_ms),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRecord {
    #[prost(message, optional, tag = "1")]
    party: Option<WireParty>,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(uint64, tag = "3")]
    ends_ms: u64,
}

pub(super) fn put_record(command: &RecordCertificate) -> WireRecord {
    WireRecord {
        party: Some(WireParty::put(&command.party)),
        generation: command.generation,
        ends_ms: command.ends.as_millis(),
    }
}

pub(super) fn get_record(wire: WireRecord) -> Result<RecordCertificate, DecodeError> {
    Ok(RecordCertificate {
        party: WireParty::get(wire.party)?,
        generation: wire.generation,
        ends: LogTime::from_millis(wire.ends_ms),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireDecide {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(bool, tag = "2")]
    approve: bool,
}

pub(super) fn put_decide(command: &DecideEnrolment) -> WireDecide {
    WireDecide { cluster: command.cluster.put(), approve: command.approve }
}

pub(super) fn get_decide(wire: &WireDecide) -> Result<DecideEnrolment, DecodeError> {
    let cluster = id(At(ENTRY, "cluster"), &wire.cluster)?;
    Ok(DecideEnrolment { cluster, approve: wire.approve })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WirePartyRow {
    #[prost(message, optional, tag = "1")]
    party: Option<WireParty>,
    #[prost(uint32, tag = "2")]
    least: u32,
    #[prost(uint32, tag = "3")]
    issued: u32,
    #[prost(uint64, tag = "4")]
    since_ms: u64,
    #[prost(uint64, tag = "5")]
    ends_ms: u64,
    /// 0: none.
    #[prost(uint32, tag = "6")]
    role: u32,
    #[prost(message, optional, tag = "7")]
    enrolled: Option<WireEnrolled>,
}

pub(super) fn put_party(party: &PartyId, row: &PartyRow) -> WirePartyRow {
    WirePartyRow {
        party: Some(WireParty::put(party)),
        least: row.least,
        issued: row.issued,
        since_ms: row.since.as_millis(),
        ends_ms: row.ends.as_millis(),
        role: row.role.map_or(0, |role| role.number()),
        enrolled: row.enrolled.as_ref().map(WireEnrolled::put),
    }
}

pub(super) fn get_party(wire: WirePartyRow) -> Result<(PartyId, PartyRow), DecodeError> {
    let role = match wire.role {
        0 => None,
        number => Some(word(At(STATE, "role"), number)?),
    };
    let row = PartyRow {
        least: wire.least,
        issued: wire.issued,
        since: LogTime::from_millis(wire.since_ms),
        ends: LogTime::from_millis(wire.ends_ms),
        role,
        enrolled: wire.enrolled.as_ref().map(WireEnrolled::get).transpose()?,
    };
    Ok((WireParty::get(wire.party)?, row))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireToken {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    grant: Option<WireGrant>,
    #[prost(uint32, tag = "3")]
    left: u32,
    #[prost(uint64, tag = "4")]
    expires_ms: u64,
}

pub(super) fn put_token(hash: &[u8; 32], token: &EnrolToken) -> WireToken {
    WireToken {
        hash: hash.to_vec(),
        grant: Some(WireGrant::put(&token.grant)),
        left: token.left,
        expires_ms: token.expires.as_millis(),
    }
}

pub(super) fn get_token(wire: WireToken) -> Result<([u8; 32], EnrolToken), DecodeError> {
    let token = EnrolToken {
        grant: WireGrant::get(wire.grant)?,
        left: wire.left,
        expires: LogTime::from_millis(wire.expires_ms),
    };
    Ok((array(At(STATE, "hash"), &wire.hash)?, token))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireWaiting {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
    #[prost(bytes = "vec", tag = "4")]
    signing_key: Vec<u8>,
    #[prost(string, optional, tag = "5")]
    kube_system_uid: Option<String>,
    #[prost(message, optional, tag = "6")]
    enrolled: Option<WireEnrolled>,
    #[prost(uint64, tag = "7")]
    since_ms: u64,
    #[prost(bool, tag = "8")]
    rejected: bool,
}

pub(super) fn put_waiting(cluster: &ClusterId, row: &PendingEnrolment) -> WireWaiting {
    WireWaiting {
        cluster: cluster.put(),
        name: row.name.clone(),
        labels: row.labels.clone(),
        signing_key: row.signing_key.put(),
        kube_system_uid: row.kube_system_uid.clone(),
        enrolled: Some(WireEnrolled::put(&row.enrolled)),
        since_ms: row.since.as_millis(),
        rejected: row.rejected,
    }
}

pub(super) fn get_waiting(wire: WireWaiting) -> Result<(ClusterId, PendingEnrolment), DecodeError> {
    let at = |field| At(STATE, field);
    let row = PendingEnrolment {
        name: wire.name,
        labels: wire.labels,
        signing_key: id(at("signing_key"), &wire.signing_key)?,
        kube_system_uid: wire.kube_system_uid,
        enrolled: WireEnrolled::get(&present(at("enrolled"), wire.enrolled)?)?,
        since: LogTime::from_millis(wire.since_ms),
        rejected: wire.rejected,
    };
    Ok((id(at("cluster"), &wire.cluster)?, row))
}

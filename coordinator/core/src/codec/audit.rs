//! The bytes of the audit log: its entries, who sent a request, and its rows in the state. An entry's
//! bytes are what its hash goes over: there is one encoding of each, and it never changes.

use std::sync::Arc;

use prost::Message;
use proto_types::{LogIndex, LogTime, NodeId, Sequence};

use super::DecodeError;
use super::wire::{
    At, WireId, WireWord, array, array_or_none, id, id_or_none, present, put_or_none,
};
use crate::audit::{
    Actor, Alike, AuditEntry, AuditHead, AuditLog, OperatorRole, Pending, Sender, Subject,
};
use crate::command::RecordAct;
use crate::limits::{AUDIT_ENTRY_BYTES_MAX, AUDIT_SEGMENT_ENTRIES};

pub(super) const WHAT: &str = "audit log";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireActor {
    /// 1 operator, 2 agent, 3 coordinator, 4 token, 5 console.
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Of an operator.
    #[prost(string, tag = "2")]
    name: String,
    /// Of an operator.
    #[prost(uint32, tag = "3")]
    role: u32,
    /// The agent's cluster, or how the token's hash begins.
    #[prost(bytes = "vec", tag = "4")]
    id: Vec<u8>,
    /// Of a coordinator or console.
    #[prost(uint64, tag = "5")]
    node: u64,
}

impl WireActor {
    fn put(actor: &Actor) -> Self {
        let empty = Self::default();
        match actor {
            Actor::Operator { name, role } => {
                Self { kind: 1, name: name.clone(), role: role.number(), ..empty }
            }
            Actor::Agent(cluster) => Self { kind: 2, id: cluster.put(), ..empty },
            Actor::Coordinator(node) => Self { kind: 3, node: node.get(), ..empty },
            Actor::Token(hash) => Self { kind: 4, id: hash.to_vec(), ..empty },
            Actor::Console(node) => Self { kind: 5, node: node.get(), ..empty },
        }
    }

    fn get(wire: Option<Self>) -> Result<Actor, DecodeError> {
        let at = At(WHAT, "actor");
        let wire = present(at, wire)?;
        let node = NodeId::new(wire.node);
        let actor = match wire.kind {
            1 => Actor::Operator {
                name: wire.name.clone(),
                role: OperatorRole::of(wire.role).ok_or_else(|| at.invalid())?,
            },
            2 => Actor::Agent(id(at, &wire.id)?),
            3 => Actor::Coordinator(node),
            4 => Actor::Token(array(at, &wire.id)?),
            5 => Actor::Console(node),
            _ => return Err(DecodeError::Unknown { what: WHAT }),
        };
        // Fields that mean nothing for this kind must not be there.
        if Self::put(&actor) == wire { Ok(actor) } else { Err(at.invalid()) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSender {
    #[prost(message, optional, tag = "1")]
    actor: Option<WireActor>,
    #[prost(bytes = "vec", tag = "2")]
    certificate: Vec<u8>,
    #[prost(uint64, tag = "3")]
    via: u64,
}

impl WireSender {
    pub(super) fn put(sender: &Sender) -> Self {
        Self {
            actor: Some(WireActor::put(&sender.actor)),
            certificate: sender.certificate.map(|digest| digest.to_vec()).unwrap_or_default(),
            via: sender.via.get(),
        }
    }
    pub(super) fn get(wire: Self) -> Result<Sender, DecodeError> {
        Ok(Sender {
            actor: WireActor::get(wire.actor)?,
            certificate: array_or_none(At(WHAT, "certificate"), &wire.certificate)?,
            via: NodeId::new(wire.via),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSubject {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, optional, tag = "2")]
    sequence: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    node: Option<u64>,
    #[prost(string, tag = "4")]
    text: String,
}

impl WireSubject {
    fn put(subject: &Subject) -> Option<Self> {
        (*subject != Subject::default()).then(|| Self {
            cluster: put_or_none(subject.cluster.as_ref()),
            sequence: subject.sequence.map(Sequence::get),
            node: subject.node.map(NodeId::get),
            text: subject.text.clone(),
        })
    }
    fn get(wire: Option<Self>) -> Result<Subject, DecodeError> {
        let at = At(WHAT, "subject");
        let Some(wire) = wire else { return Ok(Subject::default()) };
        let subject = Subject {
            cluster: id_or_none(at, &wire.cluster)?,
            sequence: wire.sequence.map(Sequence::new),
            node: wire.node.map(NodeId::new),
            text: wire.text,
        };
        // None at all is not written.
        if subject == Subject::default() { Err(at.invalid()) } else { Ok(subject) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireEntry {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    time_ms: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(message, optional, tag = "4")]
    sender: Option<WireSender>,
    #[prost(string, tag = "5")]
    act: String,
    #[prost(message, optional, tag = "6")]
    subject: Option<WireSubject>,
    #[prost(string, tag = "7")]
    refusal: String,
    #[prost(uint64, tag = "8")]
    count: u64,
}

pub(super) fn put_entry(entry: &AuditEntry) -> WireEntry {
    WireEntry {
        number: entry.number,
        time_ms: entry.time.as_millis(),
        index: entry.index.get(),
        sender: Some(WireSender::put(&entry.sender)),
        act: entry.act.clone(),
        subject: WireSubject::put(&entry.subject),
        refusal: entry.refusal.clone(),
        count: entry.count,
    }
}

pub(super) fn get_entry(wire: WireEntry) -> Result<AuditEntry, DecodeError> {
    Ok(AuditEntry {
        number: wire.number,
        time: LogTime::from_millis(wire.time_ms),
        index: LogIndex::new(wire.index),
        sender: WireSender::get(present(At(WHAT, "sender"), wire.sender)?)?,
        act: wire.act,
        subject: WireSubject::get(wire.subject)?,
        refusal: wire.refusal,
        count: wire.count,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRecordAct {
    #[prost(string, tag = "1")]
    act: String,
    #[prost(message, optional, tag = "2")]
    subject: Option<WireSubject>,
    #[prost(string, tag = "3")]
    refusal: String,
    #[prost(uint64, tag = "4")]
    count: u64,
}

pub(super) fn put_record(command: &RecordAct) -> WireRecordAct {
    WireRecordAct {
        act: command.act.clone(),
        subject: WireSubject::put(&command.subject),
        refusal: command.refusal.clone(),
        count: command.count,
    }
}

pub(super) fn get_record(wire: WireRecordAct) -> Result<RecordAct, DecodeError> {
    Ok(RecordAct {
        act: wire.act,
        subject: WireSubject::get(wire.subject)?,
        refusal: wire.refusal,
        count: wire.count,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireLog {
    #[prost(uint64, tag = "1")]
    base: u64,
    #[prost(bytes = "vec", tag = "2")]
    base_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    head: u64,
    #[prost(bytes = "vec", tag = "4")]
    head_hash: Vec<u8>,
}

pub(super) fn put_log(log: &AuditLog) -> WireLog {
    WireLog {
        base: log.base.number,
        base_hash: log.base.hash.to_vec(),
        head: log.head.number,
        head_hash: log.head.hash.to_vec(),
    }
}

pub(super) fn get_log(wire: &WireLog) -> Result<AuditLog, DecodeError> {
    let at = |field| At(WHAT, field);
    let base = AuditHead { number: wire.base, hash: array(at("base"), &wire.base_hash)? };
    let head = AuditHead { number: wire.head, hash: array(at("head"), &wire.head_hash)? };
    let length = head.number.checked_sub(base.number).ok_or_else(|| at("head").invalid())?;
    let segment = AUDIT_SEGMENT_ENTRIES as u64;
    if head.number == 0 || !base.number.is_multiple_of(segment) || length >= segment {
        return Err(at("head").invalid());
    }
    Ok(AuditLog { base, head, ..AuditLog::default() })
}

/// Adds an encoded entry after the last one that was read.
pub(super) fn add_entry(log: &mut AuditLog, encoded: Vec<u8>) -> Result<(), DecodeError> {
    if encoded.len() > AUDIT_ENTRY_BYTES_MAX || log.tail.len() >= AUDIT_SEGMENT_ENTRIES {
        return Err(At(WHAT, "entry").invalid());
    }
    log.tail.push_back(Arc::from(encoded));
    Ok(())
}

/// The entries that were read lead from the last closed segment to the head, and nowhere else.
pub(super) fn check_log(log: &AuditLog) -> Result<(), DecodeError> {
    let mut at = log.base;
    for encoded in &log.tail {
        at.follow(encoded).map_err(|_| At(WHAT, "entry").invalid())?;
    }
    if at != log.head || (at.number == 0 && !log.pending.is_empty()) {
        let what = "the audit log's entries do not lead to its head";
        return Err(DecodeError::Contradiction { what });
    }
    Ok(())
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WirePending {
    /// The last one's.
    #[prost(message, optional, tag = "1")]
    sender: Option<WireSender>,
    #[prost(string, tag = "2")]
    act: String,
    #[prost(string, tag = "3")]
    code: String,
    #[prost(uint64, tag = "4")]
    since_ms: u64,
    #[prost(uint64, tag = "5")]
    count: u64,
    #[prost(message, optional, tag = "6")]
    subject: Option<WireSubject>,
}

pub(super) fn put_pending((actor, act, code): &Alike, row: &Pending) -> WirePending {
    let sender = Sender { actor: actor.clone(), certificate: row.certificate, via: row.via };
    WirePending {
        sender: Some(WireSender::put(&sender)),
        act: act.clone(),
        code: code.clone(),
        since_ms: row.since.as_millis(),
        count: row.count,
        subject: WireSubject::put(&row.subject),
    }
}

pub(super) fn get_pending(wire: WirePending) -> Result<(Alike, Pending), DecodeError> {
    let sender = WireSender::get(present(At(WHAT, "sender"), wire.sender)?)?;
    let row = Pending {
        since: LogTime::from_millis(wire.since_ms),
        count: wire.count,
        certificate: sender.certificate,
        via: sender.via,
        subject: WireSubject::get(wire.subject)?,
    };
    Ok(((sender.actor, wire.act, wire.code), row))
}

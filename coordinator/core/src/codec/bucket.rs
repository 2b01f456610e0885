//! What is encoded of the bundles' home, the bucket's objects and the scheduled snapshots, in
//! requests and in the state.

use prost::Message;
use proto_types::{BundleId, LogIndex, LogTime};

use super::DecodeError;
use super::wire::{
    At, WireId, WireWord, array_or_none, id, id_or_none, ids, put_ids, put_or_none, word,
};
use crate::command::{AnnounceObject, RecordObjects, SetBundleHome};
use crate::rows::{Home, ObjectRow, SnapshotRow};

const ENTRY: &str = "log entry";
const STATE: &str = "state";

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct WireSetBundleHome {
    /// 0: the move is over.
    #[prost(uint32, tag = "1")]
    to: u32,
    /// The move that is over; else 0.
    #[prost(uint64, tag = "2")]
    began: u64,
}

pub(super) fn put_home(command: SetBundleHome) -> WireSetBundleHome {
    match command {
        SetBundleHome::Begin { to } => WireSetBundleHome { to: to.number(), began: 0 },
        SetBundleHome::Settle { began } => WireSetBundleHome { to: 0, began: began.get() },
    }
}

pub(super) fn get_home(wire: &WireSetBundleHome) -> Result<SetBundleHome, DecodeError> {
    match (wire.to, wire.began) {
        (0, began) => Ok(SetBundleHome::Settle { began: LogIndex::new(began) }),
        (to, 0) => Ok(SetBundleHome::Begin { to: word(At(ENTRY, "home"), to)? }),
        _ => Err(At(ENTRY, "began").invalid()),
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAnnounceObject {
    #[prost(bytes = "vec", tag = "1")]
    lease: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    bundle: Vec<u8>,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

pub(super) fn put_announce(command: &AnnounceObject) -> WireAnnounceObject {
    WireAnnounceObject {
        lease: command.lease.put(),
        bundle: command.bundle.put(),
        bytes: command.bytes,
    }
}

pub(super) fn get_announce(wire: &WireAnnounceObject) -> Result<AnnounceObject, DecodeError> {
    Ok(AnnounceObject {
        lease: id(At(ENTRY, "lease"), &wire.lease)?,
        bundle: id(At(ENTRY, "bundle"), &wire.bundle)?,
        bytes: wire.bytes,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRecordObjects {
    #[prost(uint64, tag = "1")]
    began: u64,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    present: Vec<u8>,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "3")]
    absent: Vec<u8>,
    /// Bundle ids, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    gone: Vec<u8>,
    /// Their generations.
    #[prost(uint64, repeated, tag = "5")]
    generations: Vec<u64>,
}

pub(super) fn put_record(command: &RecordObjects) -> WireRecordObjects {
    WireRecordObjects {
        began: command.began.get(),
        present: put_ids(&command.present),
        absent: put_ids(&command.absent),
        gone: put_ids(command.gone.iter().map(|(_, bundle)| bundle)),
        generations: command.gone.iter().map(|(generation, _)| generation.get()).collect(),
    }
}

pub(super) fn get_record(wire: &WireRecordObjects) -> Result<RecordObjects, DecodeError> {
    let gone: Vec<BundleId> = ids(At(ENTRY, "gone"), &wire.gone)?;
    if gone.len() != wire.generations.len() {
        return Err(At(ENTRY, "generations").invalid());
    }
    let generations = wire.generations.iter().copied().map(LogIndex::new);
    Ok(RecordObjects {
        began: LogIndex::new(wire.began),
        present: ids(At(ENTRY, "present"), &wire.present)?,
        absent: ids(At(ENTRY, "absent"), &wire.absent)?,
        gone: generations.zip(gone).collect(),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSnapshot {
    #[prost(uint64, tag = "1")]
    due_ms: u64,
    #[prost(uint64, tag = "2")]
    ended_ms: u64,
    #[prost(string, tag = "3")]
    target: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(uint64, tag = "6")]
    term: u64,
    #[prost(uint64, tag = "7")]
    bytes: u64,
    #[prost(uint64, tag = "8")]
    took_ms: u64,
    #[prost(bytes = "vec", tag = "9")]
    sha256: Vec<u8>,
    #[prost(string, tag = "10")]
    problem: String,
}

pub(super) fn put_snapshot(row: &SnapshotRow) -> WireSnapshot {
    WireSnapshot {
        due_ms: row.due.as_millis(),
        ended_ms: row.ended.as_millis(),
        target: row.target.clone(),
        name: row.name.clone(),
        index: row.index.get(),
        term: row.term,
        bytes: row.bytes,
        took_ms: row.took_ms,
        sha256: row.sha256.map(|digest| digest.to_vec()).unwrap_or_default(),
        problem: row.problem.clone(),
    }
}

pub(super) fn get_snapshot(
    what: &'static str,
    wire: WireSnapshot,
) -> Result<SnapshotRow, DecodeError> {
    Ok(SnapshotRow {
        due: LogTime::from_millis(wire.due_ms),
        ended: LogTime::from_millis(wire.ended_ms),
        target: wire.target,
        name: wire.name,
        index: LogIndex::new(wire.index),
        term: wire.term,
        bytes: wire.bytes,
        took_ms: wire.took_ms,
        sha256: array_or_none(At(what, "sha256"), &wire.sha256)?,
        problem: wire.problem,
    })
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct WireHome {
    #[prost(uint32, tag = "1")]
    to: u32,
    #[prost(uint64, tag = "2")]
    began: u64,
    #[prost(uint64, tag = "3")]
    copies: u64,
    #[prost(bool, tag = "4")]
    settled: bool,
    #[prost(uint64, tag = "5")]
    changed: u64,
}

pub(super) fn put_home_row(home: &Home) -> WireHome {
    WireHome {
        to: home.to.number(),
        began: home.began.get(),
        copies: home.copies.get(),
        settled: home.settled,
        changed: home.changed.get(),
    }
}

pub(super) fn get_home_row(wire: &WireHome) -> Result<Home, DecodeError> {
    let home = Home {
        to: word(At(STATE, "home"), wire.to)?,
        began: LogIndex::new(wire.began),
        copies: LogIndex::new(wire.copies),
        settled: wire.settled,
        changed: LogIndex::new(wire.changed),
    };
    // What nobody ever decided is not written.
    if home == Home::default() { Err(At(STATE, "home").invalid()) } else { Ok(home) }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireObject {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(bytes = "vec", tag = "2")]
    bundle: Vec<u8>,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    /// The upload; empty: it is to be deleted.
    #[prost(bytes = "vec", tag = "4")]
    lease: Vec<u8>,
}

pub(super) fn put_object(key: &(LogIndex, BundleId), row: &ObjectRow) -> WireObject {
    WireObject {
        generation: key.0.get(),
        bundle: key.1.put(),
        bytes: row.bytes,
        lease: put_or_none(row.lease.as_ref()),
    }
}

pub(super) fn get_object(
    wire: &WireObject,
) -> Result<((LogIndex, BundleId), ObjectRow), DecodeError> {
    let key = (LogIndex::new(wire.generation), id(At(STATE, "object"), &wire.bundle)?);
    let lease = id_or_none(At(STATE, "object's lease"), &wire.lease)?;
    Ok((key, ObjectRow { bytes: wire.bytes, lease }))
}

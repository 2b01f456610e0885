//! What is encoded of keys, in requests and in the state.

use prost::{Message, Oneof};
use proto_types::{ClusterId, Epoch, KeyFingerprint, LogTime, SigningPublicKey};

use super::DecodeError;
use super::request::{WireAddedBundle, get_added, put_added};
use super::wire::{At, WireId, WireRecovery, array, id, ids, present, put_ids};
use crate::keys::{
    ApproveLineage, Attest, AttestShare, BeginLineage, FormerKey, KeyOrders, KeysCommand, Lineage,
    OrderKeys, RecordKeys, ReplaceWraps, RotateRecovery,
};

const ENTRY: &str = "log entry";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireKeys {
    #[prost(oneof = "WireKeysCommand", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    command: Option<WireKeysCommand>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireKeysCommand {
    #[prost(message, tag = "1")]
    RotateRecovery(WireRotate),
    #[prost(message, tag = "2")]
    ReplaceWraps(WireReplace),
    #[prost(message, tag = "3")]
    FinishRotation(WireFinish),
    #[prost(message, tag = "4")]
    BeginLineage(WireBegin),
    #[prost(message, tag = "5")]
    ApproveLineage(WireApprove),
    #[prost(message, tag = "6")]
    OrderKeys(WireOrder),
    #[prost(message, tag = "7")]
    RecordKeys(WireRecord),
    #[prost(message, tag = "8")]
    AttestShare(WireAttestShare),
}

#[derive(Clone, PartialEq, Message)]
struct WireRotate {
    #[prost(message, optional, tag = "1")]
    successor: Option<WireRecovery>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    sealed_root_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireReplace {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key_bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    lease: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    wraps: Option<WireAddedBundle>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WireFinish {}

#[derive(Clone, PartialEq, Message)]
struct WireBegin {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint32, tag = "3")]
    lineage: u32,
    #[prost(bytes = "vec", tag = "4")]
    signing_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireApprove {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signing_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireOrder {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(bool, tag = "2")]
    kek: bool,
    #[prost(bool, tag = "3")]
    dek: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireRecord {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    kek: u64,
    #[prost(uint64, tag = "4")]
    dek: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireAttestShare {
    #[prost(bytes = "vec", tag = "1")]
    set: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(uint32, tag = "3")]
    index: u32,
    #[prost(uint32, tag = "4")]
    threshold: u32,
    #[prost(uint32, tag = "5")]
    total: u32,
}

pub(super) fn put(command: &KeysCommand) -> WireKeys {
    let command = match command {
        KeysCommand::RotateRecovery(c) => WireKeysCommand::RotateRecovery(WireRotate {
            successor: Some(WireRecovery::put(&c.successor)),
            signature: c.signature.to_vec(),
            sealed_root_key: c.sealed_root_key.clone(),
        }),
        KeysCommand::ReplaceWraps(c) => WireKeysCommand::ReplaceWraps(WireReplace {
            cluster: c.cluster.put(),
            key_bundle: c.key_bundle.put(),
            lease: c.lease.put(),
            wraps: Some(put_added(&c.wraps)),
        }),
        KeysCommand::FinishRotation => WireKeysCommand::FinishRotation(WireFinish {}),
        KeysCommand::BeginLineage(c) => WireKeysCommand::BeginLineage(WireBegin {
            cluster: c.cluster.put(),
            epoch: c.epoch.get(),
            lineage: c.lineage,
            signing_key: c.signing_key.put(),
            signature: c.signature.to_vec(),
        }),
        KeysCommand::ApproveLineage(c) => WireKeysCommand::ApproveLineage(WireApprove {
            cluster: c.cluster.put(),
            signing_key: c.signing_key.put(),
        }),
        KeysCommand::OrderKeys(c) => WireKeysCommand::OrderKeys(WireOrder {
            cluster: c.cluster.put(),
            kek: c.kek,
            dek: c.dek,
        }),
        KeysCommand::RecordKeys(c) => WireKeysCommand::RecordKeys(WireRecord {
            cluster: c.cluster.put(),
            epoch: c.epoch.get(),
            kek: c.kek,
            dek: c.dek,
        }),
        KeysCommand::AttestShare(c) => WireKeysCommand::AttestShare(WireAttestShare {
            set: c.set.to_vec(),
            key: c.key.as_bytes().to_vec(),
            index: u32::from(c.index),
            threshold: u32::from(c.threshold),
            total: u32::from(c.total),
        }),
    };
    WireKeys { command: Some(command) }
}

fn byte(at: At, number: u32) -> Result<u8, DecodeError> {
    u8::try_from(number).map_err(|_| at.invalid())
}

pub(super) fn get(wire: WireKeys) -> Result<KeysCommand, DecodeError> {
    let at = |field| At(ENTRY, field);
    Ok(match wire.command.ok_or(DecodeError::Unknown { what: ENTRY })? {
        WireKeysCommand::RotateRecovery(c) => KeysCommand::RotateRecovery(RotateRecovery {
            successor: WireRecovery::get(at("successor"), c.successor)?,
            signature: array(at("signature"), &c.signature)?,
            sealed_root_key: c.sealed_root_key,
        }),
        WireKeysCommand::ReplaceWraps(c) => KeysCommand::ReplaceWraps(Box::new(ReplaceWraps {
            cluster: id(at("cluster"), &c.cluster)?,
            key_bundle: id(at("key_bundle"), &c.key_bundle)?,
            lease: id(at("lease"), &c.lease)?,
            wraps: get_added(present(at("wraps"), c.wraps)?)?,
        })),
        WireKeysCommand::FinishRotation(WireFinish {}) => KeysCommand::FinishRotation,
        WireKeysCommand::BeginLineage(c) => KeysCommand::BeginLineage(BeginLineage {
            cluster: id(at("cluster"), &c.cluster)?,
            epoch: Epoch::new(c.epoch),
            lineage: c.lineage,
            signing_key: id(at("signing_key"), &c.signing_key)?,
            signature: array(at("signature"), &c.signature)?,
        }),
        WireKeysCommand::ApproveLineage(c) => KeysCommand::ApproveLineage(ApproveLineage {
            cluster: id(at("cluster"), &c.cluster)?,
            signing_key: id(at("signing_key"), &c.signing_key)?,
        }),
        WireKeysCommand::OrderKeys(c) => KeysCommand::OrderKeys(OrderKeys {
            cluster: id(at("cluster"), &c.cluster)?,
            kek: c.kek,
            dek: c.dek,
        }),
        WireKeysCommand::RecordKeys(c) => KeysCommand::RecordKeys(RecordKeys {
            cluster: id(at("cluster"), &c.cluster)?,
            epoch: Epoch::new(c.epoch),
            kek: c.kek,
            dek: c.dek,
        }),
        WireKeysCommand::AttestShare(c) => KeysCommand::AttestShare(AttestShare {
            set: array(at("set"), &c.set)?,
            key: KeyFingerprint::from_bytes(array(at("key"), &c.key)?),
            index: byte(at("index"), c.index)?,
            threshold: byte(at("threshold"), c.threshold)?,
            total: byte(at("total"), c.total)?,
        }),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireFormer {
    #[prost(message, optional, tag = "1")]
    key: Option<WireRecovery>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(uint64, tag = "3")]
    since_ms: u64,
    #[prost(bool, tag = "4")]
    finished: bool,
}

pub(super) fn put_former(row: &FormerKey) -> WireFormer {
    WireFormer {
        key: Some(WireRecovery::put(&row.key)),
        signature: row.signature.to_vec(),
        since_ms: row.since.as_millis(),
        finished: row.finished,
    }
}

pub(super) fn get_former(wire: WireFormer) -> Result<FormerKey, DecodeError> {
    let at = |field| At("former key row", field);
    Ok(FormerKey {
        key: WireRecovery::get(at("key"), wire.key)?,
        signature: array(at("signature"), &wire.signature)?,
        since: LogTime::from_millis(wire.since_ms),
        finished: wire.finished,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAttest {
    #[prost(bytes = "vec", tag = "1")]
    set: Vec<u8>,
    #[prost(uint32, tag = "2")]
    index: u32,
    #[prost(uint64, tag = "3")]
    at_ms: u64,
    #[prost(uint32, tag = "4")]
    threshold: u32,
    #[prost(uint32, tag = "5")]
    total: u32,
}

pub(super) fn put_attest((set, index): ([u8; 5], u8), row: Attest) -> WireAttest {
    WireAttest {
        set: set.to_vec(),
        index: u32::from(index),
        at_ms: row.at.as_millis(),
        threshold: u32::from(row.threshold),
        total: u32::from(row.total),
    }
}

pub(super) fn get_attest(wire: &WireAttest) -> Result<(([u8; 5], u8), Attest), DecodeError> {
    let at = |field| At("attest row", field);
    let key = (array(at("set"), &wire.set)?, byte(at("index"), wire.index)?);
    let row = Attest {
        at: LogTime::from_millis(wire.at_ms),
        threshold: byte(at("threshold"), wire.threshold)?,
        total: byte(at("total"), wire.total)?,
    };
    Ok((key, row))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireOrders {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    kek: u64,
    #[prost(uint64, tag = "3")]
    kek_done: u64,
    #[prost(uint64, tag = "4")]
    dek: u64,
    #[prost(uint64, tag = "5")]
    dek_done: u64,
}

pub(super) fn put_orders(cluster: &ClusterId, row: KeyOrders) -> WireOrders {
    WireOrders {
        cluster: cluster.put(),
        kek: row.kek,
        kek_done: row.kek_done,
        dek: row.dek,
        dek_done: row.dek_done,
    }
}

pub(super) fn get_orders(wire: &WireOrders) -> Result<(ClusterId, KeyOrders), DecodeError> {
    let row = KeyOrders {
        kek: wire.kek,
        kek_done: wire.kek_done,
        dek: wire.dek,
        dek_done: wire.dek_done,
    };
    Ok((id(At("key orders row", "cluster"), &wire.cluster)?, row))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireLineage {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    /// Keys, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    former: Vec<u8>,
    #[prost(uint64, optional, tag = "3")]
    unapproved_ms: Option<u64>,
}

pub(super) fn put_lineage(cluster: &ClusterId, row: &Lineage) -> WireLineage {
    WireLineage {
        cluster: cluster.put(),
        former: put_ids::<SigningPublicKey>(&row.former),
        unapproved_ms: row.unapproved.map(LogTime::as_millis),
    }
}

pub(super) fn get_lineage(wire: &WireLineage) -> Result<(ClusterId, Lineage), DecodeError> {
    let at = |field| At("lineage row", field);
    let row = Lineage {
        former: ids(at("former"), &wire.former)?,
        unapproved: wire.unapproved_ms.map(LogTime::from_millis),
    };
    Ok((id(at("cluster"), &wire.cluster)?, row))
}

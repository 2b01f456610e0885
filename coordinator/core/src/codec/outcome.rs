//! Outcomes, as answers travel and as sessions keep them. One flat message: `kind` says which
//! outcome it is and with it which fields mean something; all others are left out.

use prost::Message;
use proto_types::{Epoch, LogIndex, LogTime, NodeId, Sequence};

use super::DecodeError;
use super::refusal::{self, WireRefusal};
use super::wire::{At, WireId, id, id_or_none, level, present, put_or_none};
use crate::outcome::Outcome;

const WHAT: &str = "outcome";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireOutcome {
    /// Numbers are never reused.
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Fleet, cluster or lease.
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    manifest: Vec<u8>,
    /// Epoch, sequence, node or level.
    #[prost(uint64, tag = "4")]
    number: u64,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(uint64, tag = "6")]
    time_ms: u64,
    /// Ended or changed.
    #[prost(uint64, tag = "7")]
    done: u64,
    /// Skipped or unknown.
    #[prost(uint64, tag = "8")]
    left: u64,
    /// Was live, is new, existed, or was done.
    #[prost(bool, tag = "9")]
    flag: bool,
    #[prost(message, optional, tag = "10")]
    refusal: Option<WireRefusal>,
}

pub(super) fn to_wire(outcome: &Outcome) -> WireOutcome {
    let empty = WireOutcome::default();
    match outcome {
        Outcome::Refused(refusal) => {
            WireOutcome { kind: 1, refusal: Some(refusal::to_wire(refusal)), ..empty }
        }
        Outcome::FleetReady { fleet } => WireOutcome { kind: 2, id: fleet.put(), ..empty },
        Outcome::ClusterRegistered { cluster } => {
            WireOutcome { kind: 3, id: cluster.put(), ..empty }
        }
        Outcome::EpochAcquired { cluster, epoch } => {
            WireOutcome { kind: 4, id: cluster.put(), number: epoch.get(), ..empty }
        }
        Outcome::UploadOpened { lease, index, parent_manifest, expires } => WireOutcome {
            kind: 5,
            id: lease.put(),
            index: index.get(),
            manifest: parent_manifest.put(),
            time_ms: expires.as_millis(),
            ..empty
        },
        Outcome::ReadOpened { lease, index, expires } => WireOutcome {
            kind: 6,
            id: lease.put(),
            index: index.get(),
            time_ms: expires.as_millis(),
            ..empty
        },
        Outcome::LeaseRenewed { lease, expires } => {
            WireOutcome { kind: 7, id: lease.put(), time_ms: expires.as_millis(), ..empty }
        }
        Outcome::LeaseEnded { lease, was_live } => {
            WireOutcome { kind: 8, id: lease.put(), flag: *was_live, ..empty }
        }
        Outcome::Committed { cluster, sequence, manifest, index, time } => WireOutcome {
            kind: 9,
            id: cluster.put(),
            number: sequence.get(),
            manifest: manifest.put(),
            index: index.get(),
            time_ms: time.as_millis(),
            ..empty
        },
        Outcome::Expired { ended, skipped } => {
            WireOutcome { kind: 10, done: *ended, left: *skipped, ..empty }
        }
        Outcome::HoldersRecorded { changed, unknown } => {
            WireOutcome { kind: 11, done: *changed, left: *unknown, ..empty }
        }
        Outcome::FindingRaised { new } => WireOutcome { kind: 12, flag: *new, ..empty },
        Outcome::FindingCleared { existed } => WireOutcome { kind: 13, flag: *existed, ..empty },
        Outcome::NodeAdded { node } => WireOutcome { kind: 14, number: node.get(), ..empty },
        Outcome::ChangeBegun => WireOutcome { kind: 15, ..empty },
        Outcome::ChangeSealed => WireOutcome { kind: 16, ..empty },
        Outcome::ChangeEnded { done } => WireOutcome { kind: 17, flag: *done, ..empty },
        Outcome::NodeRemoved { node } => WireOutcome { kind: 18, number: node.get(), ..empty },
        Outcome::SnapshotSealed { index } => WireOutcome { kind: 19, index: index.get(), ..empty },
        Outcome::RestoreBegun { restore, index, received } => WireOutcome {
            kind: 24,
            id: restore.put(),
            index: index.get(),
            done: *received,
            ..empty
        },
        Outcome::RestoreReceived { received } => WireOutcome { kind: 25, done: *received, ..empty },
        Outcome::Restored { generation } => {
            WireOutcome { kind: 26, number: u64::from(*generation), ..empty }
        }
        Outcome::RecoveredByForce { number } => WireOutcome { kind: 36, number: *number, ..empty },
        Outcome::NodeMoved { node } => WireOutcome { kind: 37, number: node.get(), ..empty },
        Outcome::BundleHomeSet { began, settled } => {
            WireOutcome { kind: 28, index: began.get(), flag: *settled, ..empty }
        }
        Outcome::ObjectAnnounced { generation } => {
            WireOutcome { kind: 29, index: generation.get(), ..empty }
        }
        Outcome::ObjectsRecorded { changed, unknown } => {
            WireOutcome { kind: 30, done: *changed, left: *unknown, ..empty }
        }
        Outcome::SnapshotRecorded { recorded } => {
            WireOutcome { kind: 31, flag: *recorded, ..empty }
        }
        Outcome::AuthoritySet => WireOutcome { kind: 20, ..empty },
        Outcome::JoinTokenCreated { expires } => {
            WireOutcome { kind: 21, time_ms: expires.as_millis(), ..empty }
        }
        Outcome::LevelRaised { level } => {
            WireOutcome { kind: 32, number: u64::from(level.get()), ..empty }
        }
        Outcome::TimeFrozen { new } => WireOutcome { kind: 33, flag: *new, ..empty },
        Outcome::TimeConfirmed { was_frozen, time } => {
            WireOutcome { kind: 34, flag: *was_frozen, time_ms: time.as_millis(), ..empty }
        }
        Outcome::ActRecorded { number } => WireOutcome { kind: 44, number: *number, ..empty },
        Outcome::KeysNoted { new } => WireOutcome { kind: 55, flag: *new, ..empty },
        Outcome::RecoveryRotated { generation } => {
            WireOutcome { kind: 56, number: u64::from(*generation), ..empty }
        }
        Outcome::LineageBegun { lineage, approved } => {
            WireOutcome { kind: 57, number: u64::from(*lineage), flag: *approved, ..empty }
        }
        Outcome::KeysOrdered { kek, dek } => {
            WireOutcome { kind: 58, done: *kek, left: *dek, ..empty }
        }
        Outcome::EnrolTokenCreated { cluster, expires } => WireOutcome {
            kind: 45,
            id: put_or_none(cluster.as_ref()),
            time_ms: expires.as_millis(),
            ..empty
        },
        Outcome::Enrolled { cluster, generation } => WireOutcome {
            kind: 46,
            id: put_or_none(cluster.as_ref()),
            number: u64::from(*generation),
            ..empty
        },
        Outcome::EnrolmentPending { cluster } => {
            WireOutcome { kind: 47, id: cluster.put(), ..empty }
        }
        Outcome::CertificateRecorded { generation } => {
            WireOutcome { kind: 48, number: u64::from(*generation), ..empty }
        }
        Outcome::PartyRevoked { was_known } => WireOutcome { kind: 49, flag: *was_known, ..empty },
        Outcome::EnrolmentDecided { approved } => {
            WireOutcome { kind: 50, flag: *approved, ..empty }
        }
        Outcome::ActRequested { act } => WireOutcome { kind: 51, index: act.get(), ..empty },
        Outcome::ActDecided { approved, due } => {
            WireOutcome { kind: 52, flag: *approved, time_ms: due.as_millis(), ..empty }
        }
        Outcome::ActPerformed => WireOutcome { kind: 53, ..empty },
        Outcome::ActDelaySet { delay_ms } => WireOutcome { kind: 54, number: *delay_ms, ..empty },
    }
}

pub(super) fn from_wire(wire: WireOutcome) -> Result<Outcome, DecodeError> {
    let at = |field| At(WHAT, field);
    let index = LogIndex::new(wire.index);
    let time = LogTime::from_millis(wire.time_ms);
    let generation = || u32::try_from(wire.number).map_err(|_| at("generation").invalid());
    let outcome = match wire.kind {
        1 => Outcome::Refused(refusal::from_wire(present(at("refusal"), wire.refusal.clone())?)?),
        2 => Outcome::FleetReady { fleet: id(at("fleet"), &wire.id)? },
        3 => Outcome::ClusterRegistered { cluster: id(at("cluster"), &wire.id)? },
        4 => Outcome::EpochAcquired {
            cluster: id(at("cluster"), &wire.id)?,
            epoch: Epoch::new(wire.number),
        },
        5 => Outcome::UploadOpened {
            lease: id(at("lease"), &wire.id)?,
            index,
            parent_manifest: id(at("parent_manifest"), &wire.manifest)?,
            expires: time,
        },
        6 => Outcome::ReadOpened { lease: id(at("lease"), &wire.id)?, index, expires: time },
        7 => Outcome::LeaseRenewed { lease: id(at("lease"), &wire.id)?, expires: time },
        8 => Outcome::LeaseEnded { lease: id(at("lease"), &wire.id)?, was_live: wire.flag },
        9 => Outcome::Committed {
            cluster: id(at("cluster"), &wire.id)?,
            sequence: Sequence::new(wire.number),
            manifest: id(at("manifest"), &wire.manifest)?,
            index,
            time,
        },
        10 => Outcome::Expired { ended: wire.done, skipped: wire.left },
        11 => Outcome::HoldersRecorded { changed: wire.done, unknown: wire.left },
        12 => Outcome::FindingRaised { new: wire.flag },
        13 => Outcome::FindingCleared { existed: wire.flag },
        14 => Outcome::NodeAdded { node: NodeId::new(wire.number) },
        15 => Outcome::ChangeBegun,
        16 => Outcome::ChangeSealed,
        17 => Outcome::ChangeEnded { done: wire.flag },
        18 => Outcome::NodeRemoved { node: NodeId::new(wire.number) },
        19 => Outcome::SnapshotSealed { index },
        24 => Outcome::RestoreBegun {
            restore: id(at("restore"), &wire.id)?,
            index,
            received: wire.done,
        },
        25 => Outcome::RestoreReceived { received: wire.done },
        26 => Outcome::Restored { generation: generation()? },
        36 => Outcome::RecoveredByForce { number: wire.number },
        37 => Outcome::NodeMoved { node: NodeId::new(wire.number) },
        28 => Outcome::BundleHomeSet { began: index, settled: wire.flag },
        29 => Outcome::ObjectAnnounced { generation: index },
        30 => Outcome::ObjectsRecorded { changed: wire.done, unknown: wire.left },
        31 => Outcome::SnapshotRecorded { recorded: wire.flag },
        20 => Outcome::AuthoritySet,
        21 => Outcome::JoinTokenCreated { expires: time },
        32 => Outcome::LevelRaised { level: level(at("level"), wire.number)? },
        33 => Outcome::TimeFrozen { new: wire.flag },
        34 => Outcome::TimeConfirmed { was_frozen: wire.flag, time },
        44 => Outcome::ActRecorded { number: wire.number },
        55 => Outcome::KeysNoted { new: wire.flag },
        56 => Outcome::RecoveryRotated {
            generation: u32::try_from(wire.number).map_err(|_| at("generation").invalid())?,
        },
        57 => Outcome::LineageBegun {
            lineage: u32::try_from(wire.number).map_err(|_| at("lineage").invalid())?,
            approved: wire.flag,
        },
        58 => Outcome::KeysOrdered { kek: wire.done, dek: wire.left },
        45 => Outcome::EnrolTokenCreated {
            cluster: id_or_none(at("cluster"), &wire.id)?,
            expires: time,
        },
        46 => Outcome::Enrolled {
            cluster: id_or_none(at("cluster"), &wire.id)?,
            generation: generation()?,
        },
        47 => Outcome::EnrolmentPending { cluster: id(at("cluster"), &wire.id)? },
        48 => Outcome::CertificateRecorded { generation: generation()? },
        49 => Outcome::PartyRevoked { was_known: wire.flag },
        50 => Outcome::EnrolmentDecided { approved: wire.flag },
        51 => Outcome::ActRequested { act: index },
        52 => Outcome::ActDecided { approved: wire.flag, due: time },
        53 => Outcome::ActPerformed,
        54 => Outcome::ActDelaySet { delay_ms: wire.number },
        _ => return Err(DecodeError::Unknown { what: WHAT }),
    };
    // Fields that mean nothing for this kind must not be there.
    if to_wire(&outcome) == wire { Ok(outcome) } else { Err(at("kind").invalid()) }
}

//! Refusals, within outcomes. Flat like them: `kind` says which fields mean something.

use prost::Message;
use proto_types::{Epoch, LogIndex, NodeId, Sequence};

use super::DecodeError;
use super::wire::{At, WireId, id, level, present};
use crate::refusal::{
    Field, HeaderField, HeaderProblem, KeysProblem, Limit, Refusal, RestoreProblem, Role,
};

const WHAT: &str = "refusal";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRefusal {
    /// Numbers are never reused.
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Fleet, cluster, lease, session, bundle, or how a bundle begins.
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    /// The first missing key.
    #[prost(bytes = "vec", tag = "3")]
    dek: Vec<u8>,
    /// Name or UID.
    #[prost(string, tag = "4")]
    text: String,
    /// Field, limit, role or header's problem or field.
    #[prost(uint32, tag = "5")]
    word: u32,
    /// What was offered, what there is, or the node.
    #[prost(uint64, tag = "6")]
    have: u64,
    /// What it should have been.
    #[prost(uint64, tag = "7")]
    want: u64,
}

pub(super) fn to_wire(refusal: &Refusal) -> WireRefusal {
    let empty = WireRefusal::default();
    match refusal {
        Refusal::FleetMissing => WireRefusal { kind: 1, ..empty },
        Refusal::FleetExists { fleet, name } => {
            WireRefusal { kind: 2, id: fleet.put(), text: name.clone(), ..empty }
        }
        Refusal::InvalidField { field } => WireRefusal { kind: 3, word: field.to_tag(), ..empty },
        Refusal::LimitReached { limit, have, max } => {
            WireRefusal { kind: 4, word: limit.to_tag(), have: *have, want: *max, ..empty }
        }
        Refusal::ClusterExists { cluster } => WireRefusal { kind: 5, id: cluster.put(), ..empty },
        Refusal::ClusterNameTaken { name, cluster } => {
            WireRefusal { kind: 6, id: cluster.put(), text: name.clone(), ..empty }
        }
        Refusal::KubeSystemUidTaken { uid, cluster } => {
            WireRefusal { kind: 7, id: cluster.put(), text: uid.clone(), ..empty }
        }
        Refusal::ClusterUnknown { cluster } => WireRefusal { kind: 8, id: cluster.put(), ..empty },
        Refusal::PointUnknown { cluster, sequence } => {
            WireRefusal { kind: 9, id: cluster.put(), have: sequence.get(), ..empty }
        }
        Refusal::StaleEpoch { cluster, offered, current } => WireRefusal {
            kind: 10,
            id: cluster.put(),
            have: offered.get(),
            want: current.get(),
            ..empty
        },
        Refusal::StaleHead { cluster, offered, head } => WireRefusal {
            kind: 11,
            id: cluster.put(),
            have: offered.get(),
            want: head.get(),
            ..empty
        },
        Refusal::ParentManifestDiffers { cluster, head } => {
            WireRefusal { kind: 12, id: cluster.put(), want: head.get(), ..empty }
        }
        Refusal::LeaseGone { lease } => WireRefusal { kind: 13, id: lease.put(), ..empty },
        Refusal::LeaseExists { lease } => WireRefusal { kind: 14, id: lease.put(), ..empty },
        Refusal::LeaseOfAnother { lease } => WireRefusal { kind: 15, id: lease.put(), ..empty },
        Refusal::LeaseRequired => WireRefusal { kind: 16, ..empty },
        Refusal::UploadFirst => WireRefusal { kind: 99, ..empty },
        Refusal::SessionExpired { session, number } => {
            WireRefusal { kind: 17, id: session.put(), have: *number, ..empty }
        }
        Refusal::FirstPointUnchanged { cluster } => {
            WireRefusal { kind: 18, id: cluster.put(), ..empty }
        }
        Refusal::BadStatement { cluster, sequence } => {
            WireRefusal { kind: 19, id: cluster.put(), have: sequence.get(), ..empty }
        }
        Refusal::HeaderRefused { bundle, problem } => {
            WireRefusal { kind: 20, id: bundle.put(), word: problem.to_tag(), ..empty }
        }
        Refusal::HeaderMismatch { bundle, field } => {
            WireRefusal { kind: 21, id: bundle.put(), word: field.to_tag(), ..empty }
        }
        Refusal::BundleRepeated { bundle } => WireRefusal { kind: 22, id: bundle.put(), ..empty },
        Refusal::DroppedUnknown { prefix } => WireRefusal { kind: 23, id: prefix.put(), ..empty },
        Refusal::RoleMissing { role, bundle } => {
            WireRefusal { kind: 24, id: bundle.put(), word: role.to_tag(), ..empty }
        }
        Refusal::RoleWrong { role, bundle } => {
            WireRefusal { kind: 25, id: bundle.put(), word: role.to_tag(), ..empty }
        }
        Refusal::Surplus { bundle } => WireRefusal { kind: 26, id: bundle.put(), ..empty },
        Refusal::KeysMissing { key_bundle, missing, first } => WireRefusal {
            kind: 27,
            id: key_bundle.put(),
            dek: first.put(),
            have: *missing,
            ..empty
        },
        Refusal::BundleNotDurable { bundle, have, need } => {
            WireRefusal { kind: 28, id: bundle.put(), have: *have, want: *need, ..empty }
        }
        Refusal::NodeUnknown { node } => WireRefusal { kind: 29, have: node.get(), ..empty },
        Refusal::NodeWasRemoved { node } => WireRefusal { kind: 30, have: node.get(), ..empty },
        Refusal::NodeNameTaken { name, node } => {
            WireRefusal { kind: 31, have: node.get(), text: name.clone(), ..empty }
        }
        Refusal::NodeVotes { node } => WireRefusal { kind: 32, have: node.get(), ..empty },
        Refusal::ChangeUnderWay => WireRefusal { kind: 33, ..empty },
        Refusal::ChangeNotOneStep => WireRefusal { kind: 34, ..empty },
        Refusal::NoChange => WireRefusal { kind: 35, ..empty },
        Refusal::RestoreRefused { problem } => {
            WireRefusal { kind: 44, word: problem.to_tag(), ..empty }
        }
        Refusal::RestoreUnderWay { restore } => {
            WireRefusal { kind: 45, id: restore.put(), ..empty }
        }
        Refusal::SessionEnded { cluster } => WireRefusal { kind: 46, id: cluster.put(), ..empty },
        Refusal::NotTheOnlyVoter { node } => WireRefusal { kind: 68, have: node.get(), ..empty },
        Refusal::NodeAddressTaken { address, node } => {
            WireRefusal { kind: 69, have: node.get(), text: address.clone(), ..empty }
        }
        Refusal::HomeNotReady { missing } => WireRefusal { kind: 52, have: *missing, ..empty },
        Refusal::HomeChanged => WireRefusal { kind: 53, ..empty },
        Refusal::BundlesOnDisks => WireRefusal { kind: 54, ..empty },
        Refusal::ObjectUnknown { bundle } => WireRefusal { kind: 55, id: bundle.put(), ..empty },
        Refusal::JoinTokenRefused => WireRefusal { kind: 36, ..empty },
        Refusal::AuthorityExists => WireRefusal { kind: 37, ..empty },
        Refusal::AuthorityMissing => WireRefusal { kind: 38, ..empty },
        Refusal::LevelTooLow { needed, active } => WireRefusal {
            kind: 60,
            have: u64::from(active.get()),
            want: u64::from(needed.get()),
            ..empty
        },
        Refusal::TimeFrozen => WireRefusal { kind: 61, ..empty },
        Refusal::KeysRefused { problem } => {
            WireRefusal { kind: 82, word: problem.to_tag(), ..empty }
        }
        Refusal::EnrolTokenRefused => WireRefusal { kind: 70, ..empty },
        Refusal::SigningKeyDiffers { cluster } => {
            WireRefusal { kind: 71, id: cluster.put(), ..empty }
        }
        Refusal::CertificateVoid => WireRefusal { kind: 72, ..empty },
        Refusal::OwnCertificate => WireRefusal { kind: 73, ..empty },
        Refusal::AlreadyEnrolled { name } => WireRefusal { kind: 74, text: name.clone(), ..empty },
        Refusal::NotEnrolled { name } => WireRefusal { kind: 75, text: name.clone(), ..empty },
        Refusal::NobodyWaits { cluster } => WireRefusal { kind: 76, id: cluster.put(), ..empty },
        Refusal::ActUnknown { act } => WireRefusal { kind: 77, have: act.get(), ..empty },
        Refusal::SecondAdminNeeded => WireRefusal { kind: 78, ..empty },
        Refusal::ActNotDue { act } => WireRefusal { kind: 79, have: act.get(), ..empty },
        Refusal::ActBlocked { act } => WireRefusal { kind: 80, have: act.get(), ..empty },
    }
}

pub(super) fn from_wire(wire: WireRefusal) -> Result<Refusal, DecodeError> {
    let at = |field| At(WHAT, field);
    let cluster = || id(at("cluster"), &wire.id);
    let lease = || id(at("lease"), &wire.id);
    let bundle = || id(at("bundle"), &wire.id);
    let text = || wire.text.clone();
    let node = NodeId::new(wire.have);
    // Fields that mean nothing for the kind are noticed with the outcome around it.
    Ok(match wire.kind {
        1 => Refusal::FleetMissing,
        2 => Refusal::FleetExists { fleet: id(at("fleet"), &wire.id)?, name: text() },
        3 => Refusal::InvalidField { field: present(at("field"), Field::from_tag(wire.word))? },
        4 => Refusal::LimitReached {
            limit: present(at("limit"), Limit::from_tag(wire.word))?,
            have: wire.have,
            max: wire.want,
        },
        5 => Refusal::ClusterExists { cluster: cluster()? },
        6 => Refusal::ClusterNameTaken { name: text(), cluster: cluster()? },
        7 => Refusal::KubeSystemUidTaken { uid: text(), cluster: cluster()? },
        8 => Refusal::ClusterUnknown { cluster: cluster()? },
        9 => Refusal::PointUnknown { cluster: cluster()?, sequence: Sequence::new(wire.have) },
        10 => Refusal::StaleEpoch {
            cluster: cluster()?,
            offered: Epoch::new(wire.have),
            current: Epoch::new(wire.want),
        },
        11 => Refusal::StaleHead {
            cluster: cluster()?,
            offered: Sequence::new(wire.have),
            head: Sequence::new(wire.want),
        },
        12 => {
            Refusal::ParentManifestDiffers { cluster: cluster()?, head: Sequence::new(wire.want) }
        }
        13 => Refusal::LeaseGone { lease: lease()? },
        14 => Refusal::LeaseExists { lease: lease()? },
        15 => Refusal::LeaseOfAnother { lease: lease()? },
        16 => Refusal::LeaseRequired,
        99 => Refusal::UploadFirst,
        17 => Refusal::SessionExpired { session: id(at("session"), &wire.id)?, number: wire.have },
        18 => Refusal::FirstPointUnchanged { cluster: cluster()? },
        19 => Refusal::BadStatement { cluster: cluster()?, sequence: Sequence::new(wire.have) },
        20 => Refusal::HeaderRefused {
            bundle: bundle()?,
            problem: present(at("problem"), HeaderProblem::from_tag(wire.word))?,
        },
        21 => Refusal::HeaderMismatch {
            bundle: bundle()?,
            field: present(at("field"), HeaderField::from_tag(wire.word))?,
        },
        22 => Refusal::BundleRepeated { bundle: bundle()? },
        23 => Refusal::DroppedUnknown { prefix: id(at("prefix"), &wire.id)? },
        24 => Refusal::RoleMissing {
            role: present(at("role"), Role::from_tag(wire.word))?,
            bundle: bundle()?,
        },
        25 => Refusal::RoleWrong {
            role: present(at("role"), Role::from_tag(wire.word))?,
            bundle: bundle()?,
        },
        26 => Refusal::Surplus { bundle: bundle()? },
        27 => Refusal::KeysMissing {
            key_bundle: bundle()?,
            missing: wire.have,
            first: id(at("dek"), &wire.dek)?,
        },
        28 => Refusal::BundleNotDurable { bundle: bundle()?, have: wire.have, need: wire.want },
        29 => Refusal::NodeUnknown { node },
        30 => Refusal::NodeWasRemoved { node },
        31 => Refusal::NodeNameTaken { name: text(), node },
        32 => Refusal::NodeVotes { node },
        33 => Refusal::ChangeUnderWay,
        34 => Refusal::ChangeNotOneStep,
        35 => Refusal::NoChange,
        44 => Refusal::RestoreRefused {
            problem: present(at("problem"), RestoreProblem::from_tag(wire.word))?,
        },
        45 => Refusal::RestoreUnderWay { restore: lease()? },
        46 => Refusal::SessionEnded { cluster: cluster()? },
        68 => Refusal::NotTheOnlyVoter { node },
        69 => Refusal::NodeAddressTaken { address: text(), node },
        52 => Refusal::HomeNotReady { missing: wire.have },
        53 => Refusal::HomeChanged,
        54 => Refusal::BundlesOnDisks,
        55 => Refusal::ObjectUnknown { bundle: bundle()? },
        36 => Refusal::JoinTokenRefused,
        37 => Refusal::AuthorityExists,
        38 => Refusal::AuthorityMissing,
        60 => Refusal::LevelTooLow {
            needed: level(at("needed"), wire.want)?,
            active: level(at("active"), wire.have)?,
        },
        61 => Refusal::TimeFrozen,
        82 => Refusal::KeysRefused {
            problem: present(at("problem"), KeysProblem::from_tag(wire.word))?,
        },
        70 => Refusal::EnrolTokenRefused,
        71 => Refusal::SigningKeyDiffers { cluster: cluster()? },
        72 => Refusal::CertificateVoid,
        73 => Refusal::OwnCertificate,
        74 => Refusal::AlreadyEnrolled { name: text() },
        75 => Refusal::NotEnrolled { name: text() },
        76 => Refusal::NobodyWaits { cluster: cluster()? },
        77 => Refusal::ActUnknown { act: LogIndex::new(wire.have) },
        78 => Refusal::SecondAdminNeeded,
        79 => Refusal::ActNotDue { act: LogIndex::new(wire.have) },
        80 => Refusal::ActBlocked { act: LogIndex::new(wire.have) },
        _ => return Err(DecodeError::Unknown { what: WHAT }),
    })
}

//! The errors of sealing and of opening, each with its stable code. Key files have their own in
//! `key_file`, manifests' contents theirs in `manifest`.

use std::io;

use proto_types::{
    BundleId, BundleKind, ClusterId, Code, DekId, FleetId, Generation, HeaderError, KeyFingerprint,
    MAX_DEK_IDS, Sequence,
};

use crate::blob::BlobId;
use crate::manifest::ManifestError;

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The writer that was handed in failed.
    #[error("cannot write the bundle")]
    Write(#[source] io::Error),
    /// One blob may not be larger.
    #[error("a blob of {found} bytes is larger than {limit}: cut it into smaller ones")]
    BlobTooLarge {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More records than a header can count.
    #[error("a bundle holds at most {} blobs: begin another one", u32::MAX)]
    TooManyBlobs,
    /// More DEKs than a header names.
    #[error("a keyring holds at most {MAX_DEK_IDS} DEKs: drop those that no kept point needs")]
    TooManyDeks,
    /// The identity says another lineage than the keyring.
    #[error("the keyring is of lineage {keyring}, the bundle would be of {identity}")]
    Lineage {
        /// The keyring's.
        keyring: u32,
        /// The identity's.
        identity: u32,
    },
    /// The public recovery key is no point that can be sealed to.
    #[error("the recovery key {0} is not valid: check recovery.pub")]
    RecoveryKey(KeyFingerprint),
    /// The manifest contradicts itself.
    #[error("the manifest is not valid")]
    Manifest(#[from] ManifestError),
    /// The cipher refused, which no input within the limits makes it do.
    #[error("the cipher refused the input")]
    Cipher,
}

impl SealError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Write(source) if source.kind() == io::ErrorKind::StorageFull => Code::NoSpace,
            Self::Write(_) => Code::LocalIo,
            Self::BlobTooLarge { .. } | Self::TooManyBlobs | Self::TooManyDeks => Code::TooLarge,
            Self::Lineage { .. } | Self::Cipher => Code::Internal,
            Self::RecoveryKey(_) => Code::InvalidArgument,
            Self::Manifest(source) => source.code(),
        }
    }
}

/// Why something could not be opened or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The reader that was handed in failed.
    #[error("cannot read the bundle")]
    Read(#[source] io::Error),
    /// Lead, trailer, header, signature or body hash are wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A bundle's beginning without its end.
    #[error("the bundle is cut short or its end is damaged ({bytes} bytes): fetch it again")]
    CutShort {
        /// Bytes that are there.
        bytes: u64,
    },
    /// A bundle, but not of the kind that is needed here.
    #[error("this is a {} bundle where a {} bundle is needed", found.as_str(), expected.as_str())]
    WrongKind {
        /// The kind needed.
        expected: BundleKind,
        /// The kind found.
        found: BundleKind,
    },
    /// Sealed for another fleet.
    #[error("the bundle belongs to fleet {found}, not to {expected}")]
    WrongFleet {
        /// The fleet it should be of.
        expected: FleetId,
        /// The fleet it is of.
        found: FleetId,
    },
    /// Sealed for another cluster.
    #[error("the bundle belongs to cluster {found}, not to {expected}")]
    WrongCluster {
        /// The cluster it should be of.
        expected: ClusterId,
        /// The cluster it is of.
        found: ClusterId,
    },
    /// Of another recovery point than was asked for.
    #[error("the bundle was sealed for point {found}, not for {expected}: ask another coordinator")]
    WrongSequence {
        /// The point it should be of.
        expected: Sequence,
        /// The point it is of.
        found: Sequence,
    },
    /// A point said to equal an older one, without the cluster's signature that it does.
    #[error(
        "the cluster's key did not sign that nothing changed since point {since}: ask another \
         coordinator"
    )]
    BadStatement {
        /// The point it is said to equal.
        since: Sequence,
    },
    /// Other bytes than were asked for.
    #[error("the bundle is {found}, not {expected}: fetch it again from another coordinator")]
    WrongId {
        /// The id it should have.
        expected: BundleId,
        /// The id of the bytes.
        found: BundleId,
    },
    /// An older state than one already seen.
    #[error(
        "point {offered} was offered as the newest, but point {known} was seen before: an older \
         state is being served; ask another coordinator"
    )]
    Rollback {
        /// The newest point seen before.
        known: Sequence,
        /// The point offered.
        offered: Sequence,
    },
    /// Another manifest under the number of one already seen.
    #[error(
        "point {sequence} was offered with manifest {offered}, but {known} was seen before: the \
         history was forked; ask another coordinator"
    )]
    Forked {
        /// The point.
        sequence: Sequence,
        /// The manifest seen before.
        known: BundleId,
        /// The manifest offered.
        offered: BundleId,
    },
    /// A record's lengths do not fit the body.
    #[error("the bundle is damaged: record {index} does not fit its body; fetch it again")]
    Record {
        /// Number of the record, from 0.
        index: u32,
    },
    /// The body holds another number of records than its header says.
    #[error("the bundle is damaged: it holds {found} records where its header says {expected}")]
    RecordCount {
        /// Number in the header.
        expected: u32,
        /// Number found.
        found: u32,
    },
    /// The record is not the one that the reference names.
    #[error("blob {0} is damaged or not where its manifest says: fetch its bundle again")]
    Blob(BlobId),
    /// A record of a manifest or key bundle does not open.
    #[error("the {} bundle is damaged or was put together from others: record {index} does not \
             open; fetch it again", kind.as_str())]
    Sealed {
        /// The file's kind.
        kind: BundleKind,
        /// Number of the record, from 0.
        index: u32,
    },
    /// What a sealed record holds is not what a writer writes.
    #[error("the {} bundle's contents are not valid: {what}", kind.as_str())]
    Contents {
        /// The file's kind.
        kind: BundleKind,
        /// What is wrong.
        what: &'static str,
    },
    /// The keyring lacks the key.
    #[error("the keyring does not hold DEK {0}: use the key bundle of the same point")]
    UnknownDek(DekId),
    /// The key bundle lacks a secret that the point needs.
    #[error("the key bundle does not hold secret {0}: use the key bundle of the same point")]
    MissingSecret(BlobId),
    /// The KEK does not open the wraps.
    #[error(
        "the KEK is not the one these keys are wrapped under (generation {0}): use the cluster's \
         strongroom-store-secret of that time, or the recovery key"
    )]
    WrongKek(Generation),
    /// The recovery key is another one.
    #[error("the backup is sealed to recovery key {expected}, this one is {found}")]
    WrongRecoveryKey {
        /// The key it is sealed to.
        expected: KeyFingerprint,
        /// The key offered.
        found: KeyFingerprint,
    },
    /// The recovery key that the wraps name is not the pinned one.
    #[error(
        "the wraps are sealed to recovery key {found}, not to the pinned {expected}: compare the \
         fingerprints, and enrol again if the fleet's recovery key was changed"
    )]
    NotThePinnedRecoveryKey {
        /// The pinned one.
        expected: KeyFingerprint,
        /// The one the wraps name.
        found: KeyFingerprint,
    },
    /// The wraps belong to another key bundle.
    #[error("the wraps open key bundle {found}, not {expected}")]
    WrongWraps {
        /// The key bundle at hand.
        expected: BundleId,
        /// The key bundle that the wraps name.
        found: BundleId,
    },
    /// The manifest's contents contradict themselves.
    #[error("the manifest is not valid")]
    Manifest(#[from] ManifestError),
}

impl OpenError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Read(_) => Code::LocalIo,
            Self::Header(source) => match source {
                HeaderError::UnsupportedVersion { .. } | HeaderError::UnsupportedSuite { .. } => {
                    Code::UnsupportedVersion
                }
                HeaderError::BadSignature | HeaderError::WrongSigner { .. } => Code::BadSignature,
                HeaderError::Truncated { .. }
                | HeaderError::NotABundle { .. }
                | HeaderError::Field { .. }
                | HeaderError::BodyMismatch => Code::Damaged,
            },
            Self::BadStatement { .. } => Code::BadSignature,
            Self::WrongFleet { .. } | Self::WrongCluster { .. } => Code::WrongCluster,
            Self::WrongSequence { expected, found } if found < expected => Code::Rollback,
            Self::Rollback { .. } | Self::Forked { .. } => Code::Rollback,
            Self::WrongKek(_)
            | Self::WrongRecoveryKey { .. }
            | Self::NotThePinnedRecoveryKey { .. } => Code::WrongKey,
            Self::UnknownDek(_) | Self::MissingSecret(_) | Self::WrongWraps { .. } => {
                Code::KeyBundleIncomplete
            }
            Self::CutShort { .. }
            | Self::WrongKind { .. }
            | Self::WrongSequence { .. }
            | Self::WrongId { .. }
            | Self::Record { .. }
            | Self::RecordCount { .. }
            | Self::Blob(_)
            | Self::Sealed { .. }
            | Self::Contents { .. } => Code::Damaged,
            Self::Manifest(source) => source.code(),
        }
    }
}

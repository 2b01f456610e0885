//! Where a recovery point's sealed bytes come from: the fleet, or an exported file with no fleet
//! at all (invariant A1). A store hands out bytes and claims; whoever opens them believes only
//! what signatures, hashes and keys prove.

mod fleet;
mod read;

use std::sync::Arc;

use bundle::OpenError;
use bytes::Bytes;
use futures::stream::BoxStream;
use proto::ApiError;
use proto::env::BoxFuture;
use proto_types::{
    BundleId, BundleKind, ClusterId, Code, Epoch, FleetId, LogTime, ParseIdError, PointNameError,
    PointStatement, Sequence, SigningPublicKey, check_cluster_name,
};
use serde::{Deserialize, Serialize};

pub use fleet::FleetPointStore;
pub(crate) use read::{ChannelReader, RangeRead, coalesce, pump, read_all};

use crate::export::ExportError;

/// Which point of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest.
    Newest,
    /// The newest committed at or before this time.
    At(LogTime),
    /// This one.
    Sequence(Sequence),
}

/// What a store says of a point's place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// No newer point exists.
    Newest,
    /// No newer point was committed at or before this time.
    At(LogTime),
    /// Nothing: it is the one that was asked for.
    Exactly,
}

impl PointSelector {
    /// What an answer to it says.
    const fn offered_as(self) -> Offered {
        match self {
            Self::Newest => Offered::Newest,
            Self::At(time) => Offered::At(time),
            Self::Sequence(_) => Offered::Exactly,
        }
    }

    /// Whether a point can be the answer.
    fn is_met_by(self, info: &PointInfo) -> bool {
        match self {
            Self::Newest => true,
            Self::At(time) => info.committed_ms <= time,
            Self::Sequence(sequence) => info.sequence == sequence,
        }
    }
}

/// What a source's part of a point proved, as the fleet or a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofInfo {
    /// The source's label.
    pub source: String,
    /// "proved", "unproved" or "failed".
    pub state: String,
    /// Why it is not proved.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A bundle that a point needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleEntry {
    /// Its id.
    pub id: BundleId,
    /// config, key, manifest or wraps.
    pub kind: String,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// What is said of a point by who stores it. Everything in it is clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointInfo {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The point's number.
    pub sequence: Sequence,
    /// Its manifest.
    pub manifest: BundleId,
    /// The full manifest that a delta is against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BundleId>,
    /// The key bundle that opens it.
    pub key_bundle: BundleId,
    /// The wraps of that key bundle.
    pub wraps: BundleId,
    /// When it was committed, log time in milliseconds.
    pub committed_ms: LogTime,
    /// When the agent looked, its clock in milliseconds.
    pub taken_ms: LogTime,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The lineage of keys.
    pub lineage: u32,
    /// Number of items.
    pub items: u64,
    /// Sum of their sizes.
    pub logical_bytes: u64,
    /// Sealed bytes that this point added.
    pub added_bytes: u64,
    /// The cluster's signature over the [`PointStatement`] that it equals its predecessor; such
    /// a point has no manifest of its own. 64 bytes, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_signature")]
    pub statement: Option<[u8; 64]>,
    /// What was proved.
    pub proofs: Vec<ProofInfo>,
    /// All bundles it needs.
    pub bundles: Vec<BundleEntry>,
}

/// An optional signature in JSON.
mod hex_signature {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        signature: &Option<[u8; 64]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match signature {
            Some(signature) => serializer.serialize_str(&hex::encode(signature)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 64]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut signature = [0; 64];
        hex::decode_to_slice(text, &mut signature).map_err(serde::de::Error::custom)?;
        Ok(Some(signature))
    }
}

impl PointInfo {
    /// Whether it equals its predecessor and has no manifest of its own.
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        self.statement.is_some()
    }

    /// Checks how a point and its manifest, sealed for the point `sealed_for`, belong together: it
    /// is the point's own, or `signer` stated that the point equals it (invariant K3).
    ///
    /// # Errors
    /// When neither is so.
    pub(crate) fn check_manifest(
        &self,
        sealed_for: Sequence,
        signer: &SigningPublicKey,
    ) -> Result<(), OpenError> {
        let Some(signature) = &self.statement else {
            let (expected, found) = (self.sequence, sealed_for);
            return if found == expected {
                Ok(())
            } else {
                Err(OpenError::WrongSequence { expected, found })
            };
        };
        let statement = PointStatement {
            fleet: self.fleet,
            cluster: self.cluster,
            lineage: self.lineage,
            sequence: self.sequence,
            epoch: self.epoch,
            taken: self.taken_ms,
            manifest: self.manifest,
            key_bundle: self.key_bundle,
        };
        if sealed_for < self.sequence && statement.is_signed_by(signer, signature) {
            Ok(())
        } else {
            Err(OpenError::BadStatement { since: sealed_for })
        }
    }

    /// The entry of one bundle.
    ///
    /// # Errors
    /// [`StoreError::NotListed`] when the point does not list it.
    pub fn bundle(&self, id: BundleId) -> Result<&BundleEntry, StoreError> {
        self.bundles.iter().find(|entry| entry.id == id).ok_or(StoreError::NotListed(id))
    }

    /// Reads the fleet's answer.
    ///
    /// # Errors
    /// When an id in it is not one, or its name is none a cluster can have: it becomes part of
    /// file names.
    pub fn from_wire(fleet: FleetId, point: proto::v1::Point) -> Result<Self, StoreError> {
        check_cluster_name(&point.cluster_name)?;
        let proofs = point.proofs.iter().map(ProofInfo::from_wire).collect();
        let bundles = point
            .bundles
            .into_iter()
            .map(|info| {
                let id = BundleId::from_slice(&info.bundle_id)?;
                Ok(BundleEntry { id, kind: info.kind, bytes: info.bytes })
            })
            .collect::<Result<_, ParseIdError>>()?;
        let statement = match &point.statement_signature[..] {
            [] => None,
            signature => Some(signature.try_into().map_err(|_| StoreError::Statement)?),
        };
        let base = if point.base_manifest_id.is_empty() {
            None
        } else {
            Some(BundleId::from_slice(&point.base_manifest_id)?)
        };
        Ok(Self {
            fleet,
            cluster: ClusterId::from_slice(&point.cluster_id)?,
            cluster_name: point.cluster_name,
            sequence: Sequence::new(point.sequence),
            manifest: BundleId::from_slice(&point.manifest_id)?,
            base: base.filter(|id| !id.is_zero()),
            key_bundle: BundleId::from_slice(&point.key_bundle_id)?,
            wraps: BundleId::from_slice(&point.wraps_id)?,
            committed_ms: LogTime::from_millis(point.committed_ms),
            taken_ms: LogTime::from_millis(point.taken_ms),
            epoch: Epoch::new(point.epoch),
            lineage: point.lineage,
            items: point.items,
            logical_bytes: point.logical_bytes,
            added_bytes: point.added_bytes,
            statement,
            proofs,
            bundles,
        })
    }
}

impl ProofInfo {
    fn from_wire(proof: &proto::v1::SourceProof) -> Self {
        use proto::v1::ProofState;
        let state = match proof.state() {
            ProofState::Proved => "proved",
            ProofState::Unproved | ProofState::Unspecified => "unproved",
            ProofState::Failed => "failed",
        };
        Self { source: proof.source.clone(), state: state.to_owned(), reason: proof.reason.clone() }
    }
}

/// Why a store could not hand out bytes.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The fleet did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The fleet's answer makes no sense.
    #[error("the fleet answered with something that is no id: {0}")]
    Answer(#[from] ParseIdError),
    /// The fleet's answer names a cluster as none can be named.
    #[error("the fleet answered with a name that no cluster can have: {0}")]
    Name(#[from] PointNameError),
    /// Not what was asked for.
    #[error(
        "another point than asked for was answered: {asked} was asked for, {answered} came; ask \
         another coordinator"
    )]
    OtherPoint {
        /// What was asked for.
        asked: String,
        /// What came.
        answered: String,
    },
    /// The signature of an unchanged point's statement is none.
    #[error("the fleet answered with a statement's signature that is not 64 bytes long")]
    Statement,
    /// Not confirmed by a quorum (invariant R4).
    #[error("the coordinator answered from its own state, unconfirmed, which was not asked for")]
    Stale,
    /// The point does not list the bundle.
    #[error("bundle {0} is needed, but the point does not list it")]
    NotListed(BundleId),
    /// Another number of bytes than was asked for.
    #[error("bundle {id} ended after {found} bytes where {expected} were expected")]
    Length {
        /// The bundle.
        id: BundleId,
        /// Bytes asked for.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// Larger than anything of its kind that this program would hold in memory.
    #[error("the {kind} bundle {id} is {bytes} bytes, more than this program takes: {limit}")]
    TooLarge {
        /// The bundle.
        id: BundleId,
        /// Its kind.
        kind: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The exported file.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl StoreError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Api(error) => error.code(),
            Self::Answer(_) | Self::Name(_) | Self::Statement => Code::Internal,
            Self::OtherPoint { .. } => Code::WrongCluster,
            Self::Stale => Code::Unavailable,
            Self::NotListed(_) => Code::BundleNotFound,
            Self::Length { .. } => Code::Damaged,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Export(error) => error.code(),
        }
    }
}

/// One recovery point, wherever it is stored.
pub trait PointStore: Send + Sync + 'static {
    /// What is said of the point.
    fn point(&self) -> &PointInfo;

    /// What the store says of newer points.
    fn offered_as(&self) -> Offered;

    /// Whether the store says that it is a restore's safety file.
    fn is_safety_file(&self) -> bool {
        false
    }

    /// Streams `length` bytes of a bundle from `offset` on; 0: to its end.
    fn read(
        &self,
        bundle: BundleId,
        offset: u64,
        length: u64,
    ) -> BoxStream<'_, Result<Bytes, StoreError>>;

    /// Says that bytes of this bundle were damaged, so that another copy is read next time, and
    /// the damaged one is repaired where that is possible.
    fn suspect(&self, bundle: BundleId) -> BoxFuture<'_, ()>;

    /// Says that reading is over. Once is enough; more does no harm.
    fn end(&self) -> BoxFuture<'_, ()>;
}

/// A store that many may hold.
pub type SharedStore = Arc<dyn PointStore>;

/// Longest manifest, key bundle or wraps file that is held in memory: some million items.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Reads a small bundle whole.
pub async fn read_small(
    store: &dyn PointStore,
    id: BundleId,
    kind: BundleKind,
) -> Result<Vec<u8>, StoreError> {
    let bytes = store.point().bundle(id)?.bytes;
    if bytes > MEMORY_BYTES_MAX {
        let limit = MEMORY_BYTES_MAX;
        return Err(StoreError::TooLarge { id, kind: kind.as_str(), bytes, limit });
    }
    read_all(store, id, 0, bytes).await
}

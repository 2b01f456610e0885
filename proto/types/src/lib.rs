//! The words every part of strongroom shares: ids, units, error codes, the clear header of a
//! bundle and the environment (clock, randomness) that is handed in. No tonic, no prost, no tokio.

mod code;
pub mod env;
mod header;
mod ids;
mod join;
mod point;
mod statement;
mod succession;
mod units;

/// Bytes of all bundles that come in the commit of their point, in the log: with the rest of the
/// commit under 16 KiB (decision 0018). Larger points are uploaded.
pub const CARRIED_BYTES_MAX: u64 = 11 << 10;

pub use code::Code;
pub use header::{
    BundleKind, ClearHeader, FORMAT_VERSION, HeaderError, LEAD_BYTES, LEAD_MAGIC, MAX_DEK_IDS,
    MAX_TRAILER_BYTES, SUITE_AES256GCM_HKDF_SHA256, SignedHeader, TRAILER_MAGIC,
    header_signing_input,
};
pub use ids::{
    BundleId, ClusterId, DekId, Epoch, FleetId, Generation, KeyFingerprint, LeaseId, LogIndex,
    NodeId, ParseIdError, Sequence, SessionId, SigningPublicKey,
};
pub use join::{enrol_token_hash, join_token_hash};
pub use point::{PointName, PointNameError, check_cluster_name};
pub use statement::PointStatement;
pub use succession::{LineageStatement, RecoverySuccession};
pub use units::{ByteCount, Level, LogTime};

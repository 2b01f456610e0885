//! The gRPC schema (`strongroom.v1`) and what both ends of a call share: error details, mutual
//! TLS with identities, channels with deadlines, and the environment that is handed in.
//! Generated code is built from `strongroom/v1/*.proto` by `build.rs` and not committed.

pub mod authority;
pub mod channel;
pub mod env;
pub mod error;
pub mod fleet_client;
pub mod identity;
mod pinned;
pub mod renewal;
pub mod serving;
pub mod tls;

pub use error::ApiError;

/// Generated messages, clients and servers of `strongroom.v1`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, unreachable_pub, rust_2018_idioms)]
    tonic::include_proto!("strongroom.v1");

    /// The schema itself, for gRPC reflection.
    pub const DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/strongroom_descriptor.bin"));
}

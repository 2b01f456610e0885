//! The agent of one workload cluster, and the way back: sources, keys on the cluster, backup,
//! restore, export and the checks of a point. Knows the protocol and the sealed format; never a
//! coordinator's insides (design section 3).

mod beneath;
pub mod config;
pub mod export;
pub mod heads;
pub mod home;
pub mod opened;
pub mod patterns;
pub mod point_store;
pub mod progress;
pub mod sources;

pub use home::init;
pub use opened::{OpenedPoint, Opener};

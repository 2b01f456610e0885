//! The agent of one workload cluster, and the way back: sources, keys on the cluster, backup,
//! restore, export and the checks of a point. Knows the protocol and the sealed format; never a
//! coordinator's insides (design section 3).

pub mod backup;
mod beneath;
pub mod config;
pub mod export;
pub mod heads;
pub mod home;
pub mod inspect;
mod key_notices;
pub mod kubernetes;
mod local;
mod on_change;
pub mod opened;
pub mod patterns;
pub mod point_store;
pub mod progress;
pub mod restore;
mod run;
pub mod shown;
pub mod sources;
mod store_secret;
mod telemetry;
mod upload;

pub use home::init;
pub use local::SocketError;
pub use opened::{OpenedPoint, Opener};
pub use run::{AgentError, run};

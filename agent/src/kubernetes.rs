//! A Kubernetes cluster as a source and as a target. The thinking is in pure rooms (`name`,
//! `normal`, `select`, `order`, `decide`); the others talk to the API server, and only they know
//! the library that does.

mod api;
mod bindings;
mod debounce;
mod decide;
mod held;
mod kinds;
mod list;
mod mirror;
mod name;
mod normal;
mod order;
mod rbac;
pub mod restore;
mod select;
mod source;
mod watch;

pub use api::{Api, ApiFailure, Connection};
pub use bindings::{AppBinding, app_bindings};
pub use decide::{ObjectAction, ObjectPolicy};
pub(crate) use held::HeldSource;
pub use kinds::{Kind, Kinds};
pub(crate) use mirror::Mirror;
pub use name::{KindName, ObjectName};
pub use order::Phase;
pub use rbac::{Account, rbac};
pub use select::Policy;
pub use source::KubernetesSource;
pub(crate) use watch::follow;

/// The item that tells of which cluster a source's items are; all others are objects.
pub const CLUSTER_ITEM: &[u8] = b"cluster.json";

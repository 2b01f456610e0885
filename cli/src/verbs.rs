//! The operator's verbs, one file per group. Each holds its arguments, what it asks the other
//! packages to do, and what it prints.

pub mod agent;
pub mod audit;
pub mod backup;
pub mod cluster;
mod confirm_time;
pub mod coordinator;
pub mod finding;
pub mod fleet;
pub mod key;
pub mod node;
pub mod opening;
pub mod operator;
pub mod pending;
pub mod restore;
pub mod snapshot;
pub mod source;
pub mod status;

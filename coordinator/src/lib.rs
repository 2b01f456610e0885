//! The coordinator: a member of the Raft fleet that keeps the state of every backup and its
//! sealed bytes. It cannot open a bundle (the package does not know the crate that can).
//!
//! [`run`] is the whole program; `cli` calls it.

mod absent;
pub mod audit;
mod auth;
mod authority;
mod certificates;
pub mod config;
mod keeper;
mod key_care;
mod leader;
mod membership;
pub mod offline;
mod opening;
mod peers;
mod raft;
pub mod recover;
pub mod relocate;
mod revocation;
mod roll_call;
mod scheduled;
mod server;
mod service;
pub mod snapshot_file;
pub mod telemetry;
mod wiped;

pub use opening::Machine;
pub use scheduled::Schedule;
pub use server::{RunError, run, run_on};

//! The harness of the tests of the whole: fleets of real processes on free loopback ports with
//! certificates of their own, clients of every role, sealed bundles for raw protocol tests, and
//! waits for facts. It holds no test; those are in `it/`, by area.

pub mod agent;
pub mod binary;
pub mod canary;
pub mod cli;
pub mod client;
pub mod fleet;
pub mod founded;
pub mod gate;
pub mod kube;
pub mod logs;
pub mod metrics;
pub mod netns;
pub mod pki;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod runbook;
pub mod s3;
pub mod sealed;
pub mod skip;
pub mod tmpfs;
pub mod tree;
pub mod wait;

pub use agent::Agent;
pub use cli::Cli;
pub use client::{Answer, Party};
pub use fleet::{Fleet, Settings};
pub use founded::{Founded, Host};
pub use kube::KubeServer;
pub use raw::RawCluster;
pub use runbook::Runbook;
pub use s3::S3;
pub use wait::until;

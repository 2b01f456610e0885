//! What a coordinator keeps on disk: the Raft log and vote, snapshot files, bundle files, the
//! ledger, and the data directory around them; and what it keeps in an object store, the only network
//! it knows. It cannot open a bundle.
//!
//! Everything durable goes through [`disk::Disk`], so that the crash suites and the simulation
//! run this very code over [`disk::sim::SimDisk`]. The one exception is sled, which brings its
//! own file access; that is one reason why it is only the ledger (decision 0001).

pub mod audit;
pub mod bucket;
pub mod bundles;
pub mod disk;
pub mod home;
pub mod ledger;
pub mod log;
pub mod raft_codec;
pub mod raft_log;
pub mod raft_types;
pub mod snapshots;
pub mod spawn;

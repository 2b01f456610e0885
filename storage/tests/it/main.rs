//! The storage package from outside: openraft's own suite, the crash suites over the simulated
//! disk, damage at every byte, and the measurement behind decision 0001.

mod bucket;
mod crash;
mod crash_bundles;
mod crash_home;
mod crash_log;
mod crash_snapshots;
mod damage;
mod ledger;
mod log_behaviour;
mod raft_suite;
mod sled_is_no_log;
mod snapshots;
mod world;

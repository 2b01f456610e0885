//! openraft's own storage suite over the real log, the real snapshot files and the real state.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::testing::log::{StoreBuilder, Suite};
use proto::env::Env;
use proto_types::{FleetId, Level, NodeId};
use storage::bundles::{BundleOptions, FileBundleStore};
use storage::disk::RealDisk;
use storage::home::{DataDir, HomeIdentity};
use storage::ledger::MemoryLedger;
use storage::log::LogOptions;
use storage::raft_log::RaftLogStore;
use storage::raft_types::TypeConfig as C;
use storage::snapshots::SnapshotStore;
use storage::spawn::Driver;
use tempfile::TempDir;

use super::StateMachine;
use crate::keeper::Carried;

struct Builder;

impl StoreBuilder<C, RaftLogStore, StateMachine, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, RaftLogStore, StateMachine), openraft::StorageError<C>> {
        let directory = TempDir::new().expect("a temporary directory");
        let identity = HomeIdentity { fleet: FleetId::from_bytes([1; 16]), node: NodeId::new(1) };
        let home =
            DataDir::open_or_create(Arc::new(RealDisk), &directory.path().join("data"), identity)
                .expect("a new data directory");
        let log =
            RaftLogStore::open(&home, LogOptions::default(), Driver::threads()).expect("a new log");
        let (snapshots, _) = SnapshotStore::open(&home, log.bounds()).expect("no snapshots yet");
        let store = FileBundleStore::open(&home, BundleOptions::default()).expect("no bundles yet");
        let ledger = Arc::new(MemoryLedger::new());
        let carried = Carried::new(Env::system(), Arc::new(store), ledger);
        let mut machine =
            StateMachine::new(Env::system(), snapshots, home, Level::NEWEST, carried, log.clone());
        machine.applied_state().await.expect("an empty state");
        Ok((directory, log, machine))
    }
}

#[test]
fn raft_storage_passes_openrafts_own_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(Suite::test_all(Builder)).expect("the suite passes");
}

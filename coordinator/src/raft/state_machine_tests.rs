//! What the log carries is never in the page cache alone when the log goes.

use std::path::Path;

use coordinator_core::{AddedBundle, ChangedContent, CommitPoint, Content, Request};
use openraft::storage::RaftLogStorageExt;
use proto_types::{ClusterId, Epoch, FleetId, LogTime, Sequence};
use storage::bundles::{
    BundleOptions, BundleStore, Fault, FaultyBundleStore, FileBundleStore, Operation,
};
use storage::disk::sim::{Loss, SimDisk};
use storage::home::HomeIdentity;
use storage::ledger::MemoryLedger;
use storage::log::LogOptions;
use storage::raft_types::{Command as EntryBytes, Entry, log_id};
use storage::spawn::Driver;

use super::*;

const NO_RESERVE: BundleOptions = BundleOptions { reserve_bytes: 0 };

fn home(disk: &SimDisk) -> DataDir {
    let identity = HomeIdentity { fleet: FleetId::from_bytes([1; 16]), node: NodeId::new(1) };
    DataDir::open_or_create(Arc::new(disk.clone()), Path::new("/home"), identity).unwrap()
}

fn machine(disk: &SimDisk) -> StateMachine {
    let home = home(disk);
    let log = RaftLogStore::open(&home, LogOptions::default(), Driver::Inline).unwrap();
    let (snapshots, _) = SnapshotStore::open(&home, log.bounds()).unwrap();
    let store = Arc::new(FileBundleStore::open(&home, NO_RESERVE).unwrap());
    let carried = Carried::new(Env::system(), store, Arc::new(MemoryLedger::new()));
    StateMachine::new(Env::system(), snapshots, home, Level::NEWEST, carried, log)
}

fn held_after_a_power_cut(disk: &SimDisk, id: BundleId) -> bool {
    disk.crash(Loss::Unsynced);
    let store = FileBundleStore::open(&home(disk), NO_RESERVE).unwrap();
    store.contains(&id).unwrap() && store.verify(&id).is_ok()
}

fn bundle() -> (BundleId, Vec<u8>) {
    let bytes = vec![7; 3_000];
    (BundleId::of(&bytes), bytes)
}

fn commit(id: BundleId, carried: Vec<u8>) -> EntryBytes {
    let added = AddedBundle {
        id,
        bytes: carried.len() as u64,
        header: Vec::new(),
        signature: [0; 64],
        holders: Vec::new(),
        in_bucket: false,
        carried,
    };
    let content = ChangedContent {
        added: vec![added],
        dropped: std::iter::empty().collect(),
        manifest: id,
        key_bundle: id,
        wraps: id,
    };
    let commit = CommitPoint {
        cluster: ClusterId::from_bytes([2; 16]),
        epoch: Epoch::new(1),
        lease: None,
        sequence: Sequence::new(1),
        parent_manifest: BundleId::ZERO,
        taken: LogTime::ZERO,
        content: Content::Changed(content),
        proofs: Vec::new(),
        items: 0,
        logical_bytes: 0,
    };
    let command = Command::CommitPoint(Box::new(commit));
    let request = Request { session: None, time: LogTime::ZERO, sender: None, command };
    EntryBytes::new(codec::encode_request(&request))
}

#[tokio::test]
async fn invariant_b1_a_snapshot_is_written_after_what_the_log_brought_is_synced() {
    for with_snapshot in [false, true] {
        let disk = SimDisk::new();
        let mut machine = machine(&disk);
        let (id, bytes) = bundle();
        machine.put_carried(vec![(id, bytes)], false).await.unwrap();
        machine.last_applied = Some(log_id(1, 1, 4));
        if with_snapshot {
            let mut builder = machine.get_snapshot_builder().await;
            builder.build_snapshot().await.unwrap();
        }
        drop(machine);
        // Without one the log still has it: nobody syncs for it alone.
        assert_eq!(held_after_a_power_cut(&disk, id), with_snapshot);
    }
}

#[tokio::test]
async fn invariant_b1_a_snapshot_of_the_leader_passes_over_no_bundle_in_this_nodes_log() {
    let disk = SimDisk::new();
    let mut machine = machine(&disk);
    let (id, bytes) = bundle();
    let entry = |index, payload| Entry { log_id: log_id(1, 1, index), payload };
    let entries = [
        entry(0, EntryPayload::Blank),
        entry(1, EntryPayload::Normal(commit(id, bytes))),
        entry(2, EntryPayload::Blank),
    ];
    machine.log.blocking_append(entries).await.unwrap();
    machine.last_applied = Some(log_id(1, 1, 0));
    machine.keep_passed_over(log_id(2, 2, 9)).await.unwrap();
    drop(machine);
    assert!(held_after_a_power_cut(&disk, id));
}

#[test]
fn invariant_r3_what_could_not_be_synced_stays_to_be_synced() {
    for is_synced in [false, true] {
        let disk = SimDisk::new();
        let files = FileBundleStore::open(&home(&disk), NO_RESERVE).unwrap();
        let store = Arc::new(FaultyBundleStore::new(Arc::new(files)));
        let carried = Carried::new(Env::system(), store.clone(), Arc::new(MemoryLedger::new()));
        let (id, bytes) = bundle();
        carried.put(&[(id, bytes)]).unwrap();
        assert_eq!(carried.arriving(), [id].into());
        carried.published();
        assert!(carried.arriving().is_empty());
        store.inject(Fault::Error(Operation::Finish));
        // For others nothing is synced, so nothing fails.
        carried.sync_for(&[BundleId::ZERO]).unwrap();
        carried.sync_for(&[id]).unwrap_err();
        if is_synced {
            carried.sync_for(&[id]).unwrap();
            // And no more syncs than are needed.
            store.inject(Fault::Error(Operation::Finish));
            carried.sync().unwrap();
        }
        drop((carried, store));
        assert_eq!(held_after_a_power_cut(&disk, id), is_synced);
    }
}

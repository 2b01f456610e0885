use std::time::{Duration, Instant};

use proto_types::{FleetId, NodeId};

use super::*;
use crate::bundles::{Fault, FaultyBundleStore, Operation as Call, conformance};
use crate::disk::RealDisk;
use crate::disk::sim::{Loss, Operation, SimDisk};
use crate::home::HomeIdentity;

const NO_RESERVE: BundleOptions = BundleOptions { reserve_bytes: 0 };

fn identity() -> HomeIdentity {
    HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(1) }
}

fn sim_home(disk: &SimDisk) -> DataDir {
    let path = Path::new("/home");
    DataDir::open_or_create(Arc::new(disk.clone()), path, identity()).unwrap()
}

fn on_sim(disk: &SimDisk) -> FileBundleStore {
    FileBundleStore::open(&sim_home(disk), NO_RESERVE).unwrap()
}

fn content(seed: u8, bytes: usize) -> (BundleId, Vec<u8>) {
    let content: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect();
    (BundleId::of(&content), content)
}

fn put(store: &dyn BundleStore, seed: u8, bytes: usize) -> (BundleId, Vec<u8>) {
    let (id, content) = content(seed, bytes);
    assert_eq!(store.begin(&id, bytes as u64).unwrap(), 0);
    store.write(&id, 0, &content).unwrap();
    store.finish(&id, bytes as u64).unwrap();
    (id, content)
}

#[test]
fn bundles_on_the_real_disk_conform() {
    // The directory outlives the stores; removed when the test ends.
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conformance::run(|| {
        number.set(number.get() + 1);
        let path = directory.path().join(format!("home-{}", number.get()));
        let home = DataDir::create(Arc::new(RealDisk), &path, identity()).unwrap();
        FileBundleStore::open(&home, NO_RESERVE).unwrap()
    });
}

#[test]
fn bundles_on_the_simulated_disk_conform() {
    conformance::run(|| on_sim(&SimDisk::new()));
}

#[test]
fn bundles_behind_the_faulty_wrapper_conform() {
    conformance::run(|| FaultyBundleStore::new(Arc::new(on_sim(&SimDisk::new()))));
}

#[test]
fn invariant_b3_a_flipped_bit_is_noticed_on_read_and_scrub_and_healed_by_a_new_copy() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = put(&store, 1, 5_000);
    for (offset, bit) in [(0, 0), (2_500, 3), (4_999, 7)] {
        disk.flip_bit(&store.path(&id), offset, bit).unwrap();
        assert!(matches!(store.read(&id), Err(BundleError::Damaged { .. })), "at {offset}");
        assert!(matches!(store.verify(&id), Err(BundleError::Damaged { .. })), "at {offset}");
        store.quarantine(&id).unwrap();
        put(&store, 1, 5_000);
        assert_eq!(store.read(&id).unwrap(), content);
    }
}

#[test]
fn invariant_b3_a_copy_cut_short_is_noticed() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = put(&store, 2, 100);
    disk.overwrite(&store.path(&id), &content[..99]).unwrap();
    assert!(matches!(store.read(&id), Err(BundleError::Damaged { .. })));
    assert!(matches!(store.verify(&id), Err(BundleError::Damaged { .. })));
    assert!(matches!(store.header(&id), Err(BundleError::Header { .. })));
}

#[test]
fn bundles_header_is_read_from_the_end_of_the_file() {
    use proto_types::{
        BundleKind, ClearHeader, ClusterId, Epoch, Generation, KeyFingerprint, LogTime,
        SUITE_AES256GCM_HKDF_SHA256, Sequence, SignedHeader, SigningPublicKey,
    };
    let store = on_sim(&SimDisk::new());
    let mut file = BundleKind::Config.lead().to_vec();
    file.extend_from_slice(&[5; 2_000]);
    let header = ClearHeader {
        kind: BundleKind::Config,
        suite: SUITE_AES256GCM_HKDF_SHA256,
        fleet: identity().fleet,
        cluster: ClusterId::from_bytes([1; 16]),
        lineage: 0,
        sequence: Sequence::new(1),
        epoch: Epoch::new(1),
        created: LogTime::ZERO,
        body_bytes: file.len() as u64,
        blob_count: 1,
        body_sha256: [0; 32],
        signer: SigningPublicKey::ZERO,
        predecessor: BundleId::ZERO,
        base: BundleId::ZERO,
        recovery_key: KeyFingerprint::ZERO,
        kek_generation: Generation::new(0),
        dek_ids: vec![],
    };
    let signed = SignedHeader::new(header, [9; 64]);
    file.extend_from_slice(&signed.to_trailer());
    let id = BundleId::of(&file);
    store.begin(&id, file.len() as u64).unwrap();
    store.write(&id, 0, &file).unwrap();
    store.finish(&id, file.len() as u64).unwrap();
    assert_eq!(store.header(&id).unwrap(), signed);
}

#[test]
fn bundles_partial_uploads_survive_a_killed_process_and_stray_files_do_not() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = content(3, 1_000);
    store.begin(&id, 1_000).unwrap();
    store.write(&id, 0, &content[..600]).unwrap();
    let stray = Path::new("/home/bundles/partial/stray.tmp");
    disk.create(stray).unwrap();
    drop(store);
    disk.crash(Loss::Nothing);

    let store = on_sim(&disk);
    assert!(!disk.exists(stray).unwrap());
    assert_eq!(store.partials().unwrap(), [HeldBundle { id, bytes: 600 }]);
    assert_eq!(store.begin(&id, 1_000).unwrap(), 600);
    store.write(&id, 600, &content[600..]).unwrap();
    store.finish(&id, 1_000).unwrap();
    assert_eq!(store.read(&id).unwrap(), content);
}

#[test]
fn bundles_a_partial_longer_than_the_bundle_begins_anew() {
    let store = on_sim(&SimDisk::new());
    let (id, content) = content(4, 100);
    store.begin(&id, 500).unwrap();
    store.write(&id, 0, &[0; 300]).unwrap();
    assert_eq!(store.begin(&id, 100).unwrap(), 0);
    store.write(&id, 0, &content).unwrap();
    store.finish(&id, 100).unwrap();
}

#[test]
fn bundles_the_reserve_is_kept_and_uploads_are_taken_again_once_there_is_room() {
    let disk = SimDisk::new();
    let home = sim_home(&disk);
    let store = FileBundleStore::open(&home, BundleOptions { reserve_bytes: 10_000 }).unwrap();
    let used: u64 = disk.files().iter().map(|f| disk.content(f).unwrap().len() as u64).sum();
    disk.set_capacity(Some(used + 10_000 + 999));
    let (id, content) = content(5, 1_000);
    match store.begin(&id, 1_000) {
        Err(error @ BundleError::NoSpace { free_bytes: 10_999, reserve_bytes: 10_000, .. }) => {
            assert_eq!(error.code(), proto_types::Code::NoSpace);
        }
        other => panic!("the reserve was touched: {other:?}"),
    }
    assert_eq!(store.partials().unwrap(), []);
    disk.set_capacity(Some(used + 10_000 + 1_000));
    store.begin(&id, 1_000).unwrap();
    store.write(&id, 0, &content).unwrap();
    store.finish(&id, 1_000).unwrap();
}

#[test]
fn bundles_without_space_end_in_no_space_and_leave_nothing_behind() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = content(6, 1_000);
    store.begin(&id, 1_000).unwrap();
    store.write(&id, 0, &content[..500]).unwrap();
    // The disk says so itself, as it does when others fill it between the check and the write.
    disk.fail_path(Operation::Write, "partial", io::ErrorKind::StorageFull, 1);
    let full = store.write(&id, 500, &content[500..]);
    assert!(matches!(full, Err(BundleError::NoSpace { .. })), "{full:?}");
    assert_eq!(store.partials().unwrap(), []);
    assert!(matches!(store.write(&id, 500, &[0]), Err(BundleError::NotBegun { .. })));

    assert_eq!(store.begin(&id, 1_000).unwrap(), 0);
    store.write(&id, 0, &content).unwrap();
    disk.fail_path(Operation::SyncFile, "partial", io::ErrorKind::StorageFull, 1);
    let full = store.finish(&id, 1_000);
    assert!(matches!(full, Err(BundleError::NoSpace { .. })), "{full:?}");
    assert_eq!(store.partials().unwrap(), []);
    assert!(!store.contains(&id).unwrap());
}

#[test]
fn bundles_whose_name_could_not_be_synced_are_not_held() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = content(7, 100);
    let dir = disk::parent(&store.path(&id)).to_owned();
    store.begin(&id, 100).unwrap();
    store.write(&id, 0, &content).unwrap();
    let fragment = dir.to_string_lossy().into_owned();
    disk.fail_path(Operation::SyncDir, &fragment, io::ErrorKind::Other, 1);
    assert!(matches!(store.finish(&id, 100), Err(BundleError::Io { action: "sync", .. })));
    assert!(!store.contains(&id).unwrap());
    put(&store, 7, 100);
}

#[test]
fn bundles_a_failed_sync_is_not_believed_the_second_time() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (id, content) = content(9, 100);
    store.begin(&id, 100).unwrap();
    store.write(&id, 0, &content).unwrap();
    disk.fail_path(Operation::SyncFile, "partial", io::ErrorKind::Other, 1);
    assert!(matches!(store.finish(&id, 100), Err(BundleError::Io { action: "sync", .. })));
    assert!(matches!(store.finish(&id, 100), Err(BundleError::NotBegun { .. })));
    assert_eq!(store.begin(&id, 100).unwrap(), 0, "all bytes are sent again");
}

/// Writes a bundle, has the sync that `fault` names fail and what it leaves stay where it is.
fn fail_to_finish(disk: &SimDisk, store: &FileBundleStore, seed: u8, fault: Operation, at: &str) {
    let (id, content) = content(seed, 100);
    store.begin(&id, 100).unwrap();
    store.write(&id, 0, &content).unwrap();
    disk.fail_path(fault, at, io::ErrorKind::Other, 1);
    disk.fail_path(Operation::Remove, &id.to_string(), io::ErrorKind::Other, 2);
    assert!(matches!(store.finish(&id, 100), Err(BundleError::Io { action: "sync", .. })));
    disk.clear_faults();
}

fn dir_of(store: &FileBundleStore, seed: u8) -> String {
    let path = store.path(&content(seed, 100).0);
    disk::parent(&path).to_string_lossy().into_owned()
}

/// Uploads what a store says is missing, and takes the power away.
fn go_on_and_lose_power(disk: &SimDisk, store: FileBundleStore, seed: u8) {
    let (id, content) = content(seed, 100);
    let from = usize::try_from(store.begin(&id, 100).unwrap()).unwrap();
    if from < 100 {
        store.write(&id, from as u64, &content[from..]).unwrap();
    }
    store.finish(&id, 100).unwrap();
    drop(store);
    disk.crash(Loss::Unsynced);
    assert_eq!(on_sim(disk).read(&id).unwrap(), content, "it was acknowledged");
}

#[test]
fn invariant_r2_a_partial_that_could_be_neither_synced_nor_removed_is_not_believed() {
    for process in ["the same process", "the next process"] {
        let disk = SimDisk::new();
        let mut store = on_sim(&disk);
        fail_to_finish(&disk, &store, 10, Operation::SyncFile, "partial");
        if process == "the next process" {
            drop(store);
            disk.crash(Loss::Nothing);
            store = on_sim(&disk);
        }
        assert_eq!(store.partials().unwrap().len(), 1, "{process}: it is there still");
        go_on_and_lose_power(&disk, store, 10);
    }
}

#[test]
fn invariant_r2_a_name_that_could_be_neither_synced_nor_removed_is_not_believed() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let id = content(11, 100).0;
    let dir = dir_of(&store, 11);
    fail_to_finish(&disk, &store, 11, Operation::SyncDir, &dir);
    assert!(disk.exists(&store.path(&id)).unwrap(), "it is there still");
    assert!(!store.contains(&id).unwrap());
    assert_eq!(store.list().unwrap(), []);
    assert!(matches!(store.read(&id), Err(BundleError::NotFound { .. })));
    assert!(matches!(store.quarantine(&id), Err(BundleError::NotFound { .. })));
    go_on_and_lose_power(&disk, store, 11);
}

#[test]
fn invariant_r2_no_bundle_is_taken_into_a_directory_that_could_not_be_synced() {
    let disk = SimDisk::new();
    let store = on_sim(&disk);
    let (old, _) = put(&store, 12, 100);
    let (id, content) = content(13, 100);
    store.begin(&id, 100).unwrap();
    store.write(&id, 0, &content).unwrap();
    let outer = disk::parent(Path::new(&dir_of(&store, 13))).to_owned();
    // The first sync for this bundle that is of a directory: that of `bundles`, which got `ab`.
    disk.fail_path(Operation::SyncDir, "/home/bundles", io::ErrorKind::Other, 1);
    store.finish(&id, 100).unwrap_err();
    assert!(disk.exists(&outer).unwrap(), "the directory is there, and its name is not durable");
    for _ in 0..2 {
        store.begin(&id, 100).unwrap();
        store.write(&id, 0, &content).unwrap();
        let error = store.finish(&id, 100).unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("start this coordinator again"), "{text}");
    }
    // Where the directory is known to be good, all is as before.
    store.delete(&old).unwrap();
    put(&store, 12, 100);
}

#[test]
fn bundles_faults_of_the_wrapper_are_what_they_say() {
    let store = FaultyBundleStore::new(Arc::new(on_sim(&SimDisk::new())));
    let (id, content) = put(&store, 8, 100);
    store.inject(Fault::Error(Call::Read));
    assert!(matches!(store.read(&id), Err(BundleError::Io { .. })));
    store.inject(Fault::NoSpace(Call::Begin));
    let other = BundleId::of(b"other");
    assert!(matches!(store.begin(&other, 5), Err(BundleError::NoSpace { .. })));

    store.inject(Fault::FlipBit { id, offset: 50 });
    assert!(matches!(store.read(&id), Err(BundleError::Damaged { .. })));
    assert!(matches!(store.verify(&id), Err(BundleError::Damaged { .. })));
    assert_eq!(store.read_range(&id, 50, 1).unwrap(), [content[50] ^ 1]);
    store.quarantine(&id).unwrap();
    put(&store, 8, 100);
    assert_eq!(store.read(&id).unwrap(), content);

    store.inject(Fault::LoseBundle(id));
    assert!(!store.contains(&id).unwrap());
    assert_eq!(store.list().unwrap(), []);
    put(&store, 8, 100);
    assert_eq!(store.read(&id).unwrap(), content);

    store.begin(&other, 5).unwrap();
    store.inject(Fault::LoseWrite);
    store.write(&other, 0, b"other").unwrap();
    assert!(matches!(store.finish(&other, 5), Err(BundleError::WrongDigest { .. })));
}

#[test]
fn bundles_many_threads_upload_at_once_also_the_same_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home");
    let home = DataDir::create(Arc::new(RealDisk), &path, identity()).unwrap();
    let store = FileBundleStore::open(&home, NO_RESERVE).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                // Half of the bundles are the same for all threads: whoever is late resumes.
                for n in 0..10_u8 {
                    let seed = if n % 2 == 0 { n } else { 100 + thread * 10 + n };
                    let (id, content) = content(seed, 30_000);
                    while !store.contains(&id).unwrap() {
                        assert!(Instant::now() < deadline, "no upload got through");
                        let Ok(from) = store.begin(&id, 30_000) else { continue };
                        let from = usize::try_from(from).unwrap();
                        let end = (from + 7_000).min(30_000);
                        let _ = store.write(&id, from as u64, &content[from..end]);
                        let _ = store.finish(&id, 30_000);
                    }
                    assert_eq!(store.read(&id).unwrap(), content);
                }
            });
        }
    });
    assert_eq!(store.partials().unwrap(), []);
}

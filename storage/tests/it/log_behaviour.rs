//! The log while nothing is damaged, and when the disk says no: group commit, bounded memory,
//! callbacks only after the sync, purged segments gone, poison for ever.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use proto_types::Code;
use storage::disk::sim::{Loss, Operation, SimDisk};
use storage::disk::{Disk, RealDisk};
use storage::home::DataDir;
use storage::log::{LogError, LogOptions};
use storage::raft_log::RaftLogStore;
use storage::raft_types::{Command, Entry, EntryPayload, TypeConfig, Vote, log_id};
use storage::spawn::{Driver, Spawn, Task, ThreadSpawn};

use crate::world::{
    Content, SMALL, Step, append, content_of, home, identity, open_log, reopen, segments, wait,
};

fn entry(index: u64, bytes: usize) -> Entry {
    let command = Command::new(vec![index as u8; bytes]);
    Entry { log_id: log_id(1, 1, index), payload: EntryPayload::Normal(command) }
}

fn real_log(directory: &tempfile::TempDir, options: LogOptions) -> RaftLogStore {
    let path = directory.path().join("home");
    let home = DataDir::open_or_create(Arc::new(RealDisk), &path, identity()).unwrap();
    RaftLogStore::open(&home, options, Driver::threads()).unwrap()
}

#[test]
fn log_callbacks_come_only_after_the_sync() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    for index in 0..5 {
        wait(log.blocking_append([entry(index, 50)])).unwrap();
        // Whatever was called back is there after the power went, at this very moment.
        let after_cut = disk.clone();
        let pending = after_cut.syncs();
        assert!(pending.last().unwrap().path.to_string_lossy().contains("/home/log/"));
    }
    disk.crash(Loss::Unsynced);
    drop((log, dir));
    assert_eq!(reopen(&disk).unwrap().entries.len(), 5);
}

#[test]
fn log_many_appends_share_one_sync() {
    /// Holds the writer back until told, so that a queue builds up behind it.
    #[derive(Debug)]
    struct Late(
        std::sync::mpsc::SyncSender<()>,
        std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    );
    impl Spawn for Late {
        fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
            let gate = if name == "log-writer" { self.1.lock().unwrap().take() } else { None };
            ThreadSpawn.spawn(
                name,
                Box::new(move || {
                    if let Some(gate) = gate {
                        gate.recv().unwrap();
                    }
                    task();
                }),
            )
        }
    }
    let (open, gate) = std::sync::mpsc::sync_channel(1);
    let late = Arc::new(Late(open, std::sync::Mutex::new(Some(gate))));
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..SMALL };
    let mut log = RaftLogStore::open(&dir, options, Driver::Thread(late.clone())).unwrap();
    let before = disk.syncs().len();
    wait(async {
        let mut done = Vec::new();
        for index in 0..100 {
            let (sender, receiver) =
                <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
            log.append([entry(index, 50)], IOFlushed::signal(sender)).await.unwrap();
            done.push(receiver);
        }
        late.0.send(()).unwrap();
        for receiver in done {
            receiver.await.unwrap().unwrap();
        }
    });
    let syncs = disk.syncs();
    let of_segments = syncs[before..].iter().filter(|s| s.path.ends_with("0000000000000001.wal"));
    assert_eq!(of_segments.count(), 1, "a hundred appends, one fdatasync");
    wait(log.close()).unwrap();
}

#[test]
fn log_the_marker_follows_by_itself_once_the_log_is_idle() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = real_log(&directory, LogOptions { idle_millis: 1, ..LogOptions::default() });
    let marker = directory.path().join("home/log/MARKER");
    let before = std::fs::read(&marker).unwrap();
    wait(log.blocking_append([entry(0, 50)])).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read(&marker).unwrap() == before {
        assert!(Instant::now() < deadline, "the marker was not brought up to date");
        std::thread::yield_now();
    }
    wait(log.close()).unwrap();
}

#[test]
fn log_reads_equal_what_was_written_with_any_cache_and_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        LogOptions { segment_bytes: 8 << 10, cache_bytes: 2_000, ..LogOptions::default() };
    let mut log = real_log(&directory, options);
    let expected: Vec<Entry> = (0..200).map(|index| entry(index, 100)).collect();
    wait(async {
        for chunk in expected.chunks(7) {
            log.blocking_append(chunk.to_vec()).await.unwrap();
        }
        assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
        assert_eq!(log.try_get_log_entries(10..20).await.unwrap(), expected[10..20]);
        assert_eq!(log.try_get_log_entries(190..=400).await.unwrap(), expected[190..]);
        let limited = log.limited_get_log_entries(5, 200).await.unwrap();
        assert!(!limited.is_empty());
        log.close().await.unwrap();
    });
    drop(log);
    let mut log = real_log(&directory, options);
    assert_eq!(wait(log.try_get_log_entries(..)).unwrap(), expected);
    wait(log.close()).unwrap();
}

#[test]
fn log_purged_segments_are_deleted_and_what_they_held_is_not_forgotten() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    let mut content = Content::default();
    let mut steps = vec![Step::Vote(7)];
    steps.extend([Step::Append(1, 1, 200); 20]);
    steps.extend([Step::PurgeTo(15), Step::Append(2, 1, 200)]);
    for step in steps {
        step.perform(&mut log, &content).unwrap();
        content = step.after(&content);
    }
    let left = segments(&disk);
    assert!(left.len() <= 5, "five entries are left, and one fills a segment: {left:?}");
    assert!(!left.contains(&Path::new("/home/log/0000000000000001.wal").to_owned()));
    drop((log, dir));
    let found = reopen(&disk).unwrap();
    assert_eq!(found.vote, Some(Vote::new(7, 1)), "the vote was in a deleted segment");
    assert_eq!(found, content);
}

#[test]
fn log_a_snapshot_beyond_the_log_empties_it_and_it_goes_on_behind() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    wait(async {
        log.blocking_append([entry(0, 10), entry(1, 10)]).await.unwrap();
        log.purge(log_id(3, 2, 100)).await.unwrap();
        append(&mut log, &[(log_id(3, 2, 101), vec![1])]).await.unwrap();
        assert!(append(&mut log, &[(log_id(3, 2, 103), vec![1])]).await.is_err(), "a hole");
    });
    drop((log, dir));
    let found = reopen(&disk).unwrap();
    assert_eq!(found.purged, Some(log_id(3, 2, 100)));
    assert_eq!(found.entries, [(log_id(3, 2, 101), vec![1])]);
}

#[test]
fn log_the_committed_log_id_is_kept_without_a_sync_of_its_own() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    wait(async {
        log.blocking_append([entry(0, 10), entry(1, 10)]).await.unwrap();
        let before = disk.syncs().len();
        log.save_committed(Some(log_id(1, 1, 1))).await.unwrap();
        assert_eq!(disk.syncs().len(), before);
        log.blocking_append([entry(2, 10)]).await.unwrap();
    });
    drop((log, dir));
    disk.crash(Loss::Unsynced);
    let mut log = open_log(&home(&disk).unwrap()).unwrap();
    assert_eq!(wait(log.read_committed()).unwrap(), Some(log_id(1, 1, 1)));
}

#[test]
fn log_a_failed_sync_is_reported_and_poisons_the_log_for_ever() {
    for driver in [Driver::Inline, Driver::threads()] {
        let disk = SimDisk::new();
        let dir = home(&disk).unwrap();
        let mut log = RaftLogStore::open(&dir, SMALL, driver).unwrap();
        wait(async {
            log.blocking_append([entry(0, 10)]).await.unwrap();
            disk.fail_path(Operation::SyncFile, ".wal", io::ErrorKind::Other, 1);
            assert!(log.blocking_append([entry(1, 10)]).await.is_err());
            // The disk is sound again; what the kernel did with the failed pages nobody knows.
            assert!(log.blocking_append([entry(2, 10)]).await.is_err());
            let refused = log.save_vote(&Vote::new(9, 1)).await.unwrap_err();
            assert!(refused.to_string().contains("restart the node"), "{refused}");
            assert!(log.poisoned().unwrap().contains("simulated fault"));
            assert!(matches!(log.settle().await, Err(LogError::Poisoned { .. })));
            assert!(matches!(log.close().await, Err(LogError::Poisoned { .. })));
        });
    }
}

#[test]
fn log_without_space_reports_no_space_and_is_poisoned() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    wait(log.blocking_append([entry(0, 10)])).unwrap();
    disk.set_capacity(Some(0));
    let mut content = content_of(&log).unwrap();
    let error = (0..20)
        .find_map(|_| {
            let step = Step::Append(1, 1, 100);
            let result = step.perform(&mut log, &content);
            content = step.after(&content);
            result.err()
        })
        .expect("the disk is full");
    assert!(error.contains("log"), "{error}");
    assert!(log.poisoned().is_some());
    disk.set_capacity(None);
    assert!(Step::Vote(2).perform(&mut log, &content).is_err(), "for ever");
    let no_space = LogError::Io {
        action: "write",
        path: Path::new("x").to_owned(),
        source: io::ErrorKind::StorageFull.into(),
    };
    assert_eq!(no_space.code(), Code::NoSpace);
    // After a restart, with space, it goes on where it was acknowledged.
    drop((log, dir));
    disk.crash(Loss::Unsynced);
    assert!(!reopen(&disk).unwrap().entries.is_empty());
}

#[test]
fn log_a_disk_too_full_for_the_next_segment_is_not_filled_with_zeros() {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let options = LogOptions { segment_bytes: 100_000, ..SMALL };
    let mut log = RaftLogStore::open(&dir, options, Driver::Inline).unwrap();
    let used: usize = disk.files().iter().map(|f| disk.content(f).unwrap().len()).sum();
    disk.set_capacity(Some(used as u64 + 50_000));
    for index in 0..100 {
        wait(log.blocking_append([entry(index, 100)])).unwrap();
    }
    assert!(disk.files().iter().all(|path| !path.ends_with("NEXT.tmp")));
    assert!(log.poisoned().is_none());
}

#[test]
fn log_appends_wait_while_too_much_is_not_durable() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { unflushed_bytes_max: 1_000, ..LogOptions::default() };
    let mut log = real_log(&directory, options);
    let waiting = Arc::new(AtomicUsize::new(0));
    wait(async {
        for index in 0..500 {
            let (sender, receiver) =
                <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
            log.append([entry(index, 200)], IOFlushed::signal(sender)).await.unwrap();
            let now = waiting.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(now <= 8, "{now} appends of 230 bytes are not durable, the bound is 1000");
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                receiver.await.unwrap().unwrap();
                waiting.fetch_sub(1, Ordering::SeqCst);
            });
            tokio::task::yield_now().await;
        }
        log.close().await.unwrap();
    });
}

#[test]
fn log_closed_or_dropped_gives_the_directory_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = real_log(&directory, LogOptions::default());
    wait(async {
        log.blocking_append([entry(0, 10)]).await.unwrap();
        log.close().await.unwrap();
        log.close().await.unwrap();
        assert!(log.blocking_append([entry(1, 10)]).await.is_err());
    });
    drop(log);
    let log = real_log(&directory, LogOptions::default());
    assert_eq!(content_of(&log).unwrap().entries.len(), 1);
    drop(log);
    // Without a close the writer's thread gives the lock back when it has ended.
    let path = directory.path().join("home");
    let deadline = Instant::now() + Duration::from_secs(20);
    while DataDir::open(Arc::new(RealDisk) as Arc<dyn Disk>, &path, identity()).is_err() {
        assert!(Instant::now() < deadline, "the lock is still held");
        std::thread::yield_now();
    }
}

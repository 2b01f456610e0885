//! Snapshot files beside the crash suite: damage at every byte, which fallbacks are allowed,
//! transfer between nodes.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proto_types::Code;
use storage::disk::Disk;
use storage::disk::sim::SimDisk;
use storage::raft_log::LogBounds;
use storage::raft_types::log_id;
use storage::snapshots::{SnapshotError, SnapshotStore, StoredSnapshot};

use crate::crash_snapshots::{build, content, meta, purged};
use crate::world::home;

fn bounds(purged: u64, last: u64) -> LogBounds {
    LogBounds { purged: Some(log_id(1, 1, purged)), last: Some(log_id(1, 1, last)) }
}

/// A disk with snapshots of these indexes, the newest last.
fn with_snapshots(indexes: &[u64]) -> SimDisk {
    let disk = SimDisk::new();
    let store = SnapshotStore::open(&home(&disk).unwrap(), purged(None)).unwrap().0;
    for index in indexes {
        store.publish(&build(&store, *index).unwrap()).unwrap();
    }
    drop(store);
    disk.fork()
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| path.starts_with("/home/snapshots"));
    files
}

type Opened = (SnapshotStore, Vec<storage::snapshots::DamagedSnapshot>);

fn open(disk: &SimDisk, log: LogBounds) -> Result<Opened, SnapshotError> {
    SnapshotStore::open(&home(disk).unwrap(), log)
}

#[test]
fn snapshots_two_are_kept_and_the_newest_is_found() {
    let disk = with_snapshots(&[10, 20, 30]);
    assert_eq!(files(&disk).len(), 2);
    let (store, damaged) = open(&disk, bounds(30, 30)).unwrap();
    assert!(damaged.is_empty());
    let newest = store.newest().unwrap();
    assert_eq!(newest.meta(), &meta(30));
    let mut read = Vec::new();
    newest.reader().read_to_end(&mut read).unwrap();
    assert_eq!(read, content(30));
    assert_eq!(newest.read(700, 1_000).unwrap(), content(30)[700..]);
    assert_eq!(newest.read(5_000, 1).unwrap(), [0_u8; 0]);
}

#[test]
fn snapshots_damaged_at_any_byte_fall_back_aloud_while_the_log_reaches_back() {
    let disk = with_snapshots(&[10, 20]);
    let newest = files(&disk).pop().unwrap();
    let length = disk.content(&newest).unwrap().len();
    for offset in 0..length {
        let damaged = disk.fork();
        damaged.flip_bit(&newest, offset as u64, (offset % 8) as u8).unwrap();
        // The log still holds everything after 10.
        let (store, found) = open(&damaged, bounds(10, 25)).unwrap();
        assert_eq!(store.newest().unwrap().last_index(), Some(10), "byte {offset}");
        assert_eq!(found.len(), 1, "byte {offset}");
        assert!(damaged.exists(&found[0].path).unwrap(), "it is put aside, not deleted");
        assert!(found[0].error.to_string().contains(&*newest.to_string_lossy()));
        assert_eq!(store.damaged()[0].path, found[0].path);
        drop(store);
        let (store, newly) = open(&damaged, bounds(10, 25)).unwrap();
        assert!(newly.is_empty(), "found once");
        store.publish(&build(&store, 25).unwrap()).unwrap();
        assert_eq!(store.damaged()[0].path, found[0].path, "and kept until it is discarded");
        store.discard(&found[0]).unwrap();
        assert!(store.damaged().is_empty());
        assert!(!damaged.exists(&found[0].path).unwrap());
    }
    let whole = disk.content(&newest).unwrap();
    for length in 0..length {
        let cut = disk.fork();
        cut.overwrite(&newest, &whole[..length]).unwrap();
        let (store, found) = open(&cut, bounds(10, 25)).unwrap();
        assert_eq!((store.newest().unwrap().last_index(), found.len()), (Some(10), 1));
    }
}

#[test]
fn snapshots_a_damaged_newest_one_refuses_when_the_log_begins_after_the_one_before() {
    let disk = with_snapshots(&[10, 20]);
    let newest = files(&disk).pop().unwrap();
    disk.flip_bit(&newest, 100, 0).unwrap();
    for log in [
        // Purged past the older one.
        bounds(20, 30),
        bounds(11, 30),
        // Not purged, but the snapshot was received and covers more than the log has: falling
        // back would forget what this node has acknowledged.
        bounds(5, 19),
    ] {
        for attempt in ["first", "second"] {
            let error = open(&disk, log).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, SnapshotError::Unrecoverable { .. }), "{attempt}: {text}");
            assert_eq!(error.code(), Code::Damaged);
            assert!(text.contains(&*newest.to_string_lossy()), "{text}");
            assert!(text.contains("rejoin as a new node"), "{text}");
        }
    }
}

#[test]
fn snapshots_gone_altogether_refuse_when_the_log_was_purged() {
    let disk = with_snapshots(&[10]);
    disk.remove(&files(&disk)[0]).unwrap();
    assert!(matches!(open(&disk, bounds(10, 20)), Err(SnapshotError::Unrecoverable { .. })));
    let (store, _) = open(&disk, purged(None)).unwrap();
    assert!(store.newest().is_none());
}

#[test]
fn snapshots_travel_in_pieces_and_are_compared_at_the_end() {
    let from = with_snapshots(&[10]);
    let (sender, _) = open(&from, purged(None)).unwrap();
    let sent = sender.newest().unwrap();
    let to = SimDisk::new();
    let (receiver, _) = open(&to, purged(None)).unwrap();
    let receive = |flip: bool| {
        let mut writer = receiver.writer(sent.meta()).unwrap();
        let mut at = 0;
        while at < sent.content_bytes() {
            let mut piece = sent.read(at, 64).unwrap();
            at += piece.len() as u64;
            if flip && at == 128 {
                piece[0] ^= 1;
            }
            Write::write_all(&mut writer, &piece).unwrap();
        }
        writer.finish(Some(sent.digest()))
    };
    let error = receive(true).unwrap_err();
    assert!(matches!(error, SnapshotError::WrongDigest { .. }), "{error}");
    assert!(files(&to).is_empty(), "a refused one leaves nothing");

    let received = receive(false).unwrap();
    assert!(receiver.newest().is_none(), "whole, but not yet published");
    assert_eq!(received.read(0, 10_000).unwrap(), content(10));
    receiver.publish(&received).unwrap();
    receiver.publish(&received).unwrap();
    assert_eq!(receiver.newest().as_ref().map(StoredSnapshot::digest), Some(sent.digest()));
    assert_eq!(files(&to).len(), 1);
}

#[test]
fn snapshots_unpublished_ones_vanish_and_an_older_one_never_replaces_a_newer() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, purged(None)).unwrap();
    let old = build(&store, 10).unwrap();
    store.publish(&build(&store, 20).unwrap()).unwrap();
    store.publish(&old).unwrap();
    assert_eq!(store.newest().unwrap().last_index(), Some(20));
    drop(old);
    drop(store.writer(&meta(30)).unwrap());
    assert_eq!(files(&disk).len(), 1);
    disk.create(Path::new("/home/snapshots/writing-9.tmp")).unwrap();
    drop(store);
    open(&disk, purged(None)).unwrap();
    assert_eq!(files(&disk).len(), 1, "what an earlier process left half written is removed");
}

#[test]
fn snapshots_without_space_leave_the_one_before() {
    let disk = with_snapshots(&[10]);
    let (store, _) = open(&disk, purged(None)).unwrap();
    disk.set_capacity(Some(0));
    let error = build(&store, 20).unwrap_err();
    assert_eq!(error.code(), Code::NoSpace);
    disk.set_capacity(None);
    assert_eq!(store.newest().unwrap().last_index(), Some(10));
    assert_eq!(files(&disk).len(), 1);
}

//! Snapshot files under power cuts and lies: a published snapshot is there, whole, and the node's
//! newest; and the one before it until the next is.

use std::io::ErrorKind;

use storage::disk::sim::{Loss, Operation, SimDisk};
use storage::raft_log::LogBounds;
use storage::raft_types::{SnapshotMeta, log_id};
use storage::snapshots::{SnapshotError, SnapshotStore, StoredSnapshot};

use crate::crash::{Scenario, Site, at_every_operation, every_sync_matters};
use crate::world::home;

/// Several snapshots, at one of which the process ends.
struct SnapshotStory(End);

/// Where it ends, between the rename and what makes it durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Killed before the sync of the directory.
    BeforeSync,
    /// Killed after that sync failed, so that the kernel forgot the name, and before the name was
    /// taken back; the next start fails at the same.
    AfterFailedSync,
}

#[derive(Default)]
struct Acknowledged {
    /// Last index of the newest published one, and of one that might have been published.
    newest: Option<u64>,
    maybe: Option<u64>,
}

pub(crate) fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(log_id(1, 1, index)), ..SnapshotMeta::default() }
}

pub(crate) fn content(index: u64) -> Vec<u8> {
    (0..700 + index as usize).map(|i| (i as u64 * index) as u8).collect()
}

pub(crate) fn build(store: &SnapshotStore, index: u64) -> Result<StoredSnapshot, SnapshotError> {
    let mut writer = store.writer(&meta(index))?;
    for piece in content(index).chunks(100) {
        writer.write(piece)?;
    }
    writer.finish(None)
}

/// The log has been purged up to what was published, as it is right after.
pub(crate) fn purged(index: Option<u64>) -> LogBounds {
    let id = index.map(|index| log_id(1, 1, index));
    LogBounds { purged: id, last: id }
}

impl Scenario for SnapshotStory {
    type Acknowledged = Acknowledged;

    fn run(&self, disk: &SimDisk, acknowledged: &mut Acknowledged) -> Result<(), String> {
        let mut dir = home(disk).map_err(|e| e.to_string())?;
        disk.label("open");
        let mut store = SnapshotStore::open(&dir, purged(None)).map_err(|e| e.to_string())?.0;
        disk.label("work");
        for index in [10, 20, 30, 40, 50] {
            acknowledged.maybe = Some(index);
            let is_killed = index == 40;
            if is_killed {
                disk.label("killed");
                match self.0 {
                    End::BeforeSync => disk.kill_at(Operation::SyncDir, "/home/snapshots"),
                    End::AfterFailedSync => {
                        disk.fail_path(Operation::SyncDir, "/home/snapshots", ErrorKind::Other, 1);
                        disk.kill_at(Operation::Remove, "/home/snapshots");
                    }
                }
            }
            let built = build(&store, index).map_err(|e| e.to_string())?;
            let published = store.publish(&built);
            if is_killed && published.is_err() {
                // Killed after the rename: the next process sees the file, and purges.
                drop((built, store, dir));
                disk.crash(Loss::Nothing);
                if self.0 == End::AfterFailedSync {
                    disk.fail_path(Operation::SyncDir, "/home/snapshots", ErrorKind::Other, 1);
                    let dir = home(disk).map_err(|e| e.to_string())?;
                    if SnapshotStore::open(&dir, purged(acknowledged.newest)).is_ok() {
                        return Err("opened although a sync failed".to_owned());
                    }
                    drop(dir);
                    disk.crash(Loss::Nothing);
                }
                dir = home(disk).map_err(|e| e.to_string())?;
                disk.label("open");
                store = SnapshotStore::open(&dir, purged(acknowledged.newest))
                    .map_err(|e| e.to_string())?
                    .0;
                disk.label("work");
                acknowledged.newest = store.newest().and_then(|s| s.last_index());
            } else {
                published.map_err(|e| e.to_string())?;
                acknowledged.newest = Some(index);
            }
            acknowledged.maybe = None;
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, acknowledged: &Acknowledged) -> Result<(), String> {
        let dir = home(disk).map_err(|e| e.to_string())?;
        let (store, damaged) =
            SnapshotStore::open(&dir, purged(acknowledged.newest)).map_err(|e| e.to_string())?;
        if !damaged.is_empty() {
            return Err(format!("a half-written file got a name: {damaged:?}"));
        }
        let newest = store.newest();
        let index = newest.as_ref().and_then(StoredSnapshot::last_index);
        if index != acknowledged.newest && (index.is_none() || index != acknowledged.maybe) {
            return Err(format!("expected {:?}, found {index:?}", acknowledged.newest));
        }
        if let (Some(newest), Some(index)) = (newest, index) {
            let found = newest.read(0, usize::MAX).map_err(|e| e.to_string())?;
            if found != content(index) {
                return Err(format!("the content of {index} is another"));
            }
        }
        Ok(())
    }
}

#[test]
fn snapshots_survive_a_power_cut_at_every_operation() {
    at_every_operation(&SnapshotStory(End::BeforeSync));
}

#[test]
fn snapshots_whose_name_a_failed_sync_forgot_are_named_anew_before_the_log_is_purged() {
    // The file that could not be synced is what the next start goes on from.
    let (disk, story) = (SimDisk::new(), SnapshotStory(End::AfterFailedSync));
    story.run(&disk, &mut Acknowledged::default()).unwrap();
    assert!(
        disk.files()
            .iter()
            .any(|path| path.to_string_lossy().contains(&format!("{:016x}.snap", 40)))
    );
    at_every_operation(&story);
}

#[test]
fn snapshots_every_sync_is_missed_when_left_out() {
    every_sync_matters(&SnapshotStory(End::BeforeSync), |sync, _| match sync.during {
        _ if !sync.path.starts_with("/home/snapshots") => {
            Site::Excused("the home's and the log's, which have suites of their own")
        }
        "open" => Site::Once("the directory at open"),
        _ => Site::Always,
    });
}

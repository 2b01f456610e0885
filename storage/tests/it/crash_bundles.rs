//! Bundle files under power cuts and lies: what was finished is held, whole; what was deleted or
//! quarantined stays away; and nothing half-written is ever held.

use std::collections::BTreeSet;

use proto_types::BundleId;
use storage::bundles::{BundleOptions, BundleStore, FileBundleStore};
use storage::disk::sim::{Loss, Operation, SimDisk};

use crate::crash::{Scenario, Site, at_every_operation, every_sync_matters};
use crate::world::home;

struct BundleStory;

#[derive(Default)]
struct Acknowledged {
    held: BTreeSet<u8>,
    gone: BTreeSet<u8>,
}

fn content(seed: u8) -> Vec<u8> {
    (0..500_u32).map(|i| (i * u32::from(seed)) as u8).collect()
}

fn open(disk: &SimDisk) -> Result<FileBundleStore, String> {
    let dir = home(disk).map_err(|e| e.to_string())?;
    disk.label("open");
    let options = BundleOptions { reserve_bytes: 0 };
    FileBundleStore::open(&dir, options).map_err(|e| e.to_string())
}

fn put(store: &FileBundleStore, seed: u8) -> Result<(), String> {
    let content = content(seed);
    let id = BundleId::of(&content);
    let upload = || {
        let from = store.begin(&id, 500)?;
        if from == 500 {
            return Ok(());
        }
        for (i, piece) in content.chunks(200).enumerate().skip(from as usize / 200) {
            store.write(&id, i as u64 * 200, piece)?;
        }
        store.finish(&id, 500)
    };
    upload().map_err(|e| e.to_string())
}

impl Scenario for BundleStory {
    type Acknowledged = Acknowledged;

    fn run(&self, disk: &SimDisk, acknowledged: &mut Acknowledged) -> Result<(), String> {
        let mut store = open(disk)?;
        disk.label("work");
        for seed in [1, 2, 3] {
            put(&store, seed)?;
            acknowledged.held.insert(seed);
        }
        for seed in [1, 2] {
            acknowledged.held.remove(&seed);
            let id = BundleId::of(&content(seed));
            let result = if seed == 1 { store.delete(&id) } else { store.quarantine(&id) };
            result.map_err(|e| e.to_string())?;
            acknowledged.gone.insert(seed);
        }
        // The process is killed between the rename of a bundle and the sync of its directory; the
        // next one sees the file, answers that it holds it, and that answer is counted.
        let name = BundleId::of(&content(4)).to_string();
        let dir = format!("{}/{}", &name[..2], &name[2..4]);
        disk.label("killed");
        disk.kill_at(Operation::SyncDir, &dir);
        if put(&store, 4).is_err() {
            drop(store);
            disk.crash(Loss::Nothing);
            store = open(disk)?;
            if store.contains(&BundleId::of(&content(4))).map_err(|e| e.to_string())? {
                acknowledged.held.insert(4);
            }
        }
        disk.label("work");
        put(&store, 5)?;
        acknowledged.held.insert(5);
        Ok(())
    }

    fn check(&self, disk: &SimDisk, acknowledged: &Acknowledged) -> Result<(), String> {
        let store = open(disk)?;
        for bundle in store.list().map_err(|e| e.to_string())? {
            store.verify(&bundle.id).map_err(|e| e.to_string())?;
        }
        for (seeds, expected) in [(&acknowledged.held, true), (&acknowledged.gone, false)] {
            for seed in seeds {
                let id = BundleId::of(&content(*seed));
                if store.contains(&id).map_err(|e| e.to_string())? != expected {
                    return Err(format!("bundle {seed} should be held: {expected}"));
                }
            }
        }
        // And what was under way can be done again, resumed or anew.
        for seed in 1..=5 {
            if put(&store, seed).is_err() {
                // A partial file that lost bytes is refused once, and then begun anew.
                put(&store, seed)?;
            }
        }
        Ok(())
    }
}

#[test]
fn invariant_r2_bundles_survive_a_power_cut_at_every_operation() {
    at_every_operation(&BundleStory);
}

#[test]
fn invariant_r2_every_sync_of_a_bundle_is_missed_when_left_out() {
    every_sync_matters(&BundleStory, |sync, _| match sync.during {
        _ if !sync.path.starts_with("/home/bundles") => {
            Site::Excused("the home's and the log's, which have suites of their own")
        }
        "open" => Site::Once("the file system at open"),
        "killed" => Site::Excused("made up for by the open that follows"),
        _ => Site::Always,
    });
}

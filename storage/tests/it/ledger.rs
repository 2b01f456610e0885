//! The ledger: one suite for both, and what sled's files do to it when they rot.

use std::cell::Cell;
use std::fs;
use std::sync::Arc;

use proto_types::{BundleId, LogTime};
use storage::bundles::HeldBundle;
use storage::disk::RealDisk;
use storage::home::DataDir;
use storage::ledger::{
    BundleRow, Ledger, LedgerOpened, MemoryLedger, RebuildReport, SledLedger, conformance,
};

use crate::world::identity;

fn real_home(directory: &tempfile::TempDir, name: &str) -> DataDir {
    let path = directory.path().join(name);
    DataDir::open_or_create(Arc::new(RealDisk), &path, identity()).unwrap()
}

#[test]
fn ledger_in_memory_conforms() {
    conformance::run(MemoryLedger::new);
}

#[test]
fn ledger_on_sled_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let number = Cell::new(0);
    conformance::run(|| {
        number.set(number.get() + 1);
        let home = real_home(&directory, &format!("home-{}", number.get()));
        let (ledger, opened) = SledLedger::open(&home).unwrap();
        assert_eq!(opened, LedgerOpened::Created);
        ledger
    });
}

fn held() -> Vec<HeldBundle> {
    (0..200_u32)
        .map(|n| HeldBundle { id: BundleId::of(&n.to_le_bytes()), bytes: u64::from(n) + 1 })
        .collect()
}

#[test]
fn ledger_on_sled_is_found_again_with_its_scrub_times() {
    let directory = tempfile::tempdir().unwrap();
    let home = real_home(&directory, "home");
    let (ledger, _) = SledLedger::open(&home).unwrap();
    ledger.rebuild_from(&held()).unwrap();
    let first = held()[0].id;
    ledger.mark_scrubbed(&first, LogTime::from_millis(77)).unwrap();
    ledger.flush().unwrap();
    drop(ledger);
    let (ledger, opened) = SledLedger::open(&home).unwrap();
    assert_eq!(opened, LedgerOpened::Found);
    let report = ledger.rebuild_from(&held()).unwrap();
    assert_eq!(report, RebuildReport { kept: 200, added: 0, removed: 0 });
    let row = BundleRow { bytes: 1, last_scrubbed: Some(LogTime::from_millis(77)) };
    assert_eq!(ledger.bundle(&first).unwrap(), Some(row));
}

#[test]
fn ledger_that_lost_what_was_not_flushed_is_rebuilt() {
    let ledger = MemoryLedger::new();
    let [first, second] = [held()[0], held()[1]];
    ledger.rebuild_from(&[first]).unwrap();
    ledger.mark_scrubbed(&first.id, LogTime::from_millis(77)).unwrap();
    ledger.put_bundle(&second.id, BundleRow { bytes: 2, last_scrubbed: None }).unwrap();
    ledger.lose_unflushed();
    let unscrubbed = BundleRow { bytes: first.bytes, last_scrubbed: None };
    assert_eq!(ledger.bundles().unwrap(), [(first.id, unscrubbed)]);
    let report = ledger.rebuild_from(&[first, second]).unwrap();
    assert_eq!(report, RebuildReport { kept: 1, added: 1, removed: 0 });
    ledger.lose_unflushed();
    assert!(ledger.bundle(&second.id).unwrap().is_some(), "a rebuild is flushed");
}

#[test]
fn ledger_damaged_missing_or_behind_is_rebuilt_from_the_bundle_files() {
    let directory = tempfile::tempdir().unwrap();
    let home = real_home(&directory, "home");
    let database = home.ledger_dir().join("db");
    for case in ["deleted", "cut", "zeroed", "noise", "bad config"] {
        let (ledger, _) = SledLedger::open(&home).unwrap();
        ledger.rebuild_from(&held()).unwrap();
        drop(ledger);
        let whole = fs::read(&database).unwrap();
        match case {
            "deleted" => fs::remove_dir_all(home.ledger_dir()).unwrap(),
            "cut" => fs::write(&database, &whole[..whole.len() / 3]).unwrap(),
            "zeroed" => fs::write(&database, vec![0; whole.len()]).unwrap(),
            "noise" => fs::write(&database, vec![0xa5; whole.len()]).unwrap(),
            _ => fs::write(home.ledger_dir().join("conf"), b"nonsense").unwrap(),
        }
        let (ledger, _) = SledLedger::open(&home).unwrap_or_else(|e| panic!("{case}: {e:?}"));
        ledger.rebuild_from(&held()).unwrap_or_else(|e| panic!("{case}: {e:?}"));
        let mut expected: Vec<_> = held().iter().map(|b| (b.id, b.bytes)).collect();
        expected.sort();
        let found: Vec<_> =
            ledger.bundles().unwrap().into_iter().map(|(id, row)| (id, row.bytes)).collect();
        assert_eq!(found, expected, "{case}");
    }
}

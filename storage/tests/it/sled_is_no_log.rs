//! The measurement behind `docs/decisions/0001-sled-is-the-ledger-not-the-log.md`, kept running:
//! sled 0.34 reopens a damaged file as an older state without a word, and its flush is no fsync.
//! Should a later sled behave otherwise, these tests fail, and the decision can be looked at anew.

use std::fs;
use std::path::Path;
use std::process::Command;

const BATCHES: u32 = 2_000;

/// So many small batches, each flushed: what a log would do.
fn write(path: &Path) {
    let db = sled::Config::new().path(path).flush_every_ms(None).open().unwrap();
    for n in 0..BATCHES {
        let mut batch = sled::Batch::default();
        batch.insert(&n.to_be_bytes(), vec![n as u8; 256]);
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
    }
    // What is on disk now, before sled tidies up on drop, is what a crash would leave.
    let copy = path.with_extension("copy");
    fs::create_dir(&copy).unwrap();
    for file in ["conf", "db"] {
        fs::copy(path.join(file), copy.join(file)).unwrap();
    }
}

fn rows(path: &Path) -> u32 {
    let db = sled::Config::new().path(path).open().unwrap();
    let keys: Vec<u32> = db
        .iter()
        .keys()
        .map(|key| u32::from_be_bytes(key.unwrap().as_ref().try_into().unwrap()))
        .collect();
    assert!(keys.iter().copied().eq(0..keys.len() as u32), "a prefix, without holes");
    keys.len() as u32
}

#[test]
fn sled_reopens_a_damaged_tail_as_a_silent_rollback() {
    let directory = tempfile::tempdir().unwrap();
    write(&directory.path().join("original"));
    let copy = directory.path().join("original.copy");
    let whole = fs::read(copy.join("db")).unwrap();
    // The file is preallocated by segments; the last byte that is not zero ends what was written.
    let used = whole.iter().rposition(|b| *b != 0).unwrap() + 1;

    let reopened = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::copy(copy.join("conf"), path.join("conf")).unwrap();
        fs::write(path.join("db"), content).unwrap();
        rows(&path)
    };
    assert_eq!(reopened("untouched", &whole), BATCHES);

    let mut zeroed = whole.clone();
    zeroed[used - 512..].fill(0);
    let mut overwritten = whole.clone();
    overwritten[used - 512..used].fill(0xa5);
    for (name, content) in
        [("cut", &whole[..used - 512]), ("zeroed", &zeroed[..]), ("overwritten", &overwritten[..])]
    {
        // `rows` unwraps: there was no error at open, nor while reading.
        let left = reopened(name, content);
        assert!(left < BATCHES, "{name}: all {left} rows are there, sled has learned to tell");
    }
}

/// Runs under strace, started by the test below.
#[test]
fn sled_flushes_fifty_times() {
    // Only as the traced child: by itself it has nothing to show.
    let Some(path) = std::env::var_os("SLED_TRACED_DIRECTORY") else { return };
    let db = sled::Config::new().path(path).flush_every_ms(None).open().unwrap();
    eprintln!("FLUSHES BEGIN");
    for n in 0..50_u32 {
        db.insert(n.to_be_bytes(), vec![0; 256]).unwrap();
        db.flush().unwrap();
    }
    eprintln!("FLUSHES END");
}

#[test]
fn sled_flush_does_not_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync,sync_file_range,write", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "sled_is_no_log::sled_flushes_fifty_times", "--nocapture"])
        .env("SLED_TRACED_DIRECTORY", directory.path().join("db"))
        .output();
    // Without strace, or where it may not trace, the rollback test above stands alone.
    let Ok(output) = traced else { return };
    if !output.status.success() {
        return;
    }
    let trace = fs::read_to_string(trace).unwrap();
    let from = trace.find("FLUSHES BEGIN").unwrap();
    let to = trace.find("FLUSHES END").unwrap();
    let during = &trace[from..to];
    assert!(during.matches("sync_file_range(").count() >= 50, "sled flushes another way now");
    assert_eq!(during.matches(" fsync(").count(), 0, "sled has learned to fsync");
    assert_eq!(during.matches(" fdatasync(").count(), 0, "sled has learned to fdatasync");
}

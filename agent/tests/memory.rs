//! How much memory a backup takes, as the kernel counts it: a process of its own, because the
//! highest mark is of the whole process. The fake fleet's nodes are in it too and keep nothing.
#![allow(dead_code)] // not every part of the shared modules is used here

#[path = "it/fleet.rs"]
mod fleet;
#[path = "it/story.rs"]
mod story;
#[path = "it/tree.rs"]
mod tree;

use std::io::Write;

use story::Story;

/// The highest resident size so far, in MiB.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A file that neither compresses nor repeats.
fn big(path: &std::path::Path, mebibytes: u64) {
    let mut block = tree::noise(1 << 20, 7);
    let mut file = std::fs::File::create(path).unwrap();
    for number in 0..mebibytes {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).unwrap();
    }
}

fn many(root: &std::path::Path, count: usize) {
    for number in 0..count {
        let directory = root.join(format!("d{:03}", number / 100));
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = tree::noise(1024 + (number * 37) % 3072, number as u64 + 1);
        std::fs::write(directory.join(format!("f{number}")), bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_backup_stays_under_128_mebibytes() {
    let mut story = Story::begin().await;
    story.fleet.lock().faults.forget_config = true;
    big(&story.source().join("big"), 300);
    many(&story.source(), 20_000);
    let point = story.backup().await;
    assert!(point.items > 20_000 && point.logical_bytes > 300 << 20);
    // A delta keeps its base and the new list in memory.
    tree::write(&story.source(), "d000/new", b"new");
    assert!(!story.backup().await.base_manifest_id.is_empty());
    let peak = peak_mebibytes();
    assert!(peak < 128, "{peak} MiB resident");
}

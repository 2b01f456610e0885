//! How much memory a backup takes, as the kernel counts it: a process of its own, because the
//! highest mark is of the whole process. The fake fleet's nodes are in it too and keep nothing.
#![allow(dead_code)] // not every part of the shared modules is used here

#[path = "it/fleet.rs"]
mod fleet;
#[path = "it/large.rs"]
mod large;
#[path = "it/story.rs"]
mod story;
#[path = "it/tree.rs"]
mod tree;

use story::Story;

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_backup_stays_under_128_mebibytes() {
    let mut story = Story::begin().await;
    story.fleet.lock().faults.forget_config = true;
    large::big(&story.source().join("big"), 300);
    large::many(&story.source(), 20_000);
    let point = story.backup().await;
    assert!(point.items > 20_000 && point.logical_bytes > 300 << 20);
    // A delta keeps its base and the new list in memory.
    tree::write(&story.source(), "d000/new", b"new");
    assert!(!story.backup().await.base_manifest_id.is_empty());
    let peak = large::peak_mebibytes();
    assert!(peak < 128, "{peak} MiB resident");
}

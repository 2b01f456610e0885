//! How much memory a restore takes, as the kernel counts it: in a process of its own, which this
//! one starts, because the fake fleet of this one keeps every sealed byte in memory.
#![allow(dead_code)] // not every part of the shared modules is used here

#[path = "it/fleet.rs"]
mod fleet;
#[path = "it/large.rs"]
mod large;
#[path = "it/story.rs"]
mod story;
#[path = "it/tree.rs"]
mod tree;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use agent::export::{ExportPointStore, write_export};
use agent::heads::KnownHeads;
use agent::point_store::PointSelector;
use agent::progress::NoProgress;
use agent::{OpenedPoint, Opener};
use proto::env::Env;
use story::{Story, options, restore};

/// Tells the process that restores where it works.
const PLACE: &str = "STRONGROOM_TEST_MEMORY";

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_restore_stays_under_128_mebibytes() {
    let mut story = Story::begin().await;
    large::big(&story.source().join("big"), 240);
    large::many(&story.source(), 20_000);
    for number in 0..4 {
        large::big(&story.source().join(format!("middle{number}")), 5);
    }
    let point = story.backup().await;
    assert!(point.items > 20_000 && point.logical_bytes > 300 << 20, "{}", point.logical_bytes);
    let store = story.store(PointSelector::Newest).await;
    let file = story.path("point.strongroom");
    write_export(&store, &file, &story.env, Arc::new(NoProgress)).await.unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "restores_in_its_own_process"])
        .env(PLACE, story.temp.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    print!("{said}");
    tree::assert_equal(&story.source(), &story.path("to"));
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_in_its_own_process() {
    // A part of the test above, which runs it in a process of its own.
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let env = Env::system();
    let opener = Opener::from_kek_file(&place.join("state/kek.key")).unwrap();
    let store = ExportPointStore::open(&place.join("point.strongroom"), &env).await.unwrap();
    let mut heads = KnownHeads::nothing();
    let point = OpenedPoint::open(Arc::new(store), &opener, &mut heads, &env).await.unwrap();
    let to = place.join("to");
    restore(&point, &options(&to)).await.unwrap();
    println!("{} MiB resident after a restore", large::peak_mebibytes());
    // Over what is there, with a safety file of the big one and many small ones.
    std::fs::write(to.join("big"), vec![0; 1 << 20]).unwrap();
    for number in 0..100 {
        std::fs::write(to.join(format!("d{number:03}/f{}", number * 100)), b"changed").unwrap();
    }
    let overwrite = agent::restore::RestoreOptions {
        on_conflict: agent::restore::ConflictPolicy::Overwrite,
        ..options(&to)
    };
    let report = restore(&point, &overwrite).await.unwrap();
    assert!(report.totals.overwrite > 100, "{:?}", report.totals);
    let peak = large::peak_mebibytes();
    println!("{peak} MiB resident");
    assert!(peak < 128, "{peak} MiB resident");
}

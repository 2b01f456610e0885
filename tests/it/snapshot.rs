//! Snapshots of the coordinators are of one leader from the first byte to the last, or they are
//! none (invariant S1).

use std::path::{Path, PathBuf};

use proto::identity::Role;
use proto_types::Code;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Cli, Fleet, RawCluster};

use crate::restart::noise;

/// More than all the buffers between the leader's disk and the file.
const BYTES: usize = 40 << 20;

/// A fleet with enough sealed bytes that a throttled reader is busy for some seconds.
async fn loaded() -> (Fleet, RawCluster) {
    let fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let contents: Vec<Content> =
        (0..4_u64).map(|n| Content::file(&format!("file-{n}"), &noise(BYTES / 4, 3 + n))).collect();
    harbour.backup(&fleet.address(1), &contents).await;
    (fleet, harbour)
}

fn cli_at(fleet: &Fleet, name: &str, addresses: &[String]) -> Cli {
    let operator = fleet.operator(Role::Operator);
    Cli::for_fleet(&fleet.scratch(name), addresses, operator.files())
}

/// What is written of it so far.
fn partial(out: &Path) -> Option<PathBuf> {
    let name = out.file_name().expect("a name").to_str().expect("a plain name").to_owned();
    let directory = std::fs::read_dir(out.parent().expect("a directory")).expect("listed");
    let mut entries = directory.map(|entry| entry.expect("an entry").path());
    entries.find(|path| {
        let found = path.file_name().and_then(|found| found.to_str()).unwrap_or_default();
        found.starts_with(&name) && found.ends_with(".partial")
    })
}

async fn half_way(out: &Path) {
    until_so("the first megabytes are in the file", async || {
        let meta = partial(out).and_then(|path| std::fs::metadata(path).ok());
        meta.is_some_and(|meta| meta.len() > 2 << 20)
    })
    .await;
}

#[tokio::test]
async fn snapshot_is_saved_through_any_node_and_inspected_without_one() {
    let (mut fleet, _) = loaded().await;
    let leader = fleet.leader().await;
    let follower = Fleet::others(leader)[0];
    let scratch = fleet.scratch("snapshots");
    let out = |name: &str| scratch.join(name).display().to_string();
    let cli = cli_at(&fleet, "operator", &[fleet.address(follower)]);
    let saved = cli.json(&["snapshot", "save", &out("a.snapshot"), "--include-bundles"]).await;
    assert_eq!((&saved["verdict"], &saved["leader_id"]), (&"good".into(), &leader.into()));
    assert!(saved["bundle_bytes"].as_u64().expect("bytes") > BYTES as u64, "{saved}");
    assert_eq!(saved["state"]["points"], 1);
    assert!(saved["sealed_index"].as_u64() > saved["index"].as_u64(), "{saved}");
    let small = cli.json(&["snapshot", "save", &out("b.snapshot")]).await;
    assert_eq!((&small["includes_bundles"], &small["bundles"]), (&false.into(), &0.into()));
    assert!(small["bytes"].as_u64() < Some(100_000), "{small}");
    // Never over a file.
    let refused = cli.run(&["snapshot", "save", &out("b.snapshot")]).await;
    refused.assert_refused("an existing file", Code::AlreadyExists, &["already exists"]);
    // Not for viewers: it is the whole state.
    let viewer = fleet.operator(Role::Viewer);
    let viewer = Cli::for_fleet(&fleet.scratch("viewer"), &fleet.addresses(), viewer.files());
    let refused = viewer.run(&["snapshot", "save", &out("c.snapshot")]).await;
    refused.assert_refused("a viewer", Code::PermissionDenied, &["role operator"]);

    fleet.stop_all().await;
    let alone = Cli::alone();
    let seen = alone.json(&["snapshot", "inspect", &out("a.snapshot")]).await;
    assert_eq!(seen["sums_sha256"], saved["sums_sha256"]);
    // A flipped bit, a lost end.
    let mut bytes = std::fs::read(out("a.snapshot")).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(out("bad.snapshot"), &bytes).expect("written");
    let refused = alone.run(&["snapshot", "inspect", &out("bad.snapshot")]).await;
    refused.assert_refused("a flipped bit", Code::Damaged, &["bad.snapshot"]);
    std::fs::write(out("short.snapshot"), &bytes[..middle]).expect("written");
    let refused = alone.run(&["snapshot", "inspect", &out("short.snapshot")]).await;
    refused.assert_refused("a short file", Code::Damaged, &["cut short"]);
    // Without any coordinator there is no snapshot, and no file.
    let refused = cli.run(&["snapshot", "save", &out("d.snapshot")]).await;
    refused.assert_refused("nobody there", Code::Unavailable, &["cannot connect"]);
    assert!(!Path::new(&out("d.snapshot")).exists());
    assert_eq!(partial(Path::new(&out("d.snapshot"))), None, "nothing half-done stays");
}

/// Saves slowly while something happens to the leader; gives what it printed.
async fn save_while(
    fleet: &mut Fleet,
    via: u64,
    name: &str,
    happens: impl AsyncFnOnce(&mut Fleet, u64),
) -> (serde_json::Value, u64) {
    let leader = fleet.leader().await;
    let out = fleet.scratch("snapshots").join(format!("{name}.snapshot"));
    let via = if via == 0 { leader } else { via };
    let mut addresses = fleet.addresses();
    // The first address is asked first; the others are there for the retry.
    let first = fleet.address(via);
    addresses.retain(|address| *address != first);
    addresses.insert(0, first);
    let cli = cli_at(fleet, name, &addresses);
    let shown = out.display().to_string();
    let command = cli.command(&[
        "snapshot",
        "save",
        &shown,
        "--include-bundles",
        "--limit",
        &(10 << 20).to_string(),
    ]);
    let saving = tokio::spawn(Cli::finish(command));
    half_way(&out).await;
    happens(fleet, leader).await;
    let done = saving.await.expect("it ends");
    let saved = done.success().json();
    let seen = Cli::alone().json(&["snapshot", "inspect", &shown]).await;
    assert_eq!(seen["verdict"], "good");
    assert_eq!(seen["leader_id"], saved["leader_id"]);
    (saved, leader)
}

#[tokio::test]
async fn invariant_s1_a_leader_paused_past_an_election_seals_nothing() {
    let (mut fleet, _) = loaded().await;
    let (saved, old) = save_while(&mut fleet, 0, "paused", async |fleet, leader| {
        fleet.node_mut(leader).pause();
        // The others elect one of them, and the paused one wakes up with the stream still open.
        let others = Fleet::others(leader);
        let viewer = fleet.operator(Role::Viewer);
        until_so("another leads", async || {
            let mut client = viewer.fleet(&fleet.address(others[0]));
            let request = proto::v1::GetStatusRequest { stale: true };
            let status = client.get_status(request).await.answer();
            status.is_ok_and(|s| s.leader_id != leader && s.leader_id != 0)
        })
        .await;
        fleet.node_mut(leader).resume();
    })
    .await;
    assert!(saved["retries"].as_u64() >= Some(1), "{saved}");
    assert_ne!(saved["leader_id"], old, "{saved}");
}

#[tokio::test]
async fn invariant_s1_a_leader_that_was_deposed_and_leads_again_seals_nothing() {
    let (mut fleet, _) = loaded().await;
    let admin = fleet.admin_cli();
    let (saved, _) = save_while(&mut fleet, 0, "again", async |fleet, leader| {
        let other = Fleet::others(leader)[0];
        for node in [other, leader] {
            admin.json(&["node", "transfer-leader", &node.to_string()]).await;
            assert_eq!(fleet.leader().await, node);
        }
    })
    .await;
    // By the same node, but in another term than the one the first bytes were read in.
    assert!(saved["retries"].as_u64() >= Some(1), "{saved}");
}

#[tokio::test]
async fn invariant_s1_a_leader_that_is_killed_leaves_no_good_file() {
    let (mut fleet, _) = loaded().await;
    let leader = fleet.leader().await;
    let via = Fleet::others(leader)[1];
    let (saved, old) = save_while(&mut fleet, via, "killed", async |fleet, leader| {
        fleet.node_mut(leader).kill();
    })
    .await;
    assert!(saved["retries"].as_u64() >= Some(1), "{saved}");
    assert_ne!(saved["leader_id"], old, "{saved}");
}

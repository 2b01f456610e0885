//! Limits of one cluster, and what a node says of its own damaged snapshot.

use proto_types::Code;
use tests::client::assert_refused;
use tests::fleet::NODES;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Fleet, RawCluster, Settings};

use crate::restart::noise;

#[tokio::test]
async fn bad_input_beyond_the_bytes_of_a_cluster_is_refused_before_it_is_taken() {
    let mut fleet = Fleet::prepare(Settings::default()).await;
    for node in NODES {
        fleet.node(node).edit_config("[limits]\n", "[limits]\ncluster_bytes_max = 200000\n");
    }
    fleet.start_all();
    fleet.ready().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(150_000, 1))]).await;

    let files = harbour.seal(&[Content::file("b", &noise(100_000, 2))]);
    let lease = harbour.open_upload(&fleet.address(2)).await.expect("a lease adds no bytes");
    let refused = harbour.upload(&fleet.address(2), &lease, &files.config).await;
    assert_refused(
        "an upload beyond the limit",
        refused,
        Code::LimitReached,
        &["cluster harbour may store 195.3 KiB", "limits.cluster_bytes_max", "would add"],
    );
    assert_eq!(harbour.offset(&fleet.address(2), &lease, files.config.id()).await.unwrap().0, 0);

    // Another cluster has its own, and a small point still fits.
    let mut quay = RawCluster::register(&fleet, "quay").await;
    quay.backup(&fleet.address(2), &[Content::file("a", &noise(150_000, 3))]).await;
    harbour.backup(&fleet.address(3), &[Content::file("c", b"small")]).await;
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn a_damaged_snapshot_is_a_finding() {
    let settings = Settings { snapshot_every_entries: 15, ..Settings::default() };
    let mut fleet = Fleet::start_with(settings).await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let snapshots = fleet.node(3).data().join("snapshots");
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(&snapshots)
            .expect("listed")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "snap"))
            .collect();
        files.sort();
        files
    };
    let mut round = 0;
    while files().len() < 2 {
        round += 1;
        assert!(round < 60, "no second snapshot");
        cluster
            .backup(&fleet.address(3), &[Content::file("a", format!("{round}").as_bytes())])
            .await;
    }
    assert!(fleet.node_mut(3).stop().await.success());
    let newest = files().pop().expect("two");
    let mut bytes = std::fs::read(&newest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).expect("written");
    fleet.start_node(3).await;
    let fleet = &fleet;
    let stands = async || {
        let status = fleet.status(1).await;
        status.findings.iter().any(|f| f.kind == "snapshot-damaged" && f.node_id == 3)
    };
    until_so("the finding stands", async || stands().await).await;
    assert!(!newest.exists(), "it was put aside");
    until_so("the file is removed", async || {
        std::fs::read_dir(&snapshots)
            .expect("listed")
            .all(|e| e.expect("an entry").path().extension().is_none_or(|e| e != "damaged"))
    })
    .await;
    assert!(stands().await, "until a person clears it");
    fleet.assert_quiet(&["snapshot_damaged"]);
}

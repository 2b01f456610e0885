//! Nothing acknowledged is lost: nodes restarted, killed, long away, and all of them at once.

use proto::identity::Role;
use proto::v1;
use proto_types::BundleId;
use tests::fleet::NODES;
use tests::raw::read_bundle;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Fleet, RawCluster, Settings, until};

/// Bytes that do not compress, different for each `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    // xorshift: the same bytes in every run.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The ids of all bundles a point needs.
pub(crate) fn bundles_of(point: &v1::Point) -> Vec<BundleId> {
    assert!(!point.bundles.is_empty(), "a commit answers with the bundles");
    let id = |bundle: &v1::BundleInfo| BundleId::from_slice(&bundle.bundle_id).expect("an id");
    point.bundles.iter().map(id).collect()
}

/// Asserts that every node knows these points and serves all their bundles, byte for byte.
pub(crate) async fn assert_all_there(fleet: &Fleet, cluster: &RawCluster, points: &[v1::Point]) {
    let viewer = fleet.operator(Role::Viewer);
    for node in NODES {
        let address = fleet.address(node);
        for point in points {
            let request = v1::GetPointRequest {
                cluster_name: cluster.name.clone(),
                which: Some(v1::get_point_request::Which::Sequence(point.sequence)),
                stale: false,
            };
            let found = viewer.catalog(&address).get_point(request).await.answer();
            let found = found.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
            let found = found.point.expect("a point");
            assert_eq!(found.manifest_id, point.manifest_id, "node {node}");
            for id in bundles_of(point) {
                let bytes = read_bundle(&viewer, &address, id).await;
                let bytes = bytes.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
                assert_eq!(BundleId::of(&bytes), id, "node {node}");
            }
        }
    }
}

async fn two_backups(fleet: &Fleet, cluster: &mut RawCluster) -> Vec<v1::Point> {
    let mut points = Vec::new();
    for (node, seed) in [(1, 10), (2, 20)] {
        let contents = [
            Content::file("conf/app.yaml", &noise(300_000, seed)),
            Content::secret("keys/unseal", &noise(100, seed + 1)),
        ];
        points.push(cluster.backup(&fleet.address(node), &contents).await);
    }
    points
}

#[tokio::test]
async fn restart_of_each_node_and_of_all_loses_nothing_acknowledged() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let mut points = two_backups(&fleet, &mut cluster).await;

    // One after the other, asked nicely and not.
    for node in NODES {
        if node == 2 {
            fleet.node_mut(node).kill();
        } else {
            assert!(fleet.node_mut(node).stop().await.success());
        }
        let other = fleet.address(Fleet::others(node)[0]);
        let content = [Content::file("a", format!("without {node}").as_bytes())];
        points.push(cluster.backup(&other, &content).await);
        fleet.start_node(node).await;
        fleet.caught_up(node).await;
    }
    assert_all_there(&fleet, &cluster, &points).await;

    // All at once, asked nicely.
    fleet.stop_all().await;
    fleet.start_all();
    fleet.ready().await;
    assert_all_there(&fleet, &cluster, &points).await;

    // All at once, as by a power cut, right after an acknowledgement.
    points.push(cluster.backup(&fleet.address(3), &[Content::file("a", b"last words")]).await);
    for node in NODES {
        fleet.node_mut(node).kill();
    }
    fleet.start_all();
    fleet.ready().await;
    assert_all_there(&fleet, &cluster, &points).await;

    // And the cluster goes on where it was.
    let next = cluster.backup(&fleet.address(1), &[Content::file("a", b"and on")]).await;
    assert_eq!(next.sequence, 7);
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn restart_leader_killed_in_the_middle_of_an_upload_that_still_ends_acknowledged() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let first = cluster.backup(&fleet.address(1), &[Content::file("a", b"first")]).await;
    let leader = fleet.leader().await;
    let leader_address = fleet.address(leader);

    let files = cluster.seal(&[Content::file("big", &noise(800_000, 7)), Content::file("a", b"2")]);
    let lease = cluster.open_upload(&leader_address).await.expect("a lease");
    let half = files.config.file.len() / 2;
    let sending = cluster.begin(&leader_address, RawCluster::begin_of(&lease, &files.config, 0));
    sending.send(&files.config.file[..half]).await;
    // The leader's own event says that the first bytes are there and the end is not.
    let id = files.config.id().to_string();
    let log = fleet.node(leader).log();
    log.wait_for("upload_progress", |event| event.field("bundle") == id).await;
    assert!(log.named("upload_stored").iter().all(|event| event.field("bundle") != id));
    fleet.node_mut(leader).kill();
    sending.send(&files.config.file[half..]).await;
    let error = sending.finish().await.expect_err("the connection is gone");
    assert!(error.is_retryable(), "{}: {error}", error.code());

    // The same upload goes on through another node, under the same lease.
    let other = Fleet::others(leader)[0];
    let address = fleet.address(other);
    fleet.leader().await;
    let (offset, complete) = until("the survivors answer", async || {
        cluster.offset(&address, &lease, files.config.id()).await.ok()
    })
    .await;
    assert!(!complete && offset < files.config.file.len() as u64, "{offset}");
    for sealed in files.all() {
        until("the survivors take the bundle", async || {
            cluster.upload(&address, &lease, sealed).await.ok()
        })
        .await;
    }
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let second = cluster.commit(&address, request).await.expect("the point is committed");
    assert_eq!(second.sequence, 2);

    // The killed node catches up, and its copies are repaired.
    fleet.start_node(leader).await;
    fleet.caught_up(leader).await;
    for bundle in bundles_of(&second) {
        let path = fleet.node(leader).bundle_path(bundle);
        until_so("the killed node has the bundle", async || path.is_file()).await;
    }
    assert_all_there(&fleet, &cluster, &[first, second]).await;
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn restart_after_a_long_absence_installs_a_snapshot_and_repairs_bundles() {
    let settings =
        Settings { snapshot_every_entries: 20, snapshot_keep_entries: 1, ..Settings::default() };
    let mut fleet = Fleet::start_with(settings).await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let mut points =
        vec![cluster.backup(&fleet.address(1), &[Content::file("a", b"before")]).await];
    fleet.caught_up(3).await;
    assert!(fleet.node_mut(3).stop().await.success());

    for round in 0..20_u64 {
        let content = [Content::file("a", &noise(20_000, round))];
        points.push(cluster.backup(&fleet.address(1 + round % 2), &content).await);
    }
    // The log that node 3 would need is gone from the others.
    let snapshots = fleet.node(1).data().join("snapshots");
    let files = || std::fs::read_dir(&snapshots).map_or(0, Iterator::count);
    until_so("node 1 has made a snapshot", async || files() > 0).await;
    assert_eq!(std::fs::read_dir(fleet.node(3).data().join("snapshots")).unwrap().count(), 0);

    fleet.start_node(3).await;
    fleet.caught_up(3).await;
    let got = std::fs::read_dir(fleet.node(3).data().join("snapshots")).unwrap().count();
    assert!(got > 0, "node 3 caught up without a snapshot");
    until_so("node 3 misses no bundle", async || {
        let status = fleet.status(1).await;
        status.nodes.iter().all(|node| node.missing_bundles == 0)
    })
    .await;
    for bundle in points.iter().flat_map(bundles_of) {
        assert!(fleet.node(3).bundle_path(bundle).is_file(), "{bundle} was not repaired");
    }
    // Without the others' help: what node 3 says is its own.
    assert_all_there(&fleet, &cluster, &points).await;
    fleet.assert_quiet(&[]);
}

//! Any node takes any request; reads are linearizable unless stale was asked for (R4); without a
//! majority nothing is acknowledged (R2), and the refusal comes in bounded time.

use std::time::{Duration, Instant};

use proto::identity::Role;
use proto::v1;
use proto_types::Code;
use tests::fleet::{LEADER_PATIENCE, NODES};
use tests::raw::read_bundle;
use tests::sealed::Content;
use tests::{Answer, Fleet, RawCluster};

use crate::restart::bundles_of;

fn newest_of(cluster: &RawCluster, stale: bool) -> v1::GetPointRequest {
    v1::GetPointRequest {
        cluster_name: cluster.name.clone(),
        which: Some(v1::get_point_request::Which::Newest(true)),
        stale,
    }
}

#[tokio::test]
async fn invariant_r4_a_write_through_any_node_is_read_through_the_others_at_once() {
    let fleet = Fleet::start().await;
    let viewer = fleet.operator(Role::Viewer);
    let mut cluster = RawCluster::register_at(&fleet, "harbour", 2).await;
    let mut catalogs: Vec<_> =
        NODES.iter().map(|node| viewer.catalog(&fleet.address(*node))).collect();
    let mut sequence = 0;
    for round in 0..4 {
        for node in NODES {
            // Each step through another node than the one before.
            let at = |step: u64| fleet.address(1 + (node + step) % 3);
            let content = [Content::file("a", format!("{round} {node}").as_bytes())];
            let files = cluster.seal(&content);
            let lease = cluster.open_upload(&at(0)).await.expect("a lease through any node");
            for (step, sealed) in (1..).zip(files.all()) {
                let holders = cluster.upload(&at(step), &lease, sealed).await;
                let holders = holders.expect("an upload through any node");
                assert!(holders.len() >= 2, "R2: acknowledged by {holders:?} only");
            }
            let request = cluster.commit_request(&lease, cluster.changed(&files));
            let point = cluster.commit(&at(2), request).await.expect("a commit through any node");
            sequence += 1;
            assert_eq!(point.sequence, sequence);
            for (node, catalog) in NODES.iter().zip(&mut catalogs) {
                let read = catalog.get_point(newest_of(&cluster, false)).await.answer();
                let read = read.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
                assert_eq!(read.point.expect("a point").sequence, sequence, "through {node}");
                let info = read.read.expect("every answer says how it was read");
                assert!(!info.stale);
                assert_eq!(info.node_id, *node);
            }
        }
    }
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn invariant_r2_what_was_acknowledged_survives_the_node_that_acknowledged_it() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let viewer = fleet.operator(Role::Viewer);
    for node in NODES {
        let content = [Content::file("a", format!("through {node}").as_bytes())];
        let point = cluster.backup(&fleet.address(node), &content).await;
        fleet.node_mut(node).kill();
        fleet.leader().await;
        for other in Fleet::others(node) {
            for bundle in bundles_of(&point) {
                let read = read_bundle(&viewer, &fleet.address(other), bundle).await;
                read.unwrap_or_else(|e| panic!("through {other}: {}: {e}", e.code()));
            }
        }
        fleet.start_node(node).await;
    }
    fleet.assert_quiet(&[]);
}

/// What a single survivor of three answers.
async fn assert_alone(fleet: &Fleet, cluster: &RawCluster, survivor: u64) {
    let viewer = fleet.operator(Role::Viewer);
    let admin = fleet.operator(Role::Admin);
    let address = fleet.address(survivor);
    // To find a leader, and to have it answer, with some air for a busy machine.
    let bound = LEADER_PATIENCE * 2 + Duration::from_secs(5);

    let started = Instant::now();
    let read = viewer.catalog(&address).get_point(newest_of(cluster, false)).await.answer();
    let error = read.expect_err("a linearizable read without a majority");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("leader"), "{error}");
    assert!(started.elapsed() < bound, "the refusal took {:?}", started.elapsed());

    let started = Instant::now();
    let request = v1::RegisterClusterRequest {
        write_id: Some(admin.write_id()),
        name: "nobody".to_owned(),
        signing_key: vec![7; 32].into(),
        ..Default::default()
    };
    let write = admin.fleet(&address).register_cluster(request).await.answer();
    let error = write.expect_err("a write without a majority");
    // An isolated leader has the write in its log: it cannot know what will become of it.
    assert!(
        matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{}: {error}",
        error.code()
    );
    assert!(started.elapsed() < bound, "the refusal took {:?}", started.elapsed());

    let upload = cluster.open_upload(&address).await;
    let error = upload.expect_err("an upload without a majority");
    assert!(error.is_retryable(), "{}: {error}", error.code());

    let stale = viewer.catalog(&address).get_point(newest_of(cluster, true)).await.answer();
    let stale = stale.expect("a stale read needs nobody else");
    assert!(stale.read.expect("every answer says how it was read").stale);
    assert_eq!(stale.point.expect("a point").sequence, cluster.head_sequence());
    let request = v1::GetStatusRequest { stale: true };
    let status = viewer.fleet(&address).get_status(request).await.answer().expect("a stale read");
    assert!(status.read.expect("every answer says how it was read").stale);
    let reachable: Vec<u64> =
        status.nodes.iter().filter(|node| node.reachable).map(|node| node.node_id).collect();
    assert_eq!(reachable, [survivor]);
}

#[tokio::test]
async fn invariant_r4_without_a_majority_reads_and_writes_are_refused_in_time_and_stale_says_so() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    cluster.backup(&fleet.address(1), &[Content::file("a", b"1")]).await;
    for node in NODES {
        fleet.caught_up(node).await;
    }

    // The leader is left alone; the others are dead.
    let leader = fleet.leader().await;
    for node in Fleet::others(leader) {
        fleet.node_mut(node).kill();
    }
    assert_alone(&fleet, &cluster, leader).await;
    for node in Fleet::others(leader) {
        fleet.node_mut(node).start();
    }
    fleet.ready().await;
    cluster.backup(&fleet.address(leader), &[Content::file("a", b"2")]).await;
    for node in NODES {
        fleet.caught_up(node).await;
    }

    // A follower is left alone; the leader and the other are silent, which is worse than dead.
    let leader = fleet.leader().await;
    let [survivor, other] = Fleet::others(leader);
    fleet.node_mut(leader).pause();
    fleet.node_mut(other).pause();
    assert_alone(&fleet, &cluster, survivor).await;
    fleet.node_mut(leader).resume();
    fleet.node_mut(other).resume();
    let point = cluster.backup(&fleet.address(survivor), &[Content::file("a", b"3")]).await;
    assert_eq!(point.sequence, 3);
    fleet.assert_quiet(&[]);
}

//! What runs hot: a slow disk under the leader, a peer that is silent.

use std::time::Duration;

use proto::identity::Role;
use proto::v1;
use tests::metrics::scrape;
use tests::proxy::Proxy;
use tests::sealed::Content;
use tests::wait::{until, until_in, until_so};
use tests::{Answer, Fleet, RawCluster, Settings};

use crate::inside::{Inside, stands};

#[tokio::test(flavor = "multi_thread")]
async fn hot_leadership_leaves_a_slow_disk_which_is_a_finding_until_it_is_fast_again() {
    let mut inside = Inside::start().await;
    inside.lead(1).await;
    inside.disk(1).set_delay(Duration::from_millis(250));
    // Each look makes an entry, so that every log has something to sync.
    let leader = until_in(Duration::from_secs(60), "another node leads", async || {
        inside.log_time(2).await;
        let viewer = inside.fleet.operator(Role::Viewer);
        let request = v1::GetStatusRequest { stale: false };
        let status = viewer.fleet(&inside.fleet.address(2)).get_status(request).await.answer();
        let status = status.ok()?;
        assert!(status.time_frozen_since_ms == 0);
        (status.leader_id > 1 && stands(&status, "disk-slow", 1)).then_some(status.leader_id)
    })
    .await;
    assert!([2, 3].contains(&leader));

    inside.disk(1).set_delay(Duration::ZERO);
    until_in(Duration::from_secs(60), "the finding ends by itself", async || {
        inside.log_time(2).await;
        let viewer = inside.fleet.operator(Role::Viewer);
        let request = v1::GetStatusRequest { stale: false };
        let status = viewer.fleet(&inside.fleet.address(2)).get_status(request).await.answer();
        status.ok().filter(|status| !stands(status, "disk-slow", 1)).map(drop)
    })
    .await;
    inside.stop_all().await;
}

/// A gauge of a node's metrics.
async fn gauge(fleet: &Fleet, node: u64, name: &str) -> Option<f64> {
    let page = scrape(&fleet.node(node).metrics_address()).await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

#[tokio::test]
async fn hot_a_silent_connection_is_dropped_by_our_own_deadlines() {
    let mut fleet = Fleet::prepare(Settings::default()).await;
    let proxy = Proxy::before(&fleet.address(3)).await;
    for node in tests::fleet::NODES {
        let own = format!("address = \"{}\"", fleet.address(3));
        fleet.node(node).edit_config(&own, &format!("address = \"{}\"", proxy.address()));
    }
    fleet.start_all();
    fleet.ready().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let admin = fleet.operator(Role::Admin);
    until("node 1 leads", async || {
        let request = v1::TransferLeaderRequest { node_id: 1 };
        admin.fleet(&fleet.address(1)).transfer_leader(request).await.answer().ok()
    })
    .await;
    assert_eq!(fleet.leader().await, 1);
    cluster.backup(&fleet.address(1), &[Content::file("a", b"before")]).await;
    fleet.caught_up(3).await;

    // Nothing is closed and nothing is answered any more.
    let before = proxy.accepted();
    proxy.fall_silent();
    let lag = "strongroom_raft_lag_entries{peer=\"3\"}";
    for round in 0..3_u8 {
        let (address, contents) = (fleet.address(1), [Content::file("a", &[round])]);
        let backup = cluster.backup(&address, &contents);
        tokio::time::timeout(Duration::from_secs(5), backup)
            .await
            .expect("commits go on with the others");
    }
    until_in(Duration::from_secs(5), "the leader notices", async || {
        let status = fleet.status(1).await;
        let is_silent = status.nodes.iter().any(|node| node.node_id == 3 && !node.reachable);
        let lags = gauge(&fleet, 1, lag).await.is_some_and(|lag| lag > 0.0);
        (is_silent && lags).then_some(())
    })
    .await;
    // Both connections to it are given up and made anew, by our deadlines: the old ones say nothing
    // for ever.
    until_in(Duration::from_secs(20), "connections are made anew", async || {
        (proxy.accepted() > before).then_some(())
    })
    .await;
    proxy.recover();
    until_in(Duration::from_secs(20), "the peer is reached again", async || {
        let status = fleet.status(1).await;
        status.nodes.iter().any(|node| node.node_id == 3 && node.reachable).then_some(())
    })
    .await;
    fleet.caught_up(3).await;
    until_so("it lags no more", async || gauge(&fleet, 1, lag).await == Some(0.0)).await;
    assert!(gauge(&fleet, 1, "strongroom_raft_quorum_ack_age_seconds").await < Some(1.0));
    fleet.assert_quiet(&[]);
}

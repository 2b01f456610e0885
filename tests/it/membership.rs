//! Coordinators come and go while the fleet works, and nothing acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::identity::Role;
use proto::v1;
use proto_types::Code;
use tests::raw::read_bundle;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Fleet, RawCluster, until};

use crate::restart::{bundles_of, noise};

/// Asserts that this node serves every bundle of these points from its own disk.
async fn assert_served(fleet: &Fleet, node: u64, points: &[v1::Point]) {
    let viewer = fleet.operator(Role::Viewer);
    for point in points {
        for id in bundles_of(point) {
            let bytes = read_bundle(&viewer, &fleet.address(node), id).await;
            let bytes = bytes.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
            assert_eq!(proto_types::BundleId::of(&bytes), id);
        }
    }
}

fn ids(nodes: &[v1::NodeStatus], of: impl Fn(&v1::NodeStatus) -> bool) -> Vec<u64> {
    nodes.iter().filter(|node| of(node)).map(|node| node.node_id).collect()
}

/// Waits until a process has ended, and gives the end of its log.
async fn ended(fleet: &mut Fleet, node: u64) -> String {
    until(&format!("node {node} ends"), async || fleet.node_mut(node).ended()).await;
    let tail = fleet.node(node).log().tail();
    fleet.node_mut(node).forget();
    tail
}

#[tokio::test]
async fn membership_three_to_five_to_three_under_load_loses_nothing() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let first = harbour.backup(&fleet.address(1), &[Content::file("a", &noise(200_000, 1))]).await;

    // Somebody backs up all the time, through a node that stays.
    let address = fleet.address(3);
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let writer = tokio::spawn(async move {
        let mut points = vec![];
        while !stop.load(Ordering::Relaxed) {
            let content = noise(50_000, 100 + points.len() as u64);
            match harbour.try_backup(&address, &[Content::file("a", &content)]).await {
                Ok(point) => points.push(point),
                Err(error) if error.is_retryable() => {}
                Err(error) => panic!("backup refused: {}: {error}", error.code()),
            }
        }
        points
    });

    for expected in [4, 5] {
        assert_eq!(fleet.add_node().await, expected);
        let done = fleet.admin_cli().json(&["node", "promote", &expected.to_string()]).await;
        assert_eq!(done["done"], true, "{done}");
    }
    let status = fleet.status(3).await;
    assert_eq!(ids(&status.nodes, |node| node.voter), [1, 2, 3, 4, 5]);
    assert!(status.change.is_none());

    // The one that leads is among those that go.
    fleet.admin_cli().json(&["node", "transfer-leader", "1"]).await;
    assert_eq!(fleet.leader().await, 1);
    for node in [1, 2] {
        let done = fleet.admin_cli().json(&["node", "remove", &node.to_string()]).await;
        assert_eq!(done["done"], true, "{done}");
        let last = ended(&mut fleet, node).await;
        assert!(last.contains("was removed from the fleet"), "{last}");
    }
    enough.store(true, Ordering::Relaxed);
    let mut points = writer.await.expect("no backup failed");
    assert!(points.len() > 3, "{} backups under way", points.len());
    points.push(first);

    let status = fleet.status(4).await;
    assert_eq!(ids(&status.nodes, |node| node.voter), [3, 4, 5]);
    for node in [3, 4, 5] {
        until_so(&format!("node {node} holds all"), async || {
            let status = fleet.status(3).await;
            status.nodes.iter().any(|n| n.node_id == node && n.missing_bundles == 0)
        })
        .await;
        assert_served(&fleet, node, &points).await;
    }
    // With the old ones gone for good, one more may fail.
    fleet.node_mut(4).kill();
    assert!([3, 5].contains(&fleet.leader().await));
    assert_served(&fleet, 5, &points).await;

    // Removed nodes do not come back.
    fleet.node_mut(1).start();
    let last = ended(&mut fleet, 1).await;
    assert!(last.contains("add it with `strongroom node add`"), "{last}");
}

#[tokio::test]
async fn membership_a_wiped_node_comes_back_as_a_new_one() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let contents = [Content::file("a", &noise(300_000, 7))];
    let point = harbour.backup(&fleet.address(1), &contents).await;
    fleet.node_mut(3).kill();
    std::fs::remove_dir_all(fleet.node(3).data()).expect("the disk is lost");
    // Under its old id it may not vote again.
    fleet.node_mut(3).start();
    let last = ended(&mut fleet, 3).await;
    assert!(last.contains("rejoin as a new node"), "{last}");

    let cli = fleet.admin_cli();
    // Two voters of which both must have every bundle, until the new one is there.
    let done = cli.json(&["node", "remove", "coordinator-3"]).await;
    assert_eq!(done["done"], true, "{done}");
    assert_eq!(fleet.add_node().await, 4);
    let done = fleet.admin_cli().json(&["node", "promote", "4"]).await;
    assert_eq!(done["done"], true, "{done}");
    until_so("node 4 holds all", async || {
        let status = fleet.status(1).await;
        status.nodes.iter().any(|n| n.node_id == 4 && n.voter && n.missing_bundles == 0)
    })
    .await;
    fleet.node_mut(1).kill();
    fleet.leader().await;
    assert_served(&fleet, 4, std::slice::from_ref(&point)).await;
    harbour.backup(&fleet.address(4), &[Content::file("a", b"and on")]).await;
}

#[tokio::test]
async fn invariant_b1_a_node_votes_only_when_the_bundles_are_on_a_new_majority() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(300_000, 7))]).await;
    // With one of three away, its copies count, as they are on its disk; but of the bundles of
    // this second point only two of four would have one.
    fleet.leader().await;
    fleet.node_mut(3).kill();
    fleet.leader().await;
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(300_000, 8))]).await;
    let id = fleet.add_node().await;
    // The newcomer is cut off before it can fetch anything.
    fleet.node_mut(id).kill();
    let cli = fleet.admin_cli();
    let refused = cli.run(&["node", "promote", "4", "--wait", "3"]).await;
    refused.assert_refused("a promotion that waits", Code::DeadlineExceeded, &["node list"]);
    let status = fleet.status(1).await;
    let change = status.change.expect("it goes on");
    assert_eq!((change.voters, change.sealed), (vec![1, 2, 3, 4], false));
    assert!(change.bundles_waited_for > 0);
    assert_eq!(ids(&status.nodes, |node| node.voter), [1, 2, 3]);
    // One change at a time; this one may be given up, or just needs its node.
    let refused = cli.run(&["node", "remove", "3", "--wait", "0"]).await;
    refused.assert_refused("a second change", Code::Conflict, &["one at a time"]);
    fleet.node_mut(id).start();
    until_so("node 4 votes", async || {
        let status = fleet.status(1).await;
        status.change.is_none() && ids(&status.nodes, |node| node.voter) == [1, 2, 3, 4]
    })
    .await;
    // The fourth voter is what makes three of four.
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(1000, 9))]).await;
}

#[tokio::test]
async fn membership_a_change_that_no_majority_could_carry_waits_and_can_be_given_up() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(100_000, 7))]).await;
    let leader = fleet.leader().await;
    let [lost, mistaken] = Fleet::others(leader);
    fleet.node_mut(lost).kill();
    let cli = fleet.admin_cli();
    // The wrong one: of {leader, lost} only one would be left to decide.
    let refused = cli.run(&["node", "remove", &mistaken.to_string(), "--wait", "4"]).await;
    refused.assert_refused("the wrong node", Code::DeadlineExceeded, &["abandon-change"]);
    let done = cli.json(&["node", "abandon-change"]).await;
    assert_eq!(done["abandoned"], true);
    harbour.backup(&fleet.address(leader), &[Content::file("a", b"and on")]).await;
    // The right one goes.
    let done = cli.json(&["node", "remove", &lost.to_string()]).await;
    assert_eq!(done["done"], true, "{done}");
    // And finds out when it comes back, although nobody told it.
    fleet.node_mut(lost).start();
    let last = ended(&mut fleet, lost).await;
    assert!(last.contains("was removed from the fleet"), "{last}");
    harbour.backup(&fleet.address(mistaken), &[Content::file("a", b"and on still")]).await;
}

#[tokio::test]
async fn membership_bad_input_is_refused_with_what_to_do() {
    let fleet = Fleet::start().await;
    let cli = fleet.admin_cli();
    for (arguments, code, parts) in [
        (&["node", "promote", "nobody"][..], Code::InvalidArgument, &["coordinator-1"][..]),
        (&["node", "add", "four", "--address", "nowhere"], Code::InvalidArgument, &["host:port"]),
        (&["node", "add", "Four!", "--address", "a:1"], Code::InvalidArgument, &["lower-case"]),
        (&["node", "add", "coordinator-1", "--address", "a:1"], Code::AlreadyExists, &["node 1"]),
        (&["node", "abandon-change"], Code::Conflict, &["begin one first"]),
        (&["node", "transfer-leader", "9"], Code::InvalidArgument, &["no coordinator"]),
    ] {
        let done = cli.run(arguments).await;
        done.assert_refused(&arguments.join(" "), code, parts);
    }
    // Only admins change who belongs to the fleet.
    let operator = fleet.operator(Role::Operator);
    let request = v1::RemoveNodeRequest { write_id: Some(operator.write_id()), node_id: 3 };
    let refused = operator.fleet(&fleet.address(1)).remove_node(request).await.answer();
    tests::client::assert_refused("an operator", refused, Code::PermissionDenied, &["role admin"]);
    fleet.assert_quiet(&[]);
}

//! Bundles on disk: majority before the point (B1), removal only when nobody needs them (B2),
//! damage found and healed (B3).

use std::path::PathBuf;

use proto::identity::Role;
use proto::v1;
use proto_types::{BundleId, Code};
use tests::client::assert_refused;
use tests::fleet::NODES;
use tests::raw::{read_bundle, scrub};
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Fleet, RawCluster, until};

use crate::restart::{bundles_of, noise};

fn holders_on_disk(fleet: &Fleet, bundle: BundleId) -> Vec<u64> {
    NODES.into_iter().filter(|node| fleet.node(*node).bundle_path(bundle).is_file()).collect()
}

/// Files that belong to a bundle on a node, whole or partial.
fn traces(fleet: &Fleet, node: u64, bundle: BundleId) -> Vec<PathBuf> {
    let name = bundle.to_string();
    let files = fleet.node(node).bundle_files();
    files.into_iter().filter(|path| path.to_string_lossy().contains(&name)).collect()
}

#[tokio::test]
async fn invariant_b1_a_point_needs_every_bundle_on_a_majority_whatever_the_commit_says() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let files = cluster.seal(&[Content::file("a", &noise(50_000, 1))]);
    let leader = fleet.leader().await;
    let address = fleet.address(leader);
    let lease = cluster.open_upload(&address).await.expect("a lease");
    for sealed in &files.all()[1..] {
        cluster.upload(&address, &lease, sealed).await.expect("taken by all");
    }

    // The config bundle reaches one node only.
    for node in Fleet::others(leader) {
        fleet.node_mut(node).kill();
    }
    let alone = cluster.upload(&address, &lease, &files.config).await;
    assert!(alone.is_err(), "acknowledged without a majority: {alone:?}");
    let on_disk = fleet.node(leader).bundle_path(files.config.id());
    for node in Fleet::others(leader) {
        fleet.node_mut(node).start();
    }
    fleet.ready().await;
    if on_disk.is_file() {
        assert_eq!(holders_on_disk(&fleet, files.config.id()), [leader]);
        // The commit claims that all three have it. Asked through the one that has it, nobody
        // else can confirm.
        let request = cluster.commit_request(&lease, cluster.changed(&files));
        let refused = cluster.party.backup(&address).commit_point(request).await.answer();
        let short = files.config.id().to_string();
        assert_refused("a lying commit", refused, Code::BundleNotDurable, &[&short[..8], "upload"]);
    }
    let request = v1::ListPointsRequest::default();
    let points = fleet.operator(Role::Viewer).catalog(&address).list_points(request).await;
    assert!(points.answer().expect("a read").points.is_empty(), "nothing was committed");

    // Sent again it reaches the others too, and the point comes into being.
    cluster.upload(&address, &lease, &files.config).await.expect("taken by a majority");
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let point = cluster.commit(&address, request).await.expect("committed");
    for bundle in bundles_of(&point) {
        let holders = holders_on_disk(&fleet, bundle);
        assert!(holders.len() >= 2, "{bundle} is on {holders:?} only");
    }
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn invariant_b2_files_of_an_ended_upload_go_everywhere_and_of_a_live_one_nowhere() {
    let mut fleet = Fleet::start().await;
    let mut kept = RawCluster::register(&fleet, "kept").await;
    let live = RawCluster::register(&fleet, "live").await;
    let ended = RawCluster::register(&fleet, "ended").await;
    let address = fleet.address(1);
    let point = kept.backup(&address, &[Content::file("a", b"kept")]).await;

    let live_files = live.seal(&[Content::file("a", &noise(40_000, 2))]);
    let live_lease = live.open_upload(&address).await.expect("a lease");
    live.upload(&address, &live_lease, &live_files.config).await.expect("taken");
    let ended_files = ended.seal(&[Content::file("a", &noise(2_000_000, 3))]);
    let ended_lease = ended.open_upload(&address).await.expect("a lease");
    ended.upload(&address, &ended_lease, &ended_files.key).await.expect("taken");
    // And one of which only the half has come.
    let half = ended_files.config.file.len() / 2;
    let sending =
        ended.begin(&fleet.address(2), RawCluster::begin_of(&ended_lease, &ended_files.config, 0));
    sending.send(&ended_files.config.file[..half]).await;
    let id = ended_files.config.id();
    until_so("half of it is on node 2's disk", async || !traces(&fleet, 2, id).is_empty()).await;
    sending.cut().await;
    for node in NODES {
        until_so("every node has the whole one", async || {
            fleet.node(node).bundle_path(ended_files.key.id()).is_file()
                && fleet.node(node).bundle_path(live_files.config.id()).is_file()
        })
        .await;
    }

    // A node that is away when the upload ends does its part when it is back.
    let away = Fleet::others(fleet.leader().await)[0];
    assert!(fleet.node_mut(away).stop().await.success());
    let other = fleet.address(Fleet::others(away)[0]);
    let request = v1::EndUploadRequest {
        write_id: Some(ended.party.write_id()),
        lease_id: ended_lease.id.clone(),
        failed: false,
    };
    ended.party.backup(&other).end_upload(request).await.answer().expect("ended");
    fleet.start_node(away).await;
    for node in NODES {
        for bundle in [ended_files.key.id(), ended_files.config.id()] {
            until_so(&format!("node {node} has removed {}", bundle.short()), async || {
                traces(&fleet, node, bundle).is_empty()
            })
            .await;
        }
        assert!(
            fleet.node(node).bundle_path(live_files.config.id()).is_file(),
            "node {node} removed a bundle of a live upload"
        );
        for bundle in bundles_of(&point) {
            assert!(fleet.node(node).bundle_path(bundle).is_file(), "node {node}: {bundle}");
        }
    }
    let late = ended.upload(&address, &ended_lease, &ended_files.wraps).await;
    assert_refused("an ended lease", late, Code::LeaseGone, &["begin a new upload"]);
    // The live one still ends in a point.
    let mut live = live;
    for sealed in live_files.all() {
        live.upload(&address, &live_lease, sealed).await.expect("taken");
    }
    let request = live.commit_request(&live_lease, live.changed(&live_files));
    live.commit(&address, request).await.expect("committed");
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn invariant_b3_a_flipped_bit_is_found_on_read_and_on_scrub_and_healed_from_a_peer() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let contents = [Content::file("a", &noise(700_000, 4))];
    let point = cluster.backup(&fleet.address(1), &contents).await;
    let bundles = bundles_of(&point);
    for node in NODES {
        for bundle in &bundles {
            let path = fleet.node(node).bundle_path(*bundle);
            until_so("every node has every bundle", async || path.is_file()).await;
        }
    }
    let operator = fleet.operator(Role::Operator);
    let whole = |fleet: &Fleet, node: u64, bundle: BundleId| {
        std::fs::read(fleet.node(node).bundle_path(bundle))
            .is_ok_and(|bytes| BundleId::of(&bytes) == bundle)
    };

    // On read: after a restart nothing is believed to be whole without having been read.
    assert!(fleet.node_mut(2).stop().await.success());
    for bundle in &bundles {
        fleet.node(2).flip_bit(*bundle);
        assert!(!whole(&fleet, 2, *bundle));
    }
    fleet.start_node(2).await;
    for bundle in &bundles {
        let read = read_bundle(&operator, &fleet.address(2), *bundle).await.expect("healed");
        assert_eq!(BundleId::of(&read), *bundle, "served as it is");
        assert!(whole(&fleet, 2, *bundle), "the copy on disk is healed");
    }
    let found = fleet.node(2).log().named("damage_on_read");
    assert_eq!(found.len(), bundles.len(), "each damage is told once");

    // On scrub, of a running node.
    for bundle in &bundles {
        fleet.node(3).flip_bit(*bundle);
    }
    std::fs::remove_file(fleet.node(1).bundle_path(bundles[0])).expect("removed");
    let report = scrub(&operator, &fleet.address(3)).await.expect("a report");
    assert!(report.done);
    assert_eq!((report.checked, report.damaged, report.repaired), (4, 4, 4));
    let report = scrub(&operator, &fleet.address(1)).await.expect("a report");
    assert_eq!((report.checked, report.missing, report.repaired), (4, 1, 1));
    for node in NODES {
        assert!(bundles.iter().all(|bundle| whole(&fleet, node, *bundle)), "node {node}");
    }
    fleet.assert_quiet(&["damage_on_read", "scrub_found"]);
}

#[tokio::test]
async fn invariant_b3_damage_on_all_nodes_is_a_clear_error_and_a_finding() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let point = cluster.backup(&fleet.address(1), &[Content::file("a", b"lost for ever")]).await;
    let bundle = *bundles_of(&point).first().expect("a bundle");
    for node in NODES {
        let path = fleet.node(node).bundle_path(bundle);
        until_so("every node has it", async || path.is_file()).await;
    }
    fleet.stop_all().await;
    for node in NODES {
        fleet.node(node).flip_bit(bundle);
    }
    fleet.start_all();
    fleet.ready().await;
    let operator = fleet.operator(Role::Operator);
    let short = bundle.to_string()[..8].to_owned();
    for node in NODES {
        let error = until("the node has looked everywhere", async || {
            let read = read_bundle(&operator, &fleet.address(node), bundle).await;
            let error = read.expect_err("no good copy is left");
            // Its housekeeping is just trying the same.
            (error.code() != Code::Busy).then_some(error)
        })
        .await;
        assert!(
            matches!(error.code(), Code::BundleNotFound | Code::Damaged),
            "node {node}: {}: {error}",
            error.code()
        );
        assert!(error.message().contains(&short), "node {node}: {error}");
    }
    let report = scrub(&operator, &fleet.address(2)).await.expect("a report");
    assert_eq!(report.repaired, 0);
    assert_eq!(report.unrepaired_ids, [bundle.as_bytes().to_vec()]);
    let finding = until("the finding stands", async || {
        let status = fleet.status(1).await;
        status.findings.into_iter().find(|f| f.kind == "bundle-damaged" && f.node_id == 2)
    })
    .await;
    assert_eq!(finding.severity(), v1::Severity::Critical);
    assert!(finding.subject.contains(&short) && finding.message.contains(&short));
    assert!(!finding.remedy.is_empty());
    // Nothing else suffered: the cluster goes on.
    cluster.backup(&fleet.address(3), &[Content::file("a", b"a new one")]).await;
    fleet.assert_quiet(&["damage_on_read", "scrub_found"]);
}

//! No space: under the bundles a node refuses and takes again by itself; under its log or state
//! it stops, says why, and goes on where it was once there is room.

use proto::identity::Role;
use proto::v1;
use proto_types::Code;
use tests::client::assert_refused;
use tests::sealed::Content;
use tests::skip::skip;
use tests::tmpfs::Tmpfs;
use tests::wait::until_so;
use tests::{Answer, Cli, Fleet, RawCluster, Settings};

use crate::restart::{bundles_of, noise};

const RESERVE: u64 = 8 << 20;

fn free(tmpfs: &Tmpfs) -> u64 {
    let space = rustix::fs::statvfs(tmpfs.path()).expect("a file system says how full it is");
    space.f_bavail * space.f_frsize
}

#[tokio::test]
async fn bad_input_no_space_under_the_bundles_is_refused_and_over_by_itself() {
    let settings = Settings { disk_reserve_bytes: RESERVE, ..Settings::default() };
    let mut fleet = Fleet::prepare(settings).await;
    // A log segment is 16 MiB, made in advance, and another may be.
    let disk = fleet.directory().join("small-disk");
    let Some(tmpfs) = Tmpfs::mount(&disk, 64) else {
        return skip("bad_input_no_space_under_the_bundles", "mounting is not permitted");
    };
    fleet.node_mut(3).move_data(&tmpfs.path().join("data"));
    fleet.start_all();
    fleet.ready().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    cluster.backup(&fleet.address(3), &[Content::file("a", b"while there is room")]).await;

    // Filled up to half of the reserve: the log still has room, bundles have none.
    let ballast = tmpfs.path().join("ballast");
    let length = free(&tmpfs) - RESERVE / 2;
    std::fs::write(&ballast, vec![1; usize::try_from(length).expect("small")]).expect("written");
    let files = cluster.seal(&[Content::file("a", &noise(100_000, 1))]);
    let lease = cluster.open_upload(&fleet.address(3)).await.expect("a lease needs no room");
    let refused = cluster.upload(&fleet.address(3), &lease, &files.config).await;
    assert_refused(
        "an upload to a full disk",
        refused,
        Code::NoSpace,
        &["no room for bundle", "8.0 MiB", "by themselves"],
    );
    assert!(!fleet.node(3).bundle_path(files.config.id()).exists());

    // Through another node the backup goes on: a majority has room.
    for sealed in files.all() {
        let holders = cluster.upload_patiently(&fleet.address(1), &lease, sealed).await;
        assert_eq!(holders, [1, 2]);
    }
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let point = cluster.commit(&fleet.address(1), request).await.expect("committed");

    // Room again: the full node takes bundles again, and fetches what it missed.
    std::fs::remove_file(&ballast).expect("removed");
    for bundle in bundles_of(&point) {
        let path = fleet.node(3).bundle_path(bundle);
        until_so("node 3 has fetched what it missed", async || path.is_file()).await;
    }
    cluster.backup(&fleet.address(3), &[Content::file("a", b"room again")]).await;
    fleet.assert_quiet(&[]);
    drop(fleet);
}

#[tokio::test]
async fn bad_input_no_space_under_the_log_stops_the_node_which_says_so_and_loses_nothing() {
    let settings =
        Settings { snapshot_every_entries: 20, snapshot_keep_entries: 5, ..Settings::default() };
    let mut fleet = Fleet::prepare(settings).await;
    let disk = fleet.directory().join("small-disk");
    let Some(tmpfs) = Tmpfs::mount(&disk, 64) else {
        return skip("bad_input_no_space_under_the_log", "mounting is not permitted");
    };

    // Not even a new log fits: it does not start, and says why.
    tmpfs.fill("ballast");
    fleet.node_mut(3).move_data(&tmpfs.path().join("data"));
    let mut command = fleet.node(3).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    let shown = tmpfs.path().display().to_string();
    done.assert_refused("starting on a full disk", Code::NoSpace, &[&shown]);

    // With room it does, and an interrupted first start is no obstacle.
    std::fs::remove_file(tmpfs.path().join("ballast")).expect("removed");
    fleet.start_all();
    fleet.ready().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    cluster.backup(&fleet.address(3), &[Content::file("a", b"acknowledged")]).await;
    fleet.caught_up(3).await;

    // The disk fills up while it runs: the next thing it must keep stops it, and only it.
    tmpfs.fill("ballast");
    let mut written = 0;
    let mut ended = None;
    while ended.is_none() {
        written += 1;
        assert!(written < 500, "node 3 still runs on a full disk after {written} writes");
        let finding = v1::Finding {
            kind: "source-unreadable".to_owned(),
            subject: format!("s{}", written % 50),
            message: noise_text(900, written),
            remedy: "none".to_owned(),
            severity: v1::Severity::Warning.into(),
            ..Default::default()
        };
        let request = v1::ReportFindingsRequest {
            write_id: Some(cluster.party.write_id()),
            epoch: cluster.epoch,
            raise: vec![finding],
            clear: Vec::new(),
        };
        let mut backup = cluster.party.backup(&fleet.address(1));
        match backup.report_findings(request).await.answer() {
            Ok(_) => {}
            // Node 3 may have been the leader.
            Err(error) => assert!(error.is_retryable(), "{}: {error}", error.code()),
        }
        ended = fleet.node_mut(3).ended();
    }
    assert!(!ended.expect("the loop ended").success(), "a node that cannot keep its word fails");
    let said = fleet.node(3).log().text();
    assert!(said.contains("No space left on device"), "{}", fleet.node(3).log().tail());
    assert!(said.contains("start it again"), "{}", fleet.node(3).log().tail());
    fleet.node_mut(3).kill();
    let point = cluster.backup(&fleet.address(2), &[Content::file("a", b"by the others")]).await;

    // Room again, started again: it has all it had, and catches up.
    std::fs::remove_file(tmpfs.path().join("ballast")).expect("removed");
    fleet.start_node(3).await;
    fleet.caught_up(3).await;
    for bundle in bundles_of(&point) {
        let path = fleet.node(3).bundle_path(bundle);
        until_so("node 3 has fetched what it missed", async || path.is_file()).await;
    }
    let points = fleet
        .operator(Role::Viewer)
        .catalog(&fleet.address(3))
        .list_points(v1::ListPointsRequest::default())
        .await
        .answer()
        .expect("a read");
    assert_eq!(points.points.len(), 2);
}

/// Text that does not compress much.
fn noise_text(length: usize, seed: u64) -> String {
    hex::encode(noise(length / 2, seed))
}

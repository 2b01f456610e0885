//! A fleet gets a newer program, one coordinator at a time. The older program is this one, held
//! back by `upgrade.level_max`: it tells, decodes and refuses what a program of that level does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::identity::Role;
use proto::v1;
use proto_types::Code;
use tests::client::{Party, assert_refused};
use tests::fleet::NODES;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Cli, Fleet, RawCluster, Settings};

const HELD_BACK: &str = "[upgrade]\nlevel_max = 1\n";

/// A command of level 2.
async fn confirm_time(admin: &Party, address: &str) -> Result<(), proto::ApiError> {
    let request = v1::ConfirmTimeRequest { write_id: Some(admin.write_id()) };
    admin.fleet(address).confirm_time(request).await.answer().map(drop)
}

/// Writes to whichever node is named, one after the other, and counts; every refusal is told.
async fn write_on(admin: &Party, addresses: &[String], at: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::SeqCst) {
        let node = usize::try_from(at.load(Ordering::SeqCst)).expect("small");
        let request = v1::ClearFindingRequest {
            write_id: Some(admin.write_id()),
            kind: "none".to_owned(),
            ..Default::default()
        };
        let answer = admin.fleet(&addresses[node - 1]).clear_finding(request).await.answer();
        answer.unwrap_or_else(|e| panic!("write {written} through {node}: {}: {e}", e.code()));
        written += 1;
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_one_node_at_a_time_fails_no_write_and_the_level_rises_with_the_last() {
    let settings = Settings { extra: HELD_BACK.to_owned(), ..Settings::default() };
    let mut fleet = Fleet::start_with(settings).await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let mut points = vec![cluster.backup(&fleet.address(1), &[Content::file("a", b"1")]).await];
    let admin = fleet.operator(Role::Admin);
    assert_eq!(fleet.status(1).await.level, 1);
    let refused = confirm_time(&admin, &fleet.address(1)).await;
    assert!(refused.is_err(), "an older program does not know it");

    let at = std::sync::Arc::new(AtomicU64::new(3));
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let writer = {
        let (addresses, at, stop) = (fleet.addresses(), at.clone(), stop.clone());
        let writer = fleet.operator(Role::Admin);
        tokio::spawn(async move { write_on(&writer, &addresses, &at, &stop).await })
    };
    // The leader last but one, so that leadership is handed from an old program to a new one and
    // back from a new to an old.
    let leader = fleet.leader().await;
    let [first, last] = Fleet::others(leader);
    for node in [first, leader, last] {
        at.store(Fleet::others(node)[0], Ordering::SeqCst);
        // The write under way through this node ends before the node does, which drains.
        assert!(fleet.node_mut(node).stop().await.success());
        fleet.node(node).edit_config(HELD_BACK, "");
        let other = fleet.address(Fleet::others(node)[1]);
        points.push(
            cluster.backup(&other, &[Content::file("a", &[u8::try_from(node).unwrap()])]).await,
        );
        fleet.start_node(node).await;
        fleet.caught_up(node).await;
        if node != last {
            assert_eq!(fleet.status(node).await.level, 1, "after node {node}");
            assert!(home(&fleet, node).contains("version 1\n"));
        }
        if node == leader {
            let names = format!("node {last} runs strongroom");
            let refused = confirm_time(&admin, &fleet.address(first)).await;
            // Whoever leads says it: a new program names the old one.
            let error = refused.expect_err("one is left");
            assert_eq!(error.code(), leads_new(&fleet, last).await, "{error}");
            if error.code() == Code::LevelTooLow {
                assert_refused(
                    "too early",
                    Err::<(), _>(error),
                    Code::LevelTooLow,
                    &[names.as_str()],
                );
            }
        }
    }
    until_so("the level rises", async || fleet.status(1).await.level == 2).await;
    stop.store(true, Ordering::SeqCst);
    assert!(writer.await.expect("no write failed") > 10);
    confirm_time(&admin, &fleet.address(2)).await.expect("level 2 has it");
    for node in NODES {
        fleet.caught_up(node).await;
        assert!(home(&fleet, node).contains("version 2\nupgrade none\n"), "{}", home(&fleet, node));
    }
    crate::restart::assert_all_there(&fleet, &cluster, &points).await;

    // The older program does not start on the newer directory, and changes nothing in it.
    assert!(fleet.node_mut(2).stop().await.success());
    fleet.node(2).edit_config("[tls]", &format!("{HELD_BACK}[tls]"));
    let mut command = fleet.node(2).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    let parts = ["version 2", "knows up to 1", "start the newer strongroom"];
    done.assert_refused("an older program", Code::UnsupportedVersion, &parts);
    fleet.node(2).edit_config(HELD_BACK, "");
    fleet.start_node(2).await;
    fleet.caught_up(2).await;

    // Nor does it join a fleet of a higher level.
    let joining = fleet.add_node().await;
    let status = fleet.node_mut(joining).wait_end().await;
    assert_eq!(status.code(), Some(i32::from(Code::UnsupportedVersion.exit_code())));
    let log = fleet.node(joining).log().tail();
    assert!(log.contains("the fleet is at level 2"), "{log}");
    assert!(log.contains("remove upgrade.level_max"), "{log}");
}

/// What the leader answers to a command above the level: an old one does not even know it.
async fn leads_new(fleet: &Fleet, old: u64) -> Code {
    if fleet.leader().await == old { Code::UnsupportedVersion } else { Code::LevelTooLow }
}

fn home(fleet: &Fleet, node: u64) -> String {
    std::fs::read_to_string(fleet.node(node).data().join("HOME")).expect("there is one")
}

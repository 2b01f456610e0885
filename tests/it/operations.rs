//! Loss and moves: the pages of `docs/operations/` followed word by word, and what stands behind
//! them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::identity::Role;
use proto::v1;
use proto_types::{BundleId, Code};
use serde_json::Value;
use tests::ports::Port;
use tests::sealed::Content;
use tests::tree::{Tree, assert_same};
use tests::wait::until_so;
use tests::{Agent, Answer, Cli, Fleet, RawCluster, Runbook, until};

use crate::restart::{bundles_of, noise};

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn make_source(source: &Path) {
    std::fs::create_dir_all(source.join("conf")).expect("made");
    std::fs::create_dir_all(source.join("keys")).expect("made");
    std::fs::write(source.join("conf/app.yaml"), "replicas: 3\n").expect("made");
    std::fs::write(source.join("conf/big"), noise(1_500_000, 31)).expect("made");
    std::fs::write(source.join("keys/unseal"), "not for everybody").expect("made");
}

/// The file of the largest bundle that a node holds.
fn largest_bundle(node: &tests::fleet::Node) -> PathBuf {
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    node.bundle_files().into_iter().max_by_key(size).expect("it holds some")
}

/// Exports offline; gives the answer, which may be an error too.
async fn export(data: &Path, more: &[&str]) -> tests::cli::Done {
    let mut arguments = vec!["backup", "export", "--offline", text(data)];
    arguments.extend(more);
    Cli::alone().run(&arguments).await
}

fn names(list: &Value) -> Vec<String> {
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| row["point"].as_str().expect("a point").to_owned()).collect()
}

#[tokio::test]
async fn invariant_a1_one_directory_of_three_brings_back_what_it_holds() {
    let mut fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    make_source(&source);
    let agent = Agent::enrol(&fleet, "harbour", &source, &["keys/**"]).await;
    agent.backup().await;
    std::fs::write(source.join("conf/app.yaml"), "replicas: 5\n").expect("changed");
    assert_eq!(agent.backup().await, 2);
    let expected = Tree::read(&source);
    fleet.caught_up(2).await;
    until_so("node 2 holds all", async || {
        let status = fleet.status(1).await;
        status.nodes.iter().any(|n| n.node_id == 2 && n.missing_bundles == 0)
    })
    .await;
    // While it runs, its directory is its own.
    let out = fleet.scratch("busy").join("out");
    let busy = export(fleet.node(2).data(), &["--out", text(&out)]).await;
    busy.assert_refused("a running coordinator's directory", Code::Busy, &["in use"]);

    for id in tests::fleet::NODES {
        fleet.node_mut(id).kill();
    }
    for id in [1, 3] {
        std::fs::remove_dir_all(fleet.node(id).data()).expect("the disk is lost");
    }
    let before = Tree::read(fleet.node(2).data());
    let out = fleet.scratch("exported");
    let target = fleet.scratch("restored").join("tree");
    let [one, two, three] = fleet.recovery_shares();
    let variables = [
        ("OUT", text(&out)),
        ("CLUSTER", "harbour"),
        ("TARGET", text(&target)),
        ("SHARE_1", text(&one)),
        ("SHARE_2", text(&two)),
        ("SHARE_3", text(&three)),
    ];
    let mut page = Runbook::open(&fleet, "one-directory-left.md", &[]);
    let told = page.run_on(fleet.node(2), &variables).await;
    assert!(told.contains("exported harbour@2"), "{told}");
    assert!(told.contains("freshness: unproven"), "{told}");
    page.run_on(fleet.node(2), &variables).await;
    page.run_on(fleet.node(2), &variables).await;
    page.finish();
    assert_same(&expected, &Tree::read(&target));
    assert_same(&before, &Tree::read(fleet.node(2).data()));
}

#[tokio::test]
async fn invariant_a1_an_offline_export_names_what_the_directory_lacks() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let mut quay = RawCluster::register(&fleet, "quay").await;
    let address = fleet.address(1);
    harbour.backup(&address, &[Content::file("a", &noise(50_000, 1))]).await;
    let second = harbour.backup(&address, &[Content::file("b", &noise(50_000, 2))]).await;
    let third = harbour.backup(&address, &[Content::file("c", &noise(50_000, 3))]).await;
    quay.backup(&address, &[Content::file("q", b"quay")]).await;
    fleet.stop_all().await;
    let own = |point: &v1::Point, older: &v1::Point| -> Vec<BundleId> {
        let before = bundles_of(older);
        bundles_of(point).into_iter().filter(|id| !before.contains(id)).collect()
    };
    let node = fleet.node(1);
    let missing = own(&third, &second)[0];
    std::fs::remove_file(node.bundle_path(missing)).expect("a bundle is gone");
    let before = Tree::read(node.data());

    // The newest complete one of each is given, and what is better but not whole is named.
    let out = fleet.scratch("all");
    let answer = export(node.data(), &["--out", text(&out)]).await.success().json();
    assert_eq!(names(&answer["exported"]), ["harbour@2", "quay@1"], "{answer}");
    assert_eq!(names(&answer["incomplete"]), ["harbour@3"], "{answer}");
    let lacks = &answer["incomplete"][0]["lacks"];
    assert_eq!(lacks.as_array().map(Vec::len), Some(1), "{lacks}");
    assert_eq!(lacks[0]["id"], missing.to_string());
    assert_eq!(lacks[0]["what"], "is not here");
    assert_eq!(answer["freshness"], "unproven");
    assert_eq!(answer["exported"][0]["committed_known"], true, "after an orderly stop: {answer}");
    assert!(out.join("harbour-2.srx").is_file() && out.join("quay-1.srx").is_file());

    // What was asked for by name is not replaced by something else.
    let file = fleet.scratch("one").join("third.srx");
    let refused = export(node.data(), &["--point", "harbour@3", "--out", text(&file)]).await;
    refused.assert_refused("an incomplete point", Code::BundleNotFound, &["harbour@3"]);
    assert!(!file.exists());
    let refused = export(node.data(), &["--point", "harbour@9", "--out", text(&file)]).await;
    refused.assert_refused("an unknown point", Code::PointNotFound, &["9"]);
    let refused = export(node.data(), &["nowhere", "--out", text(&file)]).await;
    refused.assert_refused("an unknown cluster", Code::ClusterNotFound, &["harbour, quay"]);

    // A copy that rotted is no copy.
    node.flip_bit(own(&second, &third).first().copied().unwrap_or(bundles_of(&second)[0]));
    let out = fleet.scratch("rotten");
    let answer = export(node.data(), &["harbour", "--all", "--out", text(&out)]).await;
    let answer: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let incomplete = names(&answer["incomplete"]);
    assert!(incomplete.contains(&"harbour@2".to_owned()), "{answer}");
    assert!(answer.to_string().contains("is damaged here"), "{answer}");
    let empty = fleet.scratch("nothing");
    let refused = export(&empty, &["--out", text(&file)]).await;
    refused.assert_refused("no data directory", Code::InvalidConfig, &["no HOME"]);
    assert_eq!(before.len(), Tree::read(node.data()).len(), "nothing was added");
}

#[tokio::test]
async fn invariant_a1_an_offline_export_passes_over_a_damaged_log_and_says_so() {
    let settings = tests::Settings {
        snapshot_every_entries: 8,
        snapshot_keep_entries: 2,
        ..tests::Settings::default()
    };
    let mut fleet = Fleet::start_with(settings).await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let mut points = 0;
    // The last index that a snapshot of node 1 covers, as its file's name says.
    let covered = |fleet: &Fleet| {
        let found = std::fs::read_dir(fleet.node(1).data().join("snapshots")).expect("there");
        let names = found.flatten().map(|file| file.file_name().into_string().expect("a name"));
        let indexes = names.filter_map(|name| {
            let (_, index) = name.strip_suffix(".snap")?.split_once('-')?;
            u64::from_str_radix(index, 16).ok()
        });
        indexes.max().unwrap_or(0)
    };
    let mut first = None;
    until("a snapshot of node 1 covers a point", async || {
        points += 1;
        let contents = [Content::file("a", &noise(2_000, points))];
        let point = harbour.backup(&fleet.address(1), &contents).await;
        let first = *first.get_or_insert(point.log_index);
        (points > 3 && covered(&fleet) >= first).then_some(())
    })
    .await;
    fleet.stop_all().await;
    let data = fleet.node(1).data();
    for file in std::fs::read_dir(data.join("log")).expect("there").flatten() {
        let path = file.path();
        if path.extension().is_some_and(|e| e == "wal") {
            let mut bytes = std::fs::read(&path).expect("read");
            bytes[100] ^= 0x10;
            std::fs::write(&path, bytes).expect("written");
        }
    }
    let before = Tree::read(data);
    let out = fleet.scratch("out");
    let answer = export(data, &["--out", text(&out)]).await.success().json();
    let problems = answer["problems"].to_string();
    assert!(problems.contains("is damaged at byte"), "{answer}");
    assert!(problems.contains("newer than the snapshot is not shown"), "{answer}");
    assert!(names(&answer["exported"])[0].starts_with("harbour@"), "{answer}");
    // A snapshot is of what was committed.
    assert_eq!(answer["exported"][0]["committed_known"], true, "{answer}");
    assert_same(&before, &Tree::read(data));
    // From such a directory nothing is recovered by force.
    let config = fleet.node(1).config();
    let sure = ["coordinator", "recover", "--force-single", "--config", text(&config)];
    let sure = [&sure[..], &["--yes-i-lost-the-others", "coordinator-1"]].concat();
    let refused = Cli::alone().run(&sure).await;
    refused.assert_refused("a damaged directory", Code::Damaged, &["backup export --offline"]);
}

/// Waits until a process has ended, and gives the end of its log.
async fn ended(fleet: &mut Fleet, node: u64) -> String {
    until(&format!("node {node} ends"), async || fleet.node_mut(node).ended()).await;
    let tail = fleet.node(node).log().tail();
    fleet.node_mut(node).forget();
    tail
}

#[tokio::test]
async fn recover_from_one_of_three_and_the_lost_ones_stay_out() {
    let mut fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    make_source(&source);
    let agent = Agent::enrol(&fleet, "harbour", &source, &["keys/**"]).await;
    agent.backup().await;
    fleet.caught_up(1).await;
    until_so("node 1 holds all", async || {
        let status = fleet.status(2).await;
        status.nodes.iter().any(|n| n.node_id == 1 && n.missing_bundles == 0)
    })
    .await;
    // While a majority answers, nothing is forced; while it runs, neither.
    let config = fleet.node(1).config();
    let force = ["coordinator", "recover", "--force-single", "--config", text(&config)];
    let sure = [&force[..], &["--yes-i-lost-the-others", "coordinator-1"]].concat();
    let refused = Cli::alone().run(&sure).await;
    refused.assert_refused("a running node", Code::Busy, &["in use"]);
    fleet.node_mut(1).stop().await;
    let refused = Cli::alone().run(&sure).await;
    refused.assert_refused("an unneeded recovery", Code::Conflict, &["a majority is there"]);

    for id in [2, 3] {
        fleet.node_mut(id).kill();
    }
    // Their disks are kept: they will come back from the dead.
    let refused = Cli::alone().run(&force).await;
    refused.assert_refused("nobody typed the name", Code::Conflict, &["nothing was changed"]);
    let mut page = Runbook::open(&fleet, "majority-lost.md", &[fleet.address(1)]);
    page.start(fleet.node(1)).await;
    page.run_on(fleet.node(1), &[]).await;
    let told = page.run(&[]).await;
    assert!(told.contains("recovered-by-force"), "{told}");
    assert!(told.contains("harbour@1"), "{told}");
    let status = fleet.status(1).await;
    let finding = &status.findings[0];
    assert_eq!(finding.severity(), v1::Severity::Critical);
    assert!(finding.message.contains("removed: 2, 3"), "{}", finding.message);
    assert!(finding.message.contains("0 of 1 recovery points"), "{}", finding.message);
    std::fs::write(source.join("conf/app.yaml"), "replicas: 6\n").expect("changed");
    assert_eq!(agent.backup().await, 1_000_001, "a number that the lost ones never gave out");

    // Two of the old three are a majority of what they remember. They ask first, and end before
    // they elect anybody.
    let elections = |fleet: &Fleet, id: u64| {
        let events = fleet.node(id).log().events();
        events.into_iter().filter(|event| event.line().contains("becomes leader")).count()
    };
    let before = [2, 3].map(|id| elections(&fleet, id));
    for id in [2, 3] {
        fleet.node_mut(id).start();
    }
    for (id, before) in [2, 3].into_iter().zip(before) {
        let last = ended(&mut fleet, id).await;
        assert!(last.contains("was removed from the fleet"), "node {id}: {last}");
        assert_eq!(elections(&fleet, id), before, "node {id} led: {last}");
    }

    let seeds = [fleet.address(1)];
    for id in [101, 102] {
        fleet.prepare_node(id, &seeds);
    }
    let new: Vec<(u64, String, String)> =
        [101, 102].map(|id| (id, format!("coordinator-{id}"), fleet.address(id))).to_vec();
    // Both blocks once for each.
    let mut twice = page.split(2);
    for (id, name, address) in &new {
        let variables = [("NEW", name.as_str()), ("ADDRESS", address.as_str())];
        let told = twice.run_on(fleet.node(*id), &variables).await;
        assert!(told.contains(&format!("is node {id}")), "{told}");
        twice.run_on(fleet.node(*id), &variables).await;
        twice.again();
    }
    page.run(&[]).await;
    page.finish();
    until_so("the new ones hold all", async || {
        let status = fleet.status(1).await;
        status.nodes.len() == 3 && status.nodes.iter().all(|n| n.voter && n.missing_bundles == 0)
    })
    .await;
    assert!(fleet.status(1).await.findings.iter().all(|f| f.kind != "recovered-by-force"));
    assert_eq!(agent.backup().await, 1_000_002);
    let out = fleet.scratch("out").join("tree");
    agent.restore(&[], &out).await.success().json();
    assert_same(&Tree::read(&source), &Tree::read(&out));
}

#[tokio::test]
async fn recover_those_who_were_only_silent_find_out_within_seconds() {
    let mut fleet = Fleet::start().await;
    fleet.caught_up(1).await;
    fleet.node_mut(1).stop().await;
    // They run and hold their connections, and answer nobody: lost, for all that can be seen.
    for id in [2, 3] {
        fleet.node_mut(id).pause();
    }
    let config = fleet.node(1).config();
    let sure = ["coordinator", "recover", "--force-single", "--config", text(&config)];
    let sure = [&sure[..], &["--yes-i-lost-the-others", "coordinator-1"]].concat();
    assert_eq!(Cli::alone().json(&sure).await["recovered"], true);
    fleet.start_node(1).await;
    for id in [2, 3] {
        fleet.node_mut(id).resume();
    }
    // Their messages to node 1 are refused, so they ask, long before they would by themselves.
    let soon = std::time::Duration::from_secs(15);
    for id in [2, 3] {
        let ended = async || fleet.node_mut(id).ended();
        tests::wait::until_in(soon, &format!("node {id} ends"), ended).await;
        let last = fleet.node(id).log().tail();
        assert!(last.contains("was removed from the fleet"), "node {id}: {last}");
        fleet.node_mut(id).forget();
    }
    let mut harbour = RawCluster::register_at(&fleet, "harbour", 1).await;
    harbour.backup(&fleet.address(1), &[Content::file("a", b"alone")]).await;
}

#[tokio::test]
async fn recover_says_what_nobody_holds_any_more() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let address = fleet.address(2);
    let first = harbour.backup(&address, &[Content::file("a", &noise(50_000, 1))]).await;
    let second = harbour.backup(&address, &[Content::file("b", &noise(50_000, 2))]).await;
    let source = fleet.scratch("source");
    make_source(&source);
    let mut agent = Agent::enrol(&fleet, "quay", &source, &["keys/**"]).await;
    agent.backup().await;
    fleet.caught_up(1).await;
    until_so("node 1 holds all", async || {
        let status = fleet.status(2).await;
        status.nodes.iter().any(|n| n.node_id == 1 && n.missing_bundles == 0)
    })
    .await;
    for id in tests::fleet::NODES {
        fleet.node_mut(id).kill();
    }
    let before = bundles_of(&first);
    let lost: Vec<_> = bundles_of(&second).into_iter().filter(|id| !before.contains(id)).collect();
    std::fs::remove_file(fleet.node(1).bundle_path(lost[0])).expect("a bundle is gone");
    let quay = largest_bundle(fleet.node(1));
    std::fs::remove_file(quay).expect("the agent's config bundle is gone");
    let config = fleet.node(1).config();
    let sure = ["coordinator", "recover", "--force-single", "--config", text(&config)];
    let sure = [&sure[..], &["--yes-i-lost-the-others", "coordinator-1"]].concat();
    let answer = Cli::alone().json(&sure).await;
    assert_eq!(answer["removed"], serde_json::json!([2, 3]), "{answer}");
    assert_eq!((&answer["lost_bundles"], &answer["lost_points"]), (&2.into(), &2.into()));
    // Once is enough.
    let again = Cli::alone().json(&sure).await;
    assert_eq!(again["recovered"], false, "{again}");

    fleet.start_node(1).await;
    let status = fleet.status(1).await;
    let finding = status.findings.iter().find(|f| f.kind == "recovered-by-force");
    let finding = finding.expect("the finding stands");
    assert!(finding.message.contains("2 of 3 recovery points"), "{}", finding.message);
    let cluster = status.clusters.iter().find(|c| c.points == 2).expect("harbour");
    let sequence = |point: &Option<v1::Point>| point.as_ref().map(|point| point.sequence);
    assert_eq!((sequence(&cluster.newest), sequence(&cluster.newest_proved)), (Some(2), Some(1)));
    let listed = fleet.admin_cli().json(&["backup", "list", "--cluster", "harbour"]).await;
    assert_eq!(
        (&listed[0]["absent_bundles"], &listed[1]["absent_bundles"]),
        (&1.into(), &0.into())
    );
    // Nothing can be built on a point that lacks something: the agent seals everything anew.
    agent.kill();
    agent.start().await;
    assert_eq!(agent.backup().await, 1_000_001);
    let out = fleet.scratch("out").join("tree");
    agent.restore(&[], &out).await.success().json();
    assert_same(&Tree::read(&source), &Tree::read(&out));
}

#[tokio::test]
async fn operations_one_disk_lost() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    harbour.backup(&fleet.address(1), &[Content::file("a", &noise(100_000, 7))]).await;
    fleet.node_mut(3).kill();
    std::fs::remove_dir_all(fleet.node(3).data()).expect("the disk is lost");
    let seeds = [fleet.address(1), fleet.address(2)];
    fleet.prepare_node(4, &seeds);
    let address = fleet.address(4);
    let variables = [("LOST", "coordinator-3"), ("ADDRESS", address.as_str())];
    let mut page = Runbook::open(&fleet, "one-disk-lost.md", &seeds);
    page.run(&variables).await;
    let told = page.run_on(fleet.node(4), &variables).await;
    assert!(told.contains("is node 4"), "{told}");
    page.run_on(fleet.node(4), &variables).await;
    let told = page.run(&variables).await;
    assert!(told.contains("no findings"), "{told}");
    page.finish();
    let status = fleet.status(1).await;
    let voters: Vec<u64> = status.nodes.iter().filter(|n| n.voter).map(|n| n.node_id).collect();
    assert_eq!(voters, [1, 2, 4]);
    harbour.backup(&address, &[Content::file("a", b"and on")]).await;
}

/// Gives a node another port: what its config will say once the page was followed.
fn new_port() -> (Port, String) {
    let port = Port::reserve();
    let address = port.address();
    (port, address)
}

#[tokio::test]
async fn operations_a_node_moves_while_writes_go_on() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let leader = fleet.leader().await;
    let [other, _] = Fleet::others(leader);
    // Somebody backs up all the time, through a node that stays; no backup may fail.
    let address = fleet.address(other);
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let content = noise(20_000, 100 + written);
            let done = harbour.try_backup(&address, &[Content::file("a", &content)]).await;
            done.unwrap_or_else(|e| panic!("backup {written} failed: {}: {e}", e.code()));
            written += 1;
        }
        (harbour, written)
    });
    let stays: Vec<String> = Fleet::others(leader).iter().map(|id| fleet.address(*id)).collect();
    let mut page = Runbook::open(&fleet, "node-moves.md", &stays);
    // The one that leads moves: it hands over first.
    fleet.node_mut(leader).stop().await;
    page.start(fleet.node(leader)).await;
    let (port, address) = new_port();
    page.run_on(fleet.node(leader), &[("ADDRESS", &address)]).await;
    fleet.node_mut(leader).moved_to(port);
    let admin = fleet.operator(Role::Admin);
    fleet.serves(&admin, leader).await;
    page.run(&[]).await;
    page.finish();
    until_so("it is reached where it is now, and has caught up", async || {
        let status = fleet.status(other).await;
        let moved = status.nodes.iter().find(|node| node.node_id == leader);
        moved.is_some_and(|node| {
            node.reachable && node.voter && node.address == address && node.missing_bundles == 0
        })
    })
    .await;
    enough.store(true, Ordering::Relaxed);
    let (mut harbour, written) = writer.await.expect("no backup failed");
    assert!(written > 3, "{written} backups meanwhile");
    // It is a voter like any other: with one of the others gone it makes the majority.
    fleet.node_mut(other).kill();
    let all = [Content::file("z", b"on")];
    until("a backup through the one that moved", async || {
        harbour.try_backup(&address, &all).await.ok()
    })
    .await;
    // Bad input changes nothing.
    let request = v1::MoveNodeRequest {
        write_id: Some(admin.write_id()),
        node_id: leader,
        address: "nowhere".to_owned(),
    };
    let refused = admin.fleet(&address).move_node(request).await.answer();
    tests::client::assert_refused("no address", refused, Code::InvalidArgument, &["host:port"]);
}

#[tokio::test]
async fn operations_a_fleet_moves_as_a_whole() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let point = harbour.backup(&fleet.address(1), &[Content::file("a", &noise(100_000, 7))]).await;
    let old = fleet.addresses();
    fleet.stop_all().await;
    let mut page = Runbook::open(&fleet, "fleet-moves.md", &old);
    for id in tests::fleet::NODES {
        page.start(fleet.node(id)).await;
    }
    let ports: Vec<(Port, String)> = (0..3).map(|_| new_port()).collect();
    let moves = fleet.scratch("moves").join("moves.sed");
    let lines = old.iter().zip(&ports).map(|(old, (_, new))| format!("s/{old}/{new}/\n"));
    std::fs::write(&moves, lines.collect::<String>()).expect("made");
    let operator: PathBuf = page.operator_file();
    let common = vec![("MOVES", text(&moves)), ("OPERATOR", text(&operator))];
    for _ in 0..3 {
        let rows = tests::fleet::NODES.map(|id| (fleet.node(id), common.clone()));
        page.run_each(&rows).await;
    }
    page.run(&common).await;
    let rows: Vec<_> = tests::fleet::NODES
        .into_iter()
        .zip(&ports)
        .map(|(id, (_, address))| (fleet.node(id), vec![("ADDRESS", address.as_str())]))
        .collect();
    page.run_each(&rows).await;
    page.run(&[]).await;
    page.finish();
    let expected: Vec<String> = ports.iter().map(|(_, address)| address.clone()).collect();
    for (id, (port, _)) in tests::fleet::NODES.into_iter().zip(ports) {
        fleet.node_mut(id).moved_to(port);
    }
    let status = fleet.status(1).await;
    let known: Vec<String> = status.nodes.iter().map(|node| node.address.clone()).collect();
    assert_eq!(known, expected);
    assert!(status.nodes.iter().all(|node| node.reachable), "{:?}", status.nodes);
    harbour.backup(&fleet.address(3), &[Content::file("b", b"and on")]).await;
    let viewer = fleet.operator(Role::Viewer);
    for id in bundles_of(&point) {
        let bytes = tests::raw::read_bundle(&viewer, &fleet.address(2), id).await;
        assert_eq!(BundleId::of(&bytes.expect("it is served")), id);
    }
}

#[test]
fn operations_every_page_is_followed_by_a_test() {
    let directory = tests::binary::workspace().join("docs/operations");
    let source = |name: &str| {
        let path = tests::binary::workspace().join("tests/it").join(name);
        std::fs::read_to_string(path).expect("a test's file can be read")
    };
    let tests = ["operations.rs", "all_lost.rs", "keys.rs", "enroll.rs"].map(source).concat();
    let index = std::fs::read_to_string(directory.join("README.md")).expect("an index");
    let has_commands = |name: &str| {
        let page = std::fs::read_to_string(directory.join(name));
        page.expect("a page can be read").lines().any(|line| line == "```sh")
    };
    for page in std::fs::read_dir(&directory).expect("a directory") {
        let name = page.expect("an entry").file_name();
        let name = name.to_str().expect("UTF-8").to_owned();
        if !has_commands(&name) {
            continue;
        }
        assert!(index.contains(&format!("({name})")), "{name} is not in the index");
        assert!(tests.contains(&format!("\"{name}\"")), "{name} is followed by no test");
    }
}

#[tokio::test]
async fn recover_with_two_survivors_names_the_better_one() {
    let mut fleet = Fleet::start().await;
    for expected in [4, 5] {
        assert_eq!(fleet.add_node().await, expected);
        let done = fleet.admin_cli().json(&["node", "promote", &expected.to_string()]).await;
        assert_eq!(done["done"], true, "{done}");
    }
    fleet.caught_up(1).await;
    fleet.node_mut(1).stop().await;
    let mut harbour = RawCluster::register_at(&fleet, "harbour", 2).await;
    harbour.backup(&fleet.address(2), &[Content::file("a", b"later")]).await;
    for id in [3, 4, 5] {
        fleet.node_mut(id).kill();
    }
    // Node 2 still runs, and has more: told, and asked for the name, which nobody types.
    let config = fleet.node(1).config();
    let mut command = std::process::Command::new(tests::binary::strongroom());
    command.args(["coordinator", "recover", "--force-single", "--config", text(&config)]);
    let done = Cli::finish(command).await;
    assert_ne!(done.exit, 0);
    assert!(done.stderr.contains("recover that one instead"), "{}", done.stderr);
    assert!(done.stderr.contains("nothing was changed"), "{}", done.stderr);
}

//! Who did, or was refused, what is in the audit log of every coordinator, stays there whatever happens
//! to one of them, and cannot be changed unseen.

use std::path::{Path, PathBuf};

use proto::identity::{Party as Who, Role};
use proto::v1;
use proto::v1::audit_client::AuditClient;
use proto_types::Code;
use serde_json::Value;
use tests::client::assert_refused;
use tests::metrics::scrape;
use tests::raw::read_bundle;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Answer, Cli, Fleet, Party, RawCluster, Settings};

use crate::restart::bundles_of;

/// Entries of a closed segment.
const SEGMENT: u64 = 1024;
/// A name that only who has a key may see (K1).
const ITEM: &str = "very-secret-item-name";

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// The command line of an operator who asks one node.
fn cli_at(fleet: &Fleet, node: u64, role: Role) -> Cli {
    let name = format!("{}-at-{node}", role.as_str());
    let operator = fleet.operator(role);
    Cli::for_fleet(&fleet.scratch(&name), &[fleet.address(node)], operator.files())
}

async fn list(cli: &Cli, more: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["audit", "list"];
    arguments.extend(more);
    cli.json(&arguments).await.as_array().expect("a list").clone()
}

/// Every node that runs has the whole log, and the same.
async fn assert_whole(fleet: &Fleet, asked: u64) -> u64 {
    let seen = cli_at(fleet, asked, Role::Viewer).json(&["audit", "verify"]).await;
    assert_eq!(seen["verdict"], "good", "{seen}");
    let nodes = seen["nodes"].as_array().expect("nodes");
    for node in nodes {
        let id = node["node_id"].as_u64().expect("an id");
        let expected = if fleet.running().contains(&id) { "good" } else { "unreachable" };
        assert_eq!(node["verdict"], expected, "{seen}");
    }
    seen["head"]["number"].as_u64().expect("a number")
}

async fn confirm_time(party: &Party, address: &str) -> Result<(), proto::ApiError> {
    let request = v1::ConfirmTimeRequest { write_id: Some(party.write_id()) };
    party.fleet(address).confirm_time(request).await.answer().map(drop)
}

async fn register_refused(party: &Party, address: &str) {
    let request = v1::RegisterClusterRequest {
        write_id: Some(party.write_id()),
        name: "sneaky".to_owned(),
        signing_key: vec![7; 32].into(),
        ..Default::default()
    };
    let refused = party.fleet(address).register_cluster(request).await.answer();
    assert_refused("registering", refused, Code::PermissionDenied, &["role admin"]);
}

/// The one entry of these that says so.
fn one<'a>(entries: &'a [Value], act: &str, code: Option<&str>) -> &'a Value {
    let mut found = entries.iter().filter(|e| e["act"] == act && e["code"].as_str() == code);
    let entry = found.next().unwrap_or_else(|| panic!("no {act} {code:?} in {entries:#?}"));
    assert!(found.next().is_none(), "{act} {code:?} twice in {entries:#?}");
    entry
}

#[tokio::test]
async fn audit_of_acts_and_refusals_is_the_same_on_every_node_and_outlives_each() {
    let mut fleet = Fleet::start().await;
    let mut harbour = RawCluster::register_at(&fleet, "harbour", 2).await;
    let point = harbour.backup(&fleet.address(1), &[Content::file(ITEM, b"and its content")]).await;
    let (viewer, admin) = (fleet.operator(Role::Viewer), fleet.operator(Role::Admin));
    // Refused before anything could reach the log, each through another node than it was said by.
    register_refused(&viewer, &fleet.address(3)).await;
    let status = v1::GetStatusRequest { stale: false };
    let refused = harbour.party.fleet(&fleet.address(2)).get_status(status).await.answer();
    assert_refused("an agent's status", refused, Code::PermissionDenied, &["role viewer"]);
    // Refused by the state.
    let request = v1::RegisterClusterRequest {
        write_id: Some(admin.write_id()),
        name: "harbour".to_owned(),
        signing_key: vec![8; 32].into(),
        ..Default::default()
    };
    let refused = admin.fleet(&fleet.address(1)).register_cluster(request).await.answer();
    assert_refused("a taken name", refused, Code::AlreadyExists, &["harbour"]);
    // What is read out is an act, once.
    for bundle in bundles_of(&point) {
        read_bundle(&viewer, &fleet.address(3), bundle).await.expect("viewers may read");
    }
    let saved = fleet.scratch("saved").join("fleet.snapshot");
    let leader = fleet.leader().await;
    let follower = Fleet::others(leader)[0];
    cli_at(&fleet, follower, Role::Operator).json(&["snapshot", "save", text(&saved)]).await;
    fleet.admin_cli().json(&["node", "transfer-leader", &follower.to_string()]).await;

    let viewer_cli = cli_at(&fleet, 1, Role::Viewer);
    until_so("the refusals are recorded", async || {
        list(&viewer_cli, &["--refused"]).await.len() >= 3
    })
    .await;
    let entries = list(&viewer_cli, &["--limit", "0"]).await;
    let now = proto_types::env::Clock::now(&proto_types::env::SystemClock).as_millis();
    for entry in &entries {
        let age = now.abs_diff(entry["time_ms"].as_u64().expect("when"));
        assert!(age < 600_000, "{entry}");
        assert!(!entry.to_string().contains(ITEM), "{entry}");
    }
    let registered = one(&entries, "register-cluster", None);
    let (actor, subject) = (&registered["actor"], &registered["subject"]);
    assert_eq!((&actor["kind"], &actor["name"]), (&"operator".into(), &"test".into()));
    assert_eq!((&actor["role"], &actor["via_node_id"]), (&"admin".into(), &2.into()));
    assert_eq!(actor["certificate_sha256"].as_str().expect("proved").len(), 64);
    assert_eq!(subject["cluster"], "harbour");
    let committed = one(&entries, "commit-point", None);
    assert_eq!(
        (&committed["actor"]["kind"], &committed["actor"]["cluster"]),
        (&"agent".into(), &"harbour".into())
    );
    assert_eq!(
        (&committed["subject"]["sequence"], &committed["outcome"]),
        (&1.into(), &"accepted".into())
    );
    let refused = one(&entries, "register-cluster", Some("PERMISSION_DENIED"));
    assert_eq!(
        (&refused["actor"]["role"], &refused["actor"]["via_node_id"]),
        (&"viewer".into(), &3.into())
    );
    let refused = one(&entries, "register-cluster", Some("ALREADY_EXISTS"));
    assert_eq!(
        (&refused["actor"]["role"], &refused["outcome"]),
        (&"admin".into(), &"refused".into())
    );
    let refused = one(&entries, "get-status", Some("PERMISSION_DENIED"));
    assert_eq!(
        (&refused["actor"]["kind"], &refused["actor"]["via_node_id"]),
        (&"agent".into(), &2.into())
    );
    let read = one(&entries, "read-bundle", None);
    assert_eq!(
        (&read["actor"]["role"], &read["subject"]["cluster"]),
        (&"viewer".into(), &"harbour".into())
    );
    assert_eq!(one(&entries, "save-snapshot", None)["actor"]["via_node_id"], follower);
    assert_eq!(one(&entries, "transfer-leader", None)["subject"]["node_id"], follower);
    // It begins with the fleet's own: founded at the level that has the log, or raised to it after.
    let first = entries.last().expect("one");
    assert!(first["act"] == "raise-level" || first["act"] == "init-fleet", "{first}");
    assert_eq!((&first["number"], &first["actor"]["kind"]), (&1.into(), &"coordinator".into()));

    // The same from every node, whole after each was killed.
    let mut before = assert_whole(&fleet, 1).await;
    for node in tests::fleet::NODES {
        fleet.node_mut(node).kill();
        fleet.start_node(node).await;
        fleet.caught_up(node).await;
        let head = assert_whole(&fleet, node).await;
        assert!(head >= before, "{head} after {before}");
        before = head;
        let seen = list(&cli_at(&fleet, node, Role::Viewer), &["--limit", "0"]).await;
        assert_eq!(&seen[seen.len() - entries.len()..], &entries[..], "through node {node}");
    }
    filters(&fleet, &entries).await;
    // An agent sees nothing of it, and that it asked is in it.
    let mut client = AuditClient::new(harbour.party.channel(&fleet.address(1)));
    let refused = client.list_acts(v1::ListActsRequest::default()).await.answer();
    assert_refused("an agent", refused, Code::PermissionDenied, &["role viewer"]);
    let refused = client.verify_audit(v1::VerifyAuditRequest::default()).await.answer();
    assert_refused("an agent", refused, Code::PermissionDenied, &["role viewer"]);
    let refused = client.export_audit(v1::ExportAuditRequest {}).await.answer();
    assert_refused("an agent", refused, Code::PermissionDenied, &["role viewer"]);
    until_so("that is in it", async || {
        !list(&viewer_cli, &["--act", "list-acts", "--refused"]).await.is_empty()
    })
    .await;
    // A node that joins anew has all of it.
    let new = fleet.add_node().await;
    until_so("the new node has it", async || {
        let seen = viewer_cli.json(&["audit", "verify"]).await;
        let nodes = seen["nodes"].as_array().expect("nodes");
        nodes.iter().any(|node| node["node_id"] == new && node["verdict"] == "good")
    })
    .await;
    let seen = Cli::alone().json(&["audit", "list", "--file", text(&saved), "--limit", "0"]).await;
    let in_snapshot = seen.as_array().expect("a list");
    assert_eq!(one(in_snapshot, "commit-point", None)["hash"], committed["hash"]);
    fleet.assert_quiet(&[]);
}

async fn filters(fleet: &Fleet, all: &[Value]) {
    let cli = cli_at(fleet, 3, Role::Viewer);
    let agents = list(&cli, &["--actor", "agent harbour", "--limit", "0"]).await;
    assert!(!agents.is_empty() && agents.iter().all(|e| e["actor"]["kind"] == "agent"));
    let same = list(&cli, &["--actor", "agent", "--limit", "0"]).await;
    assert_eq!(same.len(), agents.len());
    let of = list(&cli, &["--cluster", "harbour", "--act", "commit-point"]).await;
    assert_eq!(of.len(), 1);
    let newest = list(&cli, &["--limit", "2"]).await;
    assert_eq!(newest.len(), 2);
    assert!(newest[0]["number"].as_u64() > newest[1]["number"].as_u64());
    let cut = all[all.len() / 2]["time"].as_str().expect("a time");
    let (until, since) = (
        list(&cli, &["--until", cut, "--limit", "0"]).await,
        list(&cli, &["--since", cut, "--limit", "0"]).await,
    );
    let is_before = |e: &Value| e["time"].as_str() <= Some(cut);
    assert!(!until.is_empty() && until.iter().all(is_before));
    assert!(!since.is_empty() && since.iter().all(|e| e["time"].as_str() >= Some(cut)));
    let refused = cli.run(&["audit", "list", "--cluster", "nowhere"]).await;
    refused.assert_refused("no such cluster", Code::ClusterNotFound, &["nowhere"]);
}

/// Has the fleet's log grow to this many entries at least, as fast as it goes.
async fn fill(fleet: &Fleet, entries: u64) {
    let workers = (0..32_u64).map(|worker| {
        let party = fleet.operator(Role::Admin);
        let address = fleet.address(1 + worker % 3);
        async move {
            for _ in 0..entries.div_ceil(32) {
                // Between two leaders it is said again.
                while let Err(error) = confirm_time(&party, &address).await {
                    assert!(error.is_retryable(), "{}: {error}", error.code());
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    });
    let workers: Vec<_> = workers.map(tokio::spawn).collect();
    for worker in workers {
        worker.await.expect("it ends");
    }
}

fn segments(fleet: &Fleet, node: u64) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(fleet.node(node).data().join("audit")) else { return vec![] };
    let mut files: Vec<PathBuf> = found
        .map(|file| file.expect("an entry").path())
        .filter(|file| file.extension().is_some_and(|e| e == "audit"))
        .collect();
    files.sort();
    files
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("read");
    bytes[at] ^= 4;
    std::fs::write(file, bytes).expect("written");
}

async fn finding_stands(fleet: &Fleet, asked: u64, kind: &str, node: u64) {
    until_so(&format!("{kind} of node {node} is told"), async || {
        let status = fleet.status(asked).await;
        status.findings.iter().any(|finding| finding.kind == kind && finding.node_id == node)
    })
    .await;
}

#[tokio::test]
async fn audit_segments_are_carried_recomputed_and_no_byte_of_them_changes_unseen() {
    let settings =
        Settings { snapshot_every_entries: 300, snapshot_keep_entries: 50, ..Settings::default() };
    let mut fleet = Fleet::start_with(settings).await;
    fill(&fleet, 2 * SEGMENT + 100).await;
    for node in tests::fleet::NODES {
        until_so(&format!("node {node} has its files"), async || segments(&fleet, node).len() == 2)
            .await;
    }
    let head = assert_whole(&fleet, 2).await;
    assert!(head > 2 * SEGMENT, "{head}");
    let viewer = cli_at(&fleet, 1, Role::Viewer);
    let all = list(&viewer, &["--limit", "0"]).await;
    let numbers: Vec<u64> = all.iter().map(|e| e["number"].as_u64().expect("a number")).collect();
    assert!(numbers.iter().rev().copied().eq(1..=numbers.len() as u64), "none is lost");

    export_and_snapshot(&fleet, &viewer).await;

    // A byte of a stopped node's file: found when it starts, and mended from a peer.
    fleet.node_mut(2).stop().await;
    let file = segments(&fleet, 2)[0].clone();
    let good = std::fs::read(&file).expect("read");
    flip(&file, 7000);
    fleet.start_node(2).await;
    finding_stands(&fleet, 1, "audit-segment-damaged", 2).await;
    until_so("it is mended", async || std::fs::read(&file).is_ok_and(|now| now == good)).await;
    assert_whole(&fleet, 2).await;
    // Of one that runs: whoever verifies hears of it, nothing of it is listed, and it is mended.
    let file = segments(&fleet, 3)[0].clone();
    flip(&file, 9000);
    let at_3 = cli_at(&fleet, 3, Role::Viewer);
    let refused = at_3.run(&["audit", "verify", "--node", "3"]).await;
    refused.assert_refused("a changed byte", Code::Damaged, &["node 3", "segment 0"]);
    until_so("it is mended", async || std::fs::read(&file).is_ok_and(|now| now == good)).await;
    finding_stands(&fleet, 1, "audit-segment-damaged", 3).await;
    assert_whole(&fleet, 3).await;
    // A file that is gone comes back too.
    fleet.node_mut(1).stop().await;
    std::fs::remove_file(&segments(&fleet, 1)[1]).expect("removed");
    fleet.start_node(1).await;
    until_so("it is back", async || segments(&fleet, 1).len() == 2).await;

    // A node that joins gets a snapshot of the state, and the files from its peers.
    let new = fleet.add_node().await;
    until_so("the new node has the files", async || segments(&fleet, new).len() == 2).await;
    until_so("and all of the log", async || {
        let seen = viewer.json(&["audit", "verify"]).await;
        seen["nodes"].as_array().expect("nodes").iter().all(|node| node["verdict"] == "good")
    })
    .await;
    fleet.assert_quiet(&["audit_segment_damaged"]);
}

async fn export_and_snapshot(fleet: &Fleet, viewer: &Cli) {
    let alone = Cli::alone();
    let scratch = fleet.scratch("files");
    let at = |name: &str| scratch.join(name).display().to_string();
    let (export, later) = (at("audit.jsonl"), at("later.jsonl"));
    let exported = viewer.json(&["audit", "export", &export]).await;
    let seen = alone.json(&["audit", "verify", &export]).await;
    assert_eq!(seen["head"], exported["head"], "{seen}");
    let refused = viewer.run(&["audit", "export", &export]).await;
    refused.assert_refused("an existing file", Code::AlreadyExists, &["already exists"]);
    // That it was exported is in the next one, which goes on from this one.
    viewer.json(&["audit", "export", &later]).await;
    let seen = alone.json(&["audit", "verify", &later, "--continues", &export]).await;
    assert_eq!(seen["continues"], exported["head"], "{seen}");
    let acts = alone.json(&["audit", "list", "--file", &later, "--act", "export-audit"]).await;
    assert_eq!(acts.as_array().map(Vec::len), Some(2), "{acts}");
    viewer.json(&["audit", "verify", "--continues", &later]).await;
    let refused = alone.run(&["audit", "verify", &export, "--continues", &later]).await;
    refused.assert_refused("of before", Code::Rollback, &["does not go on"]);
    // Whatever is changed in it is found.
    let text = std::fs::read_to_string(&export).expect("read");
    let lines: Vec<&str> = text.lines().collect();
    let other_name = text.replacen("\"name\":\"test\"", "\"name\":\"eve\"", 1);
    let other_time = text.replacen("\"time\":\"2", "\"time\":\"3", 1);
    let without_one = [&lines[..7], &lines[8..]].concat().join("\n") + "\n";
    let without_end = lines[..lines.len() - 1].join("\n") + "\n";
    let another_head = {
        let head = exported["head"]["hash"].as_str().expect("a hash");
        text.replace(head, &"0".repeat(64))
    };
    for (what, bad) in [
        ("a name", other_name),
        ("a time", other_time),
        ("a line less", without_one),
        ("no end", without_end),
        ("another head", another_head),
        ("more", text.clone() + "{}\n"),
    ] {
        std::fs::write(at("bad.jsonl"), bad).expect("written");
        let refused = alone.run(&["audit", "verify", &at("bad.jsonl")]).await;
        refused.assert_refused(what, Code::Damaged, &["bad.jsonl"]);
    }

    // A snapshot carries it whole; a flipped byte is found.
    let saved = at("fleet.snapshot");
    let operator = cli_at(fleet, 2, Role::Operator);
    let shown = operator.json(&["snapshot", "save", &saved]).await;
    assert_eq!(shown["audit_missing"], 0, "{shown}");
    let seen = alone.json(&["snapshot", "inspect", &saved]).await;
    assert_eq!(seen["audit_head"], shown["audit_head"]);
    let seen = alone.json(&["audit", "verify", &saved, "--continues", &later]).await;
    assert_eq!(seen["head"], shown["audit_head"], "{seen}");
    let mut bytes = std::fs::read(&saved).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(at("bad.snapshot"), &bytes).expect("written");
    for verb in ["audit verify", "snapshot inspect"] {
        let (group, verb) = verb.split_once(' ').expect("two words");
        let refused = alone.run(&[group, verb, &at("bad.snapshot")]).await;
        refused.assert_refused("a flipped byte", Code::Damaged, &["bad.snapshot"]);
    }
}

#[tokio::test]
async fn audit_of_a_flood_of_refusals_is_a_few_entries() {
    let fleet = Fleet::start().await;
    let viewer = fleet.operator(Role::Viewer);
    let cli = cli_at(&fleet, 1, Role::Viewer);
    let before = assert_whole(&fleet, 1).await;
    for round in 0..300 {
        register_refused(&viewer, &fleet.address(1 + round % 3)).await;
    }
    until_so("it is recorded", async || {
        !list(&cli, &["--act", "register-cluster", "--refused"]).await.is_empty()
    })
    .await;
    // By the state, too.
    let harbour = RawCluster::register(&fleet, "harbour").await;
    for _ in 0..100 {
        let request = v1::OpenUploadRequest {
            write_id: Some(harbour.party.write_id()),
            epoch: 77,
            parent_sequence: 0,
            ttl_ms: 1000,
        };
        let refused = harbour.party.backup(&fleet.address(2)).open_upload(request).await.answer();
        assert_refused("an epoch of nobody's", refused, Code::StaleEpoch, &["77"]);
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let flood = list(&cli, &["--act", "register-cluster", "--refused", "--limit", "0"]).await;
    assert!(flood.len() <= 2, "{flood:#?}");
    let by_state = list(&cli, &["--act", "open-upload", "--refused", "--limit", "0"]).await;
    // The test may last over the end of a minute.
    assert!((1..=2).contains(&by_state.len()), "{by_state:#?}");
    let after = assert_whole(&fleet, 1).await;
    assert!(after - before < 12, "{before} to {after}");
    // Who has no certificate is only counted.
    let nobody = Party::without_certificate(&fleet.pki.ca(), fleet.id);
    let status = v1::GetStatusRequest { stale: true };
    for _ in 0..5 {
        let refused = nobody.fleet(&fleet.address(3)).get_status(status).await.answer();
        assert_refused("no certificate", refused, Code::Unauthenticated, &["certificate"]);
    }
    let page = scrape(&fleet.node(3).metrics_address()).await;
    assert!(page.contains("\nstrongroom_unauthenticated_refusals_total 5\n"), "{page}");
    assert_eq!(assert_whole(&fleet, 3).await, after);
    // A coordinator's certificate is a party like others where it has no business.
    let node = fleet.pki.issue("rogue", Who::Coordinator(proto_types::NodeId::new(9)));
    let refused = Party::with(&node).fleet(&fleet.address(1)).get_status(status).await.answer();
    assert_refused("a node's status", refused, Code::PermissionDenied, &["role viewer"]);
    until_so("it is recorded", async || {
        !list(&cli, &["--actor", "coordinator 9", "--refused"]).await.is_empty()
    })
    .await;
    // So is an agent that plays the coordinator.
    let mut peer = v1::peer_client::PeerClient::new(harbour.party.channel(&fleet.address(1)));
    let vote = v1::RaftMessage { payload: bytes::Bytes::new() };
    let refused = peer.vote(vote).await.answer();
    assert_refused("an agent", refused, Code::PermissionDenied, &["coordinator's certificate"]);
    until_so("it is recorded", async || {
        !list(&cli, &["--act", "call-peer", "--refused"]).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn audit_holds_what_was_done_by_force_at_a_stopped_node() {
    let mut fleet = Fleet::start().await;
    RawCluster::register(&fleet, "harbour").await;
    fleet.caught_up(1).await;
    for node in tests::fleet::NODES {
        fleet.node_mut(node).kill();
    }
    let config = fleet.node(1).config();
    let force = ["coordinator", "recover", "--force-single", "--config", text(&config)];
    let sure = [&force[..], &["--yes-i-lost-the-others", "coordinator-1"]].concat();
    Cli::alone().json(&sure).await;
    fleet.start_node(1).await;
    let cli = cli_at(&fleet, 1, Role::Viewer);
    let forced = list(&cli, &["--act", "recover-by-force"]).await;
    assert_eq!(forced.len(), 1, "{forced:?}");
    assert_eq!(
        (&forced[0]["actor"]["kind"], &forced[0]["actor"]["name"]),
        (&"console".into(), &"1".into())
    );
    assert_eq!(forced[0]["subject"]["node_id"], 1);
    assert_eq!(list(&cli, &["--act", "register-cluster"]).await.len(), 1, "and what was before");
    let seen = cli.json(&["audit", "verify"]).await;
    assert_eq!(seen["verdict"], "good", "{seen}");
}

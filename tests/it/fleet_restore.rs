//! A snapshot of the coordinators brought into an empty fleet: everything is there again, nothing is
//! given out twice, and agents go on by themselves.

use std::path::{Path, PathBuf};

use proto_types::Code;
use serde_json::Value;
use tests::tree::{Tree, assert_same};
use tests::wait::{until, until_so};
use tests::{Agent, Cli, Fleet};

use crate::restart::noise;

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// A fleet with a cluster of one point, in a snapshot, and one after it.
struct Before {
    fleet: Fleet,
    agent: Agent,
    source: PathBuf,
    snapshot: PathBuf,
    first: Tree,
}

impl Before {
    async fn make(include_bundles: bool) -> Self {
        let fleet = Fleet::start().await;
        let source = fleet.scratch("source");
        std::fs::create_dir_all(source.join("keys")).expect("made");
        std::fs::write(source.join("keys/unseal"), "not for everybody").expect("made");
        std::fs::write(source.join("big"), noise(20 << 20, 5)).expect("made");
        std::fs::write(source.join("app.yaml"), "replicas: 3\n").expect("made");
        let agent = Agent::enrol(&fleet, "harbour", &source, &["keys/**"]).await;
        assert_eq!(agent.backup().await, 1);
        let first = Tree::read(&source);
        let snapshot = fleet.scratch("snapshots").join("fleet.snapshot");
        let mut arguments = vec!["snapshot", "save", text(&snapshot)];
        arguments.extend(include_bundles.then_some("--include-bundles"));
        agent.cli.json(&arguments).await;
        std::fs::write(source.join("app.yaml"), "replicas: 4\n").expect("made");
        assert_eq!(agent.backup().await, 2);
        Self { fleet, agent, source, snapshot, first }
    }

    /// All coordinators lose their disks, and are set up anew; the old ones are given.
    async fn lose_everything(&mut self) -> PathBuf {
        self.fleet.stop_all().await;
        let kept = self.fleet.scratch("lost");
        for id in tests::fleet::NODES {
            let data = self.fleet.node(id).data().to_owned();
            std::fs::rename(data, kept.join(id.to_string())).expect("moved away");
        }
        self.fleet.start_all();
        self.fleet.ready().await;
        kept
    }

    fn restore<'a>(&'a self, key: &'a Path) -> [&'a str; 5] {
        ["snapshot", "restore", text(&self.snapshot), "--recovery-key", text(key)]
    }

    async fn findings(&self) -> Vec<String> {
        let status = self.agent.cli.json(&["status"]).await;
        let findings = status["findings"].as_array().expect("findings").clone();
        findings
            .iter()
            .map(|finding| finding["kind"].as_str().expect("a kind").to_owned())
            .collect()
    }
}

fn rows(list: &Value) -> Vec<(u64, String)> {
    let points = list.as_array().or_else(|| list["points"].as_array()).expect("points");
    points
        .iter()
        .map(|point| {
            let absent = point["absent_bundles"].as_u64().expect("a number");
            let word = if absent > 0 { "absent" } else { "there" };
            (point["sequence"].as_u64().expect("a number"), word.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn snapshot_restore_brings_a_lost_fleet_back_and_agents_go_on() {
    let mut before = Before::make(true).await;
    let key = before.fleet.recovery_files();
    // Nothing is ever overwritten.
    let refused = before.agent.cli.run(&before.restore(&key)).await;
    refused.assert_refused("a fleet that has clusters", Code::Conflict, &["has clusters already"]);
    before.lose_everything().await;

    let other = before.fleet.scratch("other");
    let wrong = other.join("recovery.key");
    let made = ["key", "init", "--out", text(&other), "--seed-file", text(&wrong)];
    before.agent.cli.json(&made).await;
    let refused = before.agent.cli.run(&before.restore(&wrong)).await;
    refused.assert_refused(
        "another key",
        Code::WrongKey,
        &["recovery key of the snapshot's fleet"],
    );
    // A damaged file is noticed before the fleet hears of it.
    let mut bytes = std::fs::read(&before.snapshot).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let bad = before.fleet.scratch("snapshots").join("bad.snapshot");
    std::fs::write(&bad, bytes).expect("written");
    let arguments = ["snapshot", "restore", text(&bad), "--recovery-key", text(&key)];
    let refused = before.agent.cli.run(&arguments).await;
    refused.assert_refused("a flipped bit", Code::Damaged, &["bad.snapshot"]);

    let restored = before.agent.cli.json(&before.restore(&key)).await;
    assert_eq!(restored["generation"], 1, "{restored}");
    assert_eq!((&restored["points"], &restored["bundles_absent"]), (&1.into(), &0.into()));
    let listed = before.agent.cli.json(&["backup", "list"]).await;
    assert_eq!(rows(&listed), [(1, "there".to_owned())]);

    // The agent ran all the time; its session ended with the old fleet.
    assert_eq!(before.agent.backup().await, 1_000_001, "numbers move past any given out");
    let findings = before.findings().await;
    for kind in ["restored", "head-rolled-back"] {
        assert!(findings.iter().any(|found| found == kind), "{kind} in {findings:?}");
    }
    let second = Tree::read(&before.source);
    for (at, tree) in [("1", &before.first), ("1000001", &second)] {
        let out = before.fleet.scratch("out").join(at);
        let point = format!("harbour@{at}");
        let arguments =
            ["restore", "--point", &point, "--to", text(&out), "--recovery-key", text(&key)];
        before.agent.cli.run(&arguments).await.success().json();
        assert_same(tree, &Tree::read(&out));
    }
    // And it outlives the next restart of everybody.
    before.fleet.stop_all().await;
    before.fleet.start_all();
    before.fleet.ready().await;
    assert_eq!(before.agent.backup().await, 1_000_002);
    before.fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn snapshot_restore_goes_on_through_the_loss_of_its_leader() {
    let mut before = Before::make(true).await;
    let key = before.fleet.recovery_files();
    before.lose_everything().await;
    let leader = before.fleet.leader().await;
    let cli = &before.agent.cli;
    let command = cli.command(&before.restore(&key));
    let restoring = tokio::spawn(Cli::finish(command));
    let asked = Fleet::others(leader)[0];
    until_so("the first bundle has arrived", async || {
        let status = before.fleet.status(asked).await;
        status.generation > 0 || status.nodes.iter().any(|node| node.bundle_count > 0)
    })
    .await;
    before.fleet.node_mut(leader).kill();
    let done = restoring.await.expect("it ends");
    let restored = done.success().json();
    assert_eq!((&restored["generation"], &restored["bundles_absent"]), (&1.into(), &0.into()));
    before.fleet.start_node(leader).await;
    let out = before.fleet.scratch("out").join("restored");
    let arguments =
        ["restore", "--point", "harbour@1", "--to", text(&out), "--recovery-key", text(&key)];
    before.agent.cli.run(&arguments).await.success().json();
    assert_same(&before.first, &Tree::read(&out));
    assert_eq!(before.agent.backup().await, 1_000_001);
}

#[tokio::test]
async fn snapshot_restore_marks_what_is_nowhere_and_takes_it_from_old_disks() {
    let mut before = Before::make(false).await;
    let key = before.fleet.recovery_files();
    let kept = before.lose_everything().await;
    let restored = before.agent.cli.json(&before.restore(&key)).await;
    assert!(restored["bundles_absent"].as_u64() > Some(0), "{restored}");
    let listed = before.agent.cli.json(&["backup", "list"]).await;
    assert_eq!(rows(&listed), [(1, "absent".to_owned())]);
    until("the finding stands", async || {
        before.findings().await.iter().any(|kind| kind == "bundles-absent").then_some(())
    })
    .await;
    // The agent builds on nothing that is nowhere: everything is sealed and sent anew.
    assert_eq!(before.agent.backup().await, 1_000_001);
    let listed = before.agent.cli.json(&["backup", "list"]).await;
    let expected = [(1_000_001, "there".to_owned()), (1, "absent".to_owned())];
    assert_eq!(rows(&listed), expected);
    let out = before.fleet.scratch("out").join("new");
    let kek = before.agent.kek();
    let arguments = ["restore", "--cluster", "harbour", "--to", text(&out), "--kek", text(&kek)];
    before.agent.cli.run(&arguments).await.success().json();
    assert_same(&Tree::read(&before.source), &Tree::read(&out));

    // The same with a directory of bundles that survived: nothing is missing.
    before.lose_everything_again().await;
    let bundles = kept.join("2/bundles");
    let mut arguments = before.restore(&key).to_vec();
    arguments.extend(["--bundles-from", text(&bundles)]);
    let restored = before.agent.cli.json(&arguments).await;
    assert_eq!(restored["bundles_absent"], 0, "{restored}");
    let listed = before.agent.cli.json(&["backup", "list"]).await;
    assert_eq!(rows(&listed), [(1, "there".to_owned())]);
}

impl Before {
    async fn lose_everything_again(&mut self) {
        self.fleet.stop_all().await;
        for id in tests::fleet::NODES {
            std::fs::remove_dir_all(self.fleet.node(id).data()).expect("removed");
        }
        self.fleet.start_all();
        self.fleet.ready().await;
    }
}

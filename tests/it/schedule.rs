//! Snapshots by schedule, into a directory and into a real S3 server.

use std::path::Path;
use std::time::Duration;

use coordinator::telemetry::METRICS;
use proto::v1;
use tests::s3::Mood;
use tests::sealed::Content;
use tests::wait::until_in;
use tests::{Fleet, RawCluster, S3, Settings, until};

use crate::restart::noise;

async fn fleet_with(section: &str) -> Fleet {
    let mut fleet = Fleet::prepare(Settings::default()).await;
    for id in tests::fleet::NODES {
        fleet.node(id).edit_config("[limits]", &format!("[snapshots]\n{section}[limits]"));
    }
    fleet.start_all();
    fleet.ready().await;
    fleet
}

/// The last good snapshot, once it is so.
async fn good(
    fleet: &Fleet,
    what: &str,
    is_so: impl Fn(&v1::ScheduledSnapshot) -> bool,
) -> v1::ScheduledSnapshot {
    until_in(Duration::from_secs(60), what, async || {
        let status = fleet.status(fleet.running()[0]).await;
        status.last_good_snapshot.filter(|row| is_so(row))
    })
    .await
}

fn kinds(status: &v1::GetStatusResponse) -> Vec<String> {
    status.findings.iter().map(|finding| finding.kind.clone()).collect()
}

async fn inspect(fleet: &Fleet, file: &Path) -> serde_json::Value {
    fleet.admin_cli().json(&["snapshot", "inspect", &file.display().to_string()]).await
}

fn sha256(path: &Path) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(std::fs::read(path).expect("readable")).to_vec()
}

#[tokio::test]
async fn schedule_saves_to_a_directory_reads_back_keeps_few_and_touches_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().display();
    let section = format!(
        "schedule = \"*/2 * * * * *\"\nto = \"file://{place}\"\nkeep_last = 2\n\
         include_bundles = true\n"
    );
    let foreign = directory.path().join("fleet-notes.snapshot");
    std::fs::write(&foreign, "mine").expect("write");
    let leftover = directory.path().join("fleet-1-1-20200101T000000Z.snapshot.partial");
    std::fs::write(&leftover, "of a leader that died").expect("write");
    let mut fleet = fleet_with(&section).await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let point = harbour.backup(&fleet.address(1), &[Content::file("a", &noise(50_000, 1))]).await;
    let row = good(&fleet, "one with the point", |row| row.log_index > point.log_index).await;
    let path = directory.path().join(&row.name);
    // It may have been thinned out by now; then the next one is looked at.
    if path.exists() {
        let found = inspect(&fleet, &path).await;
        assert_eq!((&found["verdict"], &found["includes_bundles"]), (&"good".into(), &true.into()));
        assert_eq!(found["index"], row.log_index);
        assert_eq!(sha256(&path), row.sha256);
    }
    let snapshots = || {
        let names = std::fs::read_dir(directory.path()).expect("listed");
        let names = names.map(|e| e.expect("listed").file_name().into_string().expect("a name"));
        names.filter(|name| name.ends_with("Z.snapshot")).collect::<Vec<_>>()
    };
    // The next leader goes on, and the directory does not fill.
    let leader = fleet.leader().await;
    fleet.node_mut(leader).kill();
    good(&fleet, "one of the next leader", |next| next.term > row.term).await;
    good(&fleet, "and another", |next| next.due_ms > row.due_ms + 6_000).await;
    assert!(snapshots().len() <= 3, "{:?}", snapshots());
    assert_eq!(std::fs::read_to_string(&foreign).expect("still there"), "mine");
    assert!(!leftover.exists());

    // What a fleet without a schedule does not show is there.
    let mut pages = String::new();
    for node in fleet.running() {
        pages.push_str(&tests::metrics::scrape(&fleet.node(node).metrics_address()).await);
    }
    for metric in METRICS.iter().filter(|metric| metric.name.starts_with("strongroom_snapshot")) {
        assert!(pages.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
    }

    // A directory that is gone is a finding, which goes when it is there again.
    let moved = directory.path().with_extension("moved");
    std::fs::rename(directory.path(), &moved).expect("moved");
    until("a failed snapshot is a finding", async || {
        let status = fleet.status(fleet.running()[0]).await;
        let last =
            status.last_snapshot.clone().is_some_and(|row| !row.good && !row.problem.is_empty());
        (last && kinds(&status).contains(&"snapshot-failed".to_owned())).then_some(())
    })
    .await;
    std::fs::rename(&moved, directory.path()).expect("moved back");
    until("the finding goes by itself", async || {
        let status = fleet.status(fleet.running()[0]).await;
        (!kinds(&status).contains(&"snapshot-failed".to_owned())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn schedule_saves_to_a_bucket_and_a_killed_leader_leaves_nothing_that_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    // The store hangs before anything is saved: the first leader is caught in the middle.
    s3.set(Mood::Stuck);
    let section = format!("schedule = \"0 0 1 1 *\"\n{}", s3.config("to", "snapshots"));
    let mut fleet = fleet_with(&section).await;
    let leader = fleet.leader().await;
    until("a snapshot has begun", async || {
        let log = fleet.node(leader).log();
        log.events().iter().any(|e| e.name() == "scheduled_snapshot_began").then_some(())
    })
    .await;
    fleet.node_mut(leader).kill();
    s3.set(Mood::Good);
    let row = good(&fleet, "the next leader saves it", |_| true).await;
    let objects = s3.objects("snapshots");
    assert_eq!(objects.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&row.name]);
    assert_eq!(sha256(&objects[0].1), row.sha256);
    let found = inspect(&fleet, &objects[0].1).await;
    assert_eq!((&found["verdict"], &found["term"]), (&"good".into(), &row.term.into()));
    assert_eq!(row.target, s3.url("snapshots"));
}

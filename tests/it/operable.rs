//! What a person and their tools see of a running fleet: health, reflection, metrics, JSON, and
//! a planned stop that nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coordinator::telemetry::{METRICS, MetricKind};
use proto::identity::Role;
use proto::v1;
use tests::fleet::NODES;
use tests::metrics::scrape;
use tests::sealed::Content;
use tests::wait::until_so;
use tests::{Agent, Answer, Cli, Fleet, RawCluster};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;

use crate::restart::noise;

#[tokio::test]
async fn operable_health_reflection_metrics_and_json() {
    let fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    cluster.backup(&fleet.address(1), &[Content::file("a", &noise(50_000, 31))]).await;
    health_and_reflection(&fleet).await;
    every_metric(&fleet).await;
    json_everywhere(&fleet).await;
    fleet.assert_quiet(&["scrub_found"]);
}

async fn health_and_reflection(fleet: &Fleet) {
    let viewer = fleet.operator(Role::Viewer);
    let channel = viewer.channel(&fleet.address(2));
    for service in ["", "strongroom.v1.Fleet", "strongroom.v1.Backup", "strongroom.v1.Catalog"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await;
        let status = answer.unwrap_or_else(|e| panic!("{service:?}: {e}")).into_inner().status;
        assert_eq!(status, 1, "{service:?} is not SERVING");
    }
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(reflection::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["strongroom.v1.Fleet", "strongroom.v1.Backup", "strongroom.v1.Catalog"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

/// All but those of scheduled snapshots, which this fleet has none of: `schedule.rs` looks for them.
fn listed() -> impl Iterator<Item = &'static coordinator::telemetry::Metric> {
    METRICS.iter().filter(|metric| !metric.name.starts_with("strongroom_snapshot"))
}

async fn every_metric(fleet: &Fleet) {
    // A read, a damaged copy found and repaired: then every counter has counted once.
    let operator = fleet.operator(Role::Operator);
    let list = v1::GetPointRequest {
        cluster_name: "harbour".to_owned(),
        which: Some(v1::get_point_request::Which::Newest(true)),
        stale: false,
    };
    let address = fleet.address(1);
    let point = operator.catalog(&address).get_point(list).await.answer().expect("a read");
    let bundle = crate::restart::bundles_of(&point.point.expect("a point"))[0];
    let path = fleet.node(1).bundle_path(bundle);
    until_so("node 1 has the bundle", async || path.is_file()).await;
    std::fs::remove_file(path).expect("removed");
    tests::raw::scrub(&operator, &address).await.expect("a report");
    tests::raw::read_bundle(&operator, &address, bundle).await.expect("read");

    let mut pages = String::new();
    until_so("every metric is there", async || {
        pages.clear();
        for node in NODES {
            pages.push_str(&scrape(&fleet.node(node).metrics_address()).await);
        }
        listed().all(|metric| pages.contains(&format!("# TYPE {} ", metric.name)))
    })
    .await;
    for metric in listed() {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let line = format!("# TYPE {} {kind}", metric.name);
        assert!(pages.contains(&line), "{line:?} is not on the pages");
        assert!(pages.contains(&format!("# HELP {} ", metric.name)), "{} has no help", metric.name);
    }
    // What they say is so.
    let leaders = pages.lines().filter(|line| *line == "strongroom_raft_is_leader 1").count();
    assert_eq!(leaders, 1);
    let count = |text: &str| pages.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(count("strongroom_points_committed_total 1"), 1);
    // No name of ours counts what the list does not know.
    for line in pages.lines().filter(|line| line.starts_with("# TYPE strongroom_")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(METRICS.iter().any(|metric| metric.name == name), "{name} is not in METRICS");
    }
}

async fn json_everywhere(fleet: &Fleet) {
    let source = fleet.scratch("source");
    std::fs::write(source.join("a"), "1").expect("made");
    let agent = Agent::enrol(fleet, "quay", &source, &[]).await;
    assert_eq!(agent.backup().await, 1);
    std::fs::write(source.join("a"), "2").expect("made");
    assert_eq!(agent.backup().await, 2);
    let kek = agent.kek();
    let kek = kek.to_str().expect("test paths are UTF-8");
    let status = agent.cli.json(&["status"]).await;
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
    for arguments in [
        &["cluster", "list"][..],
        &["backup", "list"],
        &["backup", "list", "--cluster", "quay", "--limit", "1"],
        &["backup", "show", "quay@1"],
        &["backup", "show", "quay@2", "--kek", kek],
        &["backup", "diff", "quay@1", "quay@2", "--kek", kek],
        &["backup", "verify", "quay@2"],
        &["backup", "verify", "quay@2", "--kek", kek],
        &["node", "scrub", "--node", "2"],
        &["status", "--stale"],
    ] {
        let done = agent.cli.run(arguments).await.success();
        done.json();
        assert!(done.stderr.is_empty(), "{arguments:?} in a pipe says {:?}", done.stderr);
    }
    let list = agent.cli.json(&["backup", "list", "--cluster", "quay"]).await;
    let points: Vec<_> =
        list.as_array().expect("a list").iter().map(|point| point["point"].clone()).collect();
    assert_eq!(points, ["quay@2", "quay@1"], "newest first");
    // Errors too, and with their exit codes.
    let done = agent.cli.run(&["backup", "show", "quay@9"]).await;
    done.assert_refused("no such point", proto_types::Code::PointNotFound, &["quay"]);
    let done = agent.cli.run(&["backup", "paint"]).await;
    done.assert_refused("no such verb", proto_types::Code::InvalidArgument, &["paint"]);
}

#[tokio::test]
async fn operable_sigterm_ends_well_in_seconds_and_hands_leadership_over_without_a_failed_write() {
    let mut fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    cluster.backup(&fleet.address(1), &[Content::file("a", b"1")]).await;
    for _ in 0..2 {
        let leader = fleet.leader().await;
        let follower = Fleet::others(leader)[1];
        // Somebody writes all the time, through a node that stays, without any retries.
        let admin = fleet.operator(Role::Admin);
        let mut client = admin.fleet(&fleet.address(follower));
        let enough = Arc::new(AtomicBool::new(false));
        let stop = enough.clone();
        let writer = tokio::spawn(async move {
            let (mut writes, mut slowest) = (0_u32, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                let request = v1::ClearFindingRequest {
                    write_id: Some(admin.write_id()),
                    kind: "not-there".to_owned(),
                    node_id: 1,
                    ..Default::default()
                };
                let done = client.clear_finding(request).await.answer();
                done.unwrap_or_else(|e| panic!("write {writes}: {}: {e}", e.code()));
                writes += 1;
                slowest = slowest.max(started.elapsed());
            }
            (writes, slowest)
        });
        let started = Instant::now();
        let status = fleet.node_mut(leader).stop().await;
        assert!(status.success(), "the leader ended with {status}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "the leader took {took:?} to stop");
        let next = fleet.leader().await;
        assert_ne!(next, leader);
        enough.store(true, Ordering::Relaxed);
        let (writes, slowest) = writer.await.expect("no write failed");
        assert!(writes > 0);
        // Handed over, not timed out: far below an election.
        assert!(slowest < Duration::from_secs(3), "a write took {slowest:?}");
        let log = fleet.node(leader).log();
        let handed =
            log.events().into_iter().rev().find(|event| event.is("leadership_handed_over"));
        let handed = handed.expect("the leader says that it handed over");
        assert_eq!(handed.field("moved"), "true", "{}", handed.line());
        assert_eq!(log.named("stopping").len(), log.named("serving").len());
        fleet.start_node(leader).await;
        fleet.caught_up(leader).await;
    }
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn operable_points_are_listed_in_pages_newest_first() {
    let fleet = Fleet::start().await;
    let address = fleet.address(1);
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let mut quay = RawCluster::register(&fleet, "quay").await;
    for n in 0..2_u8 {
        harbour.backup(&address, &[Content::file("a", &[n])]).await;
        quay.backup(&address, &[Content::file("a", &[n])]).await;
    }
    let viewer = fleet.operator(Role::Viewer);
    let mut catalog = viewer.catalog(&fleet.address(2));
    let mut request = v1::ListPointsRequest { page_size: 3, ..Default::default() };
    let name = |point: &v1::Point| format!("{}@{}", point.cluster_name, point.sequence);
    let first = catalog.list_points(request.clone()).await.answer().expect("a page");
    let names: Vec<String> = first.points.iter().map(name).collect();
    assert_eq!(names, ["quay@2", "harbour@2", "quay@1"]);
    // A point that is committed between two pages shifts nothing.
    harbour.backup(&address, &[Content::file("a", b"new")]).await;
    request.page_token = first.next_page_token;
    let last = catalog.list_points(request.clone()).await.answer().expect("a page");
    assert_eq!(last.points.iter().map(name).collect::<Vec<_>>(), ["harbour@1"]);
    assert_eq!(last.next_page_token, "");
    request.page_token = "yesterday".to_owned();
    let refused = catalog.list_points(request).await.answer();
    let code = proto_types::Code::InvalidArgument;
    tests::client::assert_refused("a token of one's own", refused, code, &["next_page_token"]);
    // The command line reads all pages.
    let cli = Cli::for_fleet(&fleet.scratch("viewer"), &fleet.addresses(), viewer.files());
    let listed = cli.json(&["backup", "list", "--limit", "4"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(4));
    fleet.assert_quiet(&[]);
}

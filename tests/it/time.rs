//! Log time (invariant T1): the median of the voters' clocks, and frozen when they jump.

use proto::identity::Role;
use proto::v1;
use proto_types::{BundleId, Code};
use tests::client::assert_refused;
use tests::raw::Lease;
use tests::wait::until;
use tests::{Answer, RawCluster};

use crate::inside::{Inside, stands};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;

/// Milliseconds of log time after the right time.
async fn off(inside: &Inside, node: u64) -> i64 {
    let log_time = inside.log_time(node).await;
    let right = inside.clock(node).right();
    i64::try_from(log_time).expect("small") - i64::try_from(right).expect("small")
}

fn assert_near(off_ms: i64, expected_ms: i64) {
    // Rounds are a second apart, and a write takes its time.
    assert!((off_ms - expected_ms).abs() < 60 * SECOND, "log time is {off_ms} ms off");
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_t1_one_clock_that_is_off_has_no_effect_even_where_it_leads() {
    let mut inside = Inside::prepare().await;
    inside.clock(1).set_off(HOUR);
    inside.start_all().await;
    inside.lead(1).await;
    assert_near(off(&inside, 1).await, 0);
    // Slow instead of fast, under another leader and under itself.
    let status = inside.status_when("it is found", |s| stands(s, "clock-skewed", 1)).await;
    assert_eq!(status.findings.len(), 1, "{:?}", status.findings);
    inside.clock(1).set_off(-HOUR);
    assert_near(off(&inside, 1).await, 0);
    inside.lead(2).await;
    assert_near(off(&inside, 2).await, 0);
    let status = inside.status_when("everybody is heard", |s| {
        s.nodes.iter().all(|node| node.clock_offset_ms.is_some())
    });
    let status = status.await;
    assert_near(status.nodes[0].clock_offset_ms.expect("told"), -HOUR);
    assert_eq!(status.time_frozen_since_ms, 0);
    // Mended, the finding ends by itself.
    inside.clock(1).set_off(0);
    inside.status_when("it is mended", |s| s.findings.is_empty()).await;
    inside.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_t1_a_jump_freezes_the_end_of_leases_until_an_admin_confirms_it() {
    let mut inside = Inside::start().await;
    let cluster = RawCluster::register(&inside.fleet, "harbour").await;
    let address = inside.fleet.address(1);
    let open = async |ttl_ms: u64| {
        let request = v1::OpenUploadRequest {
            write_id: Some(cluster.party.write_id()),
            epoch: cluster.epoch,
            parent_sequence: 0,
            ttl_ms,
        };
        let opened = cluster.party.backup(&address).open_upload(request).await.answer();
        let opened = opened.expect("a lease");
        Lease { id: opened.lease_id, index: opened.log_index }
    };
    let bundle = BundleId::of(b"none of it is there");
    let lives = async |lease: &Lease| match cluster.offset(&address, lease, bundle).await {
        Ok(_) => Some(true),
        Err(error) if error.code() == Code::LeaseGone => Some(false),
        Err(_) => None,
    };
    inside.lead(1).await;
    let lease = open(20_000).await;

    // Two of three clocks jump: nobody knows which are right.
    for node in [2, 3] {
        inside.clock(node).set_off(HOUR);
    }
    let status = inside.status_when("time is frozen", |s| stands(s, "clock-jumped", 0)).await;
    assert!(status.time_frozen_since_ms > 0);
    let finding = status.findings.iter().find(|f| f.kind == "clock-jumped").expect("it stands");
    assert!(finding.message.contains("(nodes 2, 3)"), "{}", finding.message);
    assert_eq!(finding.severity(), v1::Severity::Critical);
    assert_near(off(&inside, 1).await, 0);
    // A new leader goes on as the old one did, also one whose own clock jumped.
    inside.lead(2).await;
    assert_near(off(&inside, 2).await, 0);

    // The lease's time is over by any clock, and it lives.
    let opened = inside.clock(1).right();
    until("its time is over", async || (inside.clock(1).right() > opened + 30_000).then_some(()))
        .await;
    inside.log_time(1).await;
    assert!(until("an answer", async || lives(&lease).await).await);

    // Who may not say so does not; then time goes on from the median, and the lease counts anew.
    let operator = inside.fleet.operator(Role::Operator);
    let request = v1::ConfirmTimeRequest { write_id: Some(operator.write_id()) };
    let refused = operator.fleet(&address).confirm_time(request).await.answer();
    assert_refused("an operator", refused, Code::PermissionDenied, &["admin"]);
    let admin = inside.fleet.operator(Role::Admin);
    let request = v1::ConfirmTimeRequest { write_id: Some(admin.write_id()) };
    let confirmed = admin.fleet(&address).confirm_time(request).await.answer().expect("confirmed");
    assert!(confirmed.was_frozen);
    assert_near(off(&inside, 1).await, HOUR);
    let status = inside.status_when("it is over", |s| !stands(s, "clock-jumped", 0)).await;
    assert_eq!(status.time_frozen_since_ms, 0);
    // Leases end by time again, and the one that lived through the jump is not among them: the
    // jump was no time in which it could be renewed.
    let short = open(1000).await;
    until("it ends", async || lives(&short).await.filter(|lives| !lives)).await;
    assert!(until("an answer", async || lives(&lease).await).await);
    inside.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_t1_a_fleet_that_was_off_believes_a_day_and_no_more() {
    let mut inside = Inside::start().await;
    inside.log_time(1).await;
    inside.stop_all().await;
    for node in tests::fleet::NODES {
        inside.clock(node).set_off(23 * HOUR);
    }
    inside.start_all().await;
    assert_near(off(&inside, 1).await, 23 * HOUR);
    let status = inside.status_when("somebody leads", |status| status.leader_id > 0).await;
    assert_eq!(status.time_frozen_since_ms, 0, "nearly a day is believed");

    inside.stop_all().await;
    for node in tests::fleet::NODES {
        inside.clock(node).set_off(23 * HOUR + 25 * HOUR);
    }
    inside.start_all().await;
    let status = inside.status_when("time is frozen", |s| stands(s, "clock-jumped", 0)).await;
    let finding = status.findings.iter().find(|f| f.kind == "clock-jumped").expect("it stands");
    // A second leader, where the first fell before it could say so, knows the time from that one.
    let is_told = ["every coordinator was stopped", "against elapsed time"]
        .iter()
        .any(|since| finding.message.contains(since));
    assert!(is_told && finding.message.contains(" ahead "), "{}", finding.message);
    assert_near(off(&inside, 2).await, 23 * HOUR);

    // Back is no jump: time stands still, and a finding says so.
    let admin = inside.fleet.operator(Role::Admin);
    let request = v1::ConfirmTimeRequest { write_id: Some(admin.write_id()) };
    let mut client = admin.fleet(&inside.fleet.address(3));
    assert!(client.confirm_time(request).await.answer().expect("confirmed").was_frozen);
    inside.stop_all().await;
    for node in tests::fleet::NODES {
        inside.clock(node).set_off(0);
    }
    inside.start_all().await;
    let status = inside.status_when("it is told", |s| stands(s, "clock-behind", 0)).await;
    assert_eq!(status.time_frozen_since_ms, 0);
    let (one, two) = (inside.log_time(1).await, inside.log_time(2).await);
    assert_eq!(one, two, "it stands still");
    inside.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_t1_snapshots_are_due_by_log_time_and_kept_while_it_is_frozen() {
    let place = tempfile::tempdir().expect("a directory");
    let mut inside = Inside::prepare().await;
    let section = format!(
        "[snapshots]\nschedule = \"*/2 * * * * *\"\nto = \"file://{}\"\nkeep_last = 1\n\
         keep_days = 0\n[limits]",
        place.path().display()
    );
    for node in tests::fleet::NODES {
        inside.fleet.node(node).edit_config("[limits]", &section);
    }
    // By its own clock the leader would save one, and then none for a year.
    inside.clock(1).set_off(365 * 24 * HOUR);
    inside.start_all().await;
    inside.lead(1).await;
    let since = inside.clock(2).right();
    let is_saved = |s: &v1::GetStatusResponse| {
        s.leader_id == 1 && s.last_good_snapshot.as_ref().is_some_and(|row| row.due_ms > since)
    };
    let status = inside.status_when("one is saved", is_saved).await;
    let due = status.last_good_snapshot.expect("it is there").due_ms;
    let off = due.abs_diff(inside.clock(2).right());
    assert!(off < 60_000, "due {off} ms from the right time");
    let saved = || std::fs::read_dir(place.path()).expect("listed").count();
    until("old ones go", async || (saved() <= 2).then_some(())).await;

    inside.clock(1).set_off(0);
    for node in [2, 3] {
        inside.clock(node).set_off(HOUR);
    }
    inside.status_when("time is frozen", |s| stands(s, "clock-jumped", 0)).await;
    until("none goes any more", async || (saved() > 4).then_some(())).await;
    let admin = inside.fleet.operator(Role::Admin);
    let request = v1::ConfirmTimeRequest { write_id: Some(admin.write_id()) };
    let mut client = admin.fleet(&inside.fleet.address(1));
    assert!(client.confirm_time(request).await.answer().expect("confirmed").was_frozen);
    until("old ones go again", async || (saved() <= 2).then_some(())).await;
    inside.stop_all().await;
}

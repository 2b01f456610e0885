//! Bundles in a bucket: what is announced, kept, given up and moved, decided by the log alone.

use coordinator_core::{
    AnnounceObject, BundleHome, Command, EndUpload, Field, Home, Limit, Outcome, RecordHolders,
    RecordObjects, RecordSnapshot, Refusal, SetBundleHome, SnapshotRow, UploadEnd,
};
use proto_types::{BundleId, LeaseId, LogIndex, LogTime, NodeId};

use crate::scenario::{Draft, World, bundle, check, lease, nodes};

pub(crate) fn begin(to: BundleHome) -> Command {
    Command::SetBundleHome(SetBundleHome::Begin { to })
}

fn settle(world: &World) -> Command {
    Command::SetBundleHome(SetBundleHome::Settle { began: world.state.home().began })
}

fn announce(lease: LeaseId, label: &str, bytes: u64) -> Command {
    Command::AnnounceObject(AnnounceObject { lease, bundle: bundle(label), bytes })
}

fn report(world: &World, present: &[&str], absent: &[&str], gone: &[(u64, &str)]) -> Command {
    let of = |labels: &[&str]| labels.iter().map(|label| bundle(label)).collect();
    Command::RecordObjects(RecordObjects {
        began: world.state.home().began,
        present: of(present),
        absent: of(absent),
        gone: gone.iter().map(|(at, label)| (LogIndex::new(*at), bundle(label))).collect(),
    })
}

fn holds(world: &World, node: u64, labels: &[&str]) -> Command {
    Command::RecordHolders(RecordHolders {
        node: NodeId::new(node),
        present: labels.iter().map(|label| bundle(label)).collect(),
        absent: Vec::new(),
        home: world.state.home().changed,
    })
}

/// Announces every bundle of a draft, and says in it that they are in the bucket and nowhere else.
fn to_bucket(world: &mut World, lease: LeaseId, draft: &mut Draft) {
    let commit = draft.build();
    let coordinator_core::Content::Changed(content) = commit.content else { unreachable!() };
    for added in content.added {
        let command = AnnounceObject { lease, bundle: added.id, bytes: added.bytes };
        world.ok(Command::AnnounceObject(command));
    }
    for bundle in draft.bundles.values_mut() {
        bundle.in_bucket = true;
        bundle.holders.clear();
    }
}

fn doomed(world: &World) -> Vec<(u64, BundleId)> {
    world.state.objects_to_delete().map(|(at, id)| (at.get(), id)).collect()
}

/// Bundles of point 1 on the disks, home moving to the bucket.
fn moving() -> World {
    let mut world = World::with_first_point();
    world.ok(begin(BundleHome::Bucket));
    world
}

const FIRST: [&str; 4] = ["c1", "k1", "m1", "w1"];

#[test]
fn invariant_b1_a_point_in_the_bucket_needs_no_node_and_every_object_announced() {
    let mut world = moving();
    let upload = world.open(1);
    let mut draft = Draft::delta(&world, 1, upload);
    // Before it is announced, no word of it counts.
    draft.bundle('c').in_bucket = true;
    let refusal = Refusal::ObjectUnknown { bundle: bundle("c2") };
    check(&world, draft.command(), Err(refusal.clone()));
    // Nor announced with another length, or under another upload.
    world.ok(announce(upload, "c2", 1));
    check(&world, draft.command(), Err(refusal));
    world.ok(Command::EndUpload(EndUpload { lease: upload, reason: UploadEnd::Failed }));

    let upload = world.open(1);
    let generation = world.state.upload(&upload).unwrap().index;
    let mut draft = Draft::delta(&world, 1, upload);
    to_bucket(&mut world, upload, &mut draft);
    assert!(world.state.is_announced(generation, &bundle("c2")));
    world.ok(draft.command());
    assert_eq!(world.state.bundle(&bundle("c2")).unwrap().object, Some(generation));
    assert!(!world.state.is_announced(generation, &bundle("c2")), "it is the point's now");
    // And the other upload's object of the same bundle is still to be deleted.
    assert_eq!(doomed(&world).len(), 1);
    // Voters may change: nothing of it is on any node, and nothing has to be.
    assert_eq!(world.state.not_durable_on(&nodes(&[7, 8, 9])), 4);
    assert_eq!(world.state.not_in_bucket().count(), 4);
}

#[test]
fn invariant_b2_objects_are_given_up_with_their_upload_and_never_by_another() {
    let mut world = moving();
    let upload = world.open(1);
    let at = world.state.upload(&upload).unwrap().index;
    let said = Ok(Outcome::ObjectAnnounced { generation: at });
    world.ok(announce(upload, "c2", 9));
    check(&world, announce(upload, "c2", 9), said);
    assert_eq!(doomed(&world), []);
    // The leader may not have deleted what an upload still holds, whatever it says.
    let at = at.get();
    let nothing = Ok(Outcome::ObjectsRecorded { changed: 0, unknown: 1 });
    check(&world, report(&world, &[], &[], &[(at, "c2")]), nothing);
    world.ok(Command::EndUpload(EndUpload { lease: upload, reason: UploadEnd::Abandoned }));
    assert_eq!(doomed(&world), [(at, bundle("c2"))]);
    check(&world, announce(upload, "c2", 9), Err(Refusal::LeaseGone { lease: upload }));
    // The same bundle again is another object: a late deletion of the first one does not meet it.
    let again = lease(77);
    let epoch = world.epoch(1);
    world.ok(crate::scenario::open_upload(1, epoch, again, crate::scenario::seq(1)));
    world.ok(announce(again, "c2", 9));
    let done = Outcome::ObjectsRecorded { changed: 1, unknown: 0 };
    assert_eq!(world.run(report(&world, &[], &[], &[(at, "c2")])).outcome, done);
    assert_eq!(doomed(&world), []);
    assert!(world.state.is_announced(world.state.upload(&again).unwrap().index, &bundle("c2")));
}

#[test]
fn uploads_announce_only_while_bundles_go_to_the_bucket_and_not_without_end() {
    let mut world = World::with_first_point();
    let upload = world.open(1);
    check(&world, announce(upload, "c2", 9), Err(Refusal::BundlesOnDisks));
    world.ok(begin(BundleHome::Bucket));
    for n in 0..16 {
        world.ok(announce(upload, &n.to_string(), 9));
    }
    let full = Refusal::LimitReached { limit: Limit::Objects, have: 17, max: 16 };
    check(&world, announce(upload, "more", 9), Err(full));
    check(&world, announce(lease(9), "c2", 9), Err(Refusal::LeaseGone { lease: lease(9) }));
    // What was announced before the way back began may still be committed.
    world.ok(begin(BundleHome::Disks));
    world.ok(announce(upload, "3", 9));
    check(&world, announce(upload, "other", 9), Err(Refusal::BundlesOnDisks));
}

#[test]
fn bundles_move_to_the_bucket_and_copies_are_released_only_when_all_are_there() {
    let mut world = moving();
    let began = world.state.home().began;
    check(&world, begin(BundleHome::Bucket), Ok(Outcome::BundleHomeSet { began, settled: false }));
    check(&world, settle(&world), Err(Refusal::HomeNotReady { missing: 4 }));
    let other = Command::SetBundleHome(SetBundleHome::Settle { began: LogIndex::new(1) });
    check(&world, other, Err(Refusal::HomeChanged));
    // Of another move, of an unknown bundle: counts for nothing.
    let mut stale = RecordObjects {
        began: LogIndex::new(1),
        present: vec![bundle("c1")],
        absent: vec![],
        gone: vec![],
    };
    let nothing = Ok(Outcome::ObjectsRecorded { changed: 0, unknown: 1 });
    check(&world, Command::RecordObjects(stale.clone()), nothing.clone());
    stale = RecordObjects { began, present: vec![bundle("nowhere")], ..stale };
    check(&world, Command::RecordObjects(stale), nothing);
    world.ok(report(&world, &FIRST[..3], &[], &[]));
    assert!(!FIRST.iter().any(|label| world.state.is_released(&bundle(label))));
    check(&world, settle(&world), Err(Refusal::HomeNotReady { missing: 1 }));
    world.ok(report(&world, &FIRST, &[], &[]));
    let copies = world.state.home().copies;
    assert_eq!((copies, world.state.bundle(&bundle("m1")).unwrap().object), (began, Some(began)));
    let late = holds(&world, 4, &FIRST);
    world.ok(settle(&world));
    for label in FIRST {
        assert!(world.state.is_released(&bundle(label)));
        assert_eq!(world.state.bundle(&bundle(label)).unwrap().holders, nodes(&[]));
    }
    // Nobody misses a copy, and what a node says to have had before counts no more.
    assert_eq!(world.state.missing_on(NodeId::new(1)), []);
    assert_eq!(world.state.under_replicated(&nodes(&[1, 2, 3])), []);
    for command in [late.clone(), holds(&world, 1, &FIRST)] {
        world.ok(command);
        assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[]));
    }
    // Not even when the way back has begun, unless it looked again.
    world.ok(begin(BundleHome::Disks));
    world.ok(late);
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[]));
    world.ok(holds(&world, 1, &FIRST));
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[1]));
}

#[test]
fn bundles_move_back_only_onto_a_majority_and_their_objects_go() {
    let mut world = moving();
    let copies = world.state.home().copies.get();
    world.ok(report(&world, &FIRST, &[], &[]));
    world.ok(settle(&world));
    let upload = world.open(1);
    let generation = world.state.upload(&upload).unwrap().index.get();
    let mut draft = Draft::delta(&world, 1, upload);
    to_bucket(&mut world, upload, &mut draft);
    world.ok(draft.command());
    let second = ["c2", "k1", "m2", "w1"];

    world.ok(begin(BundleHome::Disks));
    assert_eq!(world.state.missing_on(NodeId::new(1)).len(), world.state.bundles().count());
    let all: Vec<&str> = ["c1", "c2", "k1", "k2", "m1", "m2", "w1", "w2"]
        .into_iter()
        .filter(|label| world.state.bundle(&bundle(label)).is_some())
        .collect();
    world.ok(holds(&world, 1, &all));
    let missing = all.len() as u64;
    check(&world, settle(&world), Err(Refusal::HomeNotReady { missing }));
    // A point is still durable in the bucket meanwhile.
    world.commit_unchanged(1);
    world.ok(holds(&world, 2, &all));
    world.ok(settle(&world));
    let expect: Vec<(u64, BundleId)> = {
        let own = |label: &&&str| second.contains(label) && label.ends_with('2');
        let mut expect: Vec<_> = all
            .iter()
            .map(|label| {
                (
                    if own(&label) || !FIRST.contains(label) { generation } else { copies },
                    bundle(label),
                )
            })
            .collect();
        expect.sort();
        expect
    };
    assert_eq!(doomed(&world), expect);
    assert!(world.state.bundles().all(|(_, row)| row.object.is_none()));
    assert_eq!(world.state.not_durable_on(&nodes(&[1, 2, 3])), 0);
    // And to the bucket again: other names.
    world.ok(begin(BundleHome::Bucket));
    world.ok(report(&world, &all, &[], &[]));
    assert!(world.state.bundle(&bundle("c1")).unwrap().object.unwrap().get() > generation);
    assert_eq!(doomed(&world), expect);
}

#[test]
fn stragglers_of_a_settled_move_follow_it() {
    // Uploaded to the disks before the move, committed after it had settled.
    let mut world = World::with_first_point();
    let upload = world.open(1);
    let draft = Draft::delta(&world, 1, upload);
    world.ok(begin(BundleHome::Bucket));
    world.ok(report(&world, &FIRST, &[], &[]));
    world.ok(settle(&world));
    world.ok(draft.command());
    assert_eq!(world.state.bundle(&bundle("c2")).unwrap().holders, nodes(&[1, 2, 3]));
    assert!(!world.state.is_released(&bundle("c2")));
    world.ok(report(&world, &["c2", "m2"], &[], &[]));
    assert!(world.state.is_released(&bundle("c2")));
    assert_eq!(world.state.bundle(&bundle("c2")).unwrap().holders, nodes(&[]));

    // And the other way round.
    let upload = world.open(1);
    let mut draft = Draft::delta(&world, 1, upload);
    to_bucket(&mut world, upload, &mut draft);
    world.ok(begin(BundleHome::Disks));
    for node in [1, 2] {
        world.ok(holds(&world, node, &["c1", "c2", "k1", "m1", "m2", "w1"]));
    }
    world.ok(settle(&world));
    let before = doomed(&world);
    world.ok(draft.command());
    assert!(world.state.is_left_in_bucket());
    check(&world, settle(&world), Err(Refusal::HomeNotReady { missing: 2 }));
    for node in [1, 2] {
        world.ok(holds(&world, node, &["c3", "m3"]));
    }
    world.ok(settle(&world));
    assert!(!world.state.is_left_in_bucket());
    assert_eq!(doomed(&world).len(), before.len() + 2);
}

#[test]
fn copies_that_nobody_recorded_are_deleted_on_the_way_back_too() {
    let mut world = moving();
    let copies = world.state.home().copies.get();
    // The leader copied, and died before it said so; an admin thinks better of it.
    world.ok(begin(BundleHome::Disks));
    world.ok(settle(&world));
    let mut expect: Vec<_> = FIRST.iter().map(|label| (copies, bundle(label))).collect();
    expect.sort();
    assert_eq!(doomed(&world), expect);
}

#[test]
fn an_object_that_is_lost_makes_its_bundle_wanted_on_disks() {
    let mut world = moving();
    world.ok(report(&world, &FIRST, &[], &[]));
    world.ok(settle(&world));
    world.ok(report(&world, &[], &["c1"], &[]));
    assert!(!world.state.is_released(&bundle("c1")));
    assert_eq!(world.state.missing_on(NodeId::new(1)).len(), 1);
    let both = report(&world, &["c1"], &["c1"], &[]);
    check(&world, both, Err(Refusal::InvalidField { field: Field::Holders }));
    // Who still has a file may say so, and the leader copies it again.
    world.ok(holds(&world, 2, &["c1", "k1"]));
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[2]));
    assert_eq!(world.state.bundle(&bundle("k1")).unwrap().holders, nodes(&[]));
    world.ok(report(&world, &["c1"], &[], &[]));
    assert!(world.state.is_released(&bundle("c1")));
}

#[test]
fn home_is_disks_until_somebody_says_otherwise() {
    let world = World::new();
    assert_eq!(*world.state.home(), Home::default());
    assert!(world.state.home().settled);
    let mut empty = World::empty();
    assert_eq!(empty.refused(begin(BundleHome::Bucket)), Refusal::FleetMissing);
}

pub(crate) fn snapshot(due: u64, problem: &str) -> SnapshotRow {
    SnapshotRow {
        due: LogTime::from_millis(due),
        ended: LogTime::ZERO,
        target: "s3://backups/fleet".to_owned(),
        name: format!("fleet-77-3-{due}.snapshot"),
        index: LogIndex::new(77),
        term: 3,
        bytes: 1234,
        took_ms: 56,
        sha256: problem.is_empty().then_some([7; 32]),
        problem: problem.to_owned(),
    }
}

pub(crate) fn record_snapshot(snapshot: SnapshotRow) -> Command {
    Command::RecordSnapshot(Box::new(RecordSnapshot { snapshot }))
}

#[test]
fn the_last_snapshot_and_the_last_good_one_are_known() {
    let mut world = World::new();
    let recorded = |recorded| Outcome::SnapshotRecorded { recorded };
    assert_eq!(world.ok(record_snapshot(snapshot(10, ""))), recorded(true));
    world.now_ms += 5;
    assert_eq!(world.ok(record_snapshot(snapshot(20, "the bucket is gone"))), recorded(true));
    let ended = |row: Option<&SnapshotRow>| row.unwrap().ended.as_millis();
    assert_eq!(ended(world.state.last_good_snapshot()), 1_000_000);
    assert_eq!(ended(world.state.last_snapshot()), 1_000_005);
    assert_eq!(world.state.last_snapshot().unwrap().problem, "the bucket is gone");
    // By a leader that did not know yet that another one had done it.
    assert_eq!(world.ok(record_snapshot(snapshot(10, ""))), recorded(false));
    assert_eq!(world.state.last_good_snapshot().unwrap().due.as_millis(), 10);
    // What failed was saved after all; and that stands.
    assert_eq!(world.ok(record_snapshot(snapshot(20, ""))), recorded(true));
    assert_eq!(world.ok(record_snapshot(snapshot(20, "why"))), recorded(false));
    assert_eq!(world.state.last_good_snapshot().unwrap().due.as_millis(), 20);
    for bad in [
        SnapshotRow { problem: "x".repeat(601), ..snapshot(30, "x") },
        SnapshotRow { name: "a\nb".to_owned(), ..snapshot(30, "") },
        SnapshotRow { sha256: None, ..snapshot(30, "") },
        SnapshotRow { sha256: Some([1; 32]), ..snapshot(30, "bad") },
    ] {
        let invalid = Refusal::InvalidField { field: Field::Snapshot };
        check(&world, record_snapshot(bad), Err(invalid));
    }
}

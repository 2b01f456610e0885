//! Which node has what, and that all nodes come to the same state.

use coordinator_core::{
    Command, Event, Field, Limit, MissingBundle, Outcome, RecordHolders, Refusal, Request,
    UnderReplicated, majority,
};
use proto_types::{BundleId, LogTime, NodeId};

use crate::scenario::{Draft, World, bundle, check, nodes};

fn record(node: u64, present: &[&str], absent: &[&str]) -> Command {
    Command::RecordHolders(RecordHolders {
        node: NodeId::new(node),
        present: present.iter().map(|label| bundle(label)).collect(),
        absent: absent.iter().map(|label| bundle(label)).collect(),
        home: proto_types::LogIndex::new(0),
    })
}

#[test]
fn invariant_b1_a_majority_is_more_than_half() {
    for (voters, need) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
        assert_eq!(majority(voters), need);
    }
}

#[test]
fn holders_are_recorded_as_nodes_report_them() {
    let mut world = World::with_first_point();
    let applied = world.run(record(4, &["c1", "k1", "nowhere"], &["m1"]));
    assert_eq!(applied.outcome, Outcome::HoldersRecorded { changed: 2, unknown: 1 });
    assert_eq!(applied.events, []);
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[1, 2, 3, 4]));
    assert!(world.state.bundle(&bundle("nowhere")).is_none());
    // Truth is truth, even under a majority.
    for node in [1, 2, 3] {
        let applied = world.run(record(node, &[], &["c1", "nowhere"]));
        assert_eq!(applied.outcome, Outcome::HoldersRecorded { changed: 1, unknown: 1 });
        assert_eq!(applied.events, [Event::CopiesLost { bundles: vec![bundle("c1")] }]);
    }
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().holders, nodes(&[4]));
    // And still it is needed.
    assert!(world.state.is_needed(&bundle("c1")));
}

#[test]
fn holders_are_reported_once_and_not_too_many_at_once() {
    let world = World::with_first_point();
    let invalid = Err(Refusal::InvalidField { field: Field::Holders });
    check(&world, record(1, &["c1"], &["c1"]), invalid.clone());
    check(&world, record(1, &["c1", "c1"], &[]), invalid);
    let ids: Vec<BundleId> = (0..113).map(|n| bundle(&n.to_string())).collect();
    let command = RecordHolders {
        node: NodeId::new(1),
        present: ids[..60].to_vec(),
        absent: ids[60..].to_vec(),
        home: proto_types::LogIndex::new(0),
    };
    let expect = Refusal::LimitReached { limit: Limit::RecordedHolders, have: 113, max: 112 };
    check(&world, Command::RecordHolders(command), Err(expect));
}

#[test]
fn repairs_owed_are_listed() {
    let mut world = World::new();
    let lease = world.open(1);
    let mut draft = Draft::first(&world, 1, lease);
    draft.bundle('c').holders = vec![1, 3];
    draft.bundle('k').holders = vec![1, 2, 9];
    world.ok(draft.command());
    let mut expect = vec![
        UnderReplicated { bundle: bundle("c1"), missing: nodes(&[2]), holders: nodes(&[1, 3]) },
        UnderReplicated { bundle: bundle("k1"), missing: nodes(&[3]), holders: nodes(&[1, 2, 9]) },
    ];
    expect.sort_by_key(|row| row.bundle);
    assert_eq!(world.state.under_replicated(&world.voters), expect);
    assert_eq!(world.state.under_replicated(&nodes(&[1])), []);
    assert_eq!(
        world.state.missing_on(NodeId::new(2)),
        [MissingBundle { bundle: bundle("c1"), bytes: 1_336, holders: nodes(&[1, 3]) }]
    );
    assert_eq!(world.state.missing_on(NodeId::new(1)), []);
    assert_eq!(world.state.missing_on(NodeId::new(7)).len(), 4);
}

/// Invariant R1: log time is state; the largest one counts, whatever the leaders' clocks say.
#[test]
fn invariant_r1_log_time_never_runs_backwards() {
    let mut world = World::new();
    world.commit_first(1);
    world.now_ms = 7;
    world.commit_delta(1);
    assert_eq!(world.state.log_time(), LogTime::from_millis(1_000_000));
    assert_eq!(world.head(1).unwrap().committed, LogTime::from_millis(1_000_000));
    world.now_ms = 1_000_001;
    world.commit_delta(1);
    assert_eq!(world.head(1).unwrap().committed, LogTime::from_millis(1_000_001));
}

/// Invariant R3: a refused command is an outcome; but for log time it leaves no trace.
#[test]
fn invariant_r3_a_refusal_moves_log_time_and_nothing_else() {
    let mut world = World::with_first_point();
    let before = world.state.clone();
    let request = Request {
        session: None,
        sender: None,
        time: LogTime::from_millis(2_000_000),
        command: crate::scenario::register(1),
    };
    let mut other = request.clone();
    let Command::RegisterCluster(command) = &mut other.command else { unreachable!() };
    command.name = "other".to_owned();
    let applied = world.apply(&other);
    assert!(matches!(applied.outcome, Outcome::Refused(Refusal::ClusterExists { .. })));
    assert_eq!(world.state.log_time(), LogTime::from_millis(2_000_000));
    assert!(world.state.clusters().eq(before.clusters()));
    assert!(world.state.bundles().eq(before.bundles()));
    assert!(
        world
            .state
            .points(&crate::scenario::cluster(1))
            .eq(before.points(&crate::scenario::cluster(1)))
    );
}

//! What people and planners ask.

use proto_types::LogTime;

use crate::scenario::{Draft, World, bundle, cluster, lease, proved, seq, unproved};

#[test]
fn status_tells_the_newest_and_the_last_good_point() {
    let mut world = World::new();
    world.add_cluster(2);
    let status = world.state.cluster_status(&cluster(1)).unwrap();
    assert!(status.newest.is_none() && status.newest_proved.is_none());
    world.commit_first(1);
    for proofs in [vec![proved("vault"), unproved("consul")], vec![]] {
        let mut draft = Draft::unchanged(&world, 1);
        draft.commit.proofs = proofs;
        world.ok(draft.command());
    }
    world.open(1);
    world.open_read(1, lease(9), 1);
    let all = world.state.status();
    assert_eq!(all.len(), 2);
    let status = &all[0];
    assert_eq!(status.cluster.name, "c1");
    assert_eq!(status.newest.unwrap().sequence, seq(3));
    assert_eq!(status.newest_proved.unwrap().sequence, seq(1));
    assert_eq!((status.points, status.uploads, status.findings), (3, 1, 0));
    assert!(world.state.cluster_status(&cluster(5)).is_none());
}

#[test]
fn status_finds_the_point_of_a_moment() {
    let mut world = World::new();
    world.add_cluster(2);
    world.commit_first(1);
    world.commit_first(2);
    for _ in 0..3 {
        world.now_ms += 1_000;
        world.commit_unchanged(1);
    }
    let at = |ms: u64| {
        world
            .state
            .point_at(&cluster(1), LogTime::from_millis(ms))
            .map(|point| point.sequence.get())
    };
    assert_eq!(at(999_999), None);
    assert_eq!(at(1_000_000), Some(1));
    assert_eq!(at(1_001_999), Some(2));
    assert_eq!(at(1_002_000), Some(3));
    assert_eq!(at(u64::MAX), Some(4));
    // The points of one cluster are not those of its neighbour.
    let of_two: Vec<_> = world.state.points(&cluster(2)).map(|point| point.sequence).collect();
    assert_eq!(of_two, [seq(1)]);
}

#[test]
fn status_tells_what_a_point_needs() {
    let world = World::with_first_point();
    let mut needed: Vec<_> = world
        .state
        .bundles_of(world.head(1).unwrap())
        .map(|(id, row)| (*id, row.facts.kind.as_str()))
        .collect();
    let mut expect = vec![
        (bundle("c1"), "config"),
        (bundle("k1"), "key"),
        (bundle("m1"), "manifest"),
        (bundle("w1"), "wraps"),
    ];
    needed.sort();
    expect.sort();
    assert_eq!(needed, expect);
}

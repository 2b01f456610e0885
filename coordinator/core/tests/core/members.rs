//! Who belongs to the fleet's coordinators, and how voters change (invariant B1).

use coordinator_core::{
    AddNode, BeginChange, Command, NodeState, Outcome, RecordHolders, Refusal, RemoveNode, limits,
};
use proto_types::{Code, NodeId};

use crate::scenario::{Draft, World, bundle, nodes};

fn add(name: &str, port: u16) -> Command {
    Command::AddNode(AddNode { name: name.to_owned(), address: format!("10.0.0.1:{port}") })
}

fn change(voters: &[u64]) -> Command {
    Command::BeginChange(BeginChange { voters: nodes(voters), remove: None })
}

fn removal(voters: &[u64], remove: u64) -> Command {
    let remove = Some(NodeId::new(remove));
    Command::BeginChange(BeginChange { voters: nodes(voters), remove })
}

fn holds(node: u64, bundles: &[&str]) -> Command {
    Command::RecordHolders(RecordHolders {
        node: NodeId::new(node),
        present: bundles.iter().map(|name| bundle(name)).collect(),
        absent: vec![],
        home: proto_types::LogIndex::new(0),
    })
}

const ALL: [&str; 4] = ["c1", "k1", "m1", "w1"];

#[test]
fn membership_ids_are_given_out_once() {
    let mut world = World::new();
    let added = |node| Outcome::NodeAdded { node: NodeId::new(node) };
    assert_eq!(world.ok(add("four", 4)), added(4), "after the first members");
    assert_eq!(world.ok(add("four", 4)), added(4), "the same again");
    assert_eq!(world.ok(add("five", 5)), added(5));
    world.ok(Command::RemoveNode(RemoveNode { node: NodeId::new(5) }));
    assert_eq!(world.ok(add("five", 5)), added(6), "a removed id does not come back");
    assert!(world.state.was_removed(NodeId::new(5)));
    // A member that Raft knows, and that has no row here, has an id too.
    world.voters = nodes(&[1, 2, 9]);
    assert_eq!(world.ok(add("ten", 10)), added(10));
    let taken = Refusal::NodeNameTaken { name: "four".to_owned(), node: NodeId::new(4) };
    assert_eq!(world.refused(add("four", 44)), taken);
    for (name, address) in [("", "a:1"), ("Up", "a:1"), ("ok", "a"), ("ok", ":1"), ("ok", "a b:1")]
    {
        let command =
            Command::AddNode(AddNode { name: name.to_owned(), address: address.to_owned() });
        assert_eq!(world.refused(command).code(), Code::InvalidArgument, "{name} {address}");
    }
}

#[test]
fn membership_changes_one_voter_at_a_time() {
    let mut world = World::new();
    world.ok(add("four", 4));
    world.ok(add("five", 5));
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[1, 2, 4], &[1], &[]] {
        assert_eq!(world.refused(change(voters)), Refusal::ChangeNotOneStep, "{voters:?}");
    }
    assert_eq!(world.refused(removal(&[1, 2], 1)), Refusal::ChangeNotOneStep);
    assert_eq!(world.refused(removal(&[1, 2, 3, 4], 4)), Refusal::ChangeNotOneStep);
    let unknown = Refusal::NodeUnknown { node: NodeId::new(7) };
    assert_eq!(world.refused(change(&[1, 2, 3, 7])), unknown);
    assert_eq!(world.refused(world.seal()), Refusal::NoChange);
    assert_eq!(world.refused(world.end()), Refusal::NoChange);

    world.ok(change(&[1, 2, 3, 4]));
    world.ok(change(&[1, 2, 3, 4]));
    assert_eq!(world.refused(change(&[1, 2, 3, 5])), Refusal::ChangeUnderWay);
    let node = NodeId::new(4);
    assert_eq!(
        world.refused(Command::RemoveNode(RemoveNode { node })),
        Refusal::NodeVotes { node }
    );
    // Given up before it was sealed, it never was.
    assert_eq!(world.ok(world.end()), Outcome::ChangeEnded { done: false });
    world.ok(change(&[1, 2, 3, 5]));
    world.ok(world.seal());
    assert_eq!(world.refused(world.end()), Refusal::ChangeUnderWay, "Raft may have it");
    world.next_voters = Some(nodes(&[1, 2, 3, 5]));
    assert_eq!(world.refused(world.end()), Refusal::ChangeUnderWay);
    world.voters = nodes(&[1, 2, 3, 5]);
    world.next_voters = None;
    assert_eq!(world.ok(world.end()), Outcome::ChangeEnded { done: true });
    assert!(world.state.change().is_none());
    // Who votes is not taken in anew under the same id, whatever became of its disk.
    let node = NodeId::new(5);
    assert_eq!(world.refused(add("five", 5)), Refusal::NodeVotes { node });
    // A change that is over cannot be sealed or ended for another.
    let old = world.end();
    world.ok(change(&[1, 2, 5]));
    assert_ne!(world.end(), old);
    assert_eq!(world.refused(old), Refusal::NoChange);
    world.ok(world.end());
    // While Raft is between two sets, nothing begins.
    world.next_voters = Some(nodes(&[1, 2, 3]));
    assert_eq!(world.refused(change(&[1, 2, 3])), Refusal::ChangeUnderWay);
}

#[test]
fn invariant_b1_voters_change_only_when_the_new_majority_has_every_bundle() {
    let mut world = World::with_first_point();
    // Three holders of three voters; of five voters three are needed, of six four.
    world.voters = nodes(&[1, 2, 3, 4, 5]);
    world.ok(add("six", 6));
    world.ok(change(&[1, 2, 3, 4, 5, 6]));
    let refusal = world.refused(world.seal());
    assert!(matches!(refusal, Refusal::BundleNotDurable { have: 3, need: 4, .. }), "{refusal:?}");
    assert_eq!(world.state.not_durable_on(&nodes(&[1, 2, 3, 4, 5, 6])), 4);
    world.ok(holds(6, &ALL[..3]));
    let last = Refusal::BundleNotDurable { bundle: bundle("w1"), have: 3, need: 4 };
    assert_eq!(world.refused(world.seal()), last);
    world.ok(holds(6, &ALL[3..]));
    world.ok(world.seal());
    assert!(world.state.change().unwrap().sealed);
}

#[test]
fn invariant_b1_after_the_seal_commits_need_both_majorities() {
    let mut world = World::with_first_point();
    world.ok(add("four", 4));
    world.ok(change(&[1, 2, 3, 4]));
    let lease = world.open(1);
    // Before the seal the old voters decide, so that a slow newcomer holds up nobody.
    let mut draft = Draft::delta(&world, 1, lease);
    draft.bundle('m').holders = vec![1, 2];
    let mut ahead = world.clone();
    ahead.ok(draft.command());
    // After it two of three are not enough: they are no majority of four.
    world.ok(holds(4, &ALL));
    world.ok(world.seal());
    let refusal = world.refused(draft.command());
    assert!(matches!(refusal, Refusal::BundleNotDurable { have: 2, need: 3, .. }), "{refusal:?}");
    draft.bundle('m').holders = vec![1, 2, 4];
    world.ok(draft.command());
}

#[test]
fn invariant_b1_a_node_that_goes_takes_its_copies_with_it() {
    let mut world = World::with_first_point();
    world.ok(Command::RecordHolders(RecordHolders {
        node: NodeId::new(1),
        present: vec![],
        absent: vec![bundle("c1")],
        home: proto_types::LogIndex::new(0),
    }));
    // Without 3, only 2 of {1, 2} has it.
    world.ok(removal(&[1, 2], 3));
    let refusal = world.refused(world.seal());
    assert!(matches!(refusal, Refusal::BundleNotDurable { have: 1, need: 2, .. }), "{refusal:?}");
    world.ok(holds(1, &["c1"]));
    world.ok(world.seal());
    world.voters = nodes(&[1, 2]);
    assert_eq!(world.ok(world.end()), Outcome::ChangeEnded { done: true });
    let gone = NodeId::new(3);
    assert!(world.state.was_removed(gone));
    assert!(world.state.bundles().all(|(_, row)| !row.holders.contains(&gone)));
    let row = world.state.nodes().find(|row| row.id == gone).unwrap();
    assert_eq!(row.state, NodeState::Removed);
    // And it does not come back under this id.
    assert_eq!(world.refused(change(&[1, 2, 3])), Refusal::NodeWasRemoved { node: gone });
}

#[test]
fn membership_is_bounded() {
    let mut world = World::new();
    for n in 0..limits::NODES_MAX {
        world.ok(add(&format!("n{n}"), 1));
    }
    assert!(matches!(world.refused(add("more", 1)), Refusal::LimitReached { .. }));
    world.voters = (1..=15).map(NodeId::new).collect();
    let more: Vec<u64> = (1..=16).collect();
    assert!(matches!(world.refused(change(&more)), Refusal::LimitReached { .. }));
}

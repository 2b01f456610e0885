//! What a forced recovery removes and what lacks after it, and coordinators that move.

use coordinator_core::{
    AcquireEpoch, AddNode, BeginChange, Command, FINDING_RECOVERED, MoveNode, NodeState, Outcome,
    RecordHolders, RecoverByForce, Refusal, RemoveNode, Scope, Severity,
};
use proto_types::{Code, Epoch, LogIndex, NodeId};

use crate::scenario::{World, bundle, cluster, instance, nodes, seq};

fn force(node: u64, members: &[u64]) -> Command {
    Command::RecoverByForce(Box::new(RecoverByForce {
        node: NodeId::new(node),
        name: "one".to_owned(),
        address: "one:7410".to_owned(),
        members: nodes(members),
        committed: LogIndex::new(5),
    }))
}

fn lost_on(node: u64, bundles: &[&str]) -> Command {
    Command::RecordHolders(RecordHolders {
        node: NodeId::new(node),
        present: vec![],
        absent: bundles.iter().map(|name| bundle(name)).collect(),
        home: proto_types::LogIndex::new(0),
    })
}

fn moved(node: u64, address: &str) -> Command {
    let (name, address) = ("given".to_owned(), address.to_owned());
    Command::MoveNode(MoveNode { node: NodeId::new(node), name, address })
}

fn add(name: &str) -> Command {
    Command::AddNode(AddNode { name: name.to_owned(), address: format!("{name}:7410") })
}

#[test]
fn recover_leaves_one_node_and_removes_all_others_for_ever() {
    let mut world = World::with_first_point();
    world.ok(add("four"));
    world.ok(add("five"));
    world.ok(Command::RemoveNode(RemoveNode { node: NodeId::new(5) }));
    world.ok(Command::BeginChange(BeginChange { voters: nodes(&[1, 2, 3, 4]), remove: None }));
    let refused = world.refused(force(1, &[1, 2, 3, 4]));
    assert_eq!(refused, Refusal::NotTheOnlyVoter { node: NodeId::new(1) });
    world.voters = nodes(&[2]);
    let refused = world.refused(force(1, &[1, 2, 3, 4]));
    assert_eq!(refused, Refusal::NotTheOnlyVoter { node: NodeId::new(1) });

    world.voters = nodes(&[1]);
    world.ok(lost_on(1, &["c1"]));
    let outcome = world.ok(force(1, &[1, 2, 3, 4]));
    assert_eq!(outcome, Outcome::RecoveredByForce { number: 1 });
    // Numbers that the lost ones may have acknowledged are never used again.
    assert_eq!(world.state.cluster(&cluster(1)).unwrap().next_sequence(), seq(1_000_001));
    let state = &world.state;
    for (node, removed) in [(1, false), (2, true), (3, true), (4, true), (5, true)] {
        assert_eq!(state.was_removed(NodeId::new(node)), removed, "node {node}");
    }
    // The lost ones may have admitted others that this node never heard of.
    assert!(state.was_removed(NodeId::new(6)) && state.was_removed(NodeId::new(100)));
    assert!(!state.was_removed(NodeId::new(101)));
    assert!(state.change().is_none());
    let one = state.nodes().find(|row| row.id == NodeId::new(1)).unwrap();
    assert_eq!((one.state, &*one.address), (NodeState::Admitted, "one:7410"));
    for (id, row) in state.bundles() {
        let expected = if *id == bundle("c1") { nodes(&[]) } else { nodes(&[1]) };
        assert_eq!(row.holders, expected, "{id}");
    }
    let recovery = state.recoveries().next().unwrap();
    assert_eq!((recovery.lost_bundles, recovery.lost_points), (1, 1));
    assert_eq!(recovery.removed, nodes(&[2, 3, 4]));
    let (key, finding) = state.findings_of(Scope::Fleet).next().unwrap();
    assert_eq!((&*key.kind, &*key.subject), (FINDING_RECOVERED, "1"));
    assert_eq!(finding.severity, Severity::Critical);
    assert!(finding.message.contains("removed: 2, 3, 4."), "{}", finding.message);
    assert!(finding.message.contains("1 of 1 recovery points"), "{}", finding.message);
    assert!(finding.message.len() <= 1024 && finding.remedy.len() <= 1024);

    // New ids and epochs lie behind whatever the lost ones gave out.
    assert_eq!(world.ok(add("next")), Outcome::NodeAdded { node: NodeId::new(101) });
    let (cluster, instance) = (cluster(1), instance(9));
    let epoch = Epoch::new(1000);
    assert_eq!(
        world.ok(Command::AcquireEpoch(AcquireEpoch { cluster, instance })),
        Outcome::EpochAcquired { cluster, epoch }
    );
    // Once more, from the new one: the hundred after.
    world.voters = nodes(&[101]);
    assert_eq!(world.ok(force(101, &[1, 101])), Outcome::RecoveredByForce { number: 2 });
    assert!(world.state.was_removed(NodeId::new(1)));
    assert_eq!(world.ok(add("then")), Outcome::NodeAdded { node: NodeId::new(201) });
}

#[test]
fn recover_what_nobody_holds_counts_as_no_good_point_and_holds_up_no_change() {
    let mut world = World::with_first_point();
    world.commit_delta(1);
    let second: Vec<_> = world.head(1).unwrap().added.clone();
    // Node 1 never got the second point's own bundles.
    let absent = second.clone();
    let node = NodeId::new(1);
    world.ok(Command::RecordHolders(RecordHolders {
        node,
        present: vec![],
        absent,
        home: proto_types::LogIndex::new(0),
    }));
    assert_eq!(world.state.newest_proved_point(&cluster(1)).unwrap().sequence, seq(2));
    world.voters = nodes(&[1]);
    world.ok(force(1, &[1, 2, 3]));
    let state = &world.state;
    assert_eq!(state.absent_bundles().len(), second.len());
    let newest = state.newest_point(&cluster(1)).unwrap();
    assert_eq!((newest.sequence, state.absent_of(newest)), (seq(2), second.len() as u64));
    assert_eq!(state.newest_proved_point(&cluster(1)).unwrap().sequence, seq(1));

    // A second voter need not have what nobody has; all else it must.
    world.ok(add("next"));
    let node = NodeId::new(101);
    let voters = nodes(&[1, 101]);
    world.ok(Command::BeginChange(BeginChange { voters: voters.clone(), remove: None }));
    assert!(world.state.not_durable_on(&voters) > 0);
    assert_eq!(world.refused(world.seal()).code(), Code::BundleNotDurable);
    let held = world.state.bundles().filter(|(_, row)| !row.holders.is_empty());
    let present = held.map(|(id, _)| *id).collect();
    world.ok(Command::RecordHolders(RecordHolders {
        node,
        present,
        absent: vec![],
        home: proto_types::LogIndex::new(0),
    }));
    assert_eq!(world.state.not_durable_on(&voters), 0);
    world.ok(world.seal());
}

#[test]
fn move_names_a_node_s_new_address() {
    let mut world = World::new();
    world.ok(add("four"));
    for (node, address, expected) in [
        (9, "a:1", Refusal::NodeUnknown { node: NodeId::new(9) }),
        (
            2,
            "four:7410",
            Refusal::NodeAddressTaken { address: "four:7410".to_owned(), node: NodeId::new(4) },
        ),
    ] {
        assert_eq!(world.refused(moved(node, address)), expected, "{node} {address}");
    }
    for address in ["", "nowhere", "a b:1", ":1"] {
        assert_eq!(world.refused(moved(2, address)).code(), Code::InvalidArgument, "{address}");
    }
    let row = |world: &World, node: u64| {
        let found = world.state.nodes().find(|row| row.id == NodeId::new(node)).cloned();
        found.map(|row| (row.name, row.address))
    };
    // A first member has no row before; one that was added keeps its name.
    assert_eq!(world.ok(moved(2, "b:1")), Outcome::NodeMoved { node: NodeId::new(2) });
    assert_eq!(row(&world, 2), Some(("given".to_owned(), "b:1".to_owned())));
    world.ok(moved(4, "c:1"));
    assert_eq!(row(&world, 4), Some(("four".to_owned(), "c:1".to_owned())));
    assert_eq!(world.run(moved(4, "c:1")).events, [], "the same again changes nothing");
    world.ok(Command::RemoveNode(RemoveNode { node: NodeId::new(4) }));
    assert_eq!(world.refused(moved(4, "d:1")), Refusal::NodeWasRemoved { node: NodeId::new(4) });
}

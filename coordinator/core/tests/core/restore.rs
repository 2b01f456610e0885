//! Bringing a snapshot's state into an empty fleet, as a new generation.

use coordinator_core::{
    AcquireEpoch, BeginRestore, Command, FinishRestore, NodeState, Outcome, RecordHolders, Refusal,
    RestorePiece, RestoreProblem, Scope, SetAuthority, State, codec,
};
use proto_types::{Code, Epoch, FleetId, LeaseId, LogIndex, NodeId};
use sha2::{Digest, Sha256};

use crate::fixtures::state_bytes;
use crate::scenario::{
    Draft, FLEET, World, cluster, init_fleet, instance, lease, nodes, open_upload, register, seq,
};

const RESTORE: u8 = 7;

pub(crate) fn begin(restore: LeaseId, state: &[u8], old: &[u64]) -> Command {
    Command::BeginRestore(BeginRestore {
        restore,
        fleet: FLEET,
        fleet_name: "home".to_owned(),
        force: false,
        state_sha256: Sha256::digest(state).into(),
        state_bytes: state.len() as u64,
        nodes: nodes(old),
    })
}

fn finish() -> Command {
    Command::FinishRestore(FinishRestore { restore: lease(RESTORE) })
}

fn piece(offset: usize, bytes: &[u8]) -> Command {
    Command::RestorePiece(RestorePiece {
        restore: lease(RESTORE),
        offset: offset as u64,
        bytes: bytes.into(),
    })
}

/// A new fleet of other nodes, under the same identity.
fn new_fleet() -> World {
    let mut world = World::empty();
    world.voters = nodes(&[10, 11, 12]);
    world.ok(init_fleet());
    world
}

fn send(world: &mut World, bytes: &[u8]) {
    for (number, part) in bytes.chunks(1000).enumerate() {
        let received = ((number * 1000) + part.len()) as u64;
        assert_eq!(
            world.ok(piece(number * 1000, part)),
            Outcome::RestoreReceived { received },
            "piece {number}"
        );
    }
}

/// A new fleet that has all of the snapshot, and the command that lets it take effect.
pub(crate) fn ready(snapshot: &State, old: &[u64]) -> (World, Command) {
    let bytes = state_bytes(snapshot);
    let mut world = new_fleet();
    world.ok(begin(lease(RESTORE), &bytes, old));
    send(&mut world, &bytes);
    (world, finish())
}

pub(crate) fn restored(snapshot: &State, old: &[u64]) -> World {
    let (mut world, finish) = ready(snapshot, old);
    assert_eq!(world.ok(finish), Outcome::Restored { generation: 1 });
    world
}

fn problem(problem: RestoreProblem) -> Refusal {
    Refusal::RestoreRefused { problem }
}

#[test]
fn snapshot_restore_brings_everything_but_the_coordinators_of_then() {
    let mut old = World::with_first_point();
    old.commit_delta(1);
    old.commit_unchanged(1);
    old.ok(register(2));
    old.ok(open_upload(1, old.epoch(1), lease(9), seq(3)));
    old.open_read(1, lease(8), 2);
    let mut world = restored(&old.state, &[1, 2, 5]);

    let names: Vec<_> = world.state.clusters().map(|cluster| cluster.name.as_str()).collect();
    let expected: Vec<_> = old.state.clusters().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!(names, expected);
    let points: Vec<_> = world.state.points(&cluster(1)).map(|point| point.sequence).collect();
    assert_eq!(points, [seq(1), seq(2), seq(3)]);
    let (was, is) = (old.head(1).unwrap(), world.head(1).unwrap());
    assert_eq!((was.manifest, &was.needs, was.committed), (is.manifest, &is.needs, is.committed));
    assert_eq!(world.state.log_time(), old.state.log_time().max(world.state.log_time()));
    assert_eq!((world.state.uploads().count(), world.state.reads().count()), (0, 0));
    // The coordinators of then are known by the list, and one by what it held.
    for node in [1, 2, 3, 5] {
        assert!(world.state.was_removed(NodeId::new(node)), "{node}");
    }
    assert!(world.state.nodes().all(|row| row.state == NodeState::Removed));
    let added = world.ok(Command::AddNode(coordinator_core::AddNode {
        name: "four".to_owned(),
        address: "four:1".to_owned(),
    }));
    assert_eq!(added, Outcome::NodeAdded { node: NodeId::new(13) });
    let finding = world.state.findings().find(|(key, _)| key.kind == "restored").unwrap();
    assert_eq!((finding.0.scope, finding.0.subject.as_str()), (Scope::Fleet, "1"));
    assert_eq!(world.state.fleet().unwrap().created, old.state.fleet().unwrap().created);
    // Once done it stays done.
    assert_eq!(world.ok(finish()), Outcome::Restored { generation: 1 });
}

#[test]
fn snapshot_restore_issues_nothing_twice() {
    let mut old = World::with_first_point();
    old.commit_delta(1);
    let epoch = old.epoch(1);
    let mut world = restored(&old.state, &[1, 2, 3]);

    let ended = Refusal::SessionEnded { cluster: cluster(1) };
    assert_eq!(world.refused(open_upload(1, epoch, lease(9), seq(2))), ended);
    assert_eq!(ended.code(), Code::SessionExpired);
    let acquire = AcquireEpoch { cluster: cluster(1), instance: instance(1) };
    let Outcome::EpochAcquired { epoch: next, .. } = world.ok(Command::AcquireEpoch(acquire))
    else {
        panic!("an epoch");
    };
    assert_eq!(next, Epoch::new(epoch.get() + 1_000_001), "past any that may have been issued");
    assert_eq!(world.state.cluster(&cluster(1)).unwrap().next_sequence(), seq(1_000_001));

    // Nobody has the bundles yet, and a point that builds on them is refused (B1).
    let statement = Draft::unchanged(&world, 1).command();
    assert_eq!(world.refused(statement).code(), Code::BundleNotDurable);
    assert_eq!(
        world.state.absent_of(world.head(1).unwrap()),
        world.head(1).unwrap().needs.len() as u64
    );
    let present: Vec<_> = world.state.bundles().map(|(id, _)| *id).collect();
    for node in [10, 11] {
        let node = NodeId::new(node);
        let (present, absent) = (present.clone(), vec![]);
        world.ok(Command::RecordHolders(RecordHolders {
            node,
            present,
            absent,
            home: proto_types::LogIndex::new(0),
        }));
    }
    assert_eq!(world.state.absent_bundles().len(), 0);
    let low = Draft::unchanged(&world, 1);
    let mut low = low;
    low.commit.sequence = seq(3);
    assert_eq!(world.refused(low.command()).code(), Code::StaleHead, "a number of before");
    world.commit_unchanged(1);
    assert_eq!(world.head(1).unwrap().sequence, seq(1_000_001));
    world.commit_delta(1);
    let head = world.head(1).unwrap();
    assert_eq!((head.sequence, head.parent), (seq(1_000_002), seq(1_000_001)));

    // And once more: the numbers move on again.
    let again = restored_again(&world.state);
    assert_eq!(again.state.fleet().unwrap().generation, 2);
    let row = again.state.cluster(&cluster(1)).unwrap();
    assert_eq!(row.next_sequence(), seq(2_000_001));
    assert_eq!(row.epoch, Epoch::new(next.get() + 1_000_000));
}

fn restored_again(snapshot: &State) -> World {
    let bytes = state_bytes(snapshot);
    let mut world = new_fleet();
    world.ok(begin(lease(RESTORE), &bytes, &[10, 11, 12]));
    send(&mut world, &bytes);
    assert_eq!(world.ok(finish()), Outcome::Restored { generation: 2 });
    assert!(!world.state.was_removed(NodeId::new(10)), "who votes here belongs here");
    world
}

#[test]
fn snapshot_restore_is_whole_or_refused() {
    let bytes = state_bytes(&World::with_first_point().state);
    let mut world = new_fleet();
    assert_eq!(world.refused(finish()), Refusal::LeaseGone { lease: lease(RESTORE) });
    let begun = world.ok(begin(lease(RESTORE), &bytes, &[1]));
    let index = world.state.restore().unwrap().index;
    assert_eq!(begun, Outcome::RestoreBegun { restore: lease(RESTORE), index, received: 0 });
    assert!(index > LogIndex::new(0) && world.state.lease_live(&lease(RESTORE)));
    assert_eq!(world.refused(finish()), problem(RestoreProblem::Incomplete));
    // In order, within what was announced; the same again is the same.
    assert_eq!(world.refused(piece(1, b"x")).code(), Code::InvalidArgument);
    assert_eq!(world.ok(piece(0, &bytes[..10])), Outcome::RestoreReceived { received: 10 });
    assert_eq!(world.ok(piece(0, &bytes[..10])), Outcome::RestoreReceived { received: 10 });
    assert_eq!(world.refused(piece(5, &bytes[5..20])).code(), Code::InvalidArgument);
    assert_eq!(world.refused(piece(10, b"")).code(), Code::InvalidArgument);
    assert_eq!(world.refused(piece(10, &[0; 12_289])).code(), Code::InvalidArgument);
    // Who comes again with the same state goes on where it ended; another one has to wait.
    let again = world.ok(begin(lease(6), &bytes, &[1]));
    assert_eq!(again, Outcome::RestoreBegun { restore: lease(RESTORE), index, received: 10 });
    let other = world.refused(begin(lease(6), b"other", &[1]));
    assert_eq!(other, Refusal::RestoreUnderWay { restore: lease(RESTORE) });

    for part in 1.. {
        let Some(rest) = bytes.get(part * 10..).filter(|rest| !rest.is_empty()) else { break };
        world.ok(piece(part * 10, &rest[..rest.len().min(10)]));
    }
    // The state is only checked as a whole: here something was registered meanwhile.
    let mut taken = World { state: world.state.clone(), ..new_fleet() };
    taken.ok(register(3));
    assert_eq!(taken.refused(finish()), problem(RestoreProblem::NotEmpty));
    assert_eq!(taken.refused(begin(lease(5), b"other", &[])), problem(RestoreProblem::NotEmpty));
    world.ok(finish());
    assert!(world.state.restore().is_none() && !world.state.lease_live(&lease(RESTORE)));

    let mut damaged = new_fleet();
    let mut bad = bytes.clone();
    damaged.ok(begin(lease(RESTORE), &bytes, &[]));
    bad[40] ^= 1;
    send(&mut damaged, &bad);
    assert_eq!(damaged.refused(finish()), problem(RestoreProblem::Damaged));
    assert_eq!(damaged.state.clusters().count(), 0);
    let abandon = coordinator_core::AbandonRestore { restore: lease(RESTORE) };
    damaged.ok(Command::AbandonRestore(abandon));
    // Announced as damaged as it is: no state either.
    damaged.ok(begin(lease(RESTORE), &bad, &[]));
    send(&mut damaged, &bad);
    assert_eq!(damaged.refused(finish()), problem(RestoreProblem::Damaged));
}

#[test]
fn snapshot_restore_takes_only_the_same_fleet() {
    let snapshot = World::with_first_point().state;
    let bytes = state_bytes(&snapshot);
    let Command::BeginRestore(ours) = begin(lease(RESTORE), &bytes, &[]) else { unreachable!() };
    let mut world = new_fleet();
    let other = BeginRestore { fleet: FleetId::from_bytes([9; 16]), force: true, ..ours.clone() };
    let refused = world.refused(Command::BeginRestore(other));
    assert_eq!(refused, problem(RestoreProblem::OtherFleet));
    let other = BeginRestore { fleet_name: "away".to_owned(), ..ours.clone() };
    let refused = world.refused(Command::BeginRestore(other.clone()));
    assert_eq!(refused, problem(RestoreProblem::OtherName));
    world.ok(Command::BeginRestore(BeginRestore { force: true, ..other }));

    // The recovery key is what every key bundle is sealed to: never passed over.
    let Command::InitFleet(mut fleet) = init_fleet() else { unreachable!() };
    fleet.recovery.hpke = [77; 32];
    let mut stranger = World::empty();
    stranger.ok(Command::InitFleet(fleet));
    stranger.ok(Command::BeginRestore(BeginRestore { force: true, ..ours }));
    send(&mut stranger, &bytes);
    assert_eq!(stranger.refused(finish()), problem(RestoreProblem::OtherRecoveryKey));

    // Nor may agents find coordinators whose root they do not know.
    let root = |certificate: &[u8]| {
        Command::SetAuthority(SetAuthority {
            root_certificate: certificate.to_vec(),
            sealed_root_key: b"sealed".to_vec(),
        })
    };
    let mut old = World::with_first_point();
    old.ok(root(b"old"));
    let bytes = state_bytes(&old.state);
    for (certificate, fits) in [(b"new", false), (b"old", true)] {
        let mut world = new_fleet();
        world.ok(root(certificate));
        world.ok(begin(lease(RESTORE), &bytes, &[]));
        send(&mut world, &bytes);
        if fits {
            world.ok(finish());
        } else {
            assert_eq!(world.refused(finish()), problem(RestoreProblem::OtherAuthority));
        }
    }
}

#[test]
fn snapshot_restore_goes_on_behind_a_raft_snapshot() {
    let bytes = state_bytes(&World::with_first_point().state);
    let mut world = new_fleet();
    world.ok(begin(lease(RESTORE), &bytes, &[1]));
    world.ok(piece(0, &bytes[..100]));
    world.ok(piece(100, &bytes[100..200]));
    let copy = codec::read_state(&mut &state_bytes(&world.state)[..]).unwrap();
    assert!(copy == world.state);
    world.state = copy;
    world.ok(piece(200, &bytes[200..]));
    assert_eq!(world.ok(finish()), Outcome::Restored { generation: 1 });
    let copy = codec::read_state(&mut &state_bytes(&world.state)[..]).unwrap();
    assert!(copy == world.state);
}

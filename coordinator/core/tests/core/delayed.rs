//! Acts that need a second admin and wait.

use coordinator_core::{
    Actor, Applied, BundleHome, Command, DecideAct, DelayedAct, EndReadLease, Event, FreezeTime,
    Jump, OperatorRole, Outcome, PerformAct, Refusal, Request, RequestAct, Sender, SetActDelay,
    State, limits,
};
use proto_types::{Code, LogIndex, LogTime, NodeId};

use crate::scenario::{HOUR_MS, World, bundle, cluster, lease, nodes, register};

const DAY_MS: u64 = 24 * HOUR_MS;

fn by(world: &mut World, name: &str, role: OperatorRole, command: Command) -> Applied {
    let actor = Actor::Operator { name: name.to_owned(), role };
    let sender = Some(Sender { actor, certificate: None, via: NodeId::new(1) });
    let request = Request { sender, ..world.request(command) };
    world.apply(&request)
}

fn admin(world: &mut World, name: &str, command: Command) -> Outcome {
    by(world, name, OperatorRole::Admin, command).outcome
}

fn delete(n: u8) -> Command {
    Command::RequestAct(RequestAct { what: DelayedAct::DeleteCluster { cluster: cluster(n) } })
}

fn shorten(delay_ms: u64) -> Command {
    Command::RequestAct(RequestAct { what: DelayedAct::ShortenDelay { delay_ms } })
}

fn decide(act: LogIndex, approve: bool) -> Command {
    Command::DecideAct(DecideAct { act, approve })
}

fn perform(act: LogIndex) -> Command {
    Command::PerformAct(PerformAct { act })
}

fn set(delay_ms: u64, floor: bool) -> Command {
    Command::SetActDelay(SetActDelay { delay_ms, floor })
}

fn requested(outcome: &Outcome) -> LogIndex {
    match outcome {
        Outcome::ActRequested { act } => *act,
        other => panic!("{other:?}"),
    }
}

/// Level 2, with a second cluster.
fn world() -> World {
    let mut world = World::with_first_point();
    world.ok(register(2));
    world.ok(set(3 * DAY_MS, false));
    world
}

/// One whose act is approved; and which.
fn approved(world: &mut World) -> LogIndex {
    let act = requested(&admin(world, "ann", delete(1)));
    let outcome = admin(world, "bob", decide(act, true));
    assert!(matches!(outcome, Outcome::ActDecided { approved: true, .. }), "{outcome:?}");
    act
}

/// Every command, for the frozen bytes.
pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    vec![
        ("request_act", delete(1)),
        ("request_act-shorten", shorten(DAY_MS)),
        ("decide_act", decide(LogIndex::new(7), true)),
        ("decide_act-cancel", decide(LogIndex::new(7), false)),
        ("perform_act", perform(LogIndex::new(7))),
        ("set_act_delay", set(4 * DAY_MS, true)),
    ]
}

/// One with a row of every kind.
pub(crate) fn state() -> State {
    let mut world = world();
    world.ok(set(4 * DAY_MS, true));
    approved(&mut world);
    admin(&mut world, "bob", delete(2));
    admin(&mut world, "bob", shorten(DAY_MS));
    world.state
}

#[test]
fn sabotage_of_one_admin_waits_for_another_and_for_three_days() {
    let mut world = world();
    assert_eq!(limits::ACT_DELAY_MS, 3 * DAY_MS);
    for role in [OperatorRole::Viewer, OperatorRole::Operator] {
        let refused = by(&mut world, "ann", role, delete(1)).outcome;
        assert_eq!(refused, Outcome::Refused(Refusal::SecondAdminNeeded));
    }
    let act = requested(&admin(&mut world, "ann", delete(1)));
    assert_eq!(requested(&admin(&mut world, "bob", delete(1))), act, "it waits already");
    let finding = world.state.findings().find(|(key, _)| key.kind == "act-waits").unwrap();
    assert!(finding.1.message.contains("ann asked for the deletion"), "{}", finding.1.message);
    let own = admin(&mut world, "ann", decide(act, true));
    assert_eq!(own, Outcome::Refused(Refusal::SecondAdminNeeded));
    let undue = Refusal::ActNotDue { act };
    world.now_ms += 30 * DAY_MS;
    assert_eq!(world.refused(perform(act)), undue, "not approved, however long");
    let due = LogTime::from_millis(world.now_ms + 3 * DAY_MS);
    let done = Outcome::ActDecided { approved: true, due };
    assert_eq!(admin(&mut world, "bob", decide(act, true)), done);
    assert_eq!(admin(&mut world, "eve", decide(act, true)), done, "again is the same");
    world.now_ms += 3 * DAY_MS - 1;
    assert_eq!(world.refused(perform(act)), undue);
    assert_eq!(world.state.acts_due(LogTime::from_millis(world.now_ms)), []);
    world.now_ms += 1;
    assert_eq!(world.state.acts_due(LogTime::from_millis(world.now_ms)), [act]);
    assert_eq!(world.ok(perform(act)), Outcome::ActPerformed);
    assert_eq!(world.refused(perform(act)).code(), Code::NothingMatches);
}

#[test]
fn sabotage_is_cancelled_by_any_admin_until_it_is_done() {
    let mut world = world();
    let act = approved(&mut world);
    world.now_ms += 4 * DAY_MS;
    let cancelled = Outcome::ActDecided { approved: false, due: LogTime::ZERO };
    assert_eq!(admin(&mut world, "eve", decide(act, false)), cancelled);
    assert_eq!(world.refused(perform(act)), Refusal::ActUnknown { act });
    assert!(world.state.findings().all(|(key, _)| key.kind != "act-waits"));
    assert!(world.state.cluster(&cluster(1)).is_some());
    // Asked for again it waits again.
    let again = approved(&mut world);
    assert!(again > act);
    assert_eq!(world.refused(perform(again)), Refusal::ActNotDue { act: again });
}

#[test]
fn sabotage_waits_while_time_is_frozen_and_anew_after_it() {
    let mut world = world();
    let act = approved(&mut world);
    world.now_ms += 3 * DAY_MS - 1;
    let jump = Jump { by_ms: 3_600_000, elapsed_known: true, nodes: nodes(&[1]) };
    world.ok(Command::FreezeTime(FreezeTime { jump }));
    world.now_ms += DAY_MS;
    assert_eq!(world.refused(perform(act)), Refusal::TimeFrozen);
    assert_eq!(world.state.acts_due(LogTime::from_millis(world.now_ms)), []);
    world.ok(Command::ConfirmTime(coordinator_core::ConfirmTime));
    assert_eq!(world.refused(perform(act)), Refusal::ActNotDue { act });
    world.now_ms += 3 * DAY_MS;
    world.ok(perform(act));
}

#[test]
fn sabotage_overrides_nobody_who_reads() {
    let mut world = world();
    let act = approved(&mut world);
    world.open_read(1, lease(8), 1);
    world.now_ms += 3 * DAY_MS;
    assert_eq!(world.refused(perform(act)), Refusal::ActBlocked { act });
    world.ok(Command::EndReadLease(EndReadLease { lease: lease(8) }));
    world.ok(perform(act));
}

#[test]
fn deletion_of_a_cluster_leaves_nothing_of_it_needed_and_others_as_they_were() {
    let mut world = World::with_first_point();
    world.add_cluster(2);
    world.ok(set(3 * DAY_MS, false));
    world.commit_first(2);
    world.open(1);
    let other = world.state.points(&cluster(2)).cloned().collect::<Vec<_>>();
    let act = approved(&mut world);
    world.now_ms += 3 * DAY_MS;
    let applied = world.run(perform(act));
    assert_eq!(applied.outcome, Outcome::ActPerformed);
    assert!(applied.events.iter().any(|event| matches!(event, Event::LeaseEnded { .. })));
    assert!(world.state.cluster(&cluster(1)).is_none());
    assert_eq!(world.state.points(&cluster(1)).count(), 0);
    assert!(world.state.bundles().all(|(_, row)| row.facts.cluster == cluster(2)));
    assert!(!world.state.is_needed(&bundle("c1")));
    assert_eq!(world.state.points(&cluster(2)).cloned().collect::<Vec<_>>(), other);
    assert_eq!(world.state.uploads().count(), 0);
    // Its agent's certificate counts for nothing, and its name is free.
    assert!(world.state.is_void(&coordinator_core::PartyId::Agent(cluster(1)), 0));
    world.ok(register(1));
    // What it had is still a state that can be written and read.
    let bytes = crate::fixtures::state_bytes(&world.state);
    assert!(coordinator_core::codec::read_state(&mut &bytes[..]).unwrap() == world.state);
}

#[test]
fn deletion_of_a_cluster_gives_its_objects_in_the_bucket_up() {
    let mut world = World::with_first_point();
    world.ok(crate::bucket::begin(BundleHome::Bucket));
    world.ok(Command::RecordObjects(coordinator_core::RecordObjects {
        began: world.state.home().began,
        present: vec![bundle("c1")],
        absent: vec![],
        gone: vec![],
    }));
    assert_eq!(world.state.objects_to_delete().count(), 0);
    let act = approved(&mut world);
    world.now_ms += 3 * DAY_MS;
    world.ok(perform(act));
    let left: Vec<_> = world.state.objects_to_delete().map(|(_, bundle)| bundle).collect();
    assert_eq!(left, [bundle("c1")]);
}

#[test]
fn sabotage_delay_grows_at_once_and_shrinks_only_by_waiting() {
    let mut world = world();
    for bad in [0, 3 * DAY_MS - 1, limits::ACT_DELAY_MS_MAX + 1] {
        assert_eq!(world.refused(set(bad, false)).code(), Code::InvalidArgument, "{bad}");
    }
    assert_eq!(world.ok(set(4 * DAY_MS, true)), Outcome::ActDelaySet { delay_ms: 4 * DAY_MS });
    for bad in [DAY_MS - 1, 4 * DAY_MS] {
        let refused = admin(&mut world, "ann", shorten(bad));
        assert_eq!(refused.refusal().map(Refusal::code), Some(Code::InvalidArgument), "{bad}");
    }
    let act = requested(&admin(&mut world, "ann", shorten(DAY_MS)));
    admin(&mut world, "bob", decide(act, true));
    world.now_ms += 4 * DAY_MS - 1;
    assert_eq!(world.refused(perform(act)), Refusal::ActNotDue { act });
    world.now_ms += 1;
    world.ok(perform(act));
    let delay = world.state.act_delay();
    assert_eq!((delay.delay_ms, delay.has_floor), (DAY_MS, true), "the floor stays");
    let deleting = approved(&mut world);
    world.now_ms += DAY_MS;
    world.ok(perform(deleting));
}

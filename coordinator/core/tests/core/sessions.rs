//! Sessions: each request happens at most once.

use coordinator_core::{
    AcquireEpoch, Applied, Command, ExpireSessions, Field, InitFleet, Limit, Outcome, Refusal,
    Request,
};
use proto_types::{Code, Epoch, LogTime, SessionId};

use crate::scenario::{
    Draft, HOUR_MS, World, cluster, init_fleet, instance, lease, nodes, open_upload, seq, session,
};

/// A command whose every execution shows: each new instance gets a new epoch.
fn visible(n: u8) -> Command {
    Command::AcquireEpoch(AcquireEpoch { cluster: cluster(1), instance: instance(n) })
}

fn send(world: &mut World, id: SessionId, number: u64, command: Command) -> Applied {
    let request = Request { session: Some((id, number)), ..world.request(command) };
    world.apply(&request)
}

fn acquired(epoch: u64) -> Outcome {
    Outcome::EpochAcquired { cluster: cluster(1), epoch: Epoch::new(epoch) }
}

fn expired(id: SessionId, number: u64) -> Outcome {
    Outcome::Refused(Refusal::SessionExpired { session: id, number })
}

#[test]
fn session_repeat_gives_the_same_result_and_has_no_second_effect() {
    let mut world = World::new();
    let first = send(&mut world, session(1), 1, visible(11));
    assert_eq!((first.outcome, first.events.len()), (acquired(2), 1));
    send(&mut world, session(1), 2, visible(12));
    // Whatever the repeat says, the number is what counts.
    let repeat = send(&mut world, session(1), 1, visible(11));
    assert_eq!((repeat.outcome, repeat.events), (acquired(2), vec![]));
    assert_eq!(world.epoch(1), Epoch::new(3));
    // The same number of another session is another request.
    assert_eq!(send(&mut world, session(2), 1, visible(13)).outcome, acquired(4));
}

#[test]
fn session_keeps_refusals_that_time_does_not_heal() {
    let mut world = World::new();
    let early = open_upload(1, Epoch::new(2), lease(9), seq(0));
    let refused = send(&mut world, session(1), 1, early.clone()).outcome;
    assert!(matches!(refused, Outcome::Refused(Refusal::StaleEpoch { .. })));
    world.ok(visible(11));
    // It would be accepted now, and is under a new number.
    assert_eq!(send(&mut world, session(1), 1, early.clone()).outcome, refused);
    assert!(send(&mut world, session(1), 2, early).outcome.refusal().is_none());
}

#[test]
fn session_tries_again_what_time_may_heal() {
    let mut world = World::new();
    let upload = world.open(1);
    let draft = Draft::first(&world, 1, upload);
    world.voters = nodes(&[1, 2, 3, 4, 5, 6]);
    let refused = send(&mut world, session(1), 1, draft.command()).outcome;
    assert!(matches!(refused, Outcome::Refused(Refusal::BundleNotDurable { .. })));
    world.voters = nodes(&[1, 2, 3]);
    let committed = send(&mut world, session(1), 1, draft.command()).outcome;
    assert!(matches!(committed, Outcome::Committed { .. }), "{committed:?}");
    assert_eq!(send(&mut world, session(1), 1, draft.command()).outcome, committed);
}

#[test]
fn session_keeps_64_results_and_refuses_older_repeats() {
    let mut world = World::new();
    for number in 1..=65_u8 {
        let outcome = send(&mut world, session(1), u64::from(number), visible(100 + number));
        assert_eq!(outcome.outcome, acquired(u64::from(number) + 1));
    }
    assert_eq!(world.state.session(&session(1)).unwrap().results.len(), 64);
    let epoch = world.epoch(1);
    assert_eq!(send(&mut world, session(1), 1, visible(1)).outcome, expired(session(1), 1));
    assert_eq!(send(&mut world, session(1), 2, visible(2)).outcome, acquired(3));
    assert_eq!(send(&mut world, session(1), 65, visible(3)).outcome, acquired(66));
    assert_eq!(world.epoch(1), epoch, "nothing was executed again");
    assert_eq!(
        Refusal::SessionExpired { session: session(1), number: 1 }.code(),
        Code::SessionExpired
    );
}

#[test]
fn session_requests_may_overtake_each_other() {
    let mut world = World::new();
    assert_eq!(send(&mut world, session(1), 3, visible(13)).outcome, acquired(2));
    assert_eq!(send(&mut world, session(1), 1, visible(11)).outcome, acquired(3));
    assert_eq!(send(&mut world, session(1), 2, visible(12)).outcome, acquired(4));
    assert_eq!(send(&mut world, session(1), 1, visible(11)).outcome, acquired(3));
    // One that comes after 64 larger ones is executed once and cannot be asked about again.
    for number in 10..=74 {
        send(&mut world, session(1), number, init_fleet());
    }
    assert_eq!(world.state.session(&session(1)).unwrap().forgotten, 10);
    assert_eq!(send(&mut world, session(1), 9, visible(19)).outcome, expired(session(1), 9));
}

#[test]
fn session_numbers_begin_at_one() {
    let mut world = World::new();
    let refused = Outcome::Refused(Refusal::InvalidField { field: Field::RequestNumber });
    assert_eq!(send(&mut world, session(1), 0, visible(11)).outcome, refused);
    // A number beyond the window of a new session belongs to one that has expired.
    assert_eq!(send(&mut world, session(1), 65, visible(11)).outcome, expired(session(1), 65));
    assert!(world.state.session(&session(1)).is_none());
    assert_eq!(send(&mut world, session(1), 64, visible(11)).outcome, acquired(2));
}

#[test]
fn session_expires_after_a_day_without_use() {
    let mut world = World::new();
    send(&mut world, session(1), 1, visible(11));
    send(&mut world, session(2), 1, visible(12));
    world.now_ms += 12 * HOUR_MS;
    // A repeat is a use.
    send(&mut world, session(2), 1, visible(12));
    world.now_ms += 12 * HOUR_MS;
    let now = LogTime::from_millis(world.now_ms);
    assert_eq!(world.state.sessions_due(now), [session(1)]);
    assert_eq!(world.state.sessions_due(LogTime::from_millis(world.now_ms - 1)), []);
    // Asked for both and one that is gone, only the idle one ends.
    let command = ExpireSessions { sessions: vec![session(1), session(2), session(3)] };
    let outcome = world.ok(Command::ExpireSessions(command));
    assert_eq!(outcome, Outcome::Expired { ended: 1, skipped: 2 });
    assert!(world.state.session(&session(1)).is_none());
    assert!(world.state.session(&session(2)).is_some());
    let many = ExpireSessions { sessions: (0..129).map(session).collect() };
    let expect = Refusal::LimitReached { limit: Limit::Expired, have: 129, max: 128 };
    assert_eq!(world.refused(Command::ExpireSessions(many)), expect);
}

#[test]
fn session_number_is_bounded() {
    let mut world = World::empty();
    let same = InitFleet {
        fleet: crate::scenario::FLEET,
        name: "home".to_owned(),
        recovery: crate::scenario::RECOVERY,
    };
    for n in 0..65_536_u32 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        send(&mut world, SessionId::from_bytes(bytes), 1, Command::InitFleet(same.clone()));
    }
    let expect = Refusal::LimitReached { limit: Limit::Sessions, have: 65_537, max: 65_536 };
    let outcome = send(&mut world, session(0xee), 1, Command::InitFleet(same.clone())).outcome;
    assert_eq!(outcome, Outcome::Refused(expect));
    // Known sessions go on.
    let known = SessionId::from_bytes([0; 16]);
    let outcome = send(&mut world, known, 2, Command::InitFleet(same)).outcome;
    assert!(outcome.refusal().is_none());
}

//! Frozen time (T1): nothing ends by time between a jump and its confirmation.

use coordinator_core::{
    Command, ConfirmTime, Event, ExpireLeases, ExpireSessions, Freeze, FreezeTime, Jump, Outcome,
    Refusal, Request, Scope, Severity,
};
use proto_types::{Code, Epoch, LogTime};

use crate::scenario::{HOUR_MS, World, lease, nodes, open_upload, register, seq, session};

fn freeze(by_ms: i64) -> Command {
    let jump = Jump { by_ms, elapsed_known: true, nodes: nodes(&[2, 3]) };
    Command::FreezeTime(FreezeTime { jump })
}

fn confirm() -> Command {
    Command::ConfirmTime(ConfirmTime)
}

fn expire_leases() -> Command {
    Command::ExpireLeases(ExpireLeases { leases: vec![lease(9), lease(8)] })
}

fn expire_sessions() -> Command {
    Command::ExpireSessions(ExpireSessions { sessions: vec![session(1)] })
}

/// One with an upload, a read and a session.
fn world() -> World {
    let mut world = World::with_first_point();
    world.ok(open_upload(1, Epoch::new(1), lease(9), seq(1)));
    world.open_read(1, lease(8), 1);
    let request = world.request(register(2));
    world.apply(&Request { session: Some((session(1), 1)), ..request });
    world
}

#[test]
fn invariant_t1_frozen_time_ends_nothing_until_it_is_confirmed() {
    let mut world = world();
    let year_ms = 365 * 24 * HOUR_MS;
    let applied = world.run(freeze(i64::try_from(year_ms).unwrap()));
    assert_eq!(applied.outcome, Outcome::TimeFrozen { new: true });
    assert_eq!(applied.events, []);
    let frozen_at = LogTime::from_millis(world.now_ms);
    assert_eq!(world.state.freeze().unwrap().since, frozen_at);
    let finding = world.state.freeze().unwrap().raise();
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(
        finding.message,
        "the voters' clocks jumped 8760h 00m 00s ahead against elapsed time (nodes 2, 3); \
         retention and the end of holds and leases are frozen"
    );

    world.ok(Command::RaiseFinding(finding));

    // Elapsed time goes on, far past the end of everything: nothing ends.
    world.now_ms += 30 * 24 * HOUR_MS;
    for command in [expire_leases(), expire_sessions()] {
        let refusal = world.refused(command);
        assert_eq!(refusal, Refusal::TimeFrozen);
        assert_eq!(refusal.code(), Code::TimeFrozen);
    }
    // Said again, it is the same freeze.
    assert_eq!(world.ok(freeze(-1)), Outcome::TimeFrozen { new: false });
    assert_eq!(world.state.freeze().unwrap().since, frozen_at);

    // Confirmed a year ahead: what had not ended lives on as if it were used just now.
    world.now_ms += year_ms;
    let now = LogTime::from_millis(world.now_ms);
    let applied = world.run(confirm());
    assert_eq!(applied.outcome, Outcome::TimeConfirmed { was_frozen: true, time: now });
    assert_eq!(applied.events, [Event::FindingCleared { key: Freeze::key() }]);
    assert!(!world.state.time_is_frozen());
    assert_eq!(world.state.findings_of(Scope::Fleet).count(), 0);
    assert_eq!(world.ok(expire_leases()), Outcome::Expired { ended: 0, skipped: 2 });
    assert_eq!(world.ok(expire_sessions()), Outcome::Expired { ended: 0, skipped: 1 });

    // And ends by time as ever.
    world.now_ms += 30 * 24 * HOUR_MS;
    assert_eq!(world.ok(expire_leases()), Outcome::Expired { ended: 2, skipped: 0 });
    assert_eq!(world.ok(expire_sessions()), Outcome::Expired { ended: 1, skipped: 0 });
}

#[test]
fn invariant_t1_confirmation_of_time_that_flows_changes_nothing() {
    let mut world = world();
    world.ok(confirm());
    let before = world.state.clone();
    let now = LogTime::from_millis(world.now_ms);
    assert_eq!(world.ok(confirm()), Outcome::TimeConfirmed { was_frozen: false, time: now });
    assert!(world.state == before);
    assert!(matches!(world.refused_in_empty(freeze(1)), Refusal::FleetMissing));
}

impl World {
    fn refused_in_empty(&self, command: Command) -> Refusal {
        World::empty().refused(command)
    }
}

#[test]
fn jumps_are_told_in_words() {
    let jump = Jump { by_ms: -301_000, elapsed_known: false, nodes: nodes(&[]) };
    assert_eq!(
        jump.message(),
        "the voters' clocks jumped 0h 05m 01s back since the last log entry, while every \
         coordinator was stopped; retention and the end of holds and leases are frozen"
    );
}

//! The active level: nothing above it is applied, and it only rises.

use coordinator_core::codec::{self, DecodeError};
use coordinator_core::{Command, ConfirmTime, Event, Outcome, RaiseLevel, Refusal, State};
use proto_types::{Code, Level};

use crate::fixtures::{requests, state_bytes};
use crate::scenario::World;

const ONE: Level = Level::new(1);
const TWO: Level = Level::new(2);

fn raise(to: Level) -> Command {
    Command::RaiseLevel(RaiseLevel { to })
}

#[test]
fn level_a_command_above_it_is_refused_and_changes_nothing() {
    let mut world = World::new();
    assert_eq!(world.state.level(), ONE);
    let before = world.state.clone();
    let applied = world.apply(&world.request(Command::ConfirmTime(ConfirmTime)));
    let refusal = Refusal::LevelTooLow { needed: TWO, active: ONE };
    assert_eq!(applied.outcome, Outcome::Refused(refusal.clone()));
    assert_eq!(refusal.code(), Code::LevelTooLow);
    assert!(world.state == before);

    let applied = world.apply(&world.request(raise(TWO)));
    assert_eq!(applied.outcome, Outcome::LevelRaised { level: TWO });
    assert_eq!(applied.events, [Event::LevelRaised { level: TWO }]);
    assert_eq!(world.state.level(), TWO);
    let applied = world.apply(&world.request(Command::ConfirmTime(ConfirmTime)));
    assert!(applied.outcome.refusal().is_none(), "{applied:?}");
}

#[test]
fn level_never_falls_and_needs_no_fleet() {
    let mut world = World::empty();
    world.ok(raise(TWO));
    for to in [ONE, TWO] {
        let applied = world.run(raise(to));
        assert_eq!(applied.outcome, Outcome::LevelRaised { level: TWO });
        assert_eq!(applied.events, []);
    }
    assert!(world.state.fleet().is_none());
}

/// What a release froze stays at its level for ever: an older program reads exactly these.
#[test]
fn level_of_each_command_is_frozen() {
    let of_two = ["raise_level", "freeze_time", "freeze_time-stopped", "confirm_time"];
    for (name, request) in requests() {
        let tag = codec::encode_request(&request);
        let expected = if of_two.contains(&name.as_str()) { TWO } else { request.command.level() };
        assert_eq!(request.command.level(), expected, "{name}: {tag:02x?}");
        // Commands of level 1 have the tags up to 35, and carry no bundle.
        let is_old = command_tag(&tag) <= 35 && name != "commit_point-carried";
        assert_eq!(request.command.level() == ONE, is_old, "{name}");
    }
}

/// The tag of the last field of a request, which is its command.
fn command_tag(encoded: &[u8]) -> u64 {
    let mut rest = &encoded[1..];
    loop {
        let key = varint(&mut rest);
        if key >> 3 >= 16 {
            return key >> 3;
        }
        match key & 7 {
            0 => drop(varint(&mut rest)),
            2 => {
                let length = usize::try_from(varint(&mut rest)).unwrap();
                rest = &rest[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, tail) = rest.split_first().unwrap();
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    unreachable!("a varint ends")
}

#[test]
fn level_above_the_programs_own_is_not_read() {
    let mut request = codec::encode_request(&World::new().request(raise(TWO)));
    assert_eq!(request.pop(), Some(2));
    request.push(3);
    assert!(matches!(codec::decode_request(&request), Err(DecodeError::Unknown { .. })));
    request.pop();
    request.push(0);
    assert!(matches!(codec::decode_request(&request), Err(DecodeError::Field { .. })));

    let mut world = World::empty();
    let first = state_bytes(&world.state);
    world.ok(raise(TWO));
    world.now_ms = 0;
    let mut second = state_bytes(&world.state);
    assert!(second.len() > first.len(), "the first level is not written");
    // The meta row ends with tag 19 and the level; the end row has eight bytes.
    let at = second.len() - 9;
    assert_eq!(second[at], 2);
    for (level, is_unknown) in [(3, true), (1, false), (0, true)] {
        second[at] = level;
        let error = codec::read_state(&mut &second[..]).unwrap_err();
        assert_eq!(matches!(error, DecodeError::Unknown { .. }), is_unknown, "{level}: {error:?}");
    }
    assert_eq!(State::new().level(), ONE);
}

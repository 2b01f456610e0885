use coordinator_core::{
    InitFleet, LogContext, RaiseLevel, RecoveryPublicKey, Request, Voters, apply,
};
use proto_types::env::SystemRandom;
use proto_types::{FleetId, Level, LogIndex};

use super::*;

const FLEET: FleetId = FleetId::from_bytes([7; 16]);
const NOW: LogTime = LogTime::from_millis(1_795_219_200_000);
const YEAR_MS: u64 = NOTICE_MS;

fn run(state: &mut State, command: Command) {
    let voters = Voters::of([proto_types::NodeId::new(1)].into());
    let log = LogContext { index: LogIndex::new(1), voters: &voters };
    let applied = apply(state, &Request { session: None, time: NOW, sender: None, command }, &log);
    assert!(applied.outcome.refusal().is_none(), "{:?}", applied.outcome);
}

/// Does what is owed; the severity of the finding that stands then.
fn round(authority: &Authority, state: &mut State, now: LogTime) -> Option<Severity> {
    for command in authority.owed(state, now) {
        run(state, command);
    }
    assert_eq!(authority.owed(state, now), [], "nothing is owed twice");
    state.findings().next().map(|(key, finding)| {
        assert_eq!(key.kind, "authority-expires");
        finding.severity
    })
}

#[test]
fn authority_is_recorded_once_and_its_end_is_told_a_year_ahead() {
    let root = proto::authority::Root::create(FLEET, NOW, &SystemRandom).unwrap();
    let intermediate = root.intermediate(FLEET, NOW, &SystemRandom).unwrap();
    let mut authority = Authority { intermediate, sealed: None };
    let mut state = State::new();
    run(
        &mut state,
        Command::InitFleet(InitFleet {
            fleet: FLEET,
            name: "home".to_owned(),
            recovery: RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] },
        }),
    );
    run(&mut state, Command::RaiseLevel(RaiseLevel { to: Level::new(2) }));
    assert_eq!(round(&authority, &mut state, NOW), None);
    assert!(state.authority().is_none(), "who has no sealed key records nothing");
    authority.sealed = Some(b"sealed".to_vec());
    assert_eq!(round(&authority, &mut state, NOW), None);
    let recorded = state.authority().unwrap();
    assert_eq!(recorded.root_certificate, root.certificate());
    assert_eq!(recorded.sealed_root_key, b"sealed");

    let year = |years: u64| NOW.plus_millis(years * YEAR_MS);
    assert_eq!(round(&authority, &mut state, year(4)), None);
    let warning = round(&authority, &mut state, year(4).plus_millis(2000));
    assert_eq!(warning, Some(Severity::Warning));
    let (_, finding) = state.findings().next().unwrap();
    assert!(finding.message.contains("ends in 365 days"), "{}", finding.message);
    assert_eq!(round(&authority, &mut state, year(5)), Some(Severity::Critical));
    // A renewed one clears it.
    authority.intermediate = root.intermediate(FLEET, year(5), &SystemRandom).unwrap();
    assert_eq!(round(&authority, &mut state, year(5)), None);
}

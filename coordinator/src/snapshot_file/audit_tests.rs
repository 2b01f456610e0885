//! The audit log in a snapshot: recomputed, and what is not there is said.

use std::sync::Arc;

use coordinator_core::{
    Actor, Command, ConfirmTime, Event, LogContext, RaiseLevel, Request, Sender, Voters, apply,
};
use proto_types::{ClusterId, Level, LogIndex, LogTime};

use super::tests::{FLEET, Made, state};
use super::*;

/// A state with so many entries, and its closed segments.
fn audited(entries: u64) -> (coordinator_core::State, Vec<Arc<coordinator_core::Segment>>) {
    let mut state = state();
    let mut segments = Vec::new();
    let actor = Actor::Agent(ClusterId::from_bytes([4; 16]));
    let sender = Sender { actor, certificate: None, via: proto_types::NodeId::new(1) };
    let voters = Voters::default();
    for index in 0..=entries {
        let (command, sender) = match index {
            0 => (Command::RaiseLevel(RaiseLevel { to: Level::new(2) }), None),
            _ => (Command::ConfirmTime(ConfirmTime), Some(sender.clone())),
        };
        let request = Request { session: None, time: LogTime::from_millis(9), sender, command };
        let log = LogContext { index: LogIndex::new(index + 2), voters: &voters };
        for event in apply(&mut state, &request, &log).events {
            if let Event::AuditSegmentClosed { segment } = event {
                segments.push(segment);
            }
        }
    }
    (state, segments)
}

fn made(state: &coordinator_core::State, entries: &[(String, Vec<u8>)]) -> Made {
    let mut encoded = Vec::new();
    coordinator_core::codec::write_state(state, &mut encoded).unwrap();
    let nodes = [1, 2, 3].into();
    let meta = Meta::new(FLEET, "home".to_owned(), (3, 7), (40, 41), 5, false, true, nodes);
    let mut all =
        vec![(META.to_owned(), serde_json::to_vec(&meta).unwrap()), (STATE.to_owned(), encoded)];
    all.extend_from_slice(entries);
    Made::of(all)
}

#[test]
fn audit_in_a_snapshot_is_recomputed_from_the_first_entry_to_the_last() {
    let (state, segments) = audited(2 * 1024 + 7);
    let entry = |n: usize| (audit_entry_name(n as u64), segments[n].encode());
    let whole = made(&state, &[entry(0), entry(1)]).file();
    let found = inspect(&whole[..]).unwrap();
    assert_eq!(found.audit, AuditFound { head: state.audit().head(), missing: 0 });
    assert_eq!(found.meta.version, 3);
    let mut numbers = Vec::new();
    audit_entries(&whole[..], &found.state, |entry, _| numbers.push(entry.number)).unwrap();
    assert!(numbers.into_iter().eq(1..=2055));

    // What the coordinator lacked is missing, and the rest still leads to the state.
    for (there, missing) in [(vec![], 2048), (vec![entry(1)], 1024), (vec![entry(0)], 1024)] {
        let found = inspect(&made(&state, &there).file()[..]).unwrap();
        assert_eq!(found.audit.missing, missing);
    }
    let (other, other_segments) = audited(1024);
    assert_ne!(other.audit().base(), state.audit().base());
    let renamed = |n: usize, name: u64| (audit_entry_name(name), segments[n].encode());
    let mut forged = (*segments[1]).clone();
    forged.entries.swap(0, 1);
    let mut changed = (*segments[1]).clone();
    let mut last = coordinator_core::codec::decode_audit_entry(&changed.entries[1023]).unwrap();
    last.act = "another-act".to_owned();
    changed.entries[1023] = coordinator_core::codec::encode_audit_entry(&last).into();
    for (what, entries, part) in [
        ("another name", vec![renamed(0, 1)], "another one than its name says"),
        ("out of order", vec![entry(1), entry(0)], "does not follow"),
        ("twice", vec![entry(0), entry(0)], "does not follow"),
        ("swapped entries", vec![entry(0), (audit_entry_name(1), forged.encode())], "belongs"),
        ("a changed entry", vec![entry(0), (audit_entry_name(1), changed.encode())], "lead"),
        ("more than the state", vec![entry(0), entry(1), renamed(1, 2)], "name"),
        ("no segment", vec![(audit_entry_name(0), b"something".to_vec())], "no whole segment"),
    ] {
        let error = inspect(&made(&state, &entries).file()[..]).unwrap_err();
        assert_eq!(error.code(), Code::Damaged, "{what}");
        assert!(error.to_string().contains(part), "{what}: {error}");
    }
    // Of another log of the same fleet.
    let strange = (audit_entry_name(0), other_segments[0].encode());
    assert!(inspect(&made(&other, &[strange]).file()[..]).is_ok());
    let mut late = (*other_segments[0]).clone();
    late.previous.hash[0] ^= 1;
    let bad = made(&other, &[(audit_entry_name(0), late.encode())]);
    assert_eq!(inspect(&bad.file()[..]).unwrap_err().code(), Code::Damaged);
}

//! Encoded bytes: exact, bounded, and refused when they are not what an encoder wrote.

use coordinator_core::codec::{self, DecodeError};
use coordinator_core::{
    Actor, Command, ExpireLeases, FindingKey, RaiseFinding, RecordHolders, Request, Scope, Sender,
    Severity, State,
};
use proto_types::{BundleKind, Code, LogTime, NodeId};

use crate::fixtures::{outcomes, requests, state, state_bytes};
use crate::scenario::{Draft, World, bundle, cluster, dek, lease, register_cluster, session};

#[test]
fn codec_refuses_other_versions_and_nothing() {
    let mut request = codec::encode_request(&requests()[0].1);
    let mut outcome = codec::encode_outcome(&outcomes()[0].1);
    let mut state = state_bytes(&State::new());
    assert_eq!((request[0], outcome[0], &state[8..10]), (1, 1, &[1, 0][..]));
    for version in [0, 2, 255] {
        request[0] = version;
        outcome[0] = version;
        state[8] = version;
        for error in [
            codec::decode_request(&request).unwrap_err(),
            codec::decode_outcome(&outcome).unwrap_err(),
            codec::read_state(&mut &state[..]).unwrap_err(),
        ] {
            assert!(
                matches!(error, DecodeError::UnsupportedVersion { found, newest: 1, .. } if found == version.into())
            );
            assert_eq!(error.code(), Code::UnsupportedVersion);
        }
    }
    assert!(matches!(codec::decode_request(&[]), Err(DecodeError::Empty { .. })));
    assert!(matches!(codec::decode_outcome(&[]), Err(DecodeError::Empty { .. })));
    // A version without a command.
    assert!(matches!(
        codec::decode_request(&[1]),
        Err(DecodeError::Field { field: "command", .. })
    ));
}

#[test]
fn codec_refuses_what_it_does_not_know() {
    // A command of a newer program (tag 500), an unknown field beside a known command, an unknown
    // outcome, and a row of an unknown kind.
    let unknown_command = [1, 0x18, 5, 0xa2, 0x1f, 0];
    let mut unknown_field = codec::encode_request(&requests()[0].1);
    unknown_field.extend([0x78, 1]);
    for bytes in [&unknown_command[..], &unknown_field] {
        let error = codec::decode_request(bytes).unwrap_err();
        assert!(matches!(error, DecodeError::Unknown { .. }), "{error:?}");
        assert_eq!(error.code(), Code::UnsupportedVersion);
    }
    let error = codec::decode_outcome(&[1, 0x08, 99]).unwrap_err();
    assert!(matches!(error, DecodeError::Unknown { .. }));
    let rows = [vec![0x0a, 0], vec![0x5a, 0]];
    let error = codec::read_state(&mut &stream(&rows)[..]).unwrap_err();
    assert!(matches!(error, DecodeError::Unknown { .. }), "{error:?}");
}

/// Whatever bytes are read, they are the only bytes that say so.
#[test]
fn codec_reads_only_what_it_writes() {
    for (name, request) in requests() {
        let bytes = codec::encode_request(&request);
        for bad in spoilt(&bytes) {
            if let Ok(other) = codec::decode_request(&bad) {
                assert_eq!(codec::encode_request(&other), bad, "{name}");
                assert_ne!(other, request, "{name}");
            }
        }
    }
    for (name, outcome) in outcomes() {
        let bytes = codec::encode_outcome(&outcome);
        for bad in spoilt(&bytes) {
            if let Ok(other) = codec::decode_outcome(&bad) {
                assert_eq!(codec::encode_outcome(&other), bad, "{name}");
                assert_ne!(other, outcome, "{name}");
            }
        }
    }
}

/// Every truncation, and every byte with one of its bits flipped.
fn spoilt(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let cut = (0..bytes.len()).map(|len| bytes[..len].to_vec());
    let flipped = (0..bytes.len()).map(|at| {
        let mut bad = bytes.to_vec();
        bad[at] ^= 1 << (at % 8);
        bad
    });
    cut.chain(flipped)
}

/// The rows of an encoded state, without its end.
fn rows(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &bytes[10..];
    let mut rows = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (row, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        rows.push(row.to_vec());
        rest = tail;
    }
    rows.pop();
    rows
}

/// A whole encoded state of these rows, with its end.
fn stream(rows: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(rows.len()).unwrap();
    assert!(count < 128, "a varint of one byte");
    let end = vec![0x7a, 2, 0x08, count];
    let mut bytes = [&b"SRSTATE\0"[..], &[1, 0]].concat();
    for row in rows.iter().chain([&end]) {
        bytes.extend(u32::try_from(row.len()).unwrap().to_le_bytes());
        bytes.extend(row);
    }
    bytes
}

#[test]
fn state_round_trips_and_leaves_what_follows() {
    for state in [State::new(), World::new().state, state()] {
        let mut bytes = state_bytes(&state);
        bytes.extend(b"what follows");
        let mut input = &bytes[..];
        assert!(codec::read_state(&mut input).unwrap() == state);
        assert_eq!(input, b"what follows");
    }
}

#[test]
fn state_cut_short_anywhere_is_refused() {
    let bytes = state_bytes(&state());
    for len in 0..bytes.len() {
        let error = codec::read_state(&mut &bytes[..len]).unwrap_err();
        assert!(matches!(error, DecodeError::Read(_)), "{len}: {error:?}");
    }
    let mut other = bytes;
    other[0] ^= 1;
    let error = codec::read_state(&mut &other[..]).unwrap_err();
    assert!(matches!(error, DecodeError::NotAState));
    assert_eq!(error.code(), Code::Damaged);
}

#[test]
fn state_with_a_row_lost_or_twice_is_refused() {
    let state = state();
    let all = rows(&state_bytes(&state));
    assert!(codec::read_state(&mut &stream(&all)[..]).unwrap() == state);
    for at in 0..all.len() {
        let mut twice = all.clone();
        twice.insert(at, all[at].clone());
        let error = codec::read_state(&mut &stream(&twice)[..]).unwrap_err();
        assert!(matches!(error, DecodeError::Contradiction { .. }), "row {at}: {error:?}");
        // Lost with the count as it was, any row is missed.
        let mut lost = stream(&all);
        let end = lost.split_off(lost.len() - 8);
        let mut fewer = all.clone();
        fewer.remove(at);
        let mut lost = stream(&fewer);
        lost.truncate(lost.len() - 8);
        lost.extend(end);
        let error = codec::read_state(&mut &lost[..]).unwrap_err();
        assert!(
            matches!(error, DecodeError::RowCount { .. } | DecodeError::Contradiction { .. }),
            "row {at}: {error:?}"
        );
        // Lost and not counted, a row that others refer to is missed.
        let is_referred_to = matches!(all[at][0], 0x0a | 0x1a | 0x22);
        if is_referred_to {
            let error = codec::read_state(&mut &stream(&fewer)[..]).unwrap_err();
            assert!(matches!(error, DecodeError::Contradiction { .. }), "row {at}: {error:?}");
        }
    }
}

#[test]
fn state_whose_heads_are_not_its_newest_points_is_refused() {
    let mut world = World::with_first_point();
    world.commit_unchanged(1);
    let mut all = rows(&state_bytes(&world.state));
    assert_eq!(all.pop().unwrap()[0], 0x22, "the newest point is the last row");
    let error = codec::read_state(&mut &stream(&all)[..]).unwrap_err();
    assert!(matches!(error, DecodeError::Contradiction { .. }), "{error:?}");
}

#[test]
fn state_with_an_absurd_row_length_is_refused_before_it_is_read() {
    let mut bytes = [&b"SRSTATE\0"[..], &[1, 0]].concat();
    bytes.extend(u32::MAX.to_le_bytes());
    let error = codec::read_state(&mut &bytes[..]).unwrap_err();
    assert!(matches!(error, DecodeError::RowTooLong { bytes: u32::MAX }));
}

#[test]
fn state_read_errors_are_passed_on() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let error = codec::read_state(&mut Broken).unwrap_err();
    assert_eq!(error.code(), Code::LocalIo);
}

/// Every command at its bounds is a log entry under 4 KiB.
#[test]
fn entries_at_their_bounds_stay_under_4_kib() {
    let mut world = World::new();
    let mut labelled = register_cluster(2);
    labelled.name = "x".repeat(63);
    labelled.labels = (0..32).map(|n| (format!("{n:03}"), "x".repeat(61))).collect();
    labelled.kube_system_uid = Some("x".repeat(64));
    let commands = vec![
        Command::RegisterCluster(labelled),
        Command::ExpireLeases(ExpireLeases { leases: (0..128).map(lease).collect() }),
        Command::RecordHolders(RecordHolders {
            node: NodeId::new(1),
            present: (0..112).map(|n| bundle(&n.to_string())).collect(),
            absent: vec![],
            home: proto_types::LogIndex::new(0),
        }),
        Command::RaiseFinding(RaiseFinding {
            key: FindingKey {
                scope: Scope::Cluster(cluster(1)),
                kind: "x".repeat(64),
                subject: "x".repeat(256),
            },
            severity: Severity::Info,
            message: "x".repeat(1_024),
            remedy: "x".repeat(1_024),
        }),
    ];
    for command in commands {
        let name = command.name();
        let request = worst_case(&command);
        assert!(codec::encode_request(&request).len() < 4_096, "{name}");
        world.ok(command);
    }
}

#[test]
fn entries_of_commits_are_never_longer_than_estimated() {
    // A repack of over 120 bundles, and more and more keys.
    let mut world = World::with_first_point();
    for point in 2..=18_u64 {
        let lease = world.open(1);
        let mut draft = Draft::delta(&world, 1, lease);
        for n in 0..6 {
            draft.add_labelled(BundleKind::Config, format!("c{point}-{n}"));
        }
        world.ok(draft.command());
    }
    assert_eq!(world.head(1).unwrap().needs.len(), 124);
    let lease = world.open(1);
    let mut draft = Draft::repack(&world, 1, lease);
    for at in 2.. {
        let commit = draft.build();
        let encoded = codec::encode_request(&worst_case(&draft.command())).len() as u64;
        assert!(encoded <= commit.entry_bytes(), "{encoded} > {}", commit.entry_bytes());
        if commit.entry_bytes() > 4_096 {
            assert!(at > 16, "only {at} keys fit beside a repack");
            break;
        }
        for letter in ['c', 'm', 'k'] {
            draft.edit(letter, |header| header.dek_ids.push(dek(at)));
        }
    }
}

/// The command with the longest numbers around it.
fn worst_case(command: &Command) -> Request {
    Request {
        session: Some((session(255), u64::MAX)),
        time: LogTime::from_millis(u64::MAX),
        sender: Some(Sender {
            actor: Actor::Agent(cluster(255)),
            certificate: Some([255; 32]),
            via: NodeId::new(u64::MAX),
        }),
        command: command.clone(),
    }
}

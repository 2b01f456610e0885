//! What signed headers and statements must say (K3, the side of `apply`).

use coordinator_core::{HeaderField, HeaderProblem, Refusal};
use proto_types::{
    BundleId, BundleKind, ClearHeader, ClusterId, Code, Epoch, FleetId, KeyFingerprint, LogTime,
};

use crate::scenario::{Draft, World, bundle, check, cluster, public_key, seq, signing_key};

/// A world with one point and an open upload, and a draft that adds a bundle of every kind.
fn everything() -> (World, Draft) {
    let mut world = World::with_first_point();
    let lease = world.open(1);
    let draft = Draft::repack(&world, 1, lease);
    (world, draft)
}

const LETTERS: [char; 4] = ['c', 'm', 'k', 'w'];

/// Invariant K3: only what the cluster's registered key signed comes in, of whatever kind.
#[test]
fn invariant_k3_bundles_of_strangers_are_refused() {
    for letter in LETTERS {
        let id = bundle(&format!("{letter}2"));
        let refused = |problem| Refusal::HeaderRefused { bundle: id, problem };
        // A stranger who says so, and one who names the cluster's key.
        let (world, mut draft) = everything();
        let stranger = signing_key(66);
        draft.bundle(letter).signer = stranger.clone();
        let expect = refused(HeaderProblem::BadSignature);
        assert_eq!(expect.code(), Code::BadSignature);
        check(&world, draft.command(), Err(expect));
        draft.edit(letter, |header| header.signer = public_key(&stranger));
        check(&world, draft.command(), Err(refused(HeaderProblem::WrongSigner)));
    }
}

#[test]
fn invariant_k3_a_flipped_bit_of_any_header_is_refused() {
    let (world, draft) = everything();
    let honest = draft.build();
    let coordinator_core::Content::Changed(content) = &honest.content else { unreachable!() };
    let length = content.added[0].header.len();
    // Every 7th bit: all bytes are touched, and all bit positions.
    for bit in (0..length * 8).step_by(7) {
        let mut forged = honest.clone();
        let coordinator_core::Content::Changed(content) = &mut forged.content else {
            unreachable!()
        };
        content.added[0].header[bit / 8] ^= 1 << (bit % 8);
        let mut world = world.clone();
        let command = coordinator_core::Command::CommitPoint(Box::new(forged));
        let refusal = world.refused(command);
        assert!(matches!(refusal, Refusal::HeaderRefused { .. }), "bit {bit}: {refusal:?}");
    }
}

#[test]
fn invariant_k3_headers_are_of_exactly_this_point() {
    type Change = fn(&mut ClearHeader);
    let cases: [(HeaderField, Code, Change); 7] = [
        (HeaderField::Fleet, Code::WrongFleet, |h| h.fleet = FleetId::from_bytes([2; 16])),
        (HeaderField::Cluster, Code::WrongCluster, |h| {
            h.cluster = ClusterId::from_bytes([2; 16]);
        }),
        (HeaderField::Lineage, Code::StaleHead, |h| h.lineage = 1),
        (HeaderField::Sequence, Code::StaleHead, |h| h.sequence = seq(1)),
        (HeaderField::Epoch, Code::StaleEpoch, |h| h.epoch = Epoch::new(2)),
        // A length at which the sum would overflow.
        (HeaderField::Bytes, Code::DigestMismatch, |h| h.body_bytes = u64::MAX),
        (HeaderField::Bytes, Code::DigestMismatch, |h| h.body_bytes = u64::MAX - 400),
    ];
    for letter in LETTERS {
        for (field, code, change) in cases {
            let (world, mut draft) = everything();
            draft.edit(letter, change);
            if field == HeaderField::Bytes {
                draft.bundle(letter).extra_bytes = 1;
            }
            let expect = Refusal::HeaderMismatch { bundle: bundle(&format!("{letter}2")), field };
            assert_eq!(expect.code(), code);
            check(&world, draft.command(), Err(expect));
        }
    }
}

#[test]
fn invariant_k3_manifests_and_key_bundles_name_their_predecessor() {
    let mismatch = |letter: char| Refusal::HeaderMismatch {
        bundle: bundle(&format!("{letter}2")),
        field: HeaderField::Predecessor,
    };
    assert_eq!(mismatch('m').code(), Code::Rollback);
    for letter in ['m', 'k', 'w'] {
        for other in [BundleId::ZERO, bundle("c1"), bundle("w1")] {
            let (world, mut draft) = everything();
            draft.edit(letter, |header| header.predecessor = other);
            check(&world, draft.command(), Err(mismatch(letter)));
        }
    }
    // The first ones have none.
    for letter in ['m', 'k'] {
        let mut world = World::new();
        let lease = world.open(1);
        let mut draft = Draft::first(&world, 1, lease);
        draft.edit(letter, |header| header.predecessor = bundle("x"));
        assert!(matches!(
            world.refused(draft.command()),
            Refusal::HeaderMismatch { field: HeaderField::Predecessor, .. }
        ));
    }
}

#[test]
fn invariant_k3_keys_are_sealed_to_the_fleets_recovery_key() {
    for letter in ['k', 'w'] {
        let (world, mut draft) = everything();
        draft.edit(letter, |header| header.recovery_key = KeyFingerprint::from_bytes([1; 32]));
        let expect = Refusal::HeaderMismatch {
            bundle: bundle(&format!("{letter}2")),
            field: HeaderField::RecoveryKey,
        };
        assert_eq!(expect.code(), Code::WrongKey);
        check(&world, draft.command(), Err(expect));
    }
}

#[test]
fn invariant_k3_wraps_may_be_replaced_alone() {
    let mut world = World::with_first_point();
    let lease = world.open(1);
    let mut draft = Draft::delta(&world, 1, lease);
    draft.dropped = vec![bundle("w1")];
    draft.wraps = draft.add(BundleKind::Wraps);
    world.ok(draft.command());
    assert_eq!(world.head(1).unwrap().wraps, bundle("w2"));
    assert_eq!(world.head(1).unwrap().key_bundle, bundle("k1"));
}

#[test]
fn invariant_k3_a_statement_is_signed_over_the_head() {
    let world = World::with_first_point();
    let expect = Refusal::BadStatement { cluster: cluster(1), sequence: seq(2) };
    assert_eq!(expect.code(), Code::BadSignature);
    // By a stranger.
    let mut draft = Draft::unchanged(&world, 1);
    draft.statement_signer = Some(signing_key(66));
    check(&world, draft.command(), Err(expect.clone()));
    // Over another manifest or key bundle than the head's.
    let mut draft = Draft::unchanged(&world, 1);
    draft.manifest = bundle("c1");
    check(&world, draft.command(), Err(expect.clone()));
    let mut draft = Draft::unchanged(&world, 1);
    draft.key_bundle = bundle("c1");
    check(&world, draft.command(), Err(expect.clone()));
    // Sent with another time than was signed.
    let mut commit = Draft::unchanged(&world, 1).build();
    commit.taken = LogTime::from_millis(1);
    let command = coordinator_core::Command::CommitPoint(Box::new(commit));
    check(&world, command, Err(expect));
    // And there must be a point before.
    let world = World::new();
    let draft = Draft::unchanged(&world, 1);
    check(&world, draft.command(), Err(Refusal::FirstPointUnchanged { cluster: cluster(1) }));
}

#[test]
fn headers_that_cannot_be_read_say_why() {
    let (world, draft) = everything();
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, HeaderProblem, Code); 4] = [
        (|h| h.truncate(40), HeaderProblem::Malformed, Code::Damaged),
        (|h| h.clear(), HeaderProblem::Malformed, Code::Damaged),
        (|h| h[0] = 2, HeaderProblem::Unsupported, Code::UnsupportedVersion),
        (|h| h[2] = 2, HeaderProblem::Unsupported, Code::UnsupportedVersion),
    ];
    for (change, problem, code) in cases {
        let mut commit = draft.build();
        let coordinator_core::Content::Changed(content) = &mut commit.content else {
            unreachable!()
        };
        change(&mut content.added[0].header);
        let expect = Refusal::HeaderRefused { bundle: content.added[0].id, problem };
        assert_eq!(expect.code(), code);
        check(&world, coordinator_core::Command::CommitPoint(Box::new(commit)), Err(expect));
    }
}

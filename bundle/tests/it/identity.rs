//! Invariants K2 and K3: nothing sealed for one cluster, point, key or place passes for another,
//! whoever signs the header; and what cannot be known of origin and freshness is said.

use bundle::{
    BlobOpener, Expect, Freshness, OpenError, Origin, check_freshness, open_key_bundle,
    open_manifest, open_wraps_with_kek, open_wraps_with_recovery, verify_bytes,
};
use proto_types::{
    BundleId, BundleKind, ClearHeader, ClusterId, Code, FleetId, Generation, KeyFingerprint,
    Sequence,
};

use crate::world::{CLUSTER, FLEET, World, config_of, forge, forge_header, item, records_of};

type Change = fn(&mut ClearHeader);

#[test]
fn expectations_are_compared_one_by_one() {
    let world = World::new(1);
    let file = &world.full_file;
    let good = world.expect().of_kind(BundleKind::Manifest).at(Sequence::new(1));
    assert_eq!(verify_bytes(file, &good).unwrap().origin, Origin::Proven);
    let code = |expect: Expect| verify_bytes(file, &expect).unwrap_err().code();
    assert_eq!(code(Expect { fleet: Some(FleetId::ZERO), ..good }), Code::WrongCluster);
    assert_eq!(code(Expect { cluster: Some(ClusterId::ZERO), ..good }), Code::WrongCluster);
    assert_eq!(code(good.of_kind(BundleKind::Key)), Code::Damaged);
    // An older point offered as a newer one, and the other way round.
    assert_eq!(code(good.at(Sequence::new(2))), Code::Rollback);
    let newer = verify_bytes(&world.delta_file, &good).unwrap_err();
    assert_eq!(newer.code(), Code::Damaged);
    assert!(matches!(newer, OpenError::WrongSequence { .. }));
    let stranger = World::new(2).signing.public();
    assert_eq!(code(good.signed_by(stranger)), Code::BadSignature);
}

#[test]
fn invariant_k3_an_unpinned_signer_is_unproven_and_named() {
    let world = World::new(1);
    let verified = verify_bytes(&world.full_file, &Expect::anything()).unwrap();
    assert_eq!(verified.origin, Origin::Unproven(world.signing.public().fingerprint()));
    let forged = forge_header(&world.full_file, |_| {});
    let verified = verify_bytes(&forged, &Expect::anything()).unwrap();
    assert_ne!(verified.origin, Origin::Unproven(world.signing.public().fingerprint()));
    let error = verify_bytes(&forged, &world.expect()).unwrap_err();
    assert_eq!(error.code(), Code::BadSignature);
}

#[test]
fn invariant_k3_an_unsigned_manifest_is_refused() {
    let world = World::new(1);
    let mut unsigned = world.full_file.clone();
    let end = unsigned.len() - 12;
    unsigned[end - 64..end].fill(0);
    for expect in [Expect::anything(), world.expect()] {
        let error = open_manifest(&unsigned, &world.keyring, &expect).unwrap_err();
        assert_eq!(error.code(), Code::BadSignature);
    }
}

#[test]
fn invariant_k3_an_older_head_is_found_out() {
    let [old, new, other] = [1, 2, 3].map(|n| BundleId::from_bytes([n; 32]));
    let (first, second) = (Sequence::new(1), Sequence::new(2));
    let check = |known, offered| check_freshness(known, offered);
    assert_eq!(check(None, (first, old)).unwrap(), Freshness::Unproven);
    assert_eq!(check(Some((first, old)), (second, new)).unwrap(), Freshness::Proven);
    assert_eq!(check(Some((second, new)), (second, new)).unwrap(), Freshness::Proven);
    let error = check(Some((second, new)), (first, old)).unwrap_err();
    assert!(matches!(error, OpenError::Rollback { .. }));
    assert_eq!(error.code(), Code::Rollback);
    let error = check(Some((second, new)), (second, other)).unwrap_err();
    assert!(matches!(error, OpenError::Forked { .. }));
    assert_eq!(error.code(), Code::Rollback);
}

/// A blob does not open as one of another fleet or cluster, or under another id or DEK.
#[test]
fn invariant_k2_a_blob_is_bound_to_its_cluster_id_and_dek() {
    let world = World::new(1);
    let (_, file, refs) = config_of(&world.keyring, &world.random, &[b"aaaa", b"bbbb"]);
    let record = |n: usize| {
        let range = refs[n].record_range();
        &file[range.start as usize..range.end as usize]
    };
    BlobOpener::new(&world.keyring, FLEET, CLUSTER).open(record(0), &refs[0]).unwrap();
    for (fleet, cluster) in [(FleetId::ZERO, CLUSTER), (FLEET, ClusterId::ZERO)] {
        let outcome = BlobOpener::new(&world.keyring, fleet, cluster).open(record(0), &refs[0]);
        assert!(matches!(outcome, Err(OpenError::Blob(_))));
    }
    let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
    assert!(opener.open(record(1), &refs[0]).is_err());
    assert!(opener.open(record(0), &refs[1]).is_err());
    let older = world.keyring.dek_ids().into_iter().find(|id| *id != refs[0].dek).unwrap();
    let as_older = bundle::BlobRef { dek: older, ..refs[0] };
    assert!(matches!(opener.open(record(0), &as_older), Err(OpenError::Blob(_))));
    for plain_len in [0, 3, 5, u32::MAX] {
        let as_long = bundle::BlobRef { plain_len, ..refs[0] };
        assert!(matches!(opener.open(record(0), &as_long), Err(OpenError::Blob(_))));
    }
    let other = World::new(2);
    let outcome = BlobOpener::new(&other.keyring, FLEET, CLUSTER).open(record(0), &refs[0]);
    assert!(matches!(outcome, Err(OpenError::UnknownDek(dek)) if dek == refs[0].dek));
}

/// Whoever can sign cannot move a manifest to another identity: each field is associated data.
#[test]
fn invariant_k2_a_manifest_is_bound_to_every_field_of_its_identity() {
    let world = World::new(1);
    let changes: [(&str, Change); 6] = [
        ("fleet", |header| header.fleet = FleetId::ZERO),
        ("cluster", |header| header.cluster = ClusterId::ZERO),
        ("lineage", |header| header.lineage = 1),
        ("sequence", |header| header.sequence = Sequence::new(9)),
        ("predecessor", |header| header.predecessor = BundleId::from_bytes([7; 32])),
        ("base", |header| header.base = BundleId::from_bytes([7; 32])),
    ];
    for file in [&world.full_file, &world.delta_file] {
        let same = forge_header(file, |_| {});
        open_manifest(&same, &world.keyring, &Expect::anything()).unwrap();
        for (name, change) in changes {
            let forged = forge_header(file, change);
            let outcome = open_manifest(&forged, &world.keyring, &Expect::anything());
            let sealed = OpenError::Sealed { kind: BundleKind::Manifest, index: 0 };
            assert_eq!(outcome.unwrap_err().to_string(), sealed.to_string(), "{name}");
        }
        let other_dek = world.keyring.dek_ids().into_iter();
        let other_dek = other_dek.filter(|dek| *dek != world.keyring.current_dek()).collect();
        let forged = forge_header(file, |header| header.dek_ids = other_dek);
        let outcome = open_manifest(&forged, &world.keyring, &Expect::anything());
        assert!(matches!(outcome, Err(OpenError::Sealed { .. })));
        let forged = forge_header(file, |header| header.dek_ids.clear());
        assert!(open_manifest(&forged, &world.keyring, &Expect::anything()).is_err());
    }
}

#[test]
fn invariant_k2_a_key_bundle_is_bound_to_every_field_of_its_identity() {
    let world = World::new(1);
    let changes: [(&str, Change); 4] = [
        ("fleet", |header| header.fleet = FleetId::ZERO),
        ("cluster", |header| header.cluster = ClusterId::ZERO),
        ("lineage", |header| header.lineage = 1),
        ("sequence", |header| header.sequence = Sequence::new(9)),
    ];
    let same = forge_header(&world.key, |_| {});
    assert!(open_key_bundle(&same, &world.content_key, &Expect::anything()).is_ok());
    for (name, change) in changes {
        let forged = forge_header(&world.key, change);
        let outcome = open_key_bundle(&forged, &world.content_key, &Expect::anything());
        assert!(matches!(outcome, Err(OpenError::Sealed { index: 0, .. })), "{name}");
    }
    // A header that promises other DEKs than are inside (invariant B4).
    let forged = forge_header(&world.key, |header| _ = header.dek_ids.pop());
    let outcome = open_key_bundle(&forged, &world.content_key, &Expect::anything());
    assert!(matches!(outcome, Err(OpenError::Contents { .. })));
}

#[test]
fn invariant_k2_wraps_are_bound_to_every_field_of_their_identity() {
    let world = World::new(1);
    let changes: [(&str, Change); 4] = [
        ("fleet", |header| header.fleet = FleetId::ZERO),
        ("cluster", |header| header.cluster = ClusterId::ZERO),
        ("lineage", |header| header.lineage = 1),
        ("predecessor", |header| header.predecessor = BundleId::from_bytes([7; 32])),
    ];
    let expect = Expect::anything();
    let same = forge_header(&world.wraps, |_| {});
    assert!(open_wraps_with_kek(&same, &world.kek, &expect).is_ok());
    assert!(open_wraps_with_recovery(&same, &world.recovery, &expect).is_ok());
    for (name, change) in changes {
        let forged = forge_header(&world.wraps, change);
        let outcome = open_wraps_with_kek(&forged, &world.kek, &expect);
        assert!(matches!(outcome, Err(OpenError::Sealed { index: 0, .. })), "{name}");
        let outcome = open_wraps_with_recovery(&forged, &world.recovery, &expect);
        assert!(matches!(outcome, Err(OpenError::Sealed { index: 1, .. })), "{name}");
    }
    // Header and wraps say the same twice; where they differ, somebody meddled.
    let changes: [(u32, Change); 3] = [
        (0, |header| header.kek_generation = Generation::new(9)),
        (1, |header| header.recovery_key = KeyFingerprint::from_bytes([7; 32])),
        (2, |header| header.predecessor = BundleId::ZERO),
    ];
    for (index, change) in changes {
        let forged = forge_header(&world.wraps, change);
        let outcome = open_wraps_with_kek(&forged, &world.kek, &expect);
        match outcome.err().unwrap() {
            OpenError::Record { index: found } => assert_eq!(found, index),
            OpenError::Header(_) => assert_eq!(index, 2),
            other => panic!("{other}"),
        }
    }
}

/// Every byte of a wrap counts, even when all else is signed anew.
#[test]
fn invariant_k2_every_flipped_bit_of_a_wrap_is_noticed() {
    let world = World::new(1);
    let expect = Expect::anything();
    for which in [0, 1] {
        let records = records_of(&world.wraps);
        for at in 4..records[which].len() {
            for bit in 0..8 {
                let mut records = records.clone();
                records[which][at] ^= 1 << bit;
                let forged = forge(&records, |_| {}, &world.wraps);
                let opened = if which == 0 {
                    open_wraps_with_kek(&forged, &world.kek, &expect)
                } else {
                    open_wraps_with_recovery(&forged, &world.recovery, &expect)
                };
                // X25519 ignores the topmost bit of a point: the one bit that HPKE's key
                // schedule, which takes in the encapsulated key's bytes, must notice.
                assert!(opened.is_err(), "wrap {which}, byte {at}, bit {bit}");
            }
        }
    }
}

/// No record of a manifest or key bundle can be left out, moved, doubled or replaced.
#[test]
fn invariant_k2_records_are_bound_to_their_place_and_number() {
    let world = World::new(1);
    let manifest = crate::manifest::large(&world, 1);
    let file = crate::manifest::seal(&world, 1, &manifest);
    let records = records_of(&file);
    assert_eq!(records.len(), 4);
    let open = |records: &[Vec<u8>]| {
        let forged = forge(records, |_| {}, &file);
        open_manifest(&forged, &world.keyring, &Expect::anything()).map(|_| ())
    };
    open(&records).unwrap();
    let mut moved = records.clone();
    moved.swap(1, 2);
    let mut doubled = records.clone();
    doubled[2] = doubled[1].clone();
    let other = crate::manifest::seal(&world, 1, &crate::manifest::large(&world, 2));
    let mut replaced = records.clone();
    replaced[0] = records_of(&other)[1].clone();
    for bad in [&moved, &doubled, &replaced, &records[..3].to_vec(), &records[1..].to_vec()] {
        assert!(matches!(open(bad), Err(OpenError::Sealed { .. })));
    }

    let records = records_of(&world.key);
    let open = |records: &[Vec<u8>]| {
        let forged = forge(records, |_| {}, &world.key);
        open_key_bundle(&forged, &world.content_key, &Expect::anything()).map(|_| ())
    };
    open(&records).unwrap();
    let mut moved = records.clone();
    moved.swap(1, 2);
    for bad in [&moved, &records[..2].to_vec(), &records[1..].to_vec(), &Vec::new()] {
        assert!(open(bad).is_err());
    }
}

#[test]
fn lead_and_header_name_the_same_kind() {
    let world = World::new(1);
    let forged = forge_header(&world.full_file, |header| header.kind = BundleKind::Config);
    let error = verify_bytes(&forged, &Expect::anything()).unwrap_err();
    assert_eq!(error.to_string(), "the bundle's header field kind is not valid");
}

#[test]
fn a_manifest_of_another_cluster_is_refused_by_name() {
    let world = World::new(1);
    let error = open_manifest(
        &world.full_file,
        &world.keyring,
        &Expect::of(FLEET, ClusterId::from_bytes([0x33; 16])),
    )
    .unwrap_err();
    assert_eq!(error.code(), Code::WrongCluster);
    assert_eq!(
        error.to_string(),
        "the bundle belongs to cluster 22222222222222222222222222222222, not to \
         33333333333333333333333333333333"
    );
    // Paths are plaintext and stand in no error.
    let mut manifest = world.full.clone();
    manifest.items.push(item("a secret name", bundle::ItemKind::File, vec![]));
    let error = manifest.check().unwrap_err();
    assert_eq!(error.to_string(), "item 8 of the manifest is out of order or there twice");
}

//! Key bundles and wraps: the two ways in, the wrong keys, and the check before a commit (B4).

use std::collections::BTreeSet;

use bundle::{
    BlobId, Kek, KeyNeeds, OpenError, RecoveryPublic, RecoverySecret, SealError, Secrets,
    check_key_bundle, open_key_bundle, open_manifest, open_wraps_with_kek,
    open_wraps_with_recovery, read_wrap_names, seal_key_bundle, seal_wraps,
};
use proto_types::{BundleId, BundleKind, Code, DekId, Generation};

use crate::world::{Counting, STORE_SECRET, UNSEAL_KEY, World, header_of, identity};

fn needs(world: &World) -> KeyNeeds {
    let mut needs = world.full.key_needs();
    needs.add_file(&header_of(&world.full_file));
    needs
}

#[test]
fn key_bundle_opens_through_both_wraps() {
    let world = World::new(1);
    let by_kek = open_wraps_with_kek(&world.wraps, &world.kek, &world.expect()).unwrap();
    let by_recovery =
        open_wraps_with_recovery(&world.wraps, &world.recovery, &world.expect()).unwrap();
    for wraps in [by_kek, by_recovery] {
        assert_eq!(wraps.names.key_bundle, world.key_id);
        assert_eq!(wraps.names.kek_generation, Generation::new(1));
        assert_eq!(wraps.names.recovery_key, world.recovery.public().fingerprint());
        assert_eq!(wraps.file.id, BundleId::of(&world.wraps));
        let expect = world.expect().with_id(wraps.names.key_bundle);
        let opened = open_key_bundle(&world.key, &wraps.content_key, &expect).unwrap();
        assert_eq!(opened.secrets.len(), 2);
        for secret in [UNSEAL_KEY, STORE_SECRET] {
            let id = world.keyring.blob_id(secret);
            assert_eq!(opened.secrets.get(&id).unwrap(), secret);
        }
        assert_eq!(opened.keyring.dek_ids(), world.keyring.dek_ids());
        assert_eq!(opened.keyring.current_dek(), world.keyring.current_dek());
        assert_eq!(opened.keyring.kek_generation(), Generation::new(1));
        assert_eq!(opened.keyring.generation_of(&world.kek), Some(Generation::new(1)));
        assert_eq!(opened.keyring.signing_key().public(), world.signing.public());
        assert_eq!(opened.keyring.blob_id(b"x"), world.keyring.blob_id(b"x"));
        let manifest = open_manifest(&world.full_file, &opened.keyring, &world.expect()).unwrap();
        assert_eq!(manifest.manifest, world.full);
    }
}

#[test]
fn key_bundle_header_tells_what_apply_compares() {
    let world = World::new(1);
    let header = header_of(&world.key);
    assert_eq!(header.kind, BundleKind::Key);
    assert_eq!(header.dek_ids, world.keyring.dek_ids());
    assert_eq!(header.dek_ids.len(), 2);
    assert_eq!(header.recovery_key, world.recovery.public().fingerprint());
    assert_eq!(header.kek_generation, Generation::new(1));
    assert_eq!(header.blob_count, 3);
    let wraps = header_of(&world.wraps);
    assert_eq!((wraps.kind, wraps.predecessor), (BundleKind::Wraps, world.key_id));
    assert_eq!((wraps.blob_count, wraps.dek_ids), (2, vec![]));
    let names = read_wrap_names(&world.wraps, &world.expect()).unwrap();
    assert_eq!(names.key_bundle, world.key_id);
}

#[test]
fn wrong_keys_are_told_from_damage() {
    let world = World::new(1);
    let other = World::new(2);
    let error = open_wraps_with_kek(&world.wraps, &other.kek, &world.expect()).err().unwrap();
    assert!(matches!(error, OpenError::WrongKek(generation) if generation.get() == 1));
    assert_eq!(error.code(), Code::WrongKey);
    let error =
        open_wraps_with_recovery(&world.wraps, &other.recovery, &world.expect()).err().unwrap();
    assert_eq!(error.code(), Code::WrongKey);
    let fingerprint = |world: &World| world.recovery.public().fingerprint();
    assert!(matches!(error, OpenError::WrongRecoveryKey { expected, found }
        if expected == fingerprint(&world) && found == fingerprint(&other)));
    // Another point's content key.
    let outcome = open_key_bundle(&world.key, &other.content_key, &world.expect());
    assert!(matches!(outcome, Err(OpenError::Sealed { index: 0, .. })));
    // Another cluster's keyring.
    let outcome = open_manifest(&world.full_file, &other.keyring, &world.expect());
    assert_eq!(outcome.unwrap_err().code(), Code::KeyBundleIncomplete);
}

#[test]
fn invariant_b4_a_whole_key_bundle_passes_the_check() {
    let world = World::new(1);
    let needs = needs(&world);
    assert_eq!((needs.deks.len(), needs.secrets.len()), (1, 2));
    let mut of_file = KeyNeeds::default();
    of_file.add_file(&header_of(&world.delta_file));
    assert_eq!(of_file.deks, BTreeSet::from([world.keyring.current_dek()]));
    let pinned = world.recovery.public();
    let expect = world.expect().at(proto_types::Sequence::new(99));
    let opened =
        check_key_bundle(&world.key, &world.wraps, &world.kek, &pinned, &needs, &expect).unwrap();
    assert_eq!(opened.file.id, world.key_id);
}

#[test]
fn invariant_b4_what_the_key_bundle_lacks_is_named() {
    let world = World::new(1);
    let pinned = world.recovery.public();
    let check = |needs: &KeyNeeds, pinned: &RecoveryPublic, kek: &Kek| {
        check_key_bundle(&world.key, &world.wraps, kek, pinned, needs, &world.expect())
            .err()
            .unwrap()
    };
    let dek = DekId::from_bytes([9; 16]);
    let lacking = KeyNeeds { deks: BTreeSet::from([dek]), secrets: BTreeSet::new() };
    let error = check(&lacking, &pinned, &world.kek);
    assert!(matches!(error, OpenError::UnknownDek(id) if id == dek));
    assert_eq!(error.code(), Code::KeyBundleIncomplete);
    let secret = BlobId::from_bytes([9; 32]);
    let lacking = KeyNeeds { deks: BTreeSet::new(), secrets: BTreeSet::from([secret]) };
    let error = check(&lacking, &pinned, &world.kek);
    assert!(matches!(error, OpenError::MissingSecret(id) if id == secret));
    assert_eq!(error.code(), Code::KeyBundleIncomplete);
    let stranger = RecoverySecret::generate(&Counting::new(9)).public();
    let error = check(&needs(&world), &stranger, &world.kek);
    assert!(matches!(error, OpenError::NotThePinnedRecoveryKey { .. }));
    assert_eq!(error.code(), Code::WrongKey);
    let error = check(&needs(&world), &pinned, &World::new(2).kek);
    assert_eq!(error.code(), Code::WrongKey);
}

#[test]
fn invariant_b4_wraps_of_another_key_bundle_are_refused() {
    let world = World::new(1);
    let wrap = |content_key, key_bundle| {
        let (_, wraps) = seal_wraps(
            Vec::new(),
            &world.keyring,
            content_key,
            key_bundle,
            &identity(1),
            &world.recovery.public(),
            &world.random,
        )
        .unwrap();
        check_key_bundle(
            &world.key,
            &wraps,
            &world.kek,
            &world.recovery.public(),
            &needs(&world),
            &world.expect(),
        )
        .err()
    };
    assert!(wrap(&world.content_key, world.key_id).is_none());
    let error = wrap(&world.content_key, world.full_id).unwrap();
    assert!(matches!(error, OpenError::WrongWraps { expected, found }
        if expected == world.key_id && found == world.full_id));
    let error = wrap(&World::new(2).content_key, world.key_id).unwrap();
    assert!(matches!(error, OpenError::Sealed { .. }));
}

/// A new KEK: only the wraps are made anew, the key bundle stays, byte by byte.
#[test]
fn rewrapping_moves_no_data() {
    let mut world = World::new(1);
    let (old, new) = (&world.kek, Kek::generate(&world.random));
    world.keyring.add_kek(&new);
    let (sealed, wraps) = seal_wraps(
        Vec::new(),
        &world.keyring,
        &world.content_key,
        world.key_id,
        &identity(5),
        &world.recovery.public(),
        &world.random,
    )
    .unwrap();
    assert_eq!(sealed.header.header().kek_generation, Generation::new(2));
    let opened = open_wraps_with_kek(&wraps, &new, &world.expect()).unwrap();
    open_key_bundle(&world.key, &opened.content_key, &world.expect()).unwrap();
    let error = open_wraps_with_kek(&wraps, old, &world.expect()).err().unwrap();
    assert!(matches!(error, OpenError::WrongKek(generation) if generation.get() == 2));
}

#[test]
fn keyrings_of_many_generations_round_trip() {
    let mut world = World::new(1);
    for day in 0..10 {
        world.keyring.add_dek(proto_types::LogTime::from_millis(day), &world.random).unwrap();
        world.keyring.add_kek(&Kek::generate(&world.random));
    }
    let secrets = Secrets::new();
    let (_, content_key, file) = seal_key_bundle(
        Vec::new(),
        &world.keyring,
        &secrets,
        &identity(1),
        world.key_id,
        &world.recovery.public(),
        &world.random,
    )
    .unwrap();
    let opened = open_key_bundle(&file, &content_key, &world.expect()).unwrap();
    assert!(opened.secrets.is_empty());
    assert_eq!(opened.keyring.dek_ids(), world.keyring.dek_ids());
    assert_eq!(opened.keyring.dek_ids().len(), 12);
    assert_eq!(opened.keyring.kek_generation(), Generation::new(11));
    assert_eq!(opened.keyring.generation_of(&world.kek), Some(Generation::new(1)));
    assert!(!opened.keyring.dek_due(proto_types::LogTime::from_millis(9)));
    assert_eq!(header_of(&file).predecessor, world.key_id);
}

#[test]
fn secrets_are_held_once_and_dropped_on_demand() {
    let world = World::new(1);
    let mut secrets = Secrets::new();
    let id = secrets.insert(&world.keyring, b"one");
    assert_eq!(secrets.insert(&world.keyring, b"one"), id);
    let other = secrets.insert(&world.keyring, b"two");
    assert_eq!(secrets.len(), 2);
    secrets.retain(&BTreeSet::from([other]));
    assert_eq!(secrets.ids().collect::<Vec<_>>(), [other]);
    assert_eq!(secrets.get(&id), None);
}

#[test]
fn a_recovery_key_that_is_no_point_is_refused() {
    let world = World::new(1);
    let mut bad = world.recovery.public();
    bad.hpke = [0; 32];
    let outcome = seal_wraps(
        Vec::new(),
        &world.keyring,
        &world.content_key,
        world.key_id,
        &identity(1),
        &bad,
        &world.random,
    );
    let error = outcome.err().unwrap();
    assert!(matches!(error, SealError::RecoveryKey(_)));
    assert_eq!(error.code(), Code::InvalidArgument);
}

//! Config bundles: round trips, positions, nonces, limits, sealing on several threads.

use std::collections::BTreeSet;
use std::io::Cursor;

use bundle::{
    BlobOpener, BlobSealer, ConfigSealer, Encoding, Expect, MAX_BLOB_BYTES, OpenError, Origin,
    SealError, read_header, verify_bytes, verify_file,
};
use proptest::prelude::*;
use proto_types::{BundleId, BundleKind, Code};

use crate::world::{
    CLUSTER, CONFIG_MAP, Counting, FLEET, TINY, TOKEN, World, config_of, identity, records_of,
};

#[test]
fn config_round_trips_by_reference() {
    let world = World::new(1);
    let plaintexts = [CONFIG_MAP, TOKEN, TINY];
    let (sealed, file, refs) = config_of(&world.keyring, &world.random, &plaintexts);
    assert_eq!(sealed.id, BundleId::of(&file));
    assert_eq!(sealed.bytes, file.len() as u64);
    assert_eq!(sealed.header.header().blob_count, 3);
    assert_eq!(sealed.header.header().kind, BundleKind::Config);
    assert_eq!(sealed.header.header().dek_ids, [world.keyring.current_dek()]);
    assert_eq!(refs[0].offset, 16);
    assert_eq!(refs[1].offset, 16 + refs[0].record_len());
    // Raw, one byte: encoding byte, the byte, the tag.
    assert_eq!((refs[2].plain_len, refs[2].sealed_len), (1, 18));
    // 161 bytes of text compress.
    assert!(refs[0].sealed_len < 110, "{}", refs[0].sealed_len);
    let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
    for (plain, blob) in plaintexts.iter().zip(&refs) {
        let range = blob.record_range();
        let record = &file[range.start as usize..range.end as usize];
        assert_eq!(opener.open(record, blob).unwrap().as_slice(), *plain);
    }
    let verified = verify_file(Cursor::new(&file), &world.expect()).unwrap();
    assert_eq!((verified.id, verified.bytes), (sealed.id, sealed.bytes));
    assert_eq!(verified.origin, Origin::Proven);
    assert_eq!(verified.header, sealed.header);
}

#[test]
fn config_of_nothing_is_a_bundle_too() {
    let world = World::new(1);
    let (sealed, file, _) = config_of(&world.keyring, &world.random, &[]);
    assert_eq!(verify_bytes(&file, &world.expect()).unwrap().id, sealed.id);
    assert!(sealed.header.header().dek_ids.is_empty());
}

/// Around the length at which the first bytes of a file leave the window kept for the trailer.
#[test]
fn config_of_any_length_verifies() {
    let world = World::new(1);
    let mut lengths = BTreeSet::new();
    for len in 1400..1500 {
        let mut noise = vec![0; len];
        proto_types::env::Random::fill(&world.random, &mut noise);
        let (sealed, file, _) = config_of(&world.keyring, &world.random, &[&noise]);
        assert_eq!(verify_bytes(&file, &world.expect()).unwrap().id, sealed.id);
        assert_eq!(verify_file(Cursor::new(&file), &world.expect()).unwrap().id, sealed.id);
        lengths.insert(file.len());
    }
    let window = proto_types::MAX_TRAILER_BYTES;
    assert!(lengths.contains(&window) && lengths.contains(&(window + 20)), "{lengths:?}");
}

#[test]
fn config_header_is_read_without_the_body() {
    let world = World::new(1);
    let (header, origin) = read_header(&mut Cursor::new(&world.config), &world.expect()).unwrap();
    assert_eq!((header.header().sequence.get(), origin), (1, Origin::Proven));
    let mut cut = world.config.clone();
    cut.pop();
    let error = read_header(&mut Cursor::new(&cut), &world.expect()).unwrap_err();
    assert!(matches!(error, OpenError::CutShort { .. }), "{error}");
    assert!(read_header(&mut Cursor::new(b"short"), &Expect::anything()).is_err());
}

#[test]
fn secrets_show_only_their_bucket() {
    let world = World::new(1);
    let mut sealer = BlobSealer::new(&world.keyring, FLEET, CLUSTER);
    let mut record_len = |len: usize| {
        let secret = vec![b'a'; len];
        let blob = world.keyring.identify(&secret);
        sealer.seal(&blob, Encoding::Secret, &world.random).unwrap().record().len()
    };
    // Length, nonce, encoding byte, bucket, tag.
    assert_eq!(record_len(1), 4 + 12 + 1 + 256 + 16);
    assert_eq!(record_len(248), 4 + 12 + 1 + 256 + 16);
    assert_eq!(record_len(249), 4 + 12 + 1 + 1024 + 16);
}

#[test]
fn blobs_over_the_limit_are_refused() {
    let world = World::new(1);
    let mut sealer = BlobSealer::new(&world.keyring, FLEET, CLUSTER);
    let huge = vec![0; MAX_BLOB_BYTES + 1];
    let refused = sealer.seal(&world.keyring.identify(&huge), Encoding::Compress, &world.random);
    let error = refused.err().unwrap();
    assert!(matches!(error, SealError::BlobTooLarge { .. }));
    assert_eq!(error.code(), Code::TooLarge);
    let largest = world.keyring.identify(&huge[1..]);
    for encoding in [Encoding::Compress, Encoding::Secret] {
        let sealed = sealer.seal(&largest, encoding, &world.random).unwrap();
        let mut config = ConfigSealer::new(Vec::new(), &world.keyring, identity(1)).unwrap();
        let blob = config.append(&sealed).unwrap();
        let (_, file) = config.finish().unwrap();
        verify_bytes(&file, &world.expect()).unwrap();
        let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
        assert_eq!(opener.open(sealed.record(), &blob).unwrap().len(), MAX_BLOB_BYTES);
    }
}

#[test]
fn threads_seal_and_one_appends() {
    let world = World::new(1);
    let plaintexts: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 100]).collect();
    let (keyring, random) = (&world.keyring, &world.random);
    let sealed: Vec<_> = std::thread::scope(|scope| {
        let halves: Vec<_> = plaintexts
            .chunks(20)
            .map(|half| {
                scope.spawn(move || {
                    let mut sealer = BlobSealer::new(keyring, FLEET, CLUSTER);
                    half.iter()
                        .map(|plain| {
                            let blob = keyring.identify(plain);
                            sealer.seal(&blob, Encoding::Compress, random).unwrap()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    let mut config = ConfigSealer::new(Vec::new(), keyring, identity(1)).unwrap();
    let refs: Vec<_> = sealed.iter().map(|blob| config.append(blob).unwrap()).collect();
    let before = config.bytes_written();
    let (_, file) = config.finish().unwrap();
    assert_eq!(refs.last().unwrap().record_range().end, before);
    let mut opener = BlobOpener::new(keyring, FLEET, CLUSTER);
    for (plain, blob) in plaintexts.iter().zip(&refs) {
        let range = blob.record_range();
        let record = &file[range.start as usize..range.end as usize];
        assert_eq!(opener.open(record, blob).unwrap().as_slice(), *plain);
    }
}

/// Records of several bundles and DEKs move into one, byte by byte.
#[test]
fn repacking_seals_nothing_anew() {
    let mut world = World::new(1);
    let (_, old, old_refs) = config_of(&world.keyring, &world.random, &[CONFIG_MAP, TINY]);
    let old_dek = world.keyring.current_dek();
    let new_dek = world.keyring.add_dek(proto_types::LogTime::ZERO, &world.random).unwrap();
    let record = |blob: &bundle::BlobRef| {
        let range = blob.record_range();
        old[range.start as usize..range.end as usize].to_vec()
    };
    let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
    let kept = opener.repack(record(&old_refs[1]), &old_refs[1]).unwrap();
    assert_eq!(kept.record(), record(&old_refs[1]));
    assert!(opener.repack(record(&old_refs[0]), &old_refs[1]).is_err());

    let mut config = ConfigSealer::new(Vec::new(), &world.keyring, identity(2)).unwrap();
    let token = world.keyring.identify(TOKEN);
    let token = config.seal(&token, Encoding::Secret, &world.random).unwrap();
    let moved = config.append(&kept).unwrap();
    assert_eq!((moved.id, moved.dek, token.dek), (old_refs[1].id, old_dek, new_dek));
    let (sealed, file) = config.finish().unwrap();
    let mut deks = [old_dek, new_dek];
    deks.sort();
    assert_eq!(sealed.header.header().dek_ids, deks);
    for (blob, plain) in [(token, TOKEN), (moved, TINY)] {
        let range = blob.record_range();
        let record = &file[range.start as usize..range.end as usize];
        assert_eq!(opener.open(record, &blob).unwrap().as_slice(), plain);
    }
}

/// Invariant K2: no nonce comes twice, not even for equal plaintexts, and not between files.
#[test]
fn invariant_k2_no_nonce_comes_twice() {
    let world = World::new(1);
    let same = vec![CONFIG_MAP; 300];
    let (_, file, refs) = config_of(&world.keyring, &world.random, &same);
    assert!(refs.iter().all(|blob| blob.id == refs[0].id));
    let mut nonces = BTreeSet::new();
    let mut count = 0;
    for file in [&file, &world.config, &world.key, &world.full_file, &world.delta_file] {
        for record in records_of(file) {
            count += 1;
            nonces.insert(record[4..16].to_vec());
        }
    }
    // The KEK wrap's: after length, tag, suite, generation and commitment.
    count += 1;
    nonces.insert(records_of(&world.wraps)[0][44..56].to_vec());
    assert_eq!(count, 300 + 3 + 3 + 1 + 1 + 1);
    assert_eq!(nonces.len(), count);
}

/// Invariant K2: even with the same nonce, two blobs are never under the same key.
#[test]
fn invariant_k2_each_blob_has_a_key_of_its_own() {
    struct Stuck;
    impl proto_types::env::Random for Stuck {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(9);
        }
    }
    let world = World::new(1);
    let (_, file, _) = config_of(&world.keyring, &Stuck, &[b"aaaa", b"bbbb"]);
    let records = records_of(&file);
    assert_eq!(records[0][..16], records[1][..16]);
    let xor: Vec<u8> = (17..21).map(|at| records[0][at] ^ records[1][at]).collect();
    assert_ne!(xor, [b'a' ^ b'b'; 4], "both are under one key stream");
}

#[test]
fn a_failing_writer_is_an_error_with_its_code() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let world = World::new(1);
    let error = ConfigSealer::new(Full, &world.keyring, identity(1)).err().unwrap();
    assert_eq!(error.code(), Code::NoSpace);
}

#[test]
fn a_keyring_seals_only_its_own_lineage() {
    let world = World::new(1);
    let mut other = identity(1);
    other.lineage = 3;
    let error = ConfigSealer::new(Vec::new(), &world.keyring, other).err().unwrap();
    assert!(matches!(error, SealError::Lineage { keyring: 0, identity: 3 }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn config_round_trips_any_bytes(
        plaintexts in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..600), 1..30_usize, any::<bool>()), 0..8),
        seed in any::<u64>(),
    ) {
        let world = World::new(2);
        let random = Counting::new(seed);
        let mut config = ConfigSealer::new(Vec::new(), &world.keyring, identity(1)).unwrap();
        let mut expected = Vec::new();
        for (unit, times, secret) in plaintexts {
            let plain = unit.repeat(times);
            let encoding = if secret { Encoding::Secret } else { Encoding::Compress };
            let blob = config.seal(&world.keyring.identify(&plain), encoding, &random).unwrap();
            expected.push((blob, plain));
        }
        let (sealed, file) = config.finish().unwrap();
        prop_assert_eq!(verify_bytes(&file, &world.expect()).unwrap().id, sealed.id);
        let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
        for (blob, plain) in expected {
            let range = blob.record_range();
            let record = &file[range.start as usize..range.end as usize];
            let opened = opener.open(record, &blob).unwrap();
            prop_assert_eq!(opened.as_slice(), &plain);
        }
    }
}

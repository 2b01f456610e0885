//! Invariant B3 at the reader: no file is accepted that was cut, changed or put together anew.

use std::io::Read;

use bundle::{
    BlobOpener, Expect, OpenError, check_key_bundle, open_manifest, verify_bytes, verify_file,
};
use proto_types::{BundleId, Code};

use crate::world::{CLUSTER, FLEET, World, config_of, forge, header_of, records_of};

/// Gives a few bytes at a time, as a network does.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 % 13 + 1;
        let len = self.1.min(self.0.len()).min(buffer.len());
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn invariant_b3_every_truncation_is_noticed() {
    let world = World::new(1);
    for (name, file) in world.files() {
        verify_bytes(file, &Expect::anything()).unwrap();
        for len in 0..file.len() {
            let error = verify_bytes(&file[..len], &Expect::anything()).unwrap_err();
            assert_eq!(error.code(), Code::Damaged, "{name} cut to {len}: {error}");
            if len >= 16 {
                assert!(matches!(error, OpenError::CutShort { .. }), "{name} at {len}: {error}");
            }
        }
    }
}

/// As from one block of a disk to the next, of a file with many records.
#[test]
fn invariant_b3_a_file_cut_at_any_block_or_record_is_noticed() {
    let world = World::new(1);
    let plain: Vec<Vec<u8>> = (0..100_u32).map(|n| n.to_le_bytes().repeat(100)).collect();
    let plain: Vec<&[u8]> = plain.iter().map(Vec::as_slice).collect();
    let (_, file, refs) = config_of(&world.keyring, &world.random, &plain);
    let ends = refs.iter().map(|blob| blob.record_range().end as usize);
    for cut in ends.chain((0..file.len()).step_by(512)) {
        let mut reader = Trickle(&file[..cut], 0);
        assert!(verify_file(&mut reader, &world.expect()).is_err(), "cut to {cut}");
    }
    for more in [1, 16, 5000] {
        let longer = [&file[..], &vec![0; more]].concat();
        assert!(verify_bytes(&longer, &world.expect()).is_err(), "{more} bytes more");
    }
}

#[test]
fn invariant_b3_every_flipped_bit_is_noticed() {
    let world = World::new(1);
    for (name, file) in world.files() {
        let body = usize::try_from(header_of(file).body_bytes).unwrap();
        let mut bad = file.to_vec();
        for at in 0..file.len() {
            // Every bit of lead, header, signature and end; one bit of each byte of the records.
            let bits = if at < 16 || at >= body { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                bad[at] ^= 1 << bit;
                for expect in [Expect::anything(), world.expect()] {
                    let outcome = verify_bytes(&bad, &expect);
                    let Err(error) = outcome else {
                        panic!("{name}: byte {at} bit {bit} was not noticed");
                    };
                    // Damage is called damage, and not somebody else's bundle.
                    let code = error.code();
                    assert!(code != Code::WrongCluster && code != Code::Rollback, "{at}: {error}");
                }
                bad[at] ^= 1 << bit;
            }
        }
        assert_eq!(bad, file);
    }
}

#[test]
fn invariant_b3_the_stream_and_the_slice_agree() {
    let world = World::new(1);
    for (name, file) in world.files() {
        for at in [0, 9, 10, 12, 16, 30, file.len() / 2, file.len() - 90, file.len() - 1] {
            let mut bad = file.to_vec();
            bad[at] ^= 4;
            let slice = verify_bytes(&bad, &world.expect()).unwrap_err().to_string();
            let stream = verify_file(Trickle(&bad, 0), &world.expect()).unwrap_err().to_string();
            assert_eq!(slice, stream, "{name} at {at}");
        }
        let stream = verify_file(Trickle(file, 0), &world.expect()).unwrap();
        assert_eq!(stream, verify_bytes(file, &world.expect()).unwrap(), "{name}");
        assert_eq!(stream.id, BundleId::of(file));
    }
}

#[test]
fn invariant_b3_other_bytes_than_asked_for_are_noticed() {
    let world = World::new(1);
    let expect = world.expect().with_id(world.full_id);
    let error = verify_bytes(&world.delta_file, &expect).unwrap_err();
    assert!(matches!(error, OpenError::WrongId { .. }));
    assert_eq!(error.code(), Code::Damaged);
    verify_bytes(&world.full_file, &expect).unwrap();
}

/// A body that is signed, but whose records do not tile it: made by a broken writer.
#[test]
fn records_must_tile_the_body() {
    let world = World::new(1);
    let records = records_of(&world.config);
    let broken = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut records = records.clone();
        change(&mut records);
        let count = u32::try_from(records.len()).unwrap();
        let file = forge(&records, |header| header.blob_count = count, &world.config);
        verify_bytes(&file, &Expect::anything()).unwrap_err()
    };
    let error = broken(&|records| _ = records[2].pop());
    assert!(matches!(error, OpenError::Record { index: 2 }), "{error}");
    let error = broken(&|records| records.push(vec![1, 0]));
    assert!(matches!(error, OpenError::Record { .. }), "{error}");
    let error = broken(&|records| records[0][3] = 0xff);
    assert!(matches!(error, OpenError::Record { index: 0 }), "{error}");
    let error = broken(&|records| records.push([&[0; 4][..], &[0; 12]].concat()));
    assert!(matches!(error, OpenError::Record { index: 3 }), "{error}");
    let file = forge(&records, |header| header.blob_count = 4, &world.config);
    let error = verify_bytes(&file, &Expect::anything()).unwrap_err();
    assert!(matches!(error, OpenError::RecordCount { expected: 4, found: 3 }), "{error}");
}

#[test]
fn invariant_b3_every_flipped_bit_of_a_single_blob_is_noticed() {
    let world = World::new(1);
    let (_, file, refs) = config_of(&world.keyring, &world.random, &[b"one blob of text"]);
    let range = refs[0].record_range();
    let record = &file[range.start as usize..range.end as usize];
    let mut opener = BlobOpener::new(&world.keyring, FLEET, CLUSTER);
    opener.open(record, &refs[0]).unwrap();
    let mut bad = record.to_vec();
    for at in 0..bad.len() {
        for bit in 0..8 {
            bad[at] ^= 1 << bit;
            let error = opener.open(&bad, &refs[0]).unwrap_err();
            assert!(matches!(error, OpenError::Blob(id) if id == refs[0].id));
            assert_eq!(error.code(), Code::Damaged);
            bad[at] ^= 1 << bit;
        }
    }
    for len in 0..record.len() {
        assert!(opener.open(&record[..len], &refs[0]).is_err());
    }
    assert!(opener.open(&[record, &[0]].concat(), &refs[0]).is_err());
}

/// What does not verify does not open either, whichever door is used.
#[test]
fn damaged_files_do_not_open() {
    let world = World::new(1);
    let flip = |file: &[u8]| {
        let mut bad = file.to_vec();
        bad[40] ^= 1;
        bad
    };
    let manifest = open_manifest(&flip(&world.full_file), &world.keyring, &world.expect());
    assert_eq!(manifest.unwrap_err().code(), Code::Damaged);
    for (key, wraps) in
        [(flip(&world.key), world.wraps.clone()), (world.key.clone(), flip(&world.wraps))]
    {
        let outcome = check_key_bundle(
            &key,
            &wraps,
            &world.kek,
            &world.recovery.public(),
            &bundle::KeyNeeds::default(),
            &world.expect(),
        );
        assert_eq!(outcome.err().unwrap().code(), Code::Damaged);
    }
}

#[test]
fn not_a_bundle_and_newer_versions_say_so() {
    let world = World::new(1);
    let error = verify_bytes(&[b'x'; 4000], &Expect::anything()).unwrap_err();
    assert_eq!(error.to_string(), "this is no strongroom bundle: the first bytes are wrong");
    let mut newer = world.config.clone();
    newer[8] = 2;
    let error = verify_bytes(&newer, &Expect::anything()).unwrap_err();
    assert_eq!(error.code(), Code::UnsupportedVersion);
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let error = verify_file(Broken, &Expect::anything()).unwrap_err();
    assert_eq!(error.code(), Code::LocalIo);
}

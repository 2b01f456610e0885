//! The sealed key of a fleet's root: it opens with its recovery key, for its fleet and its
//! certificate, and in no other way.

use std::fs;
use std::io::Write;

use bundle::{
    AuthorityError, RecoverySecret, SealError, open_authority, read_authority_names, seal_authority,
};
use proto_types::{Code, FleetId};
use sha2::{Digest, Sha256};

use crate::frozen::directory;
use crate::world::{Counting, FLEET};

const CERTIFICATE: &[u8] = b"a root certificate in DER";
const KEY: &[u8] = b"a private key in PKCS#8";
const FROZEN: &str = "authority.sealed";
const FROZEN_SHA256: &str = "995ed3d63a6ed46f9c6283333ca7dac4fd32196caeb3d24e71fa185d7f1d4b79";

fn recovery() -> RecoverySecret {
    let text = fs::read_to_string(directory().join("recovery.key")).unwrap();
    RecoverySecret::from_text(&text).unwrap()
}

fn seal() -> Vec<u8> {
    seal_authority(KEY, FLEET, CERTIFICATE, &recovery().public(), &Counting::new(9)).unwrap()
}

#[test]
fn authority_opens_with_its_recovery_key_for_its_fleet_and_root_only() {
    let (sealed, recovery) = (seal(), recovery());
    assert_eq!(sealed.len(), 162 + KEY.len() + 16);
    assert!(!sealed.windows(KEY.len()).any(|window| window == KEY));
    assert_eq!(open_authority(&sealed, FLEET, CERTIFICATE, &recovery).unwrap().as_slice(), KEY);
    let names = read_authority_names(&sealed).unwrap();
    assert_eq!((names.fleet, names.recovery_key), (FLEET, recovery.public().fingerprint()));
    assert_eq!(names.root, <[u8; 32]>::from(Sha256::digest(CERTIFICATE)));

    let strange = FleetId::from_bytes([9; 16]);
    let refused = open_authority(&sealed, strange, CERTIFICATE, &recovery).unwrap_err();
    assert_eq!(refused.code(), Code::WrongFleet);
    let refused = open_authority(&sealed, FLEET, b"another", &recovery).unwrap_err();
    assert_eq!(refused, AuthorityError::WrongRoot);
    let other = RecoverySecret::generate(&Counting::new(10));
    let refused = open_authority(&sealed, FLEET, CERTIFICATE, &other).unwrap_err();
    assert_eq!(refused.code(), Code::WrongKey);
    // Two seals of one key share nothing.
    let public = recovery.public();
    let again = seal_authority(KEY, FLEET, CERTIFICATE, &public, &Counting::new(11)).unwrap();
    assert_ne!(sealed[96..], again[96..]);
    let long = seal_authority(&[0; 513], FLEET, CERTIFICATE, &public, &Counting::new(1));
    assert!(matches!(long.unwrap_err(), SealError::BlobTooLarge { found: 513, limit: 512 }));
}

#[test]
fn authority_every_flipped_bit_and_every_cut_is_noticed() {
    let (sealed, recovery) = (seal(), recovery());
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert!(open_authority(&damaged, FLEET, CERTIFICATE, &recovery).is_err(), "byte {at}");
        assert!(open_authority(&sealed[..at], FLEET, CERTIFICATE, &recovery).is_err(), "cut {at}");
    }
    let longer = [&sealed[..], &[0]].concat();
    let refused = open_authority(&longer, FLEET, CERTIFICATE, &recovery).unwrap_err();
    assert_eq!(refused, AuthorityError::Damaged);
    // Names moved into another file's place, with everything outside the seal consistent.
    let mut moved = sealed;
    moved[32..64].copy_from_slice(&Sha256::digest(b"another"));
    let refused = open_authority(&moved, FLEET, b"another", &recovery).unwrap_err();
    assert_eq!(refused, AuthorityError::Damaged);
}

#[test]
fn authority_frozen_v1_file_opens() {
    let path = directory().join(FROZEN);
    if let Ok(mut file) = fs::File::create_new(&path) {
        file.write_all(&seal()).unwrap();
        panic!("{FROZEN} was missing and is written anew: was it deleted by mistake?");
    }
    let bytes = fs::read(path).unwrap();
    assert_eq!(hex::encode(Sha256::digest(&bytes)), FROZEN_SHA256);
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats.md");
    let line = format!("| `{FROZEN}` | `{FROZEN_SHA256}` |");
    assert!(fs::read_to_string(document).unwrap().contains(&line));
    assert_eq!(open_authority(&bytes, FLEET, CERTIFICATE, &recovery()).unwrap().as_slice(), KEY);
}

//! Frozen shares of the recovery key that `frozen` opens everything with, and the `recovery.pub`
//! that knows of them: every later version must read them. They are never written again.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use bundle::{
    Expect, RecoveryPublicFile, RecoverySecret, RecoveryShare, ShareDigests,
    open_wraps_with_recovery,
};
use sha2::{Digest, Sha256};

use crate::stranger_share::Plain;
use crate::world::{CLUSTER, Counting, FLEET, World};

/// Name and SHA-256 of each file, as `docs/formats.md` lists them too.
const FILES: [(&str, &str); 6] = [
    ("share-1-of-5.txt", "07dd97aea069f84e72c7b97f50c9f46557eef01c85aacf10924bd782cc0d8136"),
    ("share-2-of-5.txt", "832770fa38d8d9ab96bdea035458c18b7d66393d154c22cefd45581613393174"),
    ("share-3-of-5.txt", "f8542165bb56ef3d30f05007f3246e3dc7fc483d2a319269deb655bd5eb7479d"),
    ("share-4-of-5.txt", "f8c00c31987e32233169bd7049353fa98b31e1b2d5215620e217216fe21952b0"),
    ("share-5-of-5.txt", "63e10db67f055e87537284fe4c2bce5a64a3968795b170e6ebf8d240a5d365f4"),
    ("recovery.pub", "011e4387479f70af1db82fd1bd313a3f491221362ad03dd78bb63de92f3fceb2"),
];
const SET: &str = "4cbbd8ca52";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shares-v1")
}

fn text(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

fn shares() -> Vec<RecoveryShare> {
    FILES[..5].iter().map(|(name, _)| RecoveryShare::from_text(&text(name)).unwrap()).collect()
}

#[test]
fn frozen_shares_are_untouched() {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let document = fs::read_to_string(document).unwrap();
    for (name, sha256) in FILES {
        assert_eq!(hex::encode(Sha256::digest(text(name))), sha256, "{name}");
        assert!(document.contains(&format!("| `shares-v1/{name}` | `{sha256}` |")), "{name}");
    }
}

#[test]
fn frozen_shares_rebuild_the_key_that_opens_the_frozen_bundles() {
    let shares = shares();
    let file = RecoveryPublicFile::from_text(&text("recovery.pub")).unwrap();
    let digests = file.shares.unwrap();
    assert_eq!(digests, ShareDigests::of(&shares).unwrap());
    assert_eq!((digests.set().id().as_str(), digests.set().threshold()), (SET, 3));
    for share in &shares {
        digests.attest(share).unwrap();
        assert!(share.set().is_of(file.public.fingerprint()));
    }
    let wraps = fs::read(crate::frozen::directory().join("wraps.bundle")).unwrap();
    for chosen in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
        let rebuilt = RecoverySecret::from_shares(&chosen.map(|at: usize| &shares[at])).unwrap();
        assert_eq!(rebuilt.public(), file.public);
        open_wraps_with_recovery(&wraps, &rebuilt, &Expect::of(FLEET, CLUSTER)).unwrap();
    }
}

/// `stranger_share` has nothing of the product: what it reads is what the document says.
#[test]
fn frozen_shares_say_to_a_stranger_what_they_say_to_the_product() {
    for (share, index) in shares().iter().zip(1..) {
        let plain = Plain::read(&share.to_text());
        assert_eq!((hex::encode(plain.set).as_str(), plain.index), (SET, index));
        assert_eq!((plain.threshold, plain.total), (3, 5));
        assert_eq!(plain.text(), share.to_text().replace(' ', ""));
    }
}

/// How the files were made: one that is missing is written, one that exists never again.
#[test]
fn frozen_shares_are_never_written_again() {
    let recovery = World::new(1).recovery;
    let shares = recovery.split(3, 5, &Counting::new(1)).unwrap();
    let file = RecoveryPublicFile { public: recovery.public(), shares: ShareDigests::of(&shares) };
    let texts = shares.iter().map(|share| share.to_file_text().to_string());
    for ((name, _), text) in FILES.iter().zip(texts.chain([file.to_text()])) {
        match fs::File::create_new(directory().join(name)) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{name}"),
            Ok(mut file) => {
                file.write_all(text.as_bytes()).unwrap();
                panic!("{name} was missing and is written anew: was it deleted by mistake?");
            }
        }
    }
}

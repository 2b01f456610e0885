//! Every parser of this crate against bytes that nobody wrote: files, shares and key files changed from
//! outside, and, behind the signatures, the plaintexts of keyrings and manifests, which only who holds
//! a key could forge. Nothing may panic or take memory without end. A bounded run of a stable fuzzer in
//! every build; `PROPTEST_CASES=1000000 cargo test -p bundle fuzz` runs it as long as one likes. Not
//! cargo-fuzz: that needs a nightly toolchain and another build of everything beside the pinned one, and
//! the parsers behind the signatures are private to the crate.

use proptest::prelude::*;
use proptest::sample::Index;
use proto_types::env::Random;
use proto_types::{BundleId, ClusterId, DekId, FleetId, LogTime, SignedHeader};

use crate::manifest_wire::{ManifestReader, ManifestWriter};
use crate::{
    Expect, FileTime, Form, Item, ItemKey, ItemKind, Kek, Keyring, Location, Manifest, Piece,
    Proof, ProofState, RecoveryPublicFile, RecoverySecret, RecoveryShare, SigningKey, Totals,
    keyring_wire,
};

/// The same bytes every time.
struct Fixed;

impl Random for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        for (place, n) in buffer.iter_mut().zip(1_u8..) {
            *place = n;
        }
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, Index),
    Double(Index, Index),
    Insert(Index, Vec<u8>),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        3 => (any::<Index>(), prop_oneof![Just(0), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()])
            .prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Cut(a, b)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Double(a, b)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
    ]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 0..5)
}

fn range(a: Index, b: Index, len: usize) -> std::ops::Range<usize> {
    let (a, b) = (a.index(len + 1), b.index(len + 1));
    a.min(b)..a.max(b)
}

fn changed(sample: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for edit in edits {
        let len = bytes.len();
        match edit {
            Edit::Flip(at, bit) if len > 0 => bytes[at.index(len)] ^= 1 << bit,
            Edit::Set(at, byte) if len > 0 => bytes[at.index(len)] = *byte,
            Edit::Flip(..) | Edit::Set(..) => {}
            Edit::Cut(a, b) => drop(bytes.drain(range(*a, *b, len))),
            Edit::Double(a, b) => {
                let again = bytes[range(*a, *b, len)].to_vec();
                bytes.extend(again);
            }
            Edit::Insert(at, more) => {
                let at = at.index(len + 1);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../tests/fixtures/v1/", $name))
    };
}

const FILES: [&[u8]; 5] = [
    fixture!("config.bundle"),
    fixture!("key.bundle"),
    fixture!("wraps.bundle"),
    fixture!("full.manifest"),
    fixture!("delta.manifest"),
];
const KEY_FILES: [&[u8]; 4] = [
    fixture!("strongroom-store-secret"),
    fixture!("signing.key"),
    fixture!("recovery.key"),
    fixture!("recovery.pub"),
];
const SHARE: &[u8] = include_bytes!("../tests/fixtures/shares-v1/share-1-of-5.txt");
const SHARES_PUB: &[u8] = include_bytes!("../tests/fixtures/shares-v1/recovery.pub");

fn keyring() -> Keyring {
    let (kek, signing) = (Kek::generate(&Fixed), SigningKey::generate(&Fixed));
    Keyring::create(3, &kek, &signing, LogTime::from_millis(1_790_000_000_000), &Fixed)
}

fn manifest() -> Vec<u8> {
    let keyring = keyring();
    let id = keyring.blob_id(b"secret");
    let secret = Piece::Blob { id, plain_len: 6, location: Location::Key };
    let item = |path: &[u8], kind, content: Vec<Piece>| Item {
        key: ItemKey { source: "directory".to_owned(), path: path.to_vec() },
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        modified: FileTime { seconds: 5, nanos: 6 },
        size: content.len() as u64 * 6,
        xattrs: Vec::new(),
        content,
        link_target: Vec::new(),
        hard_link: None,
    };
    let items =
        vec![item(b"", ItemKind::Directory, vec![]), item(b"a", ItemKind::File, vec![secret])];
    let manifest = Manifest {
        sequence: proto_types::Sequence::new(1),
        key_bundle: BundleId::of(b"k"),
        form: Form::Full,
        totals: Totals::of(&items),
        items,
        proofs: vec![Proof { source: "directory".to_owned(), state: ProofState::Proved }],
    };
    let mut bytes = Vec::new();
    let written: Result<(), ()> = ManifestWriter::new(&manifest).write(|piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    written.unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn fuzz_bundle_files_are_refused_or_whole(at: Index, edits in edits()) {
        let sample = FILES[at.index(FILES.len())];
        let bytes = changed(sample, &edits);
        let expect = Expect::of(FleetId::from_bytes([0x11; 16]), ClusterId::from_bytes([0x22; 16]));
        let whole = crate::verify_bytes(&bytes, &expect).is_ok();
        prop_assert_eq!(whole, bytes == sample, "only what was written verifies");
        let _ = SignedHeader::from_tail(&bytes, bytes.len() as u64);
        let _ = crate::read_wrap_names(&bytes, &expect);
        let _ = crate::open_manifest(&bytes, &keyring(), &expect);
        let _ = crate::read_header(&mut std::io::Cursor::new(&bytes), &expect);
    }

    #[test]
    fn fuzz_key_files_shares_and_sealed_authorities(at: Index, edits in edits()) {
        let bytes = changed(KEY_FILES[at.index(KEY_FILES.len())], &edits);
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Kek::from_text(&text), SigningKey::from_text(&text));
        let _ = (RecoverySecret::from_text(&text), RecoveryPublicFile::from_text(&text));
        let share = changed(SHARE, &edits);
        if let Ok(share) = RecoveryShare::from_text(&String::from_utf8_lossy(&share)) {
            let original = RecoveryShare::from_text(std::str::from_utf8(SHARE).unwrap()).unwrap();
            prop_assert!(share.digest() == original.digest(), "a damaged share is no other one");
        }
        let public = changed(SHARES_PUB, &edits);
        let _ = RecoveryPublicFile::from_text(&String::from_utf8_lossy(&public));
        let sealed = changed(fixture!("authority.sealed"), &edits);
        let _ = crate::read_authority_names(&sealed);
    }

    #[test]
    fn fuzz_plaintexts_of_keyrings_and_manifests(edits in edits()) {
        let bytes = changed(&keyring_wire::encode(&keyring()), &edits);
        if let Ok(keyring) = keyring_wire::decode(&bytes) {
            prop_assert!(!keyring.dek_ids().is_empty());
        }
        let bytes = changed(&manifest(), &edits);
        let mut reader = ManifestReader::default();
        if reader.feed(&bytes).is_ok()
            && let Ok(manifest) = reader.finish()
        {
            prop_assert!(manifest.items.is_sorted_by(|a, b| a.key < b.key));
        }
    }

    #[test]
    fn fuzz_bytes_from_nowhere(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let expect = Expect::of(FleetId::ZERO, ClusterId::ZERO);
        prop_assert!(crate::verify_bytes(&bytes, &expect).is_err());
        let _ = keyring_wire::decode(&bytes);
        let mut reader = ManifestReader::default();
        let _ = reader.feed(&bytes).and_then(|()| reader.finish());
        let _ = crate::read_authority_names(&bytes);
        let _ = DekId::from_slice(&bytes);
    }
}

//! Frozen files of format version 1, which every later version must open. They are never written
//! again: a change of the format gets a new version, a new directory, and this test stays.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use bundle::{
    BlobOpener, FileTime, Form, ItemKind, Kek, Location, Piece, ProofState, RecoveryPublic,
    RecoverySecret, SigningKey, merge, open_key_bundle, open_manifest, open_wraps_with_kek,
    open_wraps_with_recovery, verify_bytes,
};
use proto_types::{Sequence, SigningPublicKey};
use sha2::{Digest, Sha256};

use crate::world::{CLUSTER, CONFIG_MAP, FLEET, STORE_SECRET, TINY, TOKEN, UNSEAL_KEY, World};

/// Name and SHA-256 of each file, as `docs/formats.md` lists them too.
const FILES: [(&str, &str); 9] = [
    ("config.bundle", "d728e876375b4b5b7c601eac0f6804fc32772e8e40e7a70a50dac526181e37e0"),
    ("key.bundle", "27de246d17d270b4c95402db7f27db7677c1166b0099e68d06c2a0b91fe92c3a"),
    ("wraps.bundle", "f8df175f5929cb4f4fba437935288d9ae55ef04c21450e1cb098a81bf8cebc8d"),
    ("full.manifest", "66e9d5ea031221873a60e3abffd2cd7577488da4d8eba2849d6aaeab4d85a138"),
    ("delta.manifest", "a0f4c1cb517a8aa61c33158b3bc331100507a61d05272dc75d8bff917759f901"),
    ("strongroom-store-secret", "d25f41fa40aeca74c4f9a7594a3d0d78e74646b14ff1b63e2735407360749a3f"),
    ("signing.key", "4260b4c706fd6c5d14be9cb284788c90ab7491c7c73c8b2d794bdfd2a6929444"),
    ("recovery.key", "f06b9a597ac4acfddda61480c7047d1d1f35e62798eeeceacbb4ee48d8b659b0"),
    ("recovery.pub", "67760adabe53ca81b9f102a705b5a3b3ea050c2c17b5409b46a5f20b07331d44"),
];
const SIGNER: &str = "95ccd491859de9f4a145d5a4eeb28fb932a5f86cc2e984c8e57deacf1aecf2d8";
const RECOVERY: &str = "37c1f7c1dd16fc1c83fa27cdb151b9bc3973406b811e690de6c68da60e3f82d2";

pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(directory().join(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap()
}

#[test]
fn frozen_v1_files_are_untouched() {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let document = fs::read_to_string(document).unwrap();
    for (name, sha256) in FILES {
        assert_eq!(hex::encode(Sha256::digest(bytes(name))), sha256, "{name}");
        assert!(document.contains(&format!("| `{name}` | `{sha256}` |")), "{name}");
    }
}

#[test]
fn frozen_v1_files_open() {
    let signer: SigningPublicKey = SIGNER.parse().unwrap();
    let expect = bundle::Expect::of(FLEET, CLUSTER).signed_by(signer);
    let kek = Kek::from_text(&text("strongroom-store-secret")).unwrap();
    let recovery = RecoverySecret::from_text(&text("recovery.key")).unwrap();
    let public = RecoveryPublic::from_text(&text("recovery.pub")).unwrap();
    assert_eq!(recovery.public(), public);
    assert_eq!(public.fingerprint().to_string(), RECOVERY);
    assert_eq!(SigningKey::from_text(&text("signing.key")).unwrap().public(), signer);

    let wraps = open_wraps_with_recovery(&bytes("wraps.bundle"), &recovery, &expect).unwrap();
    let by_kek = open_wraps_with_kek(&bytes("wraps.bundle"), &kek, &expect).unwrap();
    assert_eq!(wraps.names, by_kek.names);
    let expect_key = expect.with_id(wraps.names.key_bundle);
    open_key_bundle(&bytes("key.bundle"), &by_kek.content_key, &expect_key).unwrap();
    let keys = open_key_bundle(&bytes("key.bundle"), &wraps.content_key, &expect_key).unwrap();
    assert_eq!(keys.keyring.dek_ids().len(), 2);
    assert_eq!(keys.secrets.len(), 2);

    let at = |sequence| expect.at(Sequence::new(sequence));
    let full = open_manifest(&bytes("full.manifest"), &keys.keyring, &at(1)).unwrap();
    let delta = open_manifest(&bytes("delta.manifest"), &keys.keyring, &at(2)).unwrap();
    assert_eq!(full.manifest.form, Form::Full);
    assert_eq!(full.manifest.key_bundle, keys.file.id);
    assert_eq!(delta.manifest.form.base(), full.file.id);
    assert_eq!(delta.file.header.header().predecessor, full.file.id);
    let items = full.manifest.items.clone();
    let paths: Vec<_> = items.iter().map(|item| item.key.path.as_slice()).collect();
    let expected: [&[u8]; 8] = [
        b"etc",
        b"etc/map.yaml",
        b"etc/sparse",
        b"etc/token",
        b"keys/store",
        b"keys/unseal",
        b"link",
        b"name\xff",
    ];
    assert_eq!(paths, expected);
    assert_eq!(items[0].kind, ItemKind::Directory);
    assert_eq!((items[1].mode, items[1].uid, items[1].gid), (0o640, 1000, 100));
    assert_eq!(items[1].modified, FileTime { seconds: 1_790_000_000, nanos: 5 });
    assert_eq!(items[1].xattrs[1].value, [0, 255]);
    assert_eq!(items[3].hard_link, Some(9));
    assert_eq!(items[6].kind, ItemKind::Symlink);
    assert_eq!(items[6].link_target, b"etc/nowhere\xff");
    assert_eq!(items[6].modified, FileTime { seconds: -3, nanos: 999_999_999 });
    assert_eq!(full.manifest.proofs[0].state, ProofState::Proved);

    let config = bytes("config.bundle");
    let config_id = verify_bytes(&config, &expect).unwrap().id;
    let mut opener = BlobOpener::new(&keys.keyring, FLEET, CLUSTER);
    let mut content = |piece: &Piece| match piece {
        Piece::Hole { len } => format!("{len} zeros").into_bytes(),
        Piece::Blob { id, location: Location::Key, .. } => keys.secrets.get(id).unwrap().to_vec(),
        Piece::Blob { .. } => {
            let (bundle, blob) = piece.config_blob().unwrap();
            assert_eq!(bundle, config_id);
            let range = blob.record_range();
            let record = &config[range.start as usize..range.end as usize];
            opener.open(record, &blob).unwrap().to_vec()
        }
    };
    assert_eq!(content(&items[1].content[0]), CONFIG_MAP);
    assert_eq!(content(&items[2].content[0]), b"1099511627776 zeros");
    assert_eq!(content(&items[2].content[1]), TINY);
    assert_eq!(content(&items[2].content[2]), b"5 zeros");
    assert_eq!(content(&items[3].content[0]), TOKEN);
    assert_eq!(content(&items[4].content[0]), STORE_SECRET);
    assert_eq!(content(&items[5].content[0]), UNSEAL_KEY);

    let second = merge(full.file.id, full.manifest, delta.manifest).unwrap();
    assert_eq!(second.items.len(), 8);
    assert_eq!(second.items[0].key.path, b"added");
    assert_eq!(content(&second.items[2].content[0]), TINY);
    assert_eq!(second.proofs[0].state, ProofState::Unproved("not looked at".into()));
    assert_eq!(second.proofs[1].state, ProofState::Failed("truncated".into()));
}

/// How the files were made: a file that is missing is written, one that exists never again.
#[test]
fn frozen_v1_files_are_never_written_again() {
    let world = World::new(1);
    let texts = [
        world.kek.to_text(),
        world.signing.to_text(),
        world.recovery.to_text(),
        world.recovery.public().to_text().into(),
    ];
    let files = world.files().into_iter().map(|(_, file)| file);
    let all = files.chain(texts.iter().map(|text| text.as_bytes()));
    for ((name, _), bytes) in FILES.iter().zip(all) {
        match fs::File::create_new(directory().join(name)) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{name}"),
            Ok(mut file) => {
                file.write_all(bytes).unwrap();
                panic!("{name} was missing and is written anew: was it deleted by mistake?");
            }
        }
    }
}

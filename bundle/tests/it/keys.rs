//! Key files: every way they can be missing, short, damaged or mistaken; fingerprints; keyrings.

use std::collections::BTreeSet;

use bundle::{
    DEK_LIFETIME_MILLIS, Kek, KeyFileError, Keyring, RecoveryPublic, RecoverySecret, SealError,
    SigningKey,
};
use proto_types::{BundleId, Code, Epoch, Generation, LogTime, PointStatement, Sequence};

use crate::world::{CLUSTER, Counting, DAY_MILLIS, FLEET};

/// Reads a text as one kind of key and writes it again.
type Reread = fn(&str) -> Result<String, KeyFileError>;

fn kinds() -> [(&'static str, String, Reread); 4] {
    let random = Counting::new(5);
    let recovery = RecoverySecret::generate(&random);
    [
        ("kek", Kek::generate(&random).to_text().to_string(), |text| {
            Kek::from_text(text).map(|key| key.to_text().to_string())
        }),
        ("signing", SigningKey::generate(&random).to_text().to_string(), |text| {
            SigningKey::from_text(text).map(|key| key.to_text().to_string())
        }),
        ("recovery", recovery.to_text().to_string(), |text| {
            RecoverySecret::from_text(text).map(|key| key.to_text().to_string())
        }),
        ("public", recovery.public().to_text(), |text| {
            RecoveryPublic::from_text(text).map(|key| key.to_text())
        }),
    ]
}

#[test]
fn key_files_round_trip() {
    for (name, text, reread) in kinds() {
        assert_eq!(reread(&text).unwrap(), text, "{name}");
        assert_eq!(reread(&text.replace('\n', "\r\n")).unwrap(), text, "{name}");
        assert!(text.starts_with("# "), "{name}");
    }
}

#[test]
fn key_files_missing_short_damaged_and_mistaken_differ() {
    let all = kinds();
    for (name, text, reread) in &all {
        let code = |text: &str| reread(text).unwrap_err().code();
        assert_eq!(code(""), Code::KeyMissing, "{name}");
        assert_eq!(code("# only comments\n\n"), Code::KeyMissing, "{name}");
        assert_eq!(code("hunter2"), Code::Damaged, "{name}");
        assert_eq!(code(&"a".repeat(100_000)), Code::Damaged, "{name}");
        assert_eq!(code(&format!("{text}more")), Code::Damaged, "{name}");
        // Cut anywhere: missing while only comments are left, then short. Never another key.
        let end = text.trim_end().len();
        for len in 0..end {
            let code = code(&text[..len]);
            let key_begun =
                text[..len].lines().any(|line| !line.is_empty() && !line.starts_with('#'));
            let expected = if key_begun { Code::KeyTooShort } else { Code::KeyMissing };
            assert_eq!(code, expected, "{name} cut to {len}");
        }
        // Any character changed: noticed, unless it means the same (case, comments).
        for at in 0..end {
            for new in ['0', '1', 'f', 'x', ' '] {
                let mut bad = text.clone().into_bytes();
                bad[at] = new as u8;
                let bad = String::from_utf8(bad).unwrap();
                if let Ok(read) = reread(&bad) {
                    assert_eq!(read, *text, "{name} at {at}: another key was read");
                }
            }
        }
        for (other, other_text, _) in &all {
            if other != name {
                assert_eq!(code(other_text), Code::WrongKey, "{other} as {name}");
            }
        }
    }
}

#[test]
fn key_file_errors_repeat_no_secret() {
    let [(_, kek, reread), ..] = kinds();
    let key = kek.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
    for bad in [kek.replace("key ", "kex "), kek.replace("strongroom-store", key), key.to_owned()] {
        let error = reread(&bad).unwrap_err();
        assert!(!error.to_string().contains(&key[..8]), "{error}");
        assert!(!format!("{error:?}").contains(&key[..8]), "{error:?}");
    }
}

#[test]
fn recovery_keys_derive_both_halves_from_the_seed() {
    let random = Counting::new(5);
    let secret = RecoverySecret::generate(&random);
    let public = secret.public();
    assert_eq!(RecoverySecret::from_text(&secret.to_text()).unwrap().public(), public);
    assert_ne!(public.hpke, public.signing);
    let expected = proto_types::KeyFingerprint::of_recovery_key(&public.hpke, &public.signing);
    assert_eq!(public.fingerprint(), expected);
    assert!(public.to_text().starts_with(&format!("# fingerprint {expected}\n")));
    assert_ne!(RecoverySecret::generate(&random).public(), public);
}

#[test]
fn signing_keys_sign_statements() {
    let key = SigningKey::generate(&Counting::new(5));
    let statement = PointStatement {
        fleet: FLEET,
        cluster: CLUSTER,
        lineage: 0,
        sequence: Sequence::new(2),
        epoch: Epoch::new(1),
        taken: LogTime::from_millis(5),
        manifest: BundleId::from_bytes([4; 32]),
        key_bundle: BundleId::from_bytes([5; 32]),
    };
    let signature = key.sign_statement(&statement);
    assert!(statement.is_signed_by(&key.public(), &signature));
    assert!(!statement.is_signed_by(&SigningKey::generate(&Counting::new(6)).public(), &signature));
}

fn keyring() -> (Keyring, Kek, Counting) {
    let random = Counting::new(5);
    let kek = Kek::generate(&random);
    let signing = SigningKey::generate(&random);
    let keyring = Keyring::create(4, &kek, &signing, LogTime::from_millis(1000), &random);
    (keyring, kek, random)
}

#[test]
fn keyring_replaces_its_dek_after_30_days() {
    let (mut keyring, _, random) = keyring();
    assert_eq!(DEK_LIFETIME_MILLIS, 2_592_000_000);
    let first = keyring.current_dek();
    let due = LogTime::from_millis(1000 + 30 * DAY_MILLIS);
    assert!(!keyring.dek_due(LogTime::from_millis(0)));
    assert!(!keyring.dek_due(LogTime::from_millis(due.as_millis() - 1)));
    assert!(keyring.dek_due(due));
    let second = keyring.add_dek(due, &random).unwrap();
    assert_eq!(keyring.current_dek(), second);
    assert!(!keyring.dek_due(due));
    assert!(keyring.has_dek(&first));
    let mut sorted = [first, second];
    sorted.sort();
    assert_eq!(keyring.dek_ids(), sorted);
    keyring.retain_deks(&BTreeSet::new());
    assert_eq!(keyring.dek_ids(), [second]);
    assert!(!keyring.has_dek(&first));
}

#[test]
fn keyring_holds_no_more_deks_than_a_header_names() {
    let (mut keyring, _, random) = keyring();
    for _ in 1..96 {
        keyring.add_dek(LogTime::ZERO, &random).unwrap();
    }
    let error = keyring.add_dek(LogTime::ZERO, &random).unwrap_err();
    assert!(matches!(error, SealError::TooManyDeks));
    assert_eq!(error.code(), Code::TooLarge);
    assert_eq!(keyring.dek_ids().len(), 96);
}

#[test]
fn keyring_counts_kek_generations() {
    let (mut keyring, kek, random) = keyring();
    assert_eq!(keyring.kek_generation(), Generation::new(1));
    assert_eq!(keyring.add_kek(&kek), Generation::new(1));
    let next = Kek::generate(&random);
    assert_eq!(keyring.generation_of(&next), None);
    assert_eq!(keyring.add_kek(&next), Generation::new(2));
    assert_eq!(keyring.kek_generation(), Generation::new(2));
    assert_eq!(keyring.generation_of(&kek), Some(Generation::new(1)));
    assert_eq!(keyring.generation_of(&next), Some(Generation::new(2)));
}

#[test]
fn blob_ids_are_keyed_and_stable() {
    let (keyring, _, _) = keyring();
    assert_eq!(keyring.blob_id(b"a"), keyring.identify(b"a").id());
    assert_ne!(keyring.blob_id(b"a"), keyring.blob_id(b"b"));
    let (again, _, _) = self::keyring();
    assert_eq!(keyring.blob_id(b"a"), again.blob_id(b"a"));
    let random = Counting::new(6);
    let other = Keyring::create(
        4,
        &Kek::generate(&random),
        &SigningKey::generate(&random),
        LogTime::ZERO,
        &random,
    );
    assert_ne!(keyring.blob_id(b"a"), other.blob_id(b"a"));
    let id = keyring.blob_id(b"a");
    assert_eq!(id.to_string().parse::<bundle::BlobId>().unwrap(), id);
    assert!("ab".parse::<bundle::BlobId>().is_err());
}

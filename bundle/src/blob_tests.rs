use proto_types::env::SystemRandom;
use proto_types::{Generation, LogTime};

use super::*;
use crate::keyring::{Dek, KekEntry};
use crate::keys::{Kek, SigningKey};
use crate::secret::Secret32;

const FLEET: FleetId = FleetId::from_bytes([1; 16]);
const CLUSTER: ClusterId = ClusterId::from_bytes([2; 16]);

/// Two DEKs that differ in their id only, which no keyring that was created ever holds.
fn keyring_of_twins() -> Keyring {
    let dek = |id: u8, generation| {
        let key = Secret32::from_slice(&[3; 32]).unwrap();
        Dek::new(DekId::from_bytes([id; 16]), Generation::new(generation), LogTime::ZERO, key)
    };
    let kek = KekEntry { generation: Generation::new(1), kek: Kek::generate(&SystemRandom) };
    Keyring::from_parts(
        0,
        vec![kek],
        vec![dek(8, 1), dek(9, 2)],
        Secret32::from_slice(&[4; 32]).unwrap(),
        SigningKey::generate(&SystemRandom),
    )
}

fn seal(keyring: &Keyring, blob: &PlainBlob<'_>) -> (SealedBlob, BlobRef) {
    let mut sealer = BlobSealer::new(keyring, FLEET, CLUSTER);
    let sealed = sealer.seal(blob, Encoding::Compress, &SystemRandom).unwrap();
    let reference = sealed.reference(16);
    (sealed, reference)
}

/// The DEK's id is associated data of its own, not only by way of the key.
#[test]
fn invariant_k2_a_blob_is_bound_to_its_deks_name() {
    let keyring = keyring_of_twins();
    let (sealed, blob) = seal(&keyring, &keyring.identify(b"plain"));
    let mut opener = BlobOpener::new(&keyring, FLEET, CLUSTER);
    assert_eq!(opener.open(&sealed.record, &blob).unwrap().as_slice(), b"plain");
    let twin = BlobRef { dek: DekId::from_bytes([8; 16]), ..blob };
    assert!(matches!(opener.open(&sealed.record, &twin), Err(OpenError::Blob(_))));
}

/// A record of another kind, under the very key of the blob, is no blob of an item.
#[test]
fn invariant_k2_a_blob_is_bound_to_its_kind() {
    let keyring = keyring_of_twins();
    let id = keyring.blob_id(b"plain");
    let key = keyring.current().expand(&[KEY_INFO, id.as_bytes()]);
    let record_of = |kind: RecordKind| {
        let aad = record::associated_data(&[
            AAD_DOMAIN,
            &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
            FLEET.as_bytes(),
            CLUSTER.as_bytes(),
            keyring.current_dek().as_bytes(),
            &[kind.to_byte()],
            id.as_bytes(),
        ]);
        let mut encoder = Encoder::new();
        record::seal(&mut encoder, &key, &aad, b"plain", Encoding::Compress, &SystemRandom).unwrap()
    };
    let (_, blob) = seal(&keyring, &keyring.identify(b"plain"));
    let mut opener = BlobOpener::new(&keyring, FLEET, CLUSTER);
    opener.open(&record_of(RecordKind::Item), &blob).unwrap();
    for kind in [RecordKind::Secret, RecordKind::Keyring, RecordKind::Manifest] {
        assert!(matches!(opener.open(&record_of(kind), &blob), Err(OpenError::Blob(_))));
    }
}

/// What was sealed under another plaintext's id, by a broken sealer, is not taken for it.
#[test]
fn invariant_b3_a_blob_is_what_its_id_says() {
    let keyring = keyring_of_twins();
    let wrong = PlainBlob { id: keyring.blob_id(b"right"), plaintext: b"wrong" };
    let (sealed, blob) = seal(&keyring, &wrong);
    let mut opener = BlobOpener::new(&keyring, FLEET, CLUSTER);
    let outcome = opener.open(&sealed.record, &blob);
    assert!(matches!(outcome, Err(OpenError::Blob(id)) if id == wrong.id));
}

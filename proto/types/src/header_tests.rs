use ed25519_dalek::{Signer, SigningKey};

use super::*;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn header() -> ClearHeader {
    ClearHeader {
        kind: BundleKind::Manifest,
        suite: SUITE_AES256GCM_HKDF_SHA256,
        fleet: FleetId::from_bytes([1; 16]),
        cluster: ClusterId::from_bytes([2; 16]),
        lineage: 3,
        sequence: Sequence::new(4),
        epoch: Epoch::new(5),
        created: LogTime::from_millis(6),
        body_bytes: 100,
        blob_count: 8,
        body_sha256: [9; 32],
        signer: SigningPublicKey::from_bytes(key().verifying_key().to_bytes()),
        predecessor: BundleId::from_bytes([11; 32]),
        base: BundleId::from_bytes([12; 32]),
        recovery_key: KeyFingerprint::from_bytes([13; 32]),
        kek_generation: Generation::new(14),
        dek_ids: vec![DekId::from_bytes([15; 16]), DekId::from_bytes([16; 16])],
    }
}

fn signed() -> SignedHeader {
    let header = header();
    let signature = key().sign(&header_signing_input(&header.encode())).to_bytes();
    SignedHeader::new(header, signature)
}

#[test]
fn header_round_trips() {
    let bytes = header().encode();
    assert_eq!(bytes.len(), FIXED_BYTES + 32);
    assert_eq!(ClearHeader::decode(&bytes).unwrap(), header());
    let tail = signed().to_trailer();
    let file_bytes = 100 + tail.len() as u64;
    let again = SignedHeader::from_tail(&tail, file_bytes).unwrap();
    assert_eq!(again, signed());
    again.verify(&header().signer).unwrap();
    assert_eq!(again.file_bytes(), file_bytes);
}

/// Invariant K3: no bit of header or signature can change unnoticed.
#[test]
fn invariant_k3_every_flipped_bit_of_a_trailer_is_noticed() {
    let tail = signed().to_trailer();
    let file_bytes = 100 + tail.len() as u64;
    for at in 0..tail.len() {
        for bit in 0..8 {
            let mut bad = tail.clone();
            bad[at] ^= 1 << bit;
            let outcome = SignedHeader::from_tail(&bad, file_bytes)
                .and_then(|signed| signed.verify(&header().signer));
            assert!(outcome.is_err(), "byte {at} bit {bit} was not noticed");
        }
    }
}

#[test]
fn every_truncation_of_a_trailer_is_refused() {
    let tail = signed().to_trailer();
    for len in 0..tail.len() {
        assert!(SignedHeader::from_tail(&tail[..len], 100 + len as u64).is_err(), "{len}");
        assert!(SignedHeader::from_tail(&tail[tail.len() - len..], 100 + len as u64).is_err());
    }
}

#[test]
fn another_signer_is_named() {
    let stranger = SigningPublicKey::from_bytes([1; 32]);
    assert!(matches!(signed().verify(&stranger), Err(HeaderError::WrongSigner { .. })));
}

#[test]
fn newer_versions_and_unknown_suites_say_so() {
    let mut bytes = header().encode();
    bytes[0] = 2;
    assert_eq!(ClearHeader::decode(&bytes), Err(HeaderError::UnsupportedVersion { found: 2 }));
    let mut bytes = header().encode();
    bytes[2] = 9;
    assert_eq!(ClearHeader::decode(&bytes), Err(HeaderError::UnsupportedSuite { found: 9 }));
}

#[test]
fn leads_tell_the_kind() {
    for kind in [BundleKind::Config, BundleKind::Key, BundleKind::Manifest, BundleKind::Wraps] {
        assert_eq!(BundleKind::from_lead(&kind.lead()).unwrap(), kind);
    }
    let mut lead = BundleKind::Key.lead();
    lead[0] = b'x';
    assert_eq!(BundleKind::from_lead(&lead), Err(HeaderError::NotABundle { place: "first" }));
}

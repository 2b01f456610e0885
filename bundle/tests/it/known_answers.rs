//! The primitives under the sealed format against published vectors: a library that changes what it
//! computes is noticed here, by name, before any of our frozen files says so.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use ed25519_dalek::Signer;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use hpke::aead::AesGcm128;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, setup_receiver};
use sha2::Sha256;

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// RFC 5869, appendix A, test cases 1 to 3.
#[test]
fn hkdf_sha256_gives_the_answers_of_rfc_5869() {
    let long = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    for (key, salt, info, expected) in [
        (
            vec![0x0b; 22],
            Some(long(0, 0x0c)),
            long(0xf0, 0xf9),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            long(0, 0x4f),
            Some(long(0x60, 0xaf)),
            long(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6\
             5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            None,
            Vec::new(),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ] {
        let expected = hex(expected);
        let mut found = vec![0; expected.len()];
        Hkdf::<Sha256>::new(salt.as_deref(), &key).expand(&info, &mut found).unwrap();
        assert_eq!(found, expected);
    }
}

/// RFC 4231, test case 2.
#[test]
fn hmac_sha256_gives_the_answer_of_rfc_4231() {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(b"Jefe").unwrap();
    mac.update(b"what do ya want for nothing?");
    let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(mac.finalize().into_bytes()[..], hex(expected));
}

/// The specification of GCM that NIST published, test case 16: AES-256 with associated data.
#[test]
fn aes_256_gcm_gives_the_answer_of_the_nist_specification() {
    let key = hex(&"feffe9928665731c6d6a8f9467308308".repeat(2));
    let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
    let plain = hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24\
         49a6b525b16aedf5aa0de657ba637b39",
    );
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let sealed = hex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10\
         56828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    );
    let cipher = Aes256Gcm::new_from_slice(&key).unwrap();
    let nonce = Nonce::from(nonce);
    let found = cipher.encrypt(&nonce, Payload { msg: &plain, aad: &aad }).unwrap();
    assert_eq!(found, sealed);
    assert_eq!(cipher.decrypt(&nonce, Payload { msg: &sealed, aad: &aad }).unwrap(), plain);
    let mut damaged = sealed;
    damaged[0] ^= 1;
    assert!(cipher.decrypt(&nonce, Payload { msg: &damaged, aad: &aad }).is_err());
}

/// RFC 9180, appendix A.1.1: base mode, our KEM and KDF. The RFC prints no vector with AES-256-GCM,
/// whose own answer is above; what differs is only the length of the key.
#[test]
fn hpke_x25519_hkdf_sha256_gives_the_answers_of_rfc_9180() {
    type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
    type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;
    let private = hex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
    let encapped = hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
    let info = hex("4f6465206f6e2061204772656369616e2055726e");
    let mut receiver = setup_receiver::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &Private::from_bytes(&private).unwrap(),
        &Encapped::from_bytes(&encapped).unwrap(),
        &info,
    )
    .unwrap();
    let mut exported = [0; 32];
    receiver.export(b"", &mut exported).unwrap();
    let expected = "3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee";
    assert_eq!(exported[..], hex(expected));
    let sealed = hex(
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
    );
    let opened = receiver.open(&sealed, &hex("436f756e742d30")).unwrap();
    assert_eq!(opened, hex("4265617574792069732074727574682c20747275746820626561757479"));
}

/// RFC 8032, section 7.1, test 2.
#[test]
fn ed25519_gives_the_answer_of_rfc_8032() {
    let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let key = ed25519_dalek::SigningKey::from_bytes(&seed.try_into().unwrap());
    let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    assert_eq!(key.verifying_key().to_bytes()[..], hex(public));
    let signature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e\
                     458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
    assert_eq!(key.sign(&[0x72]).to_bytes()[..], hex(signature));
}

//! The wraps file of a key bundle: its content key wrapped under the cluster's KEK and, by HPKE,
//! to the fleet's recovery key. Both name what they belong to, and commit to their key, so that
//! a wrong key is told from damage before anything is decrypted. Replaceable without the bundle.

use std::convert::Infallible;
use std::io::Write;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Nonce, Tag};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver};
use proto_types::env::Random;
use proto_types::{
    BundleId, BundleKind, ClearHeader, Generation, KeyFingerprint, SUITE_AES256GCM_HKDF_SHA256,
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::file::{FileWriter, SealedBundle};
use crate::identity::{Expect, Identity, bad_field, blank_header};
use crate::keyring::Keyring;
use crate::keys::{ContentKey, Kek, RecoveryKem, RecoverySecret};
use crate::record::{NONCE_BYTES, TAG_BYTES, associated_data, cipher};
use crate::recovery_public::RecoveryPublic;
use crate::secret::Secret32;
use crate::verify::{Verified, records, verify_bytes};
use crate::{OpenError, SealError, check_lineage};

/// Longest record of a wraps file, its length field not counted.
pub(crate) const MAX_WRAP_BYTES: u32 = 1024;

const KEK_WRAP: u8 = 1;
const RECOVERY_WRAP: u8 = 2;
/// X25519-HKDF-SHA256, HKDF-SHA256, AES-256-GCM, as RFC 9180 numbers them.
const HPKE_SUITE: [u16; 3] = [0x0020, 0x0001, 0x0002];

const KEK_DOMAIN: &[u8] = b"strongroom kek wrap v1";
const KEK_KEY_INFO: &[u8] = b"strongroom kek wrap key v1";
const KEK_COMMITMENT_INFO: &[u8] = b"strongroom kek wrap commitment v1";
const RECOVERY_DOMAIN: &[u8] = b"strongroom recovery wrap v1";
const RECOVERY_COMMITMENT_INFO: &[u8] = b"strongroom recovery wrap commitment v1";

const SEALED_KEY_BYTES: usize = 32 + TAG_BYTES;
const KEK_WRAP_BYTES: usize = 1 + 1 + 2 + 4 + 32 + NONCE_BYTES + SEALED_KEY_BYTES;
const RECOVERY_WRAP_BYTES: usize = 1 + 1 + 6 + 32 + 32 + 32 + SEALED_KEY_BYTES;

/// What a wraps file says of itself, without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrapNames {
    /// The key bundle whose content key is wrapped.
    pub key_bundle: BundleId,
    /// The generation of the KEK of the first wrap.
    pub kek_generation: Generation,
    /// The recovery key that the second wrap is sealed to.
    pub recovery_key: KeyFingerprint,
}

/// A wraps file that was opened.
pub struct OpenedWraps {
    /// The file.
    pub file: Verified,
    /// What it says of itself.
    pub names: WrapNames,
    /// The content key of the key bundle.
    pub content_key: ContentKey,
}

/// Writes the wraps of a key bundle: under the keyring's current KEK and to the recovery key.
///
/// # Errors
/// When the writer fails, the lineages differ, or the recovery key is no valid point.
pub fn seal_wraps<W: Write>(
    writer: W,
    keyring: &Keyring,
    content_key: &ContentKey,
    key_bundle: BundleId,
    identity: &Identity,
    recovery: &RecoveryPublic,
    random: &dyn Random,
) -> Result<(SealedBundle, W), SealError> {
    check_lineage(keyring, identity)?;
    let signing = keyring.signing_key();
    let mut header = blank_header(BundleKind::Wraps, identity, signing.public());
    header.predecessor = key_bundle;
    header.recovery_key = recovery.fingerprint();
    header.kek_generation = keyring.kek_generation();
    let mut file = FileWriter::new(writer, BundleKind::Wraps)?;
    file.record(&framed(&wrap_under_kek(
        &keyring.current_kek().kek,
        content_key,
        &header,
        random,
    )?))?;
    file.record(&framed(&wrap_to_recovery(recovery, content_key, &header, random)?))?;
    file.finish(header, signing)
}

/// What a wraps file names; verifies it but opens nothing.
///
/// # Errors
/// When the file is damaged or does not meet what is expected.
pub fn read_wrap_names(file: &[u8], expect: &Expect) -> Result<WrapNames, OpenError> {
    Wraps::read(file, expect).map(|wraps| wraps.names())
}

/// Opens the first wrap.
///
/// # Errors
/// [`OpenError::WrongKek`] when it is another KEK; what [`crate::verify_bytes`] finds.
pub fn open_wraps_with_kek(
    file: &[u8],
    kek: &Kek,
    expect: &Expect,
) -> Result<OpenedWraps, OpenError> {
    let wraps = Wraps::read(file, expect)?;
    let content_key = wraps.open_with_kek(kek)?;
    Ok(OpenedWraps { names: wraps.names(), file: wraps.file, content_key })
}

/// Opens the second wrap.
///
/// # Errors
/// [`OpenError::WrongRecoveryKey`] when it is another one; what [`crate::verify_bytes`] finds.
pub fn open_wraps_with_recovery(
    file: &[u8],
    recovery: &RecoverySecret,
    expect: &Expect,
) -> Result<OpenedWraps, OpenError> {
    let wraps = Wraps::read(file, expect)?;
    let content_key = wraps.open_with_recovery(recovery)?;
    Ok(OpenedWraps { names: wraps.names(), file: wraps.file, content_key })
}

struct KekWrap {
    commitment: [u8; 32],
    nonce: [u8; NONCE_BYTES],
    sealed: [u8; SEALED_KEY_BYTES],
}

struct RecoveryWrap {
    encapsulated: [u8; 32],
    commitment: [u8; 32],
    sealed: [u8; SEALED_KEY_BYTES],
}

/// A wraps file taken apart, still closed.
struct Wraps {
    file: Verified,
    kek: KekWrap,
    recovery: RecoveryWrap,
}

impl Wraps {
    fn read(bytes: &[u8], expect: &Expect) -> Result<Self, OpenError> {
        let file = verify_bytes(bytes, &expect.of_kind(BundleKind::Wraps))?;
        let records = records(bytes, &file.header);
        let [kek, recovery] = records[..] else {
            let found = file.header.header().blob_count;
            return Err(OpenError::RecordCount { expected: 2, found });
        };
        let header = file.header.header();
        if header.predecessor.is_zero() {
            return Err(bad_field("predecessor"));
        }
        let kek = read_kek_wrap(&kek[4..], header).ok_or(OpenError::Record { index: 0 })?;
        let recovery =
            read_recovery_wrap(&recovery[4..], header).ok_or(OpenError::Record { index: 1 })?;
        Ok(Self { file, kek, recovery })
    }

    fn names(&self) -> WrapNames {
        let header = self.file.header.header();
        WrapNames {
            key_bundle: header.predecessor,
            kek_generation: header.kek_generation,
            recovery_key: header.recovery_key,
        }
    }

    fn open_with_kek(&self, kek: &Kek) -> Result<ContentKey, OpenError> {
        let header = self.file.header.header();
        let keys = KekWrapKeys::derive(kek, &self.kek.nonce);
        if !bool::from(keys.commitment.expose()[..].ct_eq(&self.kek.commitment[..])) {
            return Err(OpenError::WrongKek(header.kek_generation));
        }
        let damaged = || OpenError::Sealed { kind: BundleKind::Wraps, index: 0 };
        let (ciphertext, tag) = self.kek.sealed.split_at(32);
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(ciphertext);
        let tag: [u8; TAG_BYTES] = tag.try_into().map_err(|_| damaged())?;
        cipher(&keys.key)
            .decrypt_inout_detached(
                &Nonce::from(self.kek.nonce),
                &kek_context(header),
                key.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| damaged())?;
        content_key(&key[..]).ok_or_else(damaged)
    }

    fn open_with_recovery(&self, recovery: &RecoverySecret) -> Result<ContentKey, OpenError> {
        let header = self.file.header.header();
        let found = recovery.public().fingerprint();
        if found != header.recovery_key {
            return Err(OpenError::WrongRecoveryKey { expected: header.recovery_key, found });
        }
        let damaged = || OpenError::Sealed { kind: BundleKind::Wraps, index: 1 };
        let (private, _) = recovery.hpke_pair();
        let encapsulated =
            <RecoveryKem as Kem>::EncappedKey::from_bytes(&self.recovery.encapsulated)
                .map_err(|_| damaged())?;
        let context = recovery_context(header);
        let mut receiver = setup_receiver::<AesGcm256, HkdfSha256, RecoveryKem>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            &context,
        )
        .map_err(|_| damaged())?;
        let mut commitment = [0; 32];
        receiver.export(RECOVERY_COMMITMENT_INFO, &mut commitment).map_err(|_| damaged())?;
        if !bool::from(commitment[..].ct_eq(&self.recovery.commitment[..])) {
            return Err(damaged());
        }
        let key = receiver.open(&self.recovery.sealed, &context).map(Zeroizing::new);
        content_key(&key.map_err(|_| damaged())?).ok_or_else(damaged)
    }
}

fn content_key(bytes: &[u8]) -> Option<ContentKey> {
    Secret32::from_slice(bytes).map(ContentKey::from_secret)
}

/// Key and commitment of one wrap: both from the KEK and the wrap's nonce, so that no two wraps
/// share a key and a KEK that fits the commitment is the one that derived the key.
struct KekWrapKeys {
    key: Secret32,
    commitment: Secret32,
}

impl KekWrapKeys {
    fn derive(kek: &Kek, nonce: &[u8; NONCE_BYTES]) -> Self {
        Self {
            key: kek.secret().derive(&[KEK_KEY_INFO, nonce]),
            commitment: kek.secret().derive(&[KEK_COMMITMENT_INFO, nonce]),
        }
    }
}

/// Associated data of the first wrap (invariant K2).
fn kek_context(header: &ClearHeader) -> Vec<u8> {
    associated_data(&[
        KEK_DOMAIN,
        &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
        header.fleet.as_bytes(),
        header.cluster.as_bytes(),
        &header.lineage.to_le_bytes(),
        &header.kek_generation.get().to_le_bytes(),
        header.predecessor.as_bytes(),
    ])
}

/// Info and associated data of the second wrap (invariant K2).
fn recovery_context(header: &ClearHeader) -> Vec<u8> {
    associated_data(&[
        RECOVERY_DOMAIN,
        &hpke_suite(),
        header.fleet.as_bytes(),
        header.cluster.as_bytes(),
        &header.lineage.to_le_bytes(),
        header.predecessor.as_bytes(),
        header.recovery_key.as_bytes(),
    ])
}

pub(crate) fn hpke_suite() -> [u8; 6] {
    let mut bytes = [0; 6];
    for (place, id) in bytes.chunks_exact_mut(2).zip(HPKE_SUITE) {
        place.copy_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn framed(wrap: &[u8]) -> Vec<u8> {
    let len = u32::try_from(wrap.len()).expect("a wrap is short");
    [&len.to_le_bytes()[..], wrap].concat()
}

fn wrap_under_kek(
    kek: &Kek,
    content_key: &ContentKey,
    header: &ClearHeader,
    random: &dyn Random,
) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_BYTES];
    random.fill(&mut nonce);
    let keys = KekWrapKeys::derive(kek, &nonce);
    let mut sealed = Zeroizing::new(*content_key.secret().expose());
    let tag = cipher(&keys.key)
        .encrypt_inout_detached(
            &Nonce::from(nonce),
            &kek_context(header),
            sealed.as_mut_slice().into(),
        )
        .map_err(|_| SealError::Cipher)?;
    let wrap = [
        &[KEK_WRAP, 0][..],
        &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
        &header.kek_generation.get().to_le_bytes(),
        keys.commitment.expose(),
        &nonce,
        &sealed[..],
        &tag,
    ]
    .concat();
    debug_assert_eq!(wrap.len(), KEK_WRAP_BYTES);
    Ok(wrap)
}

fn wrap_to_recovery(
    recovery: &RecoveryPublic,
    content_key: &ContentKey,
    header: &ClearHeader,
    random: &dyn Random,
) -> Result<Vec<u8>, SealError> {
    let invalid = || SealError::RecoveryKey(recovery.fingerprint());
    let public =
        <RecoveryKem as Kem>::PublicKey::from_bytes(&recovery.hpke).map_err(|_| invalid())?;
    let context = recovery_context(header);
    let (encapsulated, mut sender) = hpke::setup_sender_with_rng::<
        AesGcm256,
        HkdfSha256,
        RecoveryKem,
    >(&OpModeS::Base, &public, &context, &mut HandedIn(random))
    .map_err(|_| invalid())?;
    let mut commitment = [0; 32];
    sender.export(RECOVERY_COMMITMENT_INFO, &mut commitment).map_err(|_| SealError::Cipher)?;
    let sealed =
        sender.seal(content_key.secret().expose(), &context).map_err(|_| SealError::Cipher)?;
    let wrap = [
        &[RECOVERY_WRAP, 0][..],
        &hpke_suite(),
        header.recovery_key.as_bytes(),
        &encapsulated.to_bytes(),
        &commitment,
        &sealed,
    ]
    .concat();
    commitment.zeroize();
    debug_assert_eq!(wrap.len(), RECOVERY_WRAP_BYTES);
    Ok(wrap)
}

/// The first wrap, if it is well formed and says what the signed header says.
fn read_kek_wrap(wrap: &[u8], header: &ClearHeader) -> Option<KekWrap> {
    let mut fields = Fields(wrap);
    let known = fields.take::<2>()? == [KEK_WRAP, 0]
        && fields.take::<2>()? == SUITE_AES256GCM_HKDF_SHA256.to_le_bytes()
        && fields.take::<4>()? == header.kek_generation.get().to_le_bytes();
    let wrap =
        KekWrap { commitment: fields.take()?, nonce: fields.take()?, sealed: fields.take()? };
    (known && fields.0.is_empty()).then_some(wrap)
}

/// The second wrap, if it is well formed and says what the signed header says.
fn read_recovery_wrap(wrap: &[u8], header: &ClearHeader) -> Option<RecoveryWrap> {
    let mut fields = Fields(wrap);
    let known = fields.take::<2>()? == [RECOVERY_WRAP, 0]
        && fields.take::<6>()? == hpke_suite()
        && fields.take::<32>()? == *header.recovery_key.as_bytes();
    let wrap = RecoveryWrap {
        encapsulated: fields.take()?,
        commitment: fields.take()?,
        sealed: fields.take()?,
    };
    (known && fields.0.is_empty()).then_some(wrap)
}

pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

/// The randomness that was handed in, as HPKE wants it.
pub(crate) struct HandedIn<'a>(pub(crate) &'a dyn Random);

impl TryRng for HandedIn<'_> {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl TryCryptoRng for HandedIn<'_> {}

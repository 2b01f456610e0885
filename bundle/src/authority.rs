//! The private key of a fleet's root authority, sealed by HPKE to the fleet's recovery key. It is
//! in no other form outside the memory of the program that draws or opens it: coordinators and
//! their snapshots carry these bytes. The layout is in `docs/formats.md`.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver};
use proto_types::env::Random;
use proto_types::{Code, FleetId, KeyFingerprint};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::SealError;
use crate::keys::{RecoveryKem, RecoverySecret};
use crate::record::{TAG_BYTES, associated_data};
use crate::recovery_public::RecoveryPublic;
use crate::wraps::{Fields, HandedIn, hpke_suite};

/// Longest private key: a PKCS#8 document of any curve in use is far shorter.
pub const MAX_AUTHORITY_KEY_BYTES: usize = 512;

const MAGIC: &[u8; 8] = b"SRAUTHOR";
const VERSION: u16 = 1;
const DOMAIN: &[u8] = b"strongroom authority key v1";
const COMMITMENT_INFO: &[u8] = b"strongroom authority key commitment v1";

/// What a sealed key belongs to: all of it is associated data (invariant K2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityNames {
    /// The fleet.
    pub fleet: FleetId,
    /// SHA-256 of the root's certificate (DER).
    pub root: [u8; 32],
    /// The recovery key that the root's key is sealed to.
    pub recovery_key: KeyFingerprint,
}

/// Why a sealed authority key does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The first bytes are others.
    #[error("this is no sealed authority key: give authority.sealed of the fleet, or a snapshot")]
    NotOne,
    /// Written by a newer program.
    #[error(
        "the sealed authority key has version {0}, this program reads {VERSION}: use a newer strongroom"
    )]
    Version(u16),
    /// It does not open, or has not the length it says.
    #[error("the sealed authority key is damaged: use another copy of it")]
    Damaged,
    /// Of another fleet.
    #[error("the sealed authority key is of fleet {found}, not of {expected}")]
    WrongFleet {
        /// The fleet expected.
        expected: FleetId,
        /// The fleet it is of.
        found: FleetId,
    },
    /// Of another root certificate.
    #[error("the sealed authority key belongs to another root certificate than the one at hand")]
    WrongRoot,
    /// Sealed to another recovery key.
    #[error("the authority key is sealed to recovery key {expected}, this one is {found}")]
    WrongRecoveryKey {
        /// The one it is sealed to.
        expected: KeyFingerprint,
        /// The one offered.
        found: KeyFingerprint,
    },
}

impl AuthorityError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotOne | Self::Damaged => Code::Damaged,
            Self::Version(_) => Code::UnsupportedVersion,
            Self::WrongFleet { .. } | Self::WrongRoot => Code::WrongFleet,
            Self::WrongRecoveryKey { .. } => Code::WrongKey,
        }
    }
}

/// Seals the private key of a fleet's root (PKCS#8, DER) whose certificate is `certificate` (DER).
///
/// # Errors
/// When the key is too long, or the recovery key is no valid point.
pub fn seal_authority(
    key: &[u8],
    fleet: FleetId,
    certificate: &[u8],
    recovery: &RecoveryPublic,
    random: &dyn Random,
) -> Result<Vec<u8>, SealError> {
    if key.len() > MAX_AUTHORITY_KEY_BYTES {
        return Err(SealError::BlobTooLarge { found: key.len(), limit: MAX_AUTHORITY_KEY_BYTES });
    }
    let names = AuthorityNames {
        fleet,
        root: Sha256::digest(certificate).into(),
        recovery_key: recovery.fingerprint(),
    };
    let invalid = || SealError::RecoveryKey(recovery.fingerprint());
    let public =
        <RecoveryKem as Kem>::PublicKey::from_bytes(&recovery.hpke).map_err(|_| invalid())?;
    let context = context(&names);
    let (encapsulated, mut sender) = hpke::setup_sender_with_rng::<
        AesGcm256,
        HkdfSha256,
        RecoveryKem,
    >(&OpModeS::Base, &public, &context, &mut HandedIn(random))
    .map_err(|_| invalid())?;
    let mut commitment = [0; 32];
    sender.export(COMMITMENT_INFO, &mut commitment).map_err(|_| SealError::Cipher)?;
    let sealed = sender.seal(key, &context).map_err(|_| SealError::Cipher)?;
    let length = u16::try_from(sealed.len()).expect("the key is short");
    let bytes = [
        &MAGIC[..],
        &VERSION.to_le_bytes(),
        &hpke_suite(),
        names.fleet.as_bytes(),
        &names.root,
        names.recovery_key.as_bytes(),
        &encapsulated.to_bytes(),
        &commitment,
        &length.to_le_bytes(),
        &sealed,
    ]
    .concat();
    commitment.zeroize();
    Ok(bytes)
}

/// What a sealed key says it belongs to, without any key. Only opening proves it.
///
/// # Errors
/// When the bytes are no sealed authority key.
pub fn read_authority_names(sealed: &[u8]) -> Result<AuthorityNames, AuthorityError> {
    Sealed::read(sealed).map(|sealed| sealed.names)
}

/// Opens the private key (PKCS#8, DER) of the root with this certificate (DER).
///
/// # Errors
/// When it is of another fleet, root or recovery key, or damaged.
pub fn open_authority(
    sealed: &[u8],
    fleet: FleetId,
    certificate: &[u8],
    recovery: &RecoverySecret,
) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let sealed = Sealed::read(sealed)?;
    let names = &sealed.names;
    if names.fleet != fleet {
        return Err(AuthorityError::WrongFleet { expected: fleet, found: names.fleet });
    }
    if names.root != <[u8; 32]>::from(Sha256::digest(certificate)) {
        return Err(AuthorityError::WrongRoot);
    }
    let found = recovery.public().fingerprint();
    if found != names.recovery_key {
        return Err(AuthorityError::WrongRecoveryKey { expected: names.recovery_key, found });
    }
    sealed.open(recovery).ok_or(AuthorityError::Damaged)
}

/// A sealed key taken apart, still closed.
struct Sealed<'a> {
    names: AuthorityNames,
    encapsulated: [u8; 32],
    commitment: [u8; 32],
    key: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, AuthorityError> {
        let mut fields = Fields(bytes);
        if fields.take::<8>().as_ref() != Some(MAGIC) {
            return Err(AuthorityError::NotOne);
        }
        let damaged = || AuthorityError::Damaged;
        let version = u16::from_le_bytes(fields.take().ok_or_else(damaged)?);
        if version != VERSION {
            return Err(AuthorityError::Version(version));
        }
        if fields.take::<6>() != Some(hpke_suite()) {
            return Err(damaged());
        }
        let names = AuthorityNames {
            fleet: FleetId::from_bytes(fields.take().ok_or_else(damaged)?),
            root: fields.take().ok_or_else(damaged)?,
            recovery_key: KeyFingerprint::from_bytes(fields.take().ok_or_else(damaged)?),
        };
        let encapsulated = fields.take().ok_or_else(damaged)?;
        let commitment = fields.take().ok_or_else(damaged)?;
        let length = usize::from(u16::from_le_bytes(fields.take().ok_or_else(damaged)?));
        let bounds = TAG_BYTES + 1..=TAG_BYTES + MAX_AUTHORITY_KEY_BYTES;
        if length != fields.0.len() || !bounds.contains(&length) {
            return Err(damaged());
        }
        Ok(Self { names, encapsulated, commitment, key: fields.0 })
    }

    fn open(&self, recovery: &RecoverySecret) -> Option<Zeroizing<Vec<u8>>> {
        let (private, _) = recovery.hpke_pair();
        let encapsulated =
            <RecoveryKem as Kem>::EncappedKey::from_bytes(&self.encapsulated).ok()?;
        let context = context(&self.names);
        let mut receiver = setup_receiver::<AesGcm256, HkdfSha256, RecoveryKem>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            &context,
        )
        .ok()?;
        let mut commitment = [0; 32];
        receiver.export(COMMITMENT_INFO, &mut commitment).ok()?;
        if !bool::from(commitment[..].ct_eq(&self.commitment[..])) {
            return None;
        }
        receiver.open(self.key, &context).ok().map(Zeroizing::new)
    }
}

/// Info and associated data.
fn context(names: &AuthorityNames) -> Vec<u8> {
    associated_data(&[
        DOMAIN,
        &VERSION.to_le_bytes(),
        &hpke_suite(),
        names.fleet.as_bytes(),
        &names.root,
        names.recovery_key.as_bytes(),
    ])
}

//! The keys that people and agents hold: KEK, signing key, recovery key, and the content key of
//! one key bundle. Secret ones are wiped on drop and neither `Clone` nor `Debug`.
//! Where they are stored is the caller's; their text form is in `key_file`, the recovery key's
//! public halves are in `recovery_public`, its shares in `share` and `share_set`.

use ed25519_dalek::Signer;
use hpke::kem::X25519HkdfSha256;
use hpke::{Kem, Serializable};
use proto_types::env::Random;
use proto_types::{PointStatement, SigningPublicKey, header_signing_input};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::key_file::{KEK_KIND, KeyFileError, KeyFileKind, RECOVERY_SECRET_KIND, SIGNING_KIND};
use crate::recovery_public::RecoveryPublic;
use crate::secret::Secret32;

/// The KEM that seals to the recovery key.
pub(crate) type RecoveryKem = X25519HkdfSha256;

const HPKE_INFO: &[u8] = b"strongroom recovery hpke v1";
const SIGNING_INFO: &[u8] = b"strongroom recovery signing v1";

const KEK_FILE: KeyFileKind = KeyFileKind {
    what: "store secret (strongroom-store-secret)",
    kind: KEK_KIND,
    comment: &[
        "strongroom store secret (KEK): opens the backups of one cluster.",
        "Keep a copy of it outside the cluster, where only few can read it.",
    ],
    parts: &["key"],
};
const SIGNING_FILE: KeyFileKind = KeyFileKind {
    what: "signing key",
    kind: SIGNING_KIND,
    comment: &[
        "strongroom signing key: proves that a backup was made by this cluster's agent.",
        "It opens nothing. It must not leave the cluster except inside a key bundle.",
    ],
    parts: &["seed"],
};
const RECOVERY_SECRET_FILE: KeyFileKind = KeyFileKind {
    what: "recovery key (recovery.key)",
    kind: RECOVERY_SECRET_KIND,
    comment: &[
        "strongroom recovery key: opens every backup of the fleet when its clusters are lost.",
        "Keep it offline, in more than one place. Never copy it to a coordinator or a cluster.",
    ],
    parts: &["seed"],
};
/// A cluster's key encryption key: wraps the content key of each key bundle.
pub struct Kek(Secret32);

impl Kek {
    /// Draws a fresh one.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(Secret32::random(random))
    }
    /// Reads the text form.
    ///
    /// # Errors
    /// When the text is empty, cut short, damaged or another key.
    pub fn from_text(text: &str) -> Result<Self, KeyFileError> {
        one_part(&KEK_FILE, text).map(Self)
    }
    /// The text form, as it stands in the file or Secret `strongroom-store-secret`.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        KEK_FILE.print(&[self.0.expose()])
    }
    /// Whether it is this one. Takes the same time whatever differs.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.expose()[..].ct_eq(&other.0.expose()[..]).into()
    }
    pub(crate) const fn from_secret(secret: Secret32) -> Self {
        Self(secret)
    }
    pub(crate) const fn secret(&self) -> &Secret32 {
        &self.0
    }
}

/// A cluster's Ed25519 key, which signs headers and statements of unchanged points.
pub struct SigningKey(Box<ed25519_dalek::SigningKey>);

impl SigningKey {
    /// Draws a fresh one.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self::from_seed(&Secret32::random(random))
    }
    /// Reads the text form.
    ///
    /// # Errors
    /// When the text is empty, cut short, damaged or another key.
    pub fn from_text(text: &str) -> Result<Self, KeyFileError> {
        one_part(&SIGNING_FILE, text).map(|seed| Self::from_seed(&seed))
    }
    /// The text form.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        SIGNING_FILE.print(&[self.0.as_bytes()])
    }
    /// The public half.
    #[must_use]
    pub fn public(&self) -> SigningPublicKey {
        SigningPublicKey::from_bytes(self.0.verifying_key().to_bytes())
    }
    /// Signs that a point equals its predecessor.
    #[must_use]
    pub fn sign_statement(&self, statement: &PointStatement) -> [u8; 64] {
        self.0.sign(&statement.signing_input()).to_bytes()
    }
    pub(crate) fn sign_raw(&self, input: &[u8]) -> [u8; 64] {
        self.0.sign(input).to_bytes()
    }
    pub(crate) fn sign_header(&self, header: &[u8]) -> [u8; 64] {
        self.0.sign(&header_signing_input(header)).to_bytes()
    }
    pub(crate) fn from_seed(seed: &Secret32) -> Self {
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(seed.expose())))
    }
    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// The key that one key bundle's body is sealed under; wrapped in its wraps file.
pub struct ContentKey(Secret32);

impl ContentKey {
    pub(crate) fn generate(random: &dyn Random) -> Self {
        Self(Secret32::random(random))
    }
    pub(crate) const fn from_secret(secret: Secret32) -> Self {
        Self(secret)
    }
    pub(crate) const fn secret(&self) -> &Secret32 {
        &self.0
    }
}

/// The fleet's recovery key: a seed from which the HPKE key pair and the signing key derive.
pub struct RecoverySecret(Secret32);

impl RecoverySecret {
    /// Draws a fresh one.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(Secret32::random(random))
    }
    /// Reads the text form, `recovery.key`.
    ///
    /// # Errors
    /// When the text is empty, cut short, damaged or another key.
    pub fn from_text(text: &str) -> Result<Self, KeyFileError> {
        one_part(&RECOVERY_SECRET_FILE, text).map(Self)
    }
    /// The text form, `recovery.key`.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        RECOVERY_SECRET_FILE.print(&[self.0.expose()])
    }
    /// The public halves, which coordinators and agents may know.
    #[must_use]
    pub fn public(&self) -> RecoveryPublic {
        let (_, hpke) = self.hpke_pair();
        let signing = self.signing_key();
        let mut hpke_bytes = [0; 32];
        hpke.write_exact(&mut hpke_bytes);
        RecoveryPublic { hpke: hpke_bytes, signing: *signing.public().as_bytes() }
    }
    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.0.derive(&[SIGNING_INFO]))
    }
    pub(crate) const fn from_seed(seed: Secret32) -> Self {
        Self(seed)
    }
    pub(crate) const fn seed(&self) -> &Secret32 {
        &self.0
    }
    pub(crate) fn hpke_pair(
        &self,
    ) -> (<RecoveryKem as Kem>::PrivateKey, <RecoveryKem as Kem>::PublicKey) {
        RecoveryKem::derive_keypair(self.0.derive(&[HPKE_INFO]).expose())
    }
}

fn one_part(kind: &KeyFileKind, text: &str) -> Result<Secret32, KeyFileError> {
    let mut values = kind.parse(text)?;
    let secret = Secret32::from_slice(&values[0][..]).expect("a part is 32 bytes");
    values[0].zeroize();
    Ok(secret)
}

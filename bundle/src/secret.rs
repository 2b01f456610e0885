//! 32 secret bytes on the heap, wiped on drop, and the one way keys are derived from them.
//! Deliberately neither `Clone` nor `Debug`; comparisons go through commitments, not through here.

use hkdf::Hkdf;
use proto_types::env::Random;
use sha2::Sha256;
use zeroize::Zeroizing;

/// 32 secret bytes. Boxed, so that moving the owner leaves no copy behind on the stack.
pub(crate) struct Secret32(Box<Zeroizing<[u8; 32]>>);

impl Secret32 {
    /// Draws fresh bytes straight into their place.
    pub(crate) fn random(random: &dyn Random) -> Self {
        let mut secret = Self(Box::default());
        random.fill(&mut secret.0[..]);
        secret
    }

    /// Takes over a copy of exactly 32 bytes.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self(Box::default());
        if bytes.len() != secret.0.len() {
            return None;
        }
        secret.0.copy_from_slice(bytes);
        Some(secret)
    }

    /// The bytes.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The extracted form of this secret, ready to expand many keys.
    pub(crate) fn hkdf(&self) -> Hkdf<Sha256> {
        Hkdf::new(None, self.expose())
    }

    /// One key: HKDF-SHA-256 without salt, `info` its purpose and context.
    pub(crate) fn derive(&self, info: &[&[u8]]) -> Self {
        expand(&self.hkdf(), info)
    }
}

/// HKDF-Expand to 32 bytes; the parts of `info` are concatenated.
pub(crate) fn expand(hkdf: &Hkdf<Sha256>, info: &[&[u8]]) -> Secret32 {
    let mut key = Secret32(Box::default());
    hkdf.expand_multi_info(info, &mut key.0[..]).expect("32 bytes are within HKDF's limit");
    key
}

//! Splits the recovery key into Shamir shares over GF(256), puts shares together, and checks one
//! share alone against what was recorded. The arithmetic is `vsss-rs`'s; here is what it does not
//! know: which shares belong together, and whether what they give is the key.

use proto_types::env::Random;
use proto_types::{Code, KeyFingerprint};
use vsss_rs::Gf256;
use zeroize::Zeroizing;

use crate::keys::RecoverySecret;
use crate::secret::Secret32;
use crate::share::{MAX_SHARES, MIN_THRESHOLD, RecoveryShare, ShareSet};
use crate::wraps::HandedIn;

/// Why a key cannot be split so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{threshold} of {total} shares is not possible: the threshold is at least {MIN_THRESHOLD} and \
     at most the number of shares, which is at most {MAX_SHARES}"
)]
pub struct SplitError {
    /// How many should rebuild the key.
    pub threshold: u8,
    /// How many there should be.
    pub total: u8,
}

/// Why shares do not give a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// None was given.
    #[error("no share was given")]
    None,
    /// Of different splittings.
    #[error(
        "share {index} is of set {set}, but share {first_index} is of set {first}: shares of \
         different sets do not go together"
    )]
    Mixed {
        /// Place of the one that differs, from 0.
        at: usize,
        /// Its number.
        index: u8,
        /// Its set.
        set: ShareSet,
        /// Number of the first share.
        first_index: u8,
        /// Set of the first share.
        first: ShareSet,
    },
    /// The same share twice.
    #[error("share {index} of set {set} was given twice: it counts once")]
    Twice {
        /// Place of the second, from 0.
        at: usize,
        /// Place of the first, from 0.
        before: usize,
        /// Its number.
        index: u8,
        /// The set.
        set: ShareSet,
    },
    /// Two with one number.
    #[error(
        "two different shares say that they are share {index} of set {set}: at least one of them \
         is not what was made"
    )]
    Contradiction {
        /// Place of the second, from 0.
        at: usize,
        /// Place of the first, from 0.
        before: usize,
        /// The number.
        index: u8,
        /// The set.
        set: ShareSet,
    },
    /// Fewer than the threshold.
    #[error(
        "{found} of the {} shares that rebuild the key {}: any {} of the {} of set {set}",
        set.threshold(),
        if *found == 1 { "is there" } else { "are there" },
        set.threshold(),
        set.total()
    )]
    TooFew {
        /// The set.
        set: ShareSet,
        /// How many there are.
        found: usize,
    },
    /// All is well formed, but what comes out is another key.
    #[error(
        "the shares of set {set} rebuild another key ({found}): at least one of them is not what \
         was made, although its checksum is right"
    )]
    OtherKey {
        /// The set.
        set: ShareSet,
        /// Fingerprint of what came out.
        found: KeyFingerprint,
    },
    /// All is well formed, but only without one of them the key comes out.
    #[error(
        "share {index} of set {set} is not what was made, although its checksum is right: the \
         others rebuild the key without it"
    )]
    OddOne {
        /// Its place, from 0.
        at: usize,
        /// Its number.
        index: u8,
        /// The set.
        set: ShareSet,
    },
}

impl CombineError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::None | Self::TooFew { .. } => Code::KeyMissing,
            Self::Twice { .. } => Code::InvalidArgument,
            Self::Contradiction { .. } | Self::OddOne { .. } => Code::Damaged,
            Self::Mixed { .. } | Self::OtherKey { .. } => Code::WrongKey,
        }
    }
}

impl RecoverySecret {
    /// Splits the key: any `threshold` of the `total` shares rebuild it, fewer tell nothing of it.
    ///
    /// # Errors
    /// When the numbers are not possible.
    pub fn split(
        &self,
        threshold: u8,
        total: u8,
        random: &dyn Random,
    ) -> Result<Vec<RecoveryShare>, SplitError> {
        let impossible = || SplitError { threshold, total };
        let mut id = [0; 5];
        random.fill(&mut id);
        let set = ShareSet::new(id, self.public().fingerprint(), threshold, total)
            .ok_or_else(impossible)?;
        let (at_least, count) = (usize::from(threshold), usize::from(total));
        // What the library leaves in freed memory is the polynomial of the last byte alone.
        let raw = Gf256::split_bytes(at_least, count, self.seed().expose(), HandedIn(random));
        let raw = Zeroizing::new(raw.map_err(|_| impossible())?);
        let share = |raw: &Vec<u8>| {
            let (index, value) = raw.split_first()?;
            RecoveryShare::new(set, *index, value)
        };
        raw.iter().map(share).collect::<Option<Vec<_>>>().ok_or_else(impossible)
    }

    /// Puts shares together, in whatever order. What comes out is compared with the fingerprint
    /// that the shares themselves name; whether that is the key a backup is sealed to is for the
    /// backup to say.
    ///
    /// # Errors
    /// When they are of different sets, too few, doubled, or not what was made.
    pub fn from_shares(shares: &[&RecoveryShare]) -> Result<Self, CombineError> {
        let set = check_together(shares)?;
        let secret = interpolate(shares).ok_or(CombineError::None)?;
        let found = secret.public().fingerprint();
        if set.is_of(found) {
            return Ok(secret);
        }
        Err(match odd_one(shares, &set) {
            Some(at) => CombineError::OddOne { at, index: shares[at].index(), set },
            None => CombineError::OtherKey { set, found },
        })
    }
}

/// What the shares give, whatever it is; the library refuses only what is no set of shares.
fn interpolate(shares: &[&RecoveryShare]) -> Option<RecoverySecret> {
    let raw = Zeroizing::new(shares.iter().map(|share| raw_share(share)).collect::<Vec<_>>());
    let seed = Gf256::combine_bytes(&*raw).map(Zeroizing::new).ok()?;
    Secret32::from_slice(&seed).map(RecoverySecret::from_seed)
}

/// The share without which the others, if they are enough, rebuild the key.
fn odd_one(shares: &[&RecoveryShare], set: &ShareSet) -> Option<usize> {
    if shares.len() <= usize::from(set.threshold()) {
        return None;
    }
    (0..shares.len()).find(|at| {
        let others = [&shares[..*at], &shares[at + 1..]].concat();
        interpolate(&others).is_some_and(|secret| set.is_of(secret.public().fingerprint()))
    })
}

/// Index and value, as the library takes them.
fn raw_share(share: &RecoveryShare) -> Vec<u8> {
    let mut raw = Vec::with_capacity(33);
    raw.push(share.index());
    raw.extend_from_slice(share.value().expose());
    raw
}

/// The one set that all are of, if they are enough of it.
fn check_together(shares: &[&RecoveryShare]) -> Result<ShareSet, CombineError> {
    let first = shares.first().ok_or(CombineError::None)?;
    let set = *first.set();
    for (at, share) in shares.iter().enumerate() {
        check_next(&shares[..at], share)?;
    }
    if shares.len() < usize::from(set.threshold()) {
        return Err(CombineError::TooFew { set, found: shares.len() });
    }
    Ok(set)
}

/// Whether a share goes together with those given before it; so that who types them hears at once.
///
/// # Errors
/// When it is of another set, or one of that number was given.
pub fn check_next(given: &[&RecoveryShare], share: &RecoveryShare) -> Result<(), CombineError> {
    let Some(first) = given.first() else { return Ok(()) };
    let (at, index, set) = (given.len(), share.index(), *share.set());
    if set != *first.set() {
        let (first_index, first) = (first.index(), *first.set());
        return Err(CombineError::Mixed { at, index, set, first_index, first });
    }
    match given.iter().position(|other| other.index() == index) {
        None => Ok(()),
        Some(before) if given[before].is_same(share) => {
            Err(CombineError::Twice { at, before, index, set })
        }
        Some(before) => Err(CombineError::Contradiction { at, before, index, set }),
    }
}

/// Why one share is not a share of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// It says so itself.
    #[error("share {index} is of set {found}, not of set {expected}")]
    OtherSet {
        /// The share's number.
        index: u8,
        /// The set it is of.
        found: ShareSet,
        /// The set it should be of.
        expected: ShareSet,
    },
    /// It says it is, but another one was made.
    #[error(
        "share {index} of set {set} is not the share that was made, although its checksum is right"
    )]
    OtherShare {
        /// The share's number.
        index: u8,
        /// The set.
        set: ShareSet,
    },
}

impl AttestError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::OtherSet { .. } => Code::WrongKey,
            Self::OtherShare { .. } => Code::Damaged,
        }
    }
}

/// What is public of a set of shares: enough to check one share alone, not enough to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareDigests {
    set: ShareSet,
    /// By index, from share 1.
    digests: Vec<[u8; 32]>,
}

impl ShareDigests {
    /// Of all shares of a set, in order; `None` when they are not that.
    #[must_use]
    pub fn of(shares: &[RecoveryShare]) -> Option<Self> {
        let set = *shares.first()?.set();
        let in_order =
            |(share, index): (&RecoveryShare, u8)| *share.set() == set && share.index() == index;
        let whole = shares.len() == usize::from(set.total())
            && shares.iter().zip(1..=set.total()).all(in_order);
        whole.then(|| Self { set, digests: shares.iter().map(RecoveryShare::digest).collect() })
    }

    pub(crate) fn from_parts(set: ShareSet, digests: Vec<[u8; 32]>) -> Self {
        assert_eq!(digests.len(), usize::from(set.total()), "a digest per share");
        Self { set, digests }
    }
    pub(crate) fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// The set.
    #[must_use]
    pub const fn set(&self) -> &ShareSet {
        &self.set
    }

    /// Checks that a share is the one that was made.
    ///
    /// # Errors
    /// When it is of another set, or not what was made.
    pub fn attest(&self, share: &RecoveryShare) -> Result<(), AttestError> {
        let (index, found) = (share.index(), *share.set());
        if found != self.set {
            return Err(AttestError::OtherSet { index, found, expected: self.set });
        }
        match self.digests.get(usize::from(index) - 1) {
            Some(digest) if *digest == share.digest() => Ok(()),
            Some(_) | None => Err(AttestError::OtherShare { index, set: found }),
        }
    }
}

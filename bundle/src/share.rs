//! One Shamir share of the recovery key, and its text: what it belongs to, its value, and a
//! checksum (Bech32m) that finds any four wrong characters. Text may come from a file or from
//! paper: spaces, hyphens, line ends and case mean nothing. The layout is in `docs/formats.md`;
//! how shares are made and put together is in `share_set`.

use std::fmt;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, ByteIterExt, Fe32IterExt, Hrp};
use proto_types::{Code, KeyFingerprint};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::key_file::MAX_KEY_FILE_BYTES;
use crate::secret::Secret32;

/// Most shares of a set: nobody has more holders, and `recovery.pub` stays a small file.
pub const MAX_SHARES: u8 = 64;
/// Fewest shares that rebuild a key: with one, each holder would have the whole key.
pub const MIN_THRESHOLD: u8 = 2;

const PREFIX: &str = "srshare";
pub(crate) const START: &str = "srshare1";
const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const VERSION: u8 = 1;
const SET_BYTES: usize = 5;
const KEY_BYTES: usize = 4;
const SHARE_BYTES: usize = 1 + SET_BYTES + KEY_BYTES + 3 + 32;
/// 45 bytes are 72 characters without a bit left over; then six of checksum.
const CHARACTERS: usize = SHARE_BYTES * 8 / 5 + 6;
/// Characters between two spaces: 13 groups.
const GROUP: usize = 6;
const DIGEST_DOMAIN: &[u8] = b"strongroom recovery share v1\0";

/// Which shares belong together: those of one splitting of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSet {
    id: [u8; SET_BYTES],
    key: [u8; KEY_BYTES],
    threshold: u8,
    total: u8,
}

impl ShareSet {
    pub(crate) fn new(
        id: [u8; SET_BYTES],
        key: KeyFingerprint,
        threshold: u8,
        total: u8,
    ) -> Option<Self> {
        Self::checked(id, first_bytes(key), threshold, total)
    }

    fn checked(
        id: [u8; SET_BYTES],
        key: [u8; KEY_BYTES],
        threshold: u8,
        total: u8,
    ) -> Option<Self> {
        let possible = MIN_THRESHOLD <= threshold && threshold <= total && total <= MAX_SHARES;
        possible.then_some(Self { id, key, threshold, total })
    }

    /// Random name of the set, as hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }
    /// How many shares of the set rebuild the key.
    #[must_use]
    pub const fn threshold(&self) -> u8 {
        self.threshold
    }
    /// How many shares the set has.
    #[must_use]
    pub const fn total(&self) -> u8 {
        self.total
    }
    /// Whether these are shares of the recovery key with this fingerprint, as far as they say.
    #[must_use]
    pub fn is_of(&self, key: KeyFingerprint) -> bool {
        self.key == first_bytes(key)
    }
    /// What tells sets apart, drawn when the set was made.
    #[must_use]
    pub const fn id_bytes(&self) -> &[u8; SET_BYTES] {
        &self.id
    }
}

impl fmt::Display for ShareSet {
    /// The set's id and the beginning of its key's fingerprint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of recovery key {}", self.id(), hex::encode(self.key))
    }
}

fn first_bytes(key: KeyFingerprint) -> [u8; KEY_BYTES] {
    let mut first = [0; KEY_BYTES];
    first.copy_from_slice(&key.as_bytes()[..KEY_BYTES]);
    first
}

/// Why a text is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Nothing is there.
    #[error("the share is missing: there is no text")]
    Missing,
    /// Some other text.
    #[error(
        "this is no share of a recovery key: a share begins with {START}; if it does on the \
         paper, a character of its beginning is wrong"
    )]
    NotAShare,
    /// A character that no share has.
    #[error(
        "the share is damaged: group {group} after {START} has a character that no share has \
         (b, i, o, 1 and signs are never used)"
    )]
    Character {
        /// Which group of characters, from 1.
        group: usize,
    },
    /// Characters are missing.
    #[error("the share is cut short: {found} of {CHARACTERS} characters after {START} are there")]
    TooShort {
        /// Characters that are there.
        found: usize,
    },
    /// There are too many.
    #[error(
        "the share is too long: there are more than {CHARACTERS} characters after {START}; give \
         one share at a time"
    )]
    TooLong,
    /// The checksum does not fit, and would with one other character.
    #[error(
        "the share is damaged: its checksum does not fit; if only one character is wrong, it is \
         in group {group} after {START}"
    )]
    OneCharacter {
        /// Which group of characters, from 1.
        group: usize,
    },
    /// The checksum does not fit.
    #[error(
        "the share is damaged: its checksum does not fit, so more than one character is wrong, or \
         two are swapped; compare it with the paper, group by group"
    )]
    Checksum,
    /// Written by a newer program.
    #[error("the share has version {0}, this program reads {VERSION}: use a newer strongroom")]
    Version(u8),
    /// The checksum fits, and yet it says what no share says.
    #[error("the share is not valid: its {what} cannot be; it was not made by strongroom")]
    Contents {
        /// What it says.
        what: &'static str,
    },
}

impl ShareError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Missing => Code::KeyMissing,
            Self::NotAShare => Code::WrongKey,
            Self::TooShort { .. } => Code::KeyTooShort,
            Self::Version(_) => Code::UnsupportedVersion,
            Self::Character { .. }
            | Self::TooLong
            | Self::OneCharacter { .. }
            | Self::Checksum
            | Self::Contents { .. } => Code::Damaged,
        }
    }
}

/// One share of the recovery key. Alone, and with fewer than the threshold, it tells nothing of
/// the key.
pub struct RecoveryShare {
    set: ShareSet,
    index: u8,
    value: Secret32,
}

impl RecoveryShare {
    pub(crate) fn new(set: ShareSet, index: u8, value: &[u8]) -> Option<Self> {
        let possible = 1 <= index && index <= set.total;
        Some(Self { set, index, value: Secret32::from_slice(value)? }).filter(|_| possible)
    }

    /// What it belongs to.
    #[must_use]
    pub const fn set(&self) -> &ShareSet {
        &self.set
    }
    /// Its number in the set, from 1.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }
    pub(crate) const fn value(&self) -> &Secret32 {
        &self.value
    }
    /// Whether both are the same share. Takes constant time.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.set == other.set
            && self.index == other.index
            && bool::from(self.value.expose()[..].ct_eq(&other.value.expose()[..]))
    }

    /// What is recorded of the share, so that it can be checked alone. It tells nothing of it:
    /// the value is 32 random bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(DIGEST_DOMAIN).chain_update(&self.bytes()[..]).finalize().into()
    }

    /// Reads the text form, or a file with it; lines that begin with `#` mean nothing.
    ///
    /// # Errors
    /// Says what is wrong with it and repeats nothing of it.
    pub fn from_text(text: &str) -> Result<Self, ShareError> {
        let written = characters(text);
        if written.is_empty() {
            return Err(ShareError::Missing);
        }
        let data = written.strip_prefix(START).ok_or(if START.starts_with(written.as_str()) {
            ShareError::TooShort { found: 0 }
        } else {
            ShareError::NotAShare
        })?;
        if let Some(at) = data.chars().position(|c| !ALPHABET.contains(c)) {
            return Err(ShareError::Character { group: at / GROUP + 1 });
        }
        if data.len() < CHARACTERS {
            return Err(ShareError::TooShort { found: data.len() });
        }
        if data.len() > CHARACTERS {
            return Err(ShareError::TooLong);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&written).map_err(|_| misread(&written))?;
        let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
        for (place, byte) in bytes.iter_mut().zip(checked.byte_iter()) {
            *place = byte;
        }
        Self::from_bytes(&bytes)
    }

    /// The text form: one line of groups to be written down or printed.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let hrp = Hrp::parse(PREFIX).expect("the prefix is lower-case letters");
        // Reserved at once, here and below, so that no reallocation leaves a copy behind.
        let mut joined = Zeroizing::new(String::with_capacity(START.len() + CHARACTERS));
        let bytes = self.bytes();
        let symbols = bytes.iter().copied().bytes_to_fes();
        for character in symbols.with_checksum::<Bech32m>(&hrp).chars() {
            joined.push(character);
        }
        let mut text = Zeroizing::new(String::with_capacity(2 * joined.len()));
        for (at, character) in joined.chars().enumerate() {
            if at >= START.len() && (at - START.len()).is_multiple_of(GROUP) {
                text.push(' ');
            }
            text.push(character);
        }
        text
    }

    /// The text of a file or sheet of paper for its holder.
    #[must_use]
    pub fn to_file_text(&self) -> Zeroizing<String> {
        let Self { set, index, .. } = self;
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let comment = format!(
            "# strongroom share {index} of {}, set {set}.\n\
             # Any {} shares of the set together open every backup of the fleet. Keep this one\n\
             # secret, offline, and apart from the others.\n",
            set.total, set.threshold
        );
        text.push_str(&comment);
        text.push_str(&self.to_text());
        text.push('\n');
        text
    }

    fn bytes(&self) -> Zeroizing<[u8; SHARE_BYTES]> {
        let ShareSet { id, key, threshold, total } = &self.set;
        let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
        let fields: [&[u8]; 5] =
            [&[VERSION], id, key, &[*threshold, *total, self.index], self.value.expose()];
        let mut rest = &mut bytes[..];
        for field in fields {
            let (place, next) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = next;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; SHARE_BYTES]) -> Result<Self, ShareError> {
        let impossible = |what| ShareError::Contents { what };
        let mut fields = crate::wraps::Fields(bytes);
        let short = || impossible("length");
        let [version] = fields.take().ok_or_else(short)?;
        if version != VERSION {
            return Err(ShareError::Version(version));
        }
        let id = fields.take().ok_or_else(short)?;
        let key = fields.take().ok_or_else(short)?;
        let [threshold, total, index] = fields.take().ok_or_else(short)?;
        let set = ShareSet::checked(id, key, threshold, total)
            .ok_or_else(|| impossible("number of shares"))?;
        Self::new(set, index, fields.0).ok_or_else(|| impossible("index"))
    }
}

/// Where the one wrong character is, if another one in its place makes the checksum fit: there is
/// at most one such place. It is told, never corrected: whoever has the paper can see it.
fn misread(written: &str) -> ShareError {
    let mut tried = Zeroizing::new(written.as_bytes().to_vec());
    for at in START.len()..written.len() {
        let before = tried[at];
        for character in ALPHABET.bytes() {
            tried[at] = character;
            let text = std::str::from_utf8(&tried).unwrap_or_default();
            if CheckedHrpstring::new::<Bech32m>(text).is_ok() {
                return ShareError::OneCharacter { group: (at - START.len()) / GROUP + 1 };
            }
        }
        tried[at] = before;
    }
    ShareError::Checksum
}

/// What stands in a text: without comments, white space and hyphens, in lower case.
fn characters(text: &str) -> Zeroizing<String> {
    let mut written = Zeroizing::new(String::with_capacity(MAX_KEY_FILE_BYTES));
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let all = lines.flat_map(str::chars).filter(|c| !c.is_whitespace() && *c != '-');
    // A text that is longer is no share, and is not looked at further.
    for character in all.take(MAX_KEY_FILE_BYTES / 4) {
        written.push(character.to_ascii_lowercase());
    }
    written
}

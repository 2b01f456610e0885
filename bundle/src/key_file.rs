//! The text form of key files: a few comment lines, a line with kind and version, `name value`
//! lines and a checksum, so that a missing, shortened, damaged or mistaken file each says so.
//! Works on text handed in; reading and writing files, and their modes, is the caller's.

use proto_types::Code;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::share::START as SHARE_START;

/// Longest text that is looked at: a key file is well under one KiB.
pub const MAX_KEY_FILE_BYTES: usize = 16 * 1024;

const CHECKSUM_DOMAIN: &[u8] = b"strongroom key file v1\0";

/// Why a text is not the key it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Nothing is there.
    #[error("the {what} is missing: the file holds no key")]
    Missing {
        /// The key, as people call it.
        what: &'static str,
    },
    /// A part of the key is not there.
    #[error("the {what} is cut short: {part} is missing or too short; use a whole copy of it")]
    TooShort {
        /// The key, as people call it.
        what: &'static str,
        /// The line that is missing or short.
        part: &'static str,
    },
    /// All is there, but it is not what was written.
    #[error("the {what} is damaged: {part} is not what was written; use another copy of it")]
    Damaged {
        /// The key, as people call it.
        what: &'static str,
        /// The line that is wrong.
        part: &'static str,
    },
    /// A key file, but of another key.
    #[error("this file holds another kind of key ({found}), not the {what} ({expected})")]
    WrongKind {
        /// The key, as people call it.
        what: &'static str,
        /// The kind line found.
        found: String,
        /// The kind line expected.
        expected: &'static str,
    },
}

impl KeyFileError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::KeyMissing,
            Self::TooShort { .. } => Code::KeyTooShort,
            Self::Damaged { .. } => Code::Damaged,
            Self::WrongKind { .. } => Code::WrongKey,
        }
    }
}

/// One kind of key file.
pub(crate) struct KeyFileKind {
    /// How people call the key.
    pub(crate) what: &'static str,
    /// First line that is no comment: kind and version.
    pub(crate) kind: &'static str,
    /// Comment lines, without `# `.
    pub(crate) comment: &'static [&'static str],
    /// Names of the value lines, in order; each value is 32 bytes in hexadecimal.
    pub(crate) parts: &'static [&'static str],
}

impl KeyFileKind {
    /// Writes the text of a key.
    pub(crate) fn print(&self, values: &[&[u8; 32]]) -> Zeroizing<String> {
        assert_eq!(values.len(), self.parts.len(), "one value per part");
        let mut text = KeyFileWriter::new(self);
        for (part, value) in self.parts.iter().zip(values) {
            text.part(part, *value);
        }
        text.finish()
    }

    /// Reads the values out of a text.
    pub(crate) fn parse(&self, text: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, KeyFileError> {
        let mut reader = KeyFileReader::new(self, text)?;
        let mut values = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            let mut value = Zeroizing::new([0; 32]);
            reader.part(part, &mut value[..])?;
            values.push(value);
        }
        reader.finish()?;
        Ok(values)
    }

    /// Whether a text is of this kind, as far as its kind line says.
    pub(crate) fn is_kind_of(&self, text: &str) -> bool {
        lines(text).next() == Some(self.kind)
    }

    /// A first line that is not ours: another key's, the beginning of ours, or garbage. What it
    /// says is repeated only when it is a kind we know, for it could be anybody's secret.
    fn not_the_kind(&self, found: &str) -> KeyFileError {
        let what = self.what;
        if let Some(kind) = KINDS.iter().find(|kind| **kind == found) {
            let found = (*kind).to_owned();
            return KeyFileError::WrongKind { what, found, expected: self.kind };
        }
        if found.to_ascii_lowercase().starts_with(SHARE_START) {
            let found = "a share of a recovery key".to_owned();
            return KeyFileError::WrongKind { what, found, expected: self.kind };
        }
        if self.kind.starts_with(found) {
            return KeyFileError::TooShort { what, part: "the first line" };
        }
        KeyFileError::Damaged { what, part: "the first line" }
    }
}

/// The lines that mean something, of as much text as is looked at.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.get(..MAX_KEY_FILE_BYTES.min(text.len()))
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Writes a key file part by part.
pub(crate) struct KeyFileWriter {
    text: Zeroizing<String>,
    checksum: Sha256,
}

impl KeyFileWriter {
    pub(crate) fn new(kind: &KeyFileKind) -> Self {
        // Reserved at once, so that no reallocation leaves a copy of a key behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE_BYTES));
        for line in kind.comment {
            text.push_str("# ");
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(kind.kind);
        text.push('\n');
        Self { text, checksum: begin_checksum(kind) }
    }

    pub(crate) fn part(&mut self, part: &str, value: &[u8]) {
        self.text.push_str(part);
        self.text.push(' ');
        push_hex(&mut self.text, value);
        self.text.push('\n');
        self.checksum.update(value);
    }

    pub(crate) fn finish(mut self) -> Zeroizing<String> {
        self.text.push_str("checksum ");
        push_hex(&mut self.text, &end_checksum(self.checksum));
        self.text.push('\n');
        self.text
    }
}

/// Reads a key file part by part; nothing read counts before [`KeyFileReader::finish`].
pub(crate) struct KeyFileReader<'a> {
    what: &'static str,
    lines: Box<dyn Iterator<Item = &'a str> + 'a>,
    checksum: Sha256,
}

impl<'a> KeyFileReader<'a> {
    pub(crate) fn new(kind: &KeyFileKind, text: &'a str) -> Result<Self, KeyFileError> {
        let what = kind.what;
        let mut lines = Box::new(lines(text));
        let found = lines.next().ok_or(KeyFileError::Missing { what })?;
        if found != kind.kind {
            return Err(kind.not_the_kind(found));
        }
        Ok(Self { what, lines, checksum: begin_checksum(kind) })
    }

    pub(crate) fn part(
        &mut self,
        part: &'static str,
        value: &mut [u8],
    ) -> Result<(), KeyFileError> {
        read_hex(self.what, part, self.lines.next(), value)?;
        self.checksum.update(&*value);
        Ok(())
    }

    pub(crate) fn damaged(&self, part: &'static str) -> KeyFileError {
        KeyFileError::Damaged { what: self.what, part }
    }

    pub(crate) fn finish(mut self) -> Result<(), KeyFileError> {
        let mut checksum = [0; 8];
        read_hex(self.what, "checksum", self.lines.next(), &mut checksum)?;
        if self.lines.next().is_some() {
            return Err(self.damaged("the end"));
        }
        let damaged = self.damaged("checksum");
        if checksum == end_checksum(self.checksum) { Ok(()) } else { Err(damaged) }
    }
}

fn begin_checksum(kind: &KeyFileKind) -> Sha256 {
    Sha256::new().chain_update(CHECKSUM_DOMAIN).chain_update(kind.kind).chain_update([0])
}

fn end_checksum(hash: Sha256) -> [u8; 8] {
    let digest: [u8; 32] = hash.finalize().into();
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&digest[..8]);
    checksum
}

pub(crate) const KEK_KIND: &str = "strongroom-store-secret-v1";
pub(crate) const SIGNING_KIND: &str = "strongroom-signing-key-v1";
pub(crate) const RECOVERY_SECRET_KIND: &str = "strongroom-recovery-key-v1";
pub(crate) const RECOVERY_PUBLIC_KIND: &str = "strongroom-recovery-public-v1";
pub(crate) const RECOVERY_PUBLIC_SHARES_KIND: &str = "strongroom-recovery-public-v2";
const KINDS: [&str; 5] = [
    KEK_KIND,
    SIGNING_KIND,
    RECOVERY_SECRET_KIND,
    RECOVERY_PUBLIC_KIND,
    RECOVERY_PUBLIC_SHARES_KIND,
];

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn read_hex(
    what: &'static str,
    part: &'static str,
    line: Option<&str>,
    value: &mut [u8],
) -> Result<(), KeyFileError> {
    let line = line.ok_or(KeyFileError::TooShort { what, part })?;
    let Some((name, digits)) = line.split_once(' ') else {
        // The beginning of the line that should be here is a cut; anything else is damage.
        return Err(if part.starts_with(line) {
            KeyFileError::TooShort { what, part }
        } else {
            KeyFileError::Damaged { what, part }
        });
    };
    let digits = digits.trim();
    if name != part {
        return Err(KeyFileError::Damaged { what, part });
    }
    if digits.len() < value.len() * 2 {
        return Err(KeyFileError::TooShort { what, part });
    }
    hex::decode_to_slice(digits, value).map_err(|_| KeyFileError::Damaged { what, part })
}

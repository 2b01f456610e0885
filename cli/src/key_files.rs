//! Reads signing keys and recovery keys that people name on the command line. The keys that open points are read by
//! the agent package.

use std::io::{ErrorKind, Read};
use std::path::Path;

use agent::shown;
use bundle::{
    MAX_KEY_FILE_BYTES, RecoveryPublic, RecoveryPublicFile, RecoverySecret, RecoveryShare,
    ShareError, SigningKey,
};
use proto_types::{Code, SigningPublicKey};
use zeroize::Zeroizing;

use crate::error::{CliError, Result};

/// Reads a cluster's signing key.
///
/// # Errors
/// `KEY_MISSING`, `KEY_TOO_SHORT`, `DAMAGED` or `WRONG_KEY`, naming the file.
pub fn signing(path: &Path) -> Result<SigningKey> {
    let text = read(path)?;
    SigningKey::from_text(&text)
        .map_err(|error| CliError::new(error.code(), format!("{}: {error}", shown::path(path))))
}

/// Reads a public recovery key, `recovery.pub`.
///
/// # Errors
/// As [`signing`].
pub fn recovery_public(path: &Path) -> Result<RecoveryPublic> {
    recovery_public_file(path).map(|file| file.public)
}

/// Reads a public recovery key with what it says of shares.
///
/// # Errors
/// As [`signing`].
pub fn recovery_public_file(path: &Path) -> Result<RecoveryPublicFile> {
    let text = read(path)?;
    RecoveryPublicFile::from_text(&text)
        .map_err(|error| CliError::new(error.code(), format!("{}: {error}", shown::path(path))))
}

/// Reads a recovery key, `recovery.key`.
///
/// # Errors
/// As [`signing`].
pub fn recovery_secret(path: &Path) -> Result<RecoverySecret> {
    let text = read(path)?;
    RecoverySecret::from_text(&text)
        .map_err(|error| CliError::new(error.code(), format!("{}: {error}", shown::path(path))))
}

/// Reads one share of a recovery key.
///
/// # Errors
/// As [`signing`], saying in which group of characters it is damaged where that is known.
pub fn share(path: &Path) -> Result<RecoveryShare> {
    let text = read(path)?;
    RecoveryShare::from_text(&text).map_err(|error| damaged_share(&shown::path(path), &error))
}

/// What is wrong with the share that was given at a place.
pub(crate) fn damaged_share(place: &str, error: &ShareError) -> CliError {
    let said = CliError::new(error.code(), format!("{place}: {error}"));
    match error {
        ShareError::Version(_) => said,
        ShareError::Missing | ShareError::NotAShare => {
            said.with_remedy("give a share as `strongroom key init` made it")
        }
        ShareError::Character { .. }
        | ShareError::TooShort { .. }
        | ShareError::TooLong
        | ShareError::OneCharacter { .. }
        | ShareError::Checksum
        | ShareError::Contents { .. } => {
            said.with_remedy("copy it again from its holder's paper or file, or use another share")
        }
    }
}

/// Understands what `--signing-key` was given: 64 hexadecimal digits, a file with them, or the
/// secret `signing.key`, of which only the public half is taken.
///
/// # Errors
/// When it is none of these.
pub fn signing_public(text: &str) -> Result<SigningPublicKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(CliError::usage(format!(
            "{text:?} is neither 64 hexadecimal digits nor a file"
        ))
        .with_remedy("give what `strongroom agent init` printed, or its signing.key file"));
    }
    let content = read(path)?;
    if let Ok(key) = content.trim().parse() {
        return Ok(key);
    }
    signing(path).map(|key| key.public())
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            CliError::new(Code::KeyMissing, format!("there is no key file {}", shown::path(path)))
        }
        _ => CliError::io("read", path, &error),
    })?;
    // Reserved at once, so that no reallocation leaves a copy of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE_BYTES + 1));
    file.take(MAX_KEY_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::io("read", path, &error))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() <= MAX_KEY_FILE_BYTES => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(CliError::new(Code::Damaged, format!("{} is no key file", shown::path(path)))),
    }
}

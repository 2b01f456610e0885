//! Makes files that only their owner may read, and never over an existing one.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use agent::shown;
use proto_types::Code;

use crate::error::{CliError, Result};

/// Makes a directory for private files, with its parents; an existing one stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| CliError::io("make the directory", path, &error))
}

/// Refuses a path where something stands already.
///
/// # Errors
/// `ALREADY_EXISTS`.
pub fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() { Err(exists(path)) } else { Ok(()) }
}

/// Writes a new file with mode 0600, durable when this returns.
///
/// # Errors
/// `ALREADY_EXISTS` when there is one; otherwise when it cannot be written.
pub fn create(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |error| match error.kind() {
            ErrorKind::AlreadyExists => exists(path),
            _ => CliError::io("make", path, &error),
        },
    )?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| CliError::io("write", path, &error))?;
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| CliError::io("write", parent, &error))
}

fn exists(path: &Path) -> CliError {
    CliError::new(Code::AlreadyExists, format!("{} exists and is not replaced", shown::path(path)))
        .with_remedy("choose another directory, or move the old file away if you are sure")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/key");
        make_directory(path.parent().unwrap()).unwrap();
        create(&path, b"one").unwrap();
        assert_eq!(create(&path, b"two").unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(refuse_existing(&path).unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}

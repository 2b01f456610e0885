//! Makes files that only their owner may read, and never over an existing one.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent::shown;
use proto_types::Code;
use zeroize::Zeroizing;

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
    written.map_err(|error| {
        // Half a key is none, and in the way of the next try.
        let _ = std::fs::remove_file(path);
        CliError::io("write", path, &error)
    })?;
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| CliError::io("write", parent, &error))
}

/// Writes several new files with mode 0600. Unless they are kept, they go again: when one cannot be
/// written, or when what follows fails.
///
/// # Errors
/// `ALREADY_EXISTS` when one is there, before any is made; otherwise when one cannot be written.
pub fn create_all(files: &[(PathBuf, Zeroizing<String>)]) -> Result<Made<'_>> {
    for (path, _) in files {
        refuse_existing(path)?;
    }
    let mut made = Made { paths: Vec::new() };
    for (path, text) in files {
        create(path, text.as_bytes())?;
        made.paths.push(path);
    }
    Ok(made)
}

/// Files of [`create_all`].
#[must_use = "what is not kept goes again"]
pub struct Made<'a> {
    paths: Vec<&'a Path>,
}

impl Made<'_> {
    /// Leaves them where they are.
    pub fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            // They are this run's own, and the error that ends it says what happened.
            let _ = std::fs::remove_file(path);
        }
    }
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
    fn several_private_files_are_all_there_or_none_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| (directory.path().join(name), Zeroizing::new(name.to_owned()));
        let there = || std::fs::read_dir(directory.path()).unwrap().count();
        // The last one cannot be written: its directory is missing.
        let error = create_all(&[at("a"), at("b"), at("no/c")]).err().unwrap();
        assert_eq!((error.code(), there()), (Code::LocalIo, 0));
        let files = [at("a"), at("b")];
        drop(create_all(&files).unwrap());
        assert_eq!(there(), 0);
        create_all(&files).unwrap().keep();
        assert_eq!(there(), 2);
        let error = create_all(&[at("d"), at("b")]).err().unwrap();
        assert_eq!((error.code(), there()), (Code::AlreadyExists, 2));
        assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"b");
    }

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

//! A store secret in a file of the agent's directory.

use std::path::{Path, PathBuf};

use bundle::Kek;
use proto_types::Code;

use super::{Found, Place};
use crate::home::{HomeError, load_kek, move_durably, sync_directory, write_new};

/// The one in use.
pub(crate) const KEK_FILE: &str = "kek.key";
/// The one that is to follow.
const NEXT_FILE: &str = "kek.next";
/// What stood there and was no KEK; numbered, so that none is lost.
const ASIDE: &str = "kek.unusable";

/// `kek.key` and what stands beside it.
pub(crate) struct FilePlace {
    directory: PathBuf,
}

impl FilePlace {
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read(path: &Path) -> Result<Found, HomeError> {
    match load_kek(path) {
        Ok(kek) => Ok(Found::There(kek)),
        Err(HomeError::KeyMissing { .. }) => Ok(Found::Missing),
        // Another key, or one of a newer program, was put there by mistake: nothing is lost yet.
        Err(HomeError::Key { source, .. }) if source.code() != Code::WrongKey => {
            Ok(Found::Unusable)
        }
        Err(error) => Err(error),
    }
}

impl Place for FilePlace {
    fn current(&self) -> Result<Found, HomeError> {
        read(&self.path(KEK_FILE))
    }

    fn prepared(&self) -> Result<Option<Kek>, HomeError> {
        match read(&self.path(NEXT_FILE))? {
            Found::There(kek) => Ok(Some(kek)),
            // Cut by a crash before anything was sealed under it.
            Found::Missing | Found::Unusable => Ok(None),
        }
    }

    fn prepare(&self, kek: &Kek) -> Result<(), HomeError> {
        let (path, partial) = (self.path(NEXT_FILE), self.path("kek.partial"));
        // Left by a crash between these lines.
        let _ = std::fs::remove_file(&partial);
        write_new(&partial, kek.to_text().as_bytes())?;
        move_durably(&partial, &path)
    }

    fn discard(&self) -> Result<(), HomeError> {
        let path = self.path(NEXT_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.directory),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(HomeError::Io { what: "remove", path, source }),
        }
    }

    fn promote(&self) -> Result<(), HomeError> {
        let current = self.path(KEK_FILE);
        if let Found::Unusable = read(&current)? {
            let free = (1_u32..).map(|n| self.path(&format!("{ASIDE}.{n}")));
            let free = free.into_iter().find(|path| std::fs::symlink_metadata(path).is_err());
            if let Some(aside) = free {
                // A copy and not a move: at no moment is there neither.
                let bytes = zeroize::Zeroizing::new(std::fs::read(&current).map_err(|source| {
                    HomeError::Io { what: "read", path: current.clone(), source }
                })?);
                write_new(&aside, &bytes)?;
                sync_directory(&self.directory)?;
            }
        }
        move_durably(&self.path(NEXT_FILE), &current)
    }
}

//! Makes a directory of files that is there whole or not at all: everything is written beside its
//! place first, and what says that it is whole comes last.

use std::path::{Path, PathBuf};

use agent::shown;
use proto_types::Code;

use crate::error::{CliError, Result};
use crate::private_file;

/// What lies in a new file system by itself.
const LOST_AND_FOUND: &str = "lost+found";

/// A directory in the making.
pub struct Staging {
    partial: PathBuf,
    target: PathBuf,
    /// The entry that says the directory is whole.
    last: &'static str,
    keeps: bool,
}

impl Staging {
    /// Begins a directory at `target`, which must be absent or empty. What an interrupted run left
    /// half made is taken away.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when there is something; otherwise when nothing can be made there.
    pub fn begin(target: &Path, last: &'static str) -> Result<Self> {
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| {
            CliError::usage(format!("{} is no name of a directory", shown::path(target)))
        })?;
        // Beside it, so that it can be renamed as a whole; inside what is there already, which may
        // be a mount and not ours to replace.
        let partial = match target.symlink_metadata() {
            Ok(_) => target.join(format!(".{last}.partial")),
            Err(_) => target.with_file_name(format!(".{name}.partial")),
        };
        let staging = Self { partial, target: target.to_owned(), last, keeps: false };
        staging.require_empty()?;
        staging.clear()?;
        private_file::make_directory(&staging.partial)?;
        Ok(staging)
    }

    /// Begins, or goes on with, a directory inside `target` that stays when this is not finished.
    ///
    /// # Errors
    /// As [`Staging::begin`].
    pub fn resume(target: &Path, last: &'static str) -> Result<Self> {
        private_file::make_directory(target)?;
        let partial = target.join(format!(".{last}.partial"));
        let staging = Self { partial, target: target.to_owned(), last, keeps: true };
        staging.require_empty()?;
        private_file::make_directory(&staging.partial)?;
        Ok(staging)
    }

    /// Finishes what an interrupted run had wholly made inside `target`, if anything.
    ///
    /// # Errors
    /// As [`Staging::finish`].
    pub fn recover(target: &Path, last: &'static str) -> Result<()> {
        let partial = target.join(format!(".{last}.partial"));
        if !partial.join(last).exists() {
            return Ok(());
        }
        Self { partial, target: target.to_owned(), last, keeps: true }.finish()
    }

    /// Takes everything away but these entries.
    ///
    /// # Errors
    /// When it cannot.
    pub fn clear_but(&self, kept: &[&str]) -> Result<()> {
        let failed = |error: &std::io::Error| CliError::io("clear", &self.partial, error);
        for name in entries(&self.partial).map_err(|error| failed(&error))? {
            let path = self.partial.join(&name);
            if kept.iter().any(|kept| name == *kept) {
                continue;
            }
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Where to write. Names that begin with a dot stay here and end with it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts everything in its place, durable when this returns.
    ///
    /// # Errors
    /// When something came into its place meanwhile, or a file system fails.
    pub fn finish(mut self) -> Result<()> {
        let failed = |error: &std::io::Error, path: &Path| CliError::io("write", path, error);
        sync(&self.partial).map_err(|error| failed(&error, &self.partial))?;
        if self.partial.parent() == Some(self.target.as_path()) {
            let mut names = entries(&self.partial).map_err(|e| failed(&e, &self.partial))?;
            names.sort_by_key(|name| name.as_os_str() == self.last);
            for name in names.into_iter().filter(|name| !is_hidden(name)) {
                let to = self.target.join(&name);
                private_file::refuse_existing(&to)?;
                std::fs::rename(self.partial.join(&name), &to).map_err(|e| failed(&e, &to))?;
            }
            std::fs::remove_dir_all(&self.partial).map_err(|e| failed(&e, &self.partial))?;
        } else {
            private_file::refuse_existing(&self.target)?;
            std::fs::rename(&self.partial, &self.target).map_err(|e| failed(&e, &self.target))?;
        }
        self.keeps = true;
        sync(&self.target).map_err(|error| failed(&error, &self.target))?;
        let parent = std::path::absolute(&self.target).ok();
        match parent.as_deref().and_then(Path::parent) {
            Some(parent) => sync(parent).map_err(|error| failed(&error, parent)),
            None => Ok(()),
        }
    }

    fn require_empty(&self) -> Result<()> {
        let names = match entries(&self.target) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(CliError::io("look into", &self.target, &error)),
        };
        let own = self.partial.file_name();
        let other =
            names.iter().find(|name| Some(name.as_os_str()) != own && *name != LOST_AND_FOUND);
        let Some(other) = other else { return Ok(()) };
        Err(CliError::new(
            Code::AlreadyExists,
            format!(
                "{} is not empty: there is {}",
                shown::path(&self.target),
                shown::path(Path::new(other))
            ),
        )
        .with_remedy("choose another directory; nothing that exists is replaced"))
    }

    fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.partial) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(CliError::io("remove", &self.partial, &error)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keeps {
            // What stays is taken away by the next try.
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn entries(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn sync(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(directory)
            .unwrap()
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new");
        let staging = Staging::begin(&target, "last").unwrap();
        private_file::create(&staging.path().join("last"), b"1").unwrap();
        assert!(!target.exists());
        drop(staging);
        assert_eq!(names(root.path()), [""; 0]);
        // An interrupted run is nobody's.
        std::fs::create_dir(root.path().join(".new.partial")).unwrap();
        std::fs::write(root.path().join(".new.partial/old"), "").unwrap();
        let staging = Staging::begin(&target, "last").unwrap();
        private_file::create(&staging.path().join("last"), b"1").unwrap();
        staging.finish().unwrap();
        assert_eq!((names(root.path()), names(&target)), (vec!["new".into()], vec!["last".into()]));
        // What exists is never touched.
        let refused = Staging::begin(&target, "last").err().unwrap();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert_eq!(names(&target), ["last"]);
    }

    #[test]
    fn an_empty_directory_is_filled_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(LOST_AND_FOUND)).unwrap();
        let staging = Staging::begin(root.path(), "last").unwrap();
        private_file::make_directory(&staging.path().join("first")).unwrap();
        private_file::create(&staging.path().join("last"), b"1").unwrap();
        staging.finish().unwrap();
        assert_eq!(names(root.path()), ["first", "last", LOST_AND_FOUND]);
    }

    #[test]
    fn what_is_resumed_stays_until_it_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new");
        let staging = Staging::resume(&target, "last").unwrap();
        private_file::create(&staging.path().join(".key"), b"1").unwrap();
        private_file::create(&staging.path().join("other"), b"1").unwrap();
        drop(staging);
        let staging = Staging::resume(&target, "last").unwrap();
        staging.clear_but(&[".key"]).unwrap();
        assert_eq!(names(staging.path()), [".key"]);
        private_file::make_directory(&staging.path().join("tls")).unwrap();
        // Nothing is moved before all is made.
        drop(staging);
        Staging::recover(&target, "last").unwrap();
        assert_eq!(names(&target), [".last.partial"]);
        let staging = Staging::resume(&target, "last").unwrap();
        private_file::create(&staging.path().join("last"), b"1").unwrap();
        // Interrupted in the middle of moving.
        std::fs::rename(staging.path().join("tls"), target.join("tls")).unwrap();
        drop(staging);
        Staging::recover(&target, "last").unwrap();
        assert_eq!(names(&target), ["last", "tls"]);
        assert!(Staging::resume(&target, "last").is_err());
    }
}

//! Debian's restic as the peer for backups: its default settings, its default cache, a repository
//! on the same disk. Repository format 2 with compression, the best it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, Finished};

/// How to get it.
pub(crate) const HOW: &str = "not installed: apt-get install restic";

/// The installed program.
#[derive(Debug, Clone)]
pub(crate) struct Restic {
    path: PathBuf,
    /// What it calls itself.
    pub(crate) version: String,
}

/// One repository with a cache of its own.
#[derive(Debug)]
pub(crate) struct Repository {
    restic: Restic,
    path: PathBuf,
    cache: PathBuf,
}

impl Restic {
    /// Looks for it on the path.
    pub(crate) fn find() -> Result<Option<Self>> {
        let Some(path) = process::find("restic") else { return Ok(None) };
        let said = process::run(Command::new(&path).arg("version"))?;
        let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        Ok(Some(Self { path, version }))
    }

    /// Makes an empty repository in `directory`.
    pub(crate) fn init(&self, directory: &Path) -> Result<Repository> {
        let repository = Repository {
            restic: self.clone(),
            path: directory.join("repository"),
            cache: directory.join("cache"),
        };
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        process::run(repository.command().args(["init", "--repository-version", "2"]))?;
        Ok(repository)
    }
}

impl Repository {
    /// Backs up `source`.
    pub(crate) fn backup(&self, source: &Path) -> Result<Finished> {
        // From within, so that paths in the repository begin where ours do.
        process::run(self.command().args(["backup", "."]).current_dir(source))
    }

    /// Restores the newest snapshot into `target`.
    pub(crate) fn restore(&self, target: &Path) -> Result<Finished> {
        process::run(self.command().args(["restore", "latest", "--target"]).arg(target))
    }

    /// Everything that it stores.
    pub(crate) fn bytes(&self) -> Result<u64> {
        crate::files::bytes_below(&self.path)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.restic.path);
        command
            .arg("--quiet")
            .env("RESTIC_REPOSITORY", &self.path)
            .env("RESTIC_CACHE_DIR", &self.cache)
            .env("RESTIC_PASSWORD", "a password for a benchmark");
        command
    }
}

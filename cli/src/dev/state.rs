//! The directory of a trial fleet: who is where, which ports it uses, and how far its story was
//! told.
//!
//! ```text
//! STATE/dev.json                      this file's `Saved`
//! STATE/coordinator-1 … coordinator-3 config file and data of each
//! STATE/agent                         config, KEK, signing key, cache
//! STATE/operator                      operator.toml, pins, the recovery key
//! STATE/pki                           certificates
//! STATE/logs                          a JSON log per process
//! STATE/exports                       exported recovery points
//! STATE/source                        what the agent backs up
//! STATE/restored                      what the story restored, to be compared
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use proto_types::{Code, FleetId};
use serde::{Deserialize, Serialize};

use super::ports;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::private_file;

/// Names of all that a trial fleet makes, and so all that it may remove.
const OWN: [&str; 11] = [
    "coordinator-1",
    "coordinator-2",
    "coordinator-3",
    "agent",
    "operator",
    "pki",
    "logs",
    "exports",
    "source",
    "restored",
    "dev.lock",
];
/// The whole recovery key, beside the operator's files: a trial needs no holders of shares.
pub(super) const RECOVERY_KEY: &str = "recovery.key";
const SAVED: &str = "dev.json";
const VERSION: u32 = 1;

/// What is remembered from one start to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    /// Version of this form.
    pub(super) version: u32,
    /// The fleet.
    pub(super) fleet: FleetId,
    /// Three for gRPC, three for metrics.
    pub(super) ports: [u16; 6],
    /// How many stories were begun; each has clusters of its own.
    pub(super) stories: u32,
    /// The cluster whose agent runs after the tour was told to its end.
    pub(super) live_cluster: Option<String>,
    /// The cluster that the tour lost and when its first point was committed, for the commands to
    /// try.
    pub(super) lost_cluster: Option<(String, String)>,
}

/// The directory, held by this process alone.
pub(super) struct State {
    root: PathBuf,
    /// What is remembered.
    pub(super) saved: Saved,
    /// Whether it was there before this start.
    pub(super) is_used_again: bool,
    _lock: File,
}

impl State {
    /// Opens the directory, or makes a new fleet's.
    ///
    /// # Errors
    /// When it belongs to something else, is in use, or cannot be written.
    pub(super) fn open(root: &Path, context: &Context, usual_ports: bool) -> Result<Self> {
        let root = std::path::absolute(root)
            .map_err(|error| CliError::io("find the way to", root, &error))?;
        let saved_path = root.join(SAVED);
        if !saved_path.exists() {
            refuse_foreign(&root)?;
        }
        private_file::make_directory(&root)?;
        let lock = lock(&root)?;
        let (saved, is_used_again) = match read(&saved_path)? {
            Some(saved) => (saved, true),
            None => {
                let saved = Saved {
                    version: VERSION,
                    fleet: FleetId::random(&*context.env.random),
                    ports: ports::choose(&*context.env.random, usual_ports)?,
                    stories: 0,
                    live_cluster: None,
                    lost_cluster: None,
                };
                (saved, false)
            }
        };
        ports::require_free(&saved.ports)?;
        let state = Self { root, saved, is_used_again, _lock: lock };
        for name in ["operator", "pki", "logs", "exports", "restored"] {
            private_file::make_directory(&state.path(name))?;
        }
        state.save()?;
        Ok(state)
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A place in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The log of a process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Remembers what changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.saved).map_err(|error| {
            CliError::new(Code::Internal, format!("the state cannot be put as JSON: {error}"))
        })?;
        let (path, partial) = (self.path(SAVED), self.path("dev.json.partial"));
        std::fs::write(&partial, text)
            .and_then(|()| File::open(&partial)?.sync_all())
            .and_then(|()| std::fs::rename(&partial, &path))
            .map_err(|error| CliError::io("write", &path, &error))
    }

    /// Removes a part of the directory with all in it, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn destroy(&self, name: &str) -> Result<()> {
        remove(&self.path(name))
    }

    /// Removes all that a trial fleet makes, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        for name in OWN {
            self.destroy(name)?;
        }
        // Last, so that an interrupted removal is recognised as ours.
        remove(&self.path(SAVED))?;
        // A directory that holds something of the person's stays.
        let _ = std::fs::remove_dir(&self.root);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Saved>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(|error| CliError::io("read", path, &error))?;
    let unusable = |why: String| {
        CliError::new(
            Code::InvalidConfig,
            format!("{} cannot be used: {why}", agent::shown::path(path)),
        )
        .with_remedy("give another --data directory, or remove this one")
    };
    let saved: Saved =
        serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
    if saved.version != VERSION {
        return Err(unusable(format!("it has version {}, not {VERSION}", saved.version)));
    }
    Ok(Some(saved))
}

/// A directory with something of somebody else's in it is not taken for a fleet.
fn refuse_foreign(root: &Path) -> Result<()> {
    let Ok(mut entries) = std::fs::read_dir(root) else { return Ok(()) };
    let foreign = entries.find_map(|entry| {
        let name = entry.ok()?.file_name();
        // A start that was cut off before it wrote dev.json leaves only these.
        let ours = OWN.iter().any(|own| name == *own) || name == "dev.json.partial";
        (!ours).then_some(name)
    });
    match foreign {
        None => Ok(()),
        Some(name) => Err(CliError::new(
            Code::AlreadyExists,
            format!(
                "{} holds {} and no trial fleet: it is not taken over",
                agent::shown::path(root),
                name.to_string_lossy()
            ),
        )
        .with_remedy("give a directory that is empty or absent with --data")),
    }
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("dev.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| CliError::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(CliError::new(
            Code::Busy,
            format!("another `strongroom dev` runs in {}", agent::shown::path(root)),
        )
        .with_remedy("stop that one, or give another --data directory")),
        Err(std::fs::TryLockError::Error(error)) => Err(CliError::io("lock", &path, &error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    removed.map_err(|error| CliError::io("remove", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    fn context() -> Context {
        let global = crate::args::Global {
            operator_dir: None,
            output: Format::Table,
            log: crate::args::LogFormat::Text,
            log_level: None,
        };
        Context::of_process(&global, None)
    }

    #[test]
    fn a_state_directory_is_used_again_by_one_at_a_time_and_removed_whole() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        let first = State::open(&root, &context(), false).unwrap();
        assert!(!first.is_used_again);
        assert_eq!(State::open(&root, &context(), false).err().unwrap().code(), Code::Busy);
        let fleet = first.saved.fleet;
        let ports = first.saved.ports;
        drop(first);
        let second = State::open(&root, &context(), false).unwrap();
        assert!(second.is_used_again);
        assert_eq!((second.saved.fleet, second.saved.ports), (fleet, ports));
        second.remove().unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.txt"), "precious").unwrap();
        let error = State::open(directory.path(), &context(), false).err().unwrap();
        assert_eq!(error.code(), Code::AlreadyExists);
        assert!(error.message().contains("thesis.txt"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

//! The directory of snapshots: which is the newest good one, publishing another, keeping two.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DamagedSnapshot, SnapshotError, SnapshotWriter, StoredSnapshot};
use crate::disk::{Disk, EntryKind, TEMPORARY_SUFFIX};
use crate::home::DataDir;
use crate::raft_log::LogBounds;
use crate::raft_types::SnapshotMeta;

/// The newest, and one before it in case the newest is found damaged.
const KEPT: usize = 2;
const COPY_BYTES: usize = 1 << 20;
const SUFFIX: &str = ".snap";
const DAMAGED_SUFFIX: &str = ".damaged";

/// The snapshots of a coordinator. Clones are handles to the same directory.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    home: DataDir,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    newest: Option<StoredSnapshot>,
    /// Files that lie aside, put there now or at an earlier start.
    damaged: Vec<DamagedSnapshot>,
    /// For the next published file; larger than any before.
    next_number: u64,
    /// For the next temporary file.
    next_temporary: u64,
}

/// A file's name: its number, which orders files, and the last index it covers, which is needed
/// just when the file itself cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    number: u64,
    last_index: u64,
    path: PathBuf,
}

impl SnapshotStore {
    /// Opens the snapshots of a data directory and reads the newest through. A damaged one is put
    /// aside and returned; [`SnapshotStore::damaged`] tells of it from then on. Open the log first;
    /// `log` says what it still holds.
    ///
    /// # Errors
    /// [`SnapshotError::Unrecoverable`] when no good snapshot reaches to where the log begins, or
    /// the damaged one covers more than the log: the node would forget what it acknowledged. Also
    /// when a file is of another fleet or a newer version, or the disk says no.
    pub fn open(
        home: &DataDir,
        log: LogBounds,
    ) -> Result<(Self, Vec<DamagedSnapshot>), SnapshotError> {
        let dir = home.snapshots_dir();
        let exists = home.disk().exists(&dir).map_err(SnapshotError::io("look for", &dir))?;
        if !exists {
            // Made together with the directory; whoever removed it removed the state.
            return Err(SnapshotError::Unrecoverable { path: dir, source: None });
        }
        let names = published(&**home.disk(), &dir)?;
        let mut next_number = names.last().map_or(1, |name| name.number + 1);
        let mut bad: Vec<(Name, SnapshotError)> = Vec::new();
        let mut newest = None;
        for name in names.into_iter().rev() {
            let fleet = home.identity().fleet;
            match StoredSnapshot::verify(home.disk(), &name.path, fleet, true) {
                Ok(snapshot) => {
                    newest = Some(snapshot);
                    break;
                }
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Meta { .. })) => {
                    bad.push((name, error));
                }
                Err(error) => return Err(error),
            }
        }
        let reaches = newest.as_ref().and_then(StoredSnapshot::last_index);
        let is_behind_log = log.purged.is_some_and(|p| reaches.is_none_or(|r| r < p.index));
        let log_last = log.last.map_or(0, |last| last.index);
        let forgets = bad.iter().any(|(name, _)| name.last_index > log_last);
        if is_behind_log || forgets {
            let (path, source) = match bad.into_iter().next() {
                Some((name, error)) => (name.path, Some(Box::new(error))),
                None => (dir, None),
            };
            return Err(SnapshotError::Unrecoverable { path, source });
        }
        let before = already_aside(&**home.disk(), &dir)?;
        // Only now: had it been put aside before the checks, the next start would not see it.
        let damaged = put_aside(bad, &**home.disk())?;
        remove_with_suffix(&**home.disk(), &dir, TEMPORARY_SUFFIX)?;
        // A process that died may have renamed a file without living to sync the directory, or
        // after that sync failed, and the log will be purged on the strength of what is seen here.
        // After a failed one the kernel shows the name and would not write it, so it gets another.
        // The content was synced before the file had any name: that need not be done again.
        if let Some(newest) = &newest {
            rename_to(newest, &**home.disk(), path_of(&dir, next_number, newest))?;
            next_number += 1;
        }
        home.disk().sync_dir(&dir).map_err(SnapshotError::io("sync", &dir))?;
        let aside = before.into_iter().chain(damaged.iter().cloned()).collect();
        let state = State { newest, damaged: aside, next_number, next_temporary: 0 };
        let inner = Inner { home: home.clone(), dir, state: Mutex::new(state) };
        Ok((Self { inner: Arc::new(inner) }, damaged))
    }

    /// The newest good snapshot of a data directory and the damaged ones that are newer, without
    /// changing anything: of a coordinator that does not run. Whether the log reaches back to it is
    /// for the caller to see.
    ///
    /// # Errors
    /// When a file is of another fleet or a newer version, or the disk says no.
    pub fn look(
        home: &DataDir,
    ) -> Result<(Option<StoredSnapshot>, Vec<SnapshotError>), SnapshotError> {
        let mut damaged = Vec::new();
        for name in published(&**home.disk(), &home.snapshots_dir())?.into_iter().rev() {
            match StoredSnapshot::verify(home.disk(), &name.path, home.identity().fleet, true) {
                Ok(snapshot) => return Ok((Some(snapshot), damaged)),
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Meta { .. })) => {
                    damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// The newest published snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<StoredSnapshot> {
        self.lock().newest.clone()
    }

    /// The damaged files that lie aside, since this start or an earlier one. They stay until the
    /// caller has told somebody: the next snapshot often follows within the second.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedSnapshot> {
        self.lock().damaged.clone()
    }

    /// Removes a damaged file, once somebody has been told. Not durable by itself: a power cut may
    /// bring it back, to be told of again.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn discard(&self, damaged: &DamagedSnapshot) -> Result<(), SnapshotError> {
        let mut state = self.lock();
        crate::disk::remove_if_exists(&**self.inner.home.disk(), &damaged.path)
            .map_err(SnapshotError::io("remove", &damaged.path))?;
        state.damaged.retain(|other| other.path != damaged.path);
        Ok(())
    }

    /// Begins a snapshot, to be filled by the state machine or from the network.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn writer(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        let number = {
            let mut state = self.lock();
            state.next_temporary += 1;
            state.next_temporary
        };
        let path = self.inner.dir.join(format!("writing-{number}{TEMPORARY_SUFFIX}"));
        let fleet = self.inner.home.identity().fleet;
        SnapshotWriter::create(Arc::clone(self.inner.home.disk()), fleet, path, meta)
    }

    /// Makes a finished snapshot the node's newest, durably; only then may the log be purged up
    /// to it. One from another directory is copied. Nothing happens when it already is the
    /// newest, or when the newest covers more.
    ///
    /// # Errors
    /// As the system reports it; the newest is then still the one before, and the log must not be
    /// purged beyond what that covers.
    pub fn publish(&self, snapshot: &StoredSnapshot) -> Result<(), SnapshotError> {
        let disk = self.inner.home.disk();
        if !snapshot.is_in(disk, &self.inner.dir) {
            return self.publish(&self.copy(snapshot)?);
        }
        let mut state = self.lock();
        let covered = state.newest.as_ref().and_then(|newest| newest.meta().last_log_id);
        if snapshot.place().is_published || covered > snapshot.meta().last_log_id {
            return Ok(());
        }
        let path = path_of(&self.inner.dir, state.next_number, snapshot);
        // Used up even if this fails: a name that could not be synced is not given again.
        state.next_number += 1;
        rename_to(snapshot, &**disk, path)?;
        disk.sync_dir(&self.inner.dir).map_err(SnapshotError::io("sync", &self.inner.dir))?;
        // Not before: after a failed sync the file goes with its last handle.
        snapshot.place().is_published = true;
        state.newest = Some(snapshot.clone());
        self.prune()
    }

    fn copy(&self, snapshot: &StoredSnapshot) -> Result<StoredSnapshot, SnapshotError> {
        let mut writer = self.writer(snapshot.meta())?;
        let mut at = 0;
        while at < snapshot.content_bytes() {
            let chunk = snapshot
                .read(at, COPY_BYTES)
                .map_err(SnapshotError::io("read", &snapshot.place().path))?;
            writer.write(&chunk)?;
            at += chunk.len() as u64;
        }
        writer.finish(Some(snapshot.digest()))
    }

    fn prune(&self) -> Result<(), SnapshotError> {
        let disk = &**self.inner.home.disk();
        let dir = &self.inner.dir;
        for name in published(disk, dir)?.iter().rev().skip(KEPT) {
            disk.remove(&name.path).map_err(SnapshotError::io("remove", &name.path))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a published file.
fn path_of(dir: &Path, number: u64, snapshot: &StoredSnapshot) -> PathBuf {
    let last_index = snapshot.last_index().unwrap_or(0);
    dir.join(format!("{number:016x}-{last_index:016x}{SUFFIX}"))
}

/// Gives the file that name, durable only after a sync of the directory.
fn rename_to(
    snapshot: &StoredSnapshot,
    disk: &dyn Disk,
    path: PathBuf,
) -> Result<(), SnapshotError> {
    let mut place = snapshot.place();
    disk.rename(&place.path, &path).map_err(SnapshotError::io("rename", &place.path))?;
    place.path = path;
    Ok(())
}

/// Published files, oldest first.
fn published(disk: &dyn Disk, dir: &Path) -> Result<Vec<Name>, SnapshotError> {
    let mut names: Vec<Name> = entries(disk, dir)?
        .into_iter()
        .filter_map(|path| {
            let stem = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
            let (number, last_index) = stem.split_once('-')?;
            Some(Name {
                number: u64::from_str_radix(number, 16).ok()?,
                last_index: u64::from_str_radix(last_index, 16).ok()?,
                path: path.clone(),
            })
        })
        .collect();
    names.sort();
    Ok(names)
}

fn entries(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let entries = disk.list(dir).map_err(SnapshotError::io("list", dir))?;
    Ok(entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File)
        .map(|entry| dir.join(entry.name))
        .collect())
}

fn put_aside(
    bad: Vec<(Name, SnapshotError)>,
    disk: &dyn Disk,
) -> Result<Vec<DamagedSnapshot>, SnapshotError> {
    bad.into_iter()
        .map(|(name, error)| {
            let mut aside = name.path.clone().into_os_string();
            aside.push(DAMAGED_SUFFIX);
            let aside = PathBuf::from(aside);
            disk.rename(&name.path, &aside).map_err(SnapshotError::io("rename", &name.path))?;
            Ok(DamagedSnapshot { path: aside, error: Arc::new(error) })
        })
        .collect()
}

/// What an earlier start put aside, and has told nobody of.
fn already_aside(disk: &dyn Disk, dir: &Path) -> Result<Vec<DamagedSnapshot>, SnapshotError> {
    let aside = entries(disk, dir)?
        .into_iter()
        .filter(|path| path.as_os_str().as_encoded_bytes().ends_with(DAMAGED_SUFFIX.as_bytes()));
    Ok(aside
        .map(|path| {
            let what = "found at an earlier start";
            let error = Arc::new(SnapshotError::Damaged { path: path.clone(), what });
            DamagedSnapshot { path, error }
        })
        .collect())
}

fn remove_with_suffix(disk: &dyn Disk, dir: &Path, suffix: &str) -> Result<(), SnapshotError> {
    for path in entries(disk, dir)? {
        if path.as_os_str().as_encoded_bytes().ends_with(suffix.as_bytes()) {
            disk.remove(&path).map_err(SnapshotError::io("remove", &path))?;
        }
    }
    Ok(())
}

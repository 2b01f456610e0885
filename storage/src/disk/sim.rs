//! A disk in memory for crash suites and simulations. It keeps apart what was written and what
//! was synced, and on [`SimDisk::crash`] forgets what the given [`Loss`] says; it can fail any
//! operation, lie about a sync, run full, and rot. Stricter than most real file systems: a name is
//! durable only after a sync of its directory, a length only after a sync of the file, and a sync
//! that failed has forgotten what it was to write: readers still see it, and the next sync of it
//! succeeds without bringing it anywhere, as with Linux' page cache after an I/O error.

mod file;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, DiskLock, Entry};
use file::{SimFile, SimLock};
use state::State;

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What a crash takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the process was killed, the kernel wrote everything it had been given.
    Nothing,
    /// All that was not synced: the power went.
    Unsynced,
    /// All that was not synced, except that of each file's unsynced writes all but the last
    /// arrived, and of the last so many bytes.
    TornLastWrite {
        /// Bytes of the last write that arrived.
        kept_bytes: usize,
    },
}

/// A kind of operation, for injected faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Making a file or directory.
    Create,
    /// Opening a file.
    Open,
    /// Writing or truncating.
    Write,
    /// Reading.
    Read,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Syncing a file.
    SyncFile,
    /// Syncing a directory.
    SyncDir,
    /// Syncing the file system.
    SyncAll,
}

/// One sync that was asked for, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncCall {
    /// Of what kind.
    pub operation: Operation,
    /// Of what.
    pub path: PathBuf,
    /// What was going on, as [`SimDisk::label`] said.
    pub during: &'static str,
}

impl SimDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power, or kills the process: files and names become what is durable, and the
    /// handles and locks from before fail from now on. Faults set up for paths are gone.
    pub fn crash(&self, loss: Loss) {
        self.lock().crash(loss);
    }

    /// Has the operation of that number (from 1, counted since the disk was made; see
    /// [`SimDisk::operations`]) and all after it fail, as if the power went just before it. Ended
    /// by the crash that follows.
    pub fn fail_from(&self, number: u64) {
        self.lock().fail_from = Some(number);
    }

    /// Operations that changed or synced something since the disk was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Fails the next `times` operations of a kind on paths that contain `fragment`. A sync that
    /// fails so forgets what it was to write.
    pub fn fail_path(&self, operation: Operation, fragment: &str, kind: io::ErrorKind, times: u64) {
        self.lock().add_fault(operation, fragment, kind, times);
    }

    /// Has the process die just before its next operation of that kind on a path that contains
    /// `fragment`: that one and all after it fail, until [`SimDisk::crash`].
    pub fn kill_at(&self, operation: Operation, fragment: &str) {
        self.lock().kill_at = Some((operation, fragment.to_owned()));
    }

    /// Takes back the faults of [`SimDisk::fail_path`] and [`SimDisk::kill_at`] that have not come
    /// yet.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.kill_at = None;
    }

    /// Has the `number`-th sync of any kind (from 0, counted since the disk was made) do nothing,
    /// yet report success.
    pub fn ignore_sync(&self, number: usize) {
        self.lock().ignored_sync = Some(number);
    }

    /// Says what is going on from now on, to tell syncs of one path apart.
    pub fn label(&self, during: &'static str) {
        self.lock().during = during;
    }

    /// The syncs so far.
    #[must_use]
    pub fn syncs(&self) -> Vec<SyncCall> {
        self.lock().syncs.clone()
    }

    /// Limits the disk to so many bytes of content; writes beyond fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Flips one bit of a file, on the platter and in the cache.
    ///
    /// # Errors
    /// `NotFound` when there is no such file, `UnexpectedEof` when it is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.lock().rot(path, |content| {
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let byte = content.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            *byte ^= 1 << (bit % 8);
            Ok(())
        })
    }

    /// Replaces a file's content, on the platter and in the cache.
    ///
    /// # Errors
    /// `NotFound` when there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.lock().rot(path, |old| {
            *old = content.to_vec();
            Ok(())
        })
    }

    /// A file's content as readers see it now.
    ///
    /// # Errors
    /// `NotFound` when there is no such file.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.lock().content(path)
    }

    /// All files as readers see them now, in the order of their paths.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().files()
    }

    /// A disk of its own with the same content, all of it durable, and no faults.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().fork())) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.step(Operation::Create, path)?;
        let (inode, life) = state.create(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.step(Operation::Open, path)?;
        let (inode, life) = state.open(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, life }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(Operation::Rename, from)?;
        state.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(Operation::Remove, path)?;
        state.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(Operation::Create, path)?;
        state.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.lock();
        state.step(Operation::Read, dir)?;
        state.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock();
        state.step(Operation::Read, path)?;
        Ok(state.exists(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step_sync(Operation::SyncDir, dir, |state| state.forget_dir(dir))?;
        if state.notes_sync(Operation::SyncDir, dir) { state.sync_dir(dir) } else { Ok(()) }
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step_sync(Operation::SyncAll, dir, State::forget_all)?;
        if state.notes_sync(Operation::SyncAll, dir) {
            state.sync_all();
        }
        Ok(())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.step(Operation::Read, dir)?;
        Ok(state.free_bytes())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = Self::lock(self);
        state.step(Operation::Open, path)?;
        let life = state.take_lock(path)?;
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life }))
    }
}

#[cfg(test)]
#[path = "sim/sim_tests.rs"]
mod tests;

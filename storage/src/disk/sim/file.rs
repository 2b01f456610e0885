//! Open files and locks of a simulated disk: paths into its state that a crash makes useless.

use std::io;
use std::path::PathBuf;

use super::{Operation, SimDisk};
use crate::disk::{DiskFile, DiskLock};

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    /// The name it was opened under, for faults and the list of syncs.
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    /// The life of the disk it was opened in: none outlives a crash.
    pub(super) life: u64,
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(Operation::Write, &self.path)?;
        state.check_life(self.life)?;
        state.write(self.inode, offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.step(Operation::Read, &self.path)?;
        state.check_life(self.life)?;
        state.read(self.inode, offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        state.check_life(self.life)?;
        state.length(self.inode)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(Operation::Write, &self.path)?;
        state.check_life(self.life)?;
        state.truncate(self.inode, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step_sync(Operation::SyncFile, &self.path, |s| s.forget_file(self.inode))?;
        state.check_life(self.life)?;
        if state.notes_sync(Operation::SyncFile, &self.path) {
            state.sync_file(self.inode);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[derive(Debug)]
pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
    pub(super) life: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock().release_lock(&self.path, self.life);
    }
}

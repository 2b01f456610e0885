//! The operating system's files, for looking only: nothing that goes through it changes a byte.
//! Files are opened for reading, and whatever would write is refused as on a read-only file
//! system, so that a path of code that should not write fails instead.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::real::{RealFile, RealLock};
use super::{Disk, DiskFile, DiskLock, Entry, RealDisk};

/// [`RealDisk`], for reading only.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOnlyDisk;

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "this directory is only read")
}

impl Disk for ReadOnlyDisk {
    fn create(&self, _path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Err(refused())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ReadOnlyFile(RealFile(File::open(path)?))))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }

    /// Shared with other readers; a writer's lock keeps it out, and it a writer. Where there is no
    /// file to lock, nobody ever ran there, and none is made.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        match File::open(path) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
                Ok(Box::new(RealLock::holding(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(NoLock)),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
struct NoLock;

impl DiskLock for NoLock {}

#[derive(Debug)]
struct ReadOnlyFile(RealFile);

impl DiskFile for ReadOnlyFile {
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, _bytes: u64) -> io::Result<()> {
        Err(refused())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}

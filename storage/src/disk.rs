//! The file layer that is handed in: everything durable in this package goes through [`Disk`].
//! [`RealDisk`] is the operating system, [`ReadOnlyDisk`] the same for looking only, [`sim`] a disk in memory that forgets what was not synced.
//! It deliberately knows nothing of formats, and retries nothing: an error is the caller's.

mod read_only;
mod real;
pub mod sim;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use read_only::ReadOnlyDisk;
pub use real::{METRIC_SYNC_SECONDS, RealDisk};

/// A file system, or something that behaves as one. Paths are absolute or relative to the
/// process, as the caller likes; all callers of this package use paths below one directory.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes a new empty file, open for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; anything else as the system reports it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none; anything else as the system reports it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what had it. Durable only after [`Disk::sync_dir`] of
    /// both directories.
    ///
    /// # Errors
    /// As the system reports it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `NotFound` when there is none; anything else as the system reports it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory, parents included; fine when it is there. Durable only after
    /// [`Disk::sync_dir`] of every parent that gained a name.
    ///
    /// # Errors
    /// As the system reports it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// `NotFound` when there is no such directory; anything else as the system reports it.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Whether the name exists.
    ///
    /// # Errors
    /// As the system reports it; absence is no error.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Brings the names in a directory to stable storage.
    ///
    /// # Errors
    /// As the system reports it. After one, nothing is known of what was written before.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Brings the whole file system that holds `dir` to stable storage: what a process that died
    /// had written but not synced is durable afterwards.
    ///
    /// # Errors
    /// As the system reports it.
    fn sync_all(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that an unprivileged writer could still put below `dir`.
    ///
    /// # Errors
    /// As the system reports it.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on a file, making it if needed. Held until the guard is dropped or
    /// the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when another process or guard holds it; anything else as the system reports it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file. Positions are absolute; there is no cursor, so a reader and the writer may share
/// one.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all bytes at an offset, growing the file as needed.
    ///
    /// # Errors
    /// As the system reports it; part of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// As the system reports it.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the system reports it.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As the system reports it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Sets the length; new bytes are zero.
    ///
    /// # Errors
    /// As the system reports it.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Brings content and length to stable storage (fdatasync).
    ///
    /// # Errors
    /// As the system reports it. After one, nothing is known of what was written before: the
    /// kernel may have dropped the dirty pages, so a second call must not be believed.
    fn sync_data(&self) -> io::Result<()>;

    /// Brings content and all metadata to stable storage (fsync).
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// An exclusive lock, given back on drop.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without its directory.
    pub name: OsString,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what is not a file.
    pub bytes: u64,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, which this package never makes.
    Other,
}

/// Reads exactly the bytes of a range.
///
/// # Errors
/// `UnexpectedEof` when the file ends before; anything else as the system reports it.
pub fn read_exact_at(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(offset + done as u64, &mut buffer[done..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(())
}

/// Reads a whole file.
///
/// # Errors
/// As the system reports it.
pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let bytes = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut content = vec![0; bytes];
    read_exact_at(&*file, 0, &mut content)?;
    Ok(content)
}

/// Replaces a small file as a whole: temporary name, content, fsync, rename, fsync of the
/// directory. After a crash there is either the old content or the new.
///
/// # Errors
/// As the system reports it; the old content is then still there, or the new one not yet durable.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    remove_if_exists(disk, &temporary)?;
    let file = disk.create(&temporary)?;
    file.write_at(0, content)?;
    file.sync_all()?;
    drop(file);
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// Removes a file that may be absent.
///
/// # Errors
/// As the system reports it; absence is no error.
pub fn remove_if_exists(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The name under which a file is written before it gets its own.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Files that end so are half written and are removed when their owner opens.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// The directory of a name; the current one when it has none.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether an error says that the disk, or the quota on it, is full.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

//! Writing beneath the target directory. Every step opens the directory above without following
//! a link, then works on one name in it: nothing planted in the target can lead a write outside.
//! Files are written under a temporary name and renamed, so that a name never stands for half a
//! file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bundle::{Item, ItemKind};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::RestoreError;
use super::observe::Rights;
use crate::beneath::{Root, split};

/// The full path of something beneath the target, for messages.
pub(crate) fn place(to: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { to.to_owned() } else { to.join(OsStr::from_bytes(path)) }
}

/// The directory that is restored into.
pub(crate) struct Target {
    to: PathBuf,
    root: Root,
    rights: Rights,
    attributes_not_set: AtomicU64,
}

impl Target {
    /// Opens the target, making it and the directories above it where they are missing.
    pub(crate) fn open(to: &Path, rights: Rights) -> Result<Self, RestoreError> {
        let write = |what, source| RestoreError::Write { what, path: to.to_owned(), source };
        std::fs::create_dir_all(to).map_err(|error| write("make the directory", error))?;
        let root = Root::open(to).map_err(|error| write("open", error.into()))?;
        Ok(Self { to: to.to_owned(), root, rights, attributes_not_set: AtomicU64::new(0) })
    }

    /// Extended attributes that could not be set.
    pub(crate) fn attributes_not_set(&self) -> u64 {
        self.attributes_not_set.load(Ordering::Relaxed)
    }

    /// Makes a directory that the owner may write into until its own mode is set. One that is
    /// there stays; anything else of that name has to go, which the plan has approved.
    pub(crate) fn make_directory(&self, path: &[u8], replace: bool) -> Result<(), RestoreError> {
        if path.is_empty() {
            return Ok(());
        }
        let failed = self.failed("make the directory", path);
        let (parent, name) = self.parent(path)?;
        if replace {
            match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        // Of what was there already it must be known that it is a directory, not a link to one.
        self.root.directory(path).map(|_| ()).map_err(failed)
    }

    /// Lets the owner write into a directory that forbids it; its mode is set again at the end.
    pub(crate) fn open_up(&self, path: &[u8]) -> Result<(), RestoreError> {
        let failed = self.failed("open up", path);
        let fd = self.root.directory(path).map_err(&failed)?;
        let mode = rustix::fs::fstat(&fd).map_err(&failed)?.st_mode & 0o7777;
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode | 0o700)).map_err(failed)
    }

    /// Begins a file under its temporary name; what an interrupted restore left there goes.
    pub(crate) fn begin_file(&self, path: &[u8], size: u64) -> Result<File, RestoreError> {
        let failed = self.failed("write", path);
        let (parent, _) = self.parent(path)?;
        let temporary = temporary_name(path);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::openat(&parent, &temporary[..], flags, mode) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&parent, &temporary[..], AtFlags::empty()).map_err(&failed)?;
                rustix::fs::openat(&parent, &temporary[..], flags, mode)
            }
            other => other,
        };
        let file = File::from(file.map_err(&failed)?);
        if size > 0 {
            // Holes stay holes: they are never written.
            rustix::fs::ftruncate(&file, size).map_err(failed)?;
        }
        Ok(file)
    }

    /// Opens a file that was begun, for its next piece.
    pub(crate) fn reopen_file(&self, path: &[u8]) -> Result<File, RestoreError> {
        let (parent, _) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, &temporary_name(path)[..], flags, Mode::empty())
            .map(File::from)
            .map_err(self.failed("write", path))
    }

    /// Writes bytes at their place.
    pub(crate) fn write(
        &self,
        file: &File,
        path: &[u8],
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), RestoreError> {
        file.write_all_at(bytes, offset).map_err(|source| RestoreError::Write {
            what: "write",
            path: place(&self.to, path),
            source,
        })
    }

    /// Gives a finished file its attributes and its name.
    pub(crate) fn finish_file(
        &self,
        file: &File,
        path: &[u8],
        item: &Item,
        replace: bool,
    ) -> Result<(), RestoreError> {
        self.set_attributes(file, path, item)?;
        self.rename(path, &temporary_name(path), replace)
    }

    /// Makes another name of a file that was restored.
    pub(crate) fn hard_link(
        &self,
        leader: &[u8],
        path: &[u8],
        replace: bool,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("link", path);
        let (from, from_name) = self.parent(leader)?;
        let (parent, _) = self.parent(path)?;
        let temporary = temporary_name(path);
        self.clear(&parent, &temporary, &failed)?;
        rustix::fs::linkat(&from, from_name, &parent, &temporary[..], AtFlags::empty())
            .map_err(failed)?;
        self.rename(path, &temporary, replace)?;
        // Renaming one name of a file over another of the same file does nothing.
        match rustix::fs::unlinkat(&parent, &temporary[..], AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("link", path)(error)),
        }
    }

    /// Makes a symbolic link. Its target is written, never followed.
    pub(crate) fn symlink(
        &self,
        path: &[u8],
        item: &Item,
        replace: bool,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("make the link", path);
        let (parent, _) = self.parent(path)?;
        let temporary = temporary_name(path);
        self.clear(&parent, &temporary, &failed)?;
        rustix::fs::symlinkat(&item.link_target[..], &parent, &temporary[..]).map_err(failed)?;
        self.link_attributes(&parent, &temporary, path, item)?;
        self.rename(path, &temporary, replace)
    }

    /// Sets the attributes of something whose content is right already.
    pub(crate) fn adjust(&self, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        let failed = self.failed("open", path);
        match item.kind {
            ItemKind::Directory => {
                let fd = self.root.directory(path).map_err(failed)?;
                self.set_attributes(fd, path, item)
            }
            ItemKind::Symlink => {
                let (parent, name) = self.parent(path)?;
                self.link_attributes(&parent, name, path, item)
            }
            ItemKind::File | ItemKind::Other(_) => {
                let file = self.root.file(path).map_err(failed)?;
                self.set_attributes(file, path, item)
            }
        }
    }

    /// Waits until all that was written is on stable storage.
    pub(crate) fn sync(&self) -> Result<(), RestoreError> {
        rustix::fs::syncfs(self.root.fd()).map_err(self.failed("sync", b""))
    }

    fn set_attributes(&self, fd: impl AsFd, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        let failed = self.failed("set the attributes of", path);
        if self.rights.owners {
            // Before the mode: changing the owner takes set-user-id bits away.
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(&failed)?;
        }
        for attribute in &item.xattrs {
            let (name, value) = (&attribute.name[..], &attribute.value[..]);
            match rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {
                    self.attributes_not_set.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        self.remove_other_attributes(&fd, item).map_err(&failed)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(item.mode)).map_err(&failed)?;
        rustix::fs::futimens(&fd, &times(item)).map_err(failed)
    }

    /// Takes away attributes of the user's own that the item does not have.
    fn remove_other_attributes(&self, fd: impl AsFd, item: &Item) -> rustix::io::Result<()> {
        let Ok(there) = crate::sources::directory::attributes_of(&fd) else { return Ok(()) };
        for attribute in there.iter().filter(|a| a.name.starts_with(b"user.")) {
            if !item.xattrs.iter().any(|wanted| wanted.name == attribute.name) {
                rustix::fs::fremovexattr(&fd, &attribute.name[..])?;
            }
        }
        Ok(())
    }

    fn link_attributes(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        item: &Item,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("set the attributes of", path);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.rights.owners {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags).map_err(&failed)?;
        }
        rustix::fs::utimensat(parent, name, &times(item), flags).map_err(failed)
    }

    /// Gives a temporary file its name. Unless the plan approved a replacement, something that
    /// appeared there since stays.
    fn rename(&self, path: &[u8], temporary: &[u8], replace: bool) -> Result<(), RestoreError> {
        let failed = self.failed("rename", path);
        let (parent, name) = self.parent(path)?;
        if replace {
            // An empty directory gives way to a file only when it is removed first.
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOTDIR | Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
            return rustix::fs::renameat(&parent, temporary, &parent, name).map_err(failed);
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&parent, temporary, &parent, name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.clear(&parent, temporary, &failed)?;
                Err(RestoreError::TargetChanged { path: place(&self.to, path) })
            }
            // A file system that cannot: look first.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    self.clear(&parent, temporary, &failed)?;
                    return Err(RestoreError::TargetChanged { path: place(&self.to, path) });
                }
                rustix::fs::renameat(&parent, temporary, &parent, name).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn clear(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        failed: &dyn Fn(Errno) -> RestoreError,
    ) -> Result<(), RestoreError> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The open directory above a path, made where the point does not list it.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), RestoreError> {
        let (parent, name) = split(path);
        let directory = match self.root.directory(parent) {
            Err(Errno::NOENT) if !parent.is_empty() => {
                self.make_directory(parent, false)?;
                self.root.directory(parent)
            }
            other => other,
        };
        directory.map(|fd| (fd, name)).map_err(self.failed("open the directory of", path))
    }

    fn failed(&self, what: &'static str, path: &[u8]) -> impl Fn(Errno) -> RestoreError + use<> {
        let path = place(&self.to, path);
        move |error| RestoreError::Write { what, path: path.clone(), source: error.into() }
    }
}

/// The name under which a file is written: the same each time, so that starting again leaves
/// nothing behind.
fn temporary_name(path: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(path);
    format!(".strongroom-{}.partial", hex::encode(&digest[..8])).into_bytes()
}

fn times(item: &Item) -> Timestamps {
    let modified = Timespec { tv_sec: item.modified.seconds, tv_nsec: item.modified.nanos.into() };
    // The time of last reading was not kept: it is set to the same.
    Timestamps { last_access: modified, last_modification: modified }
}

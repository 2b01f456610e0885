//! Writing beneath the target directory. Every step opens the directory above without following
//! a link, then works on one name in it: nothing planted in the target can lead a write outside.
//! Files are written under a temporary name and renamed, so that a name never stands for half a
//! file. Those names are of this run alone: what it did not make, it does not remove.

mod exchange;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bundle::{Item, ItemKind, Keyring};
use proto_types::env::Random;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::RestoreError;
use super::observe::{Rights, content_equals, is_rounded, named_attributes_equal};
use crate::beneath::{Root, split};
use crate::sources::{Stat, Timestamp};

/// The full path of something beneath the target, for messages.
pub(crate) fn place(to: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { to.to_owned() } else { to.join(OsStr::from_bytes(path)) }
}

/// The directory that is restored into.
pub(crate) struct Target {
    to: PathBuf,
    root: Root,
    rights: Rights,
    /// Names of this run begin with it.
    run: String,
    /// Temporary names that were made and not renamed yet, with their directories.
    begun: Mutex<BTreeSet<(Vec<u8>, Vec<u8>)>>,
    /// What this file system or user could not take.
    excuses: Mutex<Excuses>,
    read_back: Mutex<ReadBack>,
    /// Files with several names of which only attributes were set: device and inode.
    adjusted: Mutex<BTreeSet<(u64, u64)>>,
    /// What is to be overwritten, as it is in the safety file.
    kept: HashMap<Vec<u8>, Kept>,
}

/// What could not be set, by path: the comparison afterwards excuses exactly that.
pub(crate) type Excuses = BTreeMap<Vec<u8>, Excuse>;

/// What could not be set of one item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Excuse {
    /// The owner.
    pub(crate) owner: bool,
    /// That it is the same file as another name.
    pub(crate) link: bool,
    /// Extended attributes, by name.
    pub(crate) attributes: BTreeSet<Vec<u8>>,
    /// The modification time that this file system made of the one that was set: read back, and
    /// the same but rounded.
    pub(crate) modified: Option<Timestamp>,
}

/// Files that nobody but root can read once they have their mode, by device and inode: read back
/// and found equal through the descriptor that wrote them, before they got it.
pub(crate) type ReadBack = BTreeMap<(u64, u64), Kept>;

/// What of a file tells that it is still the one that is in the safety file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    device: u64,
    inode: u64,
    size: u64,
    modified: Timestamp,
    /// Not of files with several names: taking one away moves the change time of all.
    changed: Option<Timestamp>,
}

impl Kept {
    pub(crate) fn of(stat: &Stat) -> Self {
        let changed = (stat.links <= 1).then_some(stat.changed);
        let Stat { device, inode, size, modified, .. } = *stat;
        Self { device, inode, size, modified, changed }
    }

    pub(crate) fn is(&self, stat: &Stat) -> bool {
        self.is_but_moved(stat) && self.changed.is_none_or(|changed| changed == stat.changed)
    }

    /// The same of a file that was renamed since, which moves its change time.
    fn is_but_moved(&self, stat: &Stat) -> bool {
        (self.device, self.inode, self.size, self.modified)
            == (stat.device, stat.inode, stat.size, stat.modified)
    }
}

impl Target {
    /// Opens the target, making it and the directories above it where they are missing.
    /// Locks it, so that two restores do not work on it at the same time.
    pub(crate) fn open(
        to: &Path,
        rights: Rights,
        random: &dyn Random,
    ) -> Result<Self, RestoreError> {
        let write = |what, source| RestoreError::Write { what, path: to.to_owned(), source };
        std::fs::create_dir_all(to).map_err(|error| write("make the directory", error))?;
        let root = Root::open(to).map_err(|error| write("open", error.into()))?;
        // Other errors are of file systems without locks: a restore does not wait for one.
        let locked = rustix::fs::flock(root.fd(), FlockOperation::NonBlockingLockExclusive);
        if locked == Err(Errno::WOULDBLOCK) {
            return Err(RestoreError::Busy { path: to.to_owned() });
        }
        let run = format!(".strongroom-{:016x}", random.next_u64());
        Ok(Self {
            to: to.to_owned(),
            root,
            rights,
            run,
            begun: Mutex::default(),
            excuses: Mutex::default(),
            read_back: Mutex::default(),
            adjusted: Mutex::default(),
            kept: HashMap::new(),
        })
    }

    /// Tells what the safety file holds, so that nothing else is overwritten.
    pub(crate) fn keep(&mut self, kept: HashMap<Vec<u8>, Kept>) {
        self.kept = kept;
    }

    /// What could not be set.
    pub(crate) fn excuses(&self) -> Excuses {
        self.excuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was compared while it could be read.
    pub(crate) fn read_back(&self) -> ReadBack {
        self.read_back.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn excuse(&self, path: &[u8], note: impl FnOnce(&mut Excuse)) {
        let mut excuses = self.excuses.lock().unwrap_or_else(PoisonError::into_inner);
        note(excuses.entry(path.to_vec()).or_default());
    }

    /// Refuses to touch what is not any more what the safety file holds. What is gone by now
    /// cannot be lost.
    fn check_kept(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), RestoreError> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(raw) if self.is_kept(path, &raw, Kept::is) => Ok(()),
            Ok(_) => Err(self.changed(path)),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("look at", path)(error)),
        }
    }

    /// Whether what stands at a path is in the safety file. Of directories only the attributes
    /// are, and filling them changes those; one that is replaced is removed only if it is empty.
    fn is_kept(
        &self,
        path: &[u8],
        raw: &rustix::fs::Stat,
        same: impl FnOnce(&Kept, &Stat) -> bool,
    ) -> bool {
        let found = crate::sources::directory::stat(raw);
        let adjusted = self.adjusted.lock().unwrap_or_else(PoisonError::into_inner);
        match self.kept.get(path) {
            // Under another of its names this run has set its time.
            Some(kept) if adjusted.contains(&(found.device, found.inode)) => {
                same(&Kept { modified: found.modified, ..*kept }, &found)
            }
            Some(kept) => same(kept, &found),
            None => FileType::from_raw_mode(raw.st_mode) == FileType::Directory,
        }
    }

    fn changed(&self, path: &[u8]) -> RestoreError {
        RestoreError::TargetChanged { path: place(&self.to, path) }
    }

    /// Makes a directory with all its attributes, but that the owner may write into it until the
    /// end: an interrupted restore that is started again finds nothing strange. One that is
    /// there stays; anything else of that name has to go, which the plan has approved. Without
    /// an item it is one that the point does not list.
    pub(crate) fn make_directory(
        &self,
        path: &[u8],
        item: Option<&Item>,
        replace: bool,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("make the directory", path);
        if path.is_empty() {
            // It was made when it was opened.
            return match item {
                Some(item) => self.begin_directory(self.root.fd(), path, item),
                None => Ok(()),
            };
        }
        let (parent, name) = self.parent(path)?;
        if replace {
            self.check_kept(&parent, name, path)?;
            self.take_away(&parent, name, path)?;
        }
        let made = match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(error)),
        };
        // Of what was there already it must be known that it is a directory, not a link to one.
        let fd = self.root.directory(path).map_err(&failed)?;
        match item.filter(|_| made) {
            Some(item) => self.begin_directory(&fd, path, item),
            None => Ok(()),
        }
    }

    /// Gives a new directory what it is to have, but that its owner may write into it.
    fn begin_directory(&self, fd: &OwnedFd, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        self.set_owner_and_attributes(fd, path, item)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(item.mode | 0o700))
            .map_err(self.failed("set the attributes of", path))
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

    /// Begins a file under its temporary name.
    pub(crate) fn begin_file(&self, path: &[u8], size: u64) -> Result<File, RestoreError> {
        let failed = self.failed("write", path);
        let (parent, _) = self.parent(path)?;
        let temporary = self.temporary_name(path);
        // Read as well: a file whose mode forbids that is compared before it gets it.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&parent, &temporary[..], flags, mode).map_err(&failed)?;
        self.begin(path, &temporary);
        let file = File::from(file);
        if size > 0 {
            // Holes stay holes: they are never written.
            rustix::fs::ftruncate(&file, size).map_err(failed)?;
        }
        Ok(file)
    }

    /// Opens a file that was begun, for its next piece.
    pub(crate) fn reopen_file(&self, path: &[u8]) -> Result<File, RestoreError> {
        let (parent, _) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, &self.temporary_name(path)[..], flags, Mode::empty())
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
        keyring: &Keyring,
        replace: bool,
    ) -> Result<(), RestoreError> {
        let equal = self.set_file_attributes(file, path, item, keyring)?;
        self.rename(path, &self.temporary_name(path), replace)?;
        // After the rename, which moves the change time.
        if equal { self.remember(file, path, item) } else { Ok(()) }
    }

    /// Sets all attributes of a file. Where its mode keeps its owner from reading it, tells
    /// whether it is equal to the item as long as it can be read.
    fn set_file_attributes(
        &self,
        file: &File,
        path: &[u8],
        item: &Item,
        keyring: &Keyring,
    ) -> Result<bool, RestoreError> {
        self.set_owner_and_attributes(file, path, item)?;
        let mut equal = false;
        if item.mode & Mode::RUSR.bits() == 0 {
            let failed = |source| RestoreError::Observe { path: place(&self.to, path), source };
            let excuse = self.excuses().remove(path).unwrap_or_default();
            equal = content_equals(file, item, keyring).map_err(|e| failed(e.source))?
                && named_attributes_equal(item, file, &excuse).map_err(|e| failed(e.source))?;
        }
        self.set_mode_and_times(file, path, item)?;
        Ok(equal)
    }

    fn remember(&self, file: &File, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        let raw = rustix::fs::fstat(file).map_err(self.failed("look at", path))?;
        let found = crate::sources::directory::stat(&raw);
        let mut kept = Kept::of(&found);
        if item.hard_link.is_some() {
            // Its further names, made later, move the change time.
            kept.changed = None;
        }
        let mut read_back = self.read_back.lock().unwrap_or_else(PoisonError::into_inner);
        read_back.insert((found.device, found.inode), kept);
        Ok(())
    }

    /// Makes another name of a file that was restored.
    pub(crate) fn hard_link(
        &self,
        leader: &[u8],
        path: &[u8],
        item: &Item,
        keyring: &Keyring,
        replace: bool,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("link", path);
        let (from, from_name) = self.parent(leader)?;
        let (parent, _) = self.parent(path)?;
        let temporary = self.temporary_name(path);
        match rustix::fs::linkat(&from, from_name, &parent, &temporary[..], AtFlags::empty()) {
            Ok(()) => {
                self.begin(path, &temporary);
                // What could not be set of the file is not set under this name either.
                if let Some(excuse) = self.excuses().remove(leader) {
                    self.excuse(path, |own| *own = excuse);
                }
            }
            // A file system without further names, or one that has enough of them: a copy.
            Err(Errno::PERM | Errno::MLINK | Errno::NOTSUP) => {
                self.excuse(path, |excuse| excuse.link = true);
                let mut from = self.root.file(leader).map_err(&failed)?;
                let mut copy = self.begin_file(path, 0)?;
                std::io::copy(&mut from, &mut copy).map_err(|source| RestoreError::Write {
                    what: "write",
                    path: place(&self.to, path),
                    source,
                })?;
                return self.finish_file(&copy, path, item, keyring, replace);
            }
            Err(error) => return Err(failed(error)),
        }
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
        let temporary = self.temporary_name(path);
        rustix::fs::symlinkat(&item.link_target[..], &parent, &temporary[..]).map_err(failed)?;
        self.begin(path, &temporary);
        self.link_attributes(&parent, &temporary, path, item)?;
        self.rename(path, &temporary, replace)
    }

    /// Sets the attributes of something whose content is right already.
    pub(crate) fn adjust(
        &self,
        path: &[u8],
        item: &Item,
        keyring: &Keyring,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("open", path);
        match item.kind {
            ItemKind::Directory => {
                let fd = self.root.directory(path).map_err(failed)?;
                self.set_attributes(fd, path, item)
            }
            ItemKind::Symlink => {
                let (parent, name) = self.parent(path)?;
                self.check_kept(&parent, name, path)?;
                self.link_attributes(&parent, name, path, item)
            }
            ItemKind::File | ItemKind::Object | ItemKind::Other(_) => {
                let file = self.root.file(path).map_err(&failed)?;
                // What is open is what is changed, whatever gets its name meanwhile.
                let raw = rustix::fs::fstat(&file).map_err(failed)?;
                if !self.is_kept(path, &raw, Kept::is) {
                    return Err(self.changed(path));
                }
                if raw.st_nlink > 1 {
                    let mut adjusted = self.adjusted.lock().unwrap_or_else(PoisonError::into_inner);
                    adjusted.insert((raw.st_dev, raw.st_ino));
                }
                let equal = self.set_file_attributes(&file, path, item, keyring)?;
                if equal { self.remember(&file, path, item) } else { Ok(()) }
            }
        }
    }

    /// Sets the modification time of something that is right but for what its file system may have
    /// made of it.
    pub(crate) fn set_times(&self, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        let (parent, name) = self.parent(path)?;
        self.set_times_of(&parent, name, path, item)
    }

    fn set_times_of(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        item: &Item,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("set the times of", path);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(parent, name, &times(item), flags).map_err(&failed)?;
        let raw = rustix::fs::statat(parent, name, flags).map_err(failed)?;
        self.note_time(path, item, crate::sources::directory::stat(&raw).modified);
        Ok(())
    }

    /// Excuses a time that was set, read back, and is rounded: this file system demonstrably does.
    fn note_time(&self, path: &[u8], item: &Item, read_back: Timestamp) {
        if is_rounded(item, read_back) {
            self.excuse(path, |excuse| excuse.modified = Some(read_back));
        }
    }

    /// Waits until all that was written is on stable storage.
    pub(crate) fn sync(&self) -> Result<(), RestoreError> {
        rustix::fs::syncfs(self.root.fd()).map_err(self.failed("sync", b""))
    }

    fn set_attributes(&self, fd: impl AsFd, path: &[u8], item: &Item) -> Result<(), RestoreError> {
        // Before the mode: changing the owner takes set-user-id bits away.
        self.set_owner_and_attributes(&fd, path, item)?;
        self.set_mode_and_times(fd, path, item)
    }

    fn set_mode_and_times(
        &self,
        fd: impl AsFd,
        path: &[u8],
        item: &Item,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("set the attributes of", path);
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(item.mode)).map_err(&failed)?;
        rustix::fs::futimens(&fd, &times(item)).map_err(&failed)?;
        let raw = rustix::fs::fstat(&fd).map_err(failed)?;
        self.note_time(path, item, crate::sources::directory::stat(&raw).modified);
        Ok(())
    }

    fn set_owner_and_attributes(
        &self,
        fd: impl AsFd,
        path: &[u8],
        item: &Item,
    ) -> Result<(), RestoreError> {
        let failed = self.failed("set the attributes of", path);
        if self.rights.owners {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            match rustix::fs::fchown(&fd, Some(uid), Some(gid)) {
                Ok(()) => {}
                // Root of a user namespace, or a file system without owners.
                Err(Errno::PERM | Errno::INVAL) => self.excuse(path, |excuse| excuse.owner = true),
                Err(error) => return Err(failed(error)),
            }
        }
        for attribute in &item.xattrs {
            let (name, value) = (&attribute.name[..], &attribute.value[..]);
            match rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(
                    Errno::NOTSUP
                    | Errno::PERM
                    | Errno::ACCESS
                    | Errno::NOSPC
                    | Errno::TOOBIG
                    | Errno::RANGE,
                ) => self.excuse(path, |excuse| {
                    excuse.attributes.insert(attribute.name.to_vec());
                }),
                Err(error) => return Err(failed(error)),
            }
        }
        self.remove_other_attributes(&fd, item).map_err(failed)
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
            match rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::INVAL) => self.excuse(path, |excuse| excuse.owner = true),
                Err(error) => return Err(failed(error)),
            }
        }
        self.set_times_of(parent, name, path, item)
    }

    /// The name under which a file is written, in its directory: no other run's, nor a user's.
    fn temporary_name(&self, path: &[u8]) -> Vec<u8> {
        let digest = Sha256::digest(path);
        format!("{}-{}.partial", self.run, hex::encode(&digest[..8])).into_bytes()
    }

    /// Notes that a temporary name was made, so that an error does not leave it behind.
    fn begin(&self, path: &[u8], temporary: &[u8]) {
        let name = (split(path).0.to_vec(), temporary.to_vec());
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    /// Notes that a temporary name is no more.
    fn ended(&self, path: &[u8], temporary: &[u8]) {
        let name = (split(path).0.to_vec(), temporary.to_vec());
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    /// The open directory above a path, made where the point does not list it.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), RestoreError> {
        let (parent, name) = split(path);
        let directory = match self.root.directory(parent) {
            Err(Errno::NOENT) if !parent.is_empty() => {
                self.make_directory(parent, None, false)?;
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

impl Drop for Target {
    /// What was begun and not finished is plaintext that nobody expects there.
    fn drop(&mut self) {
        let begun = std::mem::take(self.begun.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (parent, name) in begun {
            if let Ok(parent) = self.root.directory(&parent) {
                // It is gone, or the file system is: nothing more can be done.
                let _ = rustix::fs::unlinkat(&parent, &name[..], AtFlags::empty());
            }
        }
    }
}

/// The path of another name in the same directory.
fn sibling(path: &[u8], name: &[u8]) -> Vec<u8> {
    match split(path).0 {
        b"" => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}

fn times(item: &Item) -> Timestamps {
    let modified = Timespec { tv_sec: item.modified.seconds, tv_nsec: item.modified.nanos.into() };
    // The time of last reading was not kept: it is set to the same.
    Timestamps { last_access: modified, last_modification: modified }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;

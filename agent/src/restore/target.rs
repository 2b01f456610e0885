//! Writing beneath the target directory. Every step opens the directory above without following
//! a link, then works on one name in it: nothing planted in the target can lead a write outside.
//! Files are written under a temporary name and renamed, so that a name never stands for half a
//! file. Those names are of this run alone: what it did not make, it does not remove.

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
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
    XattrFlags,
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
            ItemKind::File | ItemKind::Other(_) => {
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

    /// Gives a temporary file its name. Unless the plan approved a replacement, something that
    /// appeared there since stays.
    fn rename(&self, path: &[u8], temporary: &[u8], replace: bool) -> Result<(), RestoreError> {
        let (parent, name) = self.parent(path)?;
        if replace {
            self.check_kept(&parent, name, path)?;
            return self.exchange(&parent, name, temporary, path);
        }
        self.rename_to_free_name(&parent, name, temporary, path)
    }

    /// Puts a temporary file in the place of what was just checked. Between that check and the
    /// rename somebody may have written: so the two change places, what was there is looked at
    /// again where nobody knows its name, and goes back if it is not what the safety file holds.
    fn exchange(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        temporary: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let failed = self.failed("rename", path);
        let change_places =
            || rustix::fs::renameat_with(parent, temporary, parent, name, RenameFlags::EXCHANGE);
        match change_places() {
            Ok(()) => {}
            // Gone by now: nothing is lost.
            Err(Errno::NOENT) => return self.rename_to_free_name(parent, name, temporary, path),
            // A file system that cannot: in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                self.take_away(parent, name, path)?;
                return self.rename_to_free_name(parent, name, temporary, path);
            }
            Err(error) => return Err(failed(error)),
        }
        // From here on the temporary name is the other's: an error must not take it away.
        self.ended(path, temporary);
        match self.remove_kept(parent, temporary, path) {
            Ok(()) => Ok(()),
            Err(refused) => {
                change_places().map_err(|source| RestoreError::Displaced {
                    path: place(&self.to, path),
                    now: place(&self.to, &sibling(path, temporary)),
                    source: source.into(),
                })?;
                self.begin(path, temporary);
                Err(refused)
            }
        }
    }

    /// Removes what stands at a path, if it is in the safety file or an empty directory. It gets a
    /// name that nobody knows first, so that nothing is removed that was not looked at.
    fn take_away(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), RestoreError> {
        let aside = [&self.temporary_name(path)[..], b"-aside"].concat();
        let flags = RenameFlags::NOREPLACE;
        let back = match rustix::fs::renameat_with(parent, name, parent, &aside[..], flags) {
            Ok(()) => flags,
            Err(Errno::NOENT) => return Ok(()),
            // Layers that cannot rename a directory of a lower one can remove it if it is empty.
            Err(Errno::XDEV) => {
                return rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
                    .map_err(|_| self.changed(path));
            }
            // That name is of this run alone.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(parent, name, parent, &aside[..])
                    .map_err(self.failed("rename", path))?;
                RenameFlags::empty()
            }
            Err(error) => return Err(self.failed("rename", path)(error)),
        };
        self.remove_kept(parent, &aside, path).or_else(|refused| {
            rustix::fs::renameat_with(parent, &aside[..], parent, name, back).map_err(
                |source| RestoreError::Displaced {
                    path: place(&self.to, path),
                    now: place(&self.to, &sibling(path, &aside)),
                    source: source.into(),
                },
            )?;
            Err(refused)
        })
    }

    /// Removes what was at `path` and has another name now, unless it is not what was checked.
    fn remove_kept(&self, parent: &OwnedFd, now: &[u8], path: &[u8]) -> Result<(), RestoreError> {
        let failed = self.failed("remove", path);
        let raw = rustix::fs::statat(parent, now, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if !self.is_kept(path, &raw, Kept::is_but_moved) {
            return Err(self.changed(path));
        }
        let flags = match FileType::from_raw_mode(raw.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        match rustix::fs::unlinkat(parent, now, flags) {
            Ok(()) => Ok(()),
            // Filled since it was found empty.
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(self.changed(path)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a temporary file its name, where nothing may stand.
    fn rename_to_free_name(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        temporary: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let failed = self.failed("rename", path);
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(parent, temporary, parent, name, flags) {
            Ok(()) => {
                self.ended(path, temporary);
                Ok(())
            }
            Err(Errno::EXIST) => Err(self.changed(path)),
            // A file system that cannot: look first.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(self.changed(path));
                }
                rustix::fs::renameat(parent, temporary, parent, name).map_err(failed)?;
                self.ended(path, temporary);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
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
mod tests {
    use proto_types::env::SystemRandom;

    use super::*;

    #[test]
    fn invariant_p1_what_changed_since_the_safety_copy_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let open = || Target::open(temp.path(), Rights { owners: false }, &SystemRandom).unwrap();
        let name = b"file";
        let stat = || {
            let found = std::fs::File::open(temp.path().join("file")).unwrap();
            crate::sources::directory::stat(&rustix::fs::fstat(&found).unwrap())
        };
        std::fs::write(temp.path().join("file"), "kept").unwrap();
        let kept = HashMap::from([(name.to_vec(), Kept::of(&stat()))]);
        let mut target = open();
        target.keep(kept.clone());
        let temporary = target.temporary_name(name);
        target.begin_file(name, 0).unwrap();
        target.rename(name, &temporary, true).unwrap();
        assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"");
        drop(target);

        std::fs::write(temp.path().join("file"), "written meanwhile").unwrap();
        let mut target = open();
        target.keep(kept);
        let temporary = target.temporary_name(name);
        target.begin_file(name, 0).unwrap();
        let refused = target.rename(name, &temporary, true);
        assert!(matches!(refused, Err(RestoreError::TargetChanged { .. })));
        drop(target);
        assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"written meanwhile");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left behind");
    }

    /// A target that holds `file` with "kept", which is in the safety file, and the restored one
    /// under its temporary name.
    struct Scene {
        temp: tempfile::TempDir,
        target: Target,
    }

    impl Scene {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            std::fs::write(temp.path().join("file"), "kept").unwrap();
            let mut target =
                Target::open(temp.path(), Rights { owners: false }, &SystemRandom).unwrap();
            let raw = rustix::fs::statat(target.root.fd(), "file", AtFlags::SYMLINK_NOFOLLOW);
            let kept = Kept::of(&crate::sources::directory::stat(&raw.unwrap()));
            target.keep(HashMap::from([(b"file".to_vec(), kept)]));
            std::io::Write::write_all(&mut target.begin_file(b"file", 0).unwrap(), b"restored")
                .unwrap();
            Self { temp, target }
        }

        fn file(&self) -> PathBuf {
            self.temp.path().join("file")
        }

        /// The second half of a replacement, after the check was passed.
        fn exchange(&self) -> Result<(), RestoreError> {
            let (parent, name) = self.target.parent(b"file").unwrap();
            self.target.exchange(&parent, name, &self.target.temporary_name(b"file"), b"file")
        }

        fn take_away(&self) -> Result<(), RestoreError> {
            let (parent, name) = self.target.parent(b"file").unwrap();
            self.target.take_away(&parent, name, b"file")
        }

        /// Names in the directory once the restore has ended.
        fn left(self) -> Vec<String> {
            drop(self.target);
            let entries = std::fs::read_dir(self.temp.path()).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    /// What somebody does between the check and the rename.
    type Injected = (&'static str, fn(&Path));

    fn injected() -> Vec<Injected> {
        vec![
            ("another length", |file| std::fs::write(file, "written").unwrap()),
            ("the same length", |file| {
                std::fs::write(file, "tpek").unwrap();
                // As a clock that has gone on sets it.
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
                std::fs::File::open(file).unwrap().set_modified(later).unwrap();
            }),
            ("another file", |file| {
                std::fs::write(file.with_extension("new"), "kept").unwrap();
                std::fs::rename(file.with_extension("new"), file).unwrap();
            }),
            ("a link", |file| {
                std::fs::remove_file(file).unwrap();
                std::os::unix::fs::symlink("elsewhere", file).unwrap();
            }),
            ("a directory with contents", |file| {
                std::fs::remove_file(file).unwrap();
                std::fs::create_dir(file).unwrap();
                std::fs::write(file.join("precious"), "x").unwrap();
            }),
        ]
    }

    #[test]
    fn invariant_p1_what_changes_between_check_and_rename_is_not_lost() {
        for (what, inject) in injected() {
            for in_one_step in [true, false] {
                let scene = Scene::new();
                inject(&scene.file());
                let describe = || {
                    let meta = std::fs::symlink_metadata(scene.file()).unwrap();
                    let read = std::fs::read(scene.file()).ok();
                    (std::os::unix::fs::MetadataExt::ino(&meta), meta.modified().unwrap(), read)
                };
                let before = describe();
                let done = if in_one_step { scene.exchange() } else { scene.take_away() };
                let changed = matches!(done, Err(RestoreError::TargetChanged { .. }));
                assert!(changed, "{what}, {in_one_step}: {done:?}");
                assert_eq!(describe(), before, "{what}, {in_one_step}");
                assert_eq!(scene.left(), ["file"], "{what}, {in_one_step}");
            }
        }
    }

    #[test]
    fn what_did_not_change_is_replaced_and_what_is_gone_is_no_loss() {
        for gone in [false, true] {
            let scene = Scene::new();
            if gone {
                std::fs::remove_file(scene.file()).unwrap();
            }
            scene.exchange().unwrap();
            assert_eq!(std::fs::read(scene.file()).unwrap(), b"restored");
            assert_eq!(scene.left(), ["file"]);
        }
        let scene = Scene::new();
        scene.take_away().unwrap();
        assert!(scene.left().is_empty());
    }

    #[test]
    fn only_a_directory_is_replaced_without_a_safety_copy() {
        let mut scene = Scene::new();
        scene.target.keep(HashMap::new());
        let temporary = scene.target.temporary_name(b"file");
        let refused = scene.target.rename(b"file", &temporary, true);
        assert!(matches!(refused, Err(RestoreError::TargetChanged { .. })), "{refused:?}");
        assert_eq!(std::fs::read(scene.file()).unwrap(), b"kept");
        std::fs::remove_file(scene.file()).unwrap();
        std::fs::create_dir(scene.file()).unwrap();
        scene.target.rename(b"file", &temporary, true).unwrap();
        assert_eq!(std::fs::read(scene.file()).unwrap(), b"restored");
        assert_eq!(scene.left(), ["file"]);
    }

    #[test]
    fn a_time_is_excused_only_if_what_was_set_came_back_rounded() {
        let seconds = |seconds: i64, nanoseconds: u32| Timestamp { seconds, nanoseconds };
        let item = Item {
            key: bundle::ItemKey { source: "directory".to_owned(), path: b"file".to_vec() },
            kind: ItemKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: bundle::FileTime { seconds: 1_000_000_001, nanos: 987_654_321 },
            link_target: Vec::new(),
            hard_link: None,
            xattrs: Vec::new(),
            size: 0,
            content: Vec::new(),
        };
        for (read_back, excused) in [
            (seconds(1_000_000_001, 987_654_300), true),
            (seconds(1_000_000_001, 987_654_000), true),
            (seconds(1_000_000_001, 987_000_000), true),
            (seconds(1_000_000_001, 0), true),
            (seconds(1_000_000_002, 0), true),
            (seconds(1_000_000_000, 0), true),
            // Exact needs no excuse; a time that is no step, or too far, is no rounding.
            (seconds(1_000_000_001, 987_654_321), false),
            (seconds(1_000_000_001, 500_000_001), false),
            (seconds(1_000_000_003, 0), false),
            (seconds(1_000_000_004, 0), false),
            (seconds(999_999_998, 0), false),
            (seconds(315_532_800, 0), false),
        ] {
            let scene = Scene::new();
            scene.target.note_time(b"file", &item, read_back);
            let excuse = Excuse { modified: Some(read_back), ..Excuse::default() };
            let expected = excused.then_some(excuse);
            let found = scene.target.excuses().remove(&b"file"[..]);
            assert_eq!(found, expected, "{read_back:?}");
        }
        // Another name of the file has the same time.
        let scene = Scene::new();
        let random = &SystemRandom;
        let (kek, signing) = (bundle::Kek::generate(random), bundle::SigningKey::generate(random));
        let now = proto_types::LogTime::ZERO;
        let keyring = Keyring::create(1, &kek, &signing, now, random);
        scene.target.note_time(b"file", &item, seconds(1_000_000_000, 0));
        scene.target.hard_link(b"file", b"other", &item, &keyring, false).unwrap();
        let excuses = scene.target.excuses();
        assert_eq!(excuses.get(&b"other"[..]), excuses.get(&b"file"[..]));
        assert_eq!(excuses.len(), 2);
        // What is set on a file system that does not round is read back exact.
        let scene = Scene::new();
        scene.target.set_times(b"file", &item).unwrap();
        assert!(scene.target.excuses().is_empty());
    }
}

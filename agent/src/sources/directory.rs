//! A directory tree as a source. Walks without following links, keeps names as bytes, and lists
//! what it cannot read or does not keep as trouble instead of leaving it out in silence.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, statat};

use super::{
    Attribute, Content, Entry, EntryKind, Listing, Place, ReadError, Source, SourceError, Stat,
    Timestamp, Trouble,
};
use crate::beneath::{Root, split};
use crate::config::DirectoryConfig;
use crate::patterns::{Patterns, Selection};

/// Longest list of attribute names and longest value that Linux allows.
const ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;

/// A directory tree.
pub struct DirectorySource {
    name: String,
    path: PathBuf,
    root: Root,
    keys: Patterns,
    selection: Selection,
}

impl DirectorySource {
    /// Opens the tree's root.
    ///
    /// # Errors
    /// When it is not there or no directory.
    pub fn open(name: &str, config: &DirectoryConfig) -> Result<Self, SourceError> {
        let root = Root::open(&config.path).map_err(|error| SourceError::Root {
            name: name.to_owned(),
            path: config.path.clone(),
            source: error.into(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            path: config.path.clone(),
            root,
            keys: config.keys.clone(),
            selection: Selection {
                include: config.include.clone(),
                exclude: config.exclude.clone(),
            },
        })
    }

    /// One entry as it is now, not followed if it is a link.
    ///
    /// # Errors
    /// When it is not there, cannot be looked at, or is nothing that is backed up.
    pub fn entry(&self, path: &[u8]) -> std::io::Result<Entry> {
        let raw = if path.is_empty() {
            rustix::fs::fstat(self.root.fd())?
        } else {
            let (parent, name) = split(path);
            statat(self.root.directory(parent)?, name, AtFlags::SYMLINK_NOFOLLOW)?
        };
        let kind = entry_kind(&raw).ok_or(std::io::ErrorKind::Unsupported)?;
        let place = self.place(path, kind);
        Ok(Entry { path: path.to_vec(), kind, stat: stat(&raw), place })
    }

    /// Where an entry's content goes.
    fn place(&self, path: &[u8], kind: EntryKind) -> Place {
        match kind == EntryKind::File && self.keys.matches(path) {
            true => Place::KeyBundle,
            false => Place::Config,
        }
    }

    fn error(&self, error: rustix::io::Errno) -> SourceError {
        SourceError::Root { name: self.name.clone(), path: self.path.clone(), source: error.into() }
    }

    /// Lists one directory into `listing`; returns its subdirectories.
    fn list_directory(
        &self,
        path: &[u8],
        listing: &mut Listing,
    ) -> rustix::io::Result<Vec<Vec<u8>>> {
        let fd = self.root.directory(path)?;
        let mut below = Vec::new();
        for found in Dir::read_from(&fd)? {
            let found = found?;
            let name = found.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let child = join(path, name);
            if self.selection.exclude.matches(&child) {
                continue;
            }
            match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(raw) => self.take(child, &raw, listing, &mut below),
                Err(rustix::io::Errno::NOENT) => {}
                Err(_) => listing.troubles.push((Trouble::Unreadable, child)),
            }
        }
        Ok(below)
    }

    fn take(
        &self,
        path: Vec<u8>,
        raw: &rustix::fs::Stat,
        listing: &mut Listing,
        below: &mut Vec<Vec<u8>>,
    ) {
        let Some(kind) = entry_kind(raw) else {
            if self.selection.chooses(&path) {
                listing.troubles.push((Trouble::Special, path));
            }
            return;
        };
        if kind == EntryKind::Directory {
            below.push(path.clone());
        }
        if self.selection.chooses(&path) {
            let place = self.place(&path, kind);
            listing.entries.push(Entry { path, kind, stat: stat(raw), place });
        }
    }

    /// Puts in the directories above chosen entries, which a restore needs, and leaves out the
    /// ones that were only passed through.
    fn add_parents(&self, listing: &mut Listing) -> Result<(), SourceError> {
        let chosen: std::collections::BTreeSet<Vec<u8>> =
            listing.entries.iter().map(|entry| entry.path.clone()).collect();
        let mut missing = std::collections::BTreeSet::new();
        for path in &chosen {
            let mut path = &path[..];
            while !path.is_empty() {
                path = split(path).0;
                if chosen.contains(path) || !missing.insert(path.to_vec()) {
                    break;
                }
            }
        }
        missing.insert(Vec::new());
        for path in missing {
            match self.root.directory(&path).and_then(|fd| rustix::fs::fstat(&fd)) {
                Ok(raw) => {
                    let kind = EntryKind::Directory;
                    listing.entries.push(Entry {
                        path,
                        kind,
                        stat: stat(&raw),
                        place: Place::Config,
                    });
                }
                Err(error) if path.is_empty() => return Err(self.error(error)),
                Err(_) => listing.troubles.push((Trouble::Unreadable, path)),
            }
        }
        Ok(())
    }
}

impl Source for DirectorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "directory"
    }

    fn list(&self) -> Result<Listing, SourceError> {
        let mut listing = Listing::default();
        let mut pending =
            self.list_directory(b"", &mut listing).map_err(|error| self.error(error))?;
        while let Some(path) = pending.pop() {
            match self.list_directory(&path, &mut listing) {
                Ok(below) => pending.extend(below),
                Err(rustix::io::Errno::NOENT) => {}
                Err(_) => listing.troubles.push((Trouble::Unreadable, path)),
            }
        }
        self.add_parents(&mut listing)?;
        listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    fn open(&self, entry: &Entry) -> Result<Content, ReadError> {
        let file = self.root.file(&entry.path).map_err(|error| match error {
            // A link now where a file was listed: the file is gone.
            rustix::io::Errno::LOOP => ReadError::Vanished,
            other => other.into(),
        })?;
        let raw = rustix::fs::fstat(&file)?;
        let content = Content::new(file)?;
        if FileType::from_raw_mode(raw.st_mode) == FileType::RegularFile {
            Ok(content)
        } else {
            Err(ReadError::Vanished)
        }
    }

    fn attributes(&self, entry: &Entry) -> Result<Vec<Attribute>, ReadError> {
        match entry.kind {
            EntryKind::Object => Ok(Vec::new()),
            EntryKind::File => attributes_of(self.root.file(&entry.path)?),
            EntryKind::Directory => attributes_of(self.root.directory(&entry.path)?),
            // Linux keeps user attributes on files and directories only.
            EntryKind::Symlink => Ok(Vec::new()),
        }
    }

    fn link_target(&self, entry: &Entry) -> Result<Vec<u8>, ReadError> {
        let (parent, name) = split(&entry.path);
        let directory = self.root.directory(parent)?;
        match rustix::fs::readlinkat(&directory, name, Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            Err(rustix::io::Errno::INVAL) => Err(ReadError::Vanished),
            Err(other) => Err(other.into()),
        }
    }
}

/// The kind of an entry, if it is one that is backed up.
fn entry_kind(raw: &rustix::fs::Stat) -> Option<EntryKind> {
    match FileType::from_raw_mode(raw.st_mode) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        _ => None,
    }
}

/// What `stat` said, in our words.
pub(crate) fn stat(raw: &rustix::fs::Stat) -> Stat {
    let nanoseconds = |value| u32::try_from(value).unwrap_or(0);
    Stat {
        size: u64::try_from(raw.st_size).unwrap_or(0),
        mode: raw.st_mode & 0o7777,
        uid: raw.st_uid,
        gid: raw.st_gid,
        modified: Timestamp { seconds: raw.st_mtime, nanoseconds: nanoseconds(raw.st_mtime_nsec) },
        changed: Timestamp { seconds: raw.st_ctime, nanoseconds: nanoseconds(raw.st_ctime_nsec) },
        device: raw.st_dev,
        inode: raw.st_ino,
        links: raw.st_nlink,
    }
}

/// The extended attributes of an open file or directory, sorted by name. Those of a file system
/// that has none are none.
pub(crate) fn attributes_of(fd: impl AsFd) -> Result<Vec<Attribute>, ReadError> {
    // Asked for the length first: nearly all files have none.
    let len = match rustix::fs::flistxattr_query(&fd) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => len,
        Err(error) => return Err(error.into()),
    };
    let mut names = vec![0; len.max(ATTRIBUTE_BYTES_MAX)];
    let len = rustix::fs::flistxattr(&fd, names.as_mut_slice())?;
    let mut attributes = Vec::new();
    let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::fgetxattr(&fd, name, value.as_mut_slice()) {
            Ok(len) => {
                attributes.push(Attribute { name: name.to_vec(), value: value[..len].to_vec() })
            }
            // Gone meanwhile, or only for eyes with more rights.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn join(parent: &[u8], name: &CStr) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_bytes().to_vec();
    }
    [parent, b"/", name.to_bytes()].concat()
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;

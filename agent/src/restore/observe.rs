//! Looking at the target: what is there, and does it equal the point's item? Reads, never
//! writes, and never follows a link. Used for the plan before and the comparison after.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bundle::{Item, ItemKind, Keyring, Piece};
use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

pub(crate) use super::plan::Observed;
use super::target::{Excuse, Excuses, ReadBack};
use crate::beneath::{Root, file_in, split};
use crate::sources::directory::{attributes_of, stat};
use crate::sources::{Attribute, Stat, Timestamp};

/// Which attributes this process may set, and so which it compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// May give files to other users.
    pub(crate) owners: bool,
}

impl Rights {
    pub(crate) fn of_this_process() -> Self {
        Self { owners: rustix::process::geteuid().is_root() }
    }
}

/// Why a place could not be looked at.
#[derive(Debug)]
pub(crate) struct ObserveError {
    pub(crate) source: std::io::Error,
}

impl From<Errno> for ObserveError {
    fn from(error: Errno) -> Self {
        Self { source: error.into() }
    }
}

impl From<std::io::Error> for ObserveError {
    fn from(source: std::io::Error) -> Self {
        Self { source }
    }
}

/// A target tree that is being looked at, item by item in order of paths.
pub(crate) struct Observer<'k> {
    root: Option<Root>,
    keyring: &'k Keyring,
    rights: Rights,
    /// The directory last looked into; neighbours follow each other.
    near: Option<(Vec<u8>, Option<OwnedFd>)>,
    /// Inode of the first name of each hard-linked file.
    linked: HashMap<(String, u64), (u64, u64)>,
    /// What could not be set and so is not compared.
    excuses: Excuses,
    /// What was compared while it could be read.
    read_back: ReadBack,
}

impl<'k> Observer<'k> {
    /// A target that does not exist is empty.
    pub(crate) fn new(
        target: &Path,
        keyring: &'k Keyring,
        rights: Rights,
    ) -> Result<Self, ObserveError> {
        let root = match Root::open(target) {
            Ok(root) => Some(root),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            root,
            keyring,
            rights,
            near: None,
            linked: HashMap::new(),
            excuses: Excuses::new(),
            read_back: ReadBack::new(),
        })
    }

    /// Compares without what could not be set.
    pub(crate) fn excusing(self, excuses: Excuses) -> Self {
        Self { excuses, ..self }
    }

    /// Believes what was read back, of files that it may not read itself.
    pub(crate) fn believing(self, read_back: ReadBack) -> Self {
        Self { read_back, ..self }
    }

    /// What is at `path`, compared with `item`.
    pub(crate) fn observe(&mut self, path: &[u8], item: &Item) -> Result<Observed, ObserveError> {
        let Some(root) = &self.root else { return Ok(Observed::Absent) };
        if path.is_empty() {
            let raw = rustix::fs::fstat(root.fd())?;
            let fd = root.directory(path)?;
            let excuse = self.excuses.get(path).cloned().unwrap_or_default();
            let found = stat(&raw);
            let observed = self.directory(item, &found, &fd, &excuse)?;
            let ours = self.rights.owners || found.uid == rustix::process::geteuid().as_raw();
            return Ok(match observed {
                Observed::Attributes if ours && is_empty(&fd)? => Observed::EmptyTarget,
                other => other,
            });
        }
        let (parent, name) = split(path);
        if self.near.as_ref().is_none_or(|(near, _)| near != parent) {
            let fd = match root.directory(parent) {
                Ok(fd) => Some(fd),
                // Not there, or a link or file on the way.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(error) => return Err(error.into()),
            };
            self.near = Some((parent.to_vec(), fd));
        }
        let Some((_, Some(directory))) = &self.near else { return Ok(Observed::Absent) };
        let directory = directory.try_clone()?;
        let raw = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(raw) => raw,
            Err(Errno::NOENT) => return Ok(Observed::Absent),
            Err(error) => return Err(error.into()),
        };
        let found = stat(&raw);
        let excuse = self.excuses.get(path).cloned().unwrap_or_default();
        match (FileType::from_raw_mode(raw.st_mode), item.kind) {
            (FileType::RegularFile, ItemKind::File | ItemKind::Object) => {
                self.file(item, &found, &directory, name, &excuse)
            }
            (FileType::Symlink, ItemKind::Symlink) => {
                self.link(item, &found, &directory, name, &excuse)
            }
            (FileType::Directory, ItemKind::Directory) => {
                let fd = root.directory(path)?;
                self.directory(item, &found, &fd, &excuse)
            }
            (FileType::Directory, _) if !is_empty(&root.directory(path)?)? => {
                Ok(Observed::FullDirectory)
            }
            (FileType::RegularFile | FileType::Symlink | FileType::Directory, _) => {
                Ok(Observed::Other)
            }
            _ => Ok(Observed::Special),
        }
    }

    /// What of its attributes is different, in words, from what is there to what the item has.
    pub(crate) fn changes(
        &mut self,
        path: &[u8],
        item: &Item,
    ) -> Result<Vec<String>, ObserveError> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let (found, mut changes) = attribute_changes(root, path, item, self.rights)?;
        if !self.links_equal(item, &found) {
            changes.push("made one file with its other names".to_owned());
        }
        Ok(changes)
    }

    fn file(
        &mut self,
        item: &Item,
        found: &Stat,
        directory: &OwnedFd,
        name: &[u8],
        excuse: &Excuse,
    ) -> Result<Observed, ObserveError> {
        if found.size != item.size {
            return Ok(Observed::Content);
        }
        let linked = excuse.link || self.links_equal(item, found);
        let file = match file_in(directory, name) {
            Ok(file) => Some(file),
            // Its mode keeps this user from reading it again. What was read through the descriptor
            // that wrote it holds as long as nothing of it has moved since.
            Err(Errno::ACCESS) => match self.read_back.get(&(found.device, found.inode)) {
                Some(kept) if kept.is(found) => None,
                Some(_) | None => return Ok(Observed::Unreadable),
            },
            Err(error) => return Err(error.into()),
        };
        let mode = found.mode == item.mode;
        let attributes = match &file {
            Some(file) if !content_equals(file, item, self.keyring)? => {
                return Ok(Observed::Content);
            }
            Some(file) => self.attributes_equal(item, mode, found, file, excuse)?,
            None => mode && self.owner_equals(item, found, excuse),
        };
        Ok(if linked && attributes { times(item, found, excuse) } else { Observed::Attributes })
    }

    /// Whether a hard-linked file's names lead to one inode.
    fn links_equal(&mut self, item: &Item, found: &Stat) -> bool {
        let Some(group) = item.hard_link else { return true };
        let inode = (found.device, found.inode);
        *self.linked.entry((item.key.source.clone(), group)).or_insert(inode) == inode
    }

    fn link(
        &self,
        item: &Item,
        found: &Stat,
        directory: &OwnedFd,
        name: &[u8],
        excuse: &Excuse,
    ) -> Result<Observed, ObserveError> {
        let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
        if target.as_bytes() != item.link_target {
            return Ok(Observed::Content);
        }
        let owner = self.owner_equals(item, found, excuse);
        Ok(if owner { times(item, found, excuse) } else { Observed::Attributes })
    }

    fn directory(
        &self,
        item: &Item,
        found: &Stat,
        fd: &OwnedFd,
        excuse: &Excuse,
    ) -> Result<Observed, ObserveError> {
        if item.kind != ItemKind::Directory {
            return Ok(Observed::Other);
        }
        // As an interrupted restore leaves it: its owner may write into it until the end.
        let mode = found.mode == item.mode || found.mode == item.mode | 0o700;
        if !self.attributes_equal(item, mode, found, fd, excuse)? {
            return Ok(Observed::Attributes);
        }
        let same = found.mode == item.mode && times(item, found, excuse) == Observed::Same;
        Ok(if same { Observed::Same } else { Observed::Times })
    }

    fn owner_equals(&self, item: &Item, found: &Stat, excuse: &Excuse) -> bool {
        excuse.owner || !self.rights.owners || (found.uid == item.uid && found.gid == item.gid)
    }

    fn attributes_equal(
        &self,
        item: &Item,
        mode_equals: bool,
        found: &Stat,
        fd: impl AsFd,
        excuse: &Excuse,
    ) -> Result<bool, ObserveError> {
        if !mode_equals || !self.owner_equals(item, found, excuse) {
            return Ok(false);
        }
        named_attributes_equal(item, fd, excuse)
    }
}

/// Whether extended attributes are equal, as far as they could be set.
pub(crate) fn named_attributes_equal(
    item: &Item,
    fd: impl AsFd,
    excuse: &Excuse,
) -> Result<bool, ObserveError> {
    let there = attributes_of(fd).map_err(|_| std::io::Error::other("attributes"))?;
    let wanted = item.xattrs.iter().map(|x| (&x.name[..], &x.value[..]));
    let there = there.iter().map(|a: &Attribute| (&a.name[..], &a.value[..]));
    // Others than the user's own need rights or a file system that not every target has.
    let comparable = |(name, _): &(&[u8], &[u8])| {
        name.starts_with(b"user.") && !excuse.attributes.contains(*name)
    };
    Ok(wanted.filter(comparable).eq(there.filter(comparable)))
}

/// What is there, and which of its attributes differ from the item's, in words.
pub(crate) fn attribute_changes(
    root: &Root,
    path: &[u8],
    item: &Item,
    rights: Rights,
) -> Result<(Stat, Vec<String>), ObserveError> {
    let raw = if path.is_empty() {
        rustix::fs::fstat(root.fd())?
    } else {
        let (parent, name) = split(path);
        statat(root.directory(parent)?, name, AtFlags::SYMLINK_NOFOLLOW)?
    };
    let found = stat(&raw);
    let mut changes = Vec::new();
    if found.mode != item.mode && item.kind != ItemKind::Symlink {
        changes.push(format!("mode {:04o} -> {:04o}", found.mode, item.mode));
    }
    if rights.owners && (found.uid, found.gid) != (item.uid, item.gid) {
        changes.push(format!("owner {}:{} -> {}:{}", found.uid, found.gid, item.uid, item.gid));
    }
    let (now, then) = (found.modified, item.modified);
    if (now.seconds, now.nanoseconds) != (then.seconds, then.nanos) {
        let shown = |seconds: i64, nanos: u32| {
            jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0))
                .map_or_else(|_| seconds.to_string(), |time| time.to_string())
        };
        let (from, to) = (shown(now.seconds, now.nanoseconds), shown(then.seconds, then.nanos));
        changes.push(format!("modified {from} -> {to}"));
    }
    let there = match item.kind {
        ItemKind::File | ItemKind::Object => {
            root.file(path).ok().and_then(|file| attributes_of(file).ok())
        }
        ItemKind::Directory => root.directory(path).ok().and_then(|fd| attributes_of(fd).ok()),
        ItemKind::Symlink | ItemKind::Other(_) => None,
    };
    changes.extend(there.iter().flat_map(|there| named_attribute_changes(there, item)));
    Ok((found, changes))
}

/// Values are content: only names are told.
fn named_attribute_changes(there: &[Attribute], item: &Item) -> Vec<String> {
    let mut changes = Vec::new();
    let own = |name: &[u8]| name.starts_with(b"user.");
    for wanted in item.xattrs.iter().filter(|wanted| own(&wanted.name)) {
        let found = there.iter().find(|found| found.name == wanted.name[..]);
        if found.is_none_or(|found| found.value != wanted.value[..]) {
            let name = String::from_utf8_lossy(&wanted.name);
            changes.push(format!("extended attribute {name} is set"));
        }
    }
    for found in there.iter().filter(|found| own(&found.name)) {
        if !item.xattrs.iter().any(|wanted| wanted.name[..] == found.name) {
            let name = String::from_utf8_lossy(&found.name);
            changes.push(format!("extended attribute {name} is removed"));
        }
    }
    changes
}

/// What a file or link is whose all else is equal.
fn times(item: &Item, found: &Stat, excuse: &Excuse) -> Observed {
    let (there, wanted) = (found.modified, item.modified);
    if (there.seconds, there.nanoseconds) == (wanted.seconds, wanted.nanos)
        || excuse.modified == Some(there)
    {
        Observed::Same
    } else if is_rounded(item, there) {
        Observed::RoundedTime
    } else {
        Observed::Attributes
    }
}

/// Steps of times that file systems keep: of network file systems and archives 100 ns to 1 ms,
/// seconds of older Unix ones, two seconds of FAT.
const TIME_STEPS_NANOS: [i128; 5] = [100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];

/// Whether a time is the item's, rounded down or up to a step that some file system has.
pub(crate) fn is_rounded(item: &Item, found: Timestamp) -> bool {
    let nanos = |seconds: i64, nanos: u32| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let wanted = nanos(item.modified.seconds, item.modified.nanos);
    let found = nanos(found.seconds, found.nanoseconds);
    found != wanted
        && TIME_STEPS_NANOS
            .iter()
            .any(|step| found.rem_euclid(*step) == 0 && (found - wanted).abs() < *step)
}

fn is_empty(fd: &OwnedFd) -> Result<bool, ObserveError> {
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file's bytes are the item's, by blob ids. The length is known to be equal.
pub(crate) fn content_equals(
    file: &std::fs::File,
    item: &Item,
    keyring: &Keyring,
) -> Result<bool, ObserveError> {
    use std::os::unix::fs::FileExt;
    let mut offset = 0;
    let mut buffer = zeroize::Zeroizing::new(Vec::new());
    for piece in &item.content {
        let mut left = piece.plain_len();
        let end = offset + left;
        while left > 0 {
            // A blob's id is of all its bytes; a hole can be looked at in steps.
            let step = match piece {
                Piece::Blob { .. } => left,
                Piece::Hole { .. } => left.min(1 << 20),
            };
            buffer.resize(usize::try_from(step).unwrap_or(0), 0);
            match file.read_exact_at(&mut buffer, end - left) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
            let equal = match piece {
                Piece::Blob { id, .. } => keyring.blob_id(&buffer) == *id,
                Piece::Hole { .. } => buffer.iter().all(|byte| *byte == 0),
            };
            if !equal {
                return Ok(false);
            }
            left -= step;
        }
        offset = end;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bundle::{FileTime, ItemKey};

    use super::*;

    #[test]
    fn a_rounded_time_is_equal_only_where_it_was_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let random = &proto_types::env::SystemRandom;
        let (kek, signing) = (bundle::Kek::generate(random), bundle::SigningKey::generate(random));
        let keyring = Keyring::create(1, &kek, &signing, proto_types::LogTime::ZERO, random);
        let file = std::fs::File::create(temp.path().join("file")).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let item = Item {
            key: ItemKey { source: "directory".to_owned(), path: b"file".to_vec() },
            kind: ItemKind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            modified: FileTime { seconds: 1_000_000_001, nanos: 5 },
            link_target: Vec::new(),
            hard_link: None,
            xattrs: Vec::new(),
            size: 0,
            content: Vec::new(),
        };
        let at = |seconds| {
            let file = std::fs::File::open(temp.path().join("file")).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        let observe = |excuse: Option<i64>| {
            let mut excuses = Excuses::new();
            if let Some(seconds) = excuse {
                let modified = Some(Timestamp { seconds, nanoseconds: 0 });
                excuses.insert(b"file".to_vec(), Excuse { modified, ..Excuse::default() });
            }
            let observer = Observer::new(temp.path(), &keyring, Rights { owners: false }).unwrap();
            observer.excusing(excuses).observe(b"file", &item).unwrap()
        };
        at(1_000_000_000);
        assert_eq!(observe(None), Observed::RoundedTime);
        assert_eq!(observe(Some(1_000_000_000)), Observed::Same);
        // What was read back was another time: it is not this one that is excused.
        assert_eq!(observe(Some(1_000_000_002)), Observed::RoundedTime);
        at(999_999_998);
        assert_eq!(observe(None), Observed::Attributes);
        assert_eq!(observe(Some(1_000_000_000)), Observed::Attributes);
    }
}

//! The state of a simulated disk: inodes with durable and pending content, names with a durable
//! and a current side, and the faults that were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Loss, Operation, SyncCall};
use crate::disk::{Entry, EntryKind};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    File(u64),
    Directory,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { bytes: usize },
}

#[derive(Debug)]
pub(super) struct PathFault {
    operation: Operation,
    fragment: String,
    kind: io::ErrorKind,
    times: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    inodes: BTreeMap<u64, Inode>,
    current: BTreeMap<PathBuf, Target>,
    durable: BTreeMap<PathBuf, Target>,
    /// Names whose change a failed sync forgot: no later sync makes it durable, only another
    /// change of the same name does.
    forgotten: BTreeSet<PathBuf>,
    next_inode: u64,
    life: u64,
    locks: BTreeSet<PathBuf>,
    pub(super) capacity: Option<u64>,
    pub(super) operations: u64,
    pub(super) fail_from: Option<u64>,
    pub(super) faults: Vec<PathFault>,
    /// Where the process is to die, and whether it has.
    pub(super) kill_at: Option<(Operation, String)>,
    is_killed: bool,
    pub(super) syncs: Vec<SyncCall>,
    pub(super) ignored_sync: Option<usize>,
    pub(super) during: &'static str,
}

impl State {
    /// Every operation begins here: counts it and fails it where that was asked for.
    pub(super) fn step(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        if !matches!(operation, Operation::Read | Operation::Open) {
            self.operations += 1;
        }
        if self.fail_from.is_some_and(|from| self.operations >= from) {
            return Err(io::Error::other("simulated power cut"));
        }
        let text = path.to_string_lossy();
        if self
            .kill_at
            .take_if(|(kind, part)| *kind == operation && text.contains(&**part))
            .is_some()
        {
            self.is_killed = true;
        }
        if self.is_killed {
            return Err(io::Error::other("simulated end of the process"));
        }
        for fault in &mut self.faults {
            if fault.times > 0 && fault.operation == operation && text.contains(&fault.fragment) {
                fault.times -= 1;
                return Err(io::Error::new(fault.kind, "simulated fault"));
            }
        }
        Ok(())
    }

    /// [`State::step`] of a sync: where a fault was asked for, what it was to write is forgotten. A
    /// power cut or the end of the process is no such fault: then the crash decides.
    pub(super) fn step_sync(
        &mut self,
        operation: Operation,
        path: &Path,
        forget: impl FnOnce(&mut Self),
    ) -> io::Result<()> {
        let result = self.step(operation, path);
        let is_cut = self.fail_from.is_some_and(|from| self.operations >= from);
        if result.is_err() && !is_cut && !self.is_killed {
            forget(self);
        }
        result
    }

    pub(super) fn forget_file(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.pending.clear();
        }
    }

    pub(super) fn forget_dir(&mut self, dir: &Path) {
        let names: BTreeSet<&PathBuf> = self.current.keys().chain(self.durable.keys()).collect();
        let lost = names.into_iter().filter(|name| {
            name.parent() == Some(dir) && self.current.get(*name) != self.durable.get(*name)
        });
        self.forgotten.extend(lost.cloned().collect::<Vec<_>>());
    }

    pub(super) fn forget_all(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.pending.clear());
        let names: BTreeSet<&PathBuf> = self.current.keys().chain(self.durable.keys()).collect();
        let dirs: BTreeSet<PathBuf> =
            names.into_iter().filter_map(|name| name.parent().map(Path::to_owned)).collect();
        dirs.iter().for_each(|dir| self.forget_dir(dir));
    }

    /// Changes what a name stands for.
    fn set_name(&mut self, path: &Path, target: Option<Target>) {
        self.forgotten.remove(path);
        match target {
            Some(target) => self.current.insert(path.to_owned(), target),
            None => self.current.remove(path),
        };
    }

    pub(super) fn add_fault(
        &mut self,
        operation: Operation,
        fragment: &str,
        kind: io::ErrorKind,
        times: u64,
    ) {
        self.faults.push(PathFault { operation, fragment: fragment.to_owned(), kind, times });
    }

    /// Notes a sync; says whether it is to be carried out.
    pub(super) fn notes_sync(&mut self, operation: Operation, path: &Path) -> bool {
        let number = self.syncs.len();
        self.syncs.push(SyncCall { operation, path: path.to_owned(), during: self.during });
        self.ignored_sync != Some(number)
    }

    pub(super) fn check_life(&self, life: u64) -> io::Result<()> {
        if life == self.life {
            Ok(())
        } else {
            Err(io::Error::other("a handle from before the simulated crash"))
        }
    }

    pub(super) fn crash(&mut self, loss: Loss) {
        self.life += 1;
        self.locks.clear();
        self.faults.clear();
        self.kill_at = None;
        self.is_killed = false;
        // A power cut that was set up and has not come yet outlives a killed process.
        if loss != Loss::Nothing || self.fail_from.is_some_and(|from| self.operations >= from) {
            self.fail_from = None;
        }
        if loss == Loss::Nothing {
            // The kernel lives on: what it was given stays written, and stays unsynced.
            return;
        }
        // A name whose directory is gone is gone with it.
        let mut names: BTreeMap<PathBuf, Target> = BTreeMap::new();
        for (path, target) in &self.durable {
            let parent = path.parent().unwrap_or(Path::new(""));
            if is_root(parent) || names.get(parent) == Some(&Target::Directory) {
                names.insert(path.clone(), *target);
            }
        }
        for inode in self.inodes.values_mut() {
            let pending = std::mem::take(&mut inode.pending);
            let mut content = std::mem::take(&mut inode.durable);
            if let Loss::TornLastWrite { kept_bytes } = loss
                && let Some((last, before)) = pending.split_last()
            {
                before.iter().for_each(|change| change.apply(&mut content, usize::MAX));
                last.apply(&mut content, kept_bytes);
            }
            inode.current.clone_from(&content);
            inode.durable = content;
        }
        self.current.clone_from(&names);
        self.durable = names;
        self.forgotten.clear();
        self.forget_nameless();
    }

    pub(super) fn fork(&self) -> Self {
        let mut inodes = self.inodes.clone();
        for inode in inodes.values_mut() {
            inode.durable.clone_from(&inode.current);
            inode.pending.clear();
        }
        Self {
            inodes,
            current: self.current.clone(),
            durable: self.current.clone(),
            next_inode: self.next_inode,
            capacity: self.capacity,
            ..Self::default()
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<(u64, u64)> {
        self.require_parent(path)?;
        if self.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode::default());
        self.set_name(path, Some(Target::File(self.next_inode)));
        Ok((self.next_inode, self.life))
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<(u64, u64)> {
        Ok((self.inode_of(path)?, self.life))
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.require_parent(to)?;
        let target = *self.current.get(from).ok_or(io::ErrorKind::NotFound)?;
        if target == Target::Directory {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the simulated disk renames files only",
            ));
        }
        self.set_name(from, None);
        self.set_name(to, Some(target));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.inode_of(path)?;
        self.set_name(path, None);
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().filter(|p| !is_root(p) && !self.current.contains_key(*p)).collect();
        for dir in missing.into_iter().rev() {
            self.set_name(dir, Some(Target::Directory));
        }
        match self.current.get(path) {
            Some(Target::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        if !is_root(dir) && self.current.get(dir) != Some(&Target::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut entries: Vec<Entry> = self
            .current
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, target)| {
                let name = path.file_name().unwrap_or_default().to_owned();
                match target {
                    Target::File(inode) => Entry {
                        name,
                        kind: EntryKind::File,
                        bytes: self.inodes.get(inode).map_or(0, |i| i.current.len() as u64),
                    },
                    Target::Directory => Entry { name, kind: EntryKind::Directory, bytes: 0 },
                }
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        is_root(path) || self.current.contains_key(path)
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !is_root(dir) && self.current.get(dir) != Some(&Target::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.sync_names(|path| path.parent() == Some(dir));
        Ok(())
    }

    fn sync_names(&mut self, of: impl Fn(&Path) -> bool) {
        let Self { current, durable, forgotten, .. } = self;
        let is_synced = |path: &PathBuf| of(path) && !forgotten.contains(path);
        durable.retain(|path, _| !is_synced(path));
        let names = current.iter().filter(|(path, _)| is_synced(path));
        durable.extend(names.map(|(path, target)| (path.clone(), *target)));
    }

    pub(super) fn sync_all(&mut self) {
        self.sync_names(|_| true);
        let inodes: Vec<u64> = self.inodes.keys().copied().collect();
        inodes.into_iter().for_each(|inode| self.sync_file(inode));
    }

    pub(super) fn sync_file(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            // Replayed, not copied: an append to a large file stays cheap.
            for change in std::mem::take(&mut inode.pending) {
                change.apply(&mut inode.durable, usize::MAX);
            }
        }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        match self.capacity {
            Some(capacity) => capacity.saturating_sub(self.used_bytes()),
            None => 1 << 40,
        }
    }

    pub(super) fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let grows = (offset + bytes.len()).saturating_sub(self.inode(inode)?.current.len());
        if self.capacity.is_some() && grows as u64 > self.free_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change::Write { offset, bytes: bytes.to_vec() };
        let inode = self.inode_mut(inode)?;
        change.apply(&mut inode.current, usize::MAX);
        inode.pending.push(change);
        Ok(())
    }

    pub(super) fn truncate(&mut self, inode: u64, bytes: u64) -> io::Result<()> {
        let change = Change::Truncate { bytes: usize::try_from(bytes).map_err(io::Error::other)? };
        let inode = self.inode_mut(inode)?;
        change.apply(&mut inode.current, usize::MAX);
        inode.pending.push(change);
        Ok(())
    }

    pub(super) fn read(&self, inode: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = &self.inode(inode)?.current;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let bytes = buffer.len().min(content.len() - from);
        buffer[..bytes].copy_from_slice(&content[from..from + bytes]);
        Ok(bytes)
    }

    pub(super) fn length(&self, inode: u64) -> io::Result<u64> {
        Ok(self.inode(inode)?.current.len() as u64)
    }

    pub(super) fn take_lock(&mut self, path: &Path) -> io::Result<u64> {
        self.require_parent(path)?;
        if !self.current.contains_key(path) {
            self.create(path)?;
        }
        if !self.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.life)
    }

    pub(super) fn release_lock(&mut self, path: &Path, life: u64) {
        if life == self.life {
            self.locks.remove(path);
        }
    }

    pub(super) fn rot(
        &mut self,
        path: &Path,
        change: impl Fn(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let inode = self.inode_of(path)?;
        let inode = self.inode_mut(inode)?;
        change(&mut inode.current)?;
        inode.pending.clear();
        inode.durable.clone_from(&inode.current);
        Ok(())
    }

    pub(super) fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.inode(self.inode_of(path)?)?.current.clone())
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let files = self.current.iter().filter(|(_, target)| matches!(target, Target::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    fn used_bytes(&self) -> u64 {
        let named = self.current.values().filter_map(|target| match target {
            Target::File(inode) => self.inodes.get(inode),
            Target::Directory => None,
        });
        named.map(|inode| inode.current.len() as u64).sum()
    }

    fn inode_of(&self, path: &Path) -> io::Result<u64> {
        match self.current.get(path) {
            Some(Target::File(inode)) => Ok(*inode),
            Some(Target::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn inode(&self, inode: u64) -> io::Result<&Inode> {
        self.inodes.get(&inode).ok_or_else(|| io::Error::other("no such simulated file"))
    }

    fn inode_mut(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::Error::other("no such simulated file"))
    }

    fn require_parent(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if is_root(parent) || self.current.get(parent) == Some(&Target::Directory) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> = self
            .current
            .values()
            .filter_map(|target| match target {
                Target::File(inode) => Some(*inode),
                Target::Directory => None,
            })
            .collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

impl Change {
    /// Applies the change, of a write only the first `limit` bytes.
    fn apply(&self, content: &mut Vec<u8>, limit: usize) {
        match self {
            Self::Write { offset, bytes } => {
                let bytes = &bytes[..bytes.len().min(limit)];
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Truncate { bytes } => content.resize(*bytes, 0),
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/") || path == Path::new(".")
}

//! Compares directory trees byte for byte: kinds, contents, modes, link targets, modification
//! times, hard links, extended attributes of the user namespace, and owners where this process may
//! set them. Written apart from the agent on purpose: it must not share its mistakes. Holes of
//! sparse files count as the zeros they read as; sockets, pipes and devices are not compared.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{CliError, Result};

/// A tree as it was when it was read, by paths relative to its root; the root is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
    skipped: u64,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    modified: (i64, i64),
    owner: (u32, u32),
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    /// Size, SHA-256, and the first path of its hard links if it has several in the tree.
    File {
        size: u64,
        digest: [u8; 32],
        link_of: Option<Vec<u8>>,
    },
    Symlink {
        target: Vec<u8>,
    },
}

/// One way in which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path relative to the root, as text.
    pub path: String,
    /// What differs.
    pub what: String,
}

impl Tree {
    /// Reads a tree whole.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut reader = Reader { root, links: BTreeMap::new(), tree: Self::empty() };
        reader.read_all()?;
        Ok(reader.tree)
    }

    const fn empty() -> Self {
        Self { entries: BTreeMap::new(), skipped: 0, bytes: 0 }
    }

    /// How many files, directories and links it has, its root included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether it has nothing but its root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len() <= 1
    }

    /// Bytes in its files.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sockets, pipes and devices, which are no part of a backup.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The path of the smallest regular file, the first one of several.
    #[must_use]
    pub fn smallest_file(&self) -> Option<PathBuf> {
        let sizes = self.entries.iter().filter_map(|(path, entry)| match &entry.kind {
            Kind::File { size, .. } => Some((*size, path)),
            Kind::Directory | Kind::Symlink { .. } => None,
        });
        let (_, path) = sizes.min()?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(path.clone())))
    }

    /// All ways in which `other` differs from this, which is what it should be.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        for (path, expected) in &self.entries {
            match other.entries.get(path) {
                None => found.push(difference(path, "is missing".to_owned())),
                Some(entry) => found.extend(
                    expected.differences(entry).into_iter().map(|what| difference(path, what)),
                ),
            }
        }
        for path in other.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            found.push(difference(path, "should not be there".to_owned()));
        }
        found
    }

    /// The ways in which one path differs.
    #[must_use]
    pub fn differences_at(&self, other: &Self, path: &Path) -> Vec<Difference> {
        let bytes = path.as_os_str().as_bytes();
        let pick = |tree: &Self| {
            let entry = tree.entries.get_key_value(bytes);
            let entries = entry.map(|(path, entry)| (path.clone(), entry.clone()));
            Self { entries: entries.into_iter().collect(), skipped: 0, bytes: 0 }
        };
        pick(self).differences(&pick(other))
    }
}

fn difference(path: &[u8], what: String) -> Difference {
    let path = if path.is_empty() { "the root".into() } else { path.escape_ascii().to_string() };
    Difference { path, what }
}

impl Entry {
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        match (&self.kind, &other.kind) {
            (
                Kind::File { size, digest, link_of },
                Kind::File { size: other_size, digest: other_digest, link_of: other_link },
            ) => {
                if size != other_size {
                    found.push(format!("has {other_size} bytes, not {size}"));
                } else if digest != other_digest {
                    found.push("has other bytes".to_owned());
                }
                if link_of != other_link {
                    found.push("is hard-linked otherwise".to_owned());
                }
            }
            (Kind::Symlink { target }, Kind::Symlink { target: other_target }) => {
                if target != other_target {
                    found.push(format!(
                        "points to {}, not to {}",
                        other_target.escape_ascii(),
                        target.escape_ascii()
                    ));
                }
            }
            (Kind::Directory, Kind::Directory) => {}
            (expected, found_kind) => {
                // Of another kind, nothing else can be compared.
                return vec![format!("is a {}, not a {}", found_kind.name(), expected.name())];
            }
        }
        if self.mode != other.mode {
            found.push(format!("has mode {:o}, not {:o}", other.mode, self.mode));
        }
        if self.modified != other.modified {
            found.push(format!(
                "was modified at {}.{:09}, not {}.{:09}",
                other.modified.0, other.modified.1, self.modified.0, self.modified.1
            ));
        }
        if self.owner != other.owner && rustix::process::geteuid().is_root() {
            found.push(format!(
                "belongs to {}:{}, not {}:{}",
                other.owner.0, other.owner.1, self.owner.0, self.owner.1
            ));
        }
        if self.attributes != other.attributes {
            found.push("has other extended attributes".to_owned());
        }
        found
    }
}

impl Kind {
    const fn name(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File { .. } => "file",
            Self::Symlink { .. } => "symbolic link",
        }
    }
}

struct Reader<'a> {
    root: &'a Path,
    /// Device and inode of files with several names, with the first of these in the tree.
    links: BTreeMap<(u64, u64), Vec<u8>>,
    tree: Tree,
}

impl Reader<'_> {
    fn read_all(&mut self) -> Result<()> {
        let mut paths = vec![Vec::new()];
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            let path = self.root.join(&directory);
            let entries =
                std::fs::read_dir(&path).map_err(|error| CliError::io("list", &path, &error))?;
            for entry in entries {
                let entry = entry.map_err(|error| CliError::io("list", &path, &error))?;
                let relative = directory.join(entry.file_name());
                let kind =
                    entry.file_type().map_err(|error| CliError::io("look at", &path, &error))?;
                if kind.is_dir() {
                    directories.push(relative.clone());
                }
                paths.push(relative.into_os_string().into_vec());
            }
        }
        // In order, so that the first name of a hard link is the same in every tree.
        paths.sort();
        for path in paths {
            self.read_one(path)?;
        }
        let mut names: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for entry in self.tree.entries.values() {
            if let Kind::File { link_of: Some(first), .. } = &entry.kind {
                *names.entry(first.clone()).or_default() += 1;
            }
        }
        for entry in self.tree.entries.values_mut() {
            if let Kind::File { link_of, .. } = &mut entry.kind {
                // Other names outside the tree are no part of it.
                let alone = link_of.as_ref().is_some_and(|first| names.get(first) == Some(&1));
                if alone {
                    *link_of = None;
                }
            }
        }
        Ok(())
    }

    fn read_one(&mut self, relative: Vec<u8>) -> Result<()> {
        let path = if relative.is_empty() {
            self.root.to_owned()
        } else {
            self.root.join(std::ffi::OsStr::from_bytes(&relative))
        };
        let look = |error| CliError::io("look at", &path, &error);
        let metadata = if relative.is_empty() {
            // The root may be reached through a link; what is in it counts.
            std::fs::metadata(&path).map_err(look)?
        } else {
            path.symlink_metadata().map_err(look)?
        };
        let kind = if metadata.is_dir() {
            Kind::Directory
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&path)
                .map_err(|error| CliError::io("read the link", &path, &error))?;
            Kind::Symlink { target: target.into_os_string().into_vec() }
        } else if metadata.is_file() {
            self.tree.bytes += metadata.len();
            Kind::File {
                size: metadata.len(),
                digest: digest(&path).map_err(|error| CliError::io("read", &path, &error))?,
                link_of: self.link(&metadata, &relative),
            }
        } else {
            self.tree.skipped += 1;
            return Ok(());
        };
        let attributes = if metadata.is_symlink() { BTreeMap::new() } else { attributes(&path) };
        let entry = Entry {
            // A symbolic link has no mode of its own.
            mode: if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 },
            kind,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            owner: (metadata.uid(), metadata.gid()),
            attributes,
        };
        self.tree.entries.insert(relative, entry);
        Ok(())
    }

    fn link(&mut self, metadata: &Metadata, relative: &[u8]) -> Option<Vec<u8>> {
        if metadata.nlink() < 2 {
            return None;
        }
        let key = (metadata.dev(), metadata.ino());
        Some(self.links.entry(key).or_insert_with(|| relative.to_vec()).clone())
    }
}

fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Attributes of the user namespace; the others are the system's business.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    // A file system without them has none.
    let Ok(names) = xattr::list(path) else { return BTreeMap::new() };
    names
        .filter(|name| name.as_bytes().starts_with(b"user."))
        .filter_map(|name| {
            let value = xattr::get(path, &name).ok().flatten()?;
            Some((name.into_vec(), value))
        })
        .collect()
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;

//! The tests' own look at a directory tree: kinds, bytes, modes, owners, link targets, times,
//! hard links and extended attributes, compared by path. Shares no code with the product.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// A tree as it was when it was read; the root is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<Vec<u8>, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    digest: Option<[u8; 32]>,
    target: Option<Vec<u8>>,
    /// The first path of the same file.
    same_file_as: Option<Vec<u8>>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tree {
    /// Reads a tree.
    ///
    /// # Panics
    /// When something in it cannot be read.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let mut first_names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        let mut entries = BTreeMap::new();
        for found in walkdir::WalkDir::new(root).sort_by_file_name() {
            let found = found.unwrap_or_else(|error| panic!("cannot walk: {error}"));
            let path = found.path();
            let relative = path.strip_prefix(root).expect("below the root");
            let name = relative.as_os_str().as_bytes().to_vec();
            let metadata = path.symlink_metadata().expect("a found entry can be looked at");
            let mut same_file_as = None;
            if metadata.is_file() && metadata.nlink() > 1 {
                let first = first_names.entry((metadata.dev(), metadata.ino()));
                same_file_as = Some(first.or_insert_with(|| name.clone()).clone());
            }
            let entry = Entry {
                kind: metadata.mode() & 0o170_000,
                mode: metadata.mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                size: if metadata.is_file() { metadata.len() } else { 0 },
                digest: metadata.is_file().then(|| digest(path)),
                target: metadata.is_symlink().then(|| {
                    let target = std::fs::read_link(path).expect("a link can be read");
                    target.as_os_str().as_bytes().to_vec()
                }),
                same_file_as,
                attributes: attributes(path),
            };
            entries.insert(name, entry);
        }
        Self(entries)
    }

    /// Number of entries, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() <= 1
    }

    /// All paths, as bytes.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// What differs, in words; empty if nothing does.
    #[must_use]
    pub fn differences(&self, other: &Self) -> String {
        let mut text = String::new();
        let mut say = |path: &[u8], what: &str| {
            let _ = writeln!(text, "{}: {what}", String::from_utf8_lossy(path));
        };
        for (path, ours) in &self.0 {
            let Some(theirs) = other.0.get(path) else {
                say(path, "is missing");
                continue;
            };
            for (what, same) in [
                ("kind", ours.kind == theirs.kind),
                // A symbolic link's own mode means nothing.
                ("mode", ours.mode == theirs.mode || ours.target.is_some()),
                ("owner", ours.owner == theirs.owner),
                ("modification time", ours.modified == theirs.modified),
                ("size", ours.size == theirs.size),
                ("bytes", ours.digest == theirs.digest),
                ("link target", ours.target == theirs.target),
                ("hard links", ours.same_file_as == theirs.same_file_as),
                ("extended attributes", ours.attributes == theirs.attributes),
            ] {
                if !same {
                    say(path, &format!("another {what}"));
                }
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            say(path, "is too many");
        }
        text
    }
}

/// Asserts that two trees are equal.
///
/// # Panics
/// When they are not; says where.
#[track_caller]
pub fn assert_same(expected: &Tree, found: &Tree) {
    let differences = expected.differences(found);
    assert!(differences.is_empty(), "the trees differ:\n{differences}");
}

fn digest(path: &Path) -> [u8; 32] {
    let mut file = std::fs::File::open(path).expect("a file can be opened");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).expect("a file can be read");
        if read == 0 {
            return hash.finalize().into();
        }
        hash.update(&buffer[..read]);
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = xattr::list(path).into_iter().flatten();
    names
        .filter(|name| name.as_bytes().starts_with(b"user."))
        .filter_map(|name| {
            let value = xattr::get(path, &name).ok().flatten()?;
            Some((name.as_bytes().to_vec(), value))
        })
        .collect()
}

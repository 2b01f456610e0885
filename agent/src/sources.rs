//! What an agent collects from: a source lists its entries, then hands out their content in
//! pieces. Sources know nothing of keys, bundles or the fleet, and never say that they are
//! complete without having looked.

mod content;
pub mod directory;

use std::path::PathBuf;

use proto_types::Code;

pub use content::{Content, PIECE_BYTES, PieceData};
pub use directory::DirectorySource;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A Kubernetes object, its JSON in normal form.
    Object,
}

/// Where an entry's content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Compressed into the config bundle.
    Config,
    /// Padded into the config bundle, so that its length tells little.
    Secret,
    /// Into the key bundle.
    KeyBundle,
}

/// Seconds and nanoseconds, as file systems keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since the Unix epoch; may be before it.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

/// What `stat` says of an entry. Two equal ones mean that content and attributes are the same,
/// because every change of either moves the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Permission bits, without the kind.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed.
    pub modified: Timestamp,
    /// When content or attributes changed.
    pub changed: Timestamp,
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Number of hard links.
    pub links: u64,
}

/// One restorable thing that a source listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the source's root, bytes; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// As listed.
    pub stat: Stat,
    /// Where its content goes.
    pub place: Place,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    /// Name with its namespace, for example `user.origin`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// Something that keeps a source from being proved complete, or that a person should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// Its root cannot be opened.
    OutOfReach,
    /// It could not be read.
    Unreadable,
    /// It changed each time it was read.
    ChangedWhileRead,
    /// A fifo, socket or device: such things are not backed up.
    Special,
    /// Extended attributes could not be read.
    AttributesUnreadable,
    /// The agent's account lacks a right.
    Forbidden,
    /// It holds values sealed under a key that everybody knows.
    FixedKey,
}

/// What a source has.
#[derive(Debug, Default)]
pub struct Listing {
    /// Entries, sorted by path.
    pub entries: Vec<Entry>,
    /// What could not be listed, with paths for the local log only (invariant K1).
    pub troubles: Vec<(Trouble, Vec<u8>)>,
}

/// Why a source could not be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its root cannot be opened.
    #[error("cannot open the source {name} at {}: {source}", crate::shown::path(path))]
    Root {
        /// The source's label.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its API server cannot be asked.
    #[error("cannot read the source {name}: {failure}")]
    Api {
        /// The source's label.
        name: String,
        /// What is wrong.
        failure: crate::kubernetes::ApiFailure,
    },
}

impl SourceError {
    /// The label of the source that is out of reach.
    #[must_use]
    pub fn source_name(&self) -> &str {
        match self {
            Self::Root { name, .. } | Self::Api { name, .. } => name,
        }
    }

    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Root { .. } => Code::LocalIo,
            Self::Api { failure, .. } => failure.code(),
        }
    }
}

/// Why one entry could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// It is gone since it was listed, which is nobody's fault.
    Vanished,
    /// It is there and cannot be read.
    Unreadable(std::io::ErrorKind),
}

/// What can be backed up. Blocking: run it off the async threads.
pub trait Source: Send + Sync {
    /// The label in manifests.
    fn name(&self) -> &str;
    /// The kind, for proofs.
    fn kind(&self) -> &'static str;
    /// Looks at everything, reads nothing.
    ///
    /// # Errors
    /// When the root is out of reach; single entries are troubles of the listing.
    fn list(&self) -> Result<Listing, SourceError>;
    /// Begins to read a file's content.
    ///
    /// # Errors
    /// When it is gone or cannot be read.
    fn open(&self, entry: &Entry) -> Result<Content, ReadError>;
    /// Extended attributes of an entry.
    ///
    /// # Errors
    /// When they cannot be read.
    fn attributes(&self, entry: &Entry) -> Result<Vec<Attribute>, ReadError>;
    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When it is gone or no link any more.
    fn link_target(&self, entry: &Entry) -> Result<Vec<u8>, ReadError>;
    /// The vendor's own sealing inside this source's data, where it has one under a fixed key.
    fn fixed_key(&self) -> Option<&dyn FixedKey> {
        None
    }
}

/// A vendor's sealing under a key that is the same everywhere, and so known to everybody: what is under it
/// counts as clear text (design section 5). The agent takes such content for secret and seals it
/// under the cluster's keys, whatever the source said of the entry, and a finding tells people.
pub trait FixedKey: Send + Sync {
    /// Whether this piece of an entry's content holds values that open under the fixed key. Opens them
    /// to know; what it finds is wiped, and never leaves it.
    fn is_in(&self, entry: &Entry, piece: &[u8]) -> bool;
}

impl From<rustix::io::Errno> for ReadError {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            rustix::io::Errno::NOENT => Self::Vanished,
            other => Self::Unreadable(other.kind()),
        }
    }
}

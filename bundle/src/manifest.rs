//! What a recovery point consists of: its items, where their blobs are, what was proved. Domain
//! types and their validity; the bytes are in `manifest_wire`, the file in `manifest_file`.
//! All of it is plaintext: it exists in memory of whoever holds the keys, and sealed.

use std::collections::BTreeSet;

use proto_types::{BundleId, Code, DekId, LEAD_BYTES, Sequence};

use crate::blob::{BlobId, BlobRef};
use crate::key_bundle::KeyNeeds;
use crate::record::{MAX_BLOB_BYTES, MAX_SEALED_BYTES, MIN_SEALED_BYTES};

/// Longest source label, in bytes.
pub const MAX_SOURCE_BYTES: usize = 255;

/// Why a manifest is not valid. Items are named by their place, not by their path, because
/// errors are logged and paths are plaintext (invariant K1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// An item contradicts itself.
    #[error("item {index} of the manifest is not valid: {what}")]
    Item {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A list is not sorted by source and path, or holds a key twice.
    #[error("{list} {index} of the manifest is out of order or there twice")]
    Order {
        /// "item" or "removed item".
        list: &'static str,
        /// Its place in the list, from 0.
        index: usize,
    },
    /// Something outside the lists is wrong.
    #[error("the manifest is not valid: {what}")]
    Field {
        /// What is wrong.
        what: &'static str,
    },
    /// The totals are not those of the items.
    #[error("the manifest's totals are not those of its items")]
    Totals,
    /// A delta was to be merged with another manifest than its base.
    #[error("the delta is against manifest {expected}, not {found}")]
    WrongBase {
        /// The base that the delta names.
        expected: BundleId,
        /// The manifest at hand.
        found: BundleId,
    },
    /// A full manifest where a delta is needed, or the other way round.
    #[error("this is a {found} manifest where a {expected} one is needed")]
    WrongForm {
        /// "full" or "delta".
        expected: &'static str,
        /// "full" or "delta".
        found: &'static str,
    },
}

impl ManifestError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Item { .. } | Self::Order { .. } | Self::Field { .. } | Self::Totals => {
                Code::Damaged
            }
            Self::WrongBase { .. } | Self::WrongForm { .. } => Code::InvalidArgument,
        }
    }
}

/// The list of a recovery point's items, whole or as the change against a full one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The recovery point.
    pub sequence: Sequence,
    /// The key bundle that opens the point.
    pub key_bundle: BundleId,
    /// Full or delta.
    pub form: Form,
    /// Full: all items. Delta: those added or changed since the base. Sorted by key.
    pub items: Vec<Item>,
    /// Totals of the whole point, for a delta too.
    pub totals: Totals,
    /// What was proved, one per source, sorted by source.
    pub proofs: Vec<Proof>,
}

/// Whether a manifest is the whole list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The whole list.
    Full,
    /// The difference from a full manifest, never from another delta.
    Delta {
        /// The full manifest.
        base: BundleId,
        /// Keys of the base's items that are gone, sorted.
        removed: Vec<ItemKey>,
    },
}

impl Form {
    /// "full" or "delta".
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta { .. } => "delta",
        }
    }
    /// The base of a delta, zero when full, as the clear header has it.
    #[must_use]
    pub const fn base(&self) -> BundleId {
        match self {
            Self::Full => BundleId::ZERO,
            Self::Delta { base, .. } => *base,
        }
    }
    pub(crate) fn removed(&self) -> &[ItemKey] {
        match self {
            Self::Full => &[],
            Self::Delta { removed, .. } => removed,
        }
    }
}

/// Counts over all items of a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Items.
    pub items: u64,
    /// Items that are files.
    pub files: u64,
    /// Sum of the items' sizes, in bytes.
    pub bytes: u64,
}

impl Totals {
    /// Counts a list.
    #[must_use]
    pub fn of(items: &[Item]) -> Self {
        let files = items.iter().filter(|item| item.kind == ItemKind::File).count();
        Self {
            items: items.len() as u64,
            files: files as u64,
            bytes: items.iter().fold(0, |sum, item| sum.saturating_add(item.size)),
        }
    }
}

/// What was proved of one source's part of a point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof {
    /// The source's label.
    pub source: String,
    /// What was proved.
    pub state: ProofState,
}

/// Whether a source's part was opened and found complete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProofState {
    /// Opened, complete.
    Proved,
    /// Not proved, and why.
    Unproved(String),
    /// Known to be incomplete or broken, and why.
    Failed(String),
}

/// Names an item within a point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// Label of the source, 1 to 255 bytes.
    pub source: String,
    /// Path within the source: any bytes; empty for the source's root itself.
    pub path: Vec<u8>,
}

/// One restorable thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Source and path.
    pub key: ItemKey,
    /// What it is.
    pub kind: ItemKind,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of last change of the contents.
    pub modified: FileTime,
    /// Target of a symbolic link, any bytes; empty for all else.
    pub link_target: Vec<u8>,
    /// Items with the same number are one file under several names.
    pub hard_link: Option<u64>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Bytes of content, holes included.
    pub size: u64,
    /// The content in order; the lengths add up to `size`.
    pub content: Vec<Piece>,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A file, or any item that is a sequence of bytes.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A Kubernetes object: a sequence of bytes, its JSON in normal form.
    Object,
    /// A kind that a newer program wrote, by its number, from 5.
    Other(u32),
}

/// A time as file systems keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Seconds since the Unix epoch, negative before.
    pub seconds: i64,
    /// Nanoseconds after that second, under 1,000,000,000.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name, with its namespace.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// A piece of an item's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Piece {
    /// Bytes that are sealed somewhere.
    Blob {
        /// The blob.
        id: BlobId,
        /// Its length.
        plain_len: u32,
        /// Where it is.
        location: Location,
    },
    /// Zeros, stored nowhere.
    Hole {
        /// How many.
        len: u64,
    },
}

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// In a config bundle.
    Config {
        /// The bundle.
        bundle: BundleId,
        /// The DEK it is sealed under.
        dek: DekId,
        /// Where its record begins in the file.
        offset: u64,
        /// Bytes of ciphertext and tag.
        sealed_len: u32,
    },
    /// Among the secrets of the point's key bundle.
    Key,
}

impl Piece {
    /// A blob that was sealed into a config bundle.
    #[must_use]
    pub const fn in_config(bundle: BundleId, blob: &BlobRef) -> Self {
        Self::Blob {
            id: blob.id,
            plain_len: blob.plain_len,
            location: Location::Config {
                bundle,
                dek: blob.dek,
                offset: blob.offset,
                sealed_len: blob.sealed_len,
            },
        }
    }
    /// Bytes of content.
    #[must_use]
    pub const fn plain_len(&self) -> u64 {
        match self {
            Self::Blob { plain_len, .. } => *plain_len as u64,
            Self::Hole { len } => *len,
        }
    }
    /// Bundle and reference of a piece in a config bundle.
    #[must_use]
    pub const fn config_blob(&self) -> Option<(BundleId, BlobRef)> {
        match *self {
            Self::Blob {
                id,
                plain_len,
                location: Location::Config { bundle, dek, offset, sealed_len },
            } => Some((bundle, BlobRef { id, dek, offset, sealed_len, plain_len })),
            Self::Blob { location: Location::Key, .. } | Self::Hole { .. } => None,
        }
    }
}

impl ItemKind {
    /// Whether the item is a sequence of bytes, which a directory keeps as a file.
    #[must_use]
    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::File | Self::Object)
    }
}

impl Item {
    /// Whether the contents are equal: same bytes, wherever they are stored.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let stored = |piece: &Piece| match *piece {
            Piece::Blob { id, plain_len, .. } => (Some(id), u64::from(plain_len)),
            Piece::Hole { len } => (None, len),
        };
        self.size == other.size
            && self.link_target == other.link_target
            && self.content.iter().map(stored).eq(other.content.iter().map(stored))
    }

    /// Whether all but the contents is equal.
    #[must_use]
    pub fn same_metadata(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid
            && self.modified == other.modified
            && self.hard_link == other.hard_link
            && self.xattrs == other.xattrs
    }

    fn flaw(&self) -> Option<&'static str> {
        if !(1..=MAX_SOURCE_BYTES).contains(&self.key.source.len()) {
            return Some("its source's label is empty or too long");
        }
        if matches!(self.kind, ItemKind::Other(number) if number < 5) {
            return Some("its kind is not a number of another kind");
        }
        if self.modified.nanos >= 1_000_000_000 {
            return Some("its time has too many nanoseconds");
        }
        if self.hard_link == Some(0) {
            return Some("its hard-link group is zero");
        }
        if !self.xattrs.is_sorted_by(|a, b| a.name < b.name) {
            return Some("its extended attributes are out of order");
        }
        if matches!(self.kind, ItemKind::Directory | ItemKind::Symlink)
            && !(self.content.is_empty() && self.size == 0)
        {
            return Some("it has contents that its kind cannot have");
        }
        if self.link_target.is_empty() == (self.kind == ItemKind::Symlink) {
            return Some("its link target does not fit its kind");
        }
        let mut sum = 0_u64;
        for piece in &self.content {
            if !piece.is_valid() {
                return Some("a piece of its contents is out of bounds");
            }
            sum = sum.saturating_add(piece.plain_len());
        }
        (sum != self.size).then_some("its contents do not add up to its size")
    }
}

impl Piece {
    fn is_valid(&self) -> bool {
        let Self::Blob { plain_len, location, .. } = *self else {
            return self.plain_len() > 0;
        };
        let place = match location {
            Location::Key => true,
            Location::Config { offset, sealed_len, .. } => {
                offset >= LEAD_BYTES as u64
                    && offset <= u64::MAX / 2
                    && (MIN_SEALED_BYTES..=MAX_SEALED_BYTES).contains(&sealed_len)
            }
        };
        place && (1..=MAX_BLOB_BYTES as u64).contains(&u64::from(plain_len))
    }
}

impl Manifest {
    /// Whether the manifest holds together; sealing and opening ask.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.sequence.get() == 0 {
            return Err(ManifestError::Field { what: "its sequence is zero" });
        }
        if self.key_bundle.is_zero() {
            return Err(ManifestError::Field { what: "it names no key bundle" });
        }
        let out_of_order =
            |list, keys: &[&ItemKey]| match keys.windows(2).position(|pair| pair[0] >= pair[1]) {
                Some(place) => Err(ManifestError::Order { list, index: place + 1 }),
                None => Ok(()),
            };
        let keys: Vec<_> = self.items.iter().map(|item| &item.key).collect();
        out_of_order("item", &keys)?;
        let removed: Vec<_> = self.form.removed().iter().collect();
        out_of_order("removed item", &removed)?;
        if removed.iter().any(|key| keys.binary_search(key).is_ok()) {
            return Err(ManifestError::Field { what: "an item is both there and removed" });
        }
        for (index, item) in self.items.iter().enumerate() {
            if let Some(what) = item.flaw() {
                return Err(ManifestError::Item { index, what });
            }
        }
        if !self.proofs.is_sorted_by(|a, b| a.source < b.source) {
            return Err(ManifestError::Field { what: "its proofs are out of order" });
        }
        match self.form {
            Form::Full if self.totals != Totals::of(&self.items) => Err(ManifestError::Totals),
            Form::Delta { base, .. } if base.is_zero() => {
                Err(ManifestError::Field { what: "it is a delta without a base" })
            }
            Form::Full | Form::Delta { .. } => Ok(()),
        }
    }

    /// The config bundles that the listed items are in. A delta's point needs its base's too.
    #[must_use]
    pub fn config_bundles(&self) -> BTreeSet<BundleId> {
        self.pieces().filter_map(Piece::config_blob).map(|(bundle, _)| bundle).collect()
    }

    /// What the listed items need of the key bundle. The DEKs of the manifest files themselves,
    /// a delta's base included, are needed besides: see [`KeyNeeds::add_file`].
    #[must_use]
    pub fn key_needs(&self) -> KeyNeeds {
        let mut needs = KeyNeeds::default();
        for piece in self.pieces() {
            match *piece {
                Piece::Blob { location: Location::Config { dek, .. }, .. } => {
                    needs.deks.insert(dek);
                }
                Piece::Blob { id, location: Location::Key, .. } => {
                    needs.secrets.insert(id);
                }
                Piece::Hole { .. } => {}
            }
        }
        needs
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.items.iter().flat_map(|item| &item.content)
    }
}

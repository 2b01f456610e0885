//! The serialised form of a manifest: a stream of length-delimited protobuf messages, one head,
//! then the items, then the keys removed. Separate from the domain types, so that bytes become
//! items only here, checked. Bundle ids, DEK ids and sources stand once, in tables of the head.

use std::collections::HashMap;
use std::hash::Hash;

use prost::Message;
use proto_types::{BundleId, DekId, Sequence};

use crate::blob::BlobId;
use crate::manifest::{
    FileTime, Form, Item, ItemKey, ItemKind, Location, Manifest, ManifestError, Piece, Proof,
    ProofState, Totals, Xattr,
};

/// Longest single message: an item of 2^63 bytes would be longer, one of 4 TiB in blobs of 1 MiB
/// is not.
const MAX_MESSAGE_BYTES: u64 = 512 << 20;

#[derive(Clone, PartialEq, Message)]
struct HeadWire {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    key_bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    base: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    bundles: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    deks: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "6")]
    sources: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    proofs: Vec<ProofWire>,
    #[prost(uint64, tag = "8")]
    total_items: u64,
    #[prost(uint64, tag = "9")]
    total_files: u64,
    #[prost(uint64, tag = "10")]
    total_bytes: u64,
    #[prost(uint64, tag = "11")]
    item_count: u64,
    #[prost(uint64, tag = "12")]
    removed_count: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ProofWire {
    #[prost(string, tag = "1")]
    source: String,
    /// 1 proved, 2 unproved, 3 failed.
    #[prost(uint32, tag = "2")]
    state: u32,
    #[prost(string, tag = "3")]
    why: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyWire {
    #[prost(uint32, tag = "1")]
    source: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ItemWire {
    #[prost(uint32, tag = "1")]
    source: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    /// 1 file, 2 directory, 3 symlink.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint32, tag = "4")]
    mode: u32,
    #[prost(uint32, tag = "5")]
    uid: u32,
    #[prost(uint32, tag = "6")]
    gid: u32,
    #[prost(sint64, tag = "7")]
    modified_seconds: i64,
    #[prost(uint32, tag = "8")]
    modified_nanos: u32,
    #[prost(bytes = "vec", tag = "9")]
    link_target: Vec<u8>,
    #[prost(uint64, tag = "10")]
    hard_link: u64,
    #[prost(message, repeated, tag = "11")]
    xattrs: Vec<XattrWire>,
    #[prost(uint64, tag = "12")]
    size: u64,
    #[prost(message, repeated, tag = "13")]
    content: Vec<PieceWire>,
}

#[derive(Clone, PartialEq, Message)]
struct XattrWire {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceWire {
    /// Not zero: a hole of this many bytes, and nothing else is set.
    #[prost(uint64, tag = "1")]
    hole: u64,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(uint32, tag = "3")]
    plain_len: u32,
    /// Place in the table of bundles, from 1; 0 when the blob is in the key bundle.
    #[prost(uint32, tag = "4")]
    bundle: u32,
    /// Place in the table of DEKs, from 0.
    #[prost(uint32, tag = "5")]
    dek: u32,
    #[prost(uint64, tag = "6")]
    offset: u64,
    #[prost(uint32, tag = "7")]
    sealed_len: u32,
}

/// A manifest ready to be written: its head, and the tables that its items refer to.
pub(crate) struct ManifestWriter<'a> {
    manifest: &'a Manifest,
    head: HeadWire,
    bundles: Table<BundleId>,
    deks: Table<DekId>,
    sources: Table<&'a str>,
}

impl<'a> ManifestWriter<'a> {
    pub(crate) fn new(manifest: &'a Manifest) -> Self {
        let (mut bundles, mut deks, mut sources) =
            (Table::default(), Table::default(), Table::default());
        for item in &manifest.items {
            sources.add(item.key.source.as_str());
            for (bundle, blob) in item.content.iter().filter_map(Piece::config_blob) {
                bundles.add(bundle);
                deks.add(blob.dek);
            }
        }
        for key in manifest.form.removed() {
            sources.add(key.source.as_str());
        }
        let base = manifest.form.base();
        let head = HeadWire {
            sequence: manifest.sequence.get(),
            key_bundle: manifest.key_bundle.as_bytes().to_vec(),
            base: if base.is_zero() { Vec::new() } else { base.as_bytes().to_vec() },
            bundles: bundles.list.iter().map(|id| id.as_bytes().to_vec()).collect(),
            deks: deks.list.iter().map(|id| id.as_bytes().to_vec()).collect(),
            sources: sources.list.iter().map(|source| (*source).to_owned()).collect(),
            proofs: manifest.proofs.iter().map(proof_to_wire).collect(),
            total_items: manifest.totals.items,
            total_files: manifest.totals.files,
            total_bytes: manifest.totals.bytes,
            item_count: manifest.items.len() as u64,
            removed_count: manifest.form.removed().len() as u64,
        };
        Self { manifest, head, bundles, deks, sources }
    }

    /// Hands every message's bytes, length included, to `sink`, in order. The same each time.
    pub(crate) fn write<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut scratch = Vec::new();
        let mut put = |message: &dyn EncodeDelimited| {
            scratch.clear();
            message.append(&mut scratch);
            sink(&scratch)
        };
        put(&self.head)?;
        for item in &self.manifest.items {
            put(&self.item_to_wire(item))?;
        }
        for key in self.manifest.form.removed() {
            put(&KeyWire { source: self.sources.place(&&*key.source), path: key.path.clone() })?;
        }
        Ok(())
    }

    fn item_to_wire(&self, item: &Item) -> ItemWire {
        ItemWire {
            source: self.sources.place(&&*item.key.source),
            path: item.key.path.clone(),
            kind: match item.kind {
                ItemKind::File => 1,
                ItemKind::Directory => 2,
                ItemKind::Symlink => 3,
                ItemKind::Object => 4,
                ItemKind::Other(number) => number,
            },
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            modified_seconds: item.modified.seconds,
            modified_nanos: item.modified.nanos,
            link_target: item.link_target.clone(),
            hard_link: item.hard_link.unwrap_or(0),
            xattrs: item
                .xattrs
                .iter()
                .map(|xattr| XattrWire { name: xattr.name.clone(), value: xattr.value.clone() })
                .collect(),
            size: item.size,
            content: item.content.iter().map(|piece| self.piece_to_wire(piece)).collect(),
        }
    }

    fn piece_to_wire(&self, piece: &Piece) -> PieceWire {
        match *piece {
            Piece::Hole { len } => PieceWire { hole: len, ..PieceWire::default() },
            Piece::Blob { id, plain_len, location } => {
                let mut wire =
                    PieceWire { id: id.as_bytes().to_vec(), plain_len, ..PieceWire::default() };
                if let Location::Config { bundle, dek, offset, sealed_len } = location {
                    wire.bundle = self.bundles.place(&bundle) + 1;
                    wire.dek = self.deks.place(&dek);
                    wire.offset = offset;
                    wire.sealed_len = sealed_len;
                }
                wire
            }
        }
    }
}

/// What all messages can do, without their type.
trait EncodeDelimited {
    fn append(&self, out: &mut Vec<u8>);
}

impl<M: Message> EncodeDelimited for M {
    fn append(&self, out: &mut Vec<u8>) {
        self.encode_length_delimited(out).expect("a vector grows as needed");
    }
}

/// Distinct values in the order they were first seen.
struct Table<T> {
    list: Vec<T>,
    places: HashMap<T, u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { list: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Table<T> {
    fn add(&mut self, value: T) {
        let next = u32::try_from(self.list.len()).expect("fewer bundles than 2^32");
        self.places.entry(value).or_insert_with(|| {
            self.list.push(value);
            next
        });
    }
    fn place(&self, value: &T) -> u32 {
        *self.places.get(value).expect("every value was added before")
    }
}

/// Puts a manifest together from its stream, piece by piece.
#[derive(Default)]
pub(crate) struct ManifestReader {
    /// Bytes that are no whole message yet.
    pending: Vec<u8>,
    head: Option<Head>,
    items: Vec<Item>,
    removed: Vec<ItemKey>,
}

struct Head {
    manifest: Manifest,
    bundles: Vec<BundleId>,
    deks: Vec<DekId>,
    sources: Vec<String>,
    items: u64,
    removed: u64,
}

impl ManifestReader {
    /// Takes in the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), ManifestError> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some((message, next)) = split_message(rest)? {
            self.message(message)?;
            rest = next;
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// The manifest, if the stream ended where it should; checked.
    pub(crate) fn finish(self) -> Result<Manifest, ManifestError> {
        let head = self.head.ok_or_else(|| bad("it has no head"))?;
        if !self.pending.is_empty()
            || self.items.len() as u64 != head.items
            || self.removed.len() as u64 != head.removed
        {
            return Err(bad("it ends before its end"));
        }
        let mut manifest = head.manifest;
        manifest.items = self.items;
        match &mut manifest.form {
            Form::Delta { removed, .. } => *removed = self.removed,
            Form::Full if self.removed.is_empty() => {}
            Form::Full => return Err(bad("it is full and yet removes items")),
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn message(&mut self, message: &[u8]) -> Result<(), ManifestError> {
        let Some(head) = &self.head else {
            self.head = Some(Head::from_wire(parse(message)?)?);
            return Ok(());
        };
        if (self.items.len() as u64) < head.items {
            let item = head.item(parse(message)?, self.items.len())?;
            self.items.push(item);
        } else if (self.removed.len() as u64) < head.removed {
            let KeyWire { source, path } = parse(message)?;
            self.removed.push(ItemKey { source: head.source(source)?, path });
        } else {
            return Err(bad("it goes on after its end"));
        }
        Ok(())
    }
}

impl Head {
    fn from_wire(wire: HeadWire) -> Result<Self, ManifestError> {
        let bundle = |bytes: &[u8]| {
            BundleId::from_slice(bytes).map_err(|_| bad("a bundle id has another length"))
        };
        let form = if wire.base.is_empty() {
            Form::Full
        } else {
            Form::Delta { base: bundle(&wire.base)?, removed: Vec::new() }
        };
        let proofs = wire.proofs.into_iter().map(proof_from_wire).collect::<Result<_, _>>()?;
        let totals =
            Totals { items: wire.total_items, files: wire.total_files, bytes: wire.total_bytes };
        let manifest = Manifest {
            sequence: Sequence::new(wire.sequence),
            key_bundle: bundle(&wire.key_bundle)?,
            form,
            items: Vec::new(),
            totals,
            proofs,
        };
        Ok(Self {
            manifest,
            bundles: wire.bundles.iter().map(|id| bundle(id)).collect::<Result<_, _>>()?,
            deks: wire
                .deks
                .iter()
                .map(|id| DekId::from_slice(id).map_err(|_| bad("a DEK id has another length")))
                .collect::<Result<_, _>>()?,
            sources: wire.sources,
            items: wire.item_count,
            removed: wire.removed_count,
        })
    }

    fn source(&self, place: u32) -> Result<String, ManifestError> {
        entry(&self.sources, place).cloned()
    }

    fn item(&self, wire: ItemWire, index: usize) -> Result<Item, ManifestError> {
        let kind = match wire.kind {
            0 => return Err(ManifestError::Item { index, what: "it has no kind" }),
            1 => ItemKind::File,
            2 => ItemKind::Directory,
            3 => ItemKind::Symlink,
            4 => ItemKind::Object,
            number => ItemKind::Other(number),
        };
        Ok(Item {
            key: ItemKey { source: self.source(wire.source)?, path: wire.path },
            kind,
            mode: wire.mode,
            uid: wire.uid,
            gid: wire.gid,
            modified: FileTime { seconds: wire.modified_seconds, nanos: wire.modified_nanos },
            link_target: wire.link_target,
            hard_link: (wire.hard_link != 0).then_some(wire.hard_link),
            xattrs: wire
                .xattrs
                .into_iter()
                .map(|xattr| Xattr { name: xattr.name, value: xattr.value })
                .collect(),
            size: wire.size,
            content: wire
                .content
                .into_iter()
                .map(|piece| self.piece(piece))
                .collect::<Result<_, _>>()?,
        })
    }

    fn piece(&self, wire: PieceWire) -> Result<Piece, ManifestError> {
        if wire.hole != 0 {
            return if wire == (PieceWire { hole: wire.hole, ..PieceWire::default() }) {
                Ok(Piece::Hole { len: wire.hole })
            } else {
                Err(bad("a hole is a blob too"))
            };
        }
        let id = <[u8; BlobId::LEN]>::try_from(&wire.id[..])
            .map_err(|_| bad("a blob id has another length"))?;
        let location = match wire.bundle.checked_sub(1) {
            None => Location::Key,
            Some(place) => Location::Config {
                bundle: *entry(&self.bundles, place)?,
                dek: *entry(&self.deks, wire.dek)?,
                offset: wire.offset,
                sealed_len: wire.sealed_len,
            },
        };
        Ok(Piece::Blob { id: BlobId::from_bytes(id), plain_len: wire.plain_len, location })
    }
}

fn proof_to_wire(proof: &Proof) -> ProofWire {
    let (state, why) = match &proof.state {
        ProofState::Proved => (1, ""),
        ProofState::Unproved(why) => (2, why.as_str()),
        ProofState::Failed(why) => (3, why.as_str()),
    };
    ProofWire { source: proof.source.clone(), state, why: why.to_owned() }
}

fn proof_from_wire(wire: ProofWire) -> Result<Proof, ManifestError> {
    let state = match wire.state {
        1 => ProofState::Proved,
        2 => ProofState::Unproved(wire.why),
        3 => ProofState::Failed(wire.why),
        _ => return Err(bad("a proof has no state")),
    };
    Ok(Proof { source: wire.source, state })
}

/// A message and the bytes that follow it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The first whole message and what follows it, if there is one.
fn split_message(bytes: &[u8]) -> Result<Option<Split<'_>>, ManifestError> {
    let mut rest = bytes;
    let Ok(len) = prost::encoding::decode_varint(&mut rest) else {
        // A varint is at most ten bytes: fewer may still become one.
        return if bytes.len() < 10 { Ok(None) } else { Err(bad("a length does not parse")) };
    };
    if len > MAX_MESSAGE_BYTES {
        return Err(bad("a message is too long"));
    }
    let len = usize::try_from(len).map_err(|_| bad("a message is too long"))?;
    Ok(rest.split_at_checked(len))
}

fn parse<M: Message + Default>(message: &[u8]) -> Result<M, ManifestError> {
    M::decode(message).map_err(|_| bad("a message does not parse"))
}

fn entry<T>(table: &[T], place: u32) -> Result<&T, ManifestError> {
    usize::try_from(place)
        .ok()
        .and_then(|place| table.get(place))
        .ok_or_else(|| bad("a place in a table does not exist"))
}

fn bad(what: &'static str) -> ManifestError {
    ManifestError::Field { what }
}

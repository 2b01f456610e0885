//! Reading and sealing: one thread reads files and writes the bundle, up to two seal. What is in
//! flight is bounded, so memory does not grow with files or their number. Runs as one blocking
//! job; knows nothing of the fleet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bundle::{
    BlobId, BlobRef, BlobSealer, ConfigSealer, Encoding, FileTime, Identity, Item, ItemKey,
    ItemKind, Keyring, Location, Piece, SealedBlob, SealedBundle, Secrets, Xattr,
};
use proto::env::Env;
use proto_types::ClusterId;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::BackupError;
use crate::progress::{Phase, Progress, ProgressEvent};
use crate::sources::{
    Attribute, Entry, EntryKind, PieceData, Place, ReadError, Source, Stat, Trouble,
};

/// Plaintext of one batch.
const BATCH_BYTES: usize = 2 << 20;
/// Blobs of one batch, for small files.
const BATCH_BLOBS: usize = 256;
/// Batches that are sealed or wait for it: with plaintext and sealed bytes some 20 MiB.
const BATCHES_IN_FLIGHT: usize = 4;
/// A file that changes while it is read is read so often.
const READS_MAX: u32 = 3;
/// Secrets are held in memory and fetched with every restore.
const SECRET_BYTES_MAX: u64 = 64 << 20;

/// What was read of one entry.
pub(crate) struct Collected {
    /// The entry, its `stat` as of when it was read.
    pub(crate) entry: Entry,
    attributes: Vec<Attribute>,
    link_target: Vec<u8>,
    pieces: Vec<Pending>,
}

/// A piece whose place is known only when the bundle is finished.
#[derive(Clone, Copy)]
enum Pending {
    /// Not sealed yet.
    Waiting,
    Hole(u64),
    Secret {
        id: BlobId,
        plain_len: u32,
    },
    Blob(BlobId),
}

/// Blobs that need no sealing, because the point before has them in a bundle that stays.
pub(crate) type KnownBlobs = HashMap<BlobId, Piece>;

/// What sealing needs.
pub(crate) struct SealInput {
    pub(crate) env: Env,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) identity: Identity,
    pub(crate) known: Arc<KnownBlobs>,
    /// Where the bundle is written, if anything has to be.
    pub(crate) spool: PathBuf,
    pub(crate) progress: Arc<dyn Progress>,
    /// Bytes that are to be read, as listed.
    pub(crate) bytes_total: u64,
    /// How secret content goes: into the key bundle, or padded into the config bundle.
    pub(crate) secrets_apart: bool,
}

/// What sealing made.
pub(crate) struct SealOutput {
    /// The finished config bundle with its file; none when nothing new was to be sealed.
    pub(crate) bundle: Option<(SealedBundle, PathBuf)>,
    /// Per source, in the order given: what was read.
    pub(crate) collected: Vec<Vec<Collected>>,
    /// Per source: what could not be read.
    pub(crate) troubles: Vec<Vec<(Trouble, Vec<u8>)>>,
    /// The secrets that were read.
    pub(crate) secrets: Secrets,
    places: HashMap<BlobId, BlobRef>,
    known: Arc<KnownBlobs>,
}

impl SealOutput {
    /// The manifest's item of what was collected.
    pub(crate) fn item(&self, source: &str, collected: &Collected) -> Result<Item, BackupError> {
        let entry = &collected.entry;
        let content = collected
            .pieces
            .iter()
            .map(|piece| self.place(*piece))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Item {
            key: ItemKey { source: source.to_owned(), path: entry.path.clone() },
            kind: match entry.kind {
                EntryKind::File => ItemKind::File,
                EntryKind::Object => ItemKind::Object,
                EntryKind::Directory => ItemKind::Directory,
                EntryKind::Symlink => ItemKind::Symlink,
            },
            mode: entry.stat.mode,
            uid: entry.stat.uid,
            gid: entry.stat.gid,
            modified: FileTime {
                seconds: entry.stat.modified.seconds,
                nanos: entry.stat.modified.nanoseconds,
            },
            link_target: collected.link_target.clone(),
            hard_link: hard_link(entry.kind, &entry.stat),
            xattrs: collected
                .attributes
                .iter()
                .map(|a| Xattr { name: a.name.clone(), value: a.value.clone() })
                .collect(),
            size: content.iter().map(Piece::plain_len).sum(),
            content,
        })
    }

    fn place(&self, piece: Pending) -> Result<Piece, BackupError> {
        match piece {
            Pending::Hole(len) => Ok(Piece::Hole { len }),
            Pending::Secret { id, plain_len } => {
                Ok(Piece::Blob { id, plain_len, location: Location::Key })
            }
            Pending::Blob(id) => {
                if let Some(known) = self.known.get(&id) {
                    return Ok(*known);
                }
                let (bundle, blob) =
                    self.bundle.as_ref().zip(self.places.get(&id)).ok_or(BackupError::Lost)?;
                Ok(Piece::in_config(bundle.0.id, blob))
            }
            Pending::Waiting => Err(BackupError::Lost),
        }
    }
}

/// The number that names of one file share: stable from backup to backup, so that an unchanged
/// link stays unchanged.
fn hard_link(kind: EntryKind, stat: &Stat) -> Option<u64> {
    if kind != EntryKind::File || stat.links < 2 {
        return None;
    }
    let digest = Sha256::digest([stat.device.to_le_bytes(), stat.inode.to_le_bytes()].concat());
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    // Zero means none.
    Some(u64::from_le_bytes(number).max(1))
}

/// Reads and seals the given entries of each source.
pub(crate) fn seal(
    input: &SealInput,
    sources: &[(Arc<dyn Source>, Vec<Entry>)],
) -> Result<SealOutput, BackupError> {
    let keyring = input.keyring.clone();
    let (sender, receiver) = sync_channel(BATCHES_IN_FLIGHT);
    let mut line = Line {
        input,
        keyring: &keyring,
        collected: sources.iter().map(|_| Vec::new()).collect(),
        troubles: sources.iter().map(|_| Vec::new()).collect(),
        secrets: Secrets::new(),
        secret_bytes: 0,
        batch: Vec::new(),
        batch_bytes: 0,
        next_batch: 0,
        next_append: 0,
        early: BTreeMap::new(),
        claimed: Arc::default(),
        sender,
        receiver,
        sealer: None,
        places: HashMap::new(),
        event: ProgressEvent {
            bytes_total: input.bytes_total,
            items_changed: sources.iter().map(|(_, entries)| entries.len() as u64).sum(),
            ..ProgressEvent::begin(Phase::Sealing)
        },
    };
    for (index, (source, entries)) in sources.iter().enumerate() {
        for entry in entries {
            line.read(index, &**source, entry)?;
        }
    }
    line.finish()
}

/// Which piece of which entry a blob is.
#[derive(Clone, Copy)]
struct Slot {
    source: usize,
    item: usize,
    piece: usize,
    /// Which reading of the entry; older ones do not count.
    reading: u32,
}

struct Job {
    slot: Slot,
    bytes: Zeroizing<Vec<u8>>,
    encoding: Encoding,
}

struct Done {
    slot: Slot,
    id: BlobId,
    /// `None`: known, or sealed by another job.
    sealed: Option<SealedBlob>,
}

type Batch = (u64, Result<Vec<Done>, bundle::SealError>);

struct Line<'a> {
    input: &'a SealInput,
    keyring: &'a Arc<Keyring>,
    collected: Vec<Vec<(Collected, u32)>>,
    troubles: Vec<Vec<(Trouble, Vec<u8>)>>,
    secrets: Secrets,
    secret_bytes: u64,
    batch: Vec<Job>,
    batch_bytes: usize,
    /// Number of the batch to be sent next.
    next_batch: u64,
    /// Number of the batch to be appended next: neighbours in the tree stay neighbours in the
    /// bundle, which makes restoring a directory few reads.
    next_append: u64,
    early: BTreeMap<u64, Vec<Done>>,
    /// Blobs that some job seals, so that no other does.
    claimed: Arc<Mutex<HashSet<BlobId>>>,
    sender: SyncSender<Batch>,
    receiver: Receiver<Batch>,
    sealer: Option<ConfigSealer<'a, BufWriter<File>>>,
    places: HashMap<BlobId, BlobRef>,
    event: ProgressEvent,
}

impl Line<'_> {
    fn read(
        &mut self,
        index: usize,
        source: &dyn Source,
        entry: &Entry,
    ) -> Result<(), BackupError> {
        let item = self.collected[index].len();
        let collected = Collected {
            entry: entry.clone(),
            attributes: Vec::new(),
            link_target: Vec::new(),
            pieces: Vec::new(),
        };
        self.collected[index].push((collected, 0));
        let result = match entry.kind {
            EntryKind::File | EntryKind::Object => self.read_file(index, item, source, entry)?,
            EntryKind::Directory => Ok(()),
            EntryKind::Symlink => source.link_target(entry).map(|target| {
                self.collected[index][item].0.link_target = target;
            }),
        };
        let result = result.map(|()| {
            if entry.kind == EntryKind::Directory {
                match source.attributes(entry) {
                    Ok(found) => self.collected[index][item].0.attributes = found,
                    Err(_) => self.trouble(index, Trouble::AttributesUnreadable, entry),
                }
            }
        });
        if let Err(error) = result {
            // Its place stays, so that slots of other entries do not move; it is left out later.
            self.collected[index][item].1 = u32::MAX;
            if error != ReadError::Vanished {
                self.trouble(index, Trouble::Unreadable, entry);
            }
        }
        self.event.items += 1;
        self.input.progress.on(self.event);
        Ok(())
    }

    fn trouble(&mut self, index: usize, trouble: Trouble, entry: &Entry) {
        self.troubles[index].push((trouble, entry.path.clone()));
    }

    /// Reads one file, again if it changes meanwhile. The inner error is of the file, the outer
    /// one ends the backup.
    fn read_file(
        &mut self,
        source_index: usize,
        item: usize,
        source: &dyn Source,
        entry: &Entry,
    ) -> Result<Result<(), ReadError>, BackupError> {
        for reading in 1..=READS_MAX {
            let mut content = match source.open(entry) {
                Ok(content) => content,
                Err(error) => return Ok(Err(error)),
            };
            {
                let (collected, current) = &mut self.collected[source_index][item];
                *current = reading;
                collected.pieces.clear();
                collected.entry.stat = *content.stat();
            }
            let mut piece = 0;
            let mut under_fixed_key = false;
            loop {
                let data = match content.next_piece() {
                    Ok(Some(data)) => data,
                    Ok(None) => break,
                    Err(error) => return Ok(Err(error)),
                };
                let slot = Slot { source: source_index, item, piece, reading };
                let fixed = match (&data, source.fixed_key()) {
                    (PieceData::Bytes(bytes), Some(vendor)) => vendor.is_in(entry, bytes),
                    _ => false,
                };
                if fixed && !std::mem::replace(&mut under_fixed_key, true) && reading == 1 {
                    self.trouble(source_index, Trouble::FixedKey, entry);
                }
                let place = if fixed { Place::KeyBundle } else { entry.place };
                let pending = self.take(slot, data, place)?;
                self.collected[source_index][item].0.pieces.push(pending);
                piece += 1;
            }
            match content.attributes() {
                Ok(found) => self.collected[source_index][item].0.attributes = found,
                Err(_) => self.trouble(source_index, Trouble::AttributesUnreadable, entry),
            }
            match content.stood_still() {
                Ok(true) => return Ok(Ok(())),
                Ok(false) if reading < READS_MAX => {}
                Ok(false) => self.trouble(source_index, Trouble::ChangedWhileRead, entry),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    fn take(&mut self, slot: Slot, data: PieceData, place: Place) -> Result<Pending, BackupError> {
        let bytes = match data {
            PieceData::Hole(len) => {
                self.event.bytes_done += len;
                return Ok(Pending::Hole(len));
            }
            PieceData::Bytes(bytes) => bytes,
        };
        self.event.bytes_done += bytes.len() as u64;
        if place == Place::KeyBundle && self.input.secrets_apart {
            self.secret_bytes += bytes.len() as u64;
            if self.secret_bytes > SECRET_BYTES_MAX {
                return Err(BackupError::SecretsTooLarge { limit: SECRET_BYTES_MAX });
            }
            let plain_len = plain_len(&bytes)?;
            let id = self.secrets.insert(self.keyring, &bytes);
            return Ok(Pending::Secret { id, plain_len });
        }
        self.batch_bytes += bytes.len();
        let encoding = match place {
            Place::Config => Encoding::Compress,
            Place::Secret | Place::KeyBundle => Encoding::Secret,
        };
        self.batch.push(Job { slot, bytes, encoding });
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOBS {
            self.send()?;
        }
        Ok(Pending::Waiting)
    }

    fn send(&mut self) -> Result<(), BackupError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.next_batch - self.next_append >= BATCHES_IN_FLIGHT as u64 {
            self.receive()?;
        }
        let jobs = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let number = self.next_batch;
        self.next_batch += 1;
        let worker = Worker {
            keyring: self.keyring.clone(),
            identity: self.input.identity,
            known: self.input.known.clone(),
            claimed: self.claimed.clone(),
            env: self.input.env.clone(),
        };
        let sender = self.sender.clone();
        self.input.env.spawn.blocking(
            "seal blobs",
            Box::new(move || {
                // The channel has room for every batch in flight. If the backup has ended, its
                // batches no longer matter.
                let _ = sender.send((number, worker.seal(jobs)));
            }),
        );
        Ok(())
    }

    fn receive(&mut self) -> Result<(), BackupError> {
        let (number, batch) = self.receiver.recv().map_err(|_| BackupError::Lost)?;
        self.early.insert(number, batch?);
        while let Some(batch) = self.early.remove(&self.next_append) {
            self.next_append += 1;
            for done in batch {
                self.append(&done)?;
            }
        }
        self.input.progress.on(self.event);
        Ok(())
    }

    fn append(&mut self, done: &Done) -> Result<(), BackupError> {
        let Slot { source, item, piece, reading } = done.slot;
        let (collected, current) = &mut self.collected[source][item];
        if *current == reading
            && let Some(pending) = collected.pieces.get_mut(piece)
        {
            *pending = Pending::Blob(done.id);
        }
        let Some(sealed) = &done.sealed else { return Ok(()) };
        let sealer = match &mut self.sealer {
            Some(sealer) => sealer,
            None => {
                let file = crate::home::create_private(&self.input.spool)?;
                let writer = BufWriter::with_capacity(1 << 20, file);
                let sealer = ConfigSealer::new(writer, self.keyring, self.input.identity)?;
                self.sealer.insert(sealer)
            }
        };
        let place = sealer.append(sealed)?;
        self.places.insert(sealed.id(), place);
        Ok(())
    }

    fn finish(mut self) -> Result<SealOutput, BackupError> {
        self.send()?;
        while self.next_append < self.next_batch {
            self.receive()?;
        }
        let bundle = match self.sealer {
            Some(sealer) => {
                // Not synced: after a crash the spool is cleared, and nothing refers to it.
                let (sealed, _file) = sealer.finish()?;
                Some((sealed, self.input.spool.clone()))
            }
            None => None,
        };
        let whole = |items: Vec<(Collected, u32)>| {
            items.into_iter().filter(|(_, r)| *r != u32::MAX).map(|(item, _)| item).collect()
        };
        Ok(SealOutput {
            bundle,
            collected: self.collected.into_iter().map(whole).collect(),
            troubles: self.troubles,
            secrets: self.secrets,
            places: self.places,
            known: self.input.known.clone(),
        })
    }
}

struct Worker {
    keyring: Arc<Keyring>,
    identity: Identity,
    known: Arc<KnownBlobs>,
    claimed: Arc<Mutex<HashSet<BlobId>>>,
    env: Env,
}

impl Worker {
    fn seal(&self, jobs: Vec<Job>) -> Result<Vec<Done>, bundle::SealError> {
        let cluster: ClusterId = self.identity.cluster;
        let mut sealer = BlobSealer::new(&self.keyring, self.identity.fleet, cluster);
        jobs.into_iter()
            .map(|job| {
                let blob = self.keyring.identify(&job.bytes);
                let id = blob.id();
                let new = !self.known.contains_key(&id)
                    && self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                let sealed = if new {
                    Some(sealer.seal(&blob, job.encoding, &*self.env.random)?)
                } else {
                    None
                };
                Ok(Done { slot: job.slot, id, sealed })
            })
            .collect()
    }
}

fn plain_len(bytes: &[u8]) -> Result<u32, BackupError> {
    u32::try_from(bytes.len()).map_err(|_| BackupError::Lost)
}

#[cfg(test)]
#[path = "fixed_key_tests.rs"]
mod fixed_key_tests;

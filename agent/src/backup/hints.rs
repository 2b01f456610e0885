//! The agent's memory of what `stat` said of the items it last sent, in sled: small values, never
//! the only copy of anything. It is bound to the manifest it was made for; any other one, damage or
//! loss costs one reading of the sources and nothing else. A point that is equal to the one before
//! has its manifest, and writes nothing here. Names are kept as hashes only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::Duration;

use backon::{BlockingRetryable, ConstantBuilder};
use bundle::{Item, ItemKey};
use proto_types::BundleId;
use sha2::{Digest, Sha256};

use crate::sources::{Stat, Timestamp};

/// Between two tries at a store that is still locked.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const CACHE_BYTES: u64 = 4 << 20;
const MANIFEST_KEY: &[u8] = b"manifest";
const HINT_BYTES: usize = 44;
const NAME_BYTES: usize = 16;
/// Hints are kept in so many values, by the first bits of their names' hashes: sled takes some
/// 4 KiB of memory for each small value that is written (20,000 of them were 85 MiB).
const BUCKET_BITS: u32 = 9;

/// What is compared to tell that an entry did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    size: u64,
    mode: u32,
    modified: Timestamp,
    changed: Timestamp,
    inode: u64,
}

impl Hint {
    /// The part of a `stat` that moves with every change.
    pub(crate) const fn of(stat: &Stat) -> Self {
        Self {
            size: stat.size,
            mode: stat.mode,
            modified: stat.modified,
            changed: stat.changed,
            inode: stat.inode,
        }
    }

    fn encode(&self) -> [u8; HINT_BYTES] {
        let mut out = [0; HINT_BYTES];
        out[..8].copy_from_slice(&self.size.to_le_bytes());
        out[8..12].copy_from_slice(&self.mode.to_le_bytes());
        out[12..20].copy_from_slice(&self.modified.seconds.to_le_bytes());
        out[20..24].copy_from_slice(&self.modified.nanoseconds.to_le_bytes());
        out[24..32].copy_from_slice(&self.changed.seconds.to_le_bytes());
        out[32..36].copy_from_slice(&self.changed.nanoseconds.to_le_bytes());
        out[36..].copy_from_slice(&self.inode.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HINT_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Some(Self {
            size: word(0),
            mode: half(8),
            modified: Timestamp { seconds: word(12).cast_signed(), nanoseconds: half(20) },
            changed: Timestamp { seconds: word(24).cast_signed(), nanoseconds: half(32) },
            inode: word(36),
        })
    }
}

/// The store of hints.
pub(crate) struct Hints {
    db: sled::Db,
}

impl Hints {
    /// Opens the store; one that cannot be read is thrown away.
    pub(crate) fn open(path: &Path) -> Result<Self, sled::Error> {
        let open = || {
            sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .open()
        };
        // A store that was closed a moment ago may still be locked by its last thread.
        let patience = ConstantBuilder::default().with_delay(LOCK_PAUSE).with_max_times(100);
        let opened = open.retry(patience).when(|error| matches!(error, sled::Error::Io(_))).call();
        let db = match opened {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(%error, "the cache cannot be read: everything will be read again");
                std::fs::remove_dir_all(path)?;
                open()?
            }
        };
        Ok(Self { db })
    }

    /// The hints of these items, in their order, if they were made for this manifest.
    pub(crate) fn load(
        &self,
        manifest: BundleId,
        items: &[Item],
    ) -> Result<Vec<Option<Hint>>, sled::Error> {
        if self.db.get(MANIFEST_KEY)?.as_deref() != Some(&manifest.as_bytes()[..]) {
            return Ok(vec![None; items.len()]);
        }
        let mut known = BTreeMap::new();
        for bucket in 0..1_u16 << BUCKET_BITS {
            known.extend(self.bucket(bucket)?);
        }
        Ok(items.iter().map(|item| known.get(&name(&item.key)).copied()).collect())
    }

    /// Notes the manifest that was acknowledged, with what changed since the one before. One batch:
    /// hints and manifest belong together. What is there of another one, or where there was none
    /// before, is of files as nobody knows them: it is forgotten first.
    pub(crate) fn note<'a>(
        &self,
        since: Option<BundleId>,
        manifest: BundleId,
        changed: impl Iterator<Item = (&'a ItemKey, Option<Hint>)>,
    ) -> Result<(), sled::Error> {
        if self.db.get(MANIFEST_KEY)?.as_deref() != since.as_ref().map(|id| &id.as_bytes()[..]) {
            self.db.clear()?;
        }
        let mut buckets: BTreeMap<u16, Bucket> = BTreeMap::new();
        for (item, hint) in changed {
            let name = name(item);
            let number = u16::from_be_bytes([name[0], name[1]]) >> (u16::BITS - BUCKET_BITS);
            let bucket = match buckets.entry(number) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.bucket(number)?),
            };
            match hint {
                Some(hint) => bucket.insert(name, hint),
                None => bucket.remove(&name),
            };
        }
        let mut batch = sled::Batch::default();
        for (number, bucket) in buckets {
            let mut value = Vec::with_capacity(bucket.len() * (NAME_BYTES + HINT_BYTES));
            for (name, hint) in bucket {
                value.extend_from_slice(&name);
                value.extend_from_slice(&hint.encode());
            }
            batch.insert(&number.to_be_bytes()[..], value);
        }
        batch.insert(MANIFEST_KEY, &manifest.as_bytes()[..]);
        self.db.apply_batch(batch)
    }

    fn bucket(&self, number: u16) -> Result<Bucket, sled::Error> {
        let value = self.db.get(number.to_be_bytes())?.unwrap_or_default();
        let entry = |bytes: &[u8]| {
            let (name, hint) = bytes.split_first_chunk::<NAME_BYTES>()?;
            Some((*name, Hint::decode(hint)?))
        };
        Ok(value.chunks(NAME_BYTES + HINT_BYTES).filter_map(entry).collect())
    }
}

type Name = [u8; NAME_BYTES];
type Bucket = BTreeMap<Name, Hint>;

fn name(item: &ItemKey) -> Name {
    let mut hash = Sha256::new();
    hash.update(item.source.as_bytes());
    hash.update([0]);
    hash.update(&item.path);
    let digest = hash.finalize();
    let mut name = [0; NAME_BYTES];
    name.copy_from_slice(&digest[..NAME_BYTES]);
    name
}

#[cfg(test)]
mod tests {
    use bundle::{FileTime, ItemKind};

    use super::*;

    fn item(path: &str) -> Item {
        Item {
            key: ItemKey { source: "directory".into(), path: path.as_bytes().to_vec() },
            kind: ItemKind::Directory,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: FileTime::default(),
            link_target: vec![],
            hard_link: None,
            xattrs: vec![],
            size: 0,
            content: vec![],
        }
    }

    const HINT: Hint = Hint {
        size: 1,
        mode: 0o644,
        modified: Timestamp { seconds: -5, nanoseconds: 6 },
        changed: Timestamp { seconds: 7, nanoseconds: 8 },
        inode: u64::MAX,
    };

    #[test]
    fn hints_count_only_for_the_manifest_they_were_made_for() {
        let temp = tempfile::tempdir().unwrap();
        let head = BundleId::from_bytes([4; 32]);
        let items = [item("a"), item("b")];
        {
            let hints = Hints::open(temp.path()).unwrap();
            assert_eq!(hints.load(head, &items).unwrap(), [None, None]);
            let changed = [(&items[0].key, Some(HINT)), (&items[1].key, Some(HINT))];
            hints.note(None, head, changed.into_iter()).unwrap();
            hints.note(Some(head), head, [(&items[1].key, None)].into_iter()).unwrap();
        }
        let hints = Hints::open(temp.path()).unwrap();
        assert_eq!(hints.load(head, &items).unwrap(), [Some(HINT), None]);
        let (other, forked) = (BundleId::from_bytes([5; 32]), BundleId::ZERO);
        assert_eq!(hints.load(forked, &items).unwrap(), [None, None]);
        // Noted on top of another head, the old ones must not come back under the new one.
        hints.note(Some(other), forked, [(&items[1].key, Some(HINT))].into_iter()).unwrap();
        assert_eq!(hints.load(forked, &items).unwrap(), [None, Some(HINT)]);
    }
}

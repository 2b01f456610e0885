//! Bundles as objects: `ab/cd/<sha256>-<generation>` below the bucket's prefix, bad copies in
//! `quarantine/`. The generation is the log index under which the object was announced, so that no
//! name is ever used twice: a deletion that arrives late, from a leader that is none any more,
//! meets nothing that anybody needs (decision 0008).
//!
//! No object has its name before its bytes were compared with it; and an upload ends only after
//! the object was read back whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_types::{BundleId, LogIndex};
use sha2::{Digest, Sha256};

use super::{BundleError, BundleStore, HeldBundle, Space};
use crate::bucket::{Bucket, BucketError, ObjectWriter, PART_BYTES, Put};

const QUARANTINE: &str = "quarantine";

/// Bundles in a bucket, of one generation; [`BucketBundleStore::of`] gives the same of another.
/// Uploads live in this process only: what a process that died had sent is not resumed.
#[derive(Debug, Clone)]
pub struct BucketBundleStore {
    bucket: Bucket,
    generation: LogIndex,
    uploads: Arc<Mutex<Uploads>>,
}

type Uploads = HashMap<(BundleId, LogIndex), Arc<Mutex<Upload>>>;

#[derive(Debug)]
struct Upload {
    sink: Sink,
    bytes: u64,
    hash: Sha256,
    /// Finished or given up while somebody waited for the lock.
    is_over: bool,
}

/// Where the bytes go: what fits in one request waits for its end.
#[derive(Debug)]
enum Sink {
    Whole(Vec<u8>),
    Parts(Option<ObjectWriter>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(id: &BundleId) -> impl Fn(BucketError) -> BundleError {
    let id = *id;
    move |source| {
        if source.is_not_found() {
            BundleError::NotFound { id }
        } else {
            BundleError::Bucket { source: Box::new(source) }
        }
    }
}

impl BucketBundleStore {
    /// Bundles in this bucket.
    #[must_use]
    pub fn new(bucket: Bucket, generation: LogIndex) -> Self {
        Self { bucket, generation, uploads: Arc::default() }
    }

    /// The same bucket, with the names of another generation.
    #[must_use]
    pub fn of(&self, generation: LogIndex) -> Self {
        Self { generation, ..self.clone() }
    }

    /// The bucket.
    #[must_use]
    pub const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Every object that has the name of a bundle, of all generations: for reports.
    ///
    /// # Errors
    /// As the store reports it.
    pub fn objects(&self) -> Result<Vec<(HeldBundle, LogIndex)>, BundleError> {
        let listed = self.bucket.list("").map_err(failed(&BundleId::ZERO))?;
        Ok(listed
            .into_iter()
            .filter_map(|object| {
                let (id, generation) = named(object.name.rsplit('/').next()?)?;
                (object.name == name(&id, generation))
                    .then_some((HeldBundle { id, bytes: object.bytes }, generation))
            })
            .collect())
    }

    /// The uploads of all generations that were begun by this process and not ended.
    #[must_use]
    pub fn begun(&self) -> Vec<(BundleId, LogIndex)> {
        lock(&self.uploads).keys().copied().collect()
    }

    fn name(&self, id: &BundleId) -> String {
        name(id, self.generation)
    }

    fn quarantine_name(&self, id: &BundleId) -> String {
        format!("{QUARANTINE}/{id}-{}", self.generation)
    }

    fn upload(&self, id: &BundleId) -> Option<Arc<Mutex<Upload>>> {
        lock(&self.uploads).get(&(*id, self.generation)).map(Arc::clone)
    }

    fn begin_new(
        &self,
        id: &BundleId,
        expected_bytes: u64,
    ) -> Result<Arc<Mutex<Upload>>, BundleError> {
        let sink = if expected_bytes <= PART_BYTES as u64 {
            Sink::Whole(Vec::new())
        } else {
            Sink::Parts(Some(self.bucket.writer(&self.name(id)).map_err(failed(id))?))
        };
        let upload = Upload { sink, bytes: 0, hash: Sha256::new(), is_over: false };
        let upload = Arc::new(Mutex::new(upload));
        let mut uploads = lock(&self.uploads);
        Ok(Arc::clone(uploads.entry((*id, self.generation)).or_insert(upload)))
    }

    fn forget(&self, id: &BundleId, upload: &mut Upload) {
        upload.is_over = true;
        lock(&self.uploads).remove(&(*id, self.generation));
        if let Sink::Parts(writer) = &mut upload.sink
            && let Some(writer) = writer.take()
        {
            writer.abort();
        }
    }

    fn held(&self, id: &BundleId, expected: u64) -> Result<(), BundleError> {
        match self.size(id)? {
            Some(have) if have == expected => Ok(()),
            Some(have) => Err(BundleError::WrongLength { id: *id, have, expected }),
            None => Err(BundleError::NotBegun { id: *id }),
        }
    }

    /// Everything is there and compared: the object gets its name.
    fn publish(&self, id: &BundleId, sink: &mut Sink) -> Result<(), BundleError> {
        match sink {
            Sink::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                match self.bucket.put_new(&self.name(id), bytes.clone()).map_err(failed(id))? {
                    Put::Created => Ok(()),
                    // Ours, of a request whose answer was lost, or a bad one: then it makes room.
                    Put::Existed => match self.verify(id) {
                        Err(BundleError::Damaged { .. }) => {
                            self.quarantine(id)?;
                            self.bucket.put_new(&self.name(id), bytes).map_err(failed(id)).map(drop)
                        }
                        verified => verified,
                    },
                }
            }
            // Over whatever is there: under this name there is nothing but these bytes.
            Sink::Parts(writer) => match writer.take() {
                Some(writer) => writer.finish().map_err(failed(id)),
                None => Err(BundleError::NotBegun { id: *id }),
            },
        }
    }
}

fn name(id: &BundleId, generation: LogIndex) -> String {
    let hex = id.to_string();
    format!("{}/{}/{hex}-{generation}", &hex[..2], &hex[2..4])
}

fn named(file: &str) -> Option<(BundleId, LogIndex)> {
    let (id, generation) = file.split_once('-')?;
    Some((id.parse().ok()?, LogIndex::new(generation.parse().ok()?)))
}

impl BundleStore for BucketBundleStore {
    fn begin(&self, id: &BundleId, expected_bytes: u64) -> Result<u64, BundleError> {
        loop {
            let upload = match self.upload(id) {
                Some(upload) => upload,
                None => match self.size(id)? {
                    Some(bytes) => return Ok(bytes),
                    None => self.begin_new(id, expected_bytes)?,
                },
            };
            let mut upload = lock(&upload);
            if upload.is_over {
                continue;
            }
            if upload.bytes > expected_bytes {
                // Left by somebody who was mistaken about its length.
                self.forget(id, &mut upload);
                continue;
            }
            return Ok(upload.bytes);
        }
    }

    fn write(&self, id: &BundleId, offset: u64, bytes: &[u8]) -> Result<(), BundleError> {
        let upload = self.upload(id).ok_or(BundleError::NotBegun { id: *id })?;
        let mut upload = lock(&upload);
        if upload.is_over {
            return Err(BundleError::NotBegun { id: *id });
        }
        if offset != upload.bytes {
            return Err(BundleError::WrongOffset { id: *id, have: upload.bytes, offset });
        }
        let written = match &mut upload.sink {
            Sink::Whole(whole) if whole.len() + bytes.len() <= PART_BYTES => {
                whole.extend_from_slice(bytes);
                Ok(())
            }
            // Longer than announced when it was begun: it begins again, as what it is.
            Sink::Whole(_) => {
                let have = upload.bytes;
                self.forget(id, &mut upload);
                return Err(BundleError::WrongLength {
                    id: *id,
                    have,
                    expected: PART_BYTES as u64,
                });
            }
            Sink::Parts(Some(writer)) => writer.put(bytes),
            Sink::Parts(None) => return Err(BundleError::NotBegun { id: *id }),
        };
        if let Err(error) = written {
            // Nobody knows which parts arrived: from the beginning.
            self.forget(id, &mut upload);
            return Err(failed(id)(error));
        }
        upload.bytes += bytes.len() as u64;
        upload.hash.update(bytes);
        Ok(())
    }

    fn finish(&self, id: &BundleId, expected_bytes: u64) -> Result<(), BundleError> {
        let Some(upload) = self.upload(id) else { return self.held(id, expected_bytes) };
        let mut upload = lock(&upload);
        if upload.is_over {
            return self.held(id, expected_bytes);
        }
        if upload.bytes != expected_bytes {
            let have = upload.bytes;
            if have > expected_bytes {
                self.forget(id, &mut upload);
            }
            return Err(BundleError::WrongLength { id: *id, have, expected: expected_bytes });
        }
        let found = BundleId::from_bytes(upload.hash.clone().finalize().into());
        if found != *id {
            self.forget(id, &mut upload);
            return Err(BundleError::WrongDigest { id: *id, found });
        }
        let published = self.publish(id, &mut upload.sink);
        self.forget(id, &mut upload);
        published?;
        // What the store gives back is what counts, not what it said to have taken.
        if let Err(error) = self.verify(id) {
            if matches!(error, BundleError::Damaged { .. }) {
                self.quarantine(id)?;
            }
            return Err(error);
        }
        // Replaced by a good one, if there was one.
        self.bucket.delete(&self.quarantine_name(id)).map_err(failed(id))
    }

    fn abandon(&self, id: &BundleId) -> Result<(), BundleError> {
        if let Some(upload) = self.upload(id) {
            self.forget(id, &mut lock(&upload));
        }
        Ok(())
    }

    fn partials(&self) -> Result<Vec<HeldBundle>, BundleError> {
        let uploads: Vec<_> = lock(&self.uploads)
            .iter()
            .filter(|((_, generation), _)| *generation == self.generation)
            .map(|((id, _), upload)| (*id, Arc::clone(upload)))
            .collect();
        let mut partials: Vec<HeldBundle> = uploads
            .into_iter()
            .map(|(id, upload)| HeldBundle { id, bytes: lock(&upload).bytes })
            .collect();
        partials.sort();
        Ok(partials)
    }

    fn size(&self, id: &BundleId) -> Result<Option<u64>, BundleError> {
        self.bucket.size(&self.name(id)).map_err(failed(id))
    }

    fn read(&self, id: &BundleId) -> Result<Vec<u8>, BundleError> {
        let size = self.size(id)?.ok_or(BundleError::NotFound { id: *id })?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = self.bucket.read_range(&self.name(id), 0, size).map_err(failed(id))?;
        let found = BundleId::of(&bytes);
        if found == *id { Ok(bytes) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn read_range(
        &self,
        id: &BundleId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BundleError> {
        self.bucket.read_range(&self.name(id), offset, bytes_max).map_err(failed(id))
    }

    fn verify(&self, id: &BundleId) -> Result<(), BundleError> {
        let (digest, _) = self.bucket.digest(&self.name(id)).map_err(failed(id))?;
        let found = BundleId::from_bytes(digest);
        if found == *id { Ok(()) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn delete(&self, id: &BundleId) -> Result<(), BundleError> {
        self.bucket.delete(&self.name(id)).map_err(failed(id))
    }

    fn list(&self) -> Result<Vec<HeldBundle>, BundleError> {
        let objects = self.objects()?.into_iter();
        let of_this = objects.filter(|(_, generation)| *generation == self.generation);
        Ok(of_this.map(|(held, _)| held).collect())
    }

    fn quarantine(&self, id: &BundleId) -> Result<(), BundleError> {
        let name = self.name(id);
        self.bucket.copy(&name, &self.quarantine_name(id)).map_err(failed(id))?;
        self.bucket.delete(&name).map_err(failed(id))
    }

    fn quarantined(&self) -> Result<Vec<HeldBundle>, BundleError> {
        let listed = self.bucket.list(QUARANTINE).map_err(failed(&BundleId::ZERO))?;
        Ok(listed
            .into_iter()
            .filter_map(|object| {
                let (id, generation) = named(object.name.rsplit('/').next()?)?;
                (generation == self.generation).then_some(HeldBundle { id, bytes: object.bytes })
            })
            .collect())
    }

    fn space(&self) -> Result<Space, BundleError> {
        // A bucket has no end that anybody could ask for.
        Ok(Space { free_bytes: u64::MAX, reserve_bytes: 0 })
    }
}

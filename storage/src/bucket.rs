//! An object store: S3, Google Cloud Storage, Azure Blob Storage, or a directory. What bundles
//! and scheduled snapshots are put into; it knows neither. Blocking, over the runtime that is
//! handed in: call it on a thread that may block.
//!
//! Long objects are read in pieces, each a request of its own, so that every request has a bounded
//! length and is tried again by itself.

mod open;
mod transfer;

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use proto_types::Code;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

pub use open::{BucketSettings, SettingsError};
pub use transfer::{ObjectReader, ObjectWriter};

/// Bytes of one part of a long upload, and of one piece of a long read.
pub const PART_BYTES: usize = 8 << 20;
/// Of an error of the store, which may quote a whole answer.
const REASON_BYTES_MAX: usize = 400;

/// Where objects are kept: a store and a prefix that all names begin with. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Handle,
    shown: Arc<str>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.shown).finish()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What a conditional put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The name was free, and the object is there now.
    Created,
    /// There is an object of this name already, and it was left alone.
    Existed,
}

/// An object, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name below the prefix.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Why something could not be done with an object.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {name} in {bucket}: {}", reason(source))]
pub struct BucketError {
    action: &'static str,
    name: String,
    bucket: String,
    source: Box<object_store::Error>,
}

/// What the store said, cut where it goes on for pages.
fn reason(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push('…');
    }
    text.replace(['\n', '\r'], " ")
}

impl BucketError {
    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(*self.source, object_store::Error::NotFound { .. })
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match &*self.source {
            object_store::Error::NotFound { .. } => Code::BundleNotFound,
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => Code::AlreadyExists,
            _ => Code::Unavailable,
        }
    }
}

impl Bucket {
    /// Wraps a store that is there already; every name begins with `prefix`.
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str, runtime: Handle) -> Self {
        let shown = format!("{store}");
        Self { store, prefix: Path::from(prefix), runtime, shown: shown.into() }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(object_store::Error) -> BucketError {
        let (name, bucket) = (name.to_owned(), self.shown.to_string());
        move |source| BucketError { action, name, bucket, source: Box::new(source) }
    }

    /// Puts an object of a few megabytes where there is none of this name.
    ///
    /// # Errors
    /// As the store reports it.
    pub fn put_new(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<Put, BucketError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = self.path(name);
        match self.runtime.block_on(self.store.put_opts(&path, bytes.into(), options)) {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Existed),
            Err(error) => Err(self.failed("write", name)(error)),
        }
    }

    /// Begins an object of any length. Nothing is there under its name before
    /// [`ObjectWriter::finish`] has returned.
    ///
    /// # Errors
    /// As the store reports it.
    pub fn writer(&self, name: &str) -> Result<ObjectWriter, BucketError> {
        let upload = self.runtime.block_on(self.store.put_multipart(&self.path(name)));
        let upload = upload.map_err(self.failed("begin to write", name))?;
        Ok(ObjectWriter::new(self.clone(), name, upload))
    }

    /// The length of an object, if there is one.
    ///
    /// # Errors
    /// As the store reports it; absence is no error.
    pub fn size(&self, name: &str) -> Result<Option<u64>, BucketError> {
        match self.runtime.block_on(self.store.head(&self.path(name))) {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look at", name)(error)),
        }
    }

    /// Part of an object; fewer bytes than asked for only at its end.
    ///
    /// # Errors
    /// As the store reports it; see [`BucketError::is_not_found`].
    pub fn read_range(
        &self,
        name: &str,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BucketError> {
        let path = self.path(name);
        let mut read = Vec::new();
        while read.len() < bytes_max {
            let from = offset + read.len() as u64;
            let length = (bytes_max - read.len()).min(PART_BYTES) as u64;
            let piece = self.runtime.block_on(self.piece(&path, from, length));
            let Some(piece) = piece.map_err(self.failed("read", name))? else { break };
            let is_last = (piece.len() as u64) < length;
            read.extend_from_slice(&piece);
            if is_last {
                break;
            }
        }
        Ok(read)
    }

    /// One request; nothing when the range begins at the object's end or behind it.
    async fn piece(
        &self,
        path: &Path,
        from: u64,
        length: u64,
    ) -> Result<Option<bytes::Bytes>, object_store::Error> {
        let range = Some(GetRange::Bounded(from..from + length));
        let asked = self.store.get_opts(path, GetOptions { range, ..GetOptions::default() }).await;
        match asked {
            Ok(answer) => answer.bytes().await.map(Some),
            Err(error @ object_store::Error::NotFound { .. }) => Err(error),
            // A range behind the end is an error of its own in every store: only the length tells.
            Err(error) => match self.store.head(path).await {
                Ok(found) if found.size <= from => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// SHA-256 and length of a whole object, as the store gives it now.
    ///
    /// # Errors
    /// As the store reports it; see [`BucketError::is_not_found`].
    pub fn digest(&self, name: &str) -> Result<([u8; 32], u64), BucketError> {
        let path = self.path(name);
        let mut hash = Sha256::new();
        let mut bytes = 0;
        loop {
            let piece = self.runtime.block_on(self.piece(&path, bytes, PART_BYTES as u64));
            let Some(piece) = piece.map_err(self.failed("read back", name))? else { break };
            hash.update(&piece);
            bytes += piece.len() as u64;
            if piece.len() < PART_BYTES {
                break;
            }
        }
        Ok((hash.finalize().into(), bytes))
    }

    /// Reads an object from its beginning.
    #[must_use]
    pub fn reader(&self, name: &str) -> ObjectReader {
        ObjectReader::new(self.clone(), name)
    }

    /// Deletes an object; fine when there is none.
    ///
    /// # Errors
    /// As the store reports it.
    pub fn delete(&self, name: &str) -> Result<(), BucketError> {
        match self.runtime.block_on(self.store.delete(&self.path(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", name)(error)),
        }
    }

    /// Copies an object over whatever has the other name.
    ///
    /// # Errors
    /// As the store reports it; see [`BucketError::is_not_found`].
    pub fn copy(&self, from: &str, to: &str) -> Result<(), BucketError> {
        let (source, target) = (self.path(from), self.path(to));
        let copying = self.store.copy_opts(&source, &target, CopyOptions::new());
        self.runtime.block_on(copying).map_err(self.failed("copy", from))
    }

    /// The objects whose names begin with this directory (empty: all), by name. For people and
    /// reports: what is deleted is never decided by a listing.
    ///
    /// # Errors
    /// As the store reports it.
    pub fn list(&self, directory: &str) -> Result<Vec<Listed>, BucketError> {
        let prefix = if directory.is_empty() { self.prefix.clone() } else { self.path(directory) };
        let listing = self.store.list(Some(&prefix)).try_collect::<Vec<_>>();
        let found = self.runtime.block_on(listing).map_err(self.failed("list", directory))?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .filter_map(|meta| {
                let name: Vec<_> = meta
                    .location
                    .prefix_match(&self.prefix)?
                    .map(|p| p.as_ref().to_owned())
                    .collect();
                Some(Listed { name: name.join("/"), bytes: meta.size })
            })
            .collect();
        listed.sort();
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn an_object_is_put_once_read_in_pieces_and_listed_below_its_prefix() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let bucket = Bucket::over(store.clone(), "a/b", runtime.handle().clone());
        assert_eq!(bucket.put_new("x/one", vec![1; 10]).unwrap(), Put::Created);
        assert_eq!(bucket.put_new("x/one", vec![2; 99]).unwrap(), Put::Existed);
        assert_eq!(bucket.size("x/one").unwrap(), Some(10));
        assert_eq!(bucket.read_range("x/one", 8, 10).unwrap(), [1, 1]);
        assert_eq!(bucket.read_range("x/one", 10, 10).unwrap(), [0_u8; 0]);
        assert_eq!(bucket.read_range("x/one", 50, 10).unwrap(), [0_u8; 0]);
        assert!(bucket.read_range("x/two", 0, 10).unwrap_err().is_not_found());
        bucket.copy("x/one", "y").unwrap();
        let names: Vec<_> = bucket.list("").unwrap().into_iter().map(|o| o.name).collect();
        assert_eq!(names, ["x/one", "y"]);
        let other = Bucket::over(store, "", runtime.handle().clone());
        assert_eq!(other.list("").unwrap()[0].name, "a/b/x/one");
        bucket.delete("x/one").unwrap();
        bucket.delete("x/one").unwrap();
        assert_eq!(bucket.size("x/one").unwrap(), None);
    }

    #[test]
    fn a_long_object_is_written_in_parts_and_is_there_only_when_it_is_finished() {
        use std::io::{Read, Write};
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let bucket = Bucket::over(Arc::new(InMemory::new()), "", runtime.handle().clone());
        let content: Vec<u8> = (0..PART_BYTES * 2 + 777).map(|i| (i % 251) as u8).collect();
        let mut writer = bucket.writer("long").unwrap();
        for piece in content.chunks(1_000_003) {
            writer.write_all(piece).unwrap();
        }
        assert_eq!(bucket.size("long").unwrap(), None);
        writer.finish().unwrap();
        let mut read = Vec::new();
        bucket.reader("long").read_to_end(&mut read).unwrap();
        assert!(read == content);
        let digest: [u8; 32] = Sha256::digest(&content).into();
        assert_eq!(bucket.digest("long").unwrap(), (digest, content.len() as u64));
        let mut given_up = bucket.writer("given-up").unwrap();
        given_up.write_all(&content).unwrap();
        given_up.abort();
        assert_eq!(bucket.size("given-up").unwrap(), None);
    }
}

//! A whole, verified snapshot file, published or about to be: what openraft is handed as snapshot
//! data, read in chunks to send or as a stream to load.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::form::{self, Parsed};
use super::{SnapshotDigest, SnapshotError};
use crate::disk::{Disk, DiskFile};
use crate::raft_types::SnapshotMeta;
use proto_types::FleetId;

/// A verified snapshot. Clones are handles to the same file, which stays readable after a newer
/// one has replaced it. One that was never published is removed with its last handle.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    place: Mutex<Place>,
    meta: SnapshotMeta,
    content_at: u64,
    content_bytes: u64,
    digest: SnapshotDigest,
}

/// Where the file is, and whether that is its own name.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) is_published: bool,
}

impl StoredSnapshot {
    /// Opens a file and reads it through.
    pub(super) fn verify(
        disk: &Arc<dyn Disk>,
        path: &Path,
        fleet: FleetId,
        is_published: bool,
    ) -> Result<Self, SnapshotError> {
        let file = disk.open(path).map_err(SnapshotError::io("open", path))?;
        let Parsed { meta, content_at, content_bytes, digest } = form::verify(&*file, path, fleet)?;
        let place = Mutex::new(Place { path: path.to_owned(), is_published });
        let disk = Arc::clone(disk);
        let inner = Inner { disk, file, place, meta, content_at, content_bytes, digest };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it covers.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.inner.meta
    }

    /// Index of the last entry it covers; `None` when it covers none.
    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        self.inner.meta.last_log_id.map(|id| id.index)
    }

    /// Length of the content.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.inner.content_bytes
    }

    /// SHA-256 of the content: sent along, so that the receiver can compare.
    #[must_use]
    pub fn digest(&self) -> SnapshotDigest {
        self.inner.digest
    }

    /// Part of the content; fewer bytes than asked for only at its end, none after it.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let left = self.inner.content_bytes.saturating_sub(offset);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max);
        let mut chunk = vec![0; bytes];
        let at = self.inner.content_at + offset;
        crate::disk::read_exact_at(&*self.inner.file, at, &mut chunk)?;
        Ok(chunk)
    }

    /// The content as a stream, from its start.
    #[must_use]
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader { snapshot: self.clone(), at: 0 }
    }

    /// Whether its file is in that directory of that disk.
    pub(super) fn is_in(&self, disk: &Arc<dyn Disk>, dir: &Path) -> bool {
        let is_same_disk = std::ptr::addr_eq(Arc::as_ptr(disk), Arc::as_ptr(&self.inner.disk));
        is_same_disk && self.place().path.parent() == Some(dir)
    }

    pub(super) fn place(&self) -> MutexGuard<'_, Place> {
        self.inner.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let place = self.place.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !place.is_published {
            // What cannot be removed now is removed when the store opens next.
            let _ = self.disk.remove(&place.path);
        }
    }
}

/// The content of a snapshot as a stream.
#[derive(Debug)]
pub struct SnapshotReader {
    snapshot: StoredSnapshot,
    at: u64,
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = &self.snapshot.inner;
        let left = inner.content_bytes - self.at;
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = inner.file.read_at(inner.content_at + self.at, &mut buffer[..bytes])?;
        if read == 0 && bytes > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

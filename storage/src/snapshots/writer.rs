//! Writing a snapshot file, built here or received: under a temporary name until it is whole,
//! synced and read back.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use proto_types::FleetId;
use sha2::{Digest, Sha256};

use super::{SnapshotDigest, SnapshotError, StoredSnapshot, form};
use crate::disk::{Disk, DiskFile};
use crate::raft_types::SnapshotMeta;

/// Small writes are gathered to this many bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot in the making. Write the content, through [`SnapshotWriter::write`] or as
/// [`std::io::Write`], then [`SnapshotWriter::finish`]; dropped before, it is removed.
#[derive(Debug)]
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    fleet: FleetId,
    path: PathBuf,
    /// Taken by `finish`.
    file: Option<Box<dyn DiskFile>>,
    at: u64,
    content_at: u64,
    buffer: Vec<u8>,
    hash: Sha256,
}

impl SnapshotWriter {
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        fleet: FleetId,
        path: PathBuf,
        meta: &SnapshotMeta,
    ) -> Result<Self, SnapshotError> {
        let file = disk.create(&path).map_err(SnapshotError::io("create", &path))?;
        let header = form::header(meta, fleet);
        let mut writer = Self {
            disk,
            fleet,
            path,
            file: Some(file),
            at: 0,
            content_at: header.len() as u64,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            hash: Sha256::new(),
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Bytes of content so far.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.at + self.buffer.len() as u64 - self.content_at
    }

    /// Adds to the content.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hash.update(bytes);
        self.put(bytes)
    }

    /// Ends the file, brings it to stable storage and reads it back. With `expected`, the digest
    /// must also be that one. The result is whole, but not yet the node's snapshot: that is
    /// [`super::SnapshotStore::publish`].
    ///
    /// # Errors
    /// [`SnapshotError::WrongDigest`]; [`SnapshotError::Damaged`] when it does not read back as
    /// written; or as the system reports it.
    pub fn finish(
        mut self,
        expected: Option<SnapshotDigest>,
    ) -> Result<StoredSnapshot, SnapshotError> {
        let digest = SnapshotDigest(std::mem::take(&mut self.hash).finalize().into());
        if let Some(expected) = expected
            && expected != digest
        {
            return Err(SnapshotError::WrongDigest { found: digest, expected });
        }
        let trailer = form::trailer(self.content_bytes(), digest);
        self.put(&trailer)?;
        self.flush_buffer()?;
        if let Some(file) = &self.file {
            file.sync_all().map_err(SnapshotError::io("sync", &self.path))?;
        }
        let stored = StoredSnapshot::verify(&self.disk, &self.path, self.fleet, false)?;
        // From here on the file is the result's to remove.
        self.file = None;
        Ok(stored)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush_buffer()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return self.write_through(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), SnapshotError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.write_through(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    fn write_through(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Some(file) = &self.file {
            file.write_at(self.at, bytes).map_err(SnapshotError::io("write", &self.path))?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Self::write(self, bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(SnapshotError::Io { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    /// Nothing: `finish` syncs, and only that counts.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed now is removed when the store opens next.
            let _ = self.disk.remove(&self.path);
        }
    }
}

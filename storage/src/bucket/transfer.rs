//! Long objects as streams of bytes: written in parts, read in pieces.

use std::io::{self, Read, Write};

use object_store::{MultipartUpload, WriteMultipart};

use super::{Bucket, BucketError, PART_BYTES};

/// Parts on their way at one time.
const PARTS_IN_FLIGHT: usize = 4;

/// Writes one object in parts. Dropped without [`ObjectWriter::finish`], nothing has its name;
/// what the store keeps of the parts is its rule for unfinished uploads to remove.
pub struct ObjectWriter {
    bucket: Bucket,
    name: String,
    upload: Option<WriteMultipart>,
}

impl std::fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectWriter").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ObjectWriter {
    pub(super) fn new(bucket: Bucket, name: &str, upload: Box<dyn MultipartUpload>) -> Self {
        let upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        Self { bucket, name: name.to_owned(), upload: Some(upload) }
    }

    /// Hands bytes over; waits while enough parts are on their way.
    ///
    /// # Errors
    /// That of a part that could not be written; the upload is over then.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), BucketError> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        // The parts are tasks of the runtime.
        let _entered = self.bucket.runtime.enter();
        upload.write(bytes);
        let waited = self.bucket.runtime.block_on(upload.wait_for_capacity(PARTS_IN_FLIGHT));
        if let Err(error) = waited {
            let failed = self.bucket.failed("write", &self.name)(error);
            self.give_up();
            return Err(failed);
        }
        Ok(())
    }

    /// Gives the object its name.
    ///
    /// # Errors
    /// As the store reports it; then nothing was written.
    pub fn finish(mut self) -> Result<(), BucketError> {
        let Some(upload) = self.upload.take() else { return Ok(()) };
        let _entered = self.bucket.runtime.enter();
        let finished = self.bucket.runtime.block_on(upload.finish());
        finished.map(drop).map_err(self.bucket.failed("write", &self.name))
    }

    /// Gives the upload up, and has the store forget its parts.
    pub fn abort(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let _entered = self.bucket.runtime.enter();
        if let Err(error) = self.bucket.runtime.block_on(upload.abort()) {
            tracing::debug!(%error, name = self.name, "parts of an upload stay until the store forgets them");
        }
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.upload.is_none() {
            return Err(io::Error::other("the upload was given up after an error"));
        }
        self.put(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing is there before the last byte is: `finish`.
        Ok(())
    }
}

/// Reads one object from its beginning to its end.
#[derive(Debug)]
pub struct ObjectReader {
    bucket: Bucket,
    name: String,
    piece: Vec<u8>,
    /// Bytes of the piece that were given out.
    given: usize,
    /// Where the next piece begins.
    next: u64,
    is_last: bool,
}

impl ObjectReader {
    pub(super) fn new(bucket: Bucket, name: &str) -> Self {
        Self { bucket, name: name.to_owned(), piece: Vec::new(), given: 0, next: 0, is_last: false }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() && !self.is_last {
            let read = self.bucket.read_range(&self.name, self.next, PART_BYTES);
            self.piece = read.map_err(io::Error::other)?;
            self.given = 0;
            self.next += self.piece.len() as u64;
            self.is_last = self.piece.len() < PART_BYTES;
        }
        let length = buffer.len().min(self.piece.len() - self.given);
        buffer[..length].copy_from_slice(&self.piece[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}

//! Writing a bundle file in one pass: lead, records, header, signature. The file's id is taken
//! along the way. Writes to what it is handed; buffering, fsync and names are the caller's.

use std::io::Write;

use proto_types::{BundleId, BundleKind, ClearHeader, LEAD_BYTES, SignedHeader};
use sha2::{Digest, Sha256};

use crate::SealError;
use crate::keys::SigningKey;

/// A finished bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBundle {
    /// SHA-256 of the whole file: its name.
    pub id: BundleId,
    /// The signed header, which the commit carries.
    pub header: SignedHeader,
    /// Length of the whole file.
    pub bytes: u64,
}

pub(crate) struct FileWriter<W> {
    writer: W,
    hash: Sha256,
    written: u64,
    records: u32,
}

impl<W: Write> FileWriter<W> {
    pub(crate) fn new(writer: W, kind: BundleKind) -> Result<Self, SealError> {
        let mut file = Self { writer, hash: Sha256::new(), written: 0, records: 0 };
        file.write(&kind.lead())?;
        debug_assert_eq!(file.written, LEAD_BYTES as u64);
        Ok(file)
    }

    /// Appends one record; returns where it begins.
    pub(crate) fn record(&mut self, record: &[u8]) -> Result<u64, SealError> {
        let offset = self.written;
        self.records = self.records.checked_add(1).ok_or(SealError::TooManyBlobs)?;
        self.write(record)?;
        Ok(offset)
    }

    /// Bytes written so far.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Completes the header, signs it and writes the trailer. Gives the writer back, flushed.
    pub(crate) fn finish(
        mut self,
        mut header: ClearHeader,
        signing: &SigningKey,
    ) -> Result<(SealedBundle, W), SealError> {
        header.body_bytes = self.written;
        header.blob_count = self.records;
        header.body_sha256 = self.hash.clone().finalize().into();
        let signature = signing.sign_header(&header.encode());
        let header = SignedHeader::new(header, signature);
        self.write(&header.to_trailer())?;
        self.writer.flush().map_err(SealError::Write)?;
        let id = BundleId::from_bytes(self.hash.finalize().into());
        Ok((SealedBundle { id, header, bytes: self.written }, self.writer))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.writer.write_all(bytes).map_err(SealError::Write)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

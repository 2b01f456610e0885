//! Writing a config bundle: sealed blobs in the order they come, memory bounded by one of them.
//! Which blobs are needed, and what they belong to, is the manifest's and the agent's.

use std::io::Write;

use proto_types::env::Random;
use proto_types::{BundleKind, DekId};

use crate::blob::{BlobRef, BlobSealer, PlainBlob, SealedBlob};
use crate::encoding::Encoding;
use crate::file::{FileWriter, SealedBundle};
use crate::identity::{Identity, blank_header};
use crate::keyring::Keyring;
use crate::{SealError, check_lineage};

/// Writes one config bundle. Hand in a buffered writer: records may be a few hundred bytes.
pub struct ConfigSealer<'k, W> {
    file: FileWriter<W>,
    keyring: &'k Keyring,
    identity: Identity,
    sealer: BlobSealer<'k>,
    /// Sorted; one, but for bundles that were repacked.
    deks: Vec<DekId>,
}

impl<'k, W: Write> ConfigSealer<'k, W> {
    /// Begins a bundle.
    ///
    /// # Errors
    /// When the writer fails, or identity and keyring are of different lineages.
    pub fn new(writer: W, keyring: &'k Keyring, identity: Identity) -> Result<Self, SealError> {
        check_lineage(keyring, &identity)?;
        Ok(Self {
            file: FileWriter::new(writer, BundleKind::Config)?,
            keyring,
            identity,
            sealer: BlobSealer::new(keyring, identity.fleet, identity.cluster),
            deks: Vec::new(),
        })
    }

    /// Seals a plaintext here and now and appends it.
    ///
    /// # Errors
    /// When the blob is too large or the writer fails.
    pub fn seal(
        &mut self,
        blob: &PlainBlob<'_>,
        encoding: Encoding,
        random: &dyn Random,
    ) -> Result<BlobRef, SealError> {
        let sealed = self.sealer.seal(blob, encoding, random)?;
        self.append(&sealed)
    }

    /// Appends a blob that a [`BlobSealer`] sealed, on whatever thread.
    ///
    /// # Errors
    /// When the writer fails or the header could not name all DEKs.
    pub fn append(&mut self, blob: &SealedBlob) -> Result<BlobRef, SealError> {
        if let Err(place) = self.deks.binary_search(&blob.dek) {
            if self.deks.len() >= proto_types::MAX_DEK_IDS {
                return Err(SealError::TooManyDeks);
            }
            self.deks.insert(place, blob.dek);
        }
        let offset = self.file.record(&blob.record)?;
        Ok(blob.reference(offset))
    }

    /// Bytes written so far, the trailer not counted.
    #[must_use]
    pub const fn bytes_written(&self) -> u64 {
        self.file.written()
    }

    /// Signs and writes the trailer; gives the writer back, flushed but not synced.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn finish(self) -> Result<(SealedBundle, W), SealError> {
        let signing = self.keyring.signing_key();
        let mut header = blank_header(BundleKind::Config, &self.identity, signing.public());
        header.dek_ids = self.deks;
        self.file.finish(header, signing)
    }
}

//! One sealed piece of an item: its id, where it stands, sealing and opening. Sealing needs no
//! file, so several threads may seal, each with its own [`BlobSealer`], while one appends.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use proto_types::env::Random;
use proto_types::{ClusterId, DekId, FleetId, ParseIdError, SUITE_AES256GCM_HKDF_SHA256};
use zeroize::Zeroizing;

use crate::encoding::{Decoder, Encoder, Encoding};
use crate::keyring::Keyring;
use crate::record::{self, PREFIX_BYTES};
use crate::{OpenError, SealError};

const AAD_DOMAIN: &[u8] = b"strongroom blob v1";
const KEY_INFO: &[u8] = b"strongroom blob key v1";

/// What a sealed record is, as a byte of its associated data: one can never pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A piece of an item, in a config bundle.
    Item = 1,
    /// A secret, in a key bundle.
    Secret = 2,
    /// The keyring, in a key bundle.
    Keyring = 3,
    /// A piece of a manifest.
    Manifest = 4,
}

impl RecordKind {
    pub(crate) const fn to_byte(self) -> u8 {
        self as u8
    }
}

/// HMAC-SHA-256 of a blob's plaintext under the cluster's blob-id secret: equal for equal
/// plaintexts of one cluster, and telling nothing to whoever lacks the secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError {
            text: text.to_owned(),
            what: "blob id",
            expected: "64 hexadecimal digits",
        })?;
        Ok(Self(bytes))
    }
}

/// Where a blob stands in its config bundle and how to open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// The blob.
    pub id: BlobId,
    /// The DEK it is sealed under.
    pub dek: DekId,
    /// Where its record begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// Bytes of ciphertext and tag.
    pub sealed_len: u32,
    /// Bytes of plaintext.
    pub plain_len: u32,
}

impl BlobRef {
    /// Length of the whole record.
    #[must_use]
    pub const fn record_len(&self) -> u64 {
        PREFIX_BYTES as u64 + self.sealed_len as u64
    }
    /// The bytes of the file that hold the record: what to read or download.
    #[must_use]
    pub const fn record_range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.record_len())
    }
}

/// A plaintext with its id, which is dear to compute and decides whether to seal at all. Made by
/// [`Keyring::identify`].
pub struct PlainBlob<'a> {
    pub(crate) id: BlobId,
    pub(crate) plaintext: &'a [u8],
}

impl PlainBlob<'_> {
    /// The blob's id.
    #[must_use]
    pub const fn id(&self) -> BlobId {
        self.id
    }
}

/// A sealed blob that stands in no bundle yet.
pub struct SealedBlob {
    pub(crate) id: BlobId,
    pub(crate) dek: DekId,
    pub(crate) plain_len: u32,
    pub(crate) record: Vec<u8>,
}

impl SealedBlob {
    /// The blob's id.
    #[must_use]
    pub const fn id(&self) -> BlobId {
        self.id
    }
    /// The record's bytes, as they will stand in the bundle.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }
    pub(crate) fn reference(&self, offset: u64) -> BlobRef {
        let sealed_len = u32::try_from(self.record.len() - PREFIX_BYTES).expect("bounded by seal");
        BlobRef { id: self.id, dek: self.dek, offset, sealed_len, plain_len: self.plain_len }
    }
}

/// Seals blobs under a keyring's current DEK. One per thread; it keeps its compression context.
pub struct BlobSealer<'k> {
    keyring: &'k Keyring,
    encoder: Encoder,
    fleet: FleetId,
    cluster: ClusterId,
}

impl<'k> BlobSealer<'k> {
    /// A sealer for one cluster.
    #[must_use]
    pub fn new(keyring: &'k Keyring, fleet: FleetId, cluster: ClusterId) -> Self {
        Self { keyring, encoder: Encoder::new(), fleet, cluster }
    }

    /// Seals one blob that the same keyring identified.
    ///
    /// # Errors
    /// [`SealError::BlobTooLarge`] over [`crate::MAX_BLOB_BYTES`].
    pub fn seal(
        &mut self,
        blob: &PlainBlob<'_>,
        encoding: Encoding,
        random: &dyn Random,
    ) -> Result<SealedBlob, SealError> {
        let dek = self.keyring.current();
        let key = dek.expand(&[KEY_INFO, blob.id.as_bytes()]);
        let aad = item_aad(self.fleet, self.cluster, dek.id, blob.id);
        let record = record::seal(&mut self.encoder, &key, &aad, blob.plaintext, encoding, random)?;
        let plain_len = u32::try_from(blob.plaintext.len()).expect("bounded by seal");
        Ok(SealedBlob { id: blob.id, dek: dek.id, plain_len, record })
    }
}

/// Opens blobs of config bundles. One per thread; it keeps its decompression context.
pub struct BlobOpener<'k> {
    keyring: &'k Keyring,
    decoder: Decoder,
    fleet: FleetId,
    cluster: ClusterId,
}

impl<'k> BlobOpener<'k> {
    /// An opener for one cluster.
    #[must_use]
    pub fn new(keyring: &'k Keyring, fleet: FleetId, cluster: ClusterId) -> Self {
        Self { keyring, decoder: Decoder::new(), fleet, cluster }
    }

    /// Opens one blob from its record's bytes, which are those at [`BlobRef::record_range`]. The
    /// plaintext's id is computed again, so it is proved to be what was identified when sealing.
    ///
    /// # Errors
    /// [`OpenError::UnknownDek`] when the keyring lacks the key, [`OpenError::Blob`] when the
    /// bytes are not this blob of this cluster.
    pub fn open(&mut self, record: &[u8], blob: &BlobRef) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let dek = self.keyring.dek(&blob.dek).ok_or(OpenError::UnknownDek(blob.dek))?;
        let damaged = || OpenError::Blob(blob.id);
        let limit = usize::try_from(blob.plain_len).map_err(|_| damaged())?;
        if record.len() as u64 != blob.record_len() || limit > crate::MAX_BLOB_BYTES {
            return Err(damaged());
        }
        let key = dek.expand(&[KEY_INFO, blob.id.as_bytes()]);
        let aad = item_aad(self.fleet, self.cluster, dek.id, blob.id);
        let plain = record::open(&mut self.decoder, &key, &aad, record, limit)
            .filter(|plain| plain.len() == limit && self.keyring.blob_id(plain) == blob.id)
            .ok_or_else(damaged)?;
        Ok(plain)
    }

    /// A blob's record, proved to open, to be appended to another config bundle of the cluster as
    /// it is: repacking seals nothing anew.
    ///
    /// # Errors
    /// As [`BlobOpener::open`].
    pub fn repack(&mut self, record: Vec<u8>, blob: &BlobRef) -> Result<SealedBlob, OpenError> {
        self.open(&record, blob)?;
        Ok(SealedBlob { id: blob.id, dek: blob.dek, plain_len: blob.plain_len, record })
    }
}

/// Associated data of an item's blob (invariant K2). It names no point: blobs are shared by many.
fn item_aad(fleet: FleetId, cluster: ClusterId, dek: DekId, id: BlobId) -> Vec<u8> {
    record::associated_data(&[
        AAD_DOMAIN,
        &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
        fleet.as_bytes(),
        cluster.as_bytes(),
        dek.as_bytes(),
        &[RecordKind::Item.to_byte()],
        id.as_bytes(),
    ])
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;

//! The manifest file: the manifest's stream cut into sealed records, each bound to its place and
//! to the number of all, so that none can be left out, added or moved (invariants K2, K3).

use std::io::Write;

use proto_types::env::Random;
use proto_types::{BundleId, BundleKind, ClearHeader, SUITE_AES256GCM_HKDF_SHA256};
use zeroize::Zeroizing;

use crate::blob::RecordKind;
use crate::encoding::{Decoder, Encoder, Encoding};
use crate::file::{FileWriter, SealedBundle};
use crate::identity::{Expect, Identity, bad_field, blank_header};
use crate::keyring::{Dek, Keyring};
use crate::manifest::{Manifest, ManifestError};
use crate::manifest_wire::{ManifestReader, ManifestWriter};
use crate::record::{self, associated_data};
use crate::verify::{Verified, records, verify_bytes};
use crate::{OpenError, SealError, check_lineage};

/// Bytes of the stream in each record but the last.
const PIECE_BYTES: usize = 1 << 20;

const AAD_DOMAIN: &[u8] = b"strongroom manifest record v1";
const KEY_INFO: &[u8] = b"strongroom manifest record key v1";

/// A manifest file that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedManifest {
    /// The file.
    pub file: Verified,
    /// What it lists.
    pub manifest: Manifest,
}

/// Writes a manifest. `predecessor` is the manifest before, zero for the first.
///
/// # Errors
/// When the writer fails, the manifest is not valid or of another sequence than the identity, or
/// the lineages differ.
pub fn seal_manifest<W: Write>(
    writer: W,
    keyring: &Keyring,
    identity: &Identity,
    predecessor: BundleId,
    manifest: &Manifest,
    random: &dyn Random,
) -> Result<(SealedBundle, W), SealError> {
    check_lineage(keyring, identity)?;
    manifest.check()?;
    if manifest.sequence != identity.sequence {
        return Err(ManifestError::Field { what: "it is of another sequence" }.into());
    }
    let stream = ManifestWriter::new(manifest);
    let mut stream_bytes = 0_u64;
    stream.write(|message| {
        stream_bytes += message.len() as u64;
        Ok::<_, SealError>(())
    })?;

    let dek = keyring.current();
    let signing = keyring.signing_key();
    let mut header = blank_header(BundleKind::Manifest, identity, signing.public());
    header.predecessor = predecessor;
    header.base = manifest.form.base();
    header.dek_ids = vec![dek.id];
    header.blob_count = u32::try_from(stream_bytes.div_ceil(PIECE_BYTES as u64))
        .map_err(|_| SealError::TooManyBlobs)?;

    let mut file = FileWriter::new(writer, BundleKind::Manifest)?;
    let mut encoder = Encoder::new();
    let mut index = 0;
    let mut seal = |piece: &[u8]| {
        let key = record_key(dek, &header, index);
        let aad = record_aad(dek, &header, index);
        index += 1;
        let record = record::seal(&mut encoder, &key, &aad, piece, Encoding::Compress, random)?;
        file.record(&record).map(|_| ())
    };
    let mut piece = Zeroizing::new(Vec::with_capacity(PIECE_BYTES));
    stream.write(|mut message| {
        while !message.is_empty() {
            let (now, later) = message.split_at(message.len().min(PIECE_BYTES - piece.len()));
            piece.extend_from_slice(now);
            message = later;
            if piece.len() == PIECE_BYTES {
                seal(&piece)?;
                piece.clear();
            }
        }
        Ok::<_, SealError>(())
    })?;
    if !piece.is_empty() {
        seal(&piece)?;
    }
    file.finish(header, signing)
}

/// Verifies and opens a manifest file.
///
/// # Errors
/// What [`verify_bytes`] finds; [`OpenError::UnknownDek`] with another point's keyring;
/// [`OpenError::Sealed`] when a record does not open, [`OpenError::Manifest`] when what they
/// hold is not valid.
pub fn open_manifest(
    file: &[u8],
    keyring: &Keyring,
    expect: &Expect,
) -> Result<OpenedManifest, OpenError> {
    let kind = BundleKind::Manifest;
    let verified = verify_bytes(file, &expect.of_kind(kind))?;
    let header = verified.header.header();
    let [dek_id] = header.dek_ids[..] else {
        return Err(bad_field("dek_ids"));
    };
    let dek = keyring.dek(&dek_id).ok_or(OpenError::UnknownDek(dek_id))?;
    let mut decoder = Decoder::new();
    let mut reader = ManifestReader::default();
    for (index, record) in (0_u32..).zip(records(file, &verified.header)) {
        let key = record_key(dek, header, index);
        let aad = record_aad(dek, header, index);
        let piece = record::open(&mut decoder, &key, &aad, record, PIECE_BYTES)
            .ok_or(OpenError::Sealed { kind, index })?;
        reader.feed(&piece)?;
    }
    let manifest = reader.finish()?;
    if manifest.sequence != header.sequence || manifest.form.base() != header.base {
        return Err(OpenError::Contents { kind, what: "the header says another point or base" });
    }
    Ok(OpenedManifest { file: verified, manifest })
}

fn record_key(dek: &Dek, header: &ClearHeader, index: u32) -> crate::secret::Secret32 {
    dek.expand(&[KEY_INFO, &header.sequence.get().to_le_bytes(), &index.to_le_bytes()])
}

fn record_aad(dek: &Dek, header: &ClearHeader, index: u32) -> Vec<u8> {
    associated_data(&[
        AAD_DOMAIN,
        &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
        header.fleet.as_bytes(),
        header.cluster.as_bytes(),
        &header.lineage.to_le_bytes(),
        dek.id.as_bytes(),
        &[RecordKind::Manifest.to_byte()],
        &header.sequence.get().to_le_bytes(),
        header.predecessor.as_bytes(),
        header.base.as_bytes(),
        &index.to_le_bytes(),
        &header.blob_count.to_le_bytes(),
    ])
}

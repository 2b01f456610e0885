//! One sealed record of a body: its layout, sealing and opening, and the framing of associated
//! data. Knows keys only as bytes handed in; which key and which data is for the callers.
//!
//! `record = sealed_len:u32 nonce[12] ciphertext tag[16]`, where `sealed_len` counts ciphertext
//! and tag.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use proto_types::env::Random;
use zeroize::Zeroizing;

use crate::SealError;
use crate::encoding::{Decoder, Encoder, Encoding, MAX_EXPANSION};
use crate::secret::Secret32;

/// Longest plaintext of one blob.
pub const MAX_BLOB_BYTES: usize = 16 << 20;

/// Bytes of a record before its ciphertext.
pub(crate) const PREFIX_BYTES: usize = 4 + NONCE_BYTES;
pub(crate) const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;
/// The shortest ciphertext and tag: an encoding byte alone.
pub(crate) const MIN_SEALED_BYTES: u32 = 1 + TAG_BYTES as u32;
/// The longest ciphertext and tag.
pub(crate) const MAX_SEALED_BYTES: u32 = (MAX_BLOB_BYTES + MAX_EXPANSION + TAG_BYTES) as u32;

/// Associated data: each field behind its length as u32, so that no two lists look alike.
pub(crate) fn associated_data(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|field| 4 + field.len()).sum());
    for field in fields {
        let len = u32::try_from(field.len()).expect("fields are short");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// Seals one plaintext under a key; the nonce is drawn here and nowhere else.
pub(crate) fn seal(
    encoder: &mut Encoder,
    key: &Secret32,
    aad: &[u8],
    plaintext: &[u8],
    encoding: Encoding,
    random: &dyn Random,
) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > MAX_BLOB_BYTES {
        return Err(SealError::BlobTooLarge { found: plaintext.len(), limit: MAX_BLOB_BYTES });
    }
    let mut nonce = [0; NONCE_BYTES];
    random.fill(&mut nonce);
    let mut record = Vec::with_capacity(PREFIX_BYTES + 1 + plaintext.len() + TAG_BYTES);
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&nonce);
    encoder.append(plaintext, encoding, &mut record);
    // Encrypted where it stands: the compressed plaintext is in no other buffer.
    let tag = cipher(key)
        .encrypt_inout_detached(&Nonce::from(nonce), aad, (&mut record[PREFIX_BYTES..]).into())
        .map_err(|_| SealError::Cipher)?;
    record.extend_from_slice(&tag);
    let sealed_len = u32::try_from(record.len() - PREFIX_BYTES).expect("bounded above");
    record[..4].copy_from_slice(&sealed_len.to_le_bytes());
    Ok(record)
}

/// Opens one whole record, if it is authentic and its plaintext at most `limit` bytes long.
pub(crate) fn open(
    decoder: &mut Decoder,
    key: &Secret32,
    aad: &[u8],
    record: &[u8],
    limit: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    let (len, rest) = record.split_first_chunk::<4>()?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
    if usize::try_from(u32::from_le_bytes(*len)) != Ok(sealed.len()) {
        return None;
    }
    let mut encoded = Zeroizing::new(ciphertext.to_vec());
    cipher(key)
        .decrypt_inout_detached(
            &Nonce::from(*nonce),
            aad,
            encoded.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .ok()?;
    decoder.decode(&encoded, limit)
}

pub(crate) fn cipher(key: &Secret32) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}

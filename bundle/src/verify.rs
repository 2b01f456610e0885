//! Verifying whole bundle files, without any key: lead, trailer, signature, hash of the body,
//! bounds of its records. Streams; memory is bounded whatever the file says. Opens nothing.

use std::io::{Read, Seek, SeekFrom};

use proto_types::{BundleId, BundleKind, LEAD_BYTES, MAX_TRAILER_BYTES, SignedHeader};
use sha2::{Digest, Sha256};

use crate::OpenError;
use crate::identity::{Expect, Origin, bad_field};
use crate::record::{MAX_SEALED_BYTES, MIN_SEALED_BYTES, NONCE_BYTES};
use crate::wraps::MAX_WRAP_BYTES;
use proto_types::HeaderError;

/// A file whose bytes, header and signature belong together and meet what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// SHA-256 of the whole file.
    pub id: BundleId,
    /// Its header.
    pub header: SignedHeader,
    /// Length of the whole file.
    pub bytes: u64,
    /// Whether it was signed by the pinned key.
    pub origin: Origin,
}

/// Reads a whole file and verifies everything that can be verified without a key (invariant B3).
///
/// # Errors
/// The first thing that is wrong: not a bundle, cut short, header, expectation, body, records.
pub fn verify_file(mut reader: impl Read, expect: &Expect) -> Result<Verified, OpenError> {
    let mut chunk = vec![0; 64 * 1024];
    let mut tail: Vec<u8> = Vec::with_capacity(chunk.len() + MAX_TRAILER_BYTES);
    let mut scan = Scan::default();
    let mut file_bytes = 0_u64;
    loop {
        let len = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(OpenError::Read(error)),
        };
        file_bytes += len as u64;
        tail.extend_from_slice(&chunk[..len]);
        // What is further from the end than any trailer reaches is body.
        let body = tail.len().saturating_sub(MAX_TRAILER_BYTES);
        scan.feed(&tail[..body])?;
        tail.drain(..body);
    }
    scan.finish(&tail, file_bytes, expect)
}

/// As [`verify_file`], of a file that is in memory.
///
/// # Errors
/// As [`verify_file`].
pub fn verify_bytes(file: &[u8], expect: &Expect) -> Result<Verified, OpenError> {
    let mut scan = Scan::default();
    let body = file.len().saturating_sub(MAX_TRAILER_BYTES);
    scan.feed(&file[..body])?;
    scan.finish(&file[body..], file.len() as u64, expect)
}

/// Reads lead and trailer of a file and checks them; the body is not looked at, the id not known.
///
/// # Errors
/// When it is no bundle, is cut short, or does not meet what is expected.
pub fn read_header<F: Read + Seek>(
    file: &mut F,
    expect: &Expect,
) -> Result<(SignedHeader, Origin), OpenError> {
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(OpenError::Read)?;
    let tail_bytes = file_bytes.min(MAX_TRAILER_BYTES as u64);
    let mut tail = Vec::with_capacity(MAX_TRAILER_BYTES);
    file.seek(SeekFrom::Start(file_bytes - tail_bytes)).map_err(OpenError::Read)?;
    file.by_ref().take(tail_bytes).read_to_end(&mut tail).map_err(OpenError::Read)?;
    let mut lead = Vec::with_capacity(LEAD_BYTES);
    file.seek(SeekFrom::Start(0)).map_err(OpenError::Read)?;
    file.by_ref().take(LEAD_BYTES as u64).read_to_end(&mut lead).map_err(OpenError::Read)?;
    let kind = BundleKind::from_lead(&lead)?;
    let signed = read_trailer(&tail, file_bytes, kind)?;
    let origin = expect.check(&signed)?;
    Ok((signed, origin))
}

/// The records of a body that was verified, each as the bytes of the whole record.
pub(crate) fn records<'a>(file: &'a [u8], header: &SignedHeader) -> Vec<&'a [u8]> {
    let header = header.header();
    let mut rest = usize::try_from(header.body_bytes)
        .ok()
        .and_then(|end| file.get(LEAD_BYTES..end))
        .unwrap_or_default();
    let mut records = Vec::new();
    while let Some((len, _)) = rest.split_first_chunk::<4>() {
        let len = 4 + after_length(header.kind, u32::from_le_bytes(*len));
        let Some((record, next)) =
            usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len))
        else {
            break;
        };
        records.push(record);
        rest = next;
    }
    records
}

/// Bytes of a record after its length field.
fn after_length(kind: BundleKind, len: u32) -> u64 {
    match kind {
        BundleKind::Wraps => u64::from(len),
        BundleKind::Config | BundleKind::Key | BundleKind::Manifest => {
            NONCE_BYTES as u64 + u64::from(len)
        }
    }
}

fn read_trailer(tail: &[u8], file_bytes: u64, kind: BundleKind) -> Result<SignedHeader, OpenError> {
    let signed = SignedHeader::from_tail(tail, file_bytes).map_err(|error| match error {
        // The lead was right, so it is one of ours without its end.
        HeaderError::NotABundle { .. } | HeaderError::Truncated { .. } => {
            OpenError::CutShort { bytes: file_bytes }
        }
        other => OpenError::Header(other),
    })?;
    if signed.header().kind != kind {
        return Err(bad_field("kind"));
    }
    Ok(signed)
}

/// Takes in a body piece by piece: its hash, its lead, and whether records tile it.
#[derive(Default)]
struct Scan {
    hash: Sha256,
    /// The lead, then each record's length field, as far as it was seen.
    field: Vec<u8>,
    kind: Option<BundleKind>,
    /// Bytes left of the record that is being passed over.
    skip: u64,
    records: u32,
    /// The first record whose length cannot be; told only once the hash was compared, because
    /// a wrong hash says more.
    broken: Option<u32>,
}

impl Scan {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), OpenError> {
        self.hash.update(bytes);
        while !bytes.is_empty() && self.broken.is_none() {
            if self.skip > 0 {
                let len = usize::try_from(self.skip).map_or(bytes.len(), |s| s.min(bytes.len()));
                bytes = &bytes[len..];
                self.skip -= len as u64;
                continue;
            }
            let wanted = if self.kind.is_none() { LEAD_BYTES } else { 4 };
            let len = (wanted - self.field.len()).min(bytes.len());
            self.field.extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if self.field.len() == wanted {
                self.take_field()?;
                self.field.clear();
            }
        }
        Ok(())
    }

    fn take_field(&mut self) -> Result<(), OpenError> {
        let Some(kind) = self.kind else {
            self.kind = Some(BundleKind::from_lead(&self.field)?);
            return Ok(());
        };
        let Some(len) = self.field.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)) else {
            return Ok(());
        };
        let limits = match kind {
            BundleKind::Wraps => 1..=MAX_WRAP_BYTES,
            BundleKind::Config | BundleKind::Key | BundleKind::Manifest => {
                MIN_SEALED_BYTES..=MAX_SEALED_BYTES
            }
        };
        if limits.contains(&len) && self.records < u32::MAX {
            self.skip = after_length(kind, len);
            self.records += 1;
        } else {
            self.broken = Some(self.records);
        }
        Ok(())
    }

    /// `tail` holds the rest of the body and the trailer.
    fn finish(
        mut self,
        tail: &[u8],
        file_bytes: u64,
        expect: &Expect,
    ) -> Result<Verified, OpenError> {
        // Of a short file, some or all of the lead is still in the tail.
        let kind = match self.kind {
            Some(kind) => kind,
            None => BundleKind::from_lead(&[&self.field[..], tail].concat())?,
        };
        let signed = read_trailer(tail, file_bytes, kind)?;
        let origin = expect.check(&signed)?;
        let body = usize::try_from(signed.trailer_bytes())
            .ok()
            .and_then(|trailer| tail.len().checked_sub(trailer))
            .ok_or(OpenError::CutShort { bytes: file_bytes })?;
        self.feed(&tail[..body])?;
        let body_sha256: [u8; 32] = self.hash.clone().finalize().into();
        if body_sha256 != signed.header().body_sha256 {
            return Err(HeaderError::BodyMismatch.into());
        }
        if let Some(index) = self.broken {
            return Err(OpenError::Record { index });
        }
        if self.skip > 0 || !self.field.is_empty() {
            return Err(OpenError::Record { index: self.records.saturating_sub(1) });
        }
        let expected = signed.header().blob_count;
        if self.records != expected {
            return Err(OpenError::RecordCount { expected, found: self.records });
        }
        self.hash.update(&tail[body..]);
        let id = BundleId::from_bytes(self.hash.finalize().into());
        match expect.id {
            Some(expected) if expected != id => Err(OpenError::WrongId { expected, found: id }),
            _ => Ok(Verified { id, header: signed, bytes: file_bytes, origin }),
        }
    }
}

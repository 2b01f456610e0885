//! Reading blobs with few requests: neighbouring records become one range, and what comes from
//! the store is handed to blocking readers through a short channel.

use std::io::{self, Read};

use bundle::BlobRef;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use proto_types::BundleId;
use tokio::sync::mpsc;

use super::{PointStore, StoreError};

/// Longest range: two are fetched while two are opened, so some 16 MiB in all.
const RANGE_BYTES_MAX: u64 = 4 << 20;
/// Most plaintext of one range, for what compresses well.
const RANGE_PLAIN_MAX: u64 = 8 << 20;
/// Bytes between two wanted records that are cheaper to read than to ask again for.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// A stretch of a bundle and the blobs wanted of it.
#[derive(Debug)]
pub(crate) struct RangeRead<T> {
    pub(crate) bundle: BundleId,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// What is wanted, with what the caller knows it by; ascending by offset.
    pub(crate) blobs: Vec<(BlobRef, T)>,
}

/// Puts wanted blobs into as few ranges as makes sense.
pub(crate) fn coalesce<T>(mut wanted: Vec<(BundleId, BlobRef, T)>) -> Vec<RangeRead<T>> {
    wanted.sort_by_key(|(bundle, blob, _)| (*bundle, blob.offset));
    let mut ranges: Vec<RangeRead<T>> = Vec::new();
    let mut plain = 0;
    for (bundle, blob, tag) in wanted {
        let record = blob.record_range();
        if let Some(range) = ranges.last_mut() {
            let end = range.offset + range.length;
            let grown = record.end.max(end) - range.offset;
            // The same record may be wanted several times.
            if range.bundle == bundle
                && record.start <= end.saturating_add(GAP_BYTES_MAX)
                && grown <= RANGE_BYTES_MAX
                && plain + u64::from(blob.plain_len) <= RANGE_PLAIN_MAX
            {
                range.length = grown;
                plain += u64::from(blob.plain_len);
                range.blobs.push((blob, tag));
                continue;
            }
        }
        plain = u64::from(blob.plain_len);
        ranges.push(RangeRead {
            bundle,
            offset: record.start,
            length: record.end - record.start,
            blobs: vec![(blob, tag)],
        });
    }
    ranges
}

/// Reads a stretch into memory.
pub(crate) async fn read_all(
    store: &dyn PointStore,
    bundle: BundleId,
    offset: u64,
    length: u64,
) -> Result<Vec<u8>, StoreError> {
    let expected = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(expected);
    let mut stream = store.read(bundle, offset, length);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        // One byte too many is enough to know.
        bytes.extend_from_slice(&chunk[..chunk.len().min(expected + 1 - bytes.len())]);
    }
    if bytes.len() != expected {
        let found = bytes.len() as u64;
        return Err(StoreError::Length { id: bundle, expected: length, found });
    }
    Ok(bytes)
}

/// Streams whole bundles, one after the other, to a blocking reader. Ends early when the reader
/// has gone; what went wrong is then its to say.
pub(crate) async fn pump(
    store: &dyn PointStore,
    bundles: &[BundleId],
    sender: mpsc::Sender<Bytes>,
) -> Result<(), StoreError> {
    for id in bundles {
        let expected = store.point().bundle(*id)?.bytes;
        let mut found = 0;
        let mut stream = store.read(*id, 0, 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            found += chunk.len() as u64;
            if found > expected {
                break;
            }
            if sender.send(chunk).await.is_err() {
                return Ok(());
            }
        }
        if found != expected {
            return Err(StoreError::Length { id: *id, expected, found });
        }
    }
    Ok(())
}

/// The blocking end of [`pump`]'s channel.
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl ChannelReader {
    pub(crate) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, chunk: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use bundle::BlobId;
    use proto_types::DekId;

    use super::*;

    fn blob(offset: u64, sealed_len: u32, plain_len: u32) -> BlobRef {
        let id = BlobId::from_bytes([offset as u8; 32]);
        BlobRef { id, dek: DekId::ZERO, offset, sealed_len, plain_len }
    }

    #[test]
    fn ranges_join_neighbours_and_leave_strangers_apart() {
        let (a, b) = (BundleId::from_bytes([1; 32]), BundleId::from_bytes([2; 32]));
        let first = blob(16, 84, 84);
        let next = first.record_range().end;
        let ranges = coalesce(vec![
            (a, blob(next, 50, 50), 'b'),
            (b, blob(16, 10, 10), 'c'),
            (a, first, 'a'),
            (a, first, 'A'),
            (a, blob(next + (1 << 20), 10, 10), 'd'),
        ]);
        let shape: Vec<(BundleId, u64, u64, String)> = ranges
            .iter()
            .map(|r| (r.bundle, r.offset, r.length, r.blobs.iter().map(|(_, tag)| *tag).collect()))
            .collect();
        assert_eq!(
            shape,
            [
                (a, 16, 100 + 66, "aAb".to_owned()),
                (a, next + (1 << 20), 26, "d".to_owned()),
                (b, 16, 26, "c".to_owned()),
            ]
        );
    }

    #[test]
    fn ranges_are_bounded_in_sealed_and_plain_bytes() {
        let id = BundleId::from_bytes([1; 32]);
        let mut offset = 16;
        let mut wanted = Vec::new();
        for _ in 0..10 {
            let next = blob(offset, 1 << 20, 1 << 20);
            offset = next.record_range().end;
            wanted.push((id, next, ()));
        }
        let ranges = coalesce(wanted);
        assert!(ranges.iter().all(|range| range.length <= RANGE_BYTES_MAX));
        assert_eq!(ranges.iter().map(|range| range.blobs.len()).sum::<usize>(), 10);
        let bombs = (0..100).map(|i| (id, blob(16 + i * 100, 84, 1 << 20), ())).collect();
        assert!(coalesce(bombs).iter().all(|range| range.blobs.len() <= 8));
    }
}

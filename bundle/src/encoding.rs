//! What stands inside the AEAD: an encoding byte, then the data raw, compressed or padded. Knows
//! nothing of keys. Decoding is bounded by the length the caller expects, whatever the data says.

use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};

/// How a blob's plaintext is written before it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Compressed if that makes it smaller.
    Compress,
    /// Padded to a bucket and never compressed, so that the length tells little of a secret.
    Secret,
}

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const PADDED: u8 = 2;
const LEVEL: i32 = 3;
const LENGTH_BYTES: usize = 8;
const BUCKETS: [usize; 5] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const LAST_BUCKET: usize = 64 << 10;

/// The most that [`Encoder::append`] adds to a plaintext: encoding byte, length and padding.
pub(crate) const MAX_EXPANSION: usize = 1 + LENGTH_BYTES + LAST_BUCKET;

/// Length of a padded secret, its length field included.
pub(crate) fn bucket(with_length: usize) -> usize {
    BUCKETS
        .into_iter()
        .find(|bucket| with_length <= *bucket)
        .unwrap_or_else(|| with_length.next_multiple_of(LAST_BUCKET))
}

/// Writes encodings; keeps its compression context, which is dear to make.
pub(crate) struct Encoder {
    zstd: Compressor<'static>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        let zstd = Compressor::new(LEVEL).expect("zstd knows its own level 3");
        Self { zstd }
    }

    /// Appends the encoded form to `out`. The plaintext stands nowhere else afterwards.
    pub(crate) fn append(&mut self, plaintext: &[u8], encoding: Encoding, out: &mut Vec<u8>) {
        let start = out.len();
        match encoding {
            Encoding::Secret => {
                let padded = bucket(LENGTH_BYTES + plaintext.len());
                out.reserve_exact(1 + padded);
                out.push(PADDED);
                out.extend_from_slice(&(plaintext.len() as u64).to_le_bytes());
                out.extend_from_slice(plaintext);
                out.resize(start + 1 + padded, 0);
            }
            Encoding::Compress => {
                // Room for one byte less than the plaintext: what does not fit is not smaller.
                out.resize(start + 1 + plaintext.len(), 0);
                let room = &mut out[start + 1..];
                let limit = room.len().saturating_sub(1);
                match self.zstd.compress_to_buffer(plaintext, &mut room[..limit]) {
                    Ok(len) => {
                        out[start] = ZSTD;
                        out.truncate(start + 1 + len);
                    }
                    Err(_) => {
                        out[start] = RAW;
                        out[start + 1..].copy_from_slice(plaintext);
                    }
                }
            }
        }
    }
}

/// Reads encodings.
pub(crate) struct Decoder {
    zstd: Decompressor<'static>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        let zstd = Decompressor::new().expect("zstd makes a context");
        Self { zstd }
    }

    /// The plaintext of an encoded form, if it is a valid one of at most `limit` bytes.
    pub(crate) fn decode(&mut self, encoded: &[u8], limit: usize) -> Option<Zeroizing<Vec<u8>>> {
        let (encoding, data) = encoded.split_first()?;
        match *encoding {
            RAW if data.len() <= limit => Some(Zeroizing::new(data.to_vec())),
            ZSTD => {
                let mut plain = Zeroizing::new(Vec::with_capacity(limit));
                self.zstd.decompress_to_buffer(data, &mut *plain).ok()?;
                // The allocator may have given more room than was asked for.
                (plain.len() <= limit).then_some(plain)
            }
            PADDED => {
                let (len, rest) = data.split_first_chunk::<LENGTH_BYTES>()?;
                let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
                // One form only: padding of zeros, to the smallest bucket.
                let valid = len <= limit
                    && bucket(LENGTH_BYTES + len) == data.len()
                    && rest[len..].iter().all(|byte| *byte == 0);
                valid.then(|| Zeroizing::new(rest[..len].to_vec()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(plaintext: &[u8], encoding: Encoding) -> Vec<u8> {
        let mut out = vec![0xaa; 3];
        Encoder::new().append(plaintext, encoding, &mut out);
        assert_eq!(out[..3], [0xaa; 3]);
        out.split_off(3)
    }

    #[test]
    fn encoding_compresses_only_what_gets_smaller() {
        let text = b"kind: Secret\n".repeat(40);
        let small = encoded(&text, Encoding::Compress);
        assert_eq!(small[0], ZSTD);
        assert!(small.len() < 60, "{}", small.len());
        assert_eq!(encoded(b"ab", Encoding::Compress), [0, b'a', b'b']);
        assert_eq!(encoded(b"", Encoding::Compress), [0]);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(&small, text.len()).unwrap().as_slice(), text);
        assert_eq!(decoder.decode(&[0, b'a', b'b'], 2).unwrap().as_slice(), b"ab");
        assert_eq!(decoder.decode(&[0], 0).unwrap().as_slice(), b"");
    }

    #[test]
    fn encoding_pads_secrets_to_buckets() {
        for (plain, padded) in [
            (0, 256),
            (248, 256),
            (249, 1024),
            (1016, 1024),
            (1017, 4096),
            (4089, 16384),
            (16377, 65536),
            (65528, 65536),
            (65529, 131_072),
            (131_065, 196_608),
        ] {
            let secret = vec![b'x'; plain];
            let out = encoded(&secret, Encoding::Secret);
            assert_eq!(out.len(), 1 + padded, "a secret of {plain}");
            assert!(out.len() <= plain + MAX_EXPANSION);
            assert_eq!(Decoder::new().decode(&out, plain).unwrap().as_slice(), secret);
        }
    }

    #[test]
    fn encoding_never_expands_over_the_limit() {
        let mut decoder = Decoder::new();
        let bomb = encoded(&vec![0; 1 << 20], Encoding::Compress);
        assert!(bomb.len() < 100);
        assert!(decoder.decode(&bomb, (1 << 20) - 1).is_none());
        assert!(decoder.decode(&bomb, 1 << 20).is_some());
        assert!(decoder.decode(&[0, 1, 2, 3], 2).is_none());
        assert!(decoder.decode(&encoded(b"secret", Encoding::Secret), 5).is_none());
    }

    #[test]
    fn encoding_has_one_form_of_a_padded_secret() {
        let good = encoded(b"secret", Encoding::Secret);
        let mut decoder = Decoder::new();
        for at in [0, 8, 9 + 6, 256] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decoder.decode(&bad, 1000).is_none(), "byte {at}");
        }
        let mut long = good.clone();
        long.resize(1 + 1024, 0);
        assert!(decoder.decode(&long, 1000).is_none());
        assert!(decoder.decode(&good[..200], 1000).is_none());
        let mut huge = good;
        huge[1..9].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decoder.decode(&huge, 1000).is_none());
        assert!(decoder.decode(&[], 10).is_none());
        assert!(decoder.decode(&[3, 0], 10).is_none());
    }
}

//! A share as a stranger reads and writes it: from `docs/formats.md`, with nothing of the product.
//! Bech32m is BIP 350's reference algorithm.

use bundle::RecoverySecret;
use sha2::{Digest, Sha256};

const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const PREFIX: &str = "srshare";

#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) set: [u8; 5],
    pub(crate) key: [u8; 4],
    pub(crate) threshold: u8,
    pub(crate) total: u8,
    pub(crate) index: u8,
    pub(crate) value: [u8; 32],
}

/// A recovery key of a known seed.
pub(crate) struct SeedKey {
    pub(crate) secret: RecoverySecret,
    pub(crate) prefix: [u8; 4],
}

impl Plain {
    pub(crate) fn seed_key(seed: &[u8; 32]) -> SeedKey {
        let kind = "strongroom-recovery-key-v1";
        let checksum =
            Sha256::digest([b"strongroom key file v1\0", kind.as_bytes(), b"\0", seed].concat());
        let text = format!(
            "{kind}\nseed {}\nchecksum {}\n",
            hex::encode(seed),
            hex::encode(&checksum[..8])
        );
        let secret = RecoverySecret::from_text(&text).unwrap();
        let prefix = secret.public().fingerprint().as_bytes()[..4].try_into().unwrap();
        SeedKey { secret, prefix }
    }

    pub(crate) fn read(text: &str) -> Self {
        let text = text.replace(' ', "");
        let data = text.strip_prefix("srshare1").unwrap();
        let values: Vec<u8> =
            data.chars().map(|c| u8::try_from(ALPHABET.find(c).unwrap()).unwrap()).collect();
        assert_eq!(values.len(), 78);
        assert_eq!(polymod(&[expanded_prefix(), values.clone()].concat()), 0x2bc8_30a3);
        let bytes = regroup(&values[..72], 5, 8);
        assert_eq!((bytes.len(), bytes[0]), (45, 1));
        Self {
            set: bytes[1..6].try_into().unwrap(),
            key: bytes[6..10].try_into().unwrap(),
            threshold: bytes[10],
            total: bytes[11],
            index: bytes[12],
            value: bytes[13..].try_into().unwrap(),
        }
    }

    pub(crate) fn text(&self) -> String {
        self.text_of_version(1)
    }

    pub(crate) fn text_of_version(&self, version: u8) -> String {
        let numbers = [self.threshold, self.total, self.index];
        let bytes = [&[version][..], &self.set, &self.key, &numbers, &self.value].concat();
        let mut values = regroup(&bytes, 8, 5);
        let sum = polymod(&[expanded_prefix(), values.clone(), vec![0; 6]].concat()) ^ 0x2bc8_30a3;
        values.extend((0..6).map(|at| u8::try_from(sum >> (5 * (5 - at)) & 31).unwrap()));
        let data = values.iter().map(|value| char::from(ALPHABET.as_bytes()[usize::from(*value)]));
        format!("{PREFIX}1{}", data.collect::<String>())
    }
}

fn expanded_prefix() -> Vec<u8> {
    let high = PREFIX.bytes().map(|byte| byte >> 5);
    let low = PREFIX.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low).collect()
}

fn polymod(values: &[u8]) -> u32 {
    const GENERATORS: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.iter().fold(1, |sum: u32, value| {
        let top = sum >> 25;
        let shifted = (sum & 0x1ff_ffff) << 5 ^ u32::from(*value);
        let chosen = GENERATORS.iter().enumerate().filter(|(bit, _)| top >> bit & 1 == 1);
        chosen.fold(shifted, |sum, (_, generator)| sum ^ generator)
    })
}

/// Bits in groups of `from` as groups of `to`, nothing left over.
fn regroup(values: &[u8], from: u32, to: u32) -> Vec<u8> {
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for value in values {
        bits = bits << from | u32::from(*value);
        count += from;
        while count >= to {
            count -= to;
            out.push(u8::try_from(bits >> count & ((1 << to) - 1)).unwrap());
        }
    }
    assert_eq!(count, 0);
    out
}

//! Newtypes for everything that could be swapped with something else by mistake.
//! Random ids are drawn by whoever proposes, never inside `apply`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::env::Random;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct ParseIdError {
    /// The text that was offered.
    pub text: String,
    /// The kind of id.
    pub what: &'static str,
    /// What a valid one looks like.
    pub expected: &'static str,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero: "none" in fixed-width fields.
            pub const ZERO: Self = Self([0; $len]);

            /// Wraps raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            /// Wraps a slice of exactly the right length.
            ///
            /// # Errors
            /// When the slice has another length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseIdError> {
                bytes.try_into().map(Self).map_err(|_| ParseIdError {
                    text: hex::encode(bytes),
                    what: $what,
                    expected: $expected,
                })
            }
            /// Draws a fresh one.
            pub fn random(random: &dyn Random) -> Self {
                let mut bytes = [0; $len];
                random.fill(&mut bytes);
                Self(bytes)
            }
            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
            /// Whether all bytes are zero.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0 == [0; $len]
            }
            /// The first eight hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError {
                    text: text.to_owned(),
                    what: $what,
                    expected: $expected,
                })?;
                Ok(Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $what:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// Wraps the number.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value)
            }
            /// The number.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
            /// The next one.
            ///
            /// # Panics
            /// On overflow, which no fleet lives long enough to reach.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect(concat!($what, " overflow")))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| ParseIdError {
                    text: text.to_owned(),
                    what: $what,
                    expected: "a whole number",
                })
            }
        }
    };
}

bytes_id!(
    /// One coordinator cluster and all workload clusters it protects.
    FleetId, 16, "fleet id", "32 hexadecimal digits"
);
bytes_id!(
    /// A workload cluster, assigned by the fleet at registration.
    ClusterId, 16, "cluster id", "32 hexadecimal digits"
);
bytes_id!(
    /// An upload or read lease.
    LeaseId, 16, "lease id", "32 hexadecimal digits"
);
bytes_id!(
    /// A client's session, under which its writes are numbered.
    SessionId, 16, "session id", "32 hexadecimal digits"
);
bytes_id!(
    /// A data encryption key's public name.
    DekId, 16, "DEK id", "32 hexadecimal digits"
);
bytes_id!(
    /// SHA-256 of a bundle file's bytes: its name everywhere.
    BundleId, 32, "bundle id", "64 hexadecimal digits"
);
bytes_id!(
    /// SHA-256 of a public key: what people compare.
    KeyFingerprint, 32, "key fingerprint", "64 hexadecimal digits"
);
bytes_id!(
    /// An Ed25519 public key (RFC 8032, 32 bytes).
    SigningPublicKey, 32, "signing public key", "64 hexadecimal digits"
);

impl SigningPublicKey {
    /// SHA-256 of the key, which people compare.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of(self.as_bytes())
    }
}

impl KeyFingerprint {
    /// SHA-256 of a public key's bytes.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        Self(Sha256::digest(public_key).into())
    }

    /// Fingerprint of a fleet's recovery key: SHA-256 over a domain and both public halves.
    #[must_use]
    pub fn of_recovery_key(hpke: &[u8; 32], signing: &[u8; 32]) -> Self {
        Self(
            Sha256::digest([b"strongroom recovery public v1\0", &hpke[..], signing].concat())
                .into(),
        )
    }
}

impl BundleId {
    /// SHA-256 of the whole file.
    #[must_use]
    pub fn of(file: &[u8]) -> Self {
        Self(Sha256::digest(file).into())
    }
}

number_id!(
    /// A coordinator. Never reused, not even after removal.
    NodeId, u64, "node id"
);
number_id!(
    /// Fences agents of one cluster: of two, only the larger may commit.
    Epoch, u64, "epoch"
);
number_id!(
    /// Number of a recovery point within its cluster, from 1, without gaps.
    Sequence, u64, "sequence"
);
number_id!(
    /// The age of a key.
    Generation, u32, "generation"
);
number_id!(
    /// A place in the Raft log.
    LogIndex, u64, "log index"
);

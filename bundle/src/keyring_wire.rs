//! The serialised form of a keyring (protobuf), as it is sealed into a key bundle. Separate from
//! the keyring itself, so that bytes of a file become keys only here, checked.

use prost::Message;
use proto_types::{DekId, Generation, LogTime, MAX_DEK_IDS};
use zeroize::{Zeroize, Zeroizing};

use crate::keyring::{Dek, KekEntry, Keyring};
use crate::keys::{Kek, SigningKey};
use crate::secret::Secret32;

#[derive(Message)]
#[prost(skip_debug)]
struct KeyringWire {
    #[prost(uint32, tag = "1")]
    lineage: u32,
    #[prost(message, repeated, tag = "2")]
    keks: Vec<KekWire>,
    #[prost(message, repeated, tag = "3")]
    deks: Vec<DekWire>,
    #[prost(bytes = "vec", tag = "4")]
    blob_id_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    signing_seed: Vec<u8>,
}

#[derive(Message)]
#[prost(skip_debug)]
struct KekWire {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Message)]
#[prost(skip_debug)]
struct DekWire {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(uint64, tag = "3")]
    created_millis: u64,
    #[prost(bytes = "vec", tag = "4")]
    key: Vec<u8>,
}

impl Drop for KeyringWire {
    fn drop(&mut self) {
        self.blob_id_secret.zeroize();
        self.signing_seed.zeroize();
    }
}

impl Drop for KekWire {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Drop for DekWire {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The bytes of a keyring.
pub(crate) fn encode(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    let wire = KeyringWire {
        lineage: keyring.lineage(),
        keks: keyring
            .kek_entries()
            .iter()
            .map(|entry| KekWire {
                generation: entry.generation.get(),
                key: entry.kek.secret().expose().to_vec(),
            })
            .collect(),
        deks: keyring
            .deks()
            .iter()
            .map(|dek| DekWire {
                id: dek.id.as_bytes().to_vec(),
                generation: dek.generation.get(),
                created_millis: dek.created.as_millis(),
                key: dek.key.expose().to_vec(),
            })
            .collect(),
        blob_id_secret: keyring.blob_id_secret().expose().to_vec(),
        signing_seed: keyring.signing_key().seed().to_vec(),
    };
    // Allocated at its exact length: no copy of a key is left behind by growing.
    Zeroizing::new(wire.encode_to_vec())
}

/// The keyring of the bytes; what is wrong with it otherwise.
pub(crate) fn decode(bytes: &[u8]) -> Result<Keyring, &'static str> {
    let wire = KeyringWire::decode(bytes).map_err(|_| "the keyring does not parse")?;
    let keks = wire
        .keks
        .iter()
        .map(|entry| {
            let kek = Kek::from_secret(secret(&entry.key)?);
            Ok(KekEntry { generation: Generation::new(entry.generation), kek })
        })
        .collect::<Result<Vec<_>, &'static str>>()?;
    let deks = wire
        .deks
        .iter()
        .map(|dek| {
            Ok(Dek::new(
                DekId::from_slice(&dek.id).map_err(|_| "a DEK id has another length")?,
                Generation::new(dek.generation),
                LogTime::from_millis(dek.created_millis),
                secret(&dek.key)?,
            ))
        })
        .collect::<Result<Vec<_>, &'static str>>()?;
    let distinct: std::collections::BTreeSet<_> = deks.iter().map(|dek| dek.id).collect();
    if keks.is_empty() || deks.is_empty() || deks.len() > MAX_DEK_IDS {
        return Err("the keyring has no KEK, no DEK, or too many DEKs");
    }
    if distinct.len() != deks.len()
        || !deks.is_sorted_by(|a, b| a.generation < b.generation)
        || !keks.is_sorted_by(|a, b| a.generation < b.generation)
    {
        return Err("the keyring's generations are not in order");
    }
    let signing = SigningKey::from_seed(&secret(&wire.signing_seed)?);
    Ok(Keyring::from_parts(wire.lineage, keks, deks, secret(&wire.blob_id_secret)?, signing))
}

fn secret(bytes: &[u8]) -> Result<Secret32, &'static str> {
    Secret32::from_slice(bytes).ok_or("a key in the keyring is not 32 bytes")
}

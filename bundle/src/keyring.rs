//! A cluster's keys: KEK generations, DEKs, the blob-id secret, the signing key. The keyring
//! travels only inside a key bundle; it draws randomness and reads time only when handed them.

use std::collections::BTreeSet;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use proto_types::env::Random;
use proto_types::{DekId, Generation, LogTime, MAX_DEK_IDS};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::SealError;
use crate::blob::{BlobId, PlainBlob};
use crate::keys::{Kek, SigningKey};
use crate::secret::{Secret32, expand};

/// Age at which a DEK is replaced: 30 days.
pub const DEK_LIFETIME_MILLIS: u64 = 30 * 24 * 60 * 60 * 1000;

/// A data encryption key.
pub(crate) struct Dek {
    pub(crate) id: DekId,
    pub(crate) generation: Generation,
    pub(crate) created: LogTime,
    pub(crate) key: Secret32,
    /// The key after HKDF-Extract: done once, where every blob expands from it.
    extracted: Hkdf<Sha256>,
}

impl Dek {
    pub(crate) fn new(id: DekId, generation: Generation, created: LogTime, key: Secret32) -> Self {
        let extracted = key.hkdf();
        Self { id, generation, created, key, extracted }
    }
    /// A key for one record.
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Secret32 {
        expand(&self.extracted, info)
    }
}

/// One generation of the cluster's KEK.
pub(crate) struct KekEntry {
    pub(crate) generation: Generation,
    pub(crate) kek: Kek,
}

/// All keys of one cluster and lineage. Never empty: there is always a current KEK and DEK.
pub struct Keyring {
    lineage: u32,
    /// By generation, ascending; the last is the current one.
    keks: Vec<KekEntry>,
    /// By generation, ascending; the last is the current one.
    deks: Vec<Dek>,
    blob_id_secret: Secret32,
    /// The HMAC state after the secret was taken in.
    blob_id_mac: Hmac<Sha256>,
    signing: SigningKey,
}

impl Keyring {
    /// A new keyring for a new lineage, with a first DEK and blob-id secret of its own.
    #[must_use]
    pub fn create(
        lineage: u32,
        kek: &Kek,
        signing: &SigningKey,
        now: LogTime,
        random: &dyn Random,
    ) -> Self {
        let first = Generation::new(1);
        let dek = Dek::new(DekId::random(random), first, now, Secret32::random(random));
        let keks = vec![KekEntry { generation: first, kek: copy_kek(kek) }];
        let signing = copy_signing(signing);
        Self::from_parts(lineage, keks, vec![dek], Secret32::random(random), signing)
    }

    pub(crate) fn from_parts(
        lineage: u32,
        keks: Vec<KekEntry>,
        deks: Vec<Dek>,
        blob_id_secret: Secret32,
        signing: SigningKey,
    ) -> Self {
        assert!(!keks.is_empty() && !deks.is_empty(), "a keyring has a current KEK and DEK");
        let blob_id_mac =
            Hmac::new_from_slice(blob_id_secret.expose()).expect("HMAC takes keys of every length");
        Self { lineage, keks, deks, blob_id_secret, blob_id_mac, signing }
    }

    /// How often the chain of keys was begun anew.
    #[must_use]
    pub const fn lineage(&self) -> u32 {
        self.lineage
    }
    /// The cluster's signing key.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// The id of a plaintext.
    #[must_use]
    pub fn blob_id(&self, plaintext: &[u8]) -> BlobId {
        let mut mac = self.blob_id_mac.clone();
        mac.update(plaintext);
        BlobId::from_bytes(mac.finalize().into_bytes().into())
    }
    /// A plaintext with its id, to be sealed under this keyring if the id is not known yet.
    #[must_use]
    pub fn identify<'a>(&self, plaintext: &'a [u8]) -> PlainBlob<'a> {
        PlainBlob { id: self.blob_id(plaintext), plaintext }
    }

    /// The DEK that new blobs are sealed under.
    #[must_use]
    pub fn current_dek(&self) -> DekId {
        self.current().id
    }
    /// The ids of all DEKs, sorted, as headers name them.
    #[must_use]
    pub fn dek_ids(&self) -> Vec<DekId> {
        self.deks.iter().map(|dek| dek.id).collect::<BTreeSet<_>>().into_iter().collect()
    }
    /// Whether it opens what is sealed under this DEK.
    #[must_use]
    pub fn has_dek(&self, id: &DekId) -> bool {
        self.dek(id).is_some()
    }
    /// Whether the current DEK is 30 days old, so that [`Keyring::add_dek`] is due.
    #[must_use]
    pub fn dek_due(&self, now: LogTime) -> bool {
        now.millis_since(self.current().created) >= DEK_LIFETIME_MILLIS
    }
    /// Adds a new DEK, which becomes the current one.
    ///
    /// # Errors
    /// [`SealError::TooManyDeks`] when a header could not name them all: see
    /// [`Keyring::retain_deks`].
    pub fn add_dek(&mut self, now: LogTime, random: &dyn Random) -> Result<DekId, SealError> {
        if self.deks.len() >= MAX_DEK_IDS {
            return Err(SealError::TooManyDeks);
        }
        let generation = self.current().generation.next();
        let dek = Dek::new(DekId::random(random), generation, now, Secret32::random(random));
        let id = dek.id;
        self.deks.push(dek);
        Ok(id)
    }
    /// Drops DEKs that no blob of the point to be committed is sealed under; the current one
    /// stays. Older points keep theirs in their own key bundles.
    pub fn retain_deks(&mut self, needed: &BTreeSet<DekId>) {
        let current = self.current_dek();
        self.deks.retain(|dek| dek.id == current || needed.contains(&dek.id));
    }

    /// The generation of the KEK that new key bundles are wrapped under.
    #[must_use]
    pub fn kek_generation(&self) -> Generation {
        self.current_kek().generation
    }
    /// The generation of this KEK, if the keyring knows it. Takes constant time per generation.
    #[must_use]
    pub fn generation_of(&self, kek: &Kek) -> Option<Generation> {
        let offered = kek.secret().expose();
        self.keks
            .iter()
            .find(|entry| bool::from(entry.kek.secret().expose()[..].ct_eq(&offered[..])))
            .map(|entry| entry.generation)
    }
    /// All KEKs with their generations, ascending: what is needed to go on without the cluster.
    pub fn keks(&self) -> impl Iterator<Item = (Generation, &Kek)> {
        self.keks.iter().map(|entry| (entry.generation, &entry.kek))
    }
    /// Adds a KEK as the current generation; one that already is current changes nothing.
    pub fn add_kek(&mut self, kek: &Kek) -> Generation {
        let current = self.kek_generation();
        if self.generation_of(kek) == Some(current) {
            return current;
        }
        let generation = current.next();
        self.keks.push(KekEntry { generation, kek: copy_kek(kek) });
        generation
    }

    pub(crate) fn current(&self) -> &Dek {
        self.deks.last().expect("a keyring has a current DEK")
    }
    pub(crate) fn dek(&self, id: &DekId) -> Option<&Dek> {
        // The current one first: nearly all blobs are sealed under it.
        self.deks.iter().rev().find(|dek| dek.id == *id)
    }
    pub(crate) fn current_kek(&self) -> &KekEntry {
        self.keks.last().expect("a keyring has a current KEK")
    }
    pub(crate) fn kek_entries(&self) -> &[KekEntry] {
        &self.keks
    }
    pub(crate) fn deks(&self) -> &[Dek] {
        &self.deks
    }
    pub(crate) const fn blob_id_secret(&self) -> &Secret32 {
        &self.blob_id_secret
    }
}

fn copy_kek(kek: &Kek) -> Kek {
    Kek::from_secret(Secret32::from_slice(kek.secret().expose()).expect("a KEK is 32 bytes"))
}

fn copy_signing(key: &SigningKey) -> SigningKey {
    SigningKey::from_seed(&Secret32::from_slice(key.seed()).expect("a seed is 32 bytes"))
}

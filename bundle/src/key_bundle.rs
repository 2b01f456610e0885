//! Key bundles: the keyring and the sources' secrets under a content key of their own, and the
//! check an agent makes before it commits one (invariant B4). The content key's wraps are in
//! `wraps`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use proto_types::env::Random;
use proto_types::{BundleId, BundleKind, ClearHeader, DekId, SUITE_AES256GCM_HKDF_SHA256};
use zeroize::Zeroizing;

use crate::blob::{BlobId, RecordKind};
use crate::encoding::{Decoder, Encoder, Encoding};
use crate::file::{FileWriter, SealedBundle};
use crate::identity::{Expect, Identity, blank_header};
use crate::keyring::Keyring;
use crate::keys::{ContentKey, Kek};
use crate::record::{self, MAX_BLOB_BYTES, associated_data};
use crate::recovery_public::RecoveryPublic;
use crate::verify::{Verified, records, verify_bytes};
use crate::wraps::open_wraps_with_kek;
use crate::{OpenError, SealError, check_lineage, keyring_wire};

const AAD_DOMAIN: &[u8] = b"strongroom key bundle record v1";
const KEY_INFO: &[u8] = b"strongroom key bundle record key v1";

/// The sources' secrets of a point, by blob id; wiped on drop.
#[derive(Default)]
pub struct Secrets(BTreeMap<BlobId, Zeroizing<Vec<u8>>>);

impl Secrets {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes in a copy of one; equal ones are held once.
    pub fn insert(&mut self, keyring: &Keyring, secret: &[u8]) -> BlobId {
        let id = keyring.blob_id(secret);
        self.0.entry(id).or_insert_with(|| Zeroizing::new(secret.to_vec()));
        id
    }
    /// One of them.
    #[must_use]
    pub fn get(&self, id: &BlobId) -> Option<&[u8]> {
        self.0.get(id).map(|secret| secret.as_slice())
    }
    /// The ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = BlobId> {
        self.0.keys().copied()
    }
    /// Keeps only those that the point to be sealed needs.
    pub fn retain(&mut self, needed: &BTreeSet<BlobId>) {
        self.0.retain(|id, _| needed.contains(id));
    }
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A key bundle that was opened.
pub struct KeyBundle {
    /// The file.
    pub file: Verified,
    /// The keys.
    pub keyring: Keyring,
    /// The sources' secrets.
    pub secrets: Secrets,
}

/// What a point needs of its key bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyNeeds {
    /// The DEKs that its bundles are sealed under.
    pub deks: BTreeSet<DekId>,
    /// The blobs that its manifest places in the key bundle.
    pub secrets: BTreeSet<BlobId>,
}

impl KeyNeeds {
    /// Adds the DEKs that a config bundle or manifest file names. Every file of the point counts,
    /// those inherited from its parent and a delta's base included.
    pub fn add_file(&mut self, header: &ClearHeader) {
        self.deks.extend(&header.dek_ids);
    }
}

/// Writes a key bundle under a fresh content key, which is returned to be wrapped by
/// [`crate::seal_wraps`]. `predecessor` is the key bundle before, zero for the first.
///
/// # Errors
/// When the writer fails, a secret is too large, there are too many of them, or the lineages
/// differ.
pub fn seal_key_bundle<W: Write>(
    writer: W,
    keyring: &Keyring,
    secrets: &Secrets,
    identity: &Identity,
    predecessor: BundleId,
    recovery: &RecoveryPublic,
    random: &dyn Random,
) -> Result<(SealedBundle, ContentKey, W), SealError> {
    check_lineage(keyring, identity)?;
    let signing = keyring.signing_key();
    let mut header = blank_header(BundleKind::Key, identity, signing.public());
    header.predecessor = predecessor;
    header.recovery_key = recovery.fingerprint();
    header.kek_generation = keyring.kek_generation();
    header.dek_ids = keyring.dek_ids();
    header.blob_count = u32::try_from(secrets.len() + 1).map_err(|_| SealError::TooManyBlobs)?;

    let content_key = ContentKey::generate(random);
    let mut encoder = Encoder::new();
    let mut file = FileWriter::new(writer, BundleKind::Key)?;
    let mut seal = |index: u32, plaintext: &[u8]| {
        let key = record_key(&content_key, index);
        let aad = record_aad(&header, index);
        record::seal(&mut encoder, &key, &aad, plaintext, Encoding::Secret, random)
    };
    file.record(&seal(0, &keyring_wire::encode(keyring))?)?;
    for (index, (id, secret)) in (1_u32..).zip(&secrets.0) {
        let mut plaintext = Zeroizing::new(Vec::with_capacity(BlobId::LEN + secret.len()));
        plaintext.extend_from_slice(id.as_bytes());
        plaintext.extend_from_slice(secret);
        file.record(&seal(index, &plaintext)?)?;
    }
    let (bundle, writer) = file.finish(header, signing)?;
    Ok((bundle, content_key, writer))
}

/// Opens a key bundle. The content key comes from its wraps, whose names say which bundle it is.
///
/// # Errors
/// What [`crate::verify_bytes`] finds; [`OpenError::Sealed`] when a record does not open,
/// [`OpenError::Contents`] when one holds what no writer writes.
pub fn open_key_bundle(
    file: &[u8],
    content_key: &ContentKey,
    expect: &Expect,
) -> Result<KeyBundle, OpenError> {
    let kind = BundleKind::Key;
    let verified = verify_bytes(file, &expect.of_kind(kind))?;
    let header = verified.header.header();
    let mut decoder = Decoder::new();
    let mut opened = (0_u32..).zip(records(file, &verified.header)).map(|(index, record)| {
        let key = record_key(content_key, index);
        let aad = record_aad(header, index);
        record::open(&mut decoder, &key, &aad, record, MAX_BLOB_BYTES)
            .ok_or(OpenError::Sealed { kind, index })
    });
    let contents = |what| OpenError::Contents { kind, what };
    let keyring = opened.next().ok_or_else(|| contents("there is no keyring"))??;
    let keyring = keyring_wire::decode(&keyring).map_err(contents)?;
    if keyring.lineage() != header.lineage || keyring.dek_ids() != header.dek_ids {
        return Err(contents("the header names other keys than the keyring holds"));
    }
    let mut secrets = Secrets::new();
    for plaintext in opened {
        let plaintext = plaintext?;
        let (id, secret) = plaintext
            .split_first_chunk::<{ BlobId::LEN }>()
            .ok_or_else(|| contents("a secret has no id"))?;
        if secrets.insert(&keyring, secret) != BlobId::from_bytes(*id) {
            return Err(contents("a secret has another's id"));
        }
    }
    if secrets.len() + 1 != header.blob_count as usize {
        return Err(contents("a secret is there twice"));
    }
    Ok(KeyBundle { file: verified, keyring, secrets })
}

/// The agent's check before a commit (invariant B4): the key bundle opens through its KEK wrap,
/// holds every key and secret that the point needs, and its other wrap names the pinned recovery
/// key. Sequence and id in `expect` are not compared: a point may keep an older key bundle.
///
/// # Errors
/// What is missing or wrong, as [`OpenError`] names it.
pub fn check_key_bundle(
    key_file: &[u8],
    wraps_file: &[u8],
    kek: &Kek,
    pinned: &RecoveryPublic,
    needs: &KeyNeeds,
    expect: &Expect,
) -> Result<KeyBundle, OpenError> {
    let expect = Expect { sequence: None, id: None, ..*expect };
    let wraps = open_wraps_with_kek(wraps_file, kek, &expect)?;
    let (expected, found) = (pinned.fingerprint(), wraps.names.recovery_key);
    if expected != found {
        return Err(OpenError::NotThePinnedRecoveryKey { expected, found });
    }
    let bundle = open_key_bundle(key_file, &wraps.content_key, &expect)?;
    if wraps.names.key_bundle != bundle.file.id {
        let (expected, found) = (bundle.file.id, wraps.names.key_bundle);
        return Err(OpenError::WrongWraps { expected, found });
    }
    if let Some(dek) = needs.deks.iter().find(|dek| !bundle.keyring.has_dek(dek)) {
        return Err(OpenError::UnknownDek(*dek));
    }
    if let Some(id) = needs.secrets.iter().find(|id| bundle.secrets.get(id).is_none()) {
        return Err(OpenError::MissingSecret(*id));
    }
    Ok(bundle)
}

fn record_key(content_key: &ContentKey, index: u32) -> crate::secret::Secret32 {
    content_key.secret().derive(&[KEY_INFO, &index.to_le_bytes()])
}

/// Associated data of one record (invariant K2). With index and count in it, none can be left
/// out or moved.
fn record_aad(header: &ClearHeader, index: u32) -> Vec<u8> {
    let kind = if index == 0 { RecordKind::Keyring } else { RecordKind::Secret };
    associated_data(&[
        AAD_DOMAIN,
        &SUITE_AES256GCM_HKDF_SHA256.to_le_bytes(),
        header.fleet.as_bytes(),
        header.cluster.as_bytes(),
        &header.lineage.to_le_bytes(),
        &header.sequence.get().to_le_bytes(),
        &[kind.to_byte()],
        &index.to_le_bytes(),
        &header.blob_count.to_le_bytes(),
    ])
}

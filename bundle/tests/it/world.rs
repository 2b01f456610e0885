//! A small cluster with everything in it, sealed under a random generator that only counts.

use std::sync::atomic::{AtomicU64, Ordering};

use bundle::{
    BlobId, ConfigSealer, ContentKey, Encoding, Expect, FileTime, Form, Identity, Item, ItemKey,
    ItemKind, Kek, Keyring, Location, Manifest, Piece, Proof, ProofState, RecoverySecret,
    SealedBundle, Secrets, SigningKey, Totals, Xattr, seal_key_bundle, seal_manifest, seal_wraps,
};
use ed25519_dalek::Signer;
use proto_types::env::Random;
use proto_types::{
    BundleId, ClearHeader, ClusterId, Epoch, FleetId, LogTime, Sequence, SignedHeader,
    SigningPublicKey, header_signing_input,
};
use sha2::{Digest, Sha256};

/// SHA-256 of a seed and a counter: the same bytes every time, none twice.
pub(crate) struct Counting {
    seed: u64,
    next: AtomicU64,
}

impl Counting {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }
}

impl Random for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(32) {
            let count = self.next.fetch_add(1, Ordering::Relaxed);
            let block = Sha256::digest([self.seed.to_le_bytes(), count.to_le_bytes()].concat());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

pub(crate) const FLEET: FleetId = FleetId::from_bytes([0x11; 16]);
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([0x22; 16]);
pub(crate) const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

pub(crate) const CONFIG_MAP: &[u8] =
    b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: ConfigMap\n\
      metadata:\n  name: b\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n";
pub(crate) const TOKEN: &[u8] = b"token: hunter2\n";
pub(crate) const TINY: &[u8] = b"x";
pub(crate) const UNSEAL_KEY: &[u8] = b"unseal key number one";
pub(crate) const STORE_SECRET: &[u8] = &[0x5a; 300];

pub(crate) fn identity(sequence: u64) -> Identity {
    Identity {
        fleet: FLEET,
        cluster: CLUSTER,
        lineage: 0,
        sequence: Sequence::new(sequence),
        epoch: Epoch::new(7),
        created: LogTime::from_millis(1_790_000_000_000 + sequence),
    }
}

/// Everything of a cluster with two points: the second a delta on the first.
pub(crate) struct World {
    pub(crate) random: Counting,
    pub(crate) kek: Kek,
    pub(crate) signing: SigningKey,
    pub(crate) recovery: RecoverySecret,
    pub(crate) keyring: Keyring,
    pub(crate) content_key: ContentKey,
    pub(crate) config: Vec<u8>,
    pub(crate) config_id: BundleId,
    pub(crate) key: Vec<u8>,
    pub(crate) key_id: BundleId,
    pub(crate) wraps: Vec<u8>,
    pub(crate) full: Manifest,
    pub(crate) full_file: Vec<u8>,
    pub(crate) full_id: BundleId,
    pub(crate) second: Manifest,
    pub(crate) delta_file: Vec<u8>,
    pub(crate) delta_id: BundleId,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Counting::new(seed);
        let kek = Kek::generate(&random);
        let signing = SigningKey::generate(&random);
        let recovery = RecoverySecret::generate(&random);
        let born = LogTime::from_millis(1_790_000_000_000);
        let mut keyring = Keyring::create(0, &kek, &signing, born, &random);
        keyring.add_dek(born.plus_millis(30 * DAY_MILLIS), &random).unwrap();

        let mut config = ConfigSealer::new(Vec::new(), &keyring, identity(1)).unwrap();
        let mut put = |bytes: &[u8], encoding| {
            config.seal(&keyring.identify(bytes), encoding, &random).unwrap()
        };
        let map = put(CONFIG_MAP, Encoding::Compress);
        let token = put(TOKEN, Encoding::Secret);
        let tiny = put(TINY, Encoding::Compress);
        let (config, config_bytes) = config.finish().unwrap();

        let mut secrets = Secrets::new();
        let unseal = secrets.insert(&keyring, UNSEAL_KEY);
        let store = secrets.insert(&keyring, STORE_SECRET);
        let (key, content_key, key_bytes) = seal_key_bundle(
            Vec::new(),
            &keyring,
            &secrets,
            &identity(1),
            BundleId::ZERO,
            &recovery.public(),
            &random,
        )
        .unwrap();
        let (_, wraps) = seal_wraps(
            Vec::new(),
            &keyring,
            &content_key,
            key.id,
            &identity(1),
            &recovery.public(),
            &random,
        )
        .unwrap();

        let in_config = |blob| Piece::in_config(config.id, &blob);
        let mut items = vec![
            item("etc", ItemKind::Directory, vec![]),
            item("etc/map.yaml", ItemKind::File, vec![in_config(map)]),
            item(
                "etc/sparse",
                ItemKind::File,
                vec![Piece::Hole { len: 1 << 40 }, in_config(tiny), Piece::Hole { len: 5 }],
            ),
            item("etc/token", ItemKind::File, vec![in_config(token)]),
            item("keys/store", ItemKind::File, vec![in_key(store, STORE_SECRET)]),
            item("keys/unseal", ItemKind::File, vec![in_key(unseal, UNSEAL_KEY)]),
            item("link", ItemKind::Symlink, vec![]),
        ];
        items[1].xattrs = vec![
            Xattr { name: b"user.a".to_vec(), value: b"1".to_vec() },
            Xattr { name: b"user.b".to_vec(), value: vec![0, 255] },
        ];
        items[3].hard_link = Some(9);
        items[6].link_target = b"etc/nowhere\xff".to_vec();
        items[6].modified = FileTime { seconds: -3, nanos: 999_999_999 };
        items.push(item("name", ItemKind::File, vec![]));
        items.last_mut().unwrap().key.path = b"name\xff".to_vec();
        let full = Manifest {
            sequence: Sequence::new(1),
            key_bundle: key.id,
            form: Form::Full,
            totals: Totals::of(&items),
            items,
            proofs: vec![Proof { source: "files".into(), state: ProofState::Proved }],
        };
        let (full_sealed, full_file) =
            seal_manifest(Vec::new(), &keyring, &identity(1), BundleId::ZERO, &full, &random)
                .unwrap();

        let mut second = full.clone();
        second.sequence = Sequence::new(2);
        second.items.remove(4);
        second.items[1].content = vec![in_config(tiny)];
        second.items[1].size = 1;
        second.items.insert(0, item("added", ItemKind::File, vec![in_config(tiny)]));
        second.totals = Totals::of(&second.items);
        second.proofs = vec![
            Proof { source: "files".into(), state: ProofState::Unproved("not looked at".into()) },
            Proof { source: "vault".into(), state: ProofState::Failed("truncated".into()) },
        ];
        let delta = bundle::delta(full_sealed.id, &full, second.clone()).unwrap();
        let (delta_sealed, delta_file) =
            seal_manifest(Vec::new(), &keyring, &identity(2), full_sealed.id, &delta, &random)
                .unwrap();

        Self {
            random,
            kek,
            signing,
            recovery,
            content_key,
            config: config_bytes,
            config_id: config.id,
            key: key_bytes,
            key_id: key.id,
            wraps,
            full,
            full_file,
            full_id: full_sealed.id,
            second,
            delta_file,
            delta_id: delta_sealed.id,
            keyring,
        }
    }

    pub(crate) fn expect(&self) -> Expect {
        Expect::of(FLEET, CLUSTER).signed_by(self.signing.public())
    }

    /// One file of each kind.
    pub(crate) fn files(&self) -> [(&'static str, &[u8]); 5] {
        [
            ("config", &self.config),
            ("key", &self.key),
            ("wraps", &self.wraps),
            ("full manifest", &self.full_file),
            ("delta manifest", &self.delta_file),
        ]
    }
}

pub(crate) fn item(path: &str, kind: ItemKind, content: Vec<Piece>) -> Item {
    Item {
        key: ItemKey { source: "files".into(), path: path.as_bytes().to_vec() },
        kind,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        modified: FileTime { seconds: 1_790_000_000, nanos: 5 },
        link_target: Vec::new(),
        hard_link: None,
        xattrs: Vec::new(),
        size: content.iter().map(Piece::plain_len).sum(),
        content,
    }
}

pub(crate) fn in_key(id: BlobId, secret: &[u8]) -> Piece {
    let plain_len = u32::try_from(secret.len()).unwrap();
    Piece::Blob { id, plain_len, location: Location::Key }
}

/// The header of a file.
pub(crate) fn header_of(file: &[u8]) -> ClearHeader {
    SignedHeader::from_tail(file, file.len() as u64).unwrap().header().clone()
}

/// The records of a file's body, found by their lengths.
pub(crate) fn records_of(file: &[u8]) -> Vec<Vec<u8>> {
    let header = header_of(file);
    let nonce = if header.kind == proto_types::BundleKind::Wraps { 0 } else { 12 };
    let mut rest = &file[16..usize::try_from(header.body_bytes).unwrap()];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let (record, next) = rest.split_at(4 + nonce + len);
        records.push(record.to_vec());
        rest = next;
    }
    records
}

/// What a coordinator or thief without the cluster's keys can do: put records and header together
/// anew and sign that with a key of its own.
pub(crate) fn forge(
    records: &[Vec<u8>],
    change: impl FnOnce(&mut ClearHeader),
    of: &[u8],
) -> Vec<u8> {
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[0x66; 32]);
    let mut header = header_of(of);
    let mut file = header.kind.lead().to_vec();
    file.extend(records.iter().flatten());
    header.blob_count = u32::try_from(records.len()).unwrap();
    change(&mut header);
    header.body_bytes = file.len() as u64;
    header.body_sha256 = Sha256::digest(&file).into();
    header.signer = SigningPublicKey::from_bytes(stranger.verifying_key().to_bytes());
    let signature = stranger.sign(&header_signing_input(&header.encode())).to_bytes();
    file.extend(SignedHeader::new(header, signature).to_trailer());
    file
}

/// As [`forge`], with the file's own records.
pub(crate) fn forge_header(of: &[u8], change: impl FnOnce(&mut ClearHeader)) -> Vec<u8> {
    forge(&records_of(of), change, of)
}

/// A config bundle of these plaintexts.
pub(crate) fn config_of(
    keyring: &Keyring,
    random: &dyn Random,
    plaintexts: &[&[u8]],
) -> (SealedBundle, Vec<u8>, Vec<bundle::BlobRef>) {
    let mut sealer = ConfigSealer::new(Vec::new(), keyring, identity(1)).unwrap();
    let refs = plaintexts
        .iter()
        .map(|plain| sealer.seal(&keyring.identify(plain), Encoding::Compress, random).unwrap())
        .collect();
    let (sealed, file) = sealer.finish().unwrap();
    (sealed, file, refs)
}

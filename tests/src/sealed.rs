//! Valid sealed bundles for tests that speak the protocol themselves: the four files of a
//! recovery point, made by the product's own sealer. What is wrong with them, a test decides.

use bundle::{
    ConfigSealer, Encoding, FileTime, Form, Identity, Item, ItemKey, ItemKind, Keyring, Manifest,
    Piece, Proof, ProofState, RecoveryPublic, SealedBundle, Secrets, Totals,
};
use bytes::Bytes;
use proto_types::BundleId;
use proto_types::env::SystemRandom;

/// One bundle file.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What it is.
    pub bundle: SealedBundle,
    /// Its bytes.
    pub file: Vec<u8>,
}

/// The four files of a point.
#[derive(Debug, Clone)]
pub struct PointFiles {
    /// The items' blobs.
    pub config: Sealed,
    /// The list of items.
    pub manifest: Sealed,
    /// The keyring and the secrets.
    pub key: Sealed,
    /// What opens the key bundle.
    pub wraps: Sealed,
}

/// What the new point follows; zeros for the first.
#[derive(Debug, Clone, Copy)]
pub struct Parent {
    /// Its manifest.
    pub manifest: BundleId,
    /// Its key bundle.
    pub key_bundle: BundleId,
}

impl Parent {
    /// There is none.
    pub const NONE: Self = Self { manifest: BundleId::ZERO, key_bundle: BundleId::ZERO };
}

/// Something to be backed up.
#[derive(Debug, Clone)]
pub struct Content {
    /// Path within the source.
    pub path: String,
    /// Bytes.
    pub bytes: Vec<u8>,
    /// Whether it goes into the key bundle.
    pub is_secret: bool,
}

impl Content {
    /// A file.
    #[must_use]
    pub fn file(path: &str, bytes: &[u8]) -> Self {
        Self { path: path.to_owned(), bytes: bytes.to_vec(), is_secret: false }
    }
    /// A file that is a key.
    #[must_use]
    pub fn secret(path: &str, bytes: &[u8]) -> Self {
        Self { is_secret: true, ..Self::file(path, bytes) }
    }
}

impl Sealed {
    fn of((bundle, file): (SealedBundle, Vec<u8>)) -> Self {
        Self { bundle, file }
    }
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> BundleId {
        self.bundle.id
    }
    /// Its name, as the protocol has it.
    #[must_use]
    pub fn id_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.bundle.id.as_bytes())
    }
    /// The word for its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.bundle.header.header().kind.as_str()
    }
}

impl PointFiles {
    /// Seals a full point.
    ///
    /// # Panics
    /// When the contents are not valid.
    #[must_use]
    pub fn seal(
        keyring: &Keyring,
        identity: Identity,
        parent: Parent,
        contents: &[Content],
        recovery: &RecoveryPublic,
    ) -> Self {
        let random = &SystemRandom;
        let mut sealer = ConfigSealer::new(Vec::new(), keyring, identity).expect("one lineage");
        let mut secrets = Secrets::new();
        let mut placed = Vec::new();
        for content in contents {
            let blob = keyring.identify(&content.bytes);
            let reference = if content.is_secret {
                secrets.insert(keyring, &content.bytes);
                None
            } else {
                let sealed = sealer.seal(&blob, Encoding::Compress, random);
                Some(sealed.expect("a test's contents are small"))
            };
            placed.push((content, blob.id(), reference));
        }
        let config = Sealed::of(sealer.finish().expect("memory can be written"));
        let (key, content_key, file) = bundle::seal_key_bundle(
            Vec::new(),
            keyring,
            &secrets,
            &identity,
            parent.key_bundle,
            recovery,
            random,
        )
        .expect("memory can be written");
        let key = Sealed { bundle: key, file };
        let wraps = Sealed::of(
            bundle::seal_wraps(
                Vec::new(),
                keyring,
                &content_key,
                key.id(),
                &identity,
                recovery,
                random,
            )
            .expect("memory can be written"),
        );
        let mut items: Vec<Item> = placed
            .into_iter()
            .map(|(content, id, reference)| {
                let plain_len = u32::try_from(content.bytes.len()).expect("small");
                item(
                    content,
                    reference.map_or(
                        Piece::Blob { id, plain_len, location: bundle::Location::Key },
                        |blob| Piece::in_config(config.id(), &blob),
                    ),
                )
            })
            .collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let manifest = Manifest {
            sequence: identity.sequence,
            key_bundle: key.id(),
            form: Form::Full,
            totals: Totals::of(&items),
            items,
            proofs: vec![Proof { source: "directory".to_owned(), state: ProofState::Proved }],
        };
        let manifest = Sealed::of(
            bundle::seal_manifest(
                Vec::new(),
                keyring,
                &identity,
                parent.manifest,
                &manifest,
                random,
            )
            .expect("a valid manifest"),
        );
        Self { config, manifest, key, wraps }
    }

    /// All four, in the order of uploading.
    #[must_use]
    pub const fn all(&self) -> [&Sealed; 4] {
        [&self.config, &self.key, &self.wraps, &self.manifest]
    }
}

fn item(content: &Content, piece: Piece) -> Item {
    Item {
        key: ItemKey { source: "directory".to_owned(), path: content.path.as_bytes().to_vec() },
        kind: ItemKind::File,
        mode: 0o640,
        uid: 0,
        gid: 0,
        modified: FileTime { seconds: 1_700_000_000, nanos: 5 },
        link_target: Vec::new(),
        hard_link: None,
        xattrs: Vec::new(),
        size: content.bytes.len() as u64,
        content: vec![piece],
    }
}

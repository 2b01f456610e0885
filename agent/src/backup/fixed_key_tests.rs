//! A source whose vendor seals values under a key that is the same everywhere.

use bundle::{Kek, SigningKey};
use proto_types::{Epoch, FleetId, LogTime, Sequence};

use super::*;
use crate::config::DirectoryConfig;
use crate::progress::NoProgress;
use crate::sources::{Content, DirectorySource, FixedKey, Listing, SourceError};

/// What stands in the vendor's program.
const FIXED: &[u8] = b"a key that everybody has";

fn stream(len: usize) -> Vec<u8> {
    let blocks = (0_u64..).flat_map(|n| Sha256::digest([FIXED, &n.to_le_bytes()].concat()));
    blocks.take(len).collect()
}

fn tag(sealed: &[u8]) -> [u8; 8] {
    Sha256::digest([FIXED, sealed].concat())[..8].try_into().unwrap()
}

/// `name=ENC(hex)`: the vendor's stream over the value, then its tag.
fn vendor_seals(name: &str, value: &str) -> String {
    let sealed: Vec<u8> = value.bytes().zip(stream(value.len())).map(|(a, b)| a ^ b).collect();
    format!("{name}=ENC({}{})\n", hex::encode(&sealed), hex::encode(tag(&sealed)))
}

struct Vendor(DirectorySource);

impl FixedKey for Vendor {
    fn is_in(&self, entry: &Entry, piece: &[u8]) -> bool {
        let text = String::from_utf8_lossy(piece);
        entry.path.ends_with(b".conf")
            && text.lines().any(|line| {
                let value = line.split_once("=ENC(").and_then(|(_, rest)| rest.strip_suffix(')'));
                let bytes = value.and_then(|value| hex::decode(value).ok()).unwrap_or_default();
                bytes.split_last_chunk::<8>().is_some_and(|(sealed, found)| tag(sealed) == *found)
            })
    }
}

impl Source for Vendor {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn kind(&self) -> &'static str {
        "vendor"
    }
    fn list(&self) -> Result<Listing, SourceError> {
        self.0.list()
    }
    fn open(&self, entry: &Entry) -> Result<Content, ReadError> {
        self.0.open(entry)
    }
    fn attributes(&self, entry: &Entry) -> Result<Vec<Attribute>, ReadError> {
        self.0.attributes(entry)
    }
    fn link_target(&self, entry: &Entry) -> Result<Vec<u8>, ReadError> {
        self.0.link_target(entry)
    }
    fn fixed_key(&self) -> Option<&dyn FixedKey> {
        Some(self)
    }
}

#[tokio::test]
async fn fixed_key_values_are_taken_for_secrets_and_reported() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let sealed = vendor_seals("ldap", "hunter2");
    // A value under another key than the fixed one, and text that only looks like it.
    let other = "ldap=ENC(00112233445566778899aabbccddeeff)\n";
    for (name, text) in [("old.conf", sealed.as_str()), ("new.conf", other), ("notes", &sealed)] {
        std::fs::write(root.join(name), text).unwrap();
    }
    let none = crate::patterns::Patterns::default;
    let config = DirectoryConfig { path: root, keys: none(), include: none(), exclude: none() };
    let source: Arc<dyn Source> =
        Arc::new(Vendor(DirectorySource::open("vendor", &config).unwrap()));
    let env = Env::system();
    let (kek, signing) = (Kek::generate(&*env.random), SigningKey::generate(&*env.random));
    let keyring = Arc::new(Keyring::create(0, &kek, &signing, LogTime::ZERO, &*env.random));
    let entries = source.list().unwrap().entries;
    let input = SealInput {
        env,
        keyring: keyring.clone(),
        identity: Identity {
            fleet: FleetId::ZERO,
            cluster: ClusterId::ZERO,
            lineage: 0,
            sequence: Sequence::new(1),
            epoch: Epoch::new(1),
            created: LogTime::ZERO,
        },
        known: Arc::new(KnownBlobs::new()),
        spool: temp.path().join("spool"),
        progress: Arc::new(NoProgress),
        bytes_total: 0,
        secrets_apart: true,
    };
    let output = tokio::task::spawn_blocking(move || seal(&input, &[(source, entries)]));
    let output = output.await.unwrap().unwrap();
    assert_eq!(output.troubles[0], [(Trouble::FixedKey, b"old.conf".to_vec())]);
    // It is in the key bundle, under the cluster's own keys, byte for byte; the others are not.
    let id = keyring.blob_id(sealed.as_bytes());
    assert_eq!(output.secrets.get(&id), Some(sealed.as_bytes()));
    assert_eq!(output.secrets.len(), 1);
}

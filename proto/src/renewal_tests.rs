use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;

use proto_types::env::{Clock, SystemClock, SystemRandom};
use proto_types::{FleetId, NodeId};

use super::*;
use crate::authority::{Intermediate, Root, Term, certificate_pem};
use crate::identity::{Identity, Party};

const FLEET: FleetId = FleetId::from_bytes([7; 16]);

struct Place {
    files: TlsFiles,
    intermediate: Intermediate,
    directory: tempfile::TempDir,
}

fn identity(node: u64) -> Identity {
    Identity { fleet: FLEET, party: Party::Coordinator(NodeId::new(node)) }
}

impl Place {
    fn new() -> Self {
        crate::tls::install_crypto_provider();
        let now = SystemClock.now();
        let root = Root::create(FLEET, now, &SystemRandom).unwrap();
        let intermediate = root.intermediate(FLEET, now, &SystemRandom).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = TlsFiles { ca: at("ca"), certificate: at("crt"), key: at("key") };
        let key = PrivateKey::generate().unwrap();
        let term = Term { generation: 1, life_ms: 60_000 };
        let certified =
            intermediate.certify(&identity(1), &key, &term, now, &SystemRandom).unwrap();
        std::fs::write(&files.ca, certificate_pem(root.certificate())).unwrap();
        std::fs::write(&files.certificate, certified.chain).unwrap();
        std::fs::write(&files.key, key.to_pem().as_bytes()).unwrap();
        Self { files, intermediate, directory }
    }

    fn sign(&self, request: &[u8], node: u64) -> String {
        let term = Term { generation: 1, life_ms: 600_000 };
        let identity = identity(node);
        let signed = self.intermediate.certify_request(
            &identity,
            request,
            &term,
            SystemClock.now(),
            &SystemRandom,
        );
        signed.unwrap().chain
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_on_the_disk_with_its_new_key() {
    let place = Place::new();
    let env = Env::system();
    let tls = place.files.load().unwrap();
    let old = (tls.certificate(), std::fs::read(&place.files.key).unwrap());
    let ask = |request: Vec<u8>| std::future::ready(Ok(place.sign(&request, 1)));
    once(&env, &place.files, &tls, &ask).await.unwrap();
    let new = (tls.certificate(), std::fs::read(&place.files.key).unwrap());
    assert_ne!(old.0, new.0);
    assert_ne!(old.1, new.1, "a new key each time");
    assert_eq!(place.files.load().unwrap().certificate(), new.0);
    assert_eq!(place.names(), ["ca", "crt", "key"]);
    for path in [&place.files.key, &place.files.certificate] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn what_is_not_this_partys_certificate_replaces_nothing() {
    let place = Place::new();
    let env = Env::system();
    let tls = place.files.load().unwrap();
    let before = tls.certificate();
    let stranger = Place::new();
    let keys = RefCell::new(Vec::new());
    for kind in 0..3 {
        let ask = |request: Vec<u8>| {
            keys.borrow_mut().push(crate::authority::requested_key(&request).unwrap());
            let other = PrivateKey::generate().unwrap().request().unwrap();
            let chain = match kind {
                0 => place.sign(&request, 2),
                1 => place.sign(&other, 1),
                _ => stranger.sign(&request, 1),
            };
            async { Ok(chain) }
        };
        let refused = once(&env, &place.files, &tls, &ask).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{kind}: {refused}");
        assert_eq!(tls.certificate(), before, "{kind}");
        assert_eq!(place.files.load().unwrap().certificate(), before, "{kind}");
    }
    let keys = keys.into_inner();
    assert!(keys.iter().all(|key| *key == keys[0]), "the key of a try that failed is tried again");
}

#[tokio::test]
async fn a_renewal_cut_off_at_any_moment_leaves_a_pair_that_fits() {
    for cut in 0..4 {
        let place = Place::new();
        let before = place.files.load().unwrap().certificate();
        let key = place.files.next_key().unwrap();
        let chain = place.sign(&key.request().unwrap(), 1);
        match cut {
            0 => {}
            1 => std::fs::write(beside(&place.files.certificate), &chain[..99]).unwrap(),
            2 => std::fs::write(&place.files.certificate, &chain).unwrap(),
            _ => place.files.replace(&chain).unwrap(),
        }
        let after = place.files.load().unwrap().certificate();
        assert_eq!(after != before, cut >= 2, "{cut}");
        // And the next one goes on from there.
        let tls = place.files.load().unwrap();
        let ask = |request: Vec<u8>| std::future::ready(Ok(place.sign(&request, 1)));
        once(&Env::system(), &place.files, &tls, &ask).await.unwrap();
        assert_eq!(place.files.load().unwrap().certificate(), tls.certificate());
        assert_eq!(place.names(), ["ca", "crt", "key"], "{cut}");
    }
    // Half a key that a full disk left is no key.
    let place = Place::new();
    std::fs::write(place.files.key_next(), "-----BEGIN").unwrap();
    place.files.next_key().unwrap();
}

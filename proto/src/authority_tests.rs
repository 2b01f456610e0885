use proto_types::env::SystemRandom;
use proto_types::{ClusterId, NodeId};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::identity::{Party, Role, coordinator_server_name};
use crate::pinned::PinnedRoot;

const FLEET: FleetId = FleetId::from_bytes([7; 16]);
/// 2026-11-21.
const NOW: LogTime = LogTime::from_millis(1_795_219_200_000);
const NODE: Identity = Identity { fleet: FLEET, party: Party::Coordinator(NodeId::new(4)) };

/// As long as the intermediate.
const LONG: Term = Term { generation: 0, life_ms: u64::MAX };

fn fleet() -> (Root, Intermediate) {
    crate::tls::install_crypto_provider();
    let root = Root::create(FLEET, NOW, &SystemRandom).unwrap();
    let intermediate = root.intermediate(FLEET, NOW, &SystemRandom).unwrap();
    (root, intermediate)
}

fn is_trusted(root: &Root, chain: &str, at: LogTime) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(root.certificate().to_vec())).unwrap();
    let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
    let chain = certificates_of(chain.as_bytes()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(at.as_millis()));
    verifier.verify_client_cert(&chain[0], &chain[1..], now).is_ok()
}

#[test]
fn authority_certifies_parties_of_its_fleet_and_nobody_else() {
    let (root, intermediate) = fleet();
    let key = PrivateKey::generate().unwrap();
    let certified = intermediate.certify(&NODE, &key, &LONG, NOW, &SystemRandom).unwrap();
    let chain = certificates_of(certified.chain.as_bytes()).unwrap();
    assert_eq!(chain.len(), 3, "up to the root, which a joining node looks for");
    assert_eq!(Identity::from_certificate(&chain[0]).unwrap(), NODE);
    assert!(is_trusted(&root, &certified.chain, NOW));
    // As long as the intermediate, which is five years, and the root twenty.
    assert!(is_trusted(&root, &certified.chain, NOW.plus_millis(5 * YEAR_MS - DAY_MS)));
    assert!(!is_trusted(&root, &certified.chain, NOW.plus_millis(5 * YEAR_MS + DAY_MS)));
    assert_eq!(intermediate.ends().millis_since(NOW), 5 * YEAR_MS);
    assert_eq!(not_after(root.certificate()).unwrap().millis_since(NOW), 20 * YEAR_MS);
    let late = NOW.plus_millis(17 * YEAR_MS);
    let last = root.intermediate(FLEET, late, &SystemRandom).unwrap();
    assert_eq!(last.ends(), not_after(root.certificate()).unwrap(), "not beyond the root");

    // The name constraint: a stolen intermediate makes nobody of another fleet.
    let strange = Identity {
        fleet: FleetId::from_bytes([8; 16]),
        party: Party::Agent(ClusterId::from_bytes([1; 16])),
    };
    let certified = intermediate.certify(&strange, &key, &LONG, NOW, &SystemRandom).unwrap();
    assert!(!is_trusted(&root, &certified.chain, NOW));
    let (other, _) = fleet();
    let certified = intermediate.certify(&NODE, &key, &LONG, NOW, &SystemRandom).unwrap();
    assert!(!is_trusted(&other, &certified.chain, NOW));
}

#[test]
fn authority_comes_back_from_its_files_and_from_its_opened_key() {
    let (root, intermediate) = fleet();
    let chain = intermediate.chain().as_bytes().to_vec();
    let again = Intermediate::from_pem(&chain, &intermediate.key().to_pem()).unwrap();
    assert_eq!((again.root(), again.ends()), (root.certificate(), intermediate.ends()));
    let stranger = PrivateKey::generate().unwrap();
    assert!(Intermediate::from_pem(&chain, &stranger.to_pem()).is_err());
    let (_, other) = fleet();
    let mixed = [intermediate.chain(), other.chain()].map(|chain| {
        let at = chain[1..].find("-----BEGIN").unwrap() + 1;
        chain.split_at(at)
    });
    let mixed = [mixed[0].0, mixed[1].1].concat();
    assert!(Intermediate::from_pem(mixed.as_bytes(), &intermediate.key().to_pem()).is_err());

    let reopened = Root::reopen(root.certificate(), root.key().as_der()).unwrap();
    let renewed = reopened.intermediate(FLEET, NOW, &SystemRandom).unwrap();
    let key = PrivateKey::generate().unwrap();
    let certified = renewed.certify(&NODE, &key, &LONG, NOW, &SystemRandom).unwrap();
    assert!(is_trusted(&root, &certified.chain, NOW));
    assert!(Root::reopen(root.certificate(), stranger.as_der()).is_err());
}

#[test]
fn authority_certifies_the_key_of_a_request_and_the_name_it_was_told() {
    let (root, intermediate) = fleet();
    let key = PrivateKey::generate().unwrap();
    let request = key.request().unwrap();
    let certified =
        intermediate.certify_request(&NODE, &request, &LONG, NOW, &SystemRandom).unwrap();
    assert!(is_trusted(&root, &certified.chain, NOW));
    assert_eq!(certified.key, requested_key(&request).unwrap());
    let leaf = certificates_of(certified.chain.as_bytes()).unwrap().remove(0);
    assert!(is_key_of(&key, &leaf).unwrap());
    // Without the key nobody can ask for a certificate of it.
    for at in 0..request.len() {
        let mut forged = request.clone();
        forged[at] ^= 1;
        // A bit that means nothing may differ; what is asked for may not.
        let found = requested_key(&forged).ok();
        assert!(found.is_none_or(|found| found == certified.key), "byte {at}");
    }
    assert!(requested_key(b"").is_err());
}

#[test]
fn pinned_root_is_the_only_one_trusted() {
    let (root, intermediate) = fleet();
    let (impostor, false_intermediate) = fleet();
    let key = PrivateKey::generate().unwrap();
    let name = ServerName::try_from(coordinator_server_name(FLEET)).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(NOW.as_millis()));
    let pinned = PinnedRoot::new(certificate_digest(root.certificate()));
    let accepts = |chain: &[CertificateDer<'_>]| {
        pinned.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
    };
    let chain_of = |intermediate: &Intermediate, identity: &Identity| {
        let certified = intermediate.certify(identity, &key, &LONG, NOW, &SystemRandom).unwrap();
        certificates_of(certified.chain.as_bytes()).unwrap()
    };
    let good = chain_of(&intermediate, &NODE);
    assert!(accepts(&good));
    assert!(!accepts(&good[..2]), "the root must be shown");
    let bad = chain_of(&false_intermediate, &NODE);
    assert!(!accepts(&bad));
    // The right root beside a chain that is not below it.
    assert!(!accepts(&[bad[0].clone(), bad[1].clone(), good[2].clone()]));
    let agent = Party::Agent(ClusterId::from_bytes([1; 16]));
    let agent = chain_of(&intermediate, &Identity { fleet: FLEET, party: agent });
    assert!(!accepts(&agent), "an agent is no coordinator");
    drop(impostor);
}

#[test]
fn certificates_say_their_generation_and_when_they_renew() {
    let (root, intermediate) = fleet();
    let key = PrivateKey::generate().unwrap();
    let party = Party::Operator { name: "ann".to_owned(), role: Role::Admin };
    let ann = Identity { fleet: FLEET, party };
    for (generation, life_ms, ends_ms, renews_ms) in [
        (0, 90_000, 90_000, 60_000),
        (7, 90 * DAY_MS, 90 * DAY_MS, 60 * DAY_MS),
        (u32::MAX, u64::MAX, 5 * YEAR_MS, 5 * YEAR_MS / 3 * 2),
    ] {
        let term = Term { generation, life_ms };
        let certified = intermediate.certify(&ann, &key, &term, NOW, &SystemRandom).unwrap();
        let leaf = certificates_of(certified.chain.as_bytes()).unwrap().remove(0);
        let facts = Facts::of(&leaf).unwrap();
        let ends = NOW.plus_millis(ends_ms);
        assert_eq!(facts, Facts { generation, made: NOW, ends });
        assert_eq!(facts.renews(), NOW.plus_millis(renews_ms));
        assert_eq!(Identity::from_certificate(&leaf).unwrap(), ann, "and who it is");
        assert!(is_trusted(&root, &certified.chain, NOW));
        assert!(!is_trusted(&root, &certified.chain, ends.plus_millis(1000)));
    }
}

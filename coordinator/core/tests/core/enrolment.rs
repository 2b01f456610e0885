//! Who gets certificates by tokens, and what makes them void.

use std::collections::BTreeMap;

use coordinator_core::{
    Actor, Command, CreateEnrolToken, DecideEnrolment, EnrolGrant, Enrolment, OperatorRole,
    Outcome, PartyId, RecordCertificate, RedeemEnrolToken, Refusal, RegisterCluster, Request,
    RevokeParty, Sender, SetAuthority, State, limits,
};
use proto_types::{ClusterId, Code, LogTime, NodeId, SigningPublicKey};

use crate::scenario::{HOUR_MS, World, cluster, public_key, register_cluster, signing_key};

const KEY: [u8; 32] = [8; 32];
const OTHER_KEY: [u8; 32] = [9; 32];
const ENDS: LogTime = LogTime::from_millis(90_000_000);

/// One with an authority, and cluster 1 that was registered by hand.
fn world() -> World {
    let mut world = World::new();
    world.ok(Command::SetAuthority(SetAuthority {
        root_certificate: b"certificate".to_vec(),
        sealed_root_key: b"sealed".to_vec(),
    }));
    world
}

fn labels() -> BTreeMap<String, String> {
    [("env".to_owned(), "prod".to_owned())].into()
}

fn of_cluster(n: u8, again: bool) -> EnrolGrant {
    let name = register_cluster(n).name;
    let labels = if again { BTreeMap::new() } else { labels() };
    EnrolGrant::Cluster { cluster: cluster(n), name, labels, again }
}

fn of_ann(role: OperatorRole, again: bool) -> EnrolGrant {
    EnrolGrant::Operator { name: "ann".to_owned(), role, again }
}

fn token(number: u8, grant: EnrolGrant) -> CreateEnrolToken {
    let count = if matches!(grant, EnrolGrant::Clusters { .. }) { 2 } else { 1 };
    CreateEnrolToken { token: [number; 32], grant, count, ttl_ms: HOUR_MS }
}

fn create(number: u8, grant: EnrolGrant) -> Command {
    Command::CreateEnrolToken(Box::new(token(number, grant)))
}

fn signing(n: u8) -> SigningPublicKey {
    public_key(&signing_key(n))
}

fn redeem(number: u8, key: [u8; 32], signing_key: SigningPublicKey) -> RedeemEnrolToken {
    RedeemEnrolToken {
        token: [number; 32],
        key,
        name: String::new(),
        candidate: cluster(77),
        signing_key,
        kube_system_uid: None,
        ends: ENDS,
    }
}

fn by_agent(number: u8, key: [u8; 32], n: u8) -> Command {
    Command::RedeemEnrolToken(Box::new(redeem(number, key, signing(n))))
}

fn by_operator(number: u8, key: [u8; 32]) -> Command {
    Command::RedeemEnrolToken(Box::new(redeem(number, key, SigningPublicKey::ZERO)))
}

fn by_one_of_many(number: u8, key: [u8; 32], n: u8) -> RedeemEnrolToken {
    let name = register_cluster(n).name;
    RedeemEnrolToken { name, candidate: cluster(n), ..redeem(number, key, signing(n)) }
}

fn wait(number: u8, key: [u8; 32], n: u8) -> Command {
    Command::RedeemEnrolToken(Box::new(by_one_of_many(number, key, n)))
}

fn agent(n: u8) -> PartyId {
    PartyId::Agent(cluster(n))
}

fn ann() -> PartyId {
    PartyId::Operator("ann".to_owned())
}

fn revoke(party: PartyId) -> Command {
    Command::RevokeParty(RevokeParty { party })
}

fn renew(party: PartyId, generation: u32, ends: LogTime) -> Command {
    Command::RecordCertificate(RecordCertificate { party, generation, ends })
}

fn decide(n: u8, approve: bool) -> Command {
    Command::DecideEnrolment(DecideEnrolment { cluster: cluster(n), approve })
}

fn enrolled(n: u8, generation: u32) -> Outcome {
    Outcome::Enrolled { cluster: Some(cluster(n)), generation }
}

/// Every command, for the frozen bytes.
pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let many = EnrolGrant::Clusters { labels: labels() };
    let mut of_kubernetes = by_one_of_many(3, KEY, 3);
    of_kubernetes.kube_system_uid = Some("u-3".to_owned());
    vec![
        ("create_enrol_token", create(1, of_cluster(2, false))),
        ("create_enrol_token-again", create(1, of_cluster(1, true))),
        ("create_enrol_token-operator", create(2, of_ann(OperatorRole::Admin, true))),
        ("create_enrol_token-many", create(3, many)),
        ("redeem_enrol_token", by_agent(1, KEY, 2)),
        ("redeem_enrol_token-operator", by_operator(2, KEY)),
        ("redeem_enrol_token-many", Command::RedeemEnrolToken(Box::new(of_kubernetes))),
        ("record_certificate", renew(PartyId::Coordinator(NodeId::new(2)), 0, ENDS)),
        ("record_certificate-agent", renew(agent(1), 3, ENDS)),
        ("revoke_party", revoke(agent(1))),
        ("revoke_party-operator", revoke(ann())),
        ("decide_enrolment", decide(3, true)),
        ("decide_enrolment-reject", decide(3, false)),
    ]
}

/// One with a row of every kind.
pub(crate) fn state() -> State {
    let mut world = world();
    let many = EnrolGrant::Clusters { labels: labels() };
    world.ok(create(1, of_cluster(2, false)));
    world.ok(by_agent(1, KEY, 2));
    world.ok(create(2, of_ann(OperatorRole::Viewer, false)));
    world.ok(by_operator(2, KEY));
    world.ok(revoke(ann()));
    world.ok(renew(PartyId::Coordinator(NodeId::new(2)), 0, ENDS));
    world.ok(create(3, many));
    world.ok(wait(3, KEY, 3));
    world.ok(wait(3, OTHER_KEY, 4));
    world.ok(decide(4, false));
    world.state
}

#[test]
fn enroll_of_a_cluster_registers_it_once_for_one_key() {
    let mut world = world();
    let expires = LogTime::from_millis(world.now_ms + HOUR_MS);
    let made = Outcome::EnrolTokenCreated { cluster: Some(cluster(2)), expires };
    assert_eq!(world.ok(create(1, of_cluster(2, false))), made);
    assert_eq!(world.ok(create(1, of_cluster(2, false))), made, "the same again");
    assert!(world.state.cluster(&cluster(2)).is_none(), "nothing before the agent comes");
    let refused = Refusal::EnrolTokenRefused;
    assert_eq!(world.refused(by_agent(7, KEY, 2)), refused, "guessed");
    assert_eq!(world.ok(by_agent(1, KEY, 2)), enrolled(2, 1));
    let row = world.state.cluster(&cluster(2)).unwrap();
    assert_eq!((&row.labels, row.signing_key), (&labels(), signing(2)));
    assert_eq!(world.ok(by_agent(1, KEY, 2)), enrolled(2, 1), "a lost answer");
    assert_eq!(world.refused(by_agent(1, OTHER_KEY, 2)), refused, "used up");
    assert_eq!(world.refused(create(1, of_cluster(2, false))), refused, "made anew");
    let party = world.state.party(&agent(2)).unwrap();
    assert_eq!((party.least, party.issued, party.ends), (1, 1, ENDS));
    world.now_ms += HOUR_MS;
    assert_eq!(world.refused(by_agent(1, KEY, 2)), refused, "also the repeat, when it is over");
}

#[test]
fn enroll_again_keeps_the_cluster_and_makes_the_old_certificates_void() {
    let mut world = world();
    let taken = world.refused(create(1, of_cluster(1, false)));
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let nobody = world.refused(create(1, of_cluster(2, true)));
    assert_eq!(nobody.code(), Code::NothingMatches, "{nobody}");
    assert!(!world.state.is_void(&agent(1), 0), "registered by hand");
    world.ok(create(1, of_cluster(1, true)));
    assert!(!world.state.is_void(&agent(1), 0), "a token alone changes nothing");
    let before = world.state.cluster(&cluster(1)).unwrap().clone();
    let differs = Refusal::SigningKeyDiffers { cluster: cluster(1) };
    assert_eq!(world.refused(by_agent(1, KEY, 9)), differs);
    assert_eq!(world.ok(by_agent(1, KEY, 1)), enrolled(1, 1), "and that used nothing up");
    assert_eq!(world.state.cluster(&cluster(1)).unwrap(), &before);
    assert!(world.state.is_void(&agent(1), 0));
    assert!(!world.state.is_void(&agent(1), 1));
    world.ok(create(2, of_cluster(1, true)));
    assert_eq!(world.ok(by_agent(2, OTHER_KEY, 1)), enrolled(1, 2));
    assert!(world.state.is_void(&agent(1), 1));
    assert_eq!(world.refused(renew(agent(1), 1, ENDS)), Refusal::CertificateVoid);
    // A later token takes the place of an open one.
    world.ok(create(3, of_cluster(1, true)));
    world.ok(create(4, of_cluster(1, true)));
    assert_eq!(world.refused(by_agent(3, KEY, 1)), Refusal::EnrolTokenRefused);
    assert_eq!(world.ok(by_agent(4, KEY, 1)), enrolled(1, 3));
}

#[test]
fn enroll_tokens_end_with_their_time_and_are_bounded() {
    let mut world = world();
    world.ok(create(1, of_cluster(2, false)));
    world.now_ms += HOUR_MS - 1;
    assert_eq!(world.clone().ok(by_agent(1, KEY, 2)), enrolled(2, 1));
    world.now_ms += 1;
    assert_eq!(world.refused(by_agent(1, KEY, 2)), Refusal::EnrolTokenRefused);
    world.ok(create(2, of_cluster(2, false)));
    assert_eq!(world.state.enrol_tokens().count(), 1, "those that are over are forgotten");
    let many = || token(9, EnrolGrant::Clusters { labels: labels() });
    let spoil: [fn(&mut CreateEnrolToken); 7] = [
        |token| token.ttl_ms = 0,
        |token| token.ttl_ms = limits::ENROL_TOKEN_TTL_MS_MAX + 1,
        |token| token.count = 0,
        |token| token.count = limits::ENROL_COUNT_MAX + 1,
        |token| {
            token.grant = EnrolGrant::Clusters { labels: [(String::new(), String::new())].into() };
        },
        |token| token.grant = of_cluster(2, false),
        |token| {
            token.count = 1;
            let role = OperatorRole::Viewer;
            token.grant = EnrolGrant::Operator { name: "No!".to_owned(), role, again: false };
        },
    ];
    for (at, spoil) in spoil.into_iter().enumerate() {
        let mut bad = many();
        spoil(&mut bad);
        let refused = world.refused(Command::CreateEnrolToken(Box::new(bad)));
        assert_eq!(refused.code(), Code::InvalidArgument, "{at}: {refused}");
    }
    let mut without = World::new();
    assert_eq!(without.refused(create(1, of_cluster(2, false))), Refusal::AuthorityMissing);
}

#[test]
fn enroll_of_operators_gives_a_role_that_a_later_one_replaces() {
    let mut world = world();
    world.ok(create(1, of_ann(OperatorRole::Admin, false)));
    let done = |generation| Outcome::Enrolled { cluster: None, generation };
    assert_eq!(world.ok(by_operator(1, KEY)), done(1));
    assert_eq!(world.state.party(&ann()).unwrap().role, Some(OperatorRole::Admin));
    let taken = world.refused(create(2, of_ann(OperatorRole::Viewer, false)));
    assert_eq!(taken, Refusal::AlreadyEnrolled { name: "ann".to_owned() });
    world.ok(create(2, of_ann(OperatorRole::Viewer, true)));
    assert_eq!(world.ok(by_operator(2, OTHER_KEY)), done(2));
    assert_eq!(world.state.party(&ann()).unwrap().role, Some(OperatorRole::Viewer));
    assert!(world.state.is_void(&ann(), 1), "the admin's certificate does not outlive it");
    let now = LogTime::from_millis(world.now_ms);
    let found = world.state.enrolment(&[1; 32], &KEY, now);
    assert_eq!(found, None, "what the first token gave is gone");
    assert_eq!(world.refused(by_operator(1, KEY)), Refusal::EnrolTokenRefused);
    world.ok(revoke(ann()));
    assert_eq!(world.refused(by_operator(2, OTHER_KEY)), Refusal::EnrolTokenRefused);
    world.ok(create(3, of_ann(OperatorRole::Operator, false)));
    assert_eq!(world.ok(by_operator(3, KEY)), done(3), "a revoked name is free");
    assert!(world.state.is_void(&ann(), 2) && !world.state.is_void(&ann(), 3));
}

#[test]
fn revoke_makes_every_certificate_void_and_open_tokens_with_them() {
    let mut world = world();
    assert_eq!(world.ok(revoke(ann())), Outcome::PartyRevoked { was_known: false });
    assert!(world.state.is_void(&ann(), 0), "one that came with the fleet's first files");
    world.ok(renew(agent(1), 0, ENDS));
    world.ok(create(1, of_cluster(1, true)));
    assert_eq!(world.ok(revoke(agent(1))), Outcome::PartyRevoked { was_known: true });
    assert!(world.state.is_void(&agent(1), 0));
    assert_eq!(world.refused(by_agent(1, KEY, 1)), Refusal::EnrolTokenRefused);
    assert_eq!(world.refused(renew(agent(1), 0, ENDS)), Refusal::CertificateVoid);
    let row = world.state.party(&agent(1)).unwrap().clone();
    assert!(row.is_revoked() && row.ends == LogTime::ZERO);
    world.ok(revoke(agent(1)));
    assert_eq!(world.state.party(&agent(1)).unwrap(), &row, "again is the same");
    world.ok(create(2, of_cluster(1, true)));
    let outcome = world.ok(by_agent(2, KEY, 1));
    assert_eq!(outcome, enrolled(1, 1));
    assert!(!world.state.is_void(&agent(1), 1));
    // Others are not touched; coordinators are removed, and unknown clusters named.
    assert!(!world.state.is_void(&agent(2), 0));
    let node = world.refused(revoke(PartyId::Coordinator(NodeId::new(2))));
    assert_eq!(node.code(), Code::InvalidArgument);
    assert_eq!(world.refused(revoke(agent(9))).code(), Code::ClusterNotFound);
}

#[test]
fn revoke_of_oneself_is_refused_so_that_one_admin_remains() {
    let mut world = world();
    let actor = Actor::Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
    let sender = Some(Sender { actor, certificate: None, via: NodeId::new(1) });
    let own = Request { sender, ..world.request(revoke(ann())) };
    let outcome = world.apply(&own).outcome;
    assert_eq!(outcome, Outcome::Refused(Refusal::OwnCertificate));
    assert!(!world.state.is_void(&ann(), 0));
    let other = PartyId::Operator("bob".to_owned());
    let request = Request { command: revoke(other.clone()), ..own };
    assert_eq!(world.apply(&request).outcome.refusal(), None);
    assert!(world.state.is_void(&other, 0));
}

#[test]
fn renewals_are_recorded_of_those_who_may() {
    let mut world = world();
    let done = |generation| Outcome::CertificateRecorded { generation };
    for (party, generation) in
        [(agent(1), 0), (ann(), 4), (PartyId::Coordinator(NodeId::new(2)), 0)]
    {
        let later = LogTime::from_millis(ENDS.as_millis() + 7);
        assert_eq!(world.ok(renew(party.clone(), generation, ENDS)), done(generation));
        assert_eq!(world.ok(renew(party.clone(), generation, later)), done(generation));
        let row = world.state.party(&party).unwrap();
        assert_eq!((row.least, row.issued, row.ends), (0, generation, later));
        assert_eq!(row.since.as_millis(), world.now_ms);
    }
    assert_eq!(world.refused(renew(agent(9), 0, ENDS)).code(), Code::ClusterNotFound);
}

#[test]
fn agents_of_many_clusters_wait_for_approval_and_come_no_more_than_counted() {
    let mut world = world();
    world.ok(create(3, EnrolGrant::Clusters { labels: labels() }));
    let pending = |n| Outcome::EnrolmentPending { cluster: cluster(n) };
    assert_eq!(world.ok(wait(3, KEY, 3)), pending(3));
    let mut repeat = by_one_of_many(3, KEY, 3);
    repeat.candidate = cluster(66);
    assert_eq!(world.ok(Command::RedeemEnrolToken(Box::new(repeat))), pending(3), "asked again");
    // Neither a name that is a cluster's, nor one that waits; and that uses nothing up.
    for n in [1, 3] {
        let mut taken = by_one_of_many(3, OTHER_KEY, n);
        taken.candidate = cluster(50 + n);
        let refused = world.refused(Command::RedeemEnrolToken(Box::new(taken)));
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
    assert_eq!(world.ok(wait(3, OTHER_KEY, 4)), pending(4));
    assert_eq!(world.refused(wait(3, [7; 32], 5)), Refusal::EnrolTokenRefused, "the third of two");
    assert!(world.state.cluster(&cluster(3)).is_none());
    assert_eq!(world.ok(decide(3, true)), Outcome::EnrolmentDecided { approved: true });
    assert_eq!(world.ok(decide(3, true)), Outcome::EnrolmentDecided { approved: true });
    assert_eq!(world.state.cluster(&cluster(3)).unwrap().labels, labels());
    // It comes for its certificate, also when the token is over meanwhile.
    world.now_ms += HOUR_MS + 1;
    assert_eq!(world.ok(wait(3, KEY, 3)), enrolled(3, 1));
    assert_eq!(world.refused(wait(3, [7; 32], 3)), Refusal::EnrolTokenRefused);
    world.now_ms += limits::ENROL_APPROVED_MS;
    assert_eq!(world.refused(wait(3, KEY, 3)), Refusal::EnrolTokenRefused);
    assert_eq!(world.refused(decide(9, true)).code(), Code::NothingMatches);
}

#[test]
fn an_agent_that_was_rejected_does_not_come_back_by_the_same_token() {
    let mut world = world();
    world.ok(create(3, EnrolGrant::Clusters { labels: labels() }));
    world.ok(wait(3, KEY, 3));
    assert_eq!(world.ok(decide(3, false)), Outcome::EnrolmentDecided { approved: false });
    assert_eq!(world.refused(wait(3, KEY, 3)), Refusal::EnrolTokenRefused);
    let now = LogTime::from_millis(world.now_ms);
    assert_eq!(world.state.enrolment(&[3; 32], &KEY, now), Some(Enrolment::Refused));
    // Another one may have the name.
    let mut other = by_one_of_many(3, OTHER_KEY, 3);
    other.candidate = cluster(4);
    world.ok(Command::RedeemEnrolToken(Box::new(other)));
    assert_eq!(world.state.waiting().count(), 2);
}

#[test]
fn a_cluster_registered_meanwhile_keeps_its_name() {
    let mut world = world();
    world.ok(create(1, of_cluster(2, false)));
    let by_hand =
        RegisterCluster { cluster: ClusterId::from_bytes([99; 16]), ..register_cluster(2) };
    world.ok(Command::RegisterCluster(by_hand));
    assert_eq!(world.refused(by_agent(1, KEY, 2)).code(), Code::AlreadyExists);
}

#[test]
fn a_restored_fleet_gives_out_no_generation_twice_and_keeps_what_was_revoked() {
    let restored = crate::restore::restored(&state(), &[1, 2, 9]).state;
    let enrolled = restored.party(&agent(2)).unwrap();
    assert_eq!((enrolled.least, enrolled.issued), (1, 1_000_001));
    assert!(!restored.is_void(&agent(2), 1), "agents go on with what they have");
    let revoked = restored.party(&ann()).unwrap();
    assert!(revoked.is_revoked(), "{revoked:?}");
    assert!(restored.is_void(&ann(), 1) && restored.is_void(&ann(), 1_000_001));
    assert_eq!(restored.enrol_tokens().count(), 0, "tokens end with the fleet that gave them");
    assert_eq!(restored.waiting().count(), 0);
}

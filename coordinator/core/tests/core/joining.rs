//! The certificate authority in the state, and the one-time tokens by which coordinators join.

use coordinator_core::{
    AddNode, Command, CreateJoinToken, Outcome, RedeemJoinToken, Refusal, RemoveNode, SetAuthority,
    limits,
};
use proto_types::{Code, NodeId};

use crate::scenario::{World, nodes};

const HOUR_MS: u64 = 3_600_000;
const KEY: [u8; 32] = [8; 32];

fn authority(sealed: &[u8]) -> Command {
    Command::SetAuthority(SetAuthority {
        root_certificate: b"certificate".to_vec(),
        sealed_root_key: sealed.to_vec(),
    })
}

fn token(number: u8) -> CreateJoinToken {
    CreateJoinToken {
        token: [number; 32],
        name: format!("joins-{number}"),
        address: format!("10.0.0.{number}:7401"),
        ttl_ms: HOUR_MS,
    }
}

fn create(number: u8) -> Command {
    Command::CreateJoinToken(token(number))
}

fn redeem(number: u8, key: [u8; 32]) -> Command {
    Command::RedeemJoinToken(RedeemJoinToken { token: [number; 32], key })
}

fn world() -> World {
    let mut world = World::new();
    world.ok(authority(b"sealed"));
    world
}

fn added(node: u64) -> Outcome {
    Outcome::NodeAdded { node: NodeId::new(node) }
}

#[test]
fn join_authority_is_written_once() {
    let mut world = World::new();
    assert_eq!(world.refused(create(1)), Refusal::AuthorityMissing);
    for (certificate, sealed) in [(0, 5), (5, 0), (2049, 5), (5, 1025)] {
        let (root_certificate, sealed_root_key) = (vec![1; certificate], vec![1; sealed]);
        let command = Command::SetAuthority(SetAuthority { root_certificate, sealed_root_key });
        assert_eq!(world.refused(command).code(), Code::InvalidArgument);
    }
    assert_eq!(world.ok(authority(b"sealed")), Outcome::AuthoritySet);
    assert_eq!(world.ok(authority(b"sealed")), Outcome::AuthoritySet, "the same again");
    assert_eq!(world.refused(authority(b"other")), Refusal::AuthorityExists);
    assert_eq!(world.state.authority().unwrap().sealed_root_key, b"sealed");
}

#[test]
fn join_token_admits_one_node_once_for_one_key() {
    let mut world = world();
    let expires = world.now_ms + HOUR_MS;
    let Outcome::JoinTokenCreated { expires: found } = world.ok(create(4)) else { panic!() };
    assert_eq!(found.as_millis(), expires);
    assert_eq!(world.ok(create(4)), Outcome::JoinTokenCreated { expires: found }, "again");
    let mut other = token(4);
    other.address = "10.9.9.9:7401".to_owned();
    let refused = world.refused(Command::CreateJoinToken(other));
    assert_eq!(refused, Refusal::JoinTokenRefused);

    // Guessed.
    assert_eq!(world.refused(redeem(5, KEY)), Refusal::JoinTokenRefused);
    assert_eq!(world.ok(redeem(4, KEY)), added(4));
    assert_eq!(world.ok(redeem(4, KEY)), added(4), "a lost answer");
    assert_eq!(world.refused(redeem(4, [9; 32])), Refusal::JoinTokenRefused, "another key");
    assert_eq!(world.refused(create(4)), Refusal::JoinTokenRefused, "made anew");
    let row = world.state.nodes().next().unwrap();
    assert_eq!((row.name.as_str(), row.address.as_str()), ("joins-4", "10.0.0.4:7401"));

    // A removed node is not let in again by its old token, and its id does not come back.
    world.ok(Command::RemoveNode(RemoveNode { node: NodeId::new(4) }));
    assert_eq!(world.refused(redeem(4, KEY)), Refusal::JoinTokenRefused);
    let mut anew = token(6);
    anew.name = "joins-4".to_owned();
    world.ok(Command::CreateJoinToken(anew));
    assert_eq!(world.ok(redeem(6, KEY)), added(5));
}

#[test]
fn join_token_ends_with_its_time() {
    let mut world = world();
    world.ok(create(4));
    world.ok(create(5));
    world.ok(redeem(5, KEY));
    world.now_ms += HOUR_MS - 1;
    let mut in_time = world.clone();
    assert_eq!(in_time.ok(redeem(4, KEY)), added(5));
    world.now_ms += 1;
    assert_eq!(world.refused(redeem(4, KEY)), Refusal::JoinTokenRefused);
    assert_eq!(world.refused(redeem(5, KEY)), Refusal::JoinTokenRefused, "also the repeat");
    // Forgotten with the next one, so that their number is bounded by time.
    assert_eq!(world.state.join_tokens().count(), 2);
    world.ok(create(6));
    assert_eq!(world.state.join_tokens().count(), 1);
    for number in 7..=69 {
        world.ok(create(number));
    }
    assert_eq!(world.state.join_tokens().count(), limits::JOIN_TOKENS_MAX);
    assert_eq!(world.refused(create(70)).code(), Code::LimitReached);
}

#[test]
fn join_names_are_of_one_node_and_well_formed() {
    let mut world = world();
    let add = AddNode { name: "joins-4".to_owned(), address: "a:1".to_owned() };
    world.ok(create(4));
    world.ok(Command::AddNode(add));
    let taken = Refusal::NodeNameTaken { name: "joins-4".to_owned(), node: NodeId::new(4) };
    assert_eq!(world.refused(redeem(4, KEY)), taken);
    let twice = CreateJoinToken { token: [7; 32], ..token(4) };
    assert_eq!(world.refused(Command::CreateJoinToken(twice)), taken);
    for change in [
        |token: &mut CreateJoinToken| token.name = "No!".to_owned(),
        |token: &mut CreateJoinToken| token.address = "nowhere".to_owned(),
        |token: &mut CreateJoinToken| token.ttl_ms = 0,
        |token: &mut CreateJoinToken| token.ttl_ms = limits::JOIN_TOKEN_TTL_MS_MAX + 1,
    ] {
        let mut bad = token(9);
        change(&mut bad);
        assert_eq!(world.refused(Command::CreateJoinToken(bad)).code(), Code::InvalidArgument);
    }
    // Ids lie behind those of all voters.
    world.voters = nodes(&[1, 2, 9]);
    world.ok(create(9));
    assert_eq!(world.ok(redeem(9, KEY)), added(10));
}

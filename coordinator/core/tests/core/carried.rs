//! Points whose bundles come in the log entry of their commit.

use std::collections::BTreeMap;

use coordinator_core::{
    AddedBundle, BeginChange, BundleHome, Command, CommitPoint, Content, Field, Limit, OfChange,
    Outcome, RecordHolders, Refusal, SetBundleHome, State,
};
use ed25519_dalek::Signer;
use proto_types::{
    BundleId, CARRIED_BYTES_MAX, LogIndex, NodeId, SignedHeader, header_signing_input,
};

use crate::scenario::{Draft, World, check, nodes};

/// The draft's commit with real files for bundles, under the names of their bytes.
fn carrying(mut draft: Draft) -> CommitPoint {
    let mut files = BTreeMap::new();
    for letter in ['c', 'm', 'k', 'w'] {
        if !draft.has(letter) {
            continue;
        }
        let key_bundle = draft.key_bundle;
        if letter == 'w' {
            draft.edit('w', |header| header.predecessor = key_bundle);
        }
        let bundle = draft.bundle(letter);
        bundle.holders = Vec::new();
        let mut file = vec![letter as u8; 1_000];
        let header = bundle.header.clone();
        let signature = bundle.signer.sign(&header_signing_input(&header.encode())).to_bytes();
        file.extend(SignedHeader::new(header, signature).to_trailer());
        bundle.id = BundleId::of(&file);
        let id = bundle.id;
        files.insert(id, file);
        match letter {
            'm' => draft.manifest = id,
            'k' => draft.key_bundle = id,
            'w' => draft.wraps = id,
            _ => {}
        }
    }
    let mut commit = draft.build();
    commit.lease = None;
    let Content::Changed(content) = &mut commit.content else { panic!("a changed point") };
    for added in &mut content.added {
        added.carried = files[&added.id].clone();
    }
    commit
}

fn command(commit: &CommitPoint) -> Command {
    Command::CommitPoint(Box::new(commit.clone()))
}

fn first() -> (World, CommitPoint) {
    let world = World::new();
    let lease = crate::scenario::lease(90);
    let commit = carrying(Draft::first(&world, 1, lease));
    (world, commit)
}

/// For the frozen lines.
pub(crate) fn sample() -> Command {
    command(&first().1)
}

/// One whose bundles the log alone vouches for.
pub(crate) fn state() -> State {
    let (mut world, commit) = first();
    world.ok(command(&commit));
    world.state
}

fn ids(commit: &CommitPoint) -> Vec<BundleId> {
    let Content::Changed(content) = &commit.content else { panic!("a changed point") };
    content.added.iter().map(|added| added.id).collect()
}

fn record(node: u64, present: Vec<BundleId>) -> Command {
    let node = NodeId::new(node);
    let home = LogIndex::new(0);
    Command::RecordHolders(RecordHolders { node, present, absent: Vec::new(), home })
}

fn in_log(world: &World) -> Vec<bool> {
    world.state.bundles().map(|(_, row)| row.in_log).collect()
}

#[test]
fn invariant_b1_what_the_log_carries_is_durable_until_nodes_are_named() {
    let (mut world, commit) = first();
    world.ok(command(&commit));
    assert_eq!(in_log(&world), [true; 4]);
    assert!(world.state.absent_bundles().is_empty());
    assert_eq!(world.state.under_replicated(&world.voters), []);
    // The same again answers the same.
    assert!(matches!(world.ok(command(&commit)), Outcome::Committed { .. }));
    // The next point inherits three of them.
    let next = carrying(Draft::delta(&world, 1, crate::scenario::lease(91)));
    world.ok(command(&next));
    assert_eq!(in_log(&world), [true; 6]);
    // One node is no majority: the log still vouches. Two are.
    let all: Vec<BundleId> = world.state.bundles().map(|(id, _)| *id).collect();
    world.ok(record(1, all.clone()));
    assert_eq!(in_log(&world), [true; 6]);
    world.ok(record(3, all.clone()));
    assert_eq!(in_log(&world), [false; 6]);
    let [row, ..] = &world.state.bundles().map(|(_, row)| row.clone()).collect::<Vec<_>>()[..]
    else {
        panic!("there are bundles")
    };
    assert_eq!(row.holders, nodes(&[1, 3]));
    // From there on the names alone count.
    let mut lost = RecordHolders {
        node: NodeId::new(3),
        present: Vec::new(),
        absent: vec![next_manifest(&commit)],
        home: LogIndex::new(0),
    };
    world.ok(Command::RecordHolders(lost.clone()));
    let after = carrying(Draft::delta(&world, 1, crate::scenario::lease(92)));
    let refusal = world.refused(command(&after));
    assert!(matches!(refusal, Refusal::BundleNotDurable { have: 1, need: 2, .. }), "{refusal:?}");
    std::mem::swap(&mut lost.present, &mut lost.absent);
    world.ok(Command::RecordHolders(lost));
    world.ok(command(&after));
}

fn next_manifest(commit: &CommitPoint) -> BundleId {
    let Content::Changed(content) = &commit.content else { panic!("a changed point") };
    content.manifest
}

#[test]
fn invariant_b1_a_change_of_voters_waits_for_names_and_takes_nothing_by_the_log() {
    let (mut world, commit) = first();
    world.ok(command(&commit));
    world.ok(Command::BeginChange(BeginChange { voters: nodes(&[1, 2]), remove: None }));
    let of = OfChange { begun: LogIndex::new(world.index) };
    assert!(matches!(
        world.refused(Command::SealChange(of)),
        Refusal::BundleNotDurable { have: 0, need: 2, .. }
    ));
    assert_eq!(world.state.not_durable_on(&nodes(&[1, 2])), 4);
    let next = carrying(Draft::delta(&world, 1, crate::scenario::lease(91)));
    check(&world, command(&next), Err(Refusal::UploadFirst));
    for node in [1, 2] {
        world.ok(record(node, ids(&commit)));
    }
    world.ok(Command::SealChange(of));
}

#[test]
fn commit_carries_nothing_into_a_bucket() {
    let (mut world, commit) = first();
    world.ok(Command::SetBundleHome(SetBundleHome::Begin { to: BundleHome::Bucket }));
    check(&world, command(&commit), Err(Refusal::UploadFirst));
}

#[test]
fn commit_that_carries_names_the_bytes_it_carries_and_nothing_beside() {
    let invalid = Refusal::InvalidField { field: Field::Carried };
    let (mut world, good) = first();
    type Change = fn(&mut CommitPoint, &mut AddedBundle);
    let cases: [(&str, Change, Refusal); 6] = [
        ("other bytes", |_, added| added.carried[0] ^= 1, invalid.clone()),
        ("longer", |_, added| added.carried.push(0), invalid.clone()),
        ("another length", |_, added| added.bytes += 1, invalid.clone()),
        ("a holder", |_, added| added.holders.push(NodeId::new(1)), invalid.clone()),
        ("the bucket", |_, added| added.in_bucket = true, invalid.clone()),
        ("one is lacking", |_, added| added.carried.clear(), Refusal::LeaseRequired),
    ];
    for (what, change, expect) in cases {
        let mut commit = good.clone();
        let mut added = {
            let Content::Changed(content) = &mut commit.content else { panic!("changed") };
            content.added[0].clone()
        };
        change(&mut commit, &mut added);
        let Content::Changed(content) = &mut commit.content else { panic!("changed") };
        content.added[0] = added;
        assert_eq!(world.clone().refused(command(&commit)), expect, "{what}");
    }
    let mut leased = good.clone();
    leased.lease = Some(world.open(1));
    check(&world, command(&leased), Err(invalid));
    let mut large = good.clone();
    let Content::Changed(content) = &mut large.content else { panic!("changed") };
    content.added[0].carried = vec![0; 9_000];
    let have = large.carried_bytes();
    let expect = Refusal::LimitReached { limit: Limit::Carried, have, max: CARRIED_BYTES_MAX };
    check(&world, command(&large), Err(expect));
    world.ok(command(&good));
}

#[test]
fn level_one_fleets_take_no_commit_that_carries() {
    let (_, commit) = first();
    assert_eq!(command(&commit).level().get(), 2);
    let mut plain = commit;
    let Content::Changed(content) = &mut plain.content else { panic!("changed") };
    content.added[0].carried.clear();
    assert_eq!(command(&plain).level().get(), 1);
}

//! What the state says of keys: the recovery key's successor and the wraps that follow it, lineages,
//! orders, and shares that were shown.

use coordinator_core::{
    ATTEST_MS, AddedBundle, ApproveLineage, AttestShare, BeginLineage, Command, Content,
    HeaderField, KeyOrders, KeysCommand, KeysProblem, LINEAGE_UNAPPROVED, OrderKeys, Outcome,
    ProofState, RecordKeys, RecoveryPublicKey, Refusal, ReplaceWraps, RotateRecovery, Scope, codec,
};
use ed25519_dalek::{Signer, SigningKey};
use proto_types::{
    BundleId, BundleKind, Code, Epoch, LeaseId, LineageStatement, LogTime, RecoverySuccession,
};

use crate::scenario::{
    Draft, FLEET, World, bundle, check, cluster, lease, nodes, public_key, seq, signing_key,
};

/// The recovery key of a world whose key can sign.
fn recovery(n: u8) -> (RecoveryPublicKey, SigningKey) {
    let key = SigningKey::from_bytes(&[n; 32]);
    (RecoveryPublicKey { hpke: [n; 32], signing: key.verifying_key().to_bytes() }, key)
}

/// A world with two points: the first has `k1`, `w1`, the second keeps them.
fn world() -> World {
    let mut world = World::empty();
    world.ok(Command::InitFleet(coordinator_core::InitFleet {
        fleet: FLEET,
        name: "home".to_owned(),
        recovery: recovery(1).0,
    }));
    world.add_cluster(1);
    let id = world.open(1);
    let mut draft = Draft::first(&world, 1, id);
    for letter in ['k', 'w'] {
        draft.edit(letter, |header| header.recovery_key = recovery(1).0.fingerprint());
    }
    world.ok(draft.command());
    world.commit_delta(1);
    world
}

fn keys(command: KeysCommand) -> Command {
    Command::Keys(Box::new(command))
}

fn rotate(from: u8, to: u8) -> Command {
    let (former, key) = recovery(from);
    let (successor, _) = recovery(to);
    let statement = RecoverySuccession {
        fleet: FLEET,
        former: former.fingerprint(),
        hpke: successor.hpke,
        signing: successor.signing,
    };
    let signature = key.sign(&statement.signing_input()).to_bytes();
    keys(KeysCommand::RotateRecovery(RotateRecovery {
        successor,
        signature,
        sealed_root_key: Vec::new(),
    }))
}

/// New wraps of `key_bundle`, sealed to recovery key `to`, as the file `label`.
fn wraps(world: &World, id: LeaseId, key_bundle: BundleId, to: u8, label: &str) -> AddedBundle {
    let mut draft = Draft::unchanged(world, 1);
    draft.statement_signer = None;
    draft.commit.lease = Some(id);
    draft.key_bundle = key_bundle;
    draft.commit.sequence = seq(1);
    draft.add_labelled(BundleKind::Wraps, label.to_owned());
    let header = &mut draft.bundles.get_mut(label).unwrap().header;
    header.recovery_key = recovery(to).0.fingerprint();
    let Content::Changed(mut content) = draft.build().content else { unreachable!() };
    content.added.remove(0)
}

fn replace(id: LeaseId, key_bundle: BundleId, wraps: AddedBundle) -> Command {
    let cluster = cluster(1);
    keys(KeysCommand::ReplaceWraps(Box::new(ReplaceWraps {
        cluster,
        key_bundle,
        lease: id,
        wraps,
    })))
}

fn refused(problem: KeysProblem) -> Refusal {
    Refusal::KeysRefused { problem }
}

/// The state is what its own bytes say, also of what points need.
fn assert_round_trip(world: &World) {
    let mut bytes = Vec::new();
    codec::write_state(&world.state, &mut bytes).unwrap();
    assert!(codec::read_state(&mut &bytes[..]).unwrap() == world.state);
}

#[test]
fn invariant_k3_only_the_fleets_recovery_key_names_its_successor() {
    let world = world();
    check(&world, rotate(1, 2), Ok(Outcome::RecoveryRotated { generation: 1 }));
    // A coordinator that offers a key of its own, signed by itself.
    check(&world, rotate(2, 3), Err(refused(KeysProblem::NotSignedByFormer)));
    assert_eq!(refused(KeysProblem::NotSignedByFormer).code(), Code::BadSignature);
    // A signature for another successor.
    let Command::Keys(command) = rotate(1, 2) else { unreachable!() };
    let KeysCommand::RotateRecovery(mut command) = *command else { unreachable!() };
    command.successor = recovery(3).0;
    let forged = keys(KeysCommand::RotateRecovery(command));
    check(&world, forged, Err(refused(KeysProblem::NotSignedByFormer)));

    let mut rotated = world;
    rotated.ok(rotate(1, 2));
    assert_eq!(rotated.state.fleet().unwrap().recovery, recovery(2).0);
    check(&rotated, rotate(1, 2), Ok(Outcome::RecoveryRotated { generation: 1 }));
    check(&rotated, rotate(2, 3), Err(refused(KeysProblem::RotationUnderWay)));
    assert_round_trip(&rotated);
}

#[test]
fn key_rotation_renews_every_wraps_file_and_is_over_only_then() {
    let mut world = world();
    // Without a rotation there is nothing to finish.
    check(&world, keys(KeysCommand::FinishRotation), Ok(Outcome::KeysNoted { new: false }));
    assert_eq!(world.state.wraps_owed().count(), 0);
    world.ok(rotate(1, 2));
    assert_eq!(world.state.key_bundles_owed(&cluster(1)), [(bundle("k1"), seq(1))]);
    check(&world, keys(KeysCommand::FinishRotation), Err(refused(KeysProblem::WrapsLeft)));

    // An agent that has not heard of the new key yet may go on with the old one: then it owes more.
    let id = world.open(1);
    let mut late = Draft::repack(&world, 1, id);
    for letter in ['k', 'w'] {
        late.edit(letter, |header| header.recovery_key = recovery(1).0.fingerprint());
    }
    let mut other = world.clone();
    other.ok(late.command());
    let owed = [(bundle("k1"), seq(1)), (bundle("k3"), seq(3))];
    assert_eq!(other.state.key_bundles_owed(&cluster(1)), owed);

    let added = wraps(&world, id, bundle("k1"), 2, "w1-new");
    // The old key is no way forward.
    let old = wraps(&world, id, bundle("k1"), 1, "w1-old");
    let mismatch =
        Refusal::HeaderMismatch { bundle: bundle("w1-old"), field: HeaderField::RecoveryKey };
    check(&world, replace(id, bundle("k1"), old), Err(mismatch));
    let of_other =
        Refusal::HeaderMismatch { bundle: bundle("w1-new"), field: HeaderField::Predecessor };
    let command = replace(id, bundle("k9"), added.clone());
    check(&world, command, Err(refused(KeysProblem::WrapsUnknown)));
    let elsewhere = wraps(&world, id, bundle("k9"), 2, "w1-new");
    check(&world, replace(id, bundle("k1"), elsewhere), Err(of_other));
    // A reader was told the old name.
    let mut read = world.clone();
    read.open_read(1, lease(77), 1);
    let command = replace(id, bundle("k1"), added.clone());
    check(&read, command.clone(), Err(refused(KeysProblem::WrapsInUse)));
    // On one of three nodes it is not durable (B1).
    let few = AddedBundle { holders: nodes(&[1]).into_iter().collect(), ..added.clone() };
    let not_durable = Refusal::BundleNotDurable { bundle: bundle("w1-new"), have: 1, need: 2 };
    check(&world, replace(id, bundle("k1"), few), Err(not_durable));

    world.ok(command.clone());
    for sequence in [1, 2] {
        let point = world.state.point(&cluster(1), seq(sequence)).unwrap();
        assert_eq!((point.key_bundle, point.wraps), (bundle("k1"), bundle("w1-new")));
        assert!(point.needs.contains(&bundle("w1-new")) && !point.needs.contains(&bundle("w1")));
    }
    assert_eq!(world.state.bundle(&bundle("w1-new")).unwrap().points, 2);
    assert!(world.state.bundle(&bundle("w1")).is_none(), "nothing needs the old file");
    assert!(world.state.upload(&id).is_none());
    check(&world, command, Ok(Outcome::KeysNoted { new: false }));
    assert_round_trip(&world);
    assert_eq!(world.state.wraps_owed().count(), 0);
    assert!(world.state.is_rotating());
    world.ok(keys(KeysCommand::FinishRotation));
    assert!(!world.state.is_rotating());
    // From here on the old key is a stranger's.
    let id = world.open(1);
    let mut late = Draft::repack(&world, 1, id);
    for letter in ['k', 'w'] {
        late.edit(letter, |header| header.recovery_key = recovery(1).0.fingerprint());
    }
    assert_eq!(world.refused(late.command()).code(), Code::WrongKey);
    for letter in ['k', 'w'] {
        late.edit(letter, |header| header.recovery_key = recovery(2).0.fingerprint());
    }
    world.ok(late.command());
    assert_round_trip(&world);
    check(&world, rotate(2, 3), Ok(Outcome::RecoveryRotated { generation: 2 }));
}

/// Points whose wraps alone were replaced before by a commit, and points that dropped the key bundle.
#[test]
fn key_rotation_keeps_what_each_point_needs() {
    let mut world = world();
    let id = world.open(1);
    let mut alone = Draft::delta(&world, 1, id);
    alone.dropped.push(bundle("w1"));
    alone.wraps = alone.add(BundleKind::Wraps);
    alone.edit('w', |header| header.recovery_key = recovery(1).0.fingerprint());
    world.ok(alone.command());
    let id = world.open(1);
    let mut repack = Draft::repack(&world, 1, id);
    for letter in ['k', 'w'] {
        repack.edit(letter, |header| header.recovery_key = recovery(1).0.fingerprint());
    }
    world.ok(repack.command());
    world.commit_delta(1);
    world.ok(rotate(1, 2));
    let id = world.open(1);
    let added = wraps(&world, id, bundle("k1"), 2, "w1-new");
    world.ok(replace(id, bundle("k1"), added));
    assert_round_trip(&world);
    for sequence in [1, 2, 3] {
        let point = world.state.point(&cluster(1), seq(sequence)).unwrap();
        assert_eq!(point.wraps, bundle("w1-new"));
    }
    assert_eq!(world.state.bundle(&bundle("w1-new")).unwrap().points, 3);
    assert_eq!(world.state.key_bundles_owed(&cluster(1)), [(bundle("k4"), seq(4))]);
    // The next commit goes on from there.
    world.commit_delta(1);
    assert_round_trip(&world);
}

fn begin(world: &World, n: u8, lineage: u32, key: &SigningKey) -> Command {
    let statement = LineageStatement {
        fleet: FLEET,
        cluster: cluster(n),
        lineage,
        signing_key: public_key(key),
    };
    keys(KeysCommand::BeginLineage(BeginLineage {
        cluster: cluster(n),
        epoch: world.epoch(n),
        lineage,
        signing_key: public_key(key),
        signature: key.sign(&statement.signing_input()).to_bytes(),
    }))
}

/// The next point of cluster 1 in `lineage`, everything new, signed by `key`.
fn anew(world: &World, id: LeaseId, lineage: u32, key: &SigningKey) -> Draft {
    let mut draft = Draft::repack(world, 1, id);
    for letter in ['c', 'm', 'k', 'w'] {
        draft.edit(letter, |header| {
            header.lineage = lineage;
            header.signer = public_key(key);
            if header.recovery_key != proto_types::KeyFingerprint::ZERO {
                header.recovery_key = recovery(1).0.fingerprint();
            }
        });
        draft.bundle(letter).signer = key.clone();
    }
    draft
}

#[test]
fn a_lost_kek_begins_a_lineage_under_the_same_signing_key() {
    let mut world = world();
    let ours = signing_key(1);
    let begun = Ok(Outcome::LineageBegun { lineage: 1, approved: true });
    check(&world, begin(&world, 1, 1, &ours), begun.clone());
    check(&world, begin(&world, 1, 2, &ours), Err(refused(KeysProblem::LineageNotNext)));
    let id = world.open(1);
    world.ok(begin(&world, 1, 1, &ours));
    check(&world, begin(&world, 1, 1, &ours), begun);
    assert!(world.state.upload(&id).is_none(), "what was sealed before cannot be committed");
    let id = world.open(1);
    let draft = anew(&world, id, 1, &ours);
    world.ok(draft.command());
    let (old, new) = (world.state.point(&cluster(1), seq(2)).unwrap(), world.head(1).unwrap());
    assert_eq!((old.lineage, new.lineage), (0, 1));
    assert!(new.is_proved());
    assert_round_trip(&world);
}

#[test]
fn invariant_k3_points_of_a_new_signing_key_are_unproved_until_an_operator_approves_it() {
    let mut world = world();
    let new = signing_key(9);
    // Whoever has only the agent's certificate cannot name a key that is not his.
    let Command::Keys(command) = begin(&world, 1, 1, &new) else { unreachable!() };
    let KeysCommand::BeginLineage(mut command) = *command else { unreachable!() };
    command.signing_key = public_key(&signing_key(8));
    let forged = keys(KeysCommand::BeginLineage(command.clone()));
    check(&world, forged, Err(refused(KeysProblem::LineageNotSigned)));
    let mut stale = command;
    stale.epoch = Epoch::new(99);
    assert_eq!(
        world.clone().refused(keys(KeysCommand::BeginLineage(stale))).code(),
        Code::StaleEpoch
    );

    world.ok(begin(&world, 1, 1, &new));
    let raised = |world: &World| {
        world
            .state
            .findings_of(Scope::Cluster(cluster(1)))
            .any(|(key, _)| key.kind == LINEAGE_UNAPPROVED)
    };
    assert!(raised(&world));
    let id = world.open(1);
    let command = anew(&world, id, 1, &new).command();
    let first = world.ok(command.clone());
    assert_eq!(world.ok(command), first, "a repeat answers the same");
    let unproved = ProofState::Unproved {
        reason: "signed by a new key that no operator has approved".to_owned(),
    };
    assert_eq!(world.head(1).unwrap().proofs[0].state, unproved);
    assert_eq!(world.state.newest_proved_point(&cluster(1)).unwrap().sequence, seq(2));
    assert_round_trip(&world);

    let approve = |key: &SigningKey| {
        let signing_key = public_key(key);
        keys(KeysCommand::ApproveLineage(ApproveLineage { cluster: cluster(1), signing_key }))
    };
    let other = approve(&signing_key(1));
    check(&world, other, Err(refused(KeysProblem::OtherSigningKey)));
    world.ok(approve(&new));
    assert!(!raised(&world));
    check(&world, approve(&new), Ok(Outcome::KeysNoted { new: false }));
    let id = world.open(1);
    let draft = anew(&world, id, 1, &new);
    world.ok(draft.command());
    assert!(world.head(1).unwrap().is_proved());
    let before = world.state.point(&cluster(1), seq(3)).unwrap();
    assert!(!before.is_proved(), "what was not proved then is not proved by this");
    assert_eq!(world.state.lineage_of(&cluster(1)).unwrap().former, [public_key(&signing_key(1))]);
    assert_round_trip(&world);
}

#[test]
fn orders_for_keys_are_kept_until_the_agent_fulfilled_them() {
    let mut world = world();
    let order =
        |kek, dek| keys(KeysCommand::OrderKeys(OrderKeys { cluster: cluster(1), kek, dek }));
    let record = |world: &World, kek, dek| {
        let epoch = world.epoch(1);
        keys(KeysCommand::RecordKeys(RecordKeys { cluster: cluster(1), epoch, kek, dek }))
    };
    check(&world, order(true, false), Ok(Outcome::KeysOrdered { kek: 1, dek: 0 }));
    assert_eq!(world.clone().refused(order(false, false)).code(), Code::InvalidArgument);
    world.ok(order(true, false));
    // Not done yet: the same one.
    check(&world, order(true, true), Ok(Outcome::KeysOrdered { kek: 1, dek: 1 }));
    assert_eq!(world.clone().refused(record(&world, 2, 0)).code(), Code::InvalidArgument);
    check(&world, record(&world, 1, 0), Ok(Outcome::KeysNoted { new: true }));
    world.ok(record(&world, 1, 0));
    world.ok(order(true, false));
    let expect = KeyOrders { kek: 2, kek_done: 1, dek: 0, dek_done: 0 };
    assert_eq!(world.state.key_orders(&cluster(1)), expect);
    assert_round_trip(&world);
}

pub(crate) fn attest(index: u8) -> AttestShare {
    AttestShare { set: [5; 5], key: recovery(1).0.fingerprint(), index, threshold: 3, total: 5 }
}

#[test]
fn holders_who_do_not_show_their_shares_are_missed_after_180_days() {
    let mut world = world();
    let show = |share| keys(KeysCommand::AttestShare(share));
    let day = ATTEST_MS / 180;
    let made = world.state.fleet().unwrap().created;
    let overdue =
        |world: &World, days: u64| world.state.attested(made.plus_millis(days * day)).is_overdue;
    assert!(!overdue(&world, 179), "a new fleet has time");
    assert!(overdue(&world, 180));
    for bad in [
        AttestShare { index: 0, ..attest(1) },
        AttestShare { index: 6, ..attest(1) },
        AttestShare { threshold: 1, ..attest(1) },
        AttestShare { threshold: 6, ..attest(1) },
        AttestShare { total: 65, ..attest(1) },
    ] {
        assert_eq!(world.clone().refused(show(bad)).code(), Code::InvalidArgument, "{bad:?}");
    }
    let other = AttestShare { key: recovery(2).0.fingerprint(), ..attest(1) };
    check(&world, show(other), Err(refused(KeysProblem::OtherRecoveryKey)));
    world.now_ms += 100 * day;
    world.ok(show(attest(1)));
    world.ok(show(attest(2)));
    let lies = AttestShare { threshold: 2, ..attest(3) };
    assert_eq!(world.clone().refused(show(lies)).code(), Code::InvalidArgument);
    assert!(overdue(&world, 180), "two of three");
    world.ok(show(attest(2)));
    assert!(overdue(&world, 180), "one holder twice is one");
    world.now_ms += 50 * day;
    world.ok(show(attest(4)));
    assert!(!overdue(&world, 180));
    assert!(!overdue(&world, 279));
    assert!(overdue(&world, 280), "the first two are too long ago");
    let found = world.state.attested(LogTime::from_millis(world.now_ms));
    assert_eq!((found.holders, found.threshold), (3, 3));
    assert_round_trip(&world);
    // Shares of another key say nothing of this one.
    world.ok(rotate(1, 2));
    assert_eq!(world.state.attests().count(), 0);
}

/// Commands, each at least once, for the frozen bytes.
pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let world = world();
    let order = OrderKeys { cluster: cluster(1), kek: true, dek: false };
    let record = RecordKeys { cluster: cluster(1), epoch: Epoch::new(1), kek: 2, dek: 3 };
    let signing_key = public_key(&signing_key(9));
    let approve = ApproveLineage { cluster: cluster(1), signing_key };
    vec![
        ("keys-rotate_recovery", rotate(1, 2)),
        (
            "keys-replace_wraps",
            replace(lease(9), bundle("k1"), wraps(&world, lease(9), bundle("k1"), 2, "w1-new")),
        ),
        ("keys-finish_rotation", keys(KeysCommand::FinishRotation)),
        ("keys-begin_lineage", begin(&world, 1, 1, &crate::scenario::signing_key(9))),
        ("keys-approve_lineage", keys(KeysCommand::ApproveLineage(approve))),
        ("keys-order_keys", keys(KeysCommand::OrderKeys(order))),
        ("keys-record_keys", keys(KeysCommand::RecordKeys(record))),
        ("keys-attest_share", keys(KeysCommand::AttestShare(attest(3)))),
    ]
}

/// A state with a row of each kind that is about keys.
pub(crate) fn state() -> coordinator_core::State {
    let mut world = world();
    world.ok(rotate(1, 2));
    let id = world.open(1);
    let added = wraps(&world, id, bundle("k1"), 2, "w1-new");
    world.ok(replace(id, bundle("k1"), added));
    world.ok(keys(KeysCommand::FinishRotation));
    let share = AttestShare { key: recovery(2).0.fingerprint(), ..attest(3) };
    world.ok(keys(KeysCommand::AttestShare(share)));
    world.ok(begin(&world, 1, 1, &signing_key(9)));
    let order = OrderKeys { cluster: cluster(1), kek: true, dek: true };
    world.ok(keys(KeysCommand::OrderKeys(order)));
    let id = world.open(1);
    let mut draft = anew(&world, id, 1, &signing_key(9));
    for letter in ['k', 'w'] {
        draft.edit(letter, |header| header.recovery_key = recovery(2).0.fingerprint());
    }
    world.ok(draft.command());
    world.state
}

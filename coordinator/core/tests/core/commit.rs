//! Commits of recovery points: durability (B1), keys (B4), epochs (E1) and what a point needs.

use coordinator_core::{
    AcquireEpoch, BundlePrefix, Command, Event, Field, LeaseEnd, Limit, Outcome, Proof, ProofState,
    RecordHolders, Refusal, Role,
};
use proto_types::{BundleId, BundleKind, Code, Epoch, LogIndex, LogTime, NodeId};

use crate::scenario::{
    Draft, World, bundle, check, cluster, dek, instance, lease, nodes, open_upload, proved, seq,
    signing_key, unproved,
};

/// A world with an open upload for the first point, and its draft.
fn first() -> (World, Draft) {
    let mut world = World::new();
    let lease = world.open(1);
    let draft = Draft::first(&world, 1, lease);
    (world, draft)
}

/// A world with one point and an open upload for a delta, and its draft.
fn delta() -> (World, Draft) {
    let mut world = World::with_first_point();
    let lease = world.open(1);
    let draft = Draft::delta(&world, 1, lease);
    (world, draft)
}

#[test]
fn commit_makes_a_point_and_ends_its_upload() {
    let (mut world, draft) = first();
    let applied = world.run(draft.command());
    assert_eq!(
        applied.outcome,
        Outcome::Committed {
            cluster: cluster(1),
            sequence: seq(1),
            manifest: bundle("m1"),
            index: LogIndex::new(5),
            time: LogTime::from_millis(1_000_000),
        }
    );
    let mut added = [bundle("c1"), bundle("k1"), bundle("m1"), bundle("w1")];
    added.sort();
    assert_eq!(
        applied.events,
        [
            Event::PointCommitted {
                cluster: cluster(1),
                sequence: seq(1),
                manifest: bundle("m1"),
                added: added.to_vec(),
            },
            Event::LeaseEnded { lease: lease(100), cluster: cluster(1), end: LeaseEnd::Committed },
        ]
    );
    let point = world.head(1).unwrap();
    assert_eq!(point.needs.iter().copied().collect::<Vec<_>>(), added);
    assert_eq!((point.parent, point.base), (seq(0), None));
    // Three headers name one DEK, the wraps none: 4 bodies of 1000, 4 trailers of 76 and 244.
    assert_eq!(point.stored_bytes_added, 4 * (1_000 + 76 + 244) + 3 * 16);
    assert!(point.statement.is_none() && point.is_proved());
    assert!(!world.state.lease_live(&lease(100)));
}

#[test]
fn commit_of_a_delta_inherits_and_drops() {
    let mut world = World::with_first_point();
    world.commit_delta(1);
    world.commit_delta(1);
    let point = world.head(1).unwrap();
    let mut needs: Vec<BundleId> =
        ["c1", "c2", "c3", "k1", "m1", "m3", "w1"].into_iter().map(bundle).collect();
    needs.sort();
    assert_eq!(point.needs.iter().copied().collect::<Vec<_>>(), needs);
    assert_eq!((point.base, point.parent), (Some(bundle("m1")), seq(2)));
    assert_eq!(point.dropped, [bundle("m2")]);
    // m2 is still needed by point 2, c1 by all three.
    assert_eq!(world.state.bundle(&bundle("m2")).unwrap().points, 1);
    assert_eq!(world.state.bundle(&bundle("c1")).unwrap().points, 3);
}

#[test]
fn commit_of_a_repack_drops_everything_old() {
    let mut world = World::with_first_point();
    world.commit_delta(1);
    let lease = world.open(1);
    world.ok(Draft::repack(&world, 1, lease).command());
    let point = world.head(1).unwrap();
    let mut needs: Vec<BundleId> = ["c3", "k3", "m3", "w3"].into_iter().map(bundle).collect();
    needs.sort();
    assert_eq!(point.needs.iter().copied().collect::<Vec<_>>(), needs);
    assert_eq!(point.base, None);
}

#[test]
fn commit_of_an_unchanged_point_is_a_statement() {
    let mut world = World::with_first_point();
    world.commit_delta(1);
    world.commit_unchanged(1);
    let (second, third) = (
        world.state.point(&cluster(1), seq(2)).unwrap().clone(),
        world.state.point(&cluster(1), seq(3)).unwrap().clone(),
    );
    assert!(third.statement.is_some());
    assert_eq!((third.manifest, third.base), (bundle("m2"), Some(bundle("m1"))));
    assert_eq!(third.needs, second.needs);
    assert_eq!(third.stored_bytes_added, 0);
    assert!(third.added.is_empty() && third.dropped.is_empty());
    // And the next delta follows the manifest that still holds.
    world.commit_delta(1);
    assert_eq!(world.head(1).unwrap().dropped, [bundle("m2")]);
}

/// Invariant B1: no point without every bundle on a majority of the voters of that log index.
#[test]
fn invariant_b1_each_added_bundle_is_on_a_majority() {
    for letter in ['c', 'm', 'k', 'w'] {
        for (holders, have) in [(&[1][..], 1), (&[], 0), (&[1, 7, 8, 9], 1), (&[3], 1)] {
            let (world, mut draft) = first();
            draft.bundle(letter).holders = holders.to_vec();
            let id = draft.bundle(letter).id;
            let expect = Refusal::BundleNotDurable { bundle: id, have, need: 2 };
            assert_eq!(expect.code(), Code::BundleNotDurable);
            check(&world, draft.command(), Err(expect));
        }
        let (mut world, mut draft) = first();
        draft.bundle(letter).holders = vec![1, 3];
        world.ok(draft.command());
    }
}

#[test]
fn invariant_b1_inherited_bundles_count_too() {
    // Node 2 and 3 lost the first config bundle: even a statement may not build on it.
    let mut world = World::with_first_point();
    for node in [2, 3] {
        world.ok(Command::RecordHolders(RecordHolders {
            node: NodeId::new(node),
            present: vec![],
            absent: vec![bundle("c1")],
            home: LogIndex::new(0),
        }));
    }
    let expect = Refusal::BundleNotDurable { bundle: bundle("c1"), have: 1, need: 2 };
    check(&world, Draft::unchanged(&world, 1).command(), Err(expect.clone()));
    let lease = world.open(1);
    check(&world, Draft::delta(&world, 1, lease).command(), Err(expect));
    // Repaired on one of them, it may.
    world.ok(Command::RecordHolders(RecordHolders {
        node: NodeId::new(3),
        present: vec![bundle("c1")],
        absent: vec![],
        home: LogIndex::new(0),
    }));
    world.ok(Draft::delta(&world, 1, lease).command());
}

#[test]
fn invariant_b1_the_voters_of_the_entry_are_what_counts() {
    let (mut world, draft) = first();
    for (voters, need) in [(&[1, 2, 3, 4, 5, 6][..], 4), (&[4, 5, 6], 2), (&[], 1)] {
        world.voters = nodes(voters);
        let refusal = world.refused(draft.command());
        let Refusal::BundleNotDurable { have, need: found, .. } = refusal else {
            panic!("{refusal:?}")
        };
        assert_eq!((have, found), (if need == 4 { 3 } else { 0 }, need));
    }
    world.voters = nodes(&[1, 2, 3, 4, 5]);
    world.ok(draft.command());
}

/// Invariant B4: the key bundle holds every key that the point's bundles are sealed under.
#[test]
fn invariant_b4_the_key_bundle_opens_what_is_added() {
    for letter in ['c', 'm'] {
        let (world, mut draft) = first();
        draft.edit(letter, |header| header.dek_ids = vec![dek(1), dek(2), dek(3)]);
        let expect = Refusal::KeysMissing { key_bundle: bundle("k1"), missing: 2, first: dek(2) };
        assert_eq!(expect.code(), Code::KeyBundleIncomplete);
        check(&world, draft.command(), Err(expect));
        let mut world = world;
        draft.edit('k', |header| header.dek_ids = vec![dek(1), dek(2), dek(3)]);
        world.ok(draft.command());
    }
}

#[test]
fn invariant_b4_the_key_bundle_opens_what_is_inherited() {
    // A new key bundle that forgets the DEK of the inherited config bundle and base.
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("k1"), bundle("w1")];
    draft.key_bundle = draft.add(BundleKind::Key);
    draft.wraps = draft.add(BundleKind::Wraps);
    draft.edit('w', |header| header.predecessor = bundle("k2"));
    for letter in ['c', 'm', 'k'] {
        draft.edit(letter, |header| header.dek_ids = vec![dek(2)]);
    }
    let expect = Refusal::KeysMissing { key_bundle: bundle("k2"), missing: 1, first: dek(1) };
    check(&world, draft.command(), Err(expect));
    let mut world = world;
    draft.edit('k', |header| header.dek_ids = vec![dek(1), dek(2)]);
    world.ok(draft.command());
    // An inherited key bundle is held to it as well.
    let lease = world.open(1);
    let mut draft = Draft::delta(&world, 1, lease);
    draft.edit('c', |header| header.dek_ids = vec![dek(3)]);
    let expect = Refusal::KeysMissing { key_bundle: bundle("k2"), missing: 1, first: dek(3) };
    check(&world, draft.command(), Err(expect));
}

#[test]
fn invariant_b4_no_point_without_key_bundle_and_wraps() {
    for (letter, role) in [('k', Role::KeyBundle), ('w', Role::Wraps), ('m', Role::Manifest)] {
        let (world, mut draft) = first();
        draft.remove(letter);
        let id = bundle(&format!("{letter}1"));
        check(&world, draft.command(), Err(Refusal::RoleMissing { role, bundle: id }));
    }
    // Nor by dropping the inherited one, nor by naming none.
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("k1")];
    let missing = |bundle| Refusal::RoleMissing { role: Role::KeyBundle, bundle };
    assert_eq!(missing(bundle("k1")).code(), Code::KeyBundleIncomplete);
    check(&world, draft.command(), Err(missing(bundle("k1"))));
    let (world, mut draft) = delta();
    draft.key_bundle = BundleId::ZERO;
    check(&world, draft.command(), Err(missing(BundleId::ZERO)));
    // Nor with wraps of another key bundle: a new key bundle needs new wraps.
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("k1")];
    draft.key_bundle = draft.add(BundleKind::Key);
    let wrong = Refusal::RoleWrong { role: Role::Wraps, bundle: bundle("w1") };
    assert_eq!(wrong.code(), Code::KeyBundleIncomplete);
    check(&world, draft.command(), Err(wrong));
}

/// Invariant E1: of two agents, the older epoch can commit nothing.
#[test]
fn invariant_e1_an_older_epoch_commits_nothing() {
    let (mut world, draft) = delta();
    let statement = Draft::unchanged(&world, 1);
    world.ok(Command::AcquireEpoch(AcquireEpoch { cluster: cluster(1), instance: instance(9) }));
    let expect =
        Refusal::StaleEpoch { cluster: cluster(1), offered: Epoch::new(1), current: Epoch::new(2) };
    assert_eq!(expect.code(), Code::StaleEpoch);
    check(&world, draft.command(), Err(expect.clone()));
    check(&world, statement.command(), Err(expect.clone()));
    check(&world, open_upload(1, Epoch::new(1), lease(9), seq(1)), Err(expect));
    // A newer one than any issued neither.
    let mut future = Draft::unchanged(&world, 1);
    future.commit.epoch = Epoch::new(3);
    assert!(matches!(world.refused(future.command()), Refusal::StaleEpoch { .. }));
    // The new instance does.
    world.commit_delta(1);
    assert_eq!(world.head(1).unwrap().epoch, Epoch::new(2));
}

#[test]
fn invariant_e1_without_an_epoch_nothing_is_committed() {
    let mut world = World::new();
    world.ok(crate::scenario::register(2));
    let expect =
        Refusal::StaleEpoch { cluster: cluster(2), offered: Epoch::new(0), current: Epoch::new(0) };
    check(&world, open_upload(2, Epoch::new(0), lease(9), seq(0)), Err(expect));
}

#[test]
fn commit_must_follow_the_head() {
    let (world, draft) = delta();
    for offered in [0, 1, 3, u64::MAX] {
        let mut draft = draft.clone();
        draft.commit.sequence = seq(offered);
        let expect =
            Refusal::StaleHead { cluster: cluster(1), offered: seq(offered), head: seq(1) };
        assert_eq!(expect.code(), Code::StaleHead);
        check(&world, draft.command(), Err(expect));
    }
    let mut draft = draft;
    draft.commit.parent_manifest = bundle("c1");
    let expect = Refusal::ParentManifestDiffers { cluster: cluster(1), head: seq(1) };
    check(&world, draft.command(), Err(expect));
}

#[test]
fn commit_repeated_exactly_answers_the_same() {
    let (mut world, draft) = delta();
    let outcome = world.ok(draft.command());
    let before = world.state.clone();
    world.now_ms += 5;
    // Even when another instance has taken over meanwhile: it is done.
    world.ok(Command::AcquireEpoch(AcquireEpoch { cluster: cluster(1), instance: instance(9) }));
    let mut without_headers = draft.clone();
    without_headers.bundles.clear();
    for repeat in [&draft, &without_headers] {
        let applied = world.run(repeat.command());
        assert_eq!((applied.outcome, applied.events), (outcome.clone(), vec![]));
    }
    assert_eq!(
        world.state.bundles().collect::<Vec<_>>(),
        before.bundles().collect::<Vec<_>>(),
        "nothing is counted twice"
    );
    // Anything else under the same number is stale.
    type Change = fn(&mut Draft);
    let changes: [Change; 9] = [
        |d| d.dropped.push(bundle("c1")),
        |d| d.commit.lease = Some(lease(77)),
        |d| d.commit.taken = LogTime::from_millis(1),
        |d| d.commit.items = 8,
        |d| d.commit.logical_bytes = 8,
        |d| d.commit.proofs = vec![],
        |d| d.commit.parent_manifest = BundleId::ZERO,
        |d| d.manifest = bundle("c2"),
        |d| d.statement_signer = Some(signing_key(1)),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut other = draft.clone();
        change(&mut other);
        let refusal = world.refused(other.command());
        assert!(matches!(refusal, Refusal::StaleEpoch { .. }), "{at}: {refusal:?}");
    }
}

#[test]
fn commit_of_a_statement_repeats_too() {
    let mut world = World::with_first_point();
    let draft = Draft::unchanged(&world, 1);
    let outcome = world.ok(draft.command());
    assert_eq!(world.ok(draft.command()), outcome);
    let mut later = draft;
    later.commit.taken = LogTime::from_millis(5);
    assert!(matches!(world.refused(later.command()), Refusal::StaleHead { .. }));
}

#[test]
fn commit_needs_the_lease_of_its_upload() {
    let (mut world, draft) = delta();
    world.add_cluster(2);
    let other = world.open(2);
    for (lease_in_commit, expect) in [
        (None, Refusal::LeaseRequired),
        (Some(lease(77)), Refusal::LeaseGone { lease: lease(77) }),
        (Some(other), Refusal::LeaseOfAnother { lease: other }),
    ] {
        let mut draft = draft.clone();
        draft.commit.lease = lease_in_commit;
        check(&world, draft.command(), Err(expect));
    }
    // A statement needs none, but one that is named must fit.
    let mut statement = Draft::unchanged(&world, 1);
    statement.commit.lease = Some(other);
    check(&world, statement.command(), Err(Refusal::LeaseOfAnother { lease: other }));
    // An upload opened against an older parent ended with the commit that made it old.
    let old = draft.commit.lease.unwrap();
    world.commit_unchanged(1);
    let mut late = Draft::delta(&world, 1, old);
    late.commit.lease = Some(old);
    check(&world, late.command(), Err(Refusal::LeaseGone { lease: old }));
    // A lease past its time, which no entry has ended, is as good as any.
    let fresh = lease(55);
    world.ok(open_upload(1, Epoch::new(1), fresh, seq(2)));
    world.now_ms += 48 * crate::scenario::HOUR_MS;
    world.ok(Draft::delta(&world, 1, fresh).command());
}

#[test]
fn commit_of_a_delta_needs_a_full_base_of_its_own_parent() {
    let wrong = |bundle| Refusal::RoleWrong { role: Role::Base, bundle };
    // The base is a delta itself.
    let mut world = World::with_first_point();
    world.commit_delta(1);
    let lease = world.open(1);
    let mut draft = Draft::delta(&world, 1, lease);
    draft.dropped.clear();
    draft.edit('m', |header| header.base = bundle("m2"));
    check(&world, draft.command(), Err(wrong(bundle("m2"))));
    // It is no manifest.
    let (world, mut draft) = delta();
    draft.edit('m', |header| header.base = bundle("k1"));
    check(&world, draft.command(), Err(wrong(bundle("k1"))));
    // It was dropped, or is unknown, as any base of a first point is.
    let missing = |bundle| Refusal::RoleMissing { role: Role::Base, bundle };
    let (world, mut draft) = delta();
    draft.dropped.push(bundle("m1"));
    check(&world, draft.command(), Err(missing(bundle("m1"))));
    let (world, mut draft) = first();
    draft.edit('m', |header| header.base = bundle("nowhere"));
    check(&world, draft.command(), Err(missing(bundle("nowhere"))));
    // It comes with this very commit.
    let (world, mut draft) = first();
    let twin = draft.add_labelled(BundleKind::Manifest, "twin".to_owned());
    draft.edit('m', |header| header.base = twin);
    check(&world, draft.command(), Err(wrong(twin)));
    // It belongs to another cluster.
    let (mut world, mut draft) = delta();
    world.add_cluster(2);
    world.commit_first(2);
    draft.edit('m', |header| header.base = bundle("2/m1"));
    check(&world, draft.command(), Err(missing(bundle("2/m1"))));
}

#[test]
fn commit_needs_nothing_in_the_wrong_role_and_nothing_useless() {
    // The manifest must be new: an inherited one, or another kind, is none.
    for (id, expect) in [
        ("m1", Refusal::RoleWrong { role: Role::Manifest, bundle: bundle("m1") }),
        ("c2", Refusal::RoleWrong { role: Role::Manifest, bundle: bundle("c2") }),
    ] {
        let (world, mut draft) = delta();
        draft.manifest = bundle(id);
        check(&world, draft.command(), Err(expect));
    }
    let (world, mut draft) = delta();
    draft.key_bundle = bundle("w1");
    let expect = Refusal::RoleWrong { role: Role::KeyBundle, bundle: bundle("w1") };
    check(&world, draft.command(), Err(expect));
    let (world, mut draft) = delta();
    draft.wraps = bundle("k1");
    let expect = Refusal::RoleWrong { role: Role::Wraps, bundle: bundle("k1") };
    check(&world, draft.command(), Err(expect));
    // The next key bundle names the one before like wraps would, and is still none.
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("w1")];
    draft.wraps = draft.add(BundleKind::Key);
    let expect = Refusal::RoleWrong { role: Role::Wraps, bundle: bundle("k2") };
    check(&world, draft.command(), Err(expect));
    // The delta before is not needed any more.
    let mut world = World::with_first_point();
    world.commit_delta(1);
    let lease = world.open(1);
    let mut draft = Draft::delta(&world, 1, lease);
    draft.dropped.clear();
    check(&world, draft.command(), Err(Refusal::Surplus { bundle: bundle("m2") }));
}

#[test]
fn commit_names_each_bundle_once() {
    let (world, mut draft) = first();
    let twin = draft.bundle('c').clone();
    draft.bundles.insert("twin".to_owned(), twin);
    check(&world, draft.command(), Err(Refusal::BundleRepeated { bundle: bundle("c1") }));
    // A bundle that a point of this or another cluster needs cannot come again.
    let (mut world, mut draft) = delta();
    draft.bundle('c').id = bundle("c1");
    check(&world, draft.command(), Err(Refusal::BundleRepeated { bundle: bundle("c1") }));
    world.add_cluster(2);
    world.commit_first(2);
    draft.bundle('c').id = bundle("2/c1");
    check(&world, draft.command(), Err(Refusal::BundleRepeated { bundle: bundle("2/c1") }));
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("nowhere")];
    check(
        &world,
        draft.command(),
        Err(Refusal::DroppedUnknown { prefix: BundlePrefix::of(&bundle("nowhere")) }),
    );
    let (world, mut draft) = delta();
    draft.dropped = vec![bundle("c1"), bundle("c1")];
    check(
        &world,
        draft.command(),
        Err(Refusal::DroppedUnknown { prefix: BundlePrefix::of(&bundle("c1")) }),
    );
    let (world, mut draft) = delta();
    draft.bundle('c').holders = vec![1, 2, 2];
    check(&world, draft.command(), Err(Refusal::InvalidField { field: Field::Holders }));
}

#[test]
fn commit_is_bounded() {
    let limit = |limit, have, max| Refusal::LimitReached { limit, have, max };
    let (world, mut draft) = first();
    for n in 0..5 {
        draft.add_labelled(BundleKind::Config, format!("more-{n}"));
    }
    assert!(draft.build().entry_bytes() <= 4096);
    check(&world, draft.command(), Err(limit(Limit::Added, 9, 8)));
    // The bytes of the entry are what binds when headers name many keys.
    let (world, mut draft) = first();
    let many: Vec<_> = (1..=96).map(dek).collect();
    for letter in ['c', 'm', 'k'] {
        let deks = many.clone();
        draft.edit(letter, |header| header.dek_ids = deks);
    }
    let bytes = draft.build().entry_bytes();
    assert!(bytes > 4096);
    check(&world, draft.command(), Err(limit(Limit::CommitBytes, bytes, 4096)));
    assert_eq!(limit(Limit::CommitBytes, bytes, 4096).code(), Code::TooLarge);
    let (world, mut draft) = first();
    draft.bundle('c').holders = (1..=17).collect();
    check(&world, draft.command(), Err(limit(Limit::Holders, 17, 16)));
    let (world, mut draft) = delta();
    draft.dropped = (0..133).map(|n| bundle(&format!("x{n}"))).collect();
    check(&world, draft.command(), Err(limit(Limit::Dropped, 133, 132)));
}

#[test]
fn commit_needs_at_most_128_config_bundles() {
    let mut world = World::with_first_point();
    // Four config bundles with each delta: 1 + 31 × 4 = 125, then 3 and then one too many.
    for point in 2..=33_u64 {
        let id = lease(u8::try_from(point).unwrap());
        world.ok(open_upload(1, Epoch::new(1), id, seq(point - 1)));
        let mut draft = Draft::delta(&world, 1, id);
        for n in 0..3 {
            draft.add_labelled(BundleKind::Config, format!("c{point}-{n}"));
        }
        if point == 33 {
            let expect = Refusal::LimitReached { limit: Limit::ConfigBundles, have: 129, max: 128 };
            assert_eq!(world.refused(draft.command()), expect);
            draft.bundles.remove("c33-0");
        }
        world.ok(draft.command());
    }
    assert_eq!(world.head(1).unwrap().needs.len(), 128 + 4);
}

#[test]
fn proofs_name_each_source_once_and_are_kept_in_order() {
    let invalid = Refusal::InvalidField { field: Field::Proofs };
    let with = |source: &str, state| Proof { source: source.to_owned(), state };
    let long = "x".repeat(201);
    for proofs in [
        vec![proved("vault"), unproved("vault")],
        vec![proved("")],
        vec![proved("Vault")],
        vec![proved("a-source-with-a-name-of-33-letter")],
        vec![with("vault", ProofState::Failed { reason: long })],
    ] {
        let (world, mut draft) = first();
        draft.commit.proofs = proofs;
        check(&world, draft.command(), Err(invalid.clone()));
    }
    let (world, mut draft) = first();
    draft.commit.proofs = (0..17).map(|n| proved(&format!("s{n}"))).collect();
    let expect = Refusal::LimitReached { limit: Limit::Proofs, have: 17, max: 16 };
    check(&world, draft.command(), Err(expect));
    let (mut world, mut draft) = first();
    draft.commit.proofs = vec![proved("vault"), proved("consul")];
    world.ok(draft.command());
    assert_eq!(world.head(1).unwrap().proofs, [proved("consul"), proved("vault")]);
}

//! Random commands, valid and spoilt, on a fleet of two clusters. After each one every invariant
//! is looked at, each by a function of its own, from the rows alone.

use std::collections::{BTreeMap, BTreeSet};

use coordinator_core::{
    AcquireEpoch, AnnounceObject, Applied, BundleHome, ClearFinding, Command, EndReadLease,
    EndUpload, Event, ExpireLeases, ExpireSessions, FindingKey, LogContext, Outcome, RaiseFinding,
    RecordHolders, RecordObjects, RenewLease, Request, Scope, SetBundleHome, Severity, State,
    UploadEnd, apply, codec, majority,
};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_oneof, proptest,
};
use proptest::strategy::ValueTree;
use proto_types::{BundleId, BundleKind, DekId, LeaseId, LogIndex, LogTime, NodeId};

use crate::scenario::{
    Draft, HOUR_MS, World, cluster, dek, instance, lease, open_read, open_upload, seq, session,
};

/// One step; numbers are taken modulo what there is to choose from.
#[derive(Debug, Clone)]
enum Action {
    Acquire { n: u8, who: u8 },
    Open { n: u8, lease: u8, ahead: bool },
    Commit { n: u8, lease: u8, repack: bool, spoil: u8 },
    Unchanged { n: u8, spoil: u8 },
    EndUpload { lease: u8 },
    Renew { lease: u8 },
    OpenRead { n: u8, lease: u8, sequence: u8 },
    EndRead { lease: u8 },
    ExpireLeases,
    ExpireSessions,
    Record { node: u8, present: u32, absent: u32 },
    Raise { n: u8, subject: u8 },
    Clear { n: u8, subject: u8 },
    Voters { count: u8 },
    Wait { ms: u64 },
    ClockBack { ms: u64 },
    Home { bucket: bool },
    Settle,
    Announce { n: u8, lease: u8, which: u8 },
    Objects { present: u32, absent: u32, gone: bool },
}

fn action() -> impl Strategy<Value = Action> {
    let n = 1..=2_u8;
    let id = 0..6_u8;
    prop_oneof![
        1 => any::<bool>().prop_map(|bucket| Action::Home { bucket }),
        1 => Just(Action::Settle),
        8 => (n.clone(), id.clone(), 0..4_u8)
            .prop_map(|(n, lease, which)| Action::Announce { n, lease, which }),
        2 => (any::<u32>(), prop_oneof![3 => Just(0), 1 => any::<u32>()], any::<bool>())
            .prop_map(|(present, absent, gone)| Action::Objects { present, absent, gone }),
        1 => (n.clone(), 0..3_u8).prop_map(|(n, who)| Action::Acquire { n, who }),
        9 => (n.clone(), id.clone(), prop::bool::weighted(0.1))
            .prop_map(|(n, lease, ahead)| Action::Open { n, lease, ahead }),
        12 => (n.clone(), id.clone(), prop::bool::weighted(0.2), 0..24_u8)
            .prop_map(|(n, lease, repack, spoil)| Action::Commit { n, lease, repack, spoil }),
        2 => (n.clone(), 0..12_u8).prop_map(|(n, spoil)| Action::Unchanged { n, spoil }),
        1 => id.clone().prop_map(|lease| Action::EndUpload { lease }),
        1 => id.clone().prop_map(|lease| Action::Renew { lease }),
        2 => (n.clone(), id.clone(), 0..6_u8)
            .prop_map(|(n, lease, sequence)| Action::OpenRead { n, lease, sequence }),
        1 => id.prop_map(|lease| Action::EndRead { lease }),
        1 => Just(Action::ExpireLeases),
        1 => Just(Action::ExpireSessions),
        2 => (0..5_u8, any::<u32>(), prop_oneof![3 => Just(0), 1 => any::<u32>()])
            .prop_map(|(node, present, absent)| Action::Record { node, present, absent }),
        1 => (n.clone(), 0..2_u8).prop_map(|(n, subject)| Action::Raise { n, subject }),
        1 => (n, 0..2_u8).prop_map(|(n, subject)| Action::Clear { n, subject }),
        1 => (1..=5_u8).prop_map(|count| Action::Voters { count }),
        2 => (0..2 * HOUR_MS).prop_map(|ms| Action::Wait { ms }),
        1 => (0..HOUR_MS).prop_map(|ms| Action::ClockBack { ms }),
    ]
}

/// With which session and number, if any.
fn sender() -> impl Strategy<Value = Option<(u8, u8)>> {
    prop_oneof![2 => Just(None), 1 => (1..3_u8, 1..70_u8).prop_map(Some)]
}

/// The command of an action in this world; `None` where the action is about the world itself.
fn command(world: &mut World, action: &Action) -> Option<Command> {
    Some(match *action {
        Action::Acquire { n, who } => {
            Command::AcquireEpoch(AcquireEpoch { cluster: cluster(n), instance: instance(who) })
        }
        Action::Open { n, lease: id, ahead } => {
            let head = world.state.cluster(&cluster(n))?.head.sequence;
            let parent = if ahead { head.next() } else { head };
            open_upload(n, world.epoch(n), lease(id), parent)
        }
        Action::Commit { n, lease: id, repack, spoil } => {
            // Mostly the lease of a live upload, so that many commits go through.
            let of_cluster = cluster(n);
            let live: Vec<LeaseId> =
                world.state.uploads_of(&of_cluster).map(|(id, _)| *id).collect();
            let lease = live.get(usize::from(id) % live.len().max(1)).copied();
            let mut draft = draft(world, n, lease.unwrap_or(self::lease(id)), repack);
            into_bucket(world, lease, &mut draft);
            spoil_commit(&mut draft, spoil);
            draft.command()
        }
        Action::Unchanged { n, spoil } => {
            let mut draft = Draft::unchanged(world, n);
            match spoil {
                0 => draft.commit.epoch = draft.commit.epoch.next(),
                1 => draft.manifest = crate::scenario::bundle("other"),
                2 => draft.commit.sequence = draft.commit.sequence.next(),
                _ => {}
            }
            draft.command()
        }
        Action::EndUpload { lease: id } => {
            Command::EndUpload(EndUpload { lease: lease(id), reason: UploadEnd::Abandoned })
        }
        Action::Renew { lease: id } => Command::RenewLease(RenewLease { lease: lease(id) }),
        Action::OpenRead { n, lease: id, sequence } => open_read(n, lease(id), sequence.into()),
        Action::EndRead { lease: id } => Command::EndReadLease(EndReadLease { lease: lease(id) }),
        Action::ExpireLeases => {
            Command::ExpireLeases(ExpireLeases { leases: (0..6).map(lease).collect() })
        }
        Action::ExpireSessions => {
            Command::ExpireSessions(ExpireSessions { sessions: (1..3).map(session).collect() })
        }
        Action::Record { node, present, absent } => {
            let of = |mask: u32| -> Vec<BundleId> {
                let known = world.state.bundles().map(|(id, _)| *id).take(32);
                known.enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, id)| id).collect()
            };
            Command::RecordHolders(RecordHolders {
                node: NodeId::new(node.into()),
                present: of(present & !absent),
                absent: of(absent),
                home: world.state.home().changed,
            })
        }
        Action::Raise { n, subject } => Command::RaiseFinding(RaiseFinding {
            key: finding_key(n, subject),
            severity: Severity::Warning,
            message: "something".to_owned(),
            remedy: "do something".to_owned(),
        }),
        Action::Clear { n, subject } => {
            Command::ClearFinding(ClearFinding { key: finding_key(n, subject) })
        }
        Action::Voters { count } => {
            world.voters = (1..=u64::from(count)).map(NodeId::new).collect();
            return None;
        }
        Action::Wait { ms } => {
            world.now_ms += ms;
            return None;
        }
        Action::Home { bucket } => {
            let to = if bucket { BundleHome::Bucket } else { BundleHome::Disks };
            Command::SetBundleHome(SetBundleHome::Begin { to })
        }
        Action::Settle => {
            Command::SetBundleHome(SetBundleHome::Settle { began: world.state.home().began })
        }
        Action::Announce { n, lease: id, which } => {
            let of_cluster = cluster(n);
            let live: Vec<LeaseId> =
                world.state.uploads_of(&of_cluster).map(|(id, _)| *id).collect();
            let lease = *live.get(usize::from(id) % live.len().max(1))?;
            let mut draft = draft(world, n, lease, false);
            draft.statement_signer = None;
            let commit = draft.build();
            let coordinator_core::Content::Changed(content) = commit.content else { return None };
            let added = content.added.get(usize::from(which) % content.added.len())?;
            Command::AnnounceObject(AnnounceObject { lease, bundle: added.id, bytes: added.bytes })
        }
        Action::Objects { present, absent, gone } => {
            let of = |mask: u32| -> Vec<BundleId> {
                let known = world.state.bundles().map(|(id, _)| *id).take(32);
                known.enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, id)| id).collect()
            };
            let deleted = world.state.objects_to_delete().take(if gone { 9 } else { 0 });
            Command::RecordObjects(RecordObjects {
                began: world.state.home().began,
                present: of(present & !absent),
                absent: of(absent),
                gone: deleted.collect(),
            })
        }
        Action::ClockBack { ms } => {
            world.now_ms = world.now_ms.saturating_sub(ms);
            return None;
        }
    })
}

fn draft(world: &World, n: u8, lease: LeaseId, repack: bool) -> Draft {
    match (world.head(n).is_some(), repack) {
        (false, _) => Draft::first(world, n, lease),
        (true, false) => Draft::delta(world, n, lease),
        (true, true) => Draft::repack(world, n, lease),
    }
}

/// What was announced of it is in the bucket, and nowhere else.
fn into_bucket(world: &World, lease: Option<LeaseId>, draft: &mut Draft) {
    let Some(upload) = lease.and_then(|lease| world.state.upload(&lease)) else { return };
    for bundle in draft.bundles.values_mut() {
        if world.state.is_announced(upload.index, &bundle.id) {
            bundle.in_bucket = true;
            bundle.holders.clear();
        }
    }
}

fn spoil_commit(draft: &mut Draft, spoil: u8) {
    match spoil {
        0 => draft.bundle('c').holders = vec![1],
        1 => draft.bundle('m').holders = vec![],
        2 => draft.edit('c', |header| header.dek_ids = vec![dek(9)]),
        3 => draft.commit.epoch = draft.commit.epoch.next(),
        4 => draft.commit.sequence = draft.commit.sequence.next(),
        5 => draft.commit.lease = None,
        6 => draft.dropped.push(draft.key_bundle),
        7 => draft.edit('m', |header| header.predecessor = BundleId::ZERO),
        8 => draft.edit('c', |header| header.cluster = cluster(7)),
        9 => draft.bundle('c').signer = crate::scenario::signing_key(66),
        10 => draft.manifest = draft.wraps,
        _ => {}
    }
}

fn finding_key(n: u8, subject: u8) -> FindingKey {
    FindingKey {
        scope: Scope::Cluster(cluster(n)),
        kind: "random".to_owned(),
        subject: subject.to_string(),
    }
}

/// What stood before a step, and what the step did.
struct Step<'a> {
    before: &'a State,
    after: &'a State,
    request: &'a Request,
    applied: &'a Applied,
    voters: &'a BTreeSet<NodeId>,
}

impl Step<'_> {
    fn check(&self) {
        self.log_time_never_decreases();
        self.committed_points_never_change();
        self.points_are_a_chain();
        self.bundle_rows_are_what_points_need();
        self.leases_end_by_events_and_pin_what_is_needed();
        self.objects_are_deleted_only_when_nobody_needs_them();
        self.refusals_change_nothing();
        self.snapshot_round_trips();
        if let Outcome::Committed { cluster, sequence, .. } = self.applied.outcome
            && self.before.point(&cluster, sequence).is_none()
        {
            self.new_points_are_durable_and_open(cluster, sequence);
        }
    }

    fn log_time_never_decreases(&self) {
        assert!(self.after.log_time() >= self.before.log_time());
        assert!(self.after.log_time() >= self.request.time);
    }

    /// Invariant B3, the state's side.
    fn committed_points_never_change(&self) {
        for n in [1, 2] {
            for point in self.before.points(&cluster(n)) {
                assert_eq!(self.after.point(&cluster(n), point.sequence), Some(point));
            }
        }
    }

    fn points_are_a_chain(&self) {
        for n in [1, 2] {
            let mut before = (seq(0), LogTime::ZERO, LogIndex::new(0));
            for point in self.after.points(&cluster(n)) {
                assert_eq!((point.parent, point.sequence), (before.0, before.0.next()));
                assert!(point.committed >= before.1 && point.index > before.2);
                before = (point.sequence, point.committed, point.index);
            }
            let head = self.after.cluster(&cluster(n)).unwrap().head;
            assert_eq!(head.sequence, before.0);
        }
    }

    fn bundle_rows_are_what_points_need(&self) {
        let mut count: BTreeMap<BundleId, u64> = BTreeMap::new();
        for n in [1, 2] {
            for point in self.after.points(&cluster(n)) {
                for bundle in &point.needs {
                    *count.entry(*bundle).or_default() += 1;
                }
            }
        }
        let rows: BTreeMap<BundleId, u64> =
            self.after.bundles().map(|(id, row)| (*id, row.points)).collect();
        assert_eq!(rows, count);
    }

    /// Invariant B2.
    fn leases_end_by_events_and_pin_what_is_needed(&self) {
        let live = |state: &State| -> BTreeSet<LeaseId> {
            state.uploads().map(|(id, _)| *id).chain(state.reads().map(|(id, _)| *id)).collect()
        };
        let mut expect = live(self.before);
        for event in &self.applied.events {
            match event {
                Event::UploadOpened { lease, .. } | Event::ReadOpened { lease, .. } => {
                    assert!(expect.insert(*lease));
                }
                Event::LeaseEnded { lease, .. } => assert!(expect.remove(lease)),
                _ => {}
            }
        }
        assert_eq!(live(self.after), expect);
        let pinned = self.after.uploads().flat_map(|(_, lease)| &lease.pinned);
        for bundle in pinned.chain(self.after.reads().flat_map(|(_, lease)| &lease.pinned)) {
            assert!(self.after.is_needed(bundle));
        }
    }

    /// Invariant B2 in the bucket: no object that a point or a live upload has is ever to be
    /// deleted, none is forgotten before somebody said that it is deleted, and no name comes twice.
    fn objects_are_deleted_only_when_nobody_needs_them(&self) {
        let doomed = |state: &State| state.objects_to_delete().collect::<BTreeSet<_>>();
        let (before, after) = (doomed(self.before), doomed(self.after));
        for (generation, bundle) in &after {
            let of_point = self.after.bundle(bundle).and_then(|row| row.object);
            assert_ne!(of_point, Some(*generation), "B2: {bundle}");
            assert!(!self.after.is_announced(*generation, bundle));
        }
        let said: BTreeSet<_> = match &self.request.command {
            Command::RecordObjects(command) => command.gone.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        assert!(before.difference(&after).all(|object| said.contains(object)));
        // An object leaves a point only to be deleted, or because it is lost.
        let lost: BTreeSet<BundleId> = match &self.request.command {
            Command::RecordObjects(command) => command.absent.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        for (bundle, row) in self.before.bundles() {
            let now = self.after.bundle(bundle).and_then(|row| row.object);
            if let Some(generation) = row.object.filter(|g| now != Some(*g)) {
                assert!(lost.contains(bundle) || after.contains(&(generation, *bundle)));
            }
            // Released is only what is in the bucket.
            assert!(!self.after.is_released(bundle) || now.is_some(), "B1");
            if self.after.is_released(bundle) {
                assert!(self.after.bundle(bundle).is_some_and(|row| row.holders.is_empty()));
            }
        }
    }

    /// Invariant R3.
    fn refusals_change_nothing(&self) {
        if matches!(self.applied.outcome, Outcome::Refused(_)) {
            assert_eq!(self.applied.events, []);
            assert!(self.before.clusters().eq(self.after.clusters()));
            assert!(self.before.bundles().eq(self.after.bundles()));
            assert!(self.before.findings().eq(self.after.findings()));
        }
    }

    fn snapshot_round_trips(&self) {
        let mut bytes = Vec::new();
        codec::write_state(self.after, &mut bytes).unwrap();
        assert!(codec::read_state(&mut &bytes[..]).unwrap() == *self.after);
    }

    /// Invariants B1, B4 and E1.
    fn new_points_are_durable_and_open(
        &self,
        of: proto_types::ClusterId,
        at: proto_types::Sequence,
    ) {
        let point = self.after.point(&of, at).unwrap();
        let mut sealed_under = BTreeSet::<DekId>::new();
        for (_, row) in self.after.bundles_of(point) {
            let have = row.holders.intersection(self.voters).count();
            let on_disks = have >= majority(self.voters.len());
            assert!(on_disks || row.object.is_some(), "B1");
            assert_eq!(row.facts.cluster, of);
            if matches!(row.facts.kind, BundleKind::Config | BundleKind::Manifest) {
                sealed_under.extend(&row.facts.dek_ids);
            }
        }
        let held = &self.after.bundle(&point.key_bundle).unwrap().facts.dek_ids;
        assert!(sealed_under.is_subset(&held.iter().copied().collect()), "B4");
        assert_eq!(point.epoch, self.before.cluster(&of).unwrap().epoch, "E1");
    }
}

/// One entry of the log that a run leaves behind.
struct Entry {
    bytes: Vec<u8>,
    index: LogIndex,
    voters: BTreeSet<NodeId>,
    applied: Applied,
}

fn run(actions: &[(Action, Option<(u8, u8)>)]) -> (World, Vec<Entry>) {
    let mut world = World::empty();
    let mut log = Vec::new();
    let mut setup = vec![crate::scenario::init_fleet()];
    for n in [1, 2] {
        setup.push(crate::scenario::register(n));
        let acquire = AcquireEpoch { cluster: cluster(n), instance: instance(0) };
        setup.push(Command::AcquireEpoch(acquire));
    }
    let setup_len = setup.len();
    for at in 0..setup_len + actions.len() {
        let (command, sender) = if at < setup_len {
            (Some(setup[at].clone()), None)
        } else {
            let (action, sender) = &actions[at - setup_len];
            (command(&mut world, action), *sender)
        };
        let Some(command) = command else { continue };
        let mut request = world.request(command);
        request.session = sender.map(|(id, number)| (session(id), number.into()));
        let before = world.state.clone();
        let applied = world.apply(&request);
        if at >= setup_len {
            let (before, after) = (&before, &world.state);
            let voters = &world.voters;
            Step { before, after, request: &request, applied: &applied, voters }.check();
        }
        log.push(Entry {
            bytes: codec::encode_request(&request),
            index: LogIndex::new(world.index),
            voters: world.voters.clone(),
            applied,
        });
    }
    (world, log)
}

/// Invariant R1: another node that reads the log from its bytes comes to the same.
fn replay(mut state: State, log: &[Entry]) -> State {
    for entry in log {
        let request = codec::decode_request(&entry.bytes).unwrap();
        let context = LogContext {
            index: entry.index,
            voters: &coordinator_core::Voters::of(entry.voters.clone()),
        };
        assert_eq!(apply(&mut state, &request, &context), entry.applied);
        let outcome = codec::encode_outcome(&entry.applied.outcome);
        assert_eq!(codec::decode_outcome(&outcome).unwrap(), entry.applied.outcome);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariant_r1_random_actions_keep_every_invariant_and_replay(
        actions in prop::collection::vec((action(), sender()), 1..80),
    ) {
        let (world, log) = run(&actions);
        prop_assert!(replay(State::new(), &log) == world.state);
        // And so does a node that begins with a snapshot from the middle.
        let (first, rest) = log.split_at(log.len() / 2);
        let mut bytes = Vec::new();
        codec::write_state(&replay(State::new(), first), &mut bytes).unwrap();
        let snapshot = codec::read_state(&mut &bytes[..]).unwrap();
        prop_assert!(replay(snapshot, rest) == world.state);
    }
}

/// Random actions prove something only if they get somewhere.
#[test]
fn random_actions_reach_commits_and_refusals() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec((action(), sender()), 60..80);
    let (mut commits, mut refusals, mut deepest) = (0, 0, 0);
    for _ in 0..20 {
        let actions = strategy.new_tree(&mut runner).unwrap().current();
        let (world, log) = run(&actions);
        for entry in &log {
            commits += usize::from(matches!(entry.applied.outcome, Outcome::Committed { .. }));
            refusals += usize::from(entry.applied.outcome.refusal().is_some());
        }
        deepest = deepest.max(world.state.points(&cluster(1)).count());
    }
    assert!(commits > 60 && refusals > 60 && deepest > 4, "{commits} {refusals} {deepest}");
}

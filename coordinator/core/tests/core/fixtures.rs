//! Frozen bytes: what version 1 wrote, every later version must read. The files in
//! `tests/fixtures/v1` are never changed; a new command, outcome or row adds a line.

use std::collections::BTreeMap;
use std::path::Path;

use coordinator_core::{
    AbandonRestore, AcquireEpoch, AddNode, AnnounceObject, BeginChange, BundleHome, BundlePrefix,
    ClearFinding, Command, ConfirmTime, CreateJoinToken, EndReadLease, EndUpload, ExpireLeases,
    ExpireSessions, Field, FindingKey, FinishRestore, FreezeTime, HeaderField, HeaderProblem, Jump,
    KeysProblem, Limit, MoveNode, OfChange, Outcome, Proof, ProofState, RaiseFinding, RaiseLevel,
    RecordHolders, RecordObjects, RecoverByForce, RedeemJoinToken, Refusal, RemoveNode, RenewLease,
    Request, RestorePiece, RestoreProblem, Role, Scope, SealSnapshot, SetAuthority, SetBundleHome,
    Severity, State, UploadEnd, codec,
};
use proto_types::{Epoch, Level, LogIndex, LogTime, NodeId};

use crate::scenario::{
    Draft, FLEET, World, bundle, cluster, dek, init_fleet, instance, lease, nodes, open_read,
    open_upload, proved, register, seq, session,
};

/// The lines `name: hex` of a file.
pub(crate) fn frozen(file: &str) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, bytes) = line.split_once(": ").expect("a line is `name: hex`");
            (name.to_owned(), hex::decode(bytes).expect("a line is `name: hex`"))
        })
        .collect()
}

/// Every sample has its frozen line, and is still written to the same bytes.
fn check_frozen(file: &str, samples: &[(String, Vec<u8>)]) {
    let frozen = frozen(file);
    let missing: Vec<String> = samples
        .iter()
        .filter(|(name, _)| !frozen.contains_key(name))
        .map(|(name, bytes)| format!("{name}: {}", hex::encode(bytes)))
        .collect();
    assert!(missing.is_empty(), "add to tests/fixtures/v1/{file}:\n{}", missing.join("\n"));
    for (name, bytes) in samples {
        assert!(frozen[name] == *bytes, "{file}: {name} is written to other bytes than before");
    }
    assert_eq!(frozen.len(), samples.len(), "{file} holds a line that no sample is for");
}

fn jump() -> Jump {
    Jump { by_ms: 3_600_000, elapsed_known: true, nodes: nodes(&[1, 3]) }
}

fn jump_back() -> Jump {
    Jump { by_ms: -300_001, elapsed_known: false, nodes: nodes(&[]) }
}

/// At least one request of every command, with and without a session.
pub(crate) fn requests() -> Vec<(String, Request)> {
    let mut world = World::with_first_point();
    let upload = world.open(1);
    let mut delta = Draft::delta(&world, 1, upload);
    delta.dropped.push(bundle("w1"));
    delta.commit.proofs = vec![
        proved("directory"),
        Proof {
            source: "vault".to_owned(),
            state: ProofState::Unproved { reason: "why".to_owned() },
        },
        Proof {
            source: "consul".to_owned(),
            state: ProofState::Failed { reason: "how".to_owned() },
        },
    ];
    let mut in_bucket = Draft::delta(&world, 1, upload);
    in_bucket.bundle('c').in_bucket = true;
    let mut statement = Draft::unchanged(&world, 1);
    statement.commit.proofs.clear();
    let key =
        |scope| FindingKey { scope, kind: "key-missing".to_owned(), subject: "store".to_owned() };
    let mut unlabelled = crate::scenario::register_cluster(2);
    unlabelled.labels.clear();
    unlabelled.kube_system_uid = None;
    let commands = vec![
        ("init_fleet", init_fleet()),
        ("register_cluster", register(1)),
        ("register_cluster-plain", Command::RegisterCluster(unlabelled)),
        (
            "acquire_epoch",
            Command::AcquireEpoch(AcquireEpoch { cluster: cluster(1), instance: instance(4) }),
        ),
        ("open_upload", open_upload(1, Epoch::new(1), lease(9), seq(1))),
        ("open_upload-first", open_upload(1, Epoch::new(1), lease(9), seq(0))),
        ("renew_lease", Command::RenewLease(RenewLease { lease: lease(9) })),
        (
            "end_upload",
            Command::EndUpload(EndUpload { lease: lease(9), reason: UploadEnd::Failed }),
        ),
        ("commit_point-changed", delta.command()),
        ("commit_point-unchanged", statement.command()),
        ("open_read_lease", open_read(1, lease(8), 1)),
        ("end_read_lease", Command::EndReadLease(EndReadLease { lease: lease(8) })),
        ("expire_leases", Command::ExpireLeases(ExpireLeases { leases: vec![lease(1), lease(2)] })),
        ("expire_sessions", Command::ExpireSessions(ExpireSessions { sessions: vec![session(1)] })),
        (
            "record_holders",
            Command::RecordHolders(RecordHolders {
                node: NodeId::new(2),
                present: vec![bundle("c1"), bundle("m1")],
                absent: vec![bundle("k1")],
                home: LogIndex::new(0),
            }),
        ),
        (
            "raise_finding",
            Command::RaiseFinding(RaiseFinding {
                key: key(Scope::Cluster(cluster(1))),
                severity: Severity::Critical,
                message: "the key is gone".to_owned(),
                remedy: "bring it back".to_owned(),
            }),
        ),
        ("clear_finding", Command::ClearFinding(ClearFinding { key: key(Scope::Fleet) })),
        (
            "clear_finding-node",
            Command::ClearFinding(ClearFinding { key: key(Scope::Node(NodeId::new(3))) }),
        ),
        (
            "add_node",
            Command::AddNode(AddNode { name: "four".to_owned(), address: "four:7410".to_owned() }),
        ),
        (
            "begin_change",
            Command::BeginChange(BeginChange { voters: nodes(&[1, 2, 3, 4]), remove: None }),
        ),
        (
            "begin_change-removal",
            Command::BeginChange(BeginChange {
                voters: nodes(&[1, 3]),
                remove: Some(NodeId::new(2)),
            }),
        ),
        ("seal_change", Command::SealChange(OfChange { begun: LogIndex::new(77) })),
        ("end_change", Command::EndChange(OfChange { begun: LogIndex::new(77) })),
        ("remove_node", Command::RemoveNode(RemoveNode { node: NodeId::new(4) })),
        ("seal_snapshot", Command::SealSnapshot(SealSnapshot { nonce: [7; 16] })),
        ("begin_restore", crate::restore::begin(lease(7), b"state", &[1, 2, 5])),
        (
            "restore_piece",
            Command::RestorePiece(RestorePiece {
                restore: lease(7),
                offset: 3,
                bytes: b"te"[..].into(),
            }),
        ),
        ("finish_restore", Command::FinishRestore(FinishRestore { restore: lease(7) })),
        ("abandon_restore", Command::AbandonRestore(AbandonRestore { restore: lease(7) })),
        (
            "recover_by_force",
            Command::RecoverByForce(Box::new(RecoverByForce {
                node: NodeId::new(1),
                name: "one".to_owned(),
                address: "one:7410".to_owned(),
                members: nodes(&[1, 2, 3]),
                committed: LogIndex::new(70),
            })),
        ),
        (
            "move_node",
            Command::MoveNode(MoveNode {
                node: NodeId::new(2),
                name: "two".to_owned(),
                address: "elsewhere:7410".to_owned(),
            }),
        ),
        ("set_bundle_home", crate::bucket::begin(BundleHome::Bucket)),
        (
            "set_bundle_home-settled",
            Command::SetBundleHome(SetBundleHome::Settle { began: LogIndex::new(77) }),
        ),
        (
            "announce_object",
            Command::AnnounceObject(AnnounceObject {
                lease: lease(9),
                bundle: bundle("c1"),
                bytes: 1_336,
            }),
        ),
        (
            "record_objects",
            Command::RecordObjects(RecordObjects {
                began: LogIndex::new(77),
                present: vec![bundle("c1"), bundle("m1")],
                absent: vec![bundle("k1")],
                gone: vec![(LogIndex::new(5), bundle("c2")), (LogIndex::new(6), bundle("m2"))],
            }),
        ),
        (
            "record_holders-home",
            Command::RecordHolders(RecordHolders {
                node: NodeId::new(2),
                present: vec![bundle("c1")],
                absent: vec![],
                home: LogIndex::new(78),
            }),
        ),
        ("commit_point-bucket", in_bucket.command()),
        ("record_snapshot", crate::bucket::record_snapshot(crate::bucket::snapshot(10, ""))),
        ("record_snapshot-bad", crate::bucket::record_snapshot(crate::bucket::snapshot(11, "why"))),
        ("raise_level", Command::RaiseLevel(RaiseLevel { to: Level::new(2) })),
        ("freeze_time", Command::FreezeTime(FreezeTime { jump: jump() })),
        ("freeze_time-stopped", Command::FreezeTime(FreezeTime { jump: jump_back() })),
        ("confirm_time", Command::ConfirmTime(ConfirmTime)),
    ];
    // Numbers of their own, so that no other command moves them.
    let joining = [
        ("set_authority", set_authority()),
        ("create_join_token", create_join_token(3)),
        ("redeem_join_token", redeem_join_token(3)),
    ];
    let numbered = commands
        .into_iter()
        .zip(1_u64..)
        .chain(joining.into_iter().zip(3601..))
        .chain(crate::keys::commands().into_iter().zip(7501..));
    let numbered = numbered.chain(crate::enrolment::commands().into_iter().zip(6301..));
    let numbered = numbered.chain(crate::delayed::commands().into_iter().zip(6801..));
    let carried = ("commit_point-carried", crate::carried::sample());
    let numbered = numbered.chain([(carried, 8801)]);
    numbered
        .map(|((name, command), number)| {
            let session = (number % 2 == 1).then(|| (session(5), number));
            let time = LogTime::from_millis(1_700_000_000_000 + number);
            (name.to_owned(), Request { session, time, sender: None, command })
        })
        .chain(crate::audit::requests())
        .collect()
}

fn set_authority() -> Command {
    Command::SetAuthority(SetAuthority {
        root_certificate: b"certificate".to_vec(),
        sealed_root_key: b"sealed".to_vec(),
    })
}

fn create_join_token(number: u8) -> Command {
    Command::CreateJoinToken(CreateJoinToken {
        token: [number; 32],
        name: format!("joins-{number}"),
        address: format!("10.0.0.{number}:7401"),
        ttl_ms: 3_600_000,
    })
}

fn redeem_join_token(number: u8) -> Command {
    Command::RedeemJoinToken(RedeemJoinToken { token: [number; 32], key: [8; 32] })
}

/// Every outcome, with every refusal and every word in one.
pub(crate) fn outcomes() -> Vec<(String, Outcome)> {
    let index = LogIndex::new(77);
    let time = LogTime::from_millis(1_700_000_000_000);
    let mut outcomes = vec![
        ("fleet_ready".to_owned(), Outcome::FleetReady { fleet: FLEET }),
        ("cluster_registered".to_owned(), Outcome::ClusterRegistered { cluster: cluster(1) }),
        (
            "epoch_acquired".to_owned(),
            Outcome::EpochAcquired { cluster: cluster(1), epoch: Epoch::new(3) },
        ),
        (
            "upload_opened".to_owned(),
            Outcome::UploadOpened {
                lease: lease(9),
                index,
                parent_manifest: bundle("m1"),
                expires: time,
            },
        ),
        ("read_opened".to_owned(), Outcome::ReadOpened { lease: lease(8), index, expires: time }),
        ("lease_renewed".to_owned(), Outcome::LeaseRenewed { lease: lease(8), expires: time }),
        ("lease_ended".to_owned(), Outcome::LeaseEnded { lease: lease(8), was_live: true }),
        ("lease_ended-before".to_owned(), Outcome::LeaseEnded { lease: lease(8), was_live: false }),
        (
            "committed".to_owned(),
            Outcome::Committed {
                cluster: cluster(1),
                sequence: seq(2),
                manifest: bundle("m2"),
                index,
                time,
            },
        ),
        ("expired".to_owned(), Outcome::Expired { ended: 2, skipped: 1 }),
        ("holders_recorded".to_owned(), Outcome::HoldersRecorded { changed: 3, unknown: 4 }),
        ("finding_raised".to_owned(), Outcome::FindingRaised { new: true }),
        ("finding_cleared".to_owned(), Outcome::FindingCleared { existed: true }),
        ("node_added".to_owned(), Outcome::NodeAdded { node: NodeId::new(4) }),
        ("change_begun".to_owned(), Outcome::ChangeBegun),
        ("change_sealed".to_owned(), Outcome::ChangeSealed),
        ("change_ended".to_owned(), Outcome::ChangeEnded { done: true }),
        ("node_removed".to_owned(), Outcome::NodeRemoved { node: NodeId::new(4) }),
        ("snapshot_sealed".to_owned(), Outcome::SnapshotSealed { index }),
        (
            "restore_begun".to_owned(),
            Outcome::RestoreBegun { restore: lease(7), index, received: 12 },
        ),
        ("restore_received".to_owned(), Outcome::RestoreReceived { received: 24 }),
        ("restored".to_owned(), Outcome::Restored { generation: 2 }),
        ("recovered_by_force".to_owned(), Outcome::RecoveredByForce { number: 2 }),
        ("node_moved".to_owned(), Outcome::NodeMoved { node: NodeId::new(2) }),
        (
            "bundle_home_set".to_owned(),
            Outcome::BundleHomeSet { began: LogIndex::new(5), settled: true },
        ),
        ("object_announced".to_owned(), Outcome::ObjectAnnounced { generation: index }),
        ("objects_recorded".to_owned(), Outcome::ObjectsRecorded { changed: 3, unknown: 4 }),
        ("snapshot_recorded".to_owned(), Outcome::SnapshotRecorded { recorded: true }),
        ("authority_set".to_owned(), Outcome::AuthoritySet),
        ("join_token_created".to_owned(), Outcome::JoinTokenCreated { expires: time }),
        ("level_raised".to_owned(), Outcome::LevelRaised { level: Level::new(2) }),
        ("time_frozen".to_owned(), Outcome::TimeFrozen { new: true }),
        ("time_confirmed".to_owned(), Outcome::TimeConfirmed { was_frozen: true, time }),
        ("act_recorded".to_owned(), Outcome::ActRecorded { number: 7 }),
        ("keys_noted".to_owned(), Outcome::KeysNoted { new: true }),
        ("recovery_rotated".to_owned(), Outcome::RecoveryRotated { generation: 2 }),
        ("lineage_begun".to_owned(), Outcome::LineageBegun { lineage: 1, approved: true }),
        ("keys_ordered".to_owned(), Outcome::KeysOrdered { kek: 2, dek: 3 }),
        (
            "enrol_token_created".to_owned(),
            Outcome::EnrolTokenCreated { cluster: Some(cluster(1)), expires: time },
        ),
        (
            "enrol_token_created-many".to_owned(),
            Outcome::EnrolTokenCreated { cluster: None, expires: time },
        ),
        ("enrolled".to_owned(), Outcome::Enrolled { cluster: Some(cluster(1)), generation: 2 }),
        ("enrolled-operator".to_owned(), Outcome::Enrolled { cluster: None, generation: 2 }),
        ("enrolment_pending".to_owned(), Outcome::EnrolmentPending { cluster: cluster(1) }),
        ("certificate_recorded".to_owned(), Outcome::CertificateRecorded { generation: 2 }),
        ("party_revoked".to_owned(), Outcome::PartyRevoked { was_known: true }),
        ("enrolment_decided".to_owned(), Outcome::EnrolmentDecided { approved: true }),
        ("act_requested".to_owned(), Outcome::ActRequested { act: LogIndex::new(7) }),
        ("act_decided".to_owned(), Outcome::ActDecided { approved: true, due: time }),
        ("act_performed".to_owned(), Outcome::ActPerformed),
        ("act_delay_set".to_owned(), Outcome::ActDelaySet { delay_ms: 9 }),
    ];
    let refused = |(name, refusal)| (format!("refused-{name}"), Outcome::Refused(refusal));
    outcomes.extend(refusals().into_iter().map(refused));
    outcomes
}

pub(crate) fn refusals() -> Vec<(String, Refusal)> {
    let cluster = cluster(1);
    let lease = lease(9);
    let bundle = bundle("c1");
    let sequence = seq(4);
    let node = NodeId::new(4);
    let mut refusals: Vec<(String, Refusal)> = [
        ("fleet_missing", Refusal::FleetMissing),
        ("fleet_exists", Refusal::FleetExists { fleet: FLEET, name: "home".to_owned() }),
        ("cluster_exists", Refusal::ClusterExists { cluster }),
        ("cluster_name_taken", Refusal::ClusterNameTaken { name: "c1".to_owned(), cluster }),
        ("kube_system_uid_taken", Refusal::KubeSystemUidTaken { uid: "u".to_owned(), cluster }),
        ("cluster_unknown", Refusal::ClusterUnknown { cluster }),
        ("point_unknown", Refusal::PointUnknown { cluster, sequence }),
        (
            "stale_epoch",
            Refusal::StaleEpoch { cluster, offered: Epoch::new(1), current: Epoch::new(2) },
        ),
        ("stale_head", Refusal::StaleHead { cluster, offered: seq(2), head: sequence }),
        ("parent_manifest_differs", Refusal::ParentManifestDiffers { cluster, head: sequence }),
        ("lease_gone", Refusal::LeaseGone { lease }),
        ("lease_exists", Refusal::LeaseExists { lease }),
        ("lease_of_another", Refusal::LeaseOfAnother { lease }),
        ("lease_required", Refusal::LeaseRequired),
        ("upload_first", Refusal::UploadFirst),
        ("session_expired", Refusal::SessionExpired { session: session(1), number: 5 }),
        ("first_point_unchanged", Refusal::FirstPointUnchanged { cluster }),
        ("bad_statement", Refusal::BadStatement { cluster, sequence }),
        ("bundle_repeated", Refusal::BundleRepeated { bundle }),
        ("dropped_unknown", Refusal::DroppedUnknown { prefix: BundlePrefix::of(&bundle) }),
        ("surplus", Refusal::Surplus { bundle }),
        ("keys_missing", Refusal::KeysMissing { key_bundle: bundle, missing: 2, first: dek(3) }),
        ("bundle_not_durable", Refusal::BundleNotDurable { bundle, have: 1, need: 2 }),
        ("node_unknown", Refusal::NodeUnknown { node }),
        ("node_was_removed", Refusal::NodeWasRemoved { node }),
        ("node_name_taken", Refusal::NodeNameTaken { name: "four".to_owned(), node }),
        ("node_votes", Refusal::NodeVotes { node }),
        ("change_under_way", Refusal::ChangeUnderWay),
        ("change_not_one_step", Refusal::ChangeNotOneStep),
        ("no_change", Refusal::NoChange),
        ("restore_under_way", Refusal::RestoreUnderWay { restore: lease }),
        ("session_ended", Refusal::SessionEnded { cluster }),
        ("not_the_only_voter", Refusal::NotTheOnlyVoter { node: NodeId::new(2) }),
        (
            "node_address_taken",
            Refusal::NodeAddressTaken { address: "two:7410".to_owned(), node: NodeId::new(2) },
        ),
        ("home_not_ready", Refusal::HomeNotReady { missing: 4 }),
        ("home_changed", Refusal::HomeChanged),
        ("bundles_on_disks", Refusal::BundlesOnDisks),
        ("object_unknown", Refusal::ObjectUnknown { bundle }),
        ("join_token_refused", Refusal::JoinTokenRefused),
        ("authority_exists", Refusal::AuthorityExists),
        ("authority_missing", Refusal::AuthorityMissing),
        ("level_too_low", Refusal::LevelTooLow { needed: Level::new(2), active: Level::new(1) }),
        ("time_frozen", Refusal::TimeFrozen),
        ("enrol_token_refused", Refusal::EnrolTokenRefused),
        ("signing_key_differs", Refusal::SigningKeyDiffers { cluster }),
        ("certificate_void", Refusal::CertificateVoid),
        ("own_certificate", Refusal::OwnCertificate),
        ("already_enrolled", Refusal::AlreadyEnrolled { name: "ann".to_owned() }),
        ("not_enrolled", Refusal::NotEnrolled { name: "ann".to_owned() }),
        ("nobody_waits", Refusal::NobodyWaits { cluster }),
        ("act_unknown", Refusal::ActUnknown { act: LogIndex::new(7) }),
        ("second_admin_needed", Refusal::SecondAdminNeeded),
        ("act_not_due", Refusal::ActNotDue { act: LogIndex::new(7) }),
        ("act_blocked", Refusal::ActBlocked { act: LogIndex::new(7) }),
    ]
    .into_iter()
    .map(|(name, refusal)| (name.to_owned(), refusal))
    .collect();
    let mut word = |name: &str, words: Vec<(String, Refusal)>| {
        for (at, refusal) in words {
            refusals.push((format!("{name}-{at}"), refusal));
        }
    };
    let named = |word: &dyn std::fmt::Debug| format!("{word:?}").to_lowercase();
    let fields =
        Field::ALL.iter().map(|field| (named(field), Refusal::InvalidField { field: *field }));
    word("invalid_field", fields.collect());
    let limits = Limit::ALL
        .iter()
        .map(|limit| (named(limit), Refusal::LimitReached { limit: *limit, have: 9, max: 8 }));
    word("limit_reached", limits.collect());
    let problems = HeaderProblem::ALL
        .iter()
        .map(|problem| (named(problem), Refusal::HeaderRefused { bundle, problem: *problem }));
    word("header_refused", problems.collect());
    let fields = HeaderField::ALL
        .iter()
        .map(|field| (named(field), Refusal::HeaderMismatch { bundle, field: *field }));
    word("header_mismatch", fields.collect());
    let roles = Role::ALL.iter().flat_map(|role| {
        let role = *role;
        [
            (format!("{}-missing", named(&role)), Refusal::RoleMissing { role, bundle }),
            (format!("{}-wrong", named(&role)), Refusal::RoleWrong { role, bundle }),
        ]
    });
    word("role", roles.collect());
    let problems = RestoreProblem::ALL
        .iter()
        .map(|problem| (named(problem), Refusal::RestoreRefused { problem: *problem }));
    word("restore_refused", problems.collect());
    let problems = KeysProblem::ALL
        .iter()
        .map(|problem| (named(problem), Refusal::KeysRefused { problem: *problem }));
    word("keys_refused", problems.collect());
    refusals
}

/// A small state with a row of every kind.
pub(crate) fn state() -> State {
    let mut world = World::with_first_point();
    world.ok(register(2));
    world.now_ms += 10;
    world.commit_delta(1);
    world.commit_delta(1);
    world.commit_unchanged(1);
    world.ok(open_upload(1, Epoch::new(1), lease(9), seq(4)));
    world.open_read(1, lease(8), 2);
    for (name, request) in requests() {
        let is_about_rows = ["raise_finding", "record_holders", "open_read_lease"];
        if is_about_rows.contains(&name.as_str()) {
            world.apply(&Request { session: Some((session(5), 7)), ..request.clone() });
            world.apply(&Request {
                session: Some((session(6), request.time.as_millis() % 60)),
                ..request
            });
        }
    }
    world.state
}

/// One with nodes that came and went, in the middle of a change.
pub(crate) fn state_of_members() -> State {
    let mut world = World::with_first_point();
    let add = |name: &str| {
        Command::AddNode(AddNode { name: name.to_owned(), address: format!("{name}:7410") })
    };
    world.ok(add("four"));
    world.ok(add("five"));
    world.ok(Command::RemoveNode(RemoveNode { node: NodeId::new(4) }));
    let remove = Some(NodeId::new(2));
    world.ok(Command::BeginChange(BeginChange { voters: nodes(&[1, 3]), remove }));
    world.ok(world.seal());
    world.state
}

/// One that a snapshot is being brought into.
pub(crate) fn state_of_restore() -> State {
    let mut world = World::empty();
    world.ok(init_fleet());
    world.ok(crate::restore::begin(lease(7), b"state", &[1, 2, 5]));
    let piece = RestorePiece { restore: lease(7), offset: 0, bytes: b"sta"[..].into() };
    world.ok(Command::RestorePiece(piece));
    world.state
}

/// One that a snapshot was brought into.
pub(crate) fn state_restored() -> State {
    crate::restore::restored(&World::with_first_point().state, &[1, 2, 9]).state
}

/// One that a forced recovery left with node 1 alone.
pub(crate) fn state_recovered() -> State {
    let mut world = World::with_first_point();
    world.voters = nodes(&[1]);
    world.ok(Command::RecoverByForce(Box::new(RecoverByForce {
        node: NodeId::new(1),
        name: "one".to_owned(),
        address: "one:7410".to_owned(),
        members: nodes(&[1, 2, 3]),
        committed: LogIndex::new(3),
    })));
    world.state
}
/// One on its way into the bucket, with scheduled snapshots.
pub(crate) fn state_of_bucket() -> State {
    let mut world = World::with_first_point();
    world.ok(crate::bucket::begin(BundleHome::Bucket));
    let upload = world.open(1);
    for label in ["c2", "m2"] {
        let command = AnnounceObject { lease: upload, bundle: bundle(label), bytes: 9 };
        world.ok(Command::AnnounceObject(command));
    }
    world.ok(Command::EndUpload(EndUpload { lease: upload, reason: UploadEnd::Failed }));
    let upload = world.open(1);
    let command = AnnounceObject { lease: upload, bundle: bundle("c2"), bytes: 9 };
    world.ok(Command::AnnounceObject(command));
    world.ok(Command::RecordObjects(RecordObjects {
        began: world.state.home().began,
        present: vec![bundle("c1")],
        absent: vec![],
        gone: vec![],
    }));
    world.ok(crate::bucket::record_snapshot(crate::bucket::snapshot(10, "")));
    world.ok(crate::bucket::record_snapshot(crate::bucket::snapshot(20, "why")));
    world.state
}

/// One with a certificate authority, and with tokens open and redeemed.
pub(crate) fn state_of_joining() -> State {
    let mut world = World::new();
    world.ok(set_authority());
    world.ok(create_join_token(3));
    world.ok(create_join_token(4));
    world.ok(redeem_join_token(4));
    world.state
}

/// One at level 2 whose time is frozen.
pub(crate) fn state_raised_and_frozen() -> State {
    let mut world = World::new();
    world.ok(Command::FreezeTime(FreezeTime { jump: jump() }));
    world.state
}

pub(crate) fn state_bytes(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::write_state(state, &mut bytes).unwrap();
    bytes
}

#[test]
fn frozen_requests_of_version_1_are_read_and_written() {
    let samples = requests();
    let encoded = samples.iter().map(|(name, r)| (name.clone(), codec::encode_request(r)));
    check_frozen("requests.hex", &encoded.collect::<Vec<_>>());
    let frozen = frozen("requests.hex");
    for (name, request) in &samples {
        assert_eq!(&codec::decode_request(&frozen[name]).unwrap(), request, "{name}");
    }
    // Every command is among them: a new one does not compile here until it is counted.
    let mut seen = [false; 47];
    for (_, request) in &samples {
        seen[match &request.command {
            Command::InitFleet(_) => 0,
            Command::RegisterCluster(_) => 1,
            Command::AcquireEpoch(_) => 2,
            Command::OpenUpload(_) => 3,
            Command::RenewLease(_) => 4,
            Command::EndUpload(_) => 5,
            Command::CommitPoint(_) => 6,
            Command::OpenReadLease(_) => 7,
            Command::EndReadLease(_) => 8,
            Command::ExpireLeases(_) => 9,
            Command::ExpireSessions(_) => 10,
            Command::RecordHolders(_) => 11,
            Command::RaiseFinding(_) => 12,
            Command::ClearFinding(_) => 13,
            Command::AddNode(_) => 14,
            Command::BeginChange(_) => 15,
            Command::SealChange(_) => 16,
            Command::EndChange(_) => 17,
            Command::RemoveNode(_) => 18,
            Command::SealSnapshot(_) => 19,
            Command::BeginRestore(_) => 20,
            Command::RestorePiece(_) => 21,
            Command::FinishRestore(_) => 22,
            Command::AbandonRestore(_) => 23,
            Command::RecoverByForce(_) => 24,
            Command::MoveNode(_) => 25,
            Command::SetBundleHome(_) => 26,
            Command::AnnounceObject(_) => 27,
            Command::RecordObjects(_) => 28,
            Command::RecordSnapshot(_) => 29,
            Command::SetAuthority(_) => 30,
            Command::CreateJoinToken(_) => 31,
            Command::RedeemJoinToken(_) => 32,
            Command::RaiseLevel(_) => 33,
            Command::FreezeTime(_) => 34,
            Command::ConfirmTime(_) => 35,
            Command::RecordAct(_) => 36,
            Command::Keys(_) => 46,
            Command::CreateEnrolToken(_) => 37,
            Command::RedeemEnrolToken(_) => 38,
            Command::RecordCertificate(_) => 39,
            Command::RevokeParty(_) => 40,
            Command::DecideEnrolment(_) => 41,
            Command::RequestAct(_) => 42,
            Command::DecideAct(_) => 43,
            Command::PerformAct(_) => 44,
            Command::SetActDelay(_) => 45,
        }] = true;
    }
    assert_eq!(seen, [true; 47]);
}

#[test]
fn frozen_outcomes_of_version_1_are_read_and_written() {
    let samples = outcomes();
    let encoded = samples.iter().map(|(name, o)| (name.clone(), codec::encode_outcome(o)));
    check_frozen("outcomes.hex", &encoded.collect::<Vec<_>>());
    let frozen = frozen("outcomes.hex");
    for (name, outcome) in &samples {
        assert_eq!(&codec::decode_outcome(&frozen[name]).unwrap(), outcome, "{name}");
    }
    // Every outcome and refusal has its number, the second byte after version and tag.
    let kinds: std::collections::BTreeSet<u8> =
        samples.iter().map(|(_, outcome)| codec::encode_outcome(outcome)[2]).collect();
    assert_eq!(
        kinds,
        (1..=21)
            .chain(24..=26)
            .chain(28..=34)
            .chain(36..=37)
            .chain(44..=54)
            .chain(55..=58)
            .collect()
    );
}

#[test]
fn frozen_state_of_version_1_is_read_and_written() {
    let state = state();
    let members = state_of_members();
    let joining = state_of_joining();
    let (restoring, restored) = (state_of_restore(), state_restored());
    let recovered = state_recovered();
    let bucket = state_of_bucket();
    let raised = state_raised_and_frozen();
    let audited = crate::audit::state();
    let keys = crate::keys::state();
    let enrolment = crate::enrolment::state();
    let acts = crate::delayed::state();
    let carried = crate::carried::state();
    let samples = [
        ("state", &state),
        ("state-members", &members),
        ("state-restoring", &restoring),
        ("state-restored", &restored),
        ("state-recovered", &recovered),
        ("state-bucket", &bucket),
        ("state-joining", &joining),
        ("state-raised", &raised),
        ("state-audited", &audited),
        ("state-keys", &keys),
        ("state-enrolment", &enrolment),
        ("state-acts", &acts),
        ("state-carried", &carried),
    ];
    let samples = samples.map(|(name, state)| (name.to_owned(), state_bytes(state)));
    check_frozen("state.hex", &samples);
    let frozen = frozen("state.hex");
    assert!(codec::read_state(&mut &frozen["state-recovered"][..]).unwrap() == recovered);
    assert!(codec::read_state(&mut &frozen["state-members"][..]).unwrap() == members);
    assert!(codec::read_state(&mut &frozen["state-joining"][..]).unwrap() == joining);
    assert!(codec::read_state(&mut &frozen["state"][..]).unwrap() == state);
    assert!(codec::read_state(&mut &frozen["state-restoring"][..]).unwrap() == restoring);
    assert!(codec::read_state(&mut &frozen["state-restored"][..]).unwrap() == restored);
    assert!(codec::read_state(&mut &frozen["state-bucket"][..]).unwrap() == bucket);
    assert!(codec::read_state(&mut &frozen["state-raised"][..]).unwrap() == raised);
    assert!(codec::read_state(&mut &frozen["state-audited"][..]).unwrap() == audited);
    assert!(codec::read_state(&mut &frozen["state-keys"][..]).unwrap() == keys);
    assert!(codec::read_state(&mut &frozen["state-enrolment"][..]).unwrap() == enrolment);
    assert!(codec::read_state(&mut &frozen["state-acts"][..]).unwrap() == acts);
    assert!(codec::read_state(&mut &frozen["state-carried"][..]).unwrap() == carried);
    assert!(state.uploads().count() > 0 && state.reads().count() > 0);
    assert!(state.findings().count() > 0 && state.session(&session(6)).is_some());
}

#[test]
fn refusals_say_what_to_do_with_a_stable_code() {
    for (name, refusal) in refusals() {
        let text = refusal.to_string();
        assert!(text.contains([':', ',']), "{name}: no remedy in {text:?}");
        assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{name}: {text}");
        assert_ne!(refusal.code(), proto_types::Code::Internal, "{name}");
    }
}

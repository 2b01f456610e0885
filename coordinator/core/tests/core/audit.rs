//! The audit log: which act is recorded with what, how entries hang together, and that nobody who is
//! refused can fill it.

use std::collections::{BTreeMap, BTreeSet};

use coordinator_core::limits::{
    AUDIT_ENTRY_BYTES_MAX, AUDIT_PENDING_MAX, AUDIT_REFUSAL_MS, AUDIT_SEGMENT_ENTRIES,
};
use coordinator_core::{
    AcquireEpoch, Actor, Applied, AuditEntry, AuditHead, ChainError, ClearFinding, Command,
    ConfirmTime, Event, Field, FindingKey, OperatorRole, Outcome, RaiseFinding, RaiseLevel,
    RecordAct, RecoverByForce, Refusal, Request, Scope, Segment, Sender, Severity, State, Subject,
    When, codec,
};
use proto_types::{Code, FleetId, Level, LogIndex, LogTime, NodeId};

use crate::fixtures::state_bytes;
use crate::scenario::{
    Draft, FLEET, World, cluster, init_fleet, instance, nodes, open_read, open_upload, register,
    seq, session,
};

fn via(actor: Actor) -> Sender {
    Sender { actor, certificate: Some([0xce; 32]), via: NodeId::new(2) }
}

fn operator(name: &str) -> Sender {
    via(Actor::Operator { name: name.to_owned(), role: OperatorRole::Admin })
}

fn agent(n: u8) -> Sender {
    via(Actor::Agent(cluster(n)))
}

fn machine() -> Sender {
    Sender { certificate: None, ..via(Actor::Coordinator(NodeId::new(1))) }
}

/// Who sends what, and the act and subject that are recorded.
type Step = (Sender, Command, Option<(&'static str, Subject)>);

/// A fleet of level 2 with cluster 1, and nothing in its audit log.
fn world() -> World {
    let mut world = World::new();
    world.ok(Command::RaiseLevel(RaiseLevel { to: Level::new(2) }));
    assert_eq!(world.state.audit().head(), AuditHead::default(), "nobody is named: nobody acted");
    world
}

fn send(world: &mut World, sender: &Sender, command: Command) -> Applied {
    let request = Request { sender: Some(sender.clone()), ..world.request(command) };
    world.apply(&request)
}

/// The entries that are state.
fn entries(state: &State) -> Vec<AuditEntry> {
    let mut at = state.audit().base();
    let tail = state.audit().tail();
    let entries: Vec<AuditEntry> = tail.map(|entry| at.follow(entry).unwrap()).collect();
    assert_eq!(at, state.audit().head());
    entries
}

fn last(world: &World) -> AuditEntry {
    entries(&world.state).pop().expect("an entry")
}

fn refusal(act: &str, code: &str, count: u64) -> Command {
    Command::RecordAct(Box::new(RecordAct {
        act: act.to_owned(),
        subject: Subject::cluster(cluster(1)),
        refusal: code.to_owned(),
        count,
    }))
}

fn accepted(act: &str) -> Command {
    Command::RecordAct(Box::new(RecordAct {
        act: act.to_owned(),
        subject: Subject::node(NodeId::new(2)).with_text("text"),
        refusal: String::new(),
        count: 1,
    }))
}

/// For the frozen bytes.
pub(crate) fn requests() -> Vec<(String, Request)> {
    let senders = [
        ("operator", operator("ann")),
        ("agent", agent(1)),
        ("coordinator", machine()),
        ("token", Sender { certificate: None, ..via(Actor::Token([7; 8])) }),
        ("console", Sender { certificate: None, ..via(Actor::Console(NodeId::new(3))) }),
    ];
    let sent = senders.into_iter().map(|(kind, sender)| {
        (format!("sent-by-{kind}"), Some(sender), Command::ConfirmTime(ConfirmTime))
    });
    let records = [
        ("record_act", accepted("save-snapshot")),
        ("record_act-refused", refusal("get-status", "PERMISSION_DENIED", 12)),
    ];
    let records = records.map(|(name, command)| (name.to_owned(), Some(operator("bob")), command));
    let numbered = sent.chain(records).zip(4001..);
    numbered
        .map(|((name, sender, command), number)| {
            let time = LogTime::from_millis(1_700_000_000_000 + number);
            (name, Request { session: None, time, sender, command })
        })
        .collect()
}

/// One with an audit log in the middle of its second segment, and refusals that are being counted.
pub(crate) fn state() -> State {
    let mut world = world();
    for _ in 0..AUDIT_SEGMENT_ENTRIES {
        send(&mut world, &operator("ann"), Command::ConfirmTime(ConfirmTime));
    }
    send(&mut world, &agent(1), accepted("some-act"));
    for _ in 0..3 {
        send(&mut world, &agent(1), refusal("get-status", "PERMISSION_DENIED", 2));
    }
    world.state
}

#[test]
fn audit_says_who_did_what_when_and_where_in_the_log() {
    let mut world = world();
    world.now_ms += 5;
    let applied = send(&mut world, &operator("ann"), register(2));
    assert_eq!(applied.outcome, Outcome::ClusterRegistered { cluster: cluster(2) });
    assert_eq!(applied.events.last(), Some(&Event::Audited { number: 1, is_refused: false }));
    let expected = AuditEntry {
        number: 1,
        time: LogTime::from_millis(world.now_ms),
        index: LogIndex::new(world.index),
        sender: operator("ann"),
        act: "register-cluster".to_owned(),
        subject: Subject::cluster(cluster(2)).with_text("c2"),
        refusal: String::new(),
        count: 1,
    };
    assert_eq!(entries(&world.state), std::slice::from_ref(&expected));
    // The same name for another cluster is refused, and says so.
    let Command::RegisterCluster(mut other) = register(3) else { unreachable!() };
    other.name = "c2".to_owned();
    send(&mut world, &operator("eve"), Command::RegisterCluster(other));
    let refused = AuditEntry {
        number: 2,
        index: LogIndex::new(world.index),
        sender: operator("eve"),
        refusal: Code::AlreadyExists.as_str().to_owned(),
        subject: Subject::text("c2"),
        ..expected
    };
    assert_eq!(last(&world), refused);
    assert!(refused.is_refused());
}

#[test]
fn audit_of_acts_names_their_subject_and_leaves_bookkeeping_out() {
    let mut world = world();
    let raise = |subject: &str| {
        Command::RaiseFinding(RaiseFinding {
            key: FindingKey {
                scope: Scope::Cluster(cluster(1)),
                kind: "key-missing".to_owned(),
                subject: subject.to_owned(),
            },
            severity: Severity::Warning,
            message: "m".to_owned(),
            remedy: "r".to_owned(),
        })
    };
    let clear = |subject: &str| {
        let Command::RaiseFinding(raise) = raise(subject) else { unreachable!() };
        Command::ClearFinding(ClearFinding { key: raise.key })
    };
    let epoch = world.epoch(1);
    let upload = crate::scenario::lease(9);
    let acquire = AcquireEpoch { cluster: cluster(1), instance: instance(1) };
    let point = Subject { sequence: Some(seq(1)), ..Subject::cluster(cluster(1)) };
    let of = Subject::cluster(cluster(1));
    let steps: Vec<Step> = vec![
        (
            agent(1),
            Command::AcquireEpoch(acquire),
            Some(("open-agent-session", of.clone().with_text("epoch 1"))),
        ),
        (agent(1), open_upload(1, epoch, upload, seq(0)), None),
        (
            agent(1),
            Draft::first(&world, 1, upload).command(),
            Some(("commit-point", point.clone())),
        ),
        (
            operator("ann"),
            open_read(1, crate::scenario::lease(8), 1),
            Some(("open-read-lease", point.with_text("restore"))),
        ),
        (agent(1), raise("store"), None),
        // There was none: nothing was done.
        (agent(1), clear("other"), None),
        (
            operator("ann"),
            clear("store"),
            Some(("clear-finding", of.with_text("key-missing store"))),
        ),
        // By itself a coordinator keeps its books.
        (machine(), clear("store"), None),
        (
            machine(),
            Command::RaiseLevel(RaiseLevel { to: Level::new(2) }),
            Some(("raise-level", Subject::text("level 2"))),
        ),
        (
            operator("ann"),
            Command::ConfirmTime(ConfirmTime),
            Some(("confirm-time", Subject::default())),
        ),
    ];
    for (sender, command, expected) in steps {
        let name = command.name();
        let before = world.state.audit().head().number;
        let applied = send(&mut world, &sender, command);
        assert!(applied.outcome.refusal().is_none(), "{name}: {:?}", applied.outcome);
        let Some((act, subject)) = expected else {
            assert_eq!(world.state.audit().head().number, before, "{name} is no act");
            continue;
        };
        let entry = last(&world);
        assert_eq!((&*entry.act, entry.subject, entry.sender), (act, subject, sender), "{name}");
        assert_eq!((entry.number, entry.refusal, entry.count), (before + 1, String::new(), 1));
    }
}

#[test]
fn audit_of_a_forced_recovery_names_the_node_and_nobodys_certificate() {
    let mut world = World::with_first_point();
    world.voters = nodes(&[1]);
    let console =
        Sender { actor: Actor::Console(NodeId::new(1)), certificate: None, via: NodeId::new(1) };
    let command = Command::RecoverByForce(Box::new(RecoverByForce {
        node: NodeId::new(1),
        name: "one".to_owned(),
        address: "one:7410".to_owned(),
        members: nodes(&[1, 2, 3]),
        committed: LogIndex::new(3),
    }));
    // Whatever the level: nobody else reads that log.
    assert_eq!(world.state.level(), Level::new(1));
    send(&mut world, &console, command);
    let entry = last(&world);
    assert_eq!((&*entry.act, entry.sender), ("recover-by-force", console));
    assert_eq!(entry.subject, Subject::node(NodeId::new(1)));
}

/// Every command has its word and is of one kind: a new one does not compile until that is decided,
/// and does not pass until it is written here.
#[test]
fn audit_table_of_acts_is_total_and_frozen() {
    let mut found: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (_, request) in crate::fixtures::requests() {
        let command = &request.command;
        let Some(act) = command.act() else {
            assert_eq!(command.name(), "record_act");
            continue;
        };
        let when = match act.when {
            When::Always => "always",
            When::ByOthers => "by others",
            When::Refused => "refused",
        };
        if command.name() == "record_snapshot" && when == "refused" {
            continue;
        }
        found.insert(act.word, (command.name(), when));
    }
    let expected = [
        ("init-fleet", "init_fleet", "always"),
        ("register-cluster", "register_cluster", "always"),
        ("open-agent-session", "acquire_epoch", "always"),
        ("open-upload", "open_upload", "refused"),
        ("renew-lease", "renew_lease", "refused"),
        ("end-upload", "end_upload", "refused"),
        ("commit-point", "commit_point", "always"),
        ("open-read-lease", "open_read_lease", "always"),
        ("end-read-lease", "end_read_lease", "refused"),
        ("expire-leases", "expire_leases", "refused"),
        ("expire-sessions", "expire_sessions", "refused"),
        ("record-holders", "record_holders", "refused"),
        ("raise-finding", "raise_finding", "refused"),
        ("clear-finding", "clear_finding", "by others"),
        ("add-node", "add_node", "always"),
        ("change-voters", "begin_change", "always"),
        ("seal-voter-change", "seal_change", "refused"),
        ("end-voter-change", "end_change", "always"),
        ("remove-node", "remove_node", "always"),
        ("seal-snapshot", "seal_snapshot", "refused"),
        ("begin-restore", "begin_restore", "always"),
        ("send-state", "restore_piece", "refused"),
        ("finish-restore", "finish_restore", "always"),
        ("abandon-restore", "abandon_restore", "always"),
        ("recover-by-force", "recover_by_force", "always"),
        ("move-node", "move_node", "always"),
        ("set-bundle-home", "set_bundle_home", "always"),
        ("settle-bundle-home", "set_bundle_home", "always"),
        ("announce-object", "announce_object", "refused"),
        ("record-objects", "record_objects", "refused"),
        ("save-scheduled-snapshot", "record_snapshot", "always"),
        ("set-authority", "set_authority", "always"),
        ("create-join-token", "create_join_token", "always"),
        ("redeem-join-token", "redeem_join_token", "always"),
        ("raise-level", "raise_level", "always"),
        ("freeze-time", "freeze_time", "always"),
        ("confirm-time", "confirm_time", "always"),
        ("rotate-recovery-key", "rotate_recovery", "always"),
        ("replace-wraps", "replace_wraps", "always"),
        ("finish-recovery-key-rotation", "finish_rotation", "always"),
        ("begin-key-lineage", "begin_lineage", "always"),
        ("approve-key-lineage", "approve_lineage", "always"),
        ("order-key-rotation", "order_keys", "always"),
        ("record-key-rotation", "record_keys", "always"),
        ("attest-share", "attest_share", "always"),
        ("create-enrol-token", "create_enrol_token", "always"),
        ("enrol", "redeem_enrol_token", "always"),
        ("renew-certificate", "record_certificate", "always"),
        ("revoke", "revoke_party", "always"),
        ("approve-enrolment", "decide_enrolment", "always"),
        ("reject-enrolment", "decide_enrolment", "always"),
        ("request-act", "request_act", "always"),
        ("approve-act", "decide_act", "always"),
        ("cancel-act", "decide_act", "always"),
        ("perform-act", "perform_act", "always"),
        ("set-act-delay", "set_act_delay", "always"),
    ];
    let expected: BTreeMap<&str, (&str, &str)> =
        expected.into_iter().map(|(word, name, when)| (word, (name, when))).collect();
    assert_eq!(found, expected);
    let names: BTreeSet<&str> =
        crate::fixtures::requests().iter().map(|(_, r)| r.command.name()).collect();
    assert_eq!(names.len(), found.values().map(|(n, _)| n).collect::<BTreeSet<_>>().len() + 1);
}

#[test]
fn audit_of_a_repeat_is_one_entry_and_of_a_lost_session_a_refusal() {
    let mut world = world();
    let mut ask = |number| {
        let request = Request {
            session: Some((session(1), number)),
            sender: Some(operator("ann")),
            ..world.request(register(2))
        };
        world.apply(&request);
        entries(&world.state)
    };
    assert_eq!(ask(1).len(), 1);
    assert_eq!(ask(1).len(), 1, "a repeat is answered from memory");
    let entries = ask(0);
    assert_eq!((entries.len(), &*entries[1].refusal), (2, "INVALID_ARGUMENT"));
    // A refusal that is kept is not refused again either.
    let mut world = crate::audit::world();
    for _ in 0..2 {
        let request = Request {
            session: Some((session(1), 1)),
            sender: Some(agent(1)),
            ..world.request(open_upload(
                1,
                world.epoch(1).next(),
                crate::scenario::lease(9),
                seq(0),
            ))
        };
        world.apply(&request);
        assert_eq!(world.state.audit().head().number, 1);
    }
    world.now_ms += AUDIT_REFUSAL_MS;
    send(&mut world, &machine(), crate::scenario::open_read(1, crate::scenario::lease(8), 9));
    assert_eq!(world.state.audit().head().number, 1, "nothing was counted");
}

#[test]
fn audit_of_a_flood_is_one_entry_a_minute_with_how_many() {
    let mut world = world();
    let start = world.now_ms;
    // From two coordinators, in one batch and singly; an act of another party among them.
    for step in 0..600_u64 {
        world.now_ms = start + step * 500;
        let sender = Sender { via: NodeId::new(1 + step % 2), ..agent(1) };
        send(&mut world, &sender, refusal("get-status", "PERMISSION_DENIED", 10));
    }
    send(&mut world, &agent(2), refusal("get-status", "PERMISSION_DENIED", 1));
    let written = entries(&world.state);
    let of_one: Vec<u64> = written
        .iter()
        .filter(|entry| entry.sender.actor == agent(1).actor)
        .map(|entry| entry.count)
        .collect();
    // Five minutes: the first at once, then what came in each minute.
    assert_eq!(of_one, [10, 1190, 1200, 1200, 1200]);
    let counted = codec::read_state(&mut &state_bytes(&world.state)[..]).unwrap();
    assert!(counted == world.state, "what is counted is kept");
    // Silence: what was left is written once log time moves, and then it is forgotten.
    world.now_ms += AUDIT_REFUSAL_MS;
    world.ok(Command::ConfirmTime(ConfirmTime));
    let entry = last(&world);
    assert_eq!((entry.count, &entry.sender.actor), (1200, &agent(1).actor));
    assert_eq!(entry.sender.via, NodeId::new(2), "the last one's");
    world.now_ms += AUDIT_REFUSAL_MS;
    let head = world.state.audit().head();
    world.ok(Command::ConfirmTime(ConfirmTime));
    assert_eq!(world.state.audit().head(), head);
    send(&mut world, &agent(1), refusal("get-status", "PERMISSION_DENIED", 1));
    assert_eq!(last(&world).count, 1, "a new one is written at once");
    // A refusal by `apply` is bounded like one before it.
    for _ in 0..100 {
        let stale = open_upload(1, world.epoch(1).next(), crate::scenario::lease(9), seq(0));
        send(&mut world, &agent(1), stale);
    }
    let entry = last(&world);
    assert_eq!((&*entry.act, &*entry.refusal, entry.count), ("open-upload", "STALE_EPOCH", 1));
    assert_eq!(world.state.audit().head().number, head.number + 2);
}

#[test]
fn audit_counts_so_many_kinds_at_one_time_and_loses_none() {
    let mut world = world();
    let kinds = 2 * AUDIT_PENDING_MAX;
    for round in 0..2 {
        for kind in 0..kinds {
            world.now_ms += 1;
            let sender = operator(&format!("op-{kind}"));
            send(&mut world, &sender, refusal("get-status", "PERMISSION_DENIED", 1 + round));
        }
    }
    world.now_ms += AUDIT_REFUSAL_MS;
    world.ok(Command::ConfirmTime(ConfirmTime));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries(&world.state) {
        *counts.entry(entry.sender.actor.name()).or_default() += entry.count;
    }
    assert_eq!(counts.len(), kinds);
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
}

#[test]
fn audit_takes_no_act_without_a_sender_nor_words_of_anybodys() {
    let mut world = world();
    let mut bad = |act: &str, code: &str, text: &str, count| {
        let command = Command::RecordAct(Box::new(RecordAct {
            act: act.to_owned(),
            subject: Subject { text: text.to_owned(), ..Subject::default() },
            refusal: code.to_owned(),
            count,
        }));
        let applied = send(&mut world, &operator("ann"), command);
        let refused = Outcome::Refused(Refusal::InvalidField { field: Field::Act });
        assert_eq!(applied.outcome, refused, "{act:?} {code:?} {text:?} {count}");
    };
    for (act, code, text, count) in [
        ("", "", "", 1),
        ("Get-Status", "", "", 1),
        ("get status", "", "", 1),
        (&"a".repeat(41), "", "", 1),
        ("get-status", "denied", "", 1),
        ("get-status", &"A".repeat(41), "", 1),
        ("get-status", "", "a\nb", 1),
        ("get-status", "", &"a".repeat(201), 1),
        ("get-status", "", "", 0),
        ("get-status", "", "", 2),
    ] {
        bad(act, code, text, count);
    }
    let applied = world.run(accepted("get-status"));
    assert!(applied.outcome.refusal().is_some(), "nobody did it");
    assert_eq!(world.state.audit().head().number, 0);
    // Texts of commands are cut and made plain, never refused for the log's sake.
    let text = Subject::text(&format!("a\n{}", "\u{e9}".repeat(300))).text;
    assert!(text.starts_with("a \u{e9}") && text.len() <= 200 && text.len() > 197);
    let mut empty = World::empty();
    empty.run(Command::RaiseLevel(RaiseLevel { to: Level::new(2) }));
    let applied = send(&mut empty, &operator("ann"), accepted("get-status"));
    assert_eq!(applied.outcome, Outcome::Refused(Refusal::FleetMissing));
    send(&mut empty, &machine(), init_fleet());
    assert_eq!((&*last(&empty).act, last(&empty).number), ("init-fleet", 1));
}

/// The largest entry there can be is far below what a reader takes, and below a log entry.
#[test]
fn audit_entries_are_bounded() {
    let entry = AuditEntry {
        number: u64::MAX,
        time: LogTime::from_millis(u64::MAX),
        index: LogIndex::new(u64::MAX),
        sender: Sender {
            actor: Actor::Operator { name: "n".repeat(253), role: OperatorRole::Viewer },
            certificate: Some([255; 32]),
            via: NodeId::new(u64::MAX),
        },
        act: "a".repeat(40),
        subject: Subject {
            cluster: Some(cluster(255)),
            sequence: Some(seq(u64::MAX)),
            node: Some(NodeId::new(u64::MAX)),
            text: "t".repeat(200),
        },
        refusal: "R".repeat(40),
        count: u64::MAX,
    };
    let bytes = codec::encode_audit_entry(&entry);
    assert!(bytes.len() <= AUDIT_ENTRY_BYTES_MAX, "{}", bytes.len());
    assert_eq!(codec::decode_audit_entry(&bytes).unwrap(), entry);
    assert!(codec::decode_audit_entry(&bytes[1..]).is_err());
}

/// A world one entry before its first segment is closed.
fn before_the_first_segment() -> World {
    let mut world = world();
    for _ in 1..AUDIT_SEGMENT_ENTRIES {
        let applied = send(&mut world, &operator("ann"), Command::ConfirmTime(ConfirmTime));
        assert_eq!(applied.events.len(), 1, "{:?}", applied.events);
    }
    world
}

fn close(world: &mut World) -> Segment {
    let applied = send(world, &operator("ann"), Command::ConfirmTime(ConfirmTime));
    let closed = applied.events.into_iter().find_map(|event| match event {
        Event::AuditSegmentClosed { segment } => Some((*segment).clone()),
        _ => None,
    });
    closed.expect("the segment is full")
}

#[test]
fn audit_segment_leaves_the_state_whole_and_its_end_stays() {
    let mut world = before_the_first_segment();
    let first = AuditHead::first(FLEET);
    assert_eq!(world.state.audit().base(), first);
    let full = entries(&world.state);
    let segment = close(&mut world);
    let head = world.state.audit().head();
    assert_eq!((head.number, world.state.audit().base()), (1024, head));
    assert_eq!(world.state.audit().tail().count(), 0);
    assert_eq!((segment.number(), segment.previous, segment.fleet), (0, first, FLEET));
    let (read, end) = segment.read().unwrap();
    assert_eq!((&read[..1023], end), (&full[..], head));
    // Read again from its bytes, by whoever knows where it ends.
    let bytes = segment.encode();
    assert_eq!(Segment::decode(&bytes, FLEET, head).unwrap(), segment);
    let other = FleetId::from_bytes([9; 16]);
    let refused = Segment::decode(&bytes, other, head).unwrap_err();
    assert_eq!(refused, ChainError::OtherFleet { found: FLEET });
    // A state read in the middle of the log goes on from there, and the chain with it.
    let mut copy = world.clone();
    copy.state = codec::read_state(&mut &state_bytes(&world.state)[..]).unwrap();
    for _ in 0..AUDIT_SEGMENT_ENTRIES - 1 {
        send(&mut copy, &agent(1), accepted("some-act"));
        send(&mut world, &agent(1), accepted("some-act"));
    }
    assert!(copy.state == world.state);
    let second = close(&mut world);
    assert_eq!((second.number(), second.previous), (1, head));
    Segment::decode(&second.encode(), FLEET, world.state.audit().base()).unwrap();
}

#[test]
fn audit_any_changed_byte_of_a_segment_is_found() {
    let mut world = before_the_first_segment();
    let bytes = close(&mut world).encode();
    let end = world.state.audit().base();
    let step = 97;
    for at in (0..200).chain((200..bytes.len()).step_by(step)).chain([bytes.len() - 1]) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Segment::decode(&bad, FLEET, end).is_err(), "byte {at}");
    }
    for cut in [0, 7, 8, 40, bytes.len() - 1] {
        assert_eq!(Segment::decode(&bytes[..cut], FLEET, end), Err(ChainError::Form), "{cut}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Segment::decode(&longer, FLEET, end), Err(ChainError::Form));
    // An entry made anew, with hashes that fit each other, leads elsewhere.
    let mut forged = Segment::parse(&bytes).unwrap();
    let mut entry = codec::decode_audit_entry(&forged.entries[5]).unwrap();
    entry.sender = operator("somebody-else");
    forged.entries[5] = codec::encode_audit_entry(&entry).into();
    let refused = Segment::decode(&forged.encode(), FLEET, end).unwrap_err();
    assert_eq!(refused, ChainError::Hash { number: 1024 });
    // Two that changed places are not in order any more.
    let mut swapped = Segment::parse(&bytes).unwrap();
    swapped.entries.swap(3, 4);
    let refused = Segment::decode(&swapped.encode(), FLEET, end).unwrap_err();
    assert_eq!(refused, ChainError::Number { number: 4, found: 5 });
}

#[test]
fn audit_entries_in_a_state_must_lead_to_its_head() {
    let mut world = world();
    for name in ["ann", "bob", "eve"] {
        send(&mut world, &operator(name), Command::ConfirmTime(ConfirmTime));
    }
    let bytes = state_bytes(&world.state);
    let at = bytes.windows(3).position(|window| window == b"bob").unwrap();
    let mut forged = bytes.clone();
    forged[at..at + 3].copy_from_slice(b"bab");
    let error = codec::read_state(&mut &forged[..]).unwrap_err();
    assert_eq!(error.code(), Code::Damaged, "{error:?}");
    assert!(codec::read_state(&mut &bytes[..]).unwrap() == world.state);
}

/// A restore leaves this fleet's log as it is, and says in it where the other one ended.
#[test]
fn audit_after_a_restore_names_the_end_of_the_log_before() {
    let mut old = world();
    send(&mut old, &operator("ann"), register(2));
    send(&mut old, &operator("ann"), register(3));
    let head = old.state.audit().head();
    let (mut new, finish) = crate::restore::ready(&old.state, &[1, 2, 9]);
    send(&mut new, &operator("bob"), finish);
    let written = entries(&new.state);
    assert_eq!(written.len(), 1);
    assert_eq!((written[0].number, &*written[0].act), (1, "finish-restore"));
    let expected =
        format!("generation 1, audit log before ended with entry 2 {}", hex::encode(head.hash));
    assert_eq!(written[0].subject, Subject::text(&expected));
}

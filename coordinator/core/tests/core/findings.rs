//! Findings.

use coordinator_core::{
    ClearFinding, Command, Event, Field, FindingKey, Limit, Outcome, RaiseFinding, Refusal, Scope,
    Severity,
};
use proto_types::{LogTime, NodeId};

use crate::scenario::{World, check, cluster};

fn key(scope: Scope, subject: &str) -> FindingKey {
    FindingKey { scope, kind: "rpo-missed".to_owned(), subject: subject.to_owned() }
}

fn finding(scope: Scope, subject: &str, severity: Severity) -> RaiseFinding {
    RaiseFinding {
        key: key(scope, subject),
        severity,
        message: "no proved point since yesterday".to_owned(),
        remedy: "look at the agent".to_owned(),
    }
}

fn raise(scope: Scope, subject: &str, severity: Severity) -> Command {
    Command::RaiseFinding(finding(scope, subject, severity))
}

#[test]
fn finding_keeps_its_beginning_while_it_is_raised_again() {
    let mut world = World::new();
    let scope = Scope::Cluster(cluster(1));
    let applied = world.run(raise(scope, "vault", Severity::Warning));
    assert_eq!(applied.outcome, Outcome::FindingRaised { new: true });
    assert_eq!(applied.events, [Event::FindingRaised { key: key(scope, "vault") }]);
    world.now_ms += 10;
    let applied = world.run(raise(scope, "vault", Severity::Critical));
    assert_eq!(applied.outcome, Outcome::FindingRaised { new: false });
    assert_eq!(applied.events, []);
    let (_, found) = world.state.findings().next().unwrap();
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(found.since, LogTime::from_millis(1_000_000));
    assert_eq!(found.last_seen, LogTime::from_millis(1_000_010));
    // Cleared and raised anew, it begins anew.
    let clear = Command::ClearFinding(ClearFinding { key: key(scope, "vault") });
    let applied = world.run(clear.clone());
    assert_eq!(applied.outcome, Outcome::FindingCleared { existed: true });
    assert_eq!(applied.events, [Event::FindingCleared { key: key(scope, "vault") }]);
    let applied = world.run(clear);
    assert_eq!(applied.outcome, Outcome::FindingCleared { existed: false });
    assert_eq!((applied.events, world.state.findings().count()), (vec![], 0));
    world.ok(raise(scope, "vault", Severity::Info));
    assert_eq!(world.state.findings().next().unwrap().1.since, LogTime::from_millis(1_000_010));
}

#[test]
fn findings_are_listed_by_scope() {
    let mut world = World::new();
    world.add_cluster(2);
    for scope in [Scope::Fleet, Scope::Node(NodeId::new(3)), Scope::Cluster(cluster(1))] {
        world.ok(raise(scope, "a", Severity::Info));
        world.ok(raise(scope, "", Severity::Info));
        let subjects: Vec<_> =
            world.state.findings_of(scope).map(|(key, _)| key.subject.as_str()).collect();
        assert_eq!(subjects, ["", "a"]);
    }
    assert_eq!(world.state.findings_of(Scope::Cluster(cluster(2))).count(), 0);
    assert_eq!(world.state.findings().count(), 6);
    assert_eq!(world.state.cluster_status(&cluster(1)).unwrap().findings, 2);
}

#[test]
fn finding_fields_are_checked() {
    let mut world = World::new();
    let scope = Scope::Fleet;
    let good = || finding(scope, "x", Severity::Info);
    let with_kind = |kind: &str| {
        let mut command = good();
        command.key.kind = kind.to_owned();
        command
    };
    let with_subject = |subject: String| {
        let mut command = good();
        command.key.subject = subject;
        command
    };
    let long = "x".repeat(1_025);
    for (command, field) in [
        (with_kind(""), Field::FindingKind),
        (with_kind("RPO missed"), Field::FindingKind),
        (with_kind(&"x".repeat(65)), Field::FindingKind),
        (with_subject("a\nb".to_owned()), Field::FindingSubject),
        (with_subject("x".repeat(257)), Field::FindingSubject),
        (RaiseFinding { message: String::new(), ..good() }, Field::FindingText),
        (RaiseFinding { remedy: String::new(), ..good() }, Field::FindingText),
        (RaiseFinding { message: long.clone(), ..good() }, Field::FindingText),
        (RaiseFinding { remedy: long, ..good() }, Field::FindingText),
    ] {
        check(&world, Command::RaiseFinding(command), Err(Refusal::InvalidField { field }));
    }
    let unknown = raise(Scope::Cluster(cluster(5)), "x", Severity::Info);
    check(&world, unknown, Err(Refusal::ClusterUnknown { cluster: cluster(5) }));
    check(&World::empty(), raise(scope, "x", Severity::Info), Err(Refusal::FleetMissing));
    for n in 0..256 {
        world.ok(raise(scope, &n.to_string(), Severity::Info));
    }
    let expect = Refusal::LimitReached { limit: Limit::Findings, have: 257, max: 256 };
    check(&world, raise(scope, "one more", Severity::Info), Err(expect));
    // Raised again, or for another scope, it is no problem.
    world.ok(raise(scope, "7", Severity::Info));
    world.ok(raise(Scope::Node(NodeId::new(1)), "one more", Severity::Info));
}

//! The fleet, the registration of clusters and the epochs of their agents.

use std::collections::BTreeMap;

use coordinator_core::{
    AcquireEpoch, Command, Event, Field, InitFleet, LeaseEnd, Outcome, RecoveryPublicKey, Refusal,
};
use proto_types::{ClusterId, Code, Epoch, FleetId, SigningPublicKey};

use crate::scenario::{
    Draft, FLEET, RECOVERY, World, check, cluster, init_fleet, instance, lease, open_upload,
    register, register_cluster,
};

fn acquire(n: u8, who: u8) -> Command {
    Command::AcquireEpoch(AcquireEpoch { cluster: cluster(n), instance: instance(who) })
}

#[test]
fn fleet_is_created_once() {
    let mut world = World::empty();
    let applied = world.run(init_fleet());
    assert_eq!(applied.outcome, Outcome::FleetReady { fleet: FLEET });
    assert_eq!(applied.events, [Event::FleetCreated { fleet: FLEET }]);
    let fleet = world.state.fleet().unwrap();
    assert_eq!((fleet.name.as_str(), fleet.created.as_millis()), ("home", 1_000_000));
    assert_eq!(fleet.recovery, RECOVERY);
    // Once more is the same, without a second event; another one is refused.
    world.now_ms += 1;
    let applied = world.run(init_fleet());
    assert_eq!(applied.outcome, Outcome::FleetReady { fleet: FLEET });
    assert_eq!(
        (applied.events, world.state.fleet().unwrap().created.as_millis()),
        (vec![], 1_000_000)
    );
    let other = FleetId::from_bytes([9; 16]);
    let expect = Refusal::FleetExists { fleet: FLEET, name: "home".to_owned() };
    assert_eq!(expect.code(), Code::WrongFleet);
    for (fleet, name, recovery) in [
        (other, "home", RECOVERY),
        (FLEET, "away", RECOVERY),
        (FLEET, "home", RecoveryPublicKey { hpke: [1; 32], signing: [0xa2; 32] }),
    ] {
        let command = InitFleet { fleet, name: name.to_owned(), recovery };
        check(&world, Command::InitFleet(command), Err(expect.clone()));
    }
}

#[test]
fn fleet_fields_are_checked() {
    let world = World::empty();
    for (name, recovery, field) in [
        ("Home", RECOVERY, Field::FleetName),
        ("", RECOVERY, Field::FleetName),
        ("home", RecoveryPublicKey { hpke: [0; 32], signing: [1; 32] }, Field::PublicKey),
        ("home", RecoveryPublicKey { hpke: [1; 32], signing: [0; 32] }, Field::PublicKey),
    ] {
        let command = InitFleet { fleet: FLEET, name: name.to_owned(), recovery };
        check(&world, Command::InitFleet(command), Err(Refusal::InvalidField { field }));
    }
}

#[test]
fn nothing_comes_before_the_fleet() {
    let world = World::empty();
    check(&world, register(1), Err(Refusal::FleetMissing));
    check(&world, acquire(1, 1), Err(Refusal::ClusterUnknown { cluster: cluster(1) }));
}

#[test]
fn cluster_is_registered_once() {
    let mut world = World::empty();
    world.ok(init_fleet());
    let applied = world.run(register(1));
    assert_eq!(applied.outcome, Outcome::ClusterRegistered { cluster: cluster(1) });
    assert_eq!(applied.events, [Event::ClusterRegistered { cluster: cluster(1) }]);
    let applied = world.run(register(1));
    assert_eq!(applied.outcome, Outcome::ClusterRegistered { cluster: cluster(1) });
    assert_eq!(applied.events, []);
    assert_eq!(world.state.cluster_named("c1").unwrap().id, cluster(1));
    assert!(world.state.cluster_named("c2").is_none());
    // The same id with anything else is another cluster.
    let exists = Refusal::ClusterExists { cluster: cluster(1) };
    assert_eq!(exists.code(), Code::AlreadyExists);
    for change in 0..4 {
        let mut command = register_cluster(1);
        match change {
            0 => command.name = "other".to_owned(),
            1 => command.signing_key = SigningPublicKey::from_bytes([3; 32]),
            2 => command.labels = BTreeMap::new(),
            _ => command.kube_system_uid = None,
        }
        check(&world, Command::RegisterCluster(command), Err(exists.clone()));
    }
    // Name and UID are unique.
    let mut command = register_cluster(2);
    command.name = "c1".to_owned();
    let expect = Refusal::ClusterNameTaken { name: "c1".to_owned(), cluster: cluster(1) };
    check(&world, Command::RegisterCluster(command), Err(expect));
    let mut command = register_cluster(2);
    command.kube_system_uid = Some("uid-1".to_owned());
    let expect = Refusal::KubeSystemUidTaken { uid: "uid-1".to_owned(), cluster: cluster(1) };
    check(&world, Command::RegisterCluster(command), Err(expect));
    // Two clusters that are no Kubernetes do not share a UID.
    for n in [3, 4] {
        let mut command = register_cluster(n);
        command.kube_system_uid = None;
        world.ok(Command::RegisterCluster(command));
    }
}

#[test]
fn cluster_fields_are_checked() {
    let mut world = World::empty();
    world.ok(init_fleet());
    let base = || register_cluster(1);
    let labels = |count: usize, bytes: usize| -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("{n:03}"), "x".repeat(bytes))).collect()
    };
    let uid = |text: &str| Some(text.to_owned());
    let cases = [
        (
            coordinator_core::RegisterCluster { name: "a.b".to_owned(), ..base() },
            Field::ClusterName,
        ),
        (
            coordinator_core::RegisterCluster { signing_key: SigningPublicKey::ZERO, ..base() },
            Field::PublicKey,
        ),
        (coordinator_core::RegisterCluster { labels: labels(33, 1), ..base() }, Field::Labels),
        (coordinator_core::RegisterCluster { labels: labels(2, 1022), ..base() }, Field::Labels),
        (
            coordinator_core::RegisterCluster {
                labels: BTreeMap::from([(String::new(), String::new())]),
                ..base()
            },
            Field::Labels,
        ),
        (
            coordinator_core::RegisterCluster { kube_system_uid: uid(""), ..base() },
            Field::KubeSystemUid,
        ),
        (
            coordinator_core::RegisterCluster { kube_system_uid: uid("a b"), ..base() },
            Field::KubeSystemUid,
        ),
        (
            coordinator_core::RegisterCluster { kube_system_uid: uid(&"x".repeat(65)), ..base() },
            Field::KubeSystemUid,
        ),
    ];
    for (command, field) in cases {
        check(&world, Command::RegisterCluster(command), Err(Refusal::InvalidField { field }));
    }
    let command = coordinator_core::RegisterCluster { labels: labels(32, 61), ..base() };
    world.ok(Command::RegisterCluster(command));
}

#[test]
fn invariant_e1_each_new_instance_gets_a_higher_epoch() {
    let mut world = World::new();
    let acquired =
        |epoch| Ok(Outcome::EpochAcquired { cluster: cluster(1), epoch: Epoch::new(epoch) });
    assert_eq!(world.epoch(1), Epoch::new(1));
    // The instance that holds it gets it back; another the next, also the first one again.
    check(&world, acquire(1, 1), acquired(1));
    check(&world, acquire(1, 7), acquired(2));
    world.ok(acquire(1, 7));
    check(&world, acquire(1, 7), acquired(2));
    check(&world, acquire(1, 1), acquired(3));
    check(
        &world,
        acquire(8, 1),
        Err(Refusal::ClusterUnknown { cluster: ClusterId::from_bytes([8; 16]) }),
    );
}

#[test]
fn invariant_b2_a_commit_ends_the_clusters_other_uploads_which_build_on_what_is_the_head_no_more() {
    let mut world = World::with_first_point();
    world.add_cluster(2);
    let left_behind = lease(9);
    let parent = world.state.cluster(&cluster(1)).unwrap().head.sequence;
    world.ok(open_upload(1, world.epoch(1), left_behind, parent));
    let upload = world.open(1);
    let of_another = world.open(2);
    let command = Draft::delta(&world, 1, upload).command();
    let applied = world.run(command);
    let end = |lease, end| Event::LeaseEnded { lease, cluster: cluster(1), end };
    assert_eq!(
        applied.events[1..],
        [end(upload, LeaseEnd::Committed), end(left_behind, LeaseEnd::Superseded)]
    );
    assert!(!world.state.lease_live(&left_behind));
    assert!(world.state.lease_live(&of_another), "other clusters go on");
}

#[test]
fn invariant_e1_a_new_instance_ends_the_uploads_before() {
    let mut world = World::new();
    world.add_cluster(2);
    world.open(1);
    world.open(2);
    let applied = world.run(acquire(1, 7));
    assert_eq!(
        applied.events,
        [
            Event::LeaseEnded { lease: lease(100), cluster: cluster(1), end: LeaseEnd::Superseded },
            Event::EpochIssued { cluster: cluster(1), epoch: Epoch::new(2), instance: instance(7) },
        ]
    );
    assert!(!world.state.lease_live(&lease(100)));
    assert!(world.state.lease_live(&lease(200)), "other clusters go on");
}

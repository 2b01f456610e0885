//! Leases: what they pin and how they end (B2).

use coordinator_core::{
    Command, EndReadLease, EndUpload, Event, ExpireLeases, Field, LeaseEnd, Limit, OpenReadLease,
    OpenUpload, Outcome, ReadPurpose, Refusal, RenewLease, UploadEnd,
};
use proto_types::{BundleId, Code, Epoch, LeaseId, LogIndex, LogTime};

use crate::scenario::{HOUR_MS, World, bundle, check, cluster, lease, open_read, open_upload, seq};

fn expire(leases: &[LeaseId]) -> Command {
    Command::ExpireLeases(ExpireLeases { leases: leases.to_vec() })
}
fn renew(lease: LeaseId) -> Command {
    Command::RenewLease(RenewLease { lease })
}
fn end_upload(lease: LeaseId, reason: UploadEnd) -> Command {
    Command::EndUpload(EndUpload { lease, reason })
}
fn end_read(lease: LeaseId) -> Command {
    Command::EndReadLease(EndReadLease { lease })
}

#[test]
fn upload_opens_on_the_head() {
    let mut world = World::with_first_point();
    let epoch = Epoch::new(1);
    let opened = Outcome::UploadOpened {
        lease: lease(9),
        index: LogIndex::new(6),
        parent_manifest: bundle("m1"),
        expires: LogTime::from_millis(1_000_000 + HOUR_MS),
    };
    let applied = world.run(open_upload(1, epoch, lease(9), seq(1)));
    assert_eq!(applied.outcome, opened);
    assert_eq!(applied.events, [Event::UploadOpened { lease: lease(9), cluster: cluster(1) }]);
    // Once more is the same: index and expiry are those of the first time.
    world.now_ms += 5;
    check(&world, open_upload(1, epoch, lease(9), seq(1)), Ok(opened));
    for parent in [0, 2, u64::MAX] {
        let offered = seq(parent.saturating_add(1));
        let expect = Refusal::StaleHead { cluster: cluster(1), offered, head: seq(1) };
        check(&world, open_upload(1, epoch, lease(8), seq(parent)), Err(expect));
    }
    // Before the first point there is no manifest.
    let mut world = World::new();
    let Outcome::UploadOpened { parent_manifest, .. } =
        world.ok(open_upload(1, epoch, lease(9), seq(0)))
    else {
        unreachable!()
    };
    assert_eq!(parent_manifest, BundleId::ZERO);
}

#[test]
fn lease_ids_are_used_once() {
    let mut world = World::with_first_point();
    world.add_cluster(2);
    let epoch = Epoch::new(1);
    world.ok(open_upload(1, epoch, lease(9), seq(1)));
    world.ok(open_read(1, lease(8), 1));
    let exists = |id| Err(Refusal::LeaseExists { lease: id });
    check(&world, open_upload(2, epoch, lease(9), seq(0)), exists(lease(9)));
    check(&world, open_upload(2, epoch, lease(8), seq(0)), exists(lease(8)));
    check(&world, open_read(1, lease(9), 1), exists(lease(9)));
    let command = OpenReadLease {
        lease: lease(8),
        cluster: cluster(1),
        sequence: seq(1),
        purpose: ReadPurpose::Export,
        ttl_ms: HOUR_MS,
    };
    check(&world, Command::OpenReadLease(command), exists(lease(8)));
}

#[test]
fn lease_times_and_numbers_are_bounded() {
    let mut world = World::with_first_point();
    let day = 24 * HOUR_MS;
    for (ttl_ms, valid) in [(0, false), (1, true), (day, true), (day + 1, false)] {
        let command = OpenUpload {
            cluster: cluster(1),
            epoch: Epoch::new(1),
            lease: lease(9),
            parent: seq(1),
            ttl_ms,
        };
        let outcome = world.clone().run(Command::OpenUpload(command)).outcome;
        let refused = outcome == Outcome::Refused(Refusal::InvalidField { field: Field::Ttl });
        assert_eq!(refused, !valid, "upload {ttl_ms}");
    }
    for (ttl_ms, valid) in [(0, false), (1, true), (7 * day, true), (7 * day + 1, false)] {
        let command = OpenReadLease {
            lease: lease(9),
            cluster: cluster(1),
            sequence: seq(1),
            purpose: ReadPurpose::Drill,
            ttl_ms,
        };
        let outcome = world.clone().run(Command::OpenReadLease(command)).outcome;
        let refused = outcome == Outcome::Refused(Refusal::InvalidField { field: Field::Ttl });
        assert_eq!(refused, !valid, "read {ttl_ms}");
    }
    for n in 0..8 {
        world.ok(open_upload(1, Epoch::new(1), lease(n), seq(1)));
    }
    let expect = Refusal::LimitReached { limit: Limit::Uploads, have: 9, max: 8 };
    assert_eq!(expect.code(), Code::ResourceExhausted);
    check(&world, open_upload(1, Epoch::new(1), lease(99), seq(1)), Err(expect));
    for n in 10..74 {
        world.ok(open_read(1, lease(n), 1));
    }
    let expect = Refusal::LimitReached { limit: Limit::Reads, have: 65, max: 64 };
    check(&world, open_read(1, lease(99), 1), Err(expect));
    let many: Vec<_> = (0..129).map(lease).collect();
    let expect = Refusal::LimitReached { limit: Limit::Expired, have: 129, max: 128 };
    check(&world, expire(&many), Err(expect));
}

#[test]
fn read_opens_on_any_point_there_is() {
    let mut world = World::with_first_point();
    world.commit_delta(1);
    let applied = world.run(open_read(1, lease(9), 1));
    let opened = Outcome::ReadOpened {
        lease: lease(9),
        index: LogIndex::new(8),
        expires: LogTime::from_millis(1_000_000 + HOUR_MS),
    };
    assert_eq!(applied.outcome, opened);
    assert_eq!(
        applied.events,
        [Event::ReadOpened { lease: lease(9), cluster: cluster(1), sequence: seq(1) }]
    );
    world.now_ms += 5;
    check(&world, open_read(1, lease(9), 1), Ok(opened));
    for sequence in [0, 3] {
        let expect = Refusal::PointUnknown { cluster: cluster(1), sequence: seq(sequence) };
        assert_eq!(expect.code(), Code::PointNotFound);
        check(&world, open_read(1, lease(8), sequence), Err(expect));
    }
    let expect = Refusal::ClusterUnknown { cluster: cluster(5) };
    check(&world, open_read(5, lease(8), 1), Err(expect));
}

/// Invariant B2: points, uploads and reads keep what they need.
#[test]
fn invariant_b2_what_a_point_or_lease_needs_is_needed() {
    let mut world = World::with_first_point();
    for label in ["c1", "m1", "k1", "w1"] {
        assert!(world.state.is_needed(&bundle(label)), "{label}");
    }
    assert!(!world.state.is_needed(&bundle("nowhere")));
    // Each lease by itself pins all of its point, as the rows show.
    world.ok(open_upload(1, Epoch::new(1), lease(9), seq(1)));
    world.open_read(1, lease(8), 1);
    let needs = &world.head(1).unwrap().needs;
    assert_eq!(&world.state.upload(&lease(9)).unwrap().pinned, needs);
    assert_eq!(&world.state.read(&lease(8)).unwrap().pinned, needs);
    assert_eq!(world.state.lease_cluster(&lease(9)), Some(cluster(1)));
    assert_eq!(world.state.lease_cluster(&lease(8)), Some(cluster(1)));
    assert_eq!(world.state.lease_cluster(&lease(7)), None);
}

/// Invariant B2: an end is a log entry and never a clock.
#[test]
fn invariant_b2_leases_end_by_log_entries_only() {
    let mut world = World::with_first_point();
    world.ok(open_upload(1, Epoch::new(1), lease(9), seq(1)));
    world.open_read(1, lease(8), 1);
    world.now_ms += 1_000 * HOUR_MS;
    world.add_cluster(2);
    world.commit_first(2);
    for id in [9, 8] {
        assert!(world.state.lease_live(&lease(id)), "time alone ended lease {id}");
    }
    let applied = world.run(expire(&[lease(9), lease(8), lease(7)]));
    assert_eq!(applied.outcome, Outcome::Expired { ended: 2, skipped: 1 });
    let ended =
        |id| Event::LeaseEnded { lease: lease(id), cluster: cluster(1), end: LeaseEnd::Expired };
    assert_eq!(applied.events, [ended(9), ended(8)]);
    assert!(!world.state.lease_live(&lease(9)) && !world.state.lease_live(&lease(8)));
}

/// Invariant B2: the leader's look at the clock is looked at again in the log.
#[test]
fn invariant_b2_a_lease_that_is_not_due_is_not_ended() {
    let mut world = World::with_first_point();
    world.ok(open_upload(1, Epoch::new(1), lease(9), seq(1)));
    world.open_read(1, lease(8), 1);
    let both = [lease(9), lease(8)];
    check(&world, expire(&both), Ok(Outcome::Expired { ended: 0, skipped: 2 }));
    // Due, but renewed before the expiry came through the log.
    world.now_ms += HOUR_MS;
    assert_eq!(world.state.leases_due(LogTime::from_millis(world.now_ms)), both);
    assert_eq!(world.state.leases_due(LogTime::from_millis(world.now_ms - 1)), []);
    let expires = LogTime::from_millis(world.now_ms + HOUR_MS);
    for id in both {
        assert_eq!(world.ok(renew(id)), Outcome::LeaseRenewed { lease: id, expires });
    }
    check(&world, expire(&both), Ok(Outcome::Expired { ended: 0, skipped: 2 }));
    // A leader with a clock behind does not turn time back.
    world.now_ms += HOUR_MS;
    check(&world, expire(&both), Ok(Outcome::Expired { ended: 2, skipped: 0 }));
    world.ok(renew(lease(9)));
    world.now_ms = 5;
    assert_eq!(
        world.ok(renew(lease(8))),
        Outcome::LeaseRenewed {
            lease: lease(8),
            expires: LogTime::from_millis(1_000_000 + 3 * HOUR_MS)
        }
    );
}

#[test]
fn uploads_and_reads_end_when_asked() {
    let mut world = World::with_first_point();
    for (id, reason, end) in
        [(9, UploadEnd::Abandoned, LeaseEnd::Abandoned), (8, UploadEnd::Failed, LeaseEnd::Failed)]
    {
        world.ok(open_upload(1, Epoch::new(1), lease(id), seq(1)));
        let applied = world.run(end_upload(lease(id), reason));
        assert_eq!(applied.outcome, Outcome::LeaseEnded { lease: lease(id), was_live: true });
        assert_eq!(
            applied.events,
            [Event::LeaseEnded { lease: lease(id), cluster: cluster(1), end }]
        );
    }
    world.open_read(1, lease(7), 1);
    // One kind's end does not end the other kind.
    check(
        &world,
        end_upload(lease(7), UploadEnd::Failed),
        Ok(Outcome::LeaseEnded { lease: lease(7), was_live: false }),
    );
    let applied = world.run(end_read(lease(7)));
    assert_eq!(applied.outcome, Outcome::LeaseEnded { lease: lease(7), was_live: true });
    assert_eq!(
        applied.events,
        [Event::LeaseEnded { lease: lease(7), cluster: cluster(1), end: LeaseEnd::ReadDone }]
    );
    check(&world, renew(lease(7)), Err(Refusal::LeaseGone { lease: lease(7) }));
    assert_eq!(Refusal::LeaseGone { lease: lease(7) }.code(), Code::LeaseGone);
    check(&world, end_read(lease(7)), Ok(Outcome::LeaseEnded { lease: lease(7), was_live: false }));
}

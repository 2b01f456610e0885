use std::sync::Arc;

use imbl::OrdSet;
use proto_types::{BundleId, BundleKind, ClusterId, Epoch, LeaseId, LogIndex, LogTime, Sequence};

use crate::rows::{BundleFacts, BundleRow, ReadLease, ReadPurpose, UploadLease};
use crate::state::State;

const BUNDLE: BundleId = BundleId::from_bytes([7; 32]);
const LEASE: LeaseId = LeaseId::from_bytes([1; 16]);

/// A state in which the bundle's row stands but no point needs it any more, as after a deletion.
fn without_points() -> State {
    let facts = BundleFacts {
        cluster: ClusterId::ZERO,
        kind: BundleKind::Config,
        bytes: 1,
        dek_ids: Vec::new(),
        predecessor: None,
        base: None,
        recovery: 0,
    };
    let row = BundleRow {
        facts: Arc::new(facts),
        holders: [].into(),
        points: 0,
        object: None,
        in_log: false,
    };
    let mut state = State::new();
    state.bundles.insert(BUNDLE, row);
    state
}

/// Invariant B2: each of point, upload and read keeps a bundle by itself.
#[test]
fn invariant_b2_points_uploads_and_reads_each_keep_a_bundle_alone() {
    let mut state = without_points();
    assert!(!state.is_needed(&BUNDLE));

    state.bundles.get_mut(&BUNDLE).unwrap().points = 1;
    assert!(state.is_needed(&BUNDLE));

    let mut state = without_points();
    let upload = UploadLease {
        cluster: ClusterId::ZERO,
        epoch: Epoch::new(1),
        parent: Sequence::new(1),
        index: LogIndex::new(1),
        ttl_ms: 1,
        expires: LogTime::ZERO,
        pinned: OrdSet::unit(BUNDLE),
    };
    state.uploads.insert(LEASE, upload);
    assert!(state.is_needed(&BUNDLE));

    let mut state = without_points();
    let read = ReadLease {
        cluster: ClusterId::ZERO,
        sequence: Sequence::new(1),
        purpose: ReadPurpose::Export,
        index: LogIndex::new(1),
        ttl_ms: 1,
        expires: LogTime::ZERO,
        pinned: OrdSet::unit(BUNDLE),
    };
    state.reads.insert(LEASE, read);
    assert!(state.is_needed(&BUNDLE));
    assert!(!state.is_needed(&BundleId::ZERO));
}

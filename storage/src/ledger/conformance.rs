//! What every ledger must do. Run by the tests of each. It panics at the first difference.

use proto_types::{BundleId, LeaseId, LogTime};

use super::{BundleRow, Ledger, RebuildReport, RepairReason, RepairRow, UploadClaim};
use crate::bundles::HeldBundle;

/// Runs the whole suite, each case on a ledger of its own.
///
/// # Panics
/// When the ledger does not conform: that is the answer.
pub fn run<L: Ledger>(make: impl Fn() -> L) {
    bundles_are_kept_in_order(&make());
    scrubs_are_noted_for_what_is_held(&make());
    claims_belong_to_their_lease(&make());
    repairs_are_owed_until_settled(&make());
    a_rebuild_agrees_with_the_files(&make());
}

fn id(n: u8) -> BundleId {
    BundleId::from_bytes([n; 32])
}

const fn row(bytes: u64) -> BundleRow {
    BundleRow { bytes, last_scrubbed: None }
}

fn bundles_are_kept_in_order(ledger: &dyn Ledger) {
    assert_eq!(ledger.bundles().expect("bundles"), []);
    for n in [3, 1, 2] {
        ledger.put_bundle(&id(n), row(u64::from(n))).expect("put");
    }
    ledger.put_bundle(&id(2), row(20)).expect("put again");
    ledger.remove_bundle(&id(3)).expect("remove");
    ledger.remove_bundle(&id(3)).expect("remove again");
    ledger.flush().expect("flush");
    assert_eq!(ledger.bundles().expect("bundles"), [(id(1), row(1)), (id(2), row(20))]);
    assert_eq!(ledger.bundle(&id(2)).expect("bundle"), Some(row(20)));
    assert_eq!(ledger.bundle(&id(3)).expect("bundle"), None);
}

fn scrubs_are_noted_for_what_is_held(ledger: &dyn Ledger) {
    for n in 1..=3 {
        ledger.put_bundle(&id(n), row(1)).expect("put");
    }
    let at = LogTime::from_millis;
    ledger.mark_scrubbed(&id(1), at(300)).expect("scrubbed");
    ledger.mark_scrubbed(&id(2), at(200)).expect("scrubbed");
    ledger.mark_scrubbed(&id(9), at(100)).expect("not held");
    assert_eq!(ledger.bundle(&id(9)).expect("bundle"), None);
    let due: Vec<BundleId> =
        ledger.due_for_scrub(2).expect("due").into_iter().map(|(id, _)| id).collect();
    assert_eq!(due, [id(3), id(2)], "never scrubbed first, then the oldest");
    assert_eq!(ledger.bundle(&id(1)).expect("bundle").and_then(|r| r.last_scrubbed), Some(at(300)));
}

fn claims_belong_to_their_lease(ledger: &dyn Ledger) {
    let lease = |n: u8| LeaseId::from_bytes([n; 16]);
    let claim = |l, b, bytes| UploadClaim { lease: lease(l), bundle: id(b), bytes };
    for claim in [claim(2, 1, 0), claim(1, 2, 5), claim(1, 1, 7), claim(1, 2, 6)] {
        ledger.put_claim(claim).expect("put");
    }
    assert_eq!(ledger.claims(&lease(1)).expect("claims"), [claim(1, 1, 7), claim(1, 2, 6)]);
    ledger.release_claims(&lease(1)).expect("release");
    ledger.release_claims(&lease(1)).expect("release again");
    assert_eq!(ledger.all_claims().expect("claims"), [claim(2, 1, 0)]);
}

fn repairs_are_owed_until_settled(ledger: &dyn Ledger) {
    let repair =
        |n, reason| RepairRow { bundle: id(n), reason, since: LogTime::from_millis(u64::from(n)) };
    ledger.put_repair(repair(2, RepairReason::Damaged)).expect("put");
    ledger.put_repair(repair(1, RepairReason::Missing)).expect("put");
    assert_eq!(
        ledger.repairs().expect("repairs"),
        [repair(1, RepairReason::Missing), repair(2, RepairReason::Damaged)]
    );
    ledger.settle_repair(&id(1)).expect("settle");
    ledger.settle_repair(&id(1)).expect("settle again");
    assert_eq!(ledger.repairs().expect("repairs"), [repair(2, RepairReason::Damaged)]);
}

fn a_rebuild_agrees_with_the_files(ledger: &dyn Ledger) {
    for n in 1..=3 {
        ledger.put_bundle(&id(n), row(10)).expect("put");
        ledger.mark_scrubbed(&id(n), LogTime::from_millis(5)).expect("scrubbed");
    }
    let held = [(2, 10), (3, 11), (4, 10)].map(|(n, bytes)| HeldBundle { id: id(n), bytes });
    let report = ledger.rebuild_from(&held).expect("rebuild");
    assert_eq!(report, RebuildReport { kept: 1, added: 2, removed: 1 });
    let scrubbed = BundleRow { bytes: 10, last_scrubbed: Some(LogTime::from_millis(5)) };
    assert_eq!(
        ledger.bundles().expect("bundles"),
        [(id(2), scrubbed), (id(3), row(11)), (id(4), row(10))]
    );
    let report = ledger.rebuild_from(&held).expect("rebuild again");
    assert_eq!(report, RebuildReport { kept: 3, added: 0, removed: 0 });
}

//! What every bundle store must do, whatever it is made of. Run by the tests of each: for the
//! files, the object stores, and the faulty wrapper. It panics at the first difference.

use proto_types::BundleId;

use super::{BundleError, BundleStore, HeldBundle};

/// Runs the whole suite, each case on a store of its own.
///
/// # Panics
/// When the store does not conform: that is the answer.
pub fn run<S: BundleStore>(make: impl Fn() -> S) {
    an_upload_in_pieces_is_held_once_it_is_finished(&make());
    an_upload_resumes_where_it_stopped(&make());
    wrong_offsets_are_refused_and_change_nothing(&make());
    wrong_bytes_are_refused_and_forgotten(&make());
    wrong_lengths_are_refused(&make());
    finishing_and_beginning_again_is_fine(&make());
    an_abandoned_upload_leaves_nothing(&make());
    ranges_end_with_the_bundle(&make());
    deleting_removes_and_may_be_repeated(&make());
    a_quarantined_copy_is_not_held_and_can_be_replaced(&make());
    what_is_not_there_is_not_found(&make());
    the_list_is_complete_and_sorted(&make());
    what_is_put_is_held_at_once(&make());
}

fn content(seed: u8, bytes: usize) -> (BundleId, Vec<u8>) {
    let content: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect();
    (BundleId::of(&content), content)
}

fn put(store: &dyn BundleStore, seed: u8, bytes: usize) -> (BundleId, Vec<u8>) {
    let (id, content) = content(seed, bytes);
    assert_eq!(store.begin(&id, bytes as u64).expect("begin"), 0);
    store.write(&id, 0, &content).expect("write");
    store.finish(&id, bytes as u64).expect("finish");
    (id, content)
}

fn an_upload_in_pieces_is_held_once_it_is_finished(store: &dyn BundleStore) {
    let (id, content) = content(1, 10_000);
    assert_eq!(store.begin(&id, 10_000).expect("begin"), 0);
    for (i, piece) in content.chunks(3_000).enumerate() {
        store.write(&id, i as u64 * 3_000, piece).expect("write");
        assert!(!store.contains(&id).expect("contains"), "held before its end");
    }
    assert_eq!(store.list().expect("list"), []);
    store.finish(&id, 10_000).expect("finish");
    assert_eq!(store.size(&id).expect("size"), Some(10_000));
    assert_eq!(store.read(&id).expect("read"), content);
    store.verify(&id).expect("verify");
    assert_eq!(store.partials().expect("partials"), []);
}

fn an_upload_resumes_where_it_stopped(store: &dyn BundleStore) {
    let (id, content) = content(2, 5_000);
    store.begin(&id, 5_000).expect("begin");
    store.write(&id, 0, &content[..2_000]).expect("write");
    assert_eq!(store.partials().expect("partials"), [HeldBundle { id, bytes: 2_000 }]);
    assert_eq!(store.begin(&id, 5_000).expect("begin again"), 2_000);
    store.write(&id, 2_000, &content[2_000..]).expect("write the rest");
    store.finish(&id, 5_000).expect("finish");
    assert_eq!(store.read(&id).expect("read"), content);
}

fn wrong_offsets_are_refused_and_change_nothing(store: &dyn BundleStore) {
    let (id, content) = content(3, 100);
    assert!(matches!(store.write(&id, 0, &content), Err(BundleError::NotBegun { .. })));
    store.begin(&id, 100).expect("begin");
    store.write(&id, 0, &content[..50]).expect("write");
    for offset in [0, 49, 51] {
        match store.write(&id, offset, &content[50..]) {
            Err(BundleError::WrongOffset { have: 50, .. }) => {}
            other => panic!("a write at {offset} of 50 gave {other:?}"),
        }
    }
    store.write(&id, 50, &content[50..]).expect("write");
    store.finish(&id, 100).expect("finish");
}

fn wrong_bytes_are_refused_and_forgotten(store: &dyn BundleStore) {
    let (id, mut content) = content(4, 100);
    content[50] ^= 1;
    store.begin(&id, 100).expect("begin");
    store.write(&id, 0, &content).expect("write");
    match store.finish(&id, 100) {
        Err(BundleError::WrongDigest { found, .. }) => assert_eq!(found, BundleId::of(&content)),
        other => panic!("wrong bytes gave {other:?}"),
    }
    assert!(!store.contains(&id).expect("contains"));
    assert_eq!(store.partials().expect("partials"), []);
    assert_eq!(store.begin(&id, 100).expect("begin again"), 0);
}

fn wrong_lengths_are_refused(store: &dyn BundleStore) {
    let (id, content) = content(5, 100);
    store.begin(&id, 100).expect("begin");
    store.write(&id, 0, &content[..60]).expect("write");
    let short = store.finish(&id, 100);
    assert!(matches!(short, Err(BundleError::WrongLength { have: 60, expected: 100, .. })));
    assert_eq!(store.begin(&id, 100).expect("it can be resumed"), 60);
    store.write(&id, 60, &content[60..]).expect("write");
    let long = store.finish(&id, 99);
    assert!(matches!(long, Err(BundleError::WrongLength { have: 100, expected: 99, .. })));
    assert!(!store.contains(&id).expect("contains"));
}

fn finishing_and_beginning_again_is_fine(store: &dyn BundleStore) {
    let (id, content) = put(store, 6, 100);
    store.finish(&id, 100).expect("finish again");
    assert_eq!(store.begin(&id, 100).expect("begin again"), 100);
    store.finish(&id, 100).expect("and finish again");
    assert!(matches!(store.finish(&id, 99), Err(BundleError::WrongLength { .. })));
    assert_eq!(store.read(&id).expect("read"), content);
}

fn an_abandoned_upload_leaves_nothing(store: &dyn BundleStore) {
    let (id, content) = content(7, 100);
    store.abandon(&id).expect("abandon nothing");
    store.begin(&id, 100).expect("begin");
    store.write(&id, 0, &content[..50]).expect("write");
    store.abandon(&id).expect("abandon");
    assert_eq!(store.partials().expect("partials"), []);
    assert!(matches!(store.finish(&id, 100), Err(BundleError::NotBegun { .. })));
    assert_eq!(store.begin(&id, 100).expect("begin again"), 0);
}

fn ranges_end_with_the_bundle(store: &dyn BundleStore) {
    let (id, content) = put(store, 8, 1_000);
    for (offset, bytes_max) in [(0, 10), (990, 10), (990, 100), (1_000, 1), (0, 1_000), (5_000, 1)]
    {
        let from = (offset as usize).min(1_000);
        let to = (from + bytes_max).min(1_000);
        let range = store.read_range(&id, offset, bytes_max).expect("range");
        assert_eq!(range, content[from..to], "{bytes_max} bytes at {offset}");
    }
}

fn deleting_removes_and_may_be_repeated(store: &dyn BundleStore) {
    let (id, _) = put(store, 9, 100);
    store.delete(&id).expect("delete");
    assert!(!store.contains(&id).expect("contains"));
    store.delete(&id).expect("delete again");
    put(store, 9, 100);
}

fn a_quarantined_copy_is_not_held_and_can_be_replaced(store: &dyn BundleStore) {
    let (id, content) = put(store, 10, 100);
    store.quarantine(&id).expect("quarantine");
    assert!(!store.contains(&id).expect("contains"));
    assert_eq!(store.list().expect("list"), []);
    assert_eq!(store.quarantined().expect("quarantined"), [HeldBundle { id, bytes: 100 }]);
    assert!(matches!(store.quarantine(&id), Err(BundleError::NotFound { .. })));
    put(store, 10, 100);
    assert_eq!(store.read(&id).expect("read"), content);
    assert_eq!(store.quarantined().expect("quarantined"), [], "replaced by a good copy");
}

fn what_is_not_there_is_not_found(store: &dyn BundleStore) {
    let (id, _) = content(11, 100);
    assert_eq!(store.size(&id).expect("size"), None);
    assert!(matches!(store.read(&id), Err(BundleError::NotFound { .. })));
    assert!(matches!(store.read_range(&id, 0, 1), Err(BundleError::NotFound { .. })));
    assert!(matches!(store.verify(&id), Err(BundleError::NotFound { .. })));
    assert!(matches!(store.header(&id), Err(BundleError::NotFound { .. })));
    assert!(matches!(store.finish(&id, 100), Err(BundleError::NotBegun { .. })));
}

fn the_list_is_complete_and_sorted(store: &dyn BundleStore) {
    let mut expected: Vec<HeldBundle> = (0..40)
        .map(|i| HeldBundle { id: put(store, i, 64 + i as usize).0, bytes: 64 + u64::from(i) })
        .collect();
    expected.sort();
    assert_eq!(store.list().expect("list"), expected);
    assert!(store.space().expect("space").free_bytes > 0);
}

fn what_is_put_is_held_at_once(store: &dyn BundleStore) {
    let (id, content) = content(31, 3_000);
    store.put(&id, &content).expect("put");
    assert_eq!(store.read(&id).expect("read"), content);
    assert_eq!(store.list().expect("list"), [HeldBundle { id, bytes: 3_000 }]);
    assert_eq!(store.partials().expect("partials"), []);
    store.put(&id, &content).expect("put again");
    store.sync().expect("sync");
    store.verify(&id).expect("verify");
    let wrong = store.put(&BundleId::of(b"another"), &content);
    assert!(matches!(wrong, Err(BundleError::WrongDigest { .. })), "{wrong:?}");
    assert!(!store.contains(&BundleId::of(b"another")).expect("contains"));
    store.delete(&id).expect("delete");
    assert!(!store.contains(&id).expect("contains"));
}

use bundle::{FileTime, Form, Keyring, SigningKey, Totals, Xattr};
use proto_types::env::SystemRandom;
use proto_types::{DekId, Sequence};
use std::sync::Arc;

use super::*;
use crate::backup::previous::{Base, Head};
use crate::sources::Stat;

const LISTED: LogTime = LogTime::from_millis(1_000_000);
const OLD: Timestamp = Timestamp { seconds: 900, nanoseconds: 7 };
const A: BundleId = BundleId::from_bytes([0xa; 32]);
const B: BundleId = BundleId::from_bytes([0xb; 32]);

fn stat() -> Stat {
    Stat {
        size: 10,
        mode: 0o644,
        uid: 1,
        gid: 2,
        modified: OLD,
        changed: OLD,
        device: 3,
        inode: 4,
        links: 1,
    }
}

fn entry(path: &str) -> Entry {
    Entry { path: path.into(), kind: EntryKind::File, stat: stat(), place: Place::Config }
}

fn item(path: &str, bundle: BundleId, blob: u8) -> Item {
    let id = bundle::BlobId::from_bytes([blob; 32]);
    let location =
        Location::Config { bundle, dek: DekId::ZERO, offset: 16 + u64::from(blob), sealed_len: 84 };
    Item {
        key: ItemKey { source: "directory".into(), path: path.into() },
        kind: ItemKind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        modified: FileTime { seconds: 900, nanos: 7 },
        link_target: vec![],
        hard_link: None,
        xattrs: Vec::<Xattr>::new(),
        size: 10,
        content: vec![Piece::Blob { id, plain_len: 10, location }],
    }
}

fn previous(base: Vec<Item>, current: Vec<Item>) -> Previous {
    let kek = bundle::Kek::generate(&SystemRandom);
    let signing = SigningKey::generate(&SystemRandom);
    let keyring = Keyring::create(0, &kek, &signing, LogTime::ZERO, &SystemRandom);
    let manifest = |items: Vec<Item>| {
        Arc::new(Manifest {
            sequence: Sequence::new(1),
            key_bundle: A,
            form: Form::Full,
            totals: Totals::of(&items),
            items,
            proofs: vec![],
        })
    };
    let head = Head { sequence: Sequence::new(2), manifest: A, key_bundle: A, wraps: A };
    Previous {
        head,
        keyring: Arc::new(keyring),
        base: Base { id: A, manifest: manifest(base), dek: None },
        hints: vec![Some(Hint::of(&stat())); current.len()],
        current: manifest(current),
        needs: BTreeSet::new(),
        recovery: proto_types::KeyFingerprint::ZERO,
        is_absent: false,
    }
}

#[test]
fn survey_reuses_only_what_stood_still() {
    let same = previous(vec![], vec![item("a", A, 1), item("b", A, 2)]);
    let reuse = |entries: Vec<Entry>| Survey::make("directory", entries, Some(&same)).reuse;
    assert_eq!(reuse(vec![entry("a"), entry("b")]), [Some(0), Some(1)]);
    assert_eq!(reuse(vec![entry("b")]), [Some(1)]);
    assert_eq!(reuse(vec![entry("0"), entry("a"), entry("aa"), entry("c")])[1], Some(0));
    assert_eq!(Survey::make("other", vec![entry("a")], Some(&same)).reuse, [None]);
    assert_eq!(Survey::make("directory", vec![entry("a")], None).reuse, [None]);
    let moved = |change: fn(&mut Entry)| {
        let mut changed = entry("a");
        change(&mut changed);
        reuse(vec![changed])[0]
    };
    assert_eq!(moved(|_| {}), Some(0));
    assert_eq!(moved(|e| e.stat.size = 11), None);
    assert_eq!(moved(|e| e.stat.mode = 0o600), None);
    assert_eq!(moved(|e| e.stat.modified.nanoseconds = 8), None);
    assert_eq!(moved(|e| e.stat.changed.nanoseconds = 8), None);
    assert_eq!(moved(|e| e.stat.inode = 5), None);
    assert_eq!(moved(|e| e.kind = EntryKind::Symlink), None);
    // The patterns for keys changed: its content has to move into the key bundle.
    assert_eq!(moved(|e| e.place = Place::KeyBundle), None);
}

#[test]
fn survey_without_hints_still_knows_what_is_likely() {
    let mut forgot = previous(vec![item("a", A, 1)], vec![item("a", A, 1), item("b", B, 2)]);
    forgot.hints = vec![None; 2];
    let survey = Survey::make("directory", vec![entry("a"), entry("b")], Some(&forgot));
    assert_eq!(survey.reuse, [None, None]);
    assert_eq!(survey.changed().count(), 2);
    // Nothing but `b`, which the base lacks, would be in a delta.
    assert_eq!(delta_items(&[survey], &forgot), 1);
    let survey = Survey::make("directory", vec![entry("a")], Some(&forgot));
    let sizes = BTreeMap::from([(A, 1000), (B, 500)]);
    let usages = usages(&[survey], &forgot.current.items, &sizes);
    assert_eq!(usages[0], Usage { bundle: A, live: 100, total: 1000 });
    assert_eq!(usages[1], Usage { bundle: B, live: 0, total: 500 });
}

#[test]
fn survey_counts_each_item_of_a_delta_once() {
    let known = previous(
        vec![item("a", A, 1), item("b", A, 2), item("c", A, 3)],
        vec![item("a", A, 1), item("b", B, 9), item("d", B, 8)],
    );
    let entries = |paths: &[&str]| {
        vec![Survey::make("directory", paths.iter().map(|p| entry(p)).collect(), Some(&known))]
    };
    // Changed b, gone c and new d are in it already.
    assert_eq!(delta_items(&entries(&["a", "b", "d"]), &known), 3);
    assert_eq!(delta_items(&entries(&["a", "b", "d", "e"]), &known), 4);
    assert_eq!(delta_items(&entries(&["b", "d"]), &known), 4);
    assert!(is_unchanged(&entries(&["a", "b", "d"]), &known));
    assert!(!is_unchanged(&entries(&["a", "b"]), &known));
    assert!(!is_unchanged(&entries(&["a", "b", "d", "e"]), &known));
}

#[test]
fn survey_reads_again_what_is_in_repacked_bundles() {
    let known = previous(vec![], vec![item("a", A, 1), item("b", B, 2)]);
    let entries = vec![entry("a"), entry("b")];
    let mut survey = Survey::make("directory", entries, Some(&known));
    survey.read_again(&known.current.items, &BTreeSet::from([B]));
    assert_eq!(survey.reuse, [Some(0), None]);
    let blobs = known_blobs(&known.current.items, &BTreeSet::from([B]));
    assert_eq!(blobs.len(), 1);
    assert!(blobs.contains_key(&bundle::BlobId::from_bytes([1; 32])));
}

#[test]
fn hints_of_files_that_just_changed_prove_nothing() {
    let at = |millis: u64| Timestamp {
        seconds: (millis / 1000) as i64,
        nanoseconds: (millis % 1000) as u32 * 1_000_000,
    };
    assert!(is_settled(at(999_949), LISTED));
    assert!(!is_settled(at(999_950), LISTED));
    assert!(!is_settled(at(1_000_000), LISTED));
    assert!(!is_settled(at(2_000_000), LISTED));
}

#[test]
fn backup_does_not_trust_a_stamp_of_whole_seconds_too_soon() {
    let changed = |nanoseconds| Timestamp { seconds: 10, nanoseconds };
    assert!(!is_settled(changed(0), LogTime::from_millis(10_300)));
    assert!(!is_settled(changed(0), LogTime::from_millis(12_000)));
    assert!(is_settled(changed(0), LogTime::from_millis(12_001)));
    assert!(!is_settled(changed(1), LogTime::from_millis(10_050)));
    assert!(is_settled(changed(1), LogTime::from_millis(10_300)));
}

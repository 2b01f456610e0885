//! Manifests: round trips, validity, deltas and differences.

use bundle::{
    FileTime, Form, Item, ItemKey, ItemKind, Location, Manifest, ManifestError, OpenError, Piece,
    Proof, ProofState, SealError, Totals, Xattr, delta, diff, merge, open_manifest, seal_manifest,
};
use proptest::prelude::*;
use proto_types::{BundleId, BundleKind, Code, DekId, Sequence};

use crate::world::{Counting, World, header_of, identity, item};

/// A manifest whose stream is between three and four MiB; `tint` makes it another one.
pub(crate) fn large(world: &World, tint: u8) -> Manifest {
    let items: Vec<_> = (0..3300_u32)
        .map(|n| {
            let mut item = item(&format!("dir/{n:08}"), ItemKind::File, vec![]);
            let value = n.to_le_bytes().into_iter().chain([tint]).cycle().take(1024).collect();
            item.xattrs = vec![Xattr { name: b"user.pad".to_vec(), value }];
            item
        })
        .collect();
    Manifest { totals: Totals::of(&items), items, ..world.full.clone() }
}

pub(crate) fn seal(world: &World, sequence: u64, manifest: &Manifest) -> Vec<u8> {
    let keyring = &world.keyring;
    let (_, file) = seal_manifest(
        Vec::new(),
        keyring,
        &identity(sequence),
        BundleId::ZERO,
        manifest,
        &world.random,
    )
    .unwrap();
    file
}

#[test]
fn manifest_full_and_delta_round_trip() {
    let world = World::new(1);
    let full = open_manifest(&world.full_file, &world.keyring, &world.expect()).unwrap();
    assert_eq!(full.manifest, world.full);
    assert_eq!(full.file.id, world.full_id);
    assert_eq!(full.file.id, BundleId::of(&world.full_file));
    let delta = open_manifest(&world.delta_file, &world.keyring, &world.expect()).unwrap();
    assert_eq!(delta.file.id, world.delta_id);
    assert_eq!(delta.manifest.form.base(), world.full_id);
    let header = header_of(&world.delta_file);
    assert_eq!((header.base, header.predecessor), (world.full_id, world.full_id));
    assert_eq!(header.kind, BundleKind::Manifest);
    assert_eq!(header_of(&world.full_file).base, BundleId::ZERO);
    assert_eq!(header.dek_ids, [world.keyring.current_dek()]);
    let merged = merge(world.full_id, full.manifest, delta.manifest).unwrap();
    assert_eq!(merged, Manifest { form: Form::Full, ..world.second.clone() });
}

#[test]
fn manifest_over_one_record_round_trips() {
    let world = World::new(1);
    let manifest = large(&world, 1);
    let file = seal(&world, 1, &manifest);
    assert_eq!(header_of(&file).blob_count, 4);
    let opened = open_manifest(&file, &world.keyring, &world.expect()).unwrap();
    assert_eq!(opened.manifest, manifest);
    // An item longer than a record: a file of 64 GiB.
    let pieces = vec![Piece::Hole { len: 1 << 20 }; 1 << 16];
    let mut one = manifest;
    one.items =
        vec![item("big", ItemKind::File, [pieces, world.full.items[1].content.clone()].concat())];
    one.items.push(item("small", ItemKind::File, vec![]));
    one.items[0].xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![7; 3 << 20] }];
    one.totals = Totals::of(&one.items);
    let file = seal(&world, 1, &one);
    assert_eq!(header_of(&file).blob_count, 4);
    assert_eq!(open_manifest(&file, &world.keyring, &world.expect()).unwrap().manifest, one);
}

#[test]
fn manifest_of_nothing_round_trips() {
    let world = World::new(1);
    let empty =
        Manifest { items: vec![], totals: Totals::default(), proofs: vec![], ..world.full.clone() };
    let file = seal(&world, 1, &empty);
    assert_eq!(open_manifest(&file, &world.keyring, &world.expect()).unwrap().manifest, empty);
}

#[test]
fn manifest_tells_what_its_point_needs() {
    let world = World::new(1);
    assert_eq!(Vec::from_iter(world.full.config_bundles()), [world.config_id]);
    let needs = world.full.key_needs();
    assert_eq!(Vec::from_iter(needs.deks), [world.keyring.current_dek()]);
    assert_eq!(needs.secrets.len(), 2);
    assert_eq!(world.full.totals, Totals { items: 8, files: 6, bytes: (1 << 40) + 503 });
}

/// Invariant K1: neither names nor contents are to be seen in any file.
#[test]
fn invariant_k1_nothing_plain_is_in_the_files() {
    let world = World::new(1);
    let plain: [&[u8]; 9] = [
        b"map.yaml",
        b"etc/",
        b"unseal",
        b"files",
        b"user.a",
        b"nowhere",
        b"hunter2",
        b"ConfigMap",
        b"truncated",
    ];
    for (name, file) in world.files() {
        for text in plain {
            assert!(!file.windows(text.len()).any(|window| window == text), "{name}");
        }
        let seed = world.signing.to_text();
        let seed = seed.lines().find_map(|line| line.strip_prefix("seed ")).unwrap();
        assert!(!hex::encode(file).contains(seed), "{name}");
    }
}

#[test]
fn manifests_that_contradict_themselves_are_refused() {
    let world = World::new(1);
    type Change = fn(&mut Manifest);
    let items: [(&str, Change); 17] = [
        ("sizes", |manifest| manifest.items[1].size += 1),
        ("totals", |manifest| manifest.totals.bytes += 1),
        ("totals of files", |manifest| manifest.totals.files -= 1),
        ("order", |manifest| manifest.items.swap(0, 1)),
        ("twice", |manifest| manifest.items[1] = manifest.items[0].clone()),
        ("no source", |manifest| manifest.items[0].key.source.clear()),
        ("nanoseconds", |manifest| manifest.items[0].modified.nanos = 1_000_000_000),
        ("other kind", |manifest| manifest.items[7].kind = ItemKind::Other(4)),
        ("group zero", |manifest| manifest.items[0].hard_link = Some(0)),
        ("link target of a file", |manifest| manifest.items[1].link_target = b"x".to_vec()),
        ("no link target", |manifest| manifest.items[6].link_target.clear()),
        ("content of a directory", |manifest| manifest.items[1].kind = ItemKind::Directory),
        ("hole of nothing", |manifest| {
            manifest.items[7].content = vec![Piece::Hole { len: 0 }];
        }),
        ("xattrs out of order", |manifest| manifest.items[1].xattrs.reverse()),
        ("no key bundle", |manifest| manifest.key_bundle = BundleId::ZERO),
        ("proofs out of order", |manifest| manifest.proofs.push(manifest.proofs[0].clone())),
        ("sequence", |manifest| manifest.sequence = Sequence::new(0)),
    ];
    for (name, change) in items {
        let mut manifest = world.full.clone();
        change(&mut manifest);
        let error = manifest.check().unwrap_err();
        assert_eq!(error.code(), Code::Damaged, "{name}: {error}");
        let sealed = seal_manifest(
            Vec::new(),
            &world.keyring,
            &identity(manifest.sequence.get()),
            BundleId::ZERO,
            &manifest,
            &world.random,
        );
        assert!(matches!(sealed, Err(SealError::Manifest(_))), "{name}");
    }
    let sealed = seal_manifest(
        Vec::new(),
        &world.keyring,
        &identity(3),
        BundleId::ZERO,
        &world.full,
        &world.random,
    );
    assert!(matches!(sealed, Err(SealError::Manifest(ManifestError::Field { .. }))));
}

#[test]
fn manifest_pieces_stay_in_bounds() {
    let world = World::new(1);
    let place = |offset, sealed_len, plain_len| {
        let mut manifest = world.full.clone();
        let Piece::Blob { id, .. } = manifest.items[1].content[0] else { panic!() };
        let location = Location::Config {
            bundle: world.config_id,
            dek: DekId::from_bytes([1; 16]),
            offset,
            sealed_len,
        };
        manifest.items[1].content = vec![Piece::Blob { id, plain_len, location }];
        manifest.items[1].size = u64::from(plain_len);
        manifest.totals = Totals::of(&manifest.items);
        manifest.check()
    };
    place(16, 17, 1).unwrap();
    for (offset, sealed_len, plain_len) in [
        (15, 17, 1),
        (u64::MAX, 17, 1),
        (16, 16, 1),
        (16, u32::MAX, 1),
        (16, 17, 0),
        (16, 17, (16 << 20) + 1),
    ] {
        assert!(matches!(
            place(offset, sealed_len, plain_len),
            Err(ManifestError::Item { index: 1, .. })
        ));
    }
}

#[test]
fn deltas_merge_only_with_their_base() {
    let world = World::new(1);
    let change = delta(world.full_id, &world.full, world.second.clone()).unwrap();
    assert_eq!(change.items.len(), 2);
    assert!(matches!(&change.form, Form::Delta { removed, .. }
        if removed.len() == 1 && removed[0].path == b"keys/store"));
    let outcome = merge(world.delta_id, world.full.clone(), change.clone());
    assert!(matches!(outcome, Err(ManifestError::WrongBase { .. })));
    let outcome = merge(world.full_id, world.full.clone(), world.second.clone());
    assert!(matches!(outcome, Err(ManifestError::WrongForm { .. })));
    let outcome = merge(world.full_id, change.clone(), change.clone());
    assert!(matches!(outcome, Err(ManifestError::WrongForm { .. })));
    let outcome = delta(world.full_id, &change, world.second.clone());
    assert!(matches!(outcome, Err(ManifestError::WrongForm { .. })));
    // Not what the sealer had: an item less in the base, and one that was never there.
    let mut less = world.full.clone();
    less.items.remove(0);
    assert_eq!(merge(world.full_id, less, change.clone()), Err(ManifestError::Totals));
    let mut stranger = change;
    let Form::Delta { removed, .. } = &mut stranger.form else { panic!() };
    removed.push(ItemKey { source: "zzz".into(), path: vec![] });
    let outcome = merge(world.full_id, world.full.clone(), stranger);
    assert!(matches!(outcome, Err(ManifestError::Field { .. })));
}

#[test]
fn a_delta_says_when_only_a_place_changed() {
    let world = World::new(1);
    let mut moved = world.full.clone();
    moved.sequence = Sequence::new(2);
    let Piece::Blob { location: Location::Config { offset, .. }, .. } =
        &mut moved.items[1].content[0]
    else {
        panic!()
    };
    *offset += 1000;
    let change = delta(world.full_id, &world.full, moved.clone()).unwrap();
    assert_eq!(change.items, [moved.items[1].clone()]);
    // But nobody calls that a difference.
    assert_eq!(diff(&world.full.items, &moved.items), bundle::Diff::default());
}

#[test]
fn diff_tells_contents_from_metadata() {
    let world = World::new(1);
    let old = world.full.items.clone();
    let mut new = world.second.items.clone();
    new[1].mode = 0o700;
    let diff = diff(&old, &new);
    let paths = |items: &[&Item]| {
        items
            .iter()
            .map(|item| String::from_utf8_lossy(&item.key.path).into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(paths(&diff.added), ["added"]);
    assert_eq!(paths(&diff.removed), ["keys/store"]);
    let changed: Vec<_> = diff
        .changed
        .iter()
        .map(|change| {
            (
                String::from_utf8_lossy(&change.new.key.path).into_owned(),
                change.content,
                change.metadata,
            )
        })
        .collect();
    assert_eq!(
        changed,
        [("etc".to_owned(), false, true), ("etc/map.yaml".to_owned(), true, false),]
    );
}

#[test]
fn a_manifest_opens_only_with_the_keyring_of_its_point() {
    let world = World::new(1);
    let mut keyring = World::new(1).keyring;
    keyring.add_dek(proto_types::LogTime::ZERO, &Counting::new(8)).unwrap();
    keyring.retain_deks(&std::collections::BTreeSet::new());
    let outcome = open_manifest(&world.full_file, &keyring, &world.expect());
    assert!(matches!(outcome, Err(OpenError::UnknownDek(_))));
}

fn any_item() -> impl Strategy<Value = Item> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let piece = prop_oneof![
        (1..u64::MAX / 1000).prop_map(|len| Piece::Hole { len }),
        (any::<[u8; 32]>(), 1..1_000_000_u32, 0..3_u8, 16..u64::MAX / 4, 17..1_000_000_u32)
            .prop_map(|(id, plain_len, bundle, offset, sealed_len)| Piece::Blob {
                id: bundle::BlobId::from_bytes(id),
                plain_len,
                location: if bundle == 0 {
                    Location::Key
                } else {
                    Location::Config {
                        bundle: BundleId::from_bytes([bundle; 32]),
                        dek: DekId::from_bytes([bundle; 16]),
                        offset,
                        sealed_len,
                    }
                },
            }),
    ];
    let kind = prop_oneof![
        Just(ItemKind::File),
        Just(ItemKind::Directory),
        Just(ItemKind::Symlink),
        Just(ItemKind::Object),
        (5..u32::MAX).prop_map(ItemKind::Other)
    ];
    (
        ("[a-c]{1,2}", bytes(8), kind),
        any::<(u32, u32, u32, i64)>(),
        0..1_000_000_000_u32,
        prop::option::of(1..u64::MAX),
        (bytes(5), bytes(5)),
        prop::collection::vec(piece, 0..4),
    )
        .prop_map(
            |(
                (source, path, kind),
                (mode, uid, gid, seconds),
                nanos,
                hard_link,
                (name, value),
                content,
            )| {
                let bare = matches!(kind, ItemKind::Directory | ItemKind::Symlink);
                let content = if bare { vec![] } else { content };
                Item {
                    key: ItemKey { source, path },
                    kind,
                    mode,
                    uid,
                    gid,
                    modified: FileTime { seconds, nanos },
                    link_target: if kind == ItemKind::Symlink { b"to".to_vec() } else { vec![] },
                    hard_link,
                    xattrs: vec![Xattr { name, value }],
                    size: content.iter().map(Piece::plain_len).sum(),
                    content,
                }
            },
        )
}

fn any_manifest(sequence: u64) -> impl Strategy<Value = Manifest> {
    (prop::collection::vec(any_item(), 0..20), "[a-z ]{0,9}").prop_map(move |(mut items, why)| {
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items.dedup_by(|a, b| a.key == b.key);
        Manifest {
            sequence: Sequence::new(sequence),
            key_bundle: BundleId::from_bytes([1; 32]),
            form: Form::Full,
            totals: Totals::of(&items),
            items,
            proofs: vec![Proof { source: "a".into(), state: ProofState::Failed(why) }],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn manifest_round_trips_anything(old in any_manifest(1), new in any_manifest(2)) {
        let world = World::new(3);
        let open = |file: &[u8]| {
            open_manifest(file, &world.keyring, &world.expect()).unwrap().manifest
        };
        prop_assert_eq!(&open(&seal(&world, 1, &old)), &old);
        let base = BundleId::from_bytes([5; 32]);
        let change = delta(base, &old, new.clone()).unwrap();
        let change = open(&seal(&world, 2, &change));
        prop_assert_eq!(merge(base, old.clone(), change).unwrap(), new.clone());
        let found = diff(&old.items, &new.items);
        let both = old.items.iter().filter(|a| new.items.iter().any(|b| a.key == b.key)).count();
        prop_assert_eq!(found.removed.len() + both, old.items.len());
        prop_assert_eq!(found.added.len() + both, new.items.len());
    }
}

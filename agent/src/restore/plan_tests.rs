use bundle::{FileTime, Form, ItemKey, Proof, ProofState, Totals};
use proto_types::{BundleId, Sequence};

use super::*;
use crate::patterns::Patterns;

fn item(path: &[u8], kind: ItemKind) -> Item {
    Item {
        key: ItemKey { source: "directory".into(), path: path.to_vec() },
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: FileTime::default(),
        link_target: if kind == ItemKind::Symlink { b"x".to_vec() } else { vec![] },
        hard_link: None,
        xattrs: vec![],
        size: 0,
        content: vec![],
    }
}

fn manifest(items: Vec<Item>, sources: usize) -> Manifest {
    let proof = |n: usize| Proof { source: format!("s{n}"), state: ProofState::Proved };
    Manifest {
        sequence: Sequence::new(1),
        key_bundle: BundleId::ZERO,
        form: Form::Full,
        totals: Totals::of(&items),
        items,
        proofs: (0..sources).map(proof).collect(),
    }
}

fn selection(include: &[&str], exclude: &[&str]) -> Selection {
    Selection { include: Patterns::new(include).unwrap(), exclude: Patterns::new(exclude).unwrap() }
}

#[test]
fn plan_chooses_by_pattern_with_the_directories_above() {
    use ItemKind::{Directory, File};
    let point = manifest(
        vec![
            item(b"", Directory),
            item(b"a", Directory),
            item(b"a/b", Directory),
            item(b"a/b/f.yaml", File),
            item(b"a/g.txt", File),
            item(b"z", Directory),
        ],
        1,
    );
    let names = |include: &[&str], exclude: &[&str]| -> Vec<(String, bool)> {
        choose(&point, &selection(include, exclude))
            .unwrap()
            .into_iter()
            .map(|c| (String::from_utf8(c.path).unwrap(), c.parent_only))
            .collect()
    };
    assert_eq!(names(&[], &[]).len(), 6);
    assert!(names(&[], &[]).iter().all(|(_, parent_only)| !parent_only));
    let expected = [("", true), ("a", true), ("a/b", true), ("a/b/f.yaml", false)];
    let expected: Vec<(String, bool)> = expected.map(|(p, o)| (p.to_owned(), o)).into();
    assert_eq!(names(&["*.yaml"], &[]), expected);
    assert_eq!(names(&["a"], &["g.txt"])[1], ("a".to_owned(), false));
    assert!(!names(&["a"], &["g.txt"]).iter().any(|(p, _)| p == "a/g.txt"));
    let error = choose(&point, &selection(&["nothing"], &[])).unwrap_err();
    assert_eq!(error.code(), proto_types::Code::NothingMatches);
    // A point that holds only its root is restored whole.
    let empty = manifest(vec![item(b"", Directory)], 1);
    assert_eq!(choose(&empty, &Selection::default()).unwrap().len(), 1);
}

#[test]
fn plan_gives_each_of_several_sources_a_directory() {
    let item = item(b"x", ItemKind::File);
    let mut root = item.clone();
    root.key.path.clear();
    assert_eq!(target_path(&item, false), b"x");
    assert_eq!(target_path(&item, true), b"directory/x");
    assert_eq!(target_path(&root, true), b"directory");
    assert_eq!(target_path(&root, false), b"");
}

#[test]
fn plan_refuses_items_that_lead_outside() {
    use ItemKind::{Directory, File, Symlink};
    for path in [&b".."[..], b"../x", b"a/../../x", b"/etc/x", b"a//b", b"a/", b"./a", b"a\0b"] {
        let error = choose(&manifest(vec![item(path, File)], 1), &Selection::default());
        assert!(matches!(error, Err(RestoreError::UnsafeItem { .. })), "{path:?}");
    }
    for parent in [Symlink, File] {
        let tree = vec![item(b"", Directory), item(b"a", parent), item(b"a/b", File)];
        let error = choose(&manifest(tree, 1), &Selection::default());
        assert!(matches!(error, Err(RestoreError::UnsafeItem { .. })), "{parent:?}");
    }
    let future = manifest(vec![item(b"a", ItemKind::Other(9))], 1);
    assert!(matches!(
        choose(&future, &Selection::default()),
        Err(RestoreError::UnknownKind { index: 0 })
    ));
}

#[test]
fn plan_decides_by_policy() {
    use ConflictPolicy::{Fail, Overwrite, Skip};
    let all = [Skip, Overwrite, Fail];
    let decided = |observed, parent_only| all.map(|policy| decide(observed, policy, parent_only).0);
    assert_eq!(decided(Observed::Absent, false), [Action::Create; 3]);
    assert_eq!(decided(Observed::Same, false), [Action::Unchanged; 3]);
    let differs = [Action::Skip, Action::Overwrite, Action::Conflict];
    assert_eq!(decided(Observed::Content, false), differs);
    assert_eq!(decided(Observed::Attributes, false), differs);
    assert_eq!(decided(Observed::Other, false), differs);
    let never = [Action::Skip, Action::Conflict, Action::Conflict];
    assert_eq!(decided(Observed::FullDirectory, false), never);
    assert_eq!(decided(Observed::Special, false), never);
    let adjust = [Action::Skip, Action::Adjust, Action::Adjust];
    assert_eq!(decided(Observed::Times, false), adjust);
    assert_eq!(decided(Observed::EmptyTarget, false), adjust);
    assert_eq!(decided(Observed::RoundedTime, false), adjust);
    assert_eq!(decided(Observed::Unreadable, false), never);
    assert_eq!(decided(Observed::EmptyTarget, true), [Action::Unchanged; 3]);
    assert_eq!(decided(Observed::Times, true), [Action::Unchanged; 3]);
    assert_eq!(decided(Observed::Attributes, true), [Action::Unchanged; 3]);
    assert_eq!(decided(Observed::Other, true), differs);
}

#[test]
fn plan_does_not_write_beneath_what_stays_in_the_way() {
    let planned = |path: &str, action, reason| PlannedItem {
        path: path.as_bytes().to_vec(),
        kind: "file",
        action,
        reason,
        changes: Vec::new(),
        bytes: 1,
        parent_only: false,
        index: 0,
    };
    let mut items = vec![
        planned("", Action::Unchanged, Reason::Equal),
        planned("a", Action::Skip, Reason::OtherKind),
        planned("a/b", Action::Create, Reason::Absent),
        planned("a/b/c", Action::Create, Reason::Absent),
        planned("ab", Action::Create, Reason::Absent),
        planned("b", Action::Skip, Reason::ContentDiffers),
    ];
    block_children(&mut items);
    let actions: Vec<Action> = items.iter().map(|item| item.action).collect();
    use Action::{Create, Skip, Unchanged};
    assert_eq!(actions, [Unchanged, Skip, Skip, Skip, Create, Skip]);
    let totals = RestorePlan::new(items).totals;
    assert_eq!((totals.create, totals.skip, totals.bytes), (1, 4, 1));
}

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

fn source(
    path: &std::path::Path,
    keys: &[&str],
    include: &[&str],
    exclude: &[&str],
) -> DirectorySource {
    let config = DirectoryConfig {
        path: path.to_owned(),
        keys: Patterns::new(keys).unwrap(),
        include: Patterns::new(include).unwrap(),
        exclude: Patterns::new(exclude).unwrap(),
    };
    DirectorySource::open("directory", &config).unwrap()
}

fn paths(listing: &Listing) -> Vec<&[u8]> {
    listing.entries.iter().map(|entry| &entry.path[..]).collect()
}

#[test]
fn directory_lists_every_kind_sorted_without_following_links() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::create_dir_all(root.join("d/e")).unwrap();
    std::fs::write(root.join("d/e/file"), "x").unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"n\xffme")), "").unwrap();
    symlink("/", root.join("d/up")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, 0o600.into(), 0)
        .unwrap();

    let source = source(root, &["*.none", "d/e/*"], &[], &[]);
    let listing = source.list().unwrap();
    assert_eq!(
        paths(&listing),
        [&b""[..], b"d", b"d/e", b"d/e/file", b"d/up", b"dangling", b"n\xffme"]
    );
    let kinds: Vec<EntryKind> = listing.entries.iter().map(|entry| entry.kind).collect();
    use EntryKind::{Directory, File, Symlink};
    assert_eq!(kinds, [Directory, Directory, Directory, File, Symlink, Symlink, File]);
    assert_eq!(listing.troubles, [(Trouble::Special, b"fifo".to_vec())]);
    let secrets: Vec<bool> =
        listing.entries.iter().map(|entry| entry.place == Place::KeyBundle).collect();
    assert_eq!(secrets, [false, false, false, true, false, false, false]);
    assert_eq!(source.link_target(&listing.entries[5]).unwrap(), b"nowhere");
}

#[test]
fn directory_patterns_keep_the_directories_above() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for path in ["a/b/c", "a/x", "y"] {
        std::fs::create_dir_all(root.join(path)).unwrap();
        std::fs::write(root.join(path).join("f.yaml"), "1").unwrap();
        std::fs::write(root.join(path).join("f.tmp"), "1").unwrap();
    }
    let source = source(root, &[], &["*.yaml"], &["x", "y"]);
    assert_eq!(paths(&source.list().unwrap()), [&b""[..], b"a", b"a/b", b"a/b/c", b"a/b/c/f.yaml"]);
}

#[test]
fn directory_tells_what_vanished_and_what_was_swapped() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::create_dir(root.join("d")).unwrap();
    for name in ["d/a", "b", "c"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let source = source(root, &[], &[], &[]);
    let listing = source.list().unwrap();
    let entry = |path: &[u8]| listing.entries.iter().find(|e| e.path == path).unwrap();
    std::fs::remove_file(root.join("b")).unwrap();
    std::fs::remove_file(root.join("c")).unwrap();
    symlink("/etc/passwd", root.join("c")).unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    symlink("/etc", root.join("d")).unwrap();
    for path in [&b"b"[..], b"c"] {
        assert_eq!(source.open(entry(path)).err(), Some(ReadError::Vanished), "{path:?}");
    }
    assert!(source.open(entry(b"d/a")).is_err());
    assert_eq!(source.link_target(entry(b"b")), Err(ReadError::Vanished));
}

#[test]
fn directory_reads_extended_attributes() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("f");
    std::fs::write(&path, "x").unwrap();
    if xattr::set(&path, "user.b", b"2").is_err() {
        // A file system without them has nothing to test.
        return;
    }
    xattr::set(&path, "user.a", b"\x00\xff").unwrap();
    let source = source(temp.path(), &[], &[], &[]);
    let listing = source.list().unwrap();
    let attributes = source.attributes(&listing.entries[1]).unwrap();
    assert_eq!(
        attributes,
        [
            Attribute { name: b"user.a".to_vec(), value: vec![0, 255] },
            Attribute { name: b"user.b".to_vec(), value: b"2".to_vec() },
        ]
    );
    assert_eq!(source.attributes(&listing.entries[0]).unwrap(), []);
}

#[test]
fn directory_that_is_not_there_is_a_clear_error() {
    let config = DirectoryConfig {
        path: "/nowhere/at/all".into(),
        keys: Patterns::default(),
        include: Patterns::default(),
        exclude: Patterns::default(),
    };
    let error = DirectorySource::open("conf", &config).err().unwrap();
    assert!(error.to_string().contains("conf at /nowhere/at/all"), "{error}");
}

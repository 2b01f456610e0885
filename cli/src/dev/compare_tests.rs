use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::*;

/// A small tree with one of each kind.
fn make(root: &Path) {
    fs::create_dir(root).unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    fs::write(root.join("a"), "alpha").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("sub/b"), "beta").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8")), "x").unwrap();
    fs::hard_link(root.join("sub/b"), root.join("sub/c")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    for name in [&b"sub/b"[..], b"sub", b"a", b"empty", b"dangling", b"not-\xff-utf8"] {
        set_time(&root.join(std::ffi::OsStr::from_bytes(name)), 1_000);
    }
    set_time(root, 1_000);
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What the comparer says of a tree that `change` was done to.
fn after(change: impl FnOnce(&Path)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    make(&one);
    make(&two);
    change(&two);
    set_time(&two, 1_000);
    if two.join("sub").is_dir() {
        set_time(&two.join("sub"), 1_000);
    }
    let (one, two) = (Tree::read(&one).unwrap(), Tree::read(&two).unwrap());
    one.differences(&two).into_iter().map(|d| format!("{} {}", d.path, d.what)).collect()
}

#[test]
fn equal_trees_have_no_differences() {
    assert_eq!(after(|_| {}), [] as [&str; 0]);
}

#[test]
fn every_kind_of_difference_is_noticed() {
    let rewrite = |root: &Path, name: &str, text: &str| {
        fs::write(root.join(name), text).unwrap();
        set_time(&root.join(name), 1_000);
    };
    assert_eq!(after(|root| rewrite(root, "a", "alphA")), ["a has other bytes"]);
    assert_eq!(after(|root| rewrite(root, "a", "alph")), ["a has 4 bytes, not 5"]);
    assert_eq!(after(|root| fs::remove_file(root.join("a")).unwrap()), ["a is missing"]);
    assert_eq!(after(|root| rewrite(root, "new", "")), ["new should not be there"]);
    assert_eq!(
        after(|root| {
            fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4711)).unwrap();
        }),
        ["a has mode 4711, not 644"]
    );
    assert_eq!(
        after(|root| set_time(&root.join("a"), 1_001)),
        ["a was modified at 1001.000000005, not 1000.000000005"]
    );
    assert_eq!(
        after(|root| set_time(&root.join("dangling"), 1_001)),
        ["dangling was modified at 1001.000000005, not 1000.000000005"]
    );
    assert_eq!(
        after(|root| {
            fs::remove_file(root.join("dangling")).unwrap();
            symlink("elsewhere", root.join("dangling")).unwrap();
            set_time(&root.join("dangling"), 1_000);
        }),
        ["dangling points to elsewhere, not to nowhere"]
    );
    assert_eq!(
        after(|root| {
            fs::remove_file(root.join("a")).unwrap();
            symlink("alpha", root.join("a")).unwrap();
        }),
        ["a is a symbolic link, not a file"]
    );
    assert_eq!(
        after(|root| {
            fs::remove_file(root.join("sub/c")).unwrap();
            rewrite(root, "sub/c", "beta");
        }),
        ["sub/b is hard-linked otherwise", "sub/c is hard-linked otherwise"]
    );
    assert_eq!(
        after(|root| {
            fs::remove_file(root.join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8"))).unwrap();
        }),
        ["not-\\xff-utf8 is missing"]
    );
    assert_eq!(
        after(|root| {
            fs::remove_dir_all(root.join("sub")).unwrap();
            rewrite(root, "sub", "");
        }),
        ["sub is a file, not a directory", "sub/b is missing", "sub/c is missing"]
    );
}

#[test]
fn the_roots_own_attributes_count() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    make(&one);
    make(&two);
    set_time(&two, 1_001);
    let differences = Tree::read(&one).unwrap().differences(&Tree::read(&two).unwrap());
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].path, "the root");
}

#[test]
fn extended_attributes_are_compared_where_the_file_system_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let probe = directory.path().join("probe");
    fs::write(&probe, "").unwrap();
    if xattr::set(&probe, "user.probe", b"1").is_err() {
        return;
    }
    let found = after(|root| xattr::set(root.join("a"), "user.note", b"kept").unwrap());
    assert_eq!(found, ["a has other extended attributes"]);
}

#[test]
fn holes_read_as_zeros_and_special_files_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    for (root, sparse) in [(&one, true), (&two, false)] {
        fs::create_dir(root).unwrap();
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(root.join("f")).unwrap();
        if sparse {
            file.seek(SeekFrom::Start(3 << 20)).unwrap();
        } else {
            file.write_all(&vec![0; 3 << 20]).unwrap();
        }
        file.write_all(b"end").unwrap();
        set_time(&root.join("f"), 1_000);
        set_time(root, 1_000);
    }
    rustix::fs::mknodat(
        CWD,
        two.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    set_time(&two, 1_000);
    let (one, two) = (Tree::read(&one).unwrap(), Tree::read(&two).unwrap());
    assert_eq!(one.differences(&two), []);
    assert_eq!((one.skipped(), two.skipped()), (0, 1));
    assert_eq!(one.smallest_file(), Some(PathBuf::from("f")));
}

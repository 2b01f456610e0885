//! Trees of files that hold everything a directory can, and the comparison of two of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Everything at once: odd names, links of all kinds, holes, modes, times, attributes, secrets.
pub(crate) fn rich(root: &Path) {
    fs::create_dir_all(root.join("conf/deep/er")).unwrap();
    fs::create_dir_all(root.join("secrets")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    write(root, "conf/a.yaml", b"kind: ConfigMap\nname: a\n");
    write(root, "conf/deep/er/b.yaml", &b"kind: Secret\n".repeat(200));
    write(root, "conf/zero", b"");
    write(root, "secrets/unseal.key", b"s3cr3t-unseal-share");
    write(root, "secrets/empty.key", b"");
    fs::write(root.join(OsStr::from_bytes(b"n\xff\xfe \n me")), b"odd").unwrap();
    fs::create_dir(root.join(OsStr::from_bytes(b"d\x80r"))).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"d\x80r/x")), b"in odd").unwrap();
    symlink("conf/a.yaml", root.join("link")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"/etc/\xff"), root.join("odd-link")).unwrap();
    fs::hard_link(root.join("conf/a.yaml"), root.join("hard")).unwrap();
    fs::hard_link(root.join("conf/a.yaml"), root.join("conf/deep/hard2")).unwrap();
    let mut sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(3 << 20)).unwrap();
    sparse.write_all(b"data in the middle").unwrap();
    sparse.set_len(9 << 20).unwrap();
    drop(sparse);
    write(root, "big", &noise(2_500_000, 1));
    mode(root, "conf/a.yaml", 0o640);
    mode(root, "conf/zero", 0o4755);
    mode(root, "big", 0o400);
    mode(root, "secrets", 0o700);
    mode(root, "empty", 0o1777);
    let _ = xattr::set(root.join("big"), "user.origin", b"\x00bin\xff");
    let _ = xattr::set(root.join("empty"), "user.dir", b"");
    times(root, "conf/zero", 981_173_106, 123_456_789);
    times(root, "conf", 1_000_000_000, 5);
    times(root, "empty", 0, 0);
    set_mtime(&root.join("big"), UNIX_EPOCH - Duration::from_secs(1000));
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn write(root: &Path, path: &str, bytes: &[u8]) {
    fs::write(root.join(path), bytes).unwrap();
}

pub(crate) fn mode(root: &Path, path: &str, mode: u32) {
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn times(root: &Path, path: &str, seconds: u64, nanos: u32) {
    set_mtime(&root.join(path), UNIX_EPOCH + Duration::new(seconds, nanos));
}

fn set_mtime(path: &Path, time: std::time::SystemTime) {
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// One line per entry that says all that is compared.
pub(crate) fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut lines = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let content = if meta.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                pending.push(path.join(entry.unwrap().file_name()));
            }
            "directory".to_owned()
        } else if meta.is_symlink() {
            let target = fs::read_link(&full).unwrap().into_os_string().into_vec();
            format!("-> {:?}", OsStr::from_bytes(&target))
        } else {
            let bytes = fs::read(&full).unwrap();
            format!("{} {}", bytes.len(), proto_types::BundleId::of(&bytes).short())
        };
        let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
        if !meta.is_symlink() {
            for name in xattr::list(&full).unwrap() {
                let value = xattr::get(&full, &name).unwrap().unwrap();
                attributes.push((name.to_string_lossy().into_owned(), value));
            }
        }
        attributes.sort();
        // In the order of paths, so that both trees name the same leader.
        links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
        let group = if meta.nlink() > 1 && meta.is_file() { meta.nlink() } else { 1 };
        lines.insert(
            path,
            format!(
                "{content} {:o} {}:{} {}.{} {attributes:?} links {group}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            ),
        );
    }
    lines
}

/// Fails with the first differences.
pub(crate) fn assert_equal(left: &Path, right: &Path) {
    let (left, right) = (describe(left), describe(right));
    let mut wrong = Vec::new();
    for path in left.keys().chain(right.keys()) {
        let (l, r) = (left.get(path), right.get(path));
        if l != r && wrong.len() < 5 {
            wrong.push(format!("{path:?}:\n  {l:?}\n  {r:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! The product's own story, told without a person by `strongroom dev --once`, on real and on
//! nasty input. What the story claims is compared here once more, by code of its own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::binary::workspace;
use tests::skip::{kube_prometheus, say, skip};
use tests::tree::{Tree, assert_same};
use tests::{Cli, gate};

use crate::restart::noise;

/// Tells the story on a directory, and compares what it gives back.
async fn tell(source: &Path) {
    let _place = gate::enter().await;
    let directory = TempDir::new().expect("a directory can be made");
    let (out, state) = (directory.path().join("out"), directory.path().join("state"));
    let before = Tree::read(source);
    let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let arguments: [String; 8] = [
        "dev".to_owned(),
        "--once".to_owned(),
        "--source".to_owned(),
        text(source),
        "--restore-to".to_owned(),
        text(&out),
        "--data".to_owned(),
        text(&state),
    ];
    let done = Cli::alone().run(&arguments).await;
    if done.exit != 0 {
        let kept = directory.keep();
        panic!("exit {}, kept in {}:\n{}{}", done.exit, kept.display(), done.stdout, done.stderr);
    }
    assert_same(&before, &Tree::read(source));
    assert_same(&before, &Tree::read(&out));
    for name in ["coordinator-1", "coordinator-2", "coordinator-3", "agent", "operator"] {
        let is_destroyed = name == "agent";
        assert!(is_destroyed || state.join(name).is_dir(), "STATE has no {name}");
    }
}

#[tokio::test]
async fn story_once_on_kube_prometheus() {
    let source = kube_prometheus().unwrap_or_else(|| {
        skip("story_once_on_kube_prometheus", "../shared/data/kube-prometheus is missing");
        say("story_once_on_kube_prometheus runs on deploy/examples instead");
        workspace().join("deploy/examples")
    });
    tell(&source).await;
}

fn file(directory: &Path, name: &[u8], content: &[u8], mode: u32) -> PathBuf {
    let path = directory.join(OsString::from_vec(name.to_vec()));
    std::fs::write(&path, content).expect("made");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode is set");
    path
}

#[tokio::test]
async fn story_once_on_a_nasty_directory() {
    let directory = TempDir::new().expect("a directory can be made");
    let root = directory.path().join("nasty");
    std::fs::create_dir(&root).expect("made");
    std::fs::create_dir_all(root.join("empty/very/empty")).expect("made");
    file(&root, b"zero", b"", 0o644);
    file(&root, b"not utf-8 \xff\xfe\x80", b"bytes are bytes", 0o600);
    file(&root, b"new\nline and \ttab", b"odd", 0o644);
    file(&root, b"-rf *", b"odd", 0o644);
    file(&root, &[b'n'; 255], b"a long name", 0o644);
    file(&root, b"set-id", b"", 0o6755);
    file(&root, b"nobody", b"mode 000", 0o000);
    file(&root, b"20 mebibytes", &noise(20 << 20, 41), 0o640);
    file(&root, b"exactly one piece", &noise(1 << 20, 42), 0o640);
    file(&root, b"one byte more", &noise((1 << 20) + 1, 43), 0o640);
    let sparse = std::fs::File::create(root.join("sparse")).expect("made");
    sparse.write_all_at(b"island", 9 << 20).expect("written");
    sparse.set_len(30 << 20).expect("made longer");
    drop(sparse);
    let link = file(&root, b"linked", b"one file, three names", 0o644);
    std::fs::hard_link(&link, root.join("empty/also linked")).expect("linked");
    std::fs::hard_link(&link, root.join("a third name")).expect("linked");
    symlink("nowhere/at/all", root.join("dangling")).expect("linked");
    symlink("/etc/passwd", root.join("absolute")).expect("linked");
    symlink("../../..", root.join("empty/up")).expect("linked");
    symlink("loop", root.join("loop")).expect("linked");
    symlink(OsString::from_vec(vec![0xff, b'x']), root.join("odd target")).expect("linked");
    let marked = file(&root, b"marked", b"with attributes", 0o644);
    if xattr::set(&marked, "user.colour", b"blue\0\xff").is_err() {
        say("story_once_on_a_nasty_directory: this file system keeps no extended attributes");
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1, 999_999_999);
    let times = std::fs::FileTimes::new().set_modified(old);
    std::fs::File::options()
        .write(true)
        .open(root.join("zero"))
        .and_then(|file| file.set_times(times))
        .expect("a time is set");
    std::fs::set_permissions(root.join("empty/very"), std::fs::Permissions::from_mode(0o1777))
        .expect("a mode is set");
    tell(&root).await;
}

#[tokio::test]
async fn story_once_on_an_empty_directory() {
    let directory = TempDir::new().expect("a directory can be made");
    tell(directory.path()).await;
}

#[tokio::test]
async fn story_once_on_a_file_of_200_mebibytes() {
    let directory = TempDir::new().expect("a directory can be made");
    // Half of it repeats, so that both ways of a big file are gone.
    let mut content = noise(100 << 20, 44);
    content.extend_from_within(..);
    std::fs::write(directory.path().join("big"), content).expect("made");
    tell(directory.path()).await;
}

#[tokio::test]
async fn story_once_on_20_000_small_files() {
    let directory = TempDir::new().expect("a directory can be made");
    for number in 0..20_000_u64 {
        let folder = directory.path().join(format!("{:02x}", number % 200));
        if number < 200 {
            std::fs::create_dir(&folder).expect("made");
        }
        let content = format!("kind: ConfigMap\nnumber: {number}\nvalue: {:x}\n", number * 7919);
        std::fs::write(folder.join(format!("{number}.yaml")), content).expect("made");
    }
    tell(directory.path()).await;
}

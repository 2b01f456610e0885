//! A restore by somebody who is not root, of what only root could back up: files that not even
//! their owner may read. The restore runs in a process of its own under another user.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use agent::export::{ExportPointStore, write_export};
use agent::heads::KnownHeads;
use agent::point_store::PointSelector;
use agent::progress::NoProgress;
use agent::restore::{ConflictPolicy, Reason};
use agent::{OpenedPoint, Opener};
use proto::env::Env;
use proto_types::Code;

use crate::story::{Story, options, plan, restore};
use crate::tree;

/// Tells the process under the other user where it works.
const PLACE: &str = "STRONGROOM_TEST_UNPRIVILEGED";
const NOBODY: u32 = 65_534;
const CLOSED: [&str; 5] = ["closed", "closed-too", "empty", "write-only", "secrets/key"];

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_may_read_are_compared_without_root() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can read the files of mode 0000 that are backed up here, nor change user.
        return;
    }
    let mut story = Story::begin().await;
    let source = story.source();
    std::fs::create_dir(source.join("secrets")).unwrap();
    tree::write(&source, "closed", &tree::noise(2_500_000, 5));
    std::fs::hard_link(source.join("closed"), source.join("closed-too")).unwrap();
    tree::write(&source, "empty", b"");
    tree::write(&source, "write-only", b"appended to");
    tree::write(&source, "secrets/key", b"s3cr3t");
    tree::write(&source, "open", b"to all");
    let _ = xattr::set(source.join("closed"), "user.origin", b"\x00bin");
    for path in CLOSED {
        tree::mode(&source, path, 0);
    }
    tree::mode(&source, "write-only", 0o200);
    story.backup().await;

    let place = story.path("nobody");
    std::fs::create_dir(&place).unwrap();
    let store = story.store(PointSelector::Newest).await;
    let export = place.join("point.strongroom");
    write_export(&store, &export, &story.env, Arc::new(NoProgress)).await.unwrap();
    std::fs::copy(story.path("state/kek.key"), place.join("kek.key")).unwrap();
    for path in [export, place.join("kek.key"), place.clone()] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // The way there: a temporary directory is its maker's alone.
    std::fs::set_permissions(story.temp.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "unprivileged::restores_as_somebody_else"])
        .env(PLACE, &place)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    // Root sees that they are right indeed.
    for path in CLOSED.into_iter().chain(["open"]) {
        let (from, to) = (source.join(path), place.join("to").join(path));
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap(), "{path}");
        let (from, to) = (from.metadata().unwrap(), to.metadata().unwrap());
        assert_eq!((from.mode(), from.mtime_nsec()), (to.mode(), to.mtime_nsec()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_as_somebody_else() {
    // A part of the test above, which runs it as somebody else.
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    let env = Env::system();
    let opener = Opener::from_kek_file(&place.join("kek.key")).unwrap();
    let file = place.join("point.strongroom");
    let store = Arc::new(ExportPointStore::open(&file, &env).await.unwrap());
    let mut heads = KnownHeads::nothing();
    let point = OpenedPoint::open(store, &opener, &mut heads, &env).await.unwrap();
    let to = place.join("to");
    let report = restore(&point, &options(&to)).await.unwrap();
    assert!(!report.owners);
    assert_eq!(report.compared, point.manifest().totals.items);

    // Again: what may not be read is neither called equal nor overwritten.
    let closed = |path: &Path| std::fs::File::open(path).is_err();
    assert!(CLOSED.iter().all(|path| closed(&to.join(path))));
    let overwrite =
        agent::restore::RestoreOptions { on_conflict: ConflictPolicy::Overwrite, ..options(&to) };
    let again = plan(&point, &overwrite).await;
    let conflicts: Vec<_> = again.conflicts().map(|item| item.reason).collect();
    assert_eq!(conflicts, [Reason::Unreadable; CLOSED.len()]);
    assert_eq!(restore(&point, &overwrite).await.unwrap_err().code(), Code::Conflict);
    // One that is readable all the same, and changed only in its mode: compared before it closes.
    std::fs::set_permissions(to.join("write-only"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    let part = agent::restore::RestoreOptions {
        include: agent::patterns::Patterns::new(&["write-only"]).unwrap(),
        ..overwrite
    };
    let report = restore(&point, &part).await.unwrap();
    assert_eq!((report.totals.overwrite, report.bytes_written), (1, 0));
    assert!(closed(&to.join("write-only")));
}

use proto_types::env::SystemRandom;

use super::*;

#[test]
fn invariant_p1_what_changed_since_the_safety_copy_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let open = || Target::open(temp.path(), Rights { owners: false }, &SystemRandom).unwrap();
    let name = b"file";
    let stat = || {
        let found = std::fs::File::open(temp.path().join("file")).unwrap();
        crate::sources::directory::stat(&rustix::fs::fstat(&found).unwrap())
    };
    std::fs::write(temp.path().join("file"), "kept").unwrap();
    let kept = HashMap::from([(name.to_vec(), Kept::of(&stat()))]);
    let mut target = open();
    target.keep(kept.clone());
    let temporary = target.temporary_name(name);
    target.begin_file(name, 0).unwrap();
    target.rename(name, &temporary, true).unwrap();
    assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"");
    drop(target);

    std::fs::write(temp.path().join("file"), "written meanwhile").unwrap();
    let mut target = open();
    target.keep(kept);
    let temporary = target.temporary_name(name);
    target.begin_file(name, 0).unwrap();
    let refused = target.rename(name, &temporary, true);
    assert!(matches!(refused, Err(RestoreError::TargetChanged { .. })));
    drop(target);
    assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"written meanwhile");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left behind");
}

/// A target that holds `file` with "kept", which is in the safety file, and the restored one
/// under its temporary name.
struct Scene {
    temp: tempfile::TempDir,
    target: Target,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "kept").unwrap();
        let mut target =
            Target::open(temp.path(), Rights { owners: false }, &SystemRandom).unwrap();
        let raw = rustix::fs::statat(target.root.fd(), "file", AtFlags::SYMLINK_NOFOLLOW);
        let kept = Kept::of(&crate::sources::directory::stat(&raw.unwrap()));
        target.keep(HashMap::from([(b"file".to_vec(), kept)]));
        std::io::Write::write_all(&mut target.begin_file(b"file", 0).unwrap(), b"restored")
            .unwrap();
        Self { temp, target }
    }

    fn file(&self) -> PathBuf {
        self.temp.path().join("file")
    }

    /// The second half of a replacement, after the check was passed.
    fn exchange(&self) -> Result<(), RestoreError> {
        let (parent, name) = self.target.parent(b"file").unwrap();
        self.target.exchange(&parent, name, &self.target.temporary_name(b"file"), b"file")
    }

    fn take_away(&self) -> Result<(), RestoreError> {
        let (parent, name) = self.target.parent(b"file").unwrap();
        self.target.take_away(&parent, name, b"file")
    }

    /// Names in the directory once the restore has ended.
    fn left(self) -> Vec<String> {
        drop(self.target);
        let entries = std::fs::read_dir(self.temp.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// What somebody does between the check and the rename.
type Injected = (&'static str, fn(&Path));

fn injected() -> Vec<Injected> {
    vec![
        ("another length", |file| std::fs::write(file, "written").unwrap()),
        ("the same length", |file| {
            std::fs::write(file, "tpek").unwrap();
            // As a clock that has gone on sets it.
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
            std::fs::File::open(file).unwrap().set_modified(later).unwrap();
        }),
        ("another file", |file| {
            std::fs::write(file.with_extension("new"), "kept").unwrap();
            std::fs::rename(file.with_extension("new"), file).unwrap();
        }),
        ("a link", |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink("elsewhere", file).unwrap();
        }),
        ("a directory with contents", |file| {
            std::fs::remove_file(file).unwrap();
            std::fs::create_dir(file).unwrap();
            std::fs::write(file.join("precious"), "x").unwrap();
        }),
    ]
}

#[test]
fn invariant_p1_what_changes_between_check_and_rename_is_not_lost() {
    for (what, inject) in injected() {
        for in_one_step in [true, false] {
            let scene = Scene::new();
            inject(&scene.file());
            let describe = || {
                let meta = std::fs::symlink_metadata(scene.file()).unwrap();
                let read = std::fs::read(scene.file()).ok();
                (std::os::unix::fs::MetadataExt::ino(&meta), meta.modified().unwrap(), read)
            };
            let before = describe();
            let done = if in_one_step { scene.exchange() } else { scene.take_away() };
            let changed = matches!(done, Err(RestoreError::TargetChanged { .. }));
            assert!(changed, "{what}, {in_one_step}: {done:?}");
            assert_eq!(describe(), before, "{what}, {in_one_step}");
            assert_eq!(scene.left(), ["file"], "{what}, {in_one_step}");
        }
    }
}

#[test]
fn what_did_not_change_is_replaced_and_what_is_gone_is_no_loss() {
    for gone in [false, true] {
        let scene = Scene::new();
        if gone {
            std::fs::remove_file(scene.file()).unwrap();
        }
        scene.exchange().unwrap();
        assert_eq!(std::fs::read(scene.file()).unwrap(), b"restored");
        assert_eq!(scene.left(), ["file"]);
    }
    let scene = Scene::new();
    scene.take_away().unwrap();
    assert!(scene.left().is_empty());
}

#[test]
fn only_a_directory_is_replaced_without_a_safety_copy() {
    let mut scene = Scene::new();
    scene.target.keep(HashMap::new());
    let temporary = scene.target.temporary_name(b"file");
    let refused = scene.target.rename(b"file", &temporary, true);
    assert!(matches!(refused, Err(RestoreError::TargetChanged { .. })), "{refused:?}");
    assert_eq!(std::fs::read(scene.file()).unwrap(), b"kept");
    std::fs::remove_file(scene.file()).unwrap();
    std::fs::create_dir(scene.file()).unwrap();
    scene.target.rename(b"file", &temporary, true).unwrap();
    assert_eq!(std::fs::read(scene.file()).unwrap(), b"restored");
    assert_eq!(scene.left(), ["file"]);
}

#[test]
fn a_time_is_excused_only_if_what_was_set_came_back_rounded() {
    let seconds = |seconds: i64, nanoseconds: u32| Timestamp { seconds, nanoseconds };
    let item = Item {
        key: bundle::ItemKey { source: "directory".to_owned(), path: b"file".to_vec() },
        kind: ItemKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: bundle::FileTime { seconds: 1_000_000_001, nanos: 987_654_321 },
        link_target: Vec::new(),
        hard_link: None,
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    };
    for (read_back, excused) in [
        (seconds(1_000_000_001, 987_654_300), true),
        (seconds(1_000_000_001, 987_654_000), true),
        (seconds(1_000_000_001, 987_000_000), true),
        (seconds(1_000_000_001, 0), true),
        (seconds(1_000_000_002, 0), true),
        (seconds(1_000_000_000, 0), true),
        // Exact needs no excuse; a time that is no step, or too far, is no rounding.
        (seconds(1_000_000_001, 987_654_321), false),
        (seconds(1_000_000_001, 500_000_001), false),
        (seconds(1_000_000_003, 0), false),
        (seconds(1_000_000_004, 0), false),
        (seconds(999_999_998, 0), false),
        (seconds(315_532_800, 0), false),
    ] {
        let scene = Scene::new();
        scene.target.note_time(b"file", &item, read_back);
        let excuse = Excuse { modified: Some(read_back), ..Excuse::default() };
        let expected = excused.then_some(excuse);
        let found = scene.target.excuses().remove(&b"file"[..]);
        assert_eq!(found, expected, "{read_back:?}");
    }
    // Another name of the file has the same time.
    let scene = Scene::new();
    let random = &SystemRandom;
    let (kek, signing) = (bundle::Kek::generate(random), bundle::SigningKey::generate(random));
    let now = proto_types::LogTime::ZERO;
    let keyring = Keyring::create(1, &kek, &signing, now, random);
    scene.target.note_time(b"file", &item, seconds(1_000_000_000, 0));
    scene.target.hard_link(b"file", b"other", &item, &keyring, false).unwrap();
    let excuses = scene.target.excuses();
    assert_eq!(excuses.get(&b"other"[..]), excuses.get(&b"file"[..]));
    assert_eq!(excuses.len(), 2);
    // What is set on a file system that does not round is read back exact.
    let scene = Scene::new();
    scene.target.set_times(b"file", &item).unwrap();
    assert!(scene.target.excuses().is_empty());
}

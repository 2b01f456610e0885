//! Damage that no crash explains, at every byte: of the log at or before the marker it is refused,
//! after it cut off; HOME, snapshots and marker never turn into something else in silence.

use std::path::{Path, PathBuf};

use proto_types::{Code, FleetId, NodeId};
use storage::disk::Disk;
use storage::disk::sim::SimDisk;
use storage::home::{DataDir, HomeError, HomeIdentity};
use storage::log::LogError;
use storage::raft_log::RaftLogStore;

use crate::world::{
    Content, HOME, Step, content_of, handed_in, home, home_path, identity, open_log, reopen,
    segments,
};

/// Does the steps and stops like a killed process: nothing is closed, the marker stays behind
/// unless a step settles it.
fn written(steps: &[Step]) -> (SimDisk, Content) {
    let disk = SimDisk::new();
    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    let mut content = Content::default();
    for step in steps {
        step.perform(&mut log, &content).unwrap();
        content = step.after(&content);
    }
    assert_eq!(content_of(&log).unwrap(), content);
    (disk.fork(), content)
}

const SETTLED: &[Step] = &[
    Step::Vote(3),
    Step::Append(3, 2, 20),
    Step::Append(3, 1, 120),
    Step::TruncateFrom(2),
    Step::Append(4, 2, 40),
    Step::Vote(5),
    Step::Settle,
];

/// The last byte of a file that is not one of the zeros it was preallocated with.
fn used_bytes(disk: &SimDisk, path: &Path) -> usize {
    disk.content(path).unwrap().iter().rposition(|b| *b != 0).unwrap() + 1
}

fn log_error(disk: &SimDisk) -> LogError {
    let dir = home(disk).unwrap();
    match open_log(&dir) {
        Err(error) => error,
        Ok(log) => panic!("it opened: {:?}", content_of(&log)),
    }
}

#[test]
fn log_damage_at_any_byte_before_the_marker_is_refused_with_file_offset_and_remedy() {
    let (disk, content) = written(SETTLED);
    let files = segments(&disk);
    assert_eq!(files.len(), 2, "the story fills one segment and begins another");
    for path in &files {
        for offset in 0..used_bytes(&disk, path) {
            let damaged = disk.fork();
            damaged.flip_bit(path, offset as u64, (offset % 8) as u8).unwrap();
            let error = log_error(&damaged);
            // The fleet, node and version in a header are under its checksum, too.
            let text = error.to_string();
            assert!(matches!(error, LogError::Damaged { .. }), "byte {offset}: {text}");
            assert_eq!(error.code(), Code::Damaged);
            assert!(text.contains(&*path.to_string_lossy()), "{text}");
            assert!(text.contains("at byte"), "{text}");
            assert!(text.contains("rejoin as a new node"), "{text}");
        }
    }
    assert_eq!(reopen(&disk).unwrap(), content);
}

#[test]
fn log_cut_short_anywhere_before_the_marker_is_refused() {
    let (disk, _) = written(SETTLED);
    for path in segments(&disk) {
        let whole = disk.content(&path).unwrap();
        for length in 0..used_bytes(&disk, &path) {
            let damaged = disk.fork();
            damaged.overwrite(&path, &whole[..length]).unwrap();
            assert!(matches!(log_error(&damaged), LogError::Damaged { .. }), "cut at {length}");
        }
    }
}

#[test]
fn log_zeroed_from_anywhere_before_the_marker_is_refused() {
    let (disk, _) = written(SETTLED);
    for path in segments(&disk) {
        let whole = disk.content(&path).unwrap();
        for from in 0..used_bytes(&disk, &path) {
            let damaged = disk.fork();
            let mut content = whole.clone();
            content[from..].fill(0);
            damaged.overwrite(&path, &content).unwrap();
            assert!(matches!(log_error(&damaged), LogError::Damaged { .. }), "zeros from {from}");
        }
    }
}

#[test]
fn log_tail_torn_at_any_byte_of_the_last_batch_is_cut_off_and_the_log_goes_on() {
    let mut steps = vec![Step::Vote(3), Step::Append(3, 2, 20), Step::Settle];
    let (before_disk, before) = written(&steps);
    steps.push(Step::Append(5, 2, 30));
    let (disk, after) = written(&steps);
    let path = segments(&disk).pop().unwrap();
    let start = used_bytes(&before_disk, &path).next_multiple_of(8);
    let end = used_bytes(&disk, &path);
    assert!(end > start + 56, "the last batch stands in the last segment");
    let whole = disk.content(&path).unwrap();
    for at in start..end {
        let mut cut = whole.clone();
        cut.truncate(at);
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        let mut garbled = whole.clone();
        garbled[at] ^= 0x40;
        let mut rest_garbled = whole.clone();
        rest_garbled[at..end].iter_mut().for_each(|b| *b ^= 0xa5);
        for (how, content) in
            [("cut", cut), ("zeroed", zeroed), ("garbled", garbled), ("noise", rest_garbled)]
        {
            let torn = disk.fork();
            torn.overwrite(&path, &content).unwrap();
            let found = reopen(&torn).unwrap();
            assert_eq!(found, before, "{how} at {at}");
            // What was cut off does not come back behind what is written next.
            let dir = home(&torn).unwrap();
            let mut log = open_log(&dir).unwrap();
            let step = Step::Append(6, 1, 4);
            step.perform(&mut log, &found).unwrap();
            drop((log, dir));
            assert_eq!(reopen(&torn).unwrap(), step.after(&found), "{how} at {at}");
        }
    }
    assert_eq!(reopen(&disk).unwrap(), after, "untouched, it is all there");
}

#[test]
fn log_damage_before_the_last_batch_is_refused_although_the_marker_is_behind() {
    // No settling: only the last batch itself says that the one before it was durable.
    let (earlier, _) = written(&[Step::Append(1, 1, 20)]);
    let (disk, _) = written(&[Step::Append(1, 1, 20), Step::Append(1, 1, 30)]);
    let path = segments(&disk).pop().unwrap();
    for offset in 64..used_bytes(&earlier, &path) {
        let damaged = disk.fork();
        damaged.flip_bit(&path, offset as u64, 5).unwrap();
        match log_error(&damaged) {
            LogError::Damaged { what, .. } => assert!(what.contains("a later frame"), "{what}"),
            other => panic!("byte {offset}: {other}"),
        }
    }
}

#[test]
fn log_a_vote_has_no_window_in_which_damage_looks_like_a_torn_tail() {
    // Nothing follows it and nobody settles: the marker went with the vote.
    let (disk, _) = written(&[Step::Append(1, 1, 20), Step::Vote(2)]);
    let path = segments(&disk).pop().unwrap();
    for offset in 64..used_bytes(&disk, &path) {
        let damaged = disk.fork();
        damaged.flip_bit(&path, offset as u64, 3).unwrap();
        assert!(matches!(log_error(&damaged), LogError::Damaged { .. }), "byte {offset}");
    }
}

#[test]
fn log_a_missing_segment_marker_or_directory_is_refused_and_never_begun_anew() {
    let (disk, _) = written(SETTLED);
    for path in segments(&disk) {
        let damaged = disk.fork();
        damaged.remove(&path).unwrap();
        match log_error(&damaged) {
            LogError::Missing { path: missing } => assert_eq!(missing, path),
            other => panic!("{other}"),
        }
    }
    let without_marker = disk.fork();
    without_marker.remove(Path::new("/home/log/MARKER")).unwrap();
    let error = home(&without_marker).unwrap_err();
    assert!(matches!(error, HomeError::Log(LogError::Missing { .. })), "{error}");
    assert_eq!(error.code(), Code::Damaged);

    // The directory as a whole, as if somebody had deleted it: on the real disk.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home");
    let real = || std::sync::Arc::new(storage::disk::RealDisk);
    drop(DataDir::create(real(), &path, identity()).unwrap());
    std::fs::remove_dir_all(path.join("log")).unwrap();
    let error = DataDir::open_or_create(real(), &path, identity()).unwrap_err();
    assert!(matches!(error, HomeError::Log(LogError::Missing { .. })), "{error}");
}

#[test]
fn log_a_damaged_marker_costs_nothing_while_the_other_slot_reads() {
    let (disk, content) = written(SETTLED);
    let marker = PathBuf::from("/home/log/MARKER");
    for offset in (0..64).chain(4096..4096 + 64) {
        let damaged = disk.fork();
        damaged.flip_bit(&marker, offset, 2).unwrap();
        assert_eq!(reopen(&damaged).unwrap(), content, "byte {offset}");
    }
    let both = disk.fork();
    both.flip_bit(&marker, 20, 0).unwrap();
    both.flip_bit(&marker, 4096 + 20, 0).unwrap();
    assert!(matches!(log_error(&both), LogError::Damaged { .. }));
}

#[test]
fn log_of_another_node_or_a_newer_program_is_refused() {
    let (disk, _) = written(SETTLED);
    let other = HomeIdentity { fleet: FleetId::from_bytes([8; 16]), node: NodeId::new(1) };
    let foreign = SimDisk::new();
    drop(DataDir::create(handed_in(&foreign), home_path(), other).unwrap());
    let path = segments(&disk).remove(0);
    let swapped = disk.fork();
    swapped.overwrite(&path, &foreign.content(&path).unwrap()).unwrap();
    let error = log_error(&swapped);
    assert!(matches!(error, LogError::WrongIdentity { .. }), "{error}");
    assert_eq!(error.code(), Code::WrongFleet);

    let newer = disk.fork();
    let mut content = disk.content(&path).unwrap();
    content[8] = 2;
    let checksum = crc32c::crc32c(&content[..60]).to_le_bytes();
    content[60..64].copy_from_slice(&checksum);
    newer.overwrite(&path, &content).unwrap();
    let error = log_error(&newer);
    assert!(matches!(error, LogError::UnsupportedVersion { found: 2, .. }), "{error}");
}

#[test]
fn home_damaged_at_any_byte_is_refused() {
    let (disk, _) = written(&[]);
    let file = PathBuf::from("/home/HOME");
    let whole = disk.content(&file).unwrap();
    for offset in 0..whole.len() {
        let damaged = disk.fork();
        damaged.flip_bit(&file, offset as u64, 0).unwrap();
        let error = home(&damaged).unwrap_err();
        let is_clear =
            matches!(error, HomeError::Damaged { .. } | HomeError::UnsupportedVersion { .. });
        assert!(is_clear, "byte {offset}: {error}");
        let cut = disk.fork();
        cut.overwrite(&file, &whole[..offset]).unwrap();
        assert!(matches!(home(&cut).unwrap_err(), HomeError::Damaged { .. }), "cut at {offset}");
    }
}

#[test]
fn home_refusals_say_what_to_do() {
    let (disk, _) = written(&[]);
    let open = |identity| DataDir::open(handed_in(&disk), home_path(), identity);
    let (fleet, node) = (identity().fleet, identity().node);

    let kept = open(identity()).unwrap();
    let error = open(identity()).unwrap_err();
    assert!(matches!(error, HomeError::InUse { .. }), "{error}");
    assert_eq!(error.code(), Code::Busy);
    drop(kept);

    let stranger = HomeIdentity { fleet: FleetId::from_bytes([9; 16]), node };
    assert_eq!(open(stranger).unwrap_err().code(), Code::WrongFleet);
    let sibling = HomeIdentity { fleet, node: NodeId::new(2) };
    let error = open(sibling).unwrap_err();
    assert!(error.to_string().contains("belongs to node 1 of fleet 0707"), "{error}");

    let again = DataDir::create(handed_in(&disk), home_path(), identity()).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);

    let orphaned = disk.fork();
    orphaned.remove(Path::new("/home/HOME")).unwrap();
    let error = home(&orphaned).unwrap_err();
    assert!(matches!(error, HomeError::Orphaned { part: "log", .. }), "{error}");

    let nothing = DataDir::open(handed_in(&SimDisk::new()), home_path(), identity()).unwrap_err();
    assert!(matches!(nothing, HomeError::NotInitialised { .. }), "{nothing}");

    let newer = disk.fork();
    let text = String::from_utf8(disk.content(Path::new("/home/HOME")).unwrap()).unwrap();
    newer
        .overwrite(Path::new("/home/HOME"), text.replace("version 1", "version 3").as_bytes())
        .unwrap();
    let error = home(&newer).unwrap_err();
    assert!(matches!(error, HomeError::UnsupportedVersion { found: 3, .. }), "{error}");
    assert!(error.to_string().contains(HOME), "{error}");

    let odd = text.replace("upgrade none", "upgrade from 2 to 1");
    let body = odd.len() - "crc32c 00000000\n".len();
    let odd = format!("{}crc32c {:08x}\n", &odd[..body], crc32c::crc32c(&odd.as_bytes()[..body]));
    newer.overwrite(Path::new("/home/HOME"), odd.as_bytes()).unwrap();
    let error = home(&newer).unwrap_err();
    assert!(matches!(error, HomeError::UnknownUpgrade { .. }), "{error}");
    assert!(error.to_string().contains("from 2 to 1"), "{error}");
}

#[test]
fn home_lock_is_held_for_as_long_as_the_log_is_open() {
    let (disk, _) = written(&[]);
    let log: RaftLogStore = open_log(&home(&disk).unwrap()).unwrap();
    assert!(matches!(home(&disk).unwrap_err(), HomeError::InUse { .. }));
    drop(log);
    home(&disk).unwrap();
}

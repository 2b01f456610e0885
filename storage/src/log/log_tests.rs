use proto_types::{FleetId, NodeId};

use super::frame::{self, FrameKind};
use super::marker::{self, Mark, Marker};
use super::*;
use crate::disk::sim::SimDisk;

fn owner() -> HomeIdentity {
    HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(3) }
}

#[test]
fn log_bytes_of_version_1_are_frozen() {
    assert_eq!(
        hex::encode(segment::header(5, owner())),
        "535257414c534547010000000000000007070707070707070707070707070707030000000000000005000000000000000000000000000000000000001739b390"
    );
    let records = [
        Record { kind: RecordKind::Vote, index: 0, payload: b"vote!".to_vec() },
        Record { kind: RecordKind::Entry, index: 9, payload: b"entry".to_vec() },
    ];
    let position = Position { segment: 5, offset: 64 };
    let durable = Position { segment: 4, offset: 800 };
    let (bytes, offsets) =
        frame::encode(FrameKind::Batch, position, durable, &[&records[0], &records[1]]);
    assert_eq!(offsets, [56, 85]);
    assert_eq!(
        hex::encode(&bytes),
        "53525746010100000500000000000000400000000000000004000000000000002003000000000000400000000200000081166e140000000005000000020000000000000000000000d96ef42f00000000766f74652105000000010000000900000000000000c34676f800000000656e747279000000000000"
    );
    let parsed = frame::parse(&bytes, position).unwrap();
    assert_eq!(parsed.kind, FrameKind::Batch);
    assert_eq!(parsed.durable, durable);
    assert_eq!(parsed.bytes, bytes.len());
    let found: Vec<_> = parsed.records.iter().map(|(r, _)| (r.kind, r.index, r.payload)).collect();
    assert_eq!(
        found,
        [(RecordKind::Vote, 0, &b"vote!"[..]), (RecordKind::Entry, 9, &b"entry"[..])]
    );
    let (seal, _) = frame::encode(FrameKind::Seal, position, position, &[]);
    assert_eq!(
        hex::encode(seal),
        "5352574601020000050000000000000040000000000000000500000000000000400000000000000000000000000000009652e3f100000000"
    );
}

#[test]
fn log_marker_bytes_of_version_1_are_frozen() {
    let disk = SimDisk::new();
    let dir = Path::new("/");
    marker::create(&disk, dir).unwrap();
    let mut marker = Marker::open(&disk, dir).unwrap();
    let durable = Position { segment: 5, offset: 800 };
    marker.write(Mark { first_segment: 2, durable }).unwrap();
    let content = disk.content(&marker::path(dir)).unwrap();
    assert_eq!(content.len(), 8192);
    assert_eq!(
        hex::encode(&content[..64]),
        "535257414c4d524b01000000000000000200000000000000020000000000000005000000000000002003000000000000000000000000000000000000b1ba5951"
    );
    assert_eq!(
        hex::encode(&content[4096..4160]),
        "535257414c4d524b01000000000000000100000000000000010000000000000001000000000000004000000000000000000000000000000000000000a54c04f1"
    );
    assert_eq!(Marker::open(&disk, dir).unwrap().mark(), Mark { first_segment: 2, durable });
}

#[test]
fn log_a_frame_is_valid_only_whole_and_only_in_its_place() {
    let record = Record { kind: RecordKind::Entry, index: 1, payload: vec![3; 21] };
    let position = Position { segment: 1, offset: 64 };
    let (bytes, _) = frame::encode(FrameKind::Batch, position, position, &[&record]);
    assert!(frame::parse(&bytes, position).is_some());
    assert!(frame::parse(&bytes, Position { segment: 1, offset: 72 }).is_none());
    assert!(frame::parse(&bytes, Position { segment: 2, offset: 64 }).is_none());
    for length in 0..bytes.len() {
        assert!(frame::parse(&bytes[..length], position).is_none(), "cut at {length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(frame::parse(&flipped, position).is_none(), "bit {bit}");
    }
}

#[test]
fn log_files_without_a_segments_name_are_no_segments() {
    for (name, number) in [
        ("00000000000000ff.wal", Some(255)),
        ("00000000000000FF.wal", None),
        ("ff.wal", None),
        ("00000000000000ff.wal.tmp", None),
        ("MARKER", None),
    ] {
        assert_eq!(segment::number(std::ffi::OsStr::new(name)), number, "{name}");
    }
}

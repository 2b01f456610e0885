use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::raft_types::log_id as id;

fn membership_of_three() -> Membership {
    let members: BTreeMap<u64, Member> = (1..=3)
        .map(|n| (n, Member { name: format!("c{n}"), address: format!("10.0.0.{n}:7400") }))
        .collect();
    Membership::new(vec![BTreeSet::from([1, 2])], members).unwrap()
}

#[test]
fn codec_entries_of_every_payload_come_back_equal() {
    for payload in [
        EntryPayload::Blank,
        EntryPayload::Normal(Command::new(&b"\x01\x02\x03"[..])),
        EntryPayload::Normal(Command::default()),
        EntryPayload::Membership(membership_of_three()),
    ] {
        let entry = Entry { log_id: id(3, 2, 900), payload };
        assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
    }
}

#[test]
fn codec_bytes_of_version_1_are_frozen() {
    let entry = Entry {
        log_id: id(3, 2, 900),
        payload: EntryPayload::Normal(Command::new(&b"\xaa\xbb"[..])),
    };
    assert_eq!(hex::encode(encode_entry(&entry)), "010a0708031002188407".to_owned() + "1a02aabb");
    let vote = Vote { leader_id: LeaderId { term: 5, node_id: 7 }, committed: true };
    assert_eq!(hex::encode(encode_vote(&vote)), "01080510071801");
    assert_eq!(hex::encode(encode_log_id(&id(1, 2, 3))), "01080110021803");
    let stored = StoredMembership::new(Some(id(1, 2, 3)), membership_of_three());
    assert_eq!(
        hex::encode(encode_stored_membership(&stored)),
        "010a0608011002180312\
         4b0a040a020102\
         12150801120263311a0d31302e302e302e313a37343030\
         12150802120263321a0d31302e302e302e323a37343030\
         12150803120263331a0d31302e302e302e333a37343030"
    );
    assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)).unwrap(), stored);
}

#[test]
fn codec_snapshot_meta_comes_back_equal_also_when_empty() {
    let full = SnapshotMeta {
        last_log_id: Some(id(1, 2, 3)),
        last_membership: StoredMembership::new(Some(id(1, 1, 1)), membership_of_three()),
    };
    for meta in [full, SnapshotMeta::default()] {
        assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&meta)).unwrap(), meta);
    }
}

#[test]
fn codec_newer_empty_and_broken_bytes_are_refused() {
    assert_eq!(decode_vote(&[]), Err(CodecError::Empty { what: "vote" }));
    assert_eq!(
        decode_vote(&[2, 8, 5]),
        Err(CodecError::UnsupportedVersion { what: "vote", found: 2 })
    );
    assert!(matches!(decode_entry(&[1, 0xff]), Err(CodecError::Malformed { .. })));
    assert_eq!(decode_entry(&[1]), Err(CodecError::Field { what: "log entry", field: "payload" }));
}

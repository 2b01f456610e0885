use super::*;
use crate::raft_types::log_id;

#[test]
fn snapshots_bytes_of_version_1_are_frozen() {
    let meta = SnapshotMeta { last_log_id: Some(log_id(2, 1, 300)), ..SnapshotMeta::default() };
    assert_eq!(
        hex::encode(header(&meta, FleetId::from_bytes([7; 16]))),
        "5352534e41505348010000000e00000007070707070707070707070707070707010a070802100118ac02120212004f52da99"
    );
    assert_eq!(
        hex::encode(trailer(4096, SnapshotDigest([9; 32]))),
        "0010000000000000090909090909090909090909090909090909090909090909090909090909090900000000e69108475352534e4150454e"
    );
}

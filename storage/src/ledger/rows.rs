//! The bytes of the ledger's keys and values. Every value begins with a version byte; ids in keys
//! keep their order.

use proto_types::{BundleId, LeaseId, LogTime};

use super::{BundleRow, RepairReason, RepairRow, UploadClaim};

const ROW_VERSION: u8 = 1;

// version bytes:u64 scrubbed:u64, where 0 is never: nothing was ever scrubbed in 1970
pub(super) fn encode_bundle(row: BundleRow) -> Vec<u8> {
    let scrubbed = row.last_scrubbed.map_or(0, LogTime::as_millis);
    [&[ROW_VERSION][..], &row.bytes.to_le_bytes(), &scrubbed.to_le_bytes()].concat()
}

pub(super) fn decode_bundle(value: &[u8]) -> Option<BundleRow> {
    let [bytes, scrubbed] = numbers(value)?;
    let last_scrubbed = (scrubbed != 0).then_some(LogTime::from_millis(scrubbed));
    Some(BundleRow { bytes, last_scrubbed })
}

pub(super) fn claim_key(lease: &LeaseId, bundle: &BundleId) -> Vec<u8> {
    [&lease.as_bytes()[..], bundle.as_bytes()].concat()
}

// version bytes:u64
pub(super) fn encode_claim(claim: UploadClaim) -> Vec<u8> {
    [&[ROW_VERSION][..], &claim.bytes.to_le_bytes()].concat()
}

pub(super) fn decode_claim(key: &[u8], value: &[u8]) -> Option<UploadClaim> {
    let (lease, bundle) = key.split_at_checked(LeaseId::LEN)?;
    let [bytes] = numbers(value)?;
    Some(UploadClaim {
        lease: LeaseId::from_slice(lease).ok()?,
        bundle: BundleId::from_slice(bundle).ok()?,
        bytes,
    })
}

// version reason:u64 since:u64
pub(super) fn encode_repair(row: RepairRow) -> Vec<u8> {
    let reason: u64 = match row.reason {
        RepairReason::Missing => 1,
        RepairReason::Damaged => 2,
    };
    [&[ROW_VERSION][..], &reason.to_le_bytes(), &row.since.as_millis().to_le_bytes()].concat()
}

pub(super) fn decode_repair(key: &[u8], value: &[u8]) -> Option<RepairRow> {
    let [reason, since] = numbers(value)?;
    let reason = match reason {
        1 => RepairReason::Missing,
        2 => RepairReason::Damaged,
        _ => return None,
    };
    let bundle = BundleId::from_slice(key).ok()?;
    Some(RepairRow { bundle, reason, since: LogTime::from_millis(since) })
}

fn numbers<const N: usize>(value: &[u8]) -> Option<[u64; N]> {
    let (version, rest) = value.split_first()?;
    if *version != ROW_VERSION || rest.len() != N * 8 {
        return None;
    }
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(rest.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    Some(numbers)
}

//! What is encoded of acts that wait, in requests and in the state.

use prost::Message;
use proto_types::{LogIndex, LogTime};

use super::DecodeError;
use super::wire::{At, WireId, id, present};
use crate::delayed::{ActDelay, DecideAct, DelayedAct, DelayedRow, RequestAct, SetActDelay};

const WHAT: &str = "act that waits";

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAct {
    /// 1 delete a cluster, 2 shorten the delay.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "3")]
    delay_ms: u64,
}

impl WireAct {
    fn put(act: &DelayedAct) -> Self {
        let empty = Self::default();
        match act {
            DelayedAct::DeleteCluster { cluster } => {
                Self { kind: 1, cluster: cluster.put(), ..empty }
            }
            DelayedAct::ShortenDelay { delay_ms } => Self { kind: 2, delay_ms: *delay_ms, ..empty },
        }
    }

    fn get(wire: Self) -> Result<DelayedAct, DecodeError> {
        let at = At(WHAT, "act");
        let act = match wire.kind {
            1 => DelayedAct::DeleteCluster { cluster: id(at, &wire.cluster)? },
            2 => DelayedAct::ShortenDelay { delay_ms: wire.delay_ms },
            _ => return Err(at.invalid()),
        };
        // Fields that mean nothing for this kind must not be there.
        if Self::put(&act) == wire { Ok(act) } else { Err(at.invalid()) }
    }
}

pub(super) fn put_request(command: &RequestAct) -> WireAct {
    WireAct::put(&command.what)
}

pub(super) fn get_request(wire: WireAct) -> Result<RequestAct, DecodeError> {
    Ok(RequestAct { what: WireAct::get(wire)? })
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct WireDecideAct {
    #[prost(uint64, tag = "1")]
    act: u64,
    #[prost(bool, tag = "2")]
    approve: bool,
}

pub(super) fn put_decide(command: DecideAct) -> WireDecideAct {
    WireDecideAct { act: command.act.get(), approve: command.approve }
}

pub(super) fn get_decide(wire: WireDecideAct) -> DecideAct {
    DecideAct { act: LogIndex::new(wire.act), approve: wire.approve }
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct WireDelay {
    #[prost(uint64, tag = "1")]
    delay_ms: u64,
    #[prost(bool, tag = "2")]
    floor: bool,
}

pub(super) fn put_set(command: SetActDelay) -> WireDelay {
    WireDelay { delay_ms: command.delay_ms, floor: command.floor }
}

pub(super) fn get_set(wire: WireDelay) -> SetActDelay {
    SetActDelay { delay_ms: wire.delay_ms, floor: wire.floor }
}

pub(super) fn put_delay(delay: ActDelay) -> WireDelay {
    WireDelay { delay_ms: delay.delay_ms, floor: delay.has_floor }
}

pub(super) fn get_delay(wire: WireDelay) -> ActDelay {
    ActDelay { delay_ms: wire.delay_ms, has_floor: wire.floor }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireActRow {
    #[prost(uint64, tag = "1")]
    act: u64,
    #[prost(message, optional, tag = "2")]
    what: Option<WireAct>,
    #[prost(string, tag = "3")]
    requested_by: String,
    #[prost(uint64, tag = "4")]
    requested_ms: u64,
    #[prost(string, optional, tag = "5")]
    approved_by: Option<String>,
    #[prost(uint64, tag = "6")]
    due_ms: u64,
}

pub(super) fn put_row(act: LogIndex, row: &DelayedRow) -> WireActRow {
    WireActRow {
        act: act.get(),
        what: Some(WireAct::put(&row.what)),
        requested_by: row.requested_by.clone(),
        requested_ms: row.requested.as_millis(),
        approved_by: row.approved_by.clone(),
        due_ms: row.due.as_millis(),
    }
}

pub(super) fn get_row(wire: WireActRow) -> Result<(LogIndex, DelayedRow), DecodeError> {
    let row = DelayedRow {
        what: WireAct::get(present(At(WHAT, "act"), wire.what)?)?,
        requested_by: wire.requested_by,
        requested: LogTime::from_millis(wire.requested_ms),
        approved_by: wire.approved_by,
        due: LogTime::from_millis(wire.due_ms),
    };
    Ok((LogIndex::new(wire.act), row))
}

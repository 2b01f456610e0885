//! Reads that are many calls and one act: the first is recorded before it is answered, those that
//! follow soon are part of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use coordinator_core::Actor;
use proto_types::ClusterId;

/// A reader of the same cluster's data is recorded again after this time.
const SAME_MS: u64 = 10 * 60 * 1000;
/// Readers remembered at one time. One more and all are forgotten, which costs them an entry each.
const READERS_MAX: usize = 4096;

/// Who read what of late, through this node.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    readers: Mutex<BTreeMap<(Actor, ClusterId), u64>>,
}

impl Recent {
    /// Whether this read has yet to be recorded.
    pub(crate) fn is_new(&self, actor: &Actor, cluster: ClusterId, now_ms: u64) -> bool {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers
            .get(&(actor.clone(), cluster))
            .is_none_or(|at| now_ms.saturating_sub(*at) >= SAME_MS)
    }

    /// Notes that it was recorded.
    pub(crate) fn note(&self, actor: Actor, cluster: ClusterId, now_ms: u64) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() >= READERS_MAX {
            readers.clear();
        }
        readers.insert((actor, cluster), now_ms);
    }
}

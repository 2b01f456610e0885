//! What metrics say of Raft itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use proto_types::NodeId;

use super::node::RaftNode;
use crate::telemetry;

/// What a leader knows of its followers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LeaderFigures {
    /// How long ago a majority last acknowledged that it leads; `None` before the first time.
    pub(crate) quorum_ack_age: Option<Duration>,
    /// Entries that each other member is behind.
    pub(crate) lag: BTreeMap<NodeId, u64>,
}

impl RaftNode {
    /// Of this node, if it leads.
    pub(crate) fn leader_figures(&self) -> LeaderFigures {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.unwrap_or_default().into_iter();
        let lag =
            replication.filter(|(node, _)| *node != self.this.get()).map(|(node, matched)| {
                (NodeId::new(node), last.saturating_sub(matched.map_or(0, |id| id.index())))
            });
        LeaderFigures {
            quorum_ack_age: metrics.last_quorum_acked.map(|at| at.elapsed()),
            lag: lag.collect(),
        }
    }
}

/// Counts elections, each once: its votes are asked for peer by peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Elections {
    last_term: Arc<AtomicU64>,
}

impl Elections {
    /// A vote is asked for in this term.
    pub(super) fn asks(&self, term: u64) {
        if self.last_term.fetch_max(term, Ordering::Relaxed) < term {
            telemetry::election_started(term);
        }
    }
}

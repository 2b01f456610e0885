//! Who takes over when the leader stops as planned. A choice over plain numbers, so that it can be
//! tested without a fleet.

use std::time::Duration;

use proto_types::NodeId;

/// What the leader knows of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Follower {
    pub(super) node: NodeId,
    pub(super) is_voter: bool,
    /// Last index of its log that is known to be the leader's; `None` when nothing is known.
    pub(super) matched: Option<u64>,
    /// How long ago it last answered; `None` when it never did.
    pub(super) silent: Option<Duration>,
}

/// The voter with the longest log, of those that answered within `patience`; of equals the one
/// that answered last. One that is behind must first catch up, and one that does not answer lets
/// the fleet wait for an election, which is what handing over is to spare it.
pub(super) fn successor(
    followers: impl IntoIterator<Item = Follower>,
    patience: Duration,
) -> Option<NodeId> {
    followers
        .into_iter()
        .filter(|follower| follower.is_voter)
        .filter_map(|f| Some((f.matched?, f.silent.filter(|silent| *silent <= patience)?, f.node)))
        .min_by_key(|(matched, silent, node)| (std::cmp::Reverse(*matched), *silent, *node))
        .map(|(_, _, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(node: u64, matched: u64, silent_ms: u64) -> Follower {
        Follower {
            node: NodeId::new(node),
            is_voter: true,
            matched: Some(matched),
            silent: Some(Duration::from_millis(silent_ms)),
        }
    }

    fn choose(followers: &[Follower]) -> Option<u64> {
        successor(followers.iter().copied(), Duration::from_millis(600)).map(NodeId::get)
    }

    #[test]
    fn the_longest_log_among_reachable_voters_takes_over() {
        let learner = Follower { is_voter: false, ..follower(9, 999, 0) };
        let unknown = Follower { matched: None, ..follower(8, 0, 0) };
        let unheard = Follower { silent: None, ..follower(7, 999, 0) };
        for (followers, expected) in [
            (vec![follower(2, 10, 50), follower(3, 12, 100)], Some(3)),
            (vec![follower(2, 12, 50), follower(3, 10, 0)], Some(2)),
            // Silent for too long, whatever it had.
            (vec![follower(2, 10, 50), follower(3, 12, 601)], Some(2)),
            (vec![follower(2, 10, 600)], Some(2)),
            // Of equals, the one heard of last.
            (vec![follower(2, 12, 90), follower(3, 12, 10)], Some(3)),
            (vec![learner, unknown, unheard, follower(2, 1, 0)], Some(2)),
            (vec![learner, unknown, unheard], None),
            (vec![], None),
        ] {
            assert_eq!(choose(&followers), expected, "{followers:?}");
        }
    }
}

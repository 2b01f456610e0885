//! Whose disk is slow, and whether the leader's is so slow that another should lead: over the
//! figures that every coordinator gives of its own log.

use std::collections::BTreeMap;

use proto_types::NodeId;
use storage::log::SyncFigure;

/// A disk is slow when the median of its log's syncs takes at least this,
const SLOW_MICROS: u64 = 100_000;
/// and this many times what the fastest other voter's takes.
const SLOW_RATIO: u64 = 4;
/// Of fewer syncs in the last seconds nothing is said,
const SYNCS_MIN: u32 = 5;
/// unless they take this long: a disk that hangs ends none.
const HANGS_MICROS: u64 = 1_000_000;
/// It counts when it has lasted this long, and is over when it was not so for as long.
pub(super) const LASTS_MS: u64 = 10_000;
/// Between two moves of leadership by this node: a fleet must not be led in circles.
pub(super) const MOVE_EVERY_MS: u64 = 3 * 60 * 1000;

/// What is known of a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Voter {
    /// Of its log, as it told in the last seconds.
    pub(super) syncs: SyncFigure,
    /// Whether it answers and has all but the last entries.
    pub(super) is_ready: bool,
}

fn known(voter: &Voter) -> Option<u64> {
    let SyncFigure { recent, median_micros, .. } = voter.syncs;
    (recent >= SYNCS_MIN || median_micros >= HANGS_MICROS).then_some(median_micros)
}

/// Whether the disk of `node` is slow beside the fastest of the others; `None` where too little
/// is known of it or of them.
pub(super) fn is_slow(node: NodeId, voters: &BTreeMap<NodeId, Voter>) -> Option<bool> {
    let own = known(voters.get(&node)?)?;
    let others = voters.iter().filter(|(other, _)| **other != node);
    let fastest = others.filter_map(|(_, voter)| known(voter)).min()?;
    Some(own >= SLOW_MICROS && own >= fastest.saturating_mul(SLOW_RATIO))
}

/// Who should lead in the place of `leader`, whose disk is slow: the voter with the fastest disk,
/// of those that are ready. Only where those that are ready and not slow are a majority, for with
/// fewer every write waits for a slow disk whoever leads.
pub(super) fn better(leader: NodeId, voters: &BTreeMap<NodeId, Voter>) -> Option<NodeId> {
    let fit = voters.iter().filter(|(node, voter)| {
        **node != leader && voter.is_ready && is_slow(**node, voters) == Some(false)
    });
    let mut fit: Vec<_> = fit.map(|(node, voter)| (voter.syncs.median_micros, *node)).collect();
    fit.sort_unstable();
    (fit.len() > voters.len() / 2).then(|| fit.first().map(|(_, node)| *node)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(median_millis: u64) -> Voter {
        let median_micros = median_millis * 1000;
        let syncs = SyncFigure { recent: 5, median_micros, p99_micros: median_micros };
        Voter { syncs, is_ready: true }
    }

    fn unknown() -> Voter {
        Voter { syncs: SyncFigure { recent: 4, ..voter(1).syncs }, is_ready: true }
    }

    fn hangs() -> Voter {
        Voter { syncs: SyncFigure { recent: 1, ..voter(1000).syncs }, is_ready: true }
    }

    fn away(median_millis: u64) -> Voter {
        Voter { is_ready: false, ..voter(median_millis) }
    }

    #[test]
    fn disk_slow_is_much_slower_than_the_fastest_other_and_slow_at_all() {
        for (voters, expected) in [
            (vec![voter(100), voter(25), voter(90)], Some(true)),
            (vec![voter(99), voter(1), voter(1)], Some(false)),
            (vec![voter(100), voter(26), voter(26)], Some(false)),
            (vec![voter(5000), voter(5000), voter(4000)], Some(false)),
            (vec![voter(500), unknown(), unknown()], None),
            (vec![unknown(), voter(1), voter(1)], None),
            (vec![voter(500)], None),
            (vec![hangs(), voter(1), voter(1)], Some(true)),
        ] {
            let all = (1..).map(NodeId::new).zip(voters).collect();
            assert_eq!(is_slow(NodeId::new(1), &all), expected, "{all:?}");
        }
    }

    #[test]
    fn leadership_moves_to_the_fastest_when_a_majority_is_fast_without_the_leader() {
        for (voters, expected) in [
            (vec![voter(500), voter(3), voter(2)], Some(3)),
            (vec![voter(500), voter(2), voter(2)], Some(2)),
            // One fast voter is no majority: it would wait for the slow disk as well.
            (vec![voter(500), voter(2), voter(400)], None),
            (vec![voter(500), voter(2), away(2)], None),
            (vec![voter(500), voter(2), unknown()], None),
            (vec![voter(500), voter(2)], None),
            (vec![voter(500)], None),
            (vec![voter(500), voter(2), voter(400), voter(3), voter(1)], Some(5)),
        ] {
            let all = (1..).map(NodeId::new).zip(voters).collect();
            assert_eq!(better(NodeId::new(1), &all), expected.map(NodeId::new), "{all:?}");
        }
    }
}

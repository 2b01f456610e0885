//! What counts only once it has lasted: a measure that is bad for a moment is nothing to tell, and
//! one that is good for a moment is not mended.

use std::collections::BTreeMap;

use proto_types::NodeId;

/// Of each node, what it is and since when, in elapsed milliseconds.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    since: BTreeMap<NodeId, (bool, u64)>,
}

impl Lasting {
    /// Notes how a node is now. `Some` once it has been so for `after_ms`.
    pub(super) fn note(
        &mut self,
        node: NodeId,
        is_bad: bool,
        now_ms: u64,
        after_ms: u64,
    ) -> Option<bool> {
        let entry = self.since.entry(node).or_insert((is_bad, now_ms));
        if entry.0 != is_bad {
            *entry = (is_bad, now_ms);
        }
        (now_ms.saturating_sub(entry.1) >= after_ms).then_some(is_bad)
    }

    /// Forgets a node of which nothing is known at the moment.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.since.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_counts() {
        let mut lasting = Lasting::default();
        let node = NodeId::new(1);
        for (at, is_bad, expected) in [
            (0, true, None),
            (9_999, true, None),
            (10_000, true, Some(true)),
            (11_000, false, None),
            (12_000, true, None),
            (21_999, true, None),
            (22_000, true, Some(true)),
            (23_000, false, None),
            (33_000, false, Some(false)),
        ] {
            assert_eq!(lasting.note(node, is_bad, at, 10_000), expected, "at {at}");
        }
        lasting.forget(node);
        assert_eq!(lasting.note(node, false, 34_000, 10_000), None);
    }
}

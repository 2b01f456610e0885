//! Who votes. One set of nodes or, while Raft changes from one to another, two, of which each must
//! agree.

use std::collections::BTreeSet;

use proto_types::NodeId;

/// How many of `voters` nodes make a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Sets of voters, each of which must agree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Voters {
    sets: Vec<BTreeSet<NodeId>>,
}

impl Voters {
    /// One set.
    #[must_use]
    pub fn of(voters: BTreeSet<NodeId>) -> Self {
        Self { sets: vec![voters] }
    }

    /// All of these sets.
    #[must_use]
    pub fn joint(sets: impl IntoIterator<Item = BTreeSet<NodeId>>) -> Self {
        Self { sets: sets.into_iter().collect() }
    }

    /// These and one more set.
    #[must_use]
    pub fn and(&self, voters: &BTreeSet<NodeId>) -> Self {
        let mut sets = self.sets.clone();
        if !sets.contains(voters) {
            sets.push(voters.clone());
        }
        Self { sets }
    }

    /// Every node that votes in any of the sets.
    #[must_use]
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.sets.iter().flatten().copied().collect()
    }

    /// The one set; `None` while Raft changes from one to another.
    #[must_use]
    pub fn settled(&self) -> Option<&BTreeSet<NodeId>> {
        match &self.sets[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Whether `nodes` are a majority of each set. Of no set nobody is.
    #[must_use]
    pub fn have_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.sets.is_empty() && self.lacking(nodes).is_none()
    }

    /// The first set of which `nodes` are no majority: how many of it there are, and how many
    /// there must be.
    pub(crate) fn lacking(&self, nodes: &BTreeSet<NodeId>) -> Option<(usize, usize)> {
        self.sets
            .iter()
            .map(|set| (set.intersection(nodes).count(), majority(set.len())))
            .find(|(have, need)| have < need)
    }
}

//! What happens in a round: given again by the same seed, as far as a plan can say it.

/// Something that happens while a snapshot is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// The leader was paused long before, another leads and has acknowledged writes; the old one
    /// is asked for the snapshot and wakes up.
    OldLeaderAsked,
    /// The leader is paused, maybe past an election, and wakes up with the stream still open.
    LeaderPaused,
    /// SIGKILL of the leader.
    LeaderKilled,
    /// Both others are paused: the leader is cut off from its peers.
    LeaderCutOff,
    /// Leadership goes to another by an operator's verb.
    LeaderMoved,
    /// Leadership goes to another and comes back: the same leader, in another term.
    LeaderMovedAndBack,
    /// One of the others is paused.
    FollowerPaused,
    /// SIGKILL of one of the others, maybe of the one that passes the stream on.
    FollowerKilled,
    /// SIGKILL of whoever saves.
    SaverKilled,
    /// Nothing.
    Nothing,
}

impl Happening {
    /// All, those first that are most likely to catch a wrong file: a short run has them too.
    pub const ALL: [Self; 10] = [
        Self::OldLeaderAsked,
        Self::LeaderPaused,
        Self::LeaderKilled,
        Self::LeaderMovedAndBack,
        Self::LeaderCutOff,
        Self::FollowerKilled,
        Self::SaverKilled,
        Self::LeaderMoved,
        Self::FollowerPaused,
        Self::Nothing,
    ];
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What happens.
    pub happening: Happening,
    /// How long after the save was begun, in thousandths of how long it takes undisturbed.
    pub moment: u32,
    /// How long who is paused stays so, in milliseconds.
    pub pause_ms: u64,
    /// How long saving takes undisturbed, in milliseconds, by `--limit`.
    pub save_ms: u64,
    /// Which node is asked: 0 the leader, 1 and 2 the others.
    pub via: usize,
    /// Which of the others it happens to.
    pub whom: usize,
}

impl Plan {
    /// The plan of a round.
    #[must_use]
    pub fn draw(seed: u64, round: u32) -> Self {
        // Each round for itself, so that one of them can be run alone.
        let mut random = fastrand::Rng::with_seed(seed ^ (u64::from(round) + 1) << 32);
        let kind = round as usize % Happening::ALL.len();
        Self {
            happening: Happening::ALL[kind],
            moment: random.u32(0..1100),
            // From unnoticed to well past an election, which takes up to 1.2 s here.
            pause_ms: random.u64(100..2500),
            save_ms: random.u64(400..1500),
            via: random.usize(0..3),
            whom: random.usize(0..2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_plans_come_again_and_differ_from_round_to_round() {
        assert_eq!(Plan::draw(7, 3), Plan::draw(7, 3));
        assert_ne!(
            Plan::draw(7, 3),
            Plan { happening: Happening::LeaderMovedAndBack, ..Plan::draw(7, 13) }
        );
        assert_ne!(Plan::draw(7, 3), Plan::draw(8, 3));
        assert_eq!(Plan::draw(7, 12).happening, Happening::LeaderKilled);
    }
}

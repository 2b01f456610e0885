//! Which level the fleet may have: what every member, voter or not, says that it supports.

use std::collections::{BTreeMap, BTreeSet};

use proto::ApiError;
use proto_types::{Code, Level, NodeId};

use super::{Answer, HEARD_MS};

/// The levels a program works with. Also what an older one is held to by `upgrade.level_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Levels {
    /// The lowest level of a fleet, and of a peer, that it works with.
    pub(crate) min: Level,
    /// The highest level that it can apply, decode and answer.
    pub(crate) max: Level,
}

impl Levels {
    /// Those of this program, held back to `max` where that is lower.
    #[must_use]
    pub(crate) fn held_back_to(max: Option<Level>) -> Self {
        Self { min: Level::OLDEST, max: max.unwrap_or(Level::NEWEST).min(Level::NEWEST) }
    }

    /// As another node says them; a program that says nothing is of the first level.
    #[must_use]
    pub(crate) fn told(min: u32, max: u32) -> Self {
        let level = |number: u32| u16::try_from(number).ok().filter(|n| *n > 0).map(Level::new);
        Self { min: level(min).unwrap_or_default(), max: level(max).unwrap_or_default() }
    }

    /// Checks that a program of these levels can work with a peer of those in a fleet of this
    /// active level.
    ///
    /// # Errors
    /// `UNSUPPORTED_VERSION`, with whose program is too old.
    pub(crate) fn check_peer(
        self,
        peer: NodeId,
        theirs: Self,
        active: Level,
    ) -> Result<(), ApiError> {
        let needed = self.min.max(active);
        if theirs.max < needed {
            return Err(ApiError::new(
                Code::UnsupportedVersion,
                format!(
                    "node {peer} has a program that supports up to level {}, and level {needed} is \
                     needed here: upgrade it, or remove its upgrade.level_max",
                    theirs.max
                ),
            ));
        }
        if theirs.min > self.max {
            return Err(ApiError::new(
                Code::UnsupportedVersion,
                format!(
                    "node {peer} needs level {} at least, and this program supports up to {}: \
                     upgrade this one",
                    theirs.min, self.max
                ),
            ));
        }
        Ok(())
    }

    /// Checks that a program of these levels can take part in a fleet of this active level.
    ///
    /// # Errors
    /// `UNSUPPORTED_VERSION`.
    pub(crate) fn check_fleet(self, active: Level) -> Result<(), ApiError> {
        if active <= self.max {
            return Ok(());
        }
        let why = if self.max < Level::NEWEST {
            "remove upgrade.level_max from its config".to_owned()
        } else {
            "start the newer strongroom".to_owned()
        };
        Err(ApiError::new(
            Code::UnsupportedVersion,
            format!(
                "the fleet is at level {active}, and this coordinator supports up to {}: it takes \
                 no part; {why}",
                self.max
            ),
        ))
    }
}

/// Who holds the level back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeldBack {
    /// It has not answered in the last few seconds.
    NotHeard(NodeId),
    /// Its program is too old.
    Older {
        node: NodeId,
        max: Level,
        /// Of its program.
        version: String,
    },
}

/// The highest level that every member supports, or the first of them that does not support
/// `wanted`.
pub(crate) fn supported(
    members: &BTreeSet<NodeId>,
    answers: &BTreeMap<NodeId, Answer>,
    now_ms: u64,
    wanted: Level,
) -> Result<Level, HeldBack> {
    let mut lowest = None;
    for node in members {
        let answer = answers.get(node).filter(|a| a.at_ms.saturating_add(HEARD_MS) >= now_ms);
        let Some(answer) = answer else { return Err(HeldBack::NotHeard(*node)) };
        let max = answer.levels.max;
        if max < wanted {
            let version = answer.version.clone();
            return Err(HeldBack::Older { node: *node, max, version });
        }
        lowest = Some(lowest.map_or(max, |lowest: Level| lowest.min(max)));
    }
    lowest.ok_or(HeldBack::NotHeard(NodeId::new(0)))
}

impl HeldBack {
    /// Why a command of level `needed` cannot be had.
    pub(crate) fn refusal(&self, needed: Level, active: Level) -> ApiError {
        match self {
            Self::NotHeard(node) => ApiError::new(
                Code::Unavailable,
                format!(
                    "this needs level {needed}, the fleet's is {active}, and it rises when every \
                     coordinator has told that it supports it: node {node} has not answered; ask \
                     again once it does, or remove it"
                ),
            ),
            Self::Older { node, max, version } => ApiError::new(
                Code::LevelTooLow,
                format!(
                    "this needs level {needed}, the fleet's is {active}: node {node} runs \
                     strongroom {version}, which supports up to level {max}; upgrade it, or remove \
                     its upgrade.level_max"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Level = Level::new(1);
    const TWO: Level = Level::new(2);
    const THREE: Level = Level::new(3);

    fn answer(max: Level, at_ms: u64) -> Answer {
        Answer {
            levels: Levels { min: ONE, max },
            version: "0.1.0".to_owned(),
            ..Answer::at(at_ms)
        }
    }

    #[test]
    fn level_rises_only_when_every_member_supports_it_now() {
        let members: BTreeSet<NodeId> = (1..=3).map(NodeId::new).collect();
        let of = |rows: &[(u64, Level, u64)]| {
            let answers =
                rows.iter().map(|(node, max, at)| (NodeId::new(*node), answer(*max, *at)));
            supported(&members, &answers.collect(), 100_000, TWO)
        };
        let older = |node: u64| {
            let version = "0.1.0".to_owned();
            Err(HeldBack::Older { node: NodeId::new(node), max: ONE, version })
        };
        let silent = |node: u64| Err(HeldBack::NotHeard(NodeId::new(node)));
        let now = 100_000;
        for (rows, expected) in [
            (vec![(1, TWO, now), (2, TWO, now), (3, TWO, now)], Ok(TWO)),
            (vec![(1, THREE, now), (2, TWO, now), (3, THREE, now)], Ok(TWO)),
            (vec![(1, THREE, now), (2, THREE, now), (3, THREE, now)], Ok(THREE)),
            (vec![(1, TWO, now), (2, ONE, now), (3, TWO, now)], older(2)),
            (vec![(1, TWO, now), (2, TWO, now)], silent(3)),
            // Heard once, but who knows what it runs since.
            (vec![(1, TWO, now), (2, TWO, now - 5_001), (3, TWO, now)], silent(2)),
            (vec![(1, TWO, now), (2, TWO, now - 5_000), (3, TWO, now)], Ok(TWO)),
            // One that does not belong to the fleet counts for nothing.
            (vec![(1, TWO, now), (2, TWO, now), (3, TWO, now), (4, ONE, now)], Ok(TWO)),
        ] {
            assert_eq!(of(&rows), expected, "{rows:?}");
        }
        assert!(supported(&BTreeSet::new(), &BTreeMap::new(), 0, TWO).is_err());
    }

    #[test]
    fn level_of_peers_and_fleet_is_checked_in_words() {
        let node = NodeId::new(7);
        let levels = |min, max| Levels { min, max };
        // Own, theirs, active, who is blamed.
        for (own, theirs, active, blamed) in [
            (levels(ONE, TWO), levels(ONE, TWO), TWO, None),
            (levels(ONE, TWO), levels(ONE, ONE), ONE, None),
            (levels(ONE, TWO), levels(ONE, ONE), TWO, Some("upgrade it")),
            (levels(TWO, THREE), levels(ONE, ONE), ONE, Some("upgrade it")),
            (levels(ONE, ONE), levels(TWO, THREE), ONE, Some("upgrade this one")),
            (levels(ONE, TWO), levels(TWO, THREE), TWO, None),
        ] {
            let checked = own.check_peer(node, theirs, active);
            match blamed {
                None => assert_eq!(checked, Ok(()), "{own:?} {theirs:?} {active}"),
                Some(word) => {
                    let error = checked.unwrap_err();
                    assert_eq!(error.code(), Code::UnsupportedVersion);
                    assert!(error.message().contains("node 7"), "{error}");
                    assert!(error.message().contains(word), "{error}");
                }
            }
        }
        assert_eq!(Levels::told(0, 0), levels(ONE, ONE));
        assert_eq!(Levels::told(1, 70_000), levels(ONE, ONE));
        assert_eq!(Levels::told(2, 3), levels(TWO, THREE));
        assert_eq!(Levels::held_back_to(None), levels(ONE, TWO));
        assert_eq!(Levels::held_back_to(Some(ONE)), levels(ONE, ONE));
        assert!(levels(ONE, TWO).check_fleet(TWO).is_ok());
        assert!(levels(ONE, ONE).check_fleet(TWO).unwrap_err().message().contains("level_max"));
        let newer = levels(ONE, TWO).check_fleet(THREE).unwrap_err();
        assert!(newer.message().contains("start the newer"), "{newer}");
    }
}

//! What a good file must hold and must not: decided from what the writers know.

use std::collections::BTreeMap;
use std::time::Instant;

use proto_types::ClusterId;

/// One write: the next point of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// Whose.
    pub cluster: ClusterId,
    /// Number of the point; a cluster's points are written one after the other.
    pub sequence: u64,
    /// Before the request was first sent.
    pub begun: Instant,
    /// When it was acknowledged, and at which index of the log it stands.
    pub acknowledged: Option<(Instant, u64)>,
}

/// When a snapshot was saved.
#[derive(Debug, Clone, Copy)]
pub struct Save {
    /// Before the verb was started.
    pub began: Instant,
    /// After it had ended.
    pub ended: Instant,
}

/// What a good file holds of the writers.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Up to where in the log it says that it goes.
    pub index: u64,
    /// Per cluster the number of its last point; all before it are there.
    pub heads: BTreeMap<ClusterId, u64>,
    /// What was wrong with the file in itself.
    pub wrong: Vec<String>,
}

/// Everything that is wrong with a good file.
#[must_use]
pub fn check(file: &Found, save: &Save, canaries: &[Canary]) -> Vec<String> {
    let mut wrong = file.wrong.clone();
    let mut tried: BTreeMap<ClusterId, u64> = BTreeMap::new();
    for canary in canaries {
        let Canary { cluster, sequence, .. } = canary;
        let highest = tried.entry(*cluster).or_default();
        *highest = (*highest).max(*sequence);
        let is_there = file.heads.get(cluster).is_some_and(|head| head >= sequence);
        let mut say = |what: &str| {
            wrong.push(format!("point {sequence} of {cluster} {what}"));
        };
        if canary.begun > save.ended && is_there {
            say("was begun after the save had ended, and is in the file");
        }
        let Some((at, index)) = canary.acknowledged else { continue };
        if at < save.began && !is_there {
            say("was acknowledged before the save began, and is not in the file");
        }
        match (index <= file.index, is_there) {
            (true, false) => say(&format!(
                "stands at {index}, and is not in the file, which goes up to {}",
                file.index
            )),
            (false, true) => say(&format!(
                "stands at {index}, and is in the file, which goes up to {}",
                file.index
            )),
            (true, true) | (false, false) => {}
        }
    }
    for (cluster, head) in &file.heads {
        let known = tried.get(cluster).copied().unwrap_or_default();
        if *head > known {
            wrong.push(format!("point {head} of {cluster} is in the file, and nobody wrote it"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HARBOUR: ClusterId = ClusterId::from_bytes([7; 16]);

    /// Points 1 to 4, begun and acknowledged at these seconds and at these places of the log; the
    /// save goes from second 3 to second 6.
    fn wrong(index: u64, head: u64, fourth: Option<u64>) -> Vec<String> {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let canary = |sequence, begun, acknowledged: Option<(u64, u64)>| Canary {
            cluster: HARBOUR,
            sequence,
            begun: at(begun),
            acknowledged: acknowledged.map(|(second, index)| (at(second), index)),
        };
        let canaries = [
            canary(1, 0, Some((1, 10))),
            canary(2, 1, Some((2, 20))),
            canary(3, 4, Some((5, 30))),
            canary(4, 7, fourth.map(|index| (8, index))),
        ];
        let file = Found { index, heads: BTreeMap::from([(HARBOUR, head)]), wrong: Vec::new() };
        check(&file, &Save { began: at(3), ended: at(6) }, &canaries)
    }

    #[test]
    fn canary_that_was_written_meanwhile_may_be_there_or_not() {
        assert_eq!(wrong(25, 2, Some(40)), [""; 0]);
        assert_eq!(wrong(30, 3, Some(40)), [""; 0]);
        assert_eq!(wrong(30, 3, None), [""; 0]);
    }

    #[test]
    fn canary_that_is_missing_is_noticed() {
        // From a leader that was none any more.
        let found = wrong(15, 1, Some(40));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("acknowledged before the save began"), "{found:?}");
        // A hole before the index.
        let found = wrong(30, 2, Some(40));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("stands at 30, and is not in the file"), "{found:?}");
    }

    #[test]
    fn canary_that_is_too_many_is_noticed() {
        let found = wrong(40, 4, Some(40));
        assert!(found.len() == 1 && found[0].contains("after the save had ended"), "{found:?}");
        let found = wrong(25, 3, Some(40));
        assert!(found.len() == 1 && found[0].contains("goes up to 25"), "{found:?}");
        let found = wrong(50, 9, None);
        assert!(found.len() == 2 && found[1].contains("nobody wrote it"), "{found:?}");
    }
}

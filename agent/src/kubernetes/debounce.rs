//! When changes that were seen become a backup: soon after the last of them, and not long after the
//! first, so that one change is exposed for seconds and a storm makes a handful of points. Pure.

/// Changes follow each other: what belongs together gets into one point.
const QUIET_MILLIS: u64 = 500;
/// A storm does not put off for ever what came first.
const AT_MOST_MILLIS: u64 = 4000;

/// Changes that no backup has taken yet, by a clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// When the first was seen, in milliseconds.
    pub(crate) first: u64,
    /// When the last was seen.
    pub(crate) last: u64,
}

impl Pending {
    /// One more change.
    pub(crate) fn seen(before: Option<Self>, now: u64) -> Self {
        Self { first: before.map_or(now, |pending| pending.first), last: now }
    }

    /// How many milliseconds are left until they are backed up; 0: now.
    pub(crate) fn wait(self, now: u64) -> u64 {
        let due = (self.last + QUIET_MILLIS).min(self.first + AT_MOST_MILLIS);
        due.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_changes_wait_for_quiet_but_not_for_ever() {
        let one = Pending::seen(None, 1000);
        assert_eq!(one.wait(1000), 500);
        assert_eq!(one.wait(1400), 100);
        assert_eq!(one.wait(9000), 0);
        let two = Pending::seen(Some(one), 1400);
        assert_eq!(two, Pending { first: 1000, last: 1400 });
        assert_eq!(two.wait(1400), 500);
        // A change every 100 ms for 20 s is backed up every 4 s or so.
        let (mut pending, mut points) = (None, 0);
        for now in (0..20_000).step_by(100) {
            if pending.is_some_and(|pending: Pending| pending.wait(now) == 0) {
                pending = None;
                points += 1;
            }
            pending = Some(Pending::seen(pending, now));
        }
        assert_eq!(points, 4);
    }
}

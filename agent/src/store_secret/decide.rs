//! What becomes of a store secret. Pure: tables, and their tests.

use super::Change;

/// What is in the place, as far as a decision asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing.
    Missing,
    /// Too short, damaged, or no KEK.
    Unusable,
    /// A KEK.
    There,
}

/// What an agent does when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is there.
    Use,
    /// It is gone, and one that was prepared to follow it is there: the newest point may be wrapped
    /// under that one already.
    UsePrepared,
    /// A new one is made.
    Make(Change),
    /// Nobody ever made keys here: that is `strongroom agent init`'s, and more likely a wrong directory.
    NeverMade,
}

pub(crate) const fn at_start(current: Presence, is_prepared: bool, used_before: bool) -> Start {
    match (current, is_prepared, used_before) {
        (Presence::There, _, _) => Start::Use,
        (_, true, _) => Start::UsePrepared,
        (Presence::Unusable, false, _) => Start::Make(Change::Replaced),
        (Presence::Missing, false, true) => Start::Make(Change::Created),
        (Presence::Missing, false, false) => Start::NeverMade,
    }
}

/// What a running agent does before a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing changed.
    Keep,
    /// The one that is there is used from now on.
    TakeOver(Change),
    /// A new one is made.
    Make(Change),
}

pub(super) const fn before_backup(current: Presence, is_the_one_in_use: bool) -> Look {
    match (current, is_the_one_in_use) {
        (Presence::There, true) => Look::Keep,
        (Presence::There, false) => Look::TakeOver(Change::ByHand),
        (Presence::Missing, _) => Look::Make(Change::Created),
        (Presence::Unusable, _) => Look::Make(Change::Replaced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_secret_at_start_and_before_a_backup() {
        use Presence::{Missing, There, Unusable};
        for (current, prepared, used, expected) in [
            (There, false, true, Start::Use),
            (There, true, true, Start::Use),
            (There, false, false, Start::Use),
            (Missing, true, true, Start::UsePrepared),
            (Unusable, true, true, Start::UsePrepared),
            (Missing, false, true, Start::Make(Change::Created)),
            (Unusable, false, true, Start::Make(Change::Replaced)),
            (Unusable, false, false, Start::Make(Change::Replaced)),
            (Missing, false, false, Start::NeverMade),
        ] {
            assert_eq!(
                at_start(current, prepared, used),
                expected,
                "{current:?} {prepared} {used}"
            );
        }
        for (current, same, expected) in [
            (There, true, Look::Keep),
            (There, false, Look::TakeOver(Change::ByHand)),
            (Missing, false, Look::Make(Change::Created)),
            (Unusable, false, Look::Make(Change::Replaced)),
        ] {
            assert_eq!(before_backup(current, same), expected, "{current:?} {same}");
        }
    }
}

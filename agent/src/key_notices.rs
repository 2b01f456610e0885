//! What a person has to be told of a cluster's keys: noted beside them before anything is changed, and
//! raised as findings with the next backup. They stand until somebody clears them: what they ask for
//! is done elsewhere.

use proto::v1::{self, Severity};

use crate::store_secret::Change;

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// The store secret was not there.
    Created,
    /// The store secret was no KEK.
    Replaced,
    /// Somebody put another store secret there.
    ByHand,
    /// The KEK that opens the newest point is unknown.
    LineageBegun,
    /// The signing key was lost, and found in a key bundle.
    SigningKeyFound,
}

const ALL: [Notice; 5] = [
    Notice::Created,
    Notice::Replaced,
    Notice::ByHand,
    Notice::LineageBegun,
    Notice::SigningKeyFound,
];

impl Notice {
    pub(crate) const fn of(change: Change) -> Self {
        match change {
            Change::Created => Self::Created,
            Change::Replaced => Self::Replaced,
            Change::ByHand => Self::ByHand,
        }
    }

    /// The finding's kind.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Created => "store-secret-created",
            Self::Replaced => "store-secret-replaced",
            Self::ByHand => "store-secret-changed",
            Self::LineageBegun => "key-lineage-begun",
            Self::SigningKeyFound => "signing-key-found",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|notice| notice.word() == word)
    }

    pub(crate) fn finding(self) -> v1::Finding {
        const KEEP: &str = "keep a copy of strongroom-store-secret (kek.key) outside the cluster, then \
                            `strongroom finding clear`";
        let (severity, message, remedy) = match self {
            Self::Created => (
                Severity::Warning,
                "strongroom-store-secret was missing: the agent made a new one, which opens every \
                 point from now on",
                KEEP,
            ),
            Self::Replaced => (
                Severity::Warning,
                "strongroom-store-secret was too short or damaged: the agent made a new one, which \
                 opens every point from now on; what was there is kept as kek.unusable",
                KEEP,
            ),
            Self::ByHand => (
                Severity::Warning,
                "strongroom-store-secret was changed by somebody else than the agent: it is used from \
                 now on",
                "if nobody here changed it, find out who did; keep a copy of the new one, then \
                 `strongroom finding clear`",
            ),
            Self::LineageBegun => (
                Severity::Critical,
                "the store secret that opens the points before is unknown to the agent: it began a new \
                 lineage with a full backup; older points open with a copy of the old secret or with \
                 the recovery key only",
                "if you have the old strongroom-store-secret, keep it with the date; prove that the \
                 recovery key opens an older point (`strongroom key verify`), then `strongroom finding \
                 clear`",
            ),
            Self::SigningKeyFound => (
                Severity::Info,
                "signing.key was missing: the agent took it out of the newest key bundle again",
                "find out who removed it, then `strongroom finding clear`",
            ),
        };
        let mut finding = v1::Finding {
            kind: self.word().to_owned(),
            message: message.to_owned(),
            remedy: remedy.to_owned(),
            ..v1::Finding::default()
        };
        finding.set_severity(severity);
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_back_and_say_what_to_do() {
        for notice in ALL {
            assert_eq!(Notice::from_word(notice.word()), Some(notice));
            let finding = notice.finding();
            assert!(
                finding.remedy.contains("finding clear") || finding.remedy.contains("strongroom")
            );
            assert!(finding.message.len() < 1024 && finding.remedy.len() < 1024);
        }
        assert_eq!(Notice::from_word("store-secret"), None);
    }
}

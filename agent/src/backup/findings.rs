//! What a person should know of a source, as findings of the fleet. They carry counts only: paths
//! are plaintext (invariant K1) and stay in a file of the agent's own directory.

use std::collections::BTreeMap;

use proto::v1::{self, Severity};

use proto_types::Sequence;

use crate::sources::Trouble;

const KINDS: [Trouble; 7] = [
    Trouble::OutOfReach,
    Trouble::Unreadable,
    Trouble::ChangedWhileRead,
    Trouble::Special,
    Trouble::AttributesUnreadable,
    Trouble::Forbidden,
    Trouble::FixedKey,
];

/// How often each kind of trouble occurred, per source.
pub(crate) type Troubles = BTreeMap<(String, Trouble), u64>;

/// The fleet offered an older newest point than it had acknowledged, or another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RolledBack {
    pub(crate) acknowledged: Sequence,
    pub(crate) offered: Sequence,
}

/// Counts a source's troubles.
pub(crate) fn count(troubles: &mut Troubles, source: &str, found: &[(Trouble, Vec<u8>)]) {
    for (trouble, _) in found {
        tracing::debug!(source, trouble = kind(*trouble), "not backed up as it should be");
        *troubles.entry((source.to_owned(), *trouble)).or_default() += 1;
    }
}

/// The same with their paths, a line each, for the list in the agent's directory.
pub(crate) fn lines(source: &str, found: &[(Trouble, Vec<u8>)]) -> String {
    let line = |(trouble, path): &(Trouble, Vec<u8>)| {
        format!("{source}\t{}\t{}\n", kind(*trouble), path.escape_ascii())
    };
    found.iter().map(line).collect()
}

/// Why a source's part is not proved complete, if it is not.
pub(crate) fn unproved(troubles: &Troubles, source: &str) -> Option<String> {
    let of = |trouble| troubles.get(&(source.to_owned(), trouble)).copied().unwrap_or(0);
    let reasons: Vec<String> = [
        (of(Trouble::Unreadable), "unreadable"),
        (of(Trouble::ChangedWhileRead), "changed while read"),
        (of(Trouble::AttributesUnreadable), "with unreadable attributes"),
        (of(Trouble::Forbidden), "kinds forbidden"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// The findings to raise, and those to clear: all other kinds of these sources.
pub(crate) fn report(
    troubles: &Troubles,
    rolled_back: Option<RolledBack>,
    sources: &[String],
) -> (Vec<v1::Finding>, Vec<v1::Finding>) {
    // Never cleared from here: whether it is explained, a person decides.
    let mut raise: Vec<v1::Finding> = rolled_back.map(head_rolled_back).into_iter().collect();
    let mut clear = Vec::new();
    for source in sources {
        for trouble in KINDS {
            let mut finding = v1::Finding {
                kind: kind(trouble).to_owned(),
                subject: source.clone(),
                ..v1::Finding::default()
            };
            match troubles.get(&(source.clone(), trouble)) {
                Some(count) => {
                    let (severity, what, remedy) = words(trouble);
                    finding.set_severity(severity);
                    finding.message = match trouble {
                        Trouble::OutOfReach => what.to_owned(),
                        _ => format!("{count} {what}"),
                    };
                    finding.remedy = remedy.to_owned();
                    raise.push(finding);
                }
                // What did not change is not read again: whether it is dealt with, a person says.
                None if trouble == Trouble::FixedKey => {}
                None => clear.push(finding),
            }
        }
    }
    (raise, clear)
}

fn head_rolled_back(RolledBack { acknowledged, offered }: RolledBack) -> v1::Finding {
    let mut finding = v1::Finding {
        kind: "head-rolled-back".to_owned(),
        message: format!(
            "the fleet offered point {offered} as this cluster's newest after it had acknowledged \
             point {acknowledged} to the agent: points are lost, or withheld"
        ),
        remedy: "if the coordinators were not put back to an older state on purpose, compare \
                 what each of them answers; `strongroom finding clear` when it is explained"
            .to_owned(),
        ..v1::Finding::default()
    };
    finding.set_severity(Severity::Critical);
    finding
}

const fn kind(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::OutOfReach => "source-out-of-reach",
        Trouble::Unreadable => "source-unreadable",
        Trouble::ChangedWhileRead => "source-changed-while-read",
        Trouble::Special => "source-special-file",
        Trouble::AttributesUnreadable => "source-attributes-unreadable",
        Trouble::Forbidden => "source-forbidden",
        Trouble::FixedKey => "source-fixed-key",
    }
}

const fn words(trouble: Trouble) -> (Severity, &'static str, &'static str) {
    match trouble {
        Trouble::OutOfReach => (
            Severity::Critical,
            "the source's root cannot be opened: no backup is made",
            "mount or make it, or correct its path; the agent's log says what failed",
        ),
        Trouble::Unreadable => (
            Severity::Critical,
            "items could not be read and are not in the newest point",
            "let the agent's user read them; the agent's log names them",
        ),
        Trouble::ChangedWhileRead => (
            Severity::Warning,
            "files changed each time they were read; their newest copy may mix two states",
            "back up when nobody writes, or exclude them; the agent's log names them",
        ),
        Trouble::Special => (
            Severity::Info,
            "fifos, sockets or devices are left out",
            "exclude them to silence this; the agent's log names them",
        ),
        Trouble::AttributesUnreadable => (
            Severity::Warning,
            "items were kept without their extended attributes",
            "let the agent's user read them; the agent's log names them",
        ),
        Trouble::Forbidden => (
            Severity::Critical,
            "kinds of objects may not be listed by the agent's account and are not in the newest \
             point",
            "grant what `strongroom agent rbac` prints; the agent's log names verb and resource",
        ),
        Trouble::FixedKey => (
            Severity::Critical,
            "items hold values under a vendor's fixed key, which everybody knows; they are sealed under \
             this cluster's keys here, and as good as clear text where they come from",
            "upgrade the vendor's product to a version with a key of its own, let it seal its data anew, \
             then `strongroom finding clear`; change what was sealed so, if others could read it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_k1_findings_carry_counts_and_no_paths() {
        let mut troubles = Troubles::new();
        let found = [
            (Trouble::Unreadable, b"secret/name".to_vec()),
            (Trouble::Unreadable, b"secret/other".to_vec()),
            (Trouble::Special, b"secret/fifo".to_vec()),
        ];
        count(&mut troubles, "conf", &found);
        let sources = ["conf".to_owned(), "keys".to_owned()];
        let (raise, clear) = report(&troubles, None, &sources);
        let kinds: Vec<(&str, &str)> =
            raise.iter().map(|f| (f.kind.as_str(), f.subject.as_str())).collect();
        assert_eq!(kinds, [("source-unreadable", "conf"), ("source-special-file", "conf")]);
        assert!(raise[0].message.starts_with("2 items could not be read"));
        assert!(raise.iter().all(|f| !f.message.contains("secret") && !f.remedy.is_empty()));
        // Six kinds of two sources, less those raised; the seventh a person clears.
        assert_eq!(clear.len(), 10);
        assert_eq!(unproved(&troubles, "conf").as_deref(), Some("2 unreadable"));
        assert_eq!(unproved(&troubles, "keys"), None);
    }
}

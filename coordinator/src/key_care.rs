//! What the leader does about keys by itself: ends a rotation of the recovery key that is done, and
//! tells people when too few holders showed their shares.

use coordinator_core::{
    ClearFinding, Command, FindingKey, KeysCommand, RaiseFinding, SHARES_NOT_ATTESTED, Scope,
    Severity, State,
};
use proto_types::LogTime;

/// What is owed now; the next round asks again.
pub(crate) fn due(state: &State, now: LogTime) -> Option<Command> {
    // Walks the bundles, so only while it matters.
    if state.is_rotating() && state.wraps_owed().next().is_none() {
        return Some(Command::Keys(Box::new(KeysCommand::FinishRotation)));
    }
    let key = FindingKey {
        scope: Scope::Fleet,
        kind: SHARES_NOT_ATTESTED.to_owned(),
        subject: String::new(),
    };
    let stands = state.findings_of(Scope::Fleet).any(|(found, _)| *found == key);
    let attested = state.attested(now);
    match (attested.is_overdue, stands) {
        (true, false) => Some(Command::RaiseFinding(RaiseFinding {
            key,
            severity: Severity::Warning,
            message: if attested.threshold == 0 {
                "no holder of a share of the recovery key has shown it for 180 days".to_owned()
            } else {
                format!(
                    "{} holders showed their share of the recovery key in the last 180 days, {} \
                     shares rebuild it",
                    attested.holders, attested.threshold
                )
            },
            remedy:
                "ask every holder for `strongroom key attest SHARE`; if fewer than needed still \
                     have theirs, `strongroom key rotate` while you can"
                    .to_owned(),
        })),
        (false, true) => Some(Command::ClearFinding(ClearFinding { key })),
        _ => None,
    }
}

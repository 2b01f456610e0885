//! Tells people of bundles that points need and no coordinator has: after a restore from a snapshot
//! without them, or when every copy was lost. Such points are kept, and cannot be restored.

use coordinator_core::{ClearFinding, Command, FindingKey, RaiseFinding, Scope, Severity, State};

/// The finding, of the whole fleet.
const FINDING_ABSENT: &str = "bundles-absent";

/// What the leader remembers from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct AbsentWatch {
    last: usize,
}

impl AbsentWatch {
    /// What to propose, if anything. Coordinators say moments after a change what they hold: only
    /// what stands for two looks is told.
    pub(crate) fn look(&mut self, state: &State) -> Option<Command> {
        let key = FindingKey {
            scope: Scope::Fleet,
            kind: FINDING_ABSENT.to_owned(),
            subject: String::new(),
        };
        let absent = state.absent_bundles();
        let before = std::mem::replace(&mut self.last, absent.len());
        let standing = state.findings().find(|(k, _)| **k == key).map(|(_, row)| &row.message);
        if absent.is_empty() {
            return standing.map(|_| Command::ClearFinding(ClearFinding { key }));
        }
        if before != absent.len() {
            return None;
        }
        let points = state
            .clusters()
            .flat_map(|cluster| state.points(&cluster.id))
            .filter(|point| point.needs.iter().any(|id| absent.contains(id)))
            .count();
        let message = format!(
            "{} bundles that {points} recovery points need are on no coordinator: these points cannot \
             be restored",
            absent.len()
        );
        (standing != Some(&message)).then(|| {
            Command::RaiseFinding(RaiseFinding {
                key,
                severity: Severity::Critical,
                message,
                remedy: "start the coordinators that are down; where bundles are lost, restore these \
                         points from exports or from a snapshot with bundles, and let every cluster \
                         back up"
                    .to_owned(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use coordinator_core::{InitFleet, LogContext, RecoveryPublicKey, Request, Voters, apply};
    use proto_types::{FleetId, LogIndex, LogTime};

    use super::*;

    fn run(state: &mut State, command: Command) {
        let request =
            Request { session: None, time: LogTime::from_millis(5), sender: None, command };
        let voters = Voters::default();
        let log = LogContext { index: LogIndex::new(1), voters: &voters };
        let outcome = apply(state, &request, &log).outcome;
        assert!(outcome.refusal().is_none(), "{outcome:?}");
    }

    #[test]
    fn absent_bundles_that_are_none_clear_the_finding_that_stands() {
        let mut state = State::new();
        let recovery = RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] };
        let (fleet, name) = (FleetId::from_bytes([1; 16]), "home".to_owned());
        run(&mut state, Command::InitFleet(InitFleet { fleet, name, recovery }));
        let mut watch = AbsentWatch::default();
        assert_eq!(watch.look(&state), None);
        let key =
            FindingKey { scope: Scope::Fleet, kind: FINDING_ABSENT.into(), subject: String::new() };
        run(
            &mut state,
            Command::RaiseFinding(RaiseFinding {
                key: key.clone(),
                severity: Severity::Critical,
                message: "m".into(),
                remedy: "r".into(),
            }),
        );
        assert_eq!(watch.look(&state), Some(Command::ClearFinding(ClearFinding { key })));
    }
}

//! What is known of the scheduled snapshots: the last one, and the last good one. Whoever leads
//! next goes on from there.

use crate::apply::Context;
use crate::command::RecordSnapshot;
use crate::fleet;
use crate::limits::{SNAPSHOT_NAME_BYTES_MAX, SNAPSHOT_PROBLEM_BYTES_MAX};
use crate::outcome::Outcome;
use crate::refusal::{Field, Refusal};
use crate::rows::SnapshotRow;
use crate::state::State;

/// Records how a scheduled snapshot ended. One of before the last is not recorded again.
pub(crate) fn record(
    state: &mut State,
    context: &Context<'_>,
    command: &RecordSnapshot,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let row = &command.snapshot;
    let is_text = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
    let valid = is_text(&row.name, SNAPSHOT_NAME_BYTES_MAX)
        && is_text(&row.problem, SNAPSHOT_PROBLEM_BYTES_MAX)
        && row.problem.is_empty() == row.sha256.is_some();
    if !valid {
        return Err(Refusal::InvalidField { field: Field::Snapshot });
    }
    // What failed may be saved after all.
    let is_new = |last: &Option<SnapshotRow>| {
        last.as_ref().is_none_or(|l| l.due < row.due || (l.due == row.due && !l.is_good()))
    };
    let row = SnapshotRow { ended: context.now, ..row.clone() };
    let recorded = is_new(&state.last_snapshot);
    if recorded {
        if row.is_good() {
            state.last_good_snapshot = Some(row.clone());
        }
        state.last_snapshot = Some(row);
    }
    Ok(Outcome::SnapshotRecorded { recorded })
}

impl State {
    /// The scheduled snapshot that ended last, good or not.
    #[must_use]
    pub fn last_snapshot(&self) -> Option<&SnapshotRow> {
        self.last_snapshot.as_ref()
    }

    /// The last scheduled snapshot that was read back and found good.
    #[must_use]
    pub fn last_good_snapshot(&self) -> Option<&SnapshotRow> {
        self.last_good_snapshot.as_ref()
    }
}

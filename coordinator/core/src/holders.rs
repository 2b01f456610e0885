//! Which nodes have which bundle. Nodes report what they found; what is on less than a majority is
//! owed a repair, and cannot be part of a new point (B1).

use std::collections::BTreeSet;

use proto_types::{BundleId, NodeId};

use crate::apply::Context;
use crate::command::RecordHolders;
use crate::leases::within;
use crate::limits::RECORDED_HOLDERS_MAX;
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{BundleHome, BundleRow};
use crate::state::State;
use crate::voters::Voters;

/// Refuses a bundle that is not on a majority of the voters (B1).
pub(crate) fn require_durable(
    bundle: BundleId,
    holders: &BTreeSet<NodeId>,
    voters: &Voters,
) -> Result<(), Refusal> {
    match voters.lacking(holders) {
        None => Ok(()),
        Some((have, need)) => {
            Err(Refusal::BundleNotDurable { bundle, have: have as u64, need: need as u64 })
        }
    }
}

pub(crate) fn record(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RecordHolders,
) -> Result<Outcome, Refusal> {
    let reported = command.present.len() + command.absent.len();
    within(Limit::RecordedHolders, reported, RECORDED_HOLDERS_MAX)?;
    let mut seen = BTreeSet::new();
    if !command.present.iter().chain(&command.absent).all(|bundle| seen.insert(bundle)) {
        return Err(Refusal::InvalidField { field: Field::Holders });
    }
    let home = state.home;
    let mut changed = 0;
    let mut unknown = 0;
    let released =
        |row: &BundleRow| home.to == BundleHome::Bucket && home.settled && row.object.is_some();
    let voters = state.durable_on(context.log.voters);
    let mut record = |bundle: &BundleId, change: &dyn Fn(&mut BundleRow) -> bool| match state
        .bundles
        .get_mut(bundle)
    {
        Some(row) => {
            let is_change = change(row);
            changed += u64::from(is_change);
            is_change
        }
        None => {
            unknown += 1;
            false
        }
    };
    // Before the last change of the bundles' home it may have had what it has deleted since.
    let is_current = command.home == home.changed;
    for bundle in command.present.iter().filter(|_| is_current) {
        record(bundle, &|row| {
            let is_new = !released(row) && row.holders.insert(command.node);
            // From here on those named are who has it.
            row.in_log &= !voters.have_majority(&row.holders);
            is_new
        });
    }
    let mut lost = Vec::new();
    for bundle in &command.absent {
        if record(bundle, &|row| row.holders.remove(&command.node)) {
            lost.push(*bundle);
        }
    }
    if !lost.is_empty() {
        context.events.push(Event::CopiesLost { bundles: lost });
    }
    Ok(Outcome::HoldersRecorded { changed, unknown })
}

//! Bundles that come in the log entry of their commit (decision 0018). The entry is on a majority of
//! the voters before it is applied, so its bundles are (invariant B1); nothing that they build on can
//! go meanwhile, since the head that the commit names is still the head (B2): no lease is needed.

use proto_types::BundleId;

use crate::command::{AddedBundle, CommitPoint};
use crate::limits::CARRIED_BYTES_MAX;
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::BundleHome;
use crate::state::State;

/// The bytes are those of the name, and of nobody's disk yet.
pub(super) fn check(bundle: &AddedBundle) -> Result<(), Refusal> {
    let carried = &bundle.carried;
    let is_right = carried.is_empty()
        || (carried.len() as u64 == bundle.bytes
            && bundle.holders.is_empty()
            && !bundle.in_bucket
            && BundleId::of(carried) == bundle.id);
    if is_right { Ok(()) } else { Err(Refusal::InvalidField { field: Field::Carried }) }
}

/// Whether a point may come this way now. Otherwise it is uploaded first, as large ones are.
pub(super) fn require_possible(state: &State, command: &CommitPoint) -> Result<(), Refusal> {
    if command.lease.is_some() {
        return Err(Refusal::InvalidField { field: Field::Carried });
    }
    let have = command.carried_bytes();
    if have > CARRIED_BYTES_MAX {
        return Err(Refusal::LimitReached { limit: Limit::Carried, have, max: CARRIED_BYTES_MAX });
    }
    if state.takes_carried() { Ok(()) } else { Err(Refusal::UploadFirst) }
}

impl State {
    /// Whether commits may carry their bundles: not where they belong into the bucket, nor while the
    /// voters change, since those to come would not have them by the log alone.
    #[must_use]
    pub fn takes_carried(&self) -> bool {
        self.home().to == BundleHome::Disks && self.change().is_none()
    }
}

//! Where the bundles are: on the coordinators' disks or in a bucket, and the way from one to the
//! other. Who deletes an object is decided here, by the log, and never by what a listing shows
//! (invariant B2).
//!
//! An object's name holds its *generation*: the log index of the upload lease under which it was
//! announced, or of the entry that began the move to the bucket. So no name is ever used twice,
//! and a write or a deletion that arrives late, from a leader that is none any more, meets nothing
//! that anybody needs. An object is announced before its first byte is written, so that it is
//! known to whoever has to delete it (decision 0008).

use std::collections::BTreeMap;

use proto_types::{BundleId, LeaseId, LogIndex};

use crate::apply::Context;
use crate::command::{AddedBundle, AnnounceObject, ChangedContent, RecordObjects, SetBundleHome};
use crate::leases::within;
use crate::limits::{OBJECTS_PER_UPLOAD_MAX, RECORDED_HOLDERS_MAX};
use crate::outcome::Outcome;
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{BundleHome, BundleRow, Home, ObjectRow};
use crate::state::State;
use crate::voters::Voters;
use crate::{fleet, holders};

/// Begins a move, or ends it once every bundle is where it must be.
pub(crate) fn set_home(
    state: &mut State,
    context: &mut Context<'_>,
    command: SetBundleHome,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let index = context.log.index;
    match command {
        SetBundleHome::Begin { to } if to == state.home.to => {}
        SetBundleHome::Begin { to } => {
            let copies = match to {
                BundleHome::Bucket => index,
                BundleHome::Disks => state.home.copies,
            };
            state.home = Home { to, copies, began: index, changed: index, settled: false };
        }
        SetBundleHome::Settle { began } => {
            if began != state.home.began {
                return Err(Refusal::HomeChanged);
            }
            if !state.home.settled || state.is_left_in_bucket() {
                settle(state, context)?;
            }
        }
    }
    Ok(Outcome::BundleHomeSet { began: state.home.began, settled: state.home.settled })
}

fn settle(state: &mut State, context: &Context<'_>) -> Result<(), Refusal> {
    let ids: Vec<BundleId> = state.bundles.keys().copied().collect();
    match state.home.to {
        BundleHome::Bucket => {
            // What is nowhere can be moved nowhere, and does not hold up the rest.
            let missing = state.not_in_bucket().filter(|(_, row)| !row.is_nowhere()).count() as u64;
            if missing > 0 {
                return Err(Refusal::HomeNotReady { missing });
            }
            // From here on the nodes delete their copies: none of them counts any more.
            for id in &ids {
                if let Some(row) = state.bundles.get_mut(id) {
                    row.holders.clear();
                    row.in_log = false;
                }
            }
        }
        BundleHome::Disks => {
            let voters = state.durable_on(context.log.voters);
            let missing = state.not_on_disks(&voters);
            if missing > 0 {
                return Err(Refusal::HomeNotReady { missing });
            }
            let copies = state.home.copies;
            for id in &ids {
                let Some(row) = state.bundles.get_mut(id) else { continue };
                let bytes = row.facts.bytes;
                let generation = match row.object.take() {
                    Some(generation) => generation,
                    // Where nobody recorded one, a leader may have died between copy and record.
                    None if !state.home.settled => copies,
                    None => continue,
                };
                state.objects.insert((generation, *id), ObjectRow { bytes, lease: None });
            }
        }
    }
    state.home.settled = true;
    state.home.changed = context.log.index;
    Ok(())
}

/// Makes an object known before it is written. The same one again answers the same.
pub(crate) fn announce(state: &mut State, command: &AnnounceObject) -> Result<Outcome, Refusal> {
    let lease = state.uploads.get(&command.lease);
    let generation = lease.ok_or(Refusal::LeaseGone { lease: command.lease })?.index;
    let key = (generation, command.bundle);
    if !state.objects.contains_key(&key) {
        if state.home.to != BundleHome::Bucket {
            return Err(Refusal::BundlesOnDisks);
        }
        let have = state.objects_of(generation).count() + 1;
        within(Limit::Objects, have, OBJECTS_PER_UPLOAD_MAX)?;
        let row = ObjectRow { bytes: command.bytes, lease: Some(command.lease) };
        state.objects.insert(key, row);
    }
    Ok(Outcome::ObjectAnnounced { generation })
}

/// What a commit says is in the bucket must have been announced under its lease.
pub(crate) fn find_announced(
    state: &State,
    lease: Option<LeaseId>,
    content: &ChangedContent,
    rows: &mut BTreeMap<BundleId, BundleRow>,
) -> Result<(), Refusal> {
    for bundle in &content.added {
        if let Some(row) = rows.get_mut(&bundle.id) {
            find_one_announced(state, lease, bundle, row)?;
        }
    }
    Ok(())
}

/// The same of one bundle.
pub(crate) fn find_one_announced(
    state: &State,
    lease: Option<LeaseId>,
    bundle: &AddedBundle,
    row: &mut BundleRow,
) -> Result<(), Refusal> {
    if !bundle.in_bucket {
        return Ok(());
    }
    let generation = lease.and_then(|id| state.uploads.get(&id)).map(|lease| lease.index);
    let known = generation.filter(|g| {
        let row = state.objects.get(&(*g, bundle.id));
        row.is_some_and(|row| row.lease.is_some() && row.bytes == bundle.bytes)
    });
    if known.is_none() {
        return Err(Refusal::ObjectUnknown { bundle: bundle.id });
    }
    row.object = known;
    // Copies besides would be released at once where a move has settled, and count no more.
    row.holders.clear();
    Ok(())
}

/// The objects of these bundles belong to committed points from here on.
pub(crate) fn keep<'a>(
    state: &mut State,
    rows: impl Iterator<Item = (&'a BundleId, &'a BundleRow)>,
) {
    for (id, row) in rows {
        if let Some(generation) = row.object {
            state.objects.remove(&(generation, *id));
        }
    }
}

/// An upload is over: what it left in the bucket may be deleted.
pub(crate) fn abandon(state: &mut State, generation: LogIndex) {
    let left: Vec<_> = state.objects_of(generation).map(|(key, row)| (*key, row.bytes)).collect();
    for (key, bytes) in left {
        state.objects.insert(key, ObjectRow { bytes, lease: None });
    }
}

/// Records what the leader copied, found missing, or deleted.
pub(crate) fn record(state: &mut State, command: &RecordObjects) -> Result<Outcome, Refusal> {
    let reported = command.present.len() + command.absent.len() + command.gone.len();
    within(Limit::RecordedHolders, reported, RECORDED_HOLDERS_MAX)?;
    if command.present.iter().any(|id| command.absent.contains(id)) {
        return Err(Refusal::InvalidField { field: Field::Holders });
    }
    let (mut changed, mut unknown) = (0, 0);
    // Of another move: those copies have other names.
    let is_current = state.home.to == BundleHome::Bucket && state.home.began == command.began;
    let copies = state.home.copies;
    for id in &command.present {
        match state.bundles.get_mut(id) {
            Some(row) if is_current => {
                changed += u64::from(row.object.is_none());
                row.object.get_or_insert(copies);
                if state.home.settled {
                    // Released by this very entry: the nodes' copies count no more.
                    row.holders.clear();
                    row.in_log = false;
                }
            }
            Some(_) | None => unknown += 1,
        }
    }
    for id in &command.absent {
        match state.bundles.get_mut(id) {
            Some(row) => changed += u64::from(row.object.take().is_some()),
            None => unknown += 1,
        }
    }
    for (generation, id) in &command.gone {
        let key = (*generation, *id);
        // One that an upload still holds was not for deletion.
        if state.objects.get(&key).is_some_and(|row| row.lease.is_none()) {
            state.objects.remove(&key);
            changed += 1;
        } else {
            unknown += 1;
        }
    }
    Ok(Outcome::ObjectsRecorded { changed, unknown })
}

impl State {
    /// Where the bundles are, or are on their way to.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Bundles that are not known to be in the bucket, by id.
    pub fn not_in_bucket(&self) -> impl Iterator<Item = (&BundleId, &BundleRow)> {
        self.bundles.iter().filter(|(_, row)| row.object.is_none())
    }

    /// Bundles that less than a majority of these voters has on disk, whatever is in the bucket;
    /// without those that are nowhere.
    #[must_use]
    pub fn not_on_disks(&self, voters: &Voters) -> u64 {
        let lacking = |row: &&BundleRow| !row.is_nowhere() && !voters.have_majority(&row.holders);
        self.bundles.values().filter(lacking).count() as u64
    }

    /// Whether bundles came into the bucket after the move to the disks had settled, under uploads
    /// that had begun before: the leader settles once more when they are on the disks, too.
    #[must_use]
    pub fn is_left_in_bucket(&self) -> bool {
        self.home.to == BundleHome::Disks && self.bundles.values().any(|row| row.object.is_some())
    }

    /// Whether every node may delete its copy of a bundle: it is in the bucket, and so are all
    /// others (invariant B1).
    #[must_use]
    pub fn is_released(&self, bundle: &BundleId) -> bool {
        self.home.to == BundleHome::Bucket
            && self.home.settled
            && self.bundles.get(bundle).is_some_and(|row| row.object.is_some())
    }

    /// Whether a node that lacks this bundle should fetch it.
    #[must_use]
    pub fn wants_copies(&self, row: &BundleRow) -> bool {
        self.home.to == BundleHome::Disks || row.object.is_none()
    }

    /// Objects that nobody needs any more, whose uploads are over: to be deleted.
    pub fn objects_to_delete(&self) -> impl Iterator<Item = (LogIndex, BundleId)> {
        let over = self.objects.iter().filter(|(_, row)| row.lease.is_none());
        over.map(|((generation, bundle), _)| (*generation, *bundle))
    }

    /// Whether an object was announced and its upload is not over.
    #[must_use]
    pub fn is_announced(&self, generation: LogIndex, bundle: &BundleId) -> bool {
        self.objects.get(&(generation, *bundle)).is_some_and(|row| row.lease.is_some())
    }

    /// The objects announced under one generation.
    pub(crate) fn objects_of(
        &self,
        generation: LogIndex,
    ) -> impl Iterator<Item = (&(LogIndex, BundleId), &ObjectRow)> {
        let first = (generation, BundleId::ZERO);
        self.objects.range(first..).take_while(move |((of, _), _)| *of == generation)
    }
}

/// Refuses a bundle that is neither in the bucket nor on a majority of the voters, be it by the log
/// alone (B1).
pub(crate) fn require_durable(
    bundle: BundleId,
    row: Option<&BundleRow>,
    voters: &Voters,
) -> Result<(), Refusal> {
    match row {
        Some(row) if row.object.is_some() || row.in_log => Ok(()),
        Some(row) => holders::require_durable(bundle, &row.holders, voters),
        None => holders::require_durable(bundle, &std::collections::BTreeSet::new(), voters),
    }
}

//! Comparing what sources list with what the last point holds, and putting the new point's list
//! together from both. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bundle::{Item, ItemKey, ItemKind, Location, Manifest, Piece};
use proto_types::{BundleId, LogTime};

use super::BackupError;
use super::decide::Usage;
use super::hints::Hint;
use super::previous::Previous;
use super::seal::{KnownBlobs, SealOutput};
use crate::sources::{Entry, EntryKind, Place, Timestamp};

/// File systems stamp changes with a clock that ticks every 4 to 10 ms. What changed so shortly
/// before it was read may change again under the same stamp, so its `stat` proves nothing.
const TICK_MILLIS: u64 = 50;
/// Some keep whole or even seconds only. One stamp in a million of the others looks like that.
const COARSE_TICK_MILLIS: u64 = 2000;

/// One source's entries, each with the item of the last point that it still equals.
pub(crate) struct Survey {
    pub(crate) source: String,
    pub(crate) entries: Vec<Entry>,
    /// Index into the last point's items.
    pub(crate) reuse: Vec<Option<usize>>,
    /// The item that it probably equals, once read: what decisions before the reading go by. An
    /// agent that lost its hints reads everything, but has no reason to send everything.
    likely: Vec<Option<usize>>,
}

impl Survey {
    /// What has to be read.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().zip(&self.reuse).filter(|(_, reuse)| reuse.is_none()).map(|(e, _)| e)
    }

    /// Compares a source's entries, sorted by path, with the last point.
    pub(crate) fn make(source: &str, entries: Vec<Entry>, previous: Option<&Previous>) -> Self {
        let mut survey = Self {
            source: source.to_owned(),
            reuse: vec![None; entries.len()],
            likely: vec![None; entries.len()],
            entries,
        };
        let Some(previous) = previous else { return survey };
        let items = &previous.current.items;
        let mut at = items.partition_point(|item| item.key.source.as_str() < source);
        for (place, entry) in survey.entries.iter().enumerate() {
            while items
                .get(at)
                .is_some_and(|item| item.key.source == source && item.key.path < entry.path)
            {
                at += 1;
            }
            let Some(item) = items.get(at) else { break };
            if item.key.source != source || item.key.path != entry.path || !looks_like(item, entry)
            {
                continue;
            }
            survey.likely[place] = Some(at);
            let hint = previous.hints.get(at).copied().flatten();
            if hint == Some(Hint::of(&entry.stat))
                && keeps_its_place(item, entry.place == Place::KeyBundle)
            {
                survey.reuse[place] = Some(at);
            }
        }
        survey
    }

    /// Has everything read anew whose blobs are in one of these bundles.
    pub(crate) fn read_again(&mut self, items: &[Item], bundles: &BTreeSet<BundleId>) {
        for reuse in &mut self.reuse {
            let mut stays = true;
            if let Some(index) = reuse {
                let mut pieces = items[*index].content.iter().filter_map(Piece::config_blob);
                stays = pieces.all(|(bundle, _)| !bundles.contains(&bundle));
            }
            *reuse = reuse.filter(|_| stays);
        }
    }

    /// Has everything read anew.
    pub(crate) fn read_all(&mut self) {
        self.reuse.fill(None);
    }
}

/// Whether nothing needs to be read, and nothing is gone.
pub(crate) fn is_unchanged(surveys: &[Survey], previous: &Previous) -> bool {
    let reused: usize = surveys.iter().map(|s| s.reuse.iter().flatten().count()).sum();
    surveys.iter().all(|survey| survey.reuse.iter().all(Option::is_some))
        && reused == previous.current.items.len()
}

/// Items that a delta against the base would probably list.
pub(crate) fn delta_items(surveys: &[Survey], previous: &Previous) -> u64 {
    let diff = bundle::diff(&previous.base.manifest.items, &previous.current.items);
    let already: BTreeSet<&ItemKey> = diff
        .added
        .iter()
        .chain(&diff.removed)
        .map(|item| &item.key)
        .chain(diff.changed.iter().map(|change| &change.new.key))
        .collect();
    let mut seen = BTreeSet::new();
    let mut fresh = 0_u64;
    for survey in surveys {
        for (entry, likely) in survey.entries.iter().zip(&survey.likely) {
            let key = ItemKey { source: survey.source.clone(), path: entry.path.clone() };
            if likely.is_none() && !already.contains(&key) {
                fresh += 1;
            }
            seen.insert(key);
        }
    }
    let gone = previous
        .current
        .items
        .iter()
        .filter(|item| !seen.contains(&item.key) && !already.contains(&item.key))
        .count();
    already.len() as u64 + fresh + gone as u64
}

/// How much of each config bundle items that probably did not change still need.
pub(crate) fn usages(
    surveys: &[Survey],
    items: &[Item],
    totals: &BTreeMap<BundleId, u64>,
) -> Vec<Usage> {
    let mut live: BTreeMap<BundleId, HashMap<u64, u64>> = BTreeMap::new();
    for index in surveys.iter().flat_map(|survey| survey.likely.iter().flatten()) {
        for (bundle, blob) in items[*index].content.iter().filter_map(Piece::config_blob) {
            // A record that several items share is there once.
            live.entry(bundle).or_default().insert(blob.offset, blob.record_len());
        }
    }
    totals
        .iter()
        .map(|(bundle, total)| Usage {
            bundle: *bundle,
            live: live.get(bundle).map_or(0, |records| records.values().sum()),
            total: *total,
        })
        .collect()
}

/// Blobs of the last point that need not be sealed again.
pub(crate) fn known_blobs(items: &[Item], except: &BTreeSet<BundleId>) -> KnownBlobs {
    items
        .iter()
        .flat_map(|item| &item.content)
        .filter_map(|piece| match *piece {
            Piece::Blob { id, location: Location::Config { bundle, .. }, .. }
                if !except.contains(&bundle) =>
            {
                Some((id, *piece))
            }
            _ => None,
        })
        .collect()
}

/// The new point's items and what to remember of each.
pub(crate) struct Assembled {
    pub(crate) items: Vec<Item>,
    pub(crate) hints: Vec<Option<Hint>>,
}

/// Puts reused and newly read items together. What vanished meanwhile is left out.
pub(crate) fn assemble(
    surveys: &[Survey],
    output: &SealOutput,
    previous: Option<&Previous>,
    listed: LogTime,
) -> Result<Assembled, BackupError> {
    let mut assembled = Assembled { items: Vec::new(), hints: Vec::new() };
    for ((survey, collected), troubles) in
        surveys.iter().zip(&output.collected).zip(&output.troubles)
    {
        let troubled: BTreeSet<&[u8]> = troubles.iter().map(|(_, path)| &path[..]).collect();
        let mut collected = collected.iter().peekable();
        for (entry, reuse) in survey.entries.iter().zip(&survey.reuse) {
            if let Some((index, previous)) = reuse.zip(previous) {
                assembled.items.push(previous.current.items[index].clone());
                assembled.hints.push(previous.hints[index]);
            } else if let Some(read) = collected.next_if(|read| read.entry.path == entry.path) {
                assembled.items.push(output.item(&survey.source, read)?);
                let stat = &read.entry.stat;
                let sure =
                    is_settled(stat.changed, listed) && !troubled.contains(&read.entry.path[..]);
                assembled.hints.push(sure.then(|| Hint::of(stat)));
            }
        }
    }
    Ok(assembled)
}

/// Whether two lists are the same to the byte, so that a statement can stand for a manifest.
pub(crate) fn same_list(items: &[Item], current: &Manifest) -> bool {
    items == current.items
}

fn is_settled(changed: Timestamp, listed: LogTime) -> bool {
    let seconds = u64::try_from(changed.seconds).unwrap_or(0);
    let millis = seconds.saturating_mul(1000) + u64::from(changed.nanoseconds / 1_000_000);
    let tick = if changed.nanoseconds == 0 { COARSE_TICK_MILLIS } else { TICK_MILLIS };
    millis.saturating_add(tick) < listed.as_millis()
}

/// Whether an entry has the kind, size and attributes that the item had.
fn looks_like(item: &Item, entry: &Entry) -> bool {
    let stat = &entry.stat;
    let kind = match entry.kind {
        EntryKind::File => item.kind == ItemKind::File && item.size == stat.size,
        EntryKind::Object => item.kind == ItemKind::Object && item.size == stat.size,
        EntryKind::Directory => item.kind == ItemKind::Directory,
        EntryKind::Symlink => item.kind == ItemKind::Symlink,
    };
    kind && item.mode == stat.mode
        && (item.uid, item.gid) == (stat.uid, stat.gid)
        && (item.modified.seconds, item.modified.nanos)
            == (stat.modified.seconds, stat.modified.nanoseconds)
}

/// Whether an item's content is where the config now wants it: key bundle or config bundle.
fn keeps_its_place(item: &Item, secret: bool) -> bool {
    item.content.iter().all(|piece| match piece {
        Piece::Blob { location, .. } => (*location == Location::Key) == secret,
        Piece::Hole { .. } => true,
    })
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;

//! What a restore will do, item by item, decided before anything is touched (invariant P1). Pure:
//! from the point's items and what is at the target now, to actions with their reasons.

use std::collections::{BTreeMap, BTreeSet};

use bundle::{Item, ItemKind, Manifest};
use serde::Serialize;

use super::RestoreError;
use crate::beneath::split;
use crate::patterns::Selection;

/// What to do where the target already holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConflictPolicy {
    /// Leave it as it is.
    Skip,
    /// Replace it, after a safety file was made of it.
    Overwrite,
    /// Refuse the whole restore before anything is touched.
    #[default]
    Fail,
}

/// What is done with one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing is there: it is made.
    Create,
    /// Something else is there and is replaced, or its attributes are.
    Overwrite,
    /// It is there and only its times are set, or it is the target itself, whose attributes are.
    Adjust,
    /// It is already as it was.
    Unchanged,
    /// Something else is there and stays.
    Skip,
    /// Something else is there and the policy is to fail.
    Conflict,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is there.
    Absent,
    /// All is equal.
    Equal,
    /// The bytes, or a link's target, differ.
    ContentDiffers,
    /// Mode, owner, time, links or extended attributes differ.
    AttributesDiffer,
    /// Another kind of thing is there.
    OtherKind,
    /// A directory with something in it stands where no directory should be. Never removed.
    DirectoryInTheWay,
    /// What should be its directory is something else, and stays.
    ParentInTheWay,
    /// It may not be read, so it is not known what it is.
    Unreadable,
}

impl Reason {
    /// The words on a plan.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "nothing is there",
            Self::Equal => "already as it was",
            Self::ContentDiffers => "content differs",
            Self::AttributesDiffer => "attributes differ",
            Self::OtherKind => "another kind of thing is there",
            Self::DirectoryInTheWay => "a directory with contents is in the way",
            Self::ParentInTheWay => "its directory is something else",
            Self::Unreadable => "it may not be read, so it cannot be compared or kept",
        }
    }
}

/// What is at an item's place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// Nothing.
    Absent,
    /// The same, as far as the rights of this process allow to compare.
    Same,
    /// The same kind with other bytes or another link target.
    Content,
    /// The same content with another mode, owner, link or extended attribute.
    Attributes,
    /// A directory whose times differ, which they do as soon as anything in it is made.
    Times,
    /// The same but for a modification time that is the item's as a coarse file system rounds it.
    RoundedTime,
    /// A file that this user may not read, so that nobody knows whether it is the same.
    Unreadable,
    /// The target itself, empty and this user's, with other attributes: made to be restored into.
    EmptyTarget,
    /// Another kind.
    Other,
    /// A directory that is not empty, where none should be.
    FullDirectory,
    /// A fifo, socket or device, of which no safety file can be made.
    Special,
}

/// One line of the plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedItem {
    /// Path beneath the target directory, any bytes.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// file, directory or symlink.
    pub kind: &'static str,
    /// What is done.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Where only attributes differ: which, from what is there to what it was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// Bytes of content.
    pub bytes: u64,
    /// Whether it is only there because something in it is restored.
    pub parent_only: bool,
    /// Place in the manifest's list.
    #[serde(skip)]
    pub(crate) index: usize,
}

fn lossy<S: serde::Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(path))
}

/// Everything a restore will do.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlan {
    /// Sorted by path.
    pub items: Vec<PlannedItem>,
    /// Sums of it.
    pub totals: PlanTotals,
}

/// Sums of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlanTotals {
    /// Items to be made.
    pub create: u64,
    /// Items to be replaced.
    pub overwrite: u64,
    /// Items of which only times, or of the target itself attributes, are set.
    pub adjust: u64,
    /// Items already as they were.
    pub unchanged: u64,
    /// Items that stay different.
    pub skip: u64,
    /// Items that keep the restore from beginning.
    pub conflict: u64,
    /// Bytes to be written.
    pub bytes: u64,
}

impl RestorePlan {
    pub(crate) fn new(items: Vec<PlannedItem>) -> Self {
        let mut totals = PlanTotals::default();
        for item in &items {
            match item.action {
                Action::Create => totals.create += 1,
                Action::Overwrite => totals.overwrite += 1,
                Action::Adjust => totals.adjust += 1,
                Action::Unchanged => totals.unchanged += 1,
                Action::Skip => totals.skip += 1,
                Action::Conflict => totals.conflict += 1,
            }
            if writes_content(item) {
                totals.bytes += item.bytes;
            }
        }
        Self { items, totals }
    }

    /// Whether carrying it out would change nothing.
    #[must_use]
    pub const fn changes_nothing(&self) -> bool {
        self.totals.create == 0 && self.totals.overwrite == 0 && self.totals.adjust == 0
    }

    /// What keeps it from beginning.
    pub fn conflicts(&self) -> impl Iterator<Item = &PlannedItem> {
        self.items.iter().filter(|item| item.action == Action::Conflict)
    }
}

/// Whether an item's bytes are written, and not only its attributes.
pub(crate) fn writes_content(item: &PlannedItem) -> bool {
    match item.action {
        Action::Create => true,
        Action::Overwrite => item.reason != Reason::AttributesDiffer,
        Action::Adjust | Action::Unchanged | Action::Skip | Action::Conflict => false,
    }
}

/// An item that was chosen, with its path beneath the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) index: usize,
    pub(crate) path: Vec<u8>,
    pub(crate) parent_only: bool,
}

/// The path of an item beneath the target: with several sources, each has a directory.
pub(crate) fn target_path(item: &Item, several_sources: bool) -> Vec<u8> {
    if !several_sources {
        return item.key.path.clone();
    }
    let source = item.key.source.as_bytes();
    if item.key.path.is_empty() {
        return source.to_vec();
    }
    [source, b"/", &item.key.path].concat()
}

/// Chooses items and the directories above them, and refuses a list that could write outside of
/// the target.
pub(crate) fn choose(
    manifest: &Manifest,
    selection: &Selection,
) -> Result<Vec<Chosen>, RestoreError> {
    let several = manifest.proofs.len() > 1;
    let mut kinds: BTreeMap<Vec<u8>, (usize, ItemKind)> = BTreeMap::new();
    for (index, item) in manifest.items.iter().enumerate() {
        let path = target_path(item, several);
        if !is_safe(&path) || kinds.insert(path, (index, item.kind)).is_some() {
            return Err(RestoreError::UnsafeItem { index });
        }
        if matches!(item.kind, ItemKind::Other(_)) {
            return Err(RestoreError::UnknownKind { index });
        }
    }
    let mut parents = BTreeSet::new();
    let mut chosen = BTreeMap::new();
    for (path, (index, _)) in &kinds {
        let mut above = &path[..];
        while !above.is_empty() {
            above = split(above).0;
            let Some((_, kind)) = kinds.get(above) else { continue };
            if *kind != ItemKind::Directory {
                // A link or file as a directory: nobody lists such a tree.
                return Err(RestoreError::UnsafeItem { index: *index });
            }
        }
        // The root is no name that a pattern could match.
        let whole = selection.include.is_empty();
        if (path.is_empty() && whole) || (!path.is_empty() && selection.chooses(path)) {
            chosen.insert(path, *index);
            let mut above = &path[..];
            while !above.is_empty() {
                above = split(above).0;
                if !parents.insert(above) {
                    break;
                }
            }
        }
    }
    if chosen.keys().all(|path| path.is_empty()) && !kinds.keys().all(|path| path.is_empty()) {
        return Err(RestoreError::NothingMatches);
    }
    Ok(kinds
        .iter()
        .filter_map(|(path, (index, _))| {
            let parent_only = !chosen.contains_key(path);
            (!parent_only || parents.contains(&path[..])).then(|| Chosen {
                index: *index,
                path: path.clone(),
                parent_only,
            })
        })
        .collect())
}

/// Whether a path stays beneath its root: no absolute one, no `..`, no empty part, no NUL.
fn is_safe(path: &[u8]) -> bool {
    path.is_empty()
        || (!path.contains(&0)
            && path
                .split(|byte| *byte == b'/')
                .all(|part| !part.is_empty() && part != b"." && part != b".."))
}

/// What to do with one item.
pub(crate) fn decide(
    observed: Observed,
    policy: ConflictPolicy,
    parent_only: bool,
) -> (Action, Reason) {
    let differs = |reason| {
        let action = match policy {
            ConflictPolicy::Skip => Action::Skip,
            ConflictPolicy::Overwrite => Action::Overwrite,
            ConflictPolicy::Fail => Action::Conflict,
        };
        (action, reason)
    };
    match observed {
        Observed::Absent => (Action::Create, Reason::Absent),
        Observed::Same => (Action::Unchanged, Reason::Equal),
        // A directory that is only passed through stays as it is.
        Observed::Times | Observed::Attributes | Observed::EmptyTarget if parent_only => {
            (Action::Unchanged, Reason::Equal)
        }
        Observed::Times | Observed::RoundedTime | Observed::EmptyTarget
            if policy == ConflictPolicy::Skip =>
        {
            (Action::Skip, Reason::AttributesDiffer)
        }
        // Set again, it is exact, or shows that this file system cannot.
        Observed::RoundedTime => (Action::Adjust, Reason::AttributesDiffer),
        Observed::Unreadable => never(differs(Reason::Unreadable)),
        // An empty target has nothing of anybody's in it. Left with the mode that `mkdir` gave it,
        // it could show everybody what the point kept from them.
        Observed::Times | Observed::EmptyTarget => (Action::Adjust, Reason::AttributesDiffer),
        // Also of the target itself, with somebody's files in it: who may look into it is changed
        // only where that was asked for, and kept in the safety file before.
        Observed::Attributes => differs(Reason::AttributesDiffer),
        Observed::Content => differs(Reason::ContentDiffers),
        Observed::Other => differs(Reason::OtherKind),
        Observed::FullDirectory => never(differs(Reason::DirectoryInTheWay)),
        Observed::Special => never(differs(Reason::OtherKind)),
    }
}

/// What no policy overwrites.
const fn never((action, reason): (Action, Reason)) -> (Action, Reason) {
    match action {
        Action::Overwrite => (Action::Conflict, reason),
        other => (other, reason),
    }
}

/// Items beneath something that stays in the way cannot be made either.
pub(crate) fn block_children(items: &mut [PlannedItem]) {
    let mut blocked: BTreeSet<Vec<u8>> = BTreeSet::new();
    for item in items {
        let parent = split(&item.path).0;
        if !item.path.is_empty() && blocked.contains(parent) {
            if item.action != Action::Conflict {
                item.action = Action::Skip;
            }
            item.reason = Reason::ParentInTheWay;
            blocked.insert(item.path.clone());
        } else if matches!(item.action, Action::Skip | Action::Conflict)
            && matches!(item.reason, Reason::OtherKind | Reason::DirectoryInTheWay)
        {
            blocked.insert(item.path.clone());
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

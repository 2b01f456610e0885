//! From manifests to manifests: a delta against a full base, base and delta merged, and what
//! changed between two points. Pure functions over sorted lists.

use std::cmp::Ordering;

use proto_types::BundleId;

use crate::manifest::{Form, Item, ItemKey, Manifest, ManifestError, Totals};

/// The whole list of a delta's point: the base's items, those removed left out, those added or
/// changed replaced. What comes out has the delta's sequence, key bundle and proofs, and the
/// delta's totals must be its own.
///
/// # Errors
/// [`ManifestError::WrongBase`] or [`ManifestError::WrongForm`] when they do not belong
/// together, [`ManifestError::Totals`] when the result is not what the delta's sealer had.
pub fn merge(
    base_id: BundleId,
    base: Manifest,
    delta: Manifest,
) -> Result<Manifest, ManifestError> {
    only_full(&base)?;
    let Form::Delta { base: expected, removed } = delta.form else {
        return Err(ManifestError::WrongForm { expected: "delta", found: "full" });
    };
    if expected != base_id {
        return Err(ManifestError::WrongBase { expected, found: base_id });
    }
    let mut items = Vec::with_capacity(base.items.len() + delta.items.len());
    let mut upserts = delta.items.into_iter().peekable();
    let mut removed = removed.iter().peekable();
    for old in base.items {
        while let Some(new) = upserts.next_if(|new| new.key < old.key) {
            items.push(new);
        }
        if let Some(new) = upserts.next_if(|new| new.key == old.key) {
            items.push(new);
        } else if removed.next_if(|key| **key == old.key).is_none() {
            items.push(old);
        }
    }
    items.extend(upserts);
    if removed.next().is_some() {
        return Err(ManifestError::Field {
            what: "it removes an item that its base does not have",
        });
    }
    if Totals::of(&items) != delta.totals {
        return Err(ManifestError::Totals);
    }
    Ok(Manifest {
        sequence: delta.sequence,
        key_bundle: delta.key_bundle,
        form: Form::Full,
        items,
        totals: delta.totals,
        proofs: delta.proofs,
    })
}

/// The delta of a full list against a full base: what [`merge`] undoes. An item whose blobs only
/// moved counts as changed.
///
/// # Errors
/// [`ManifestError::WrongForm`] when one of them is a delta.
pub fn delta(
    base_id: BundleId,
    base: &Manifest,
    point: Manifest,
) -> Result<Manifest, ManifestError> {
    only_full(base)?;
    only_full(&point)?;
    let mut removed = Vec::new();
    let mut unchanged = Vec::with_capacity(point.items.len());
    for (old, new) in pairs(&base.items, &point.items) {
        match (old, new) {
            (Some(old), None) => removed.push(old.key.clone()),
            (old, Some(new)) => unchanged.push(old == Some(new)),
            (None, None) => {}
        }
    }
    let mut unchanged = unchanged.into_iter();
    let mut point = point;
    point.items.retain(|_| !unchanged.next().unwrap_or(false));
    Ok(Manifest { form: Form::Delta { base: base_id, removed }, ..point })
}

/// What is different between two lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff<'a> {
    /// Only in the newer.
    pub added: Vec<&'a Item>,
    /// Only in the older.
    pub removed: Vec<&'a Item>,
    /// In both, and different.
    pub changed: Vec<Change<'a>>,
}

/// An item that two points hold differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// As it was.
    pub old: &'a Item,
    /// As it is.
    pub new: &'a Item,
    /// Bytes or link target differ. Always so between lineages, whose blob ids do not compare.
    pub content: bool,
    /// Mode, owner, time, links or extended attributes differ.
    pub metadata: bool,
}

/// Compares two sorted lists of one cluster; where blobs are stored makes no difference.
#[must_use]
pub fn diff<'a>(old: &'a [Item], new: &'a [Item]) -> Diff<'a> {
    let mut diff = Diff::default();
    for pair in pairs(old, new) {
        match pair {
            (None, Some(new)) => diff.added.push(new),
            (Some(old), None) => diff.removed.push(old),
            (Some(old), Some(new)) => {
                let (content, metadata) = (!old.same_content(new), !old.same_metadata(new));
                if content || metadata {
                    diff.changed.push(Change { old, new, content, metadata });
                }
            }
            (None, None) => {}
        }
    }
    diff
}

fn only_full(manifest: &Manifest) -> Result<(), ManifestError> {
    match manifest.form {
        Form::Full => Ok(()),
        Form::Delta { .. } => {
            Err(ManifestError::WrongForm { expected: "full", found: manifest.form.as_str() })
        }
    }
}

/// Walks two sorted lists together; items with equal keys come as one pair.
fn pairs<'a>(
    old: &'a [Item],
    new: &'a [Item],
) -> impl Iterator<Item = (Option<&'a Item>, Option<&'a Item>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let key = |item: &&'a Item| -> &'a ItemKey { &item.key };
        let order = match (old.peek().map(key), new.peek().map(key)) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.cmp(new),
        };
        Some(match order {
            Ordering::Less => (old.next(), None),
            Ordering::Greater => (None, new.next()),
            Ordering::Equal => (old.next(), new.next()),
        })
    })
}

//! What a restore would change, to be read by a person: attributes, and the lines of small text
//! files. Secret content is never shown, only that it differs.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bundle::{Item, ItemKind, Location, Piece};
use serde::Serialize;
use similar::TextDiff;
use zeroize::Zeroizing;

use super::observe::{Rights, attribute_changes};
use super::plan::{Action, PlannedItem, Reason, RestorePlan};
use super::target::place;
use super::{RestoreError, RestoreOptions};
use crate::beneath::Root;
use crate::opened::OpenedPoint;
use crate::point_store::coalesce;

/// Larger files are not shown line by line.
const TEXT_BYTES_MAX: u64 = 256 << 10;
/// Two texts that have little in common take long to compare well; then they are compared less
/// well.
const COMPARING_MAX: Duration = Duration::from_secs(2);
/// All texts together.
const TEXTS_BYTES_MAX: u64 = 32 << 20;

/// What would change of one item.
#[derive(Debug, Clone, Serialize)]
pub struct ItemDiff {
    /// Its path, with what is not UTF-8 replaced.
    pub path: String,
    /// What the plan does.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// One sentence per change of attributes or of content that is not shown.
    pub changes: Vec<String>,
    /// A unified diff from what is there to what would be, of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Describes everything in the plan that differs, in order of paths.
///
/// # Errors
/// When the point or the target cannot be read.
pub async fn diff(
    point: &OpenedPoint,
    plan: &RestorePlan,
    options: &RestoreOptions,
) -> Result<Vec<ItemDiff>, RestoreError> {
    let manifest = point.manifest().clone();
    let differing: Vec<PlannedItem> =
        plan.items.iter().filter(|planned| planned.action != Action::Unchanged).cloned().collect();
    let shown = show_as_text(&differing, &manifest.items);
    let mut wanted = Vec::new();
    for index in &shown {
        let mut offset = 0;
        for piece in &manifest.items[*index].content {
            if let Some((bundle, blob)) = piece.config_blob() {
                wanted.push((bundle, blob, (*index, offset)));
            }
            offset += piece.plain_len();
        }
    }
    let texts: Arc<Mutex<HashMap<usize, Vec<u8>>>> = Arc::new(Mutex::new(
        shown
            .iter()
            .map(|index| {
                let len = usize::try_from(manifest.items[*index].size).unwrap_or(0);
                (*index, vec![0; len])
            })
            .collect(),
    ));
    let filling = texts.clone();
    point
        .for_each_blob(coalesce(wanted), move |(index, offset): (usize, u64), bytes| {
            let mut texts = filling.lock().unwrap_or_else(PoisonError::into_inner);
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            if let Some(place) = texts
                .get_mut(&index)
                .and_then(|text| text.get_mut(offset..offset.checked_add(bytes.len())?))
            {
                place.copy_from_slice(&bytes);
            }
            Ok::<_, RestoreError>(())
        })
        .await?;
    let texts = std::mem::take(&mut *texts.lock().unwrap_or_else(PoisonError::into_inner));
    let to = options.to.clone();
    let described = point.env().blocking("describe differences", move || {
        let root = Root::open(&to).ok();
        let describe = |planned: &PlannedItem| {
            let item = &manifest.items[planned.index];
            describe(planned, item, root.as_ref(), texts.get(&planned.index).map(|t| &t[..]))
                .map_err(|source| RestoreError::Observe { path: place(&to, &planned.path), source })
        };
        differing.iter().map(describe).collect()
    });
    described.await?
}

/// Which items' new content is fetched to be shown: places in the manifest.
fn show_as_text(differing: &[PlannedItem], items: &[Item]) -> Vec<usize> {
    let mut total = 0;
    differing
        .iter()
        .filter(|planned| matches!(planned.reason, Reason::Absent | Reason::ContentDiffers))
        .map(|planned| planned.index)
        .filter(|index| {
            let item = &items[*index];
            let fits = item.kind.is_bytes()
                && item.size <= TEXT_BYTES_MAX
                && total + item.size <= TEXTS_BYTES_MAX
                && !is_secret(item);
            total += if fits { item.size } else { 0 };
            fits
        })
        .collect()
}

fn is_secret(item: &Item) -> bool {
    item.content.iter().any(|piece| matches!(piece, Piece::Blob { location: Location::Key, .. }))
}

fn describe(
    planned: &PlannedItem,
    item: &Item,
    root: Option<&Root>,
    new: Option<&[u8]>,
) -> std::io::Result<ItemDiff> {
    let path = String::from_utf8_lossy(&planned.path).into_owned();
    let mut changes = Vec::new();
    let mut text = None;
    match planned.reason {
        Reason::Absent => changes.push(format!("{} is made", planned.kind)),
        Reason::ContentDiffers if item.kind == ItemKind::Symlink => {
            changes.push(format!("now leads to {}", String::from_utf8_lossy(&item.link_target)));
        }
        Reason::ContentDiffers if is_secret(item) => {
            changes.push("secret content differs (not shown)".to_owned());
        }
        Reason::ContentDiffers => changes.push("content differs".to_owned()),
        Reason::OtherKind
        | Reason::DirectoryInTheWay
        | Reason::ParentInTheWay
        | Reason::Unreadable => {
            changes.push(planned.reason.as_str().to_owned());
        }
        Reason::AttributesDiffer | Reason::Equal => {}
    }
    changes.extend(planned.changes.iter().cloned());
    if let Some(root) = root
        && planned.reason == Reason::ContentDiffers
    {
        let rights = Rights::of_this_process();
        let (_, found) =
            attribute_changes(root, &planned.path, item, rights).map_err(|error| error.source)?;
        changes.extend(found);
    }
    if let Some(new) = new {
        let old = match (planned.reason, root) {
            (Reason::ContentDiffers, Some(root)) => read_small(root, &planned.path)?,
            _ => Some(Zeroizing::new(Vec::new())),
        };
        text = old.and_then(|old| unified(&path, &old, new));
    }
    Ok(ItemDiff { path, action: planned.action, reason: planned.reason, changes, text })
}

/// What is there, if it is small enough to be shown.
fn read_small(root: &Root, path: &[u8]) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = root.file(path)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= TEXT_BYTES_MAX).then_some(bytes))
}

/// A unified diff, if both are text.
fn unified(path: &str, old: &[u8], new: &[u8]) -> Option<String> {
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let (old, new) = (text(old)?, text(new)?);
    let diff = TextDiff::configure().timeout(COMPARING_MAX).diff_lines(old, new);
    // A name with a line end in it would be lines of the diff.
    let path = crate::shown::plain(path);
    Some(diff.unified_diff().header(&format!("a/{path}"), &format!("b/{path}")).to_string())
}

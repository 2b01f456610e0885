//! Carrying a plan out, in this order: directories, so that there is a place for everything;
//! files; further names and links; then the directories' own attributes, deepest first, because
//! making something in a directory moves its time; then one sync of the whole file system, which
//! is far cheaper than one per file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bundle::{BlobRef, Item, ItemKind, Keyring, Location, Manifest, Piece, Secrets};
use proto_types::BundleId;

use super::plan::{Action, PlannedItem, Reason, RestorePlan, writes_content};
use super::target::Target;
use super::{RestoreError, RestoreReport};
use crate::opened::OpenedPoint;
use crate::point_store::coalesce;
use crate::progress::{Phase, Progress, ProgressEvent};

pub(super) async fn apply(
    point: &OpenedPoint,
    plan: &Arc<RestorePlan>,
    target: &Arc<Target>,
    progress: &Arc<dyn Progress>,
    report: &mut RestoreReport,
) -> Result<(), RestoreError> {
    let env = point.env();
    let work = Arc::new(Work {
        manifest: point.manifest().clone(),
        keyring: point.keyring().clone(),
        plan: plan.clone(),
        leaders: leaders(plan, point.manifest()),
        progress: progress.clone(),
        bytes_done: AtomicU64::new(0),
        items_done: AtomicU64::new(0),
    });
    check_secrets(point, &work)?;
    let (begun, shared) = (work.clone(), target.clone());
    let secrets = point.secrets().clone();
    env.blocking("make directories", move || {
        begun.make_directories(&shared)?;
        begun.write_small(&shared, &secrets)
    })
    .await??;
    let ranges = coalesce(work.wanted());
    let (writing, shared) = (work.clone(), target.clone());
    point
        .for_each_blob(ranges, move |part: Part, bytes| writing.write_part(&shared, &part, &bytes))
        .await?;
    let (rest, shared) = (work.clone(), target.clone());
    env.blocking("finish a restore", move || {
        rest.make_names(&shared)?;
        rest.finish_directories(&shared)?;
        shared.sync()
    })
    .await??;
    report.bytes_written = work.bytes_done.load(Ordering::Relaxed);
    Ok(())
}

/// A key bundle that lacks a secret is found out before anything is touched.
fn check_secrets(point: &OpenedPoint, work: &Work) -> Result<(), RestoreError> {
    for (_, item) in work.files_to_write() {
        for piece in &item.content {
            if let Piece::Blob { id, location: Location::Key, .. } = piece {
                point.secret(id)?;
            }
        }
    }
    Ok(())
}

/// For each hard-linked file, the name that is written; the others become links to it.
fn leaders(plan: &RestorePlan, manifest: &Manifest) -> HashMap<(String, u64), usize> {
    let mut leaders = HashMap::new();
    for (at, planned) in plan.items.iter().enumerate() {
        let item = &manifest.items[planned.index];
        if let Some(group) = item.hard_link
            && !matches!(planned.action, Action::Skip | Action::Conflict)
        {
            leaders.entry((item.key.source.clone(), group)).or_insert(at);
        }
    }
    leaders
}

struct Work {
    manifest: Arc<Manifest>,
    keyring: Arc<Keyring>,
    plan: Arc<RestorePlan>,
    leaders: HashMap<(String, u64), usize>,
    progress: Arc<dyn Progress>,
    bytes_done: AtomicU64,
    items_done: AtomicU64,
}

/// A file of several pieces, which come in any order and on two threads.
struct Growing {
    at: usize,
    pending: AtomicUsize,
    begun: Mutex<bool>,
}

/// One piece and where it goes.
struct Part {
    file: Arc<Growing>,
    offset: u64,
}

impl Work {
    fn planned(&self, at: usize) -> (&PlannedItem, &Item) {
        let planned = &self.plan.items[at];
        (planned, &self.manifest.items[planned.index])
    }

    /// The place in the plan of the name that stands for a hard-linked file.
    fn leader(&self, item: &Item) -> Option<usize> {
        let group = item.hard_link?;
        self.leaders.get(&(item.key.source.clone(), group)).copied()
    }

    /// Files whose content is written, by their place in the plan.
    fn files_to_write(&self) -> impl Iterator<Item = (usize, &Item)> {
        (0..self.plan.items.len()).filter_map(|at| {
            let (planned, item) = self.planned(at);
            let leads = self.leader(item).is_none_or(|leader| leader == at);
            (item.kind.is_bytes() && writes_content(planned) && leads).then_some((at, item))
        })
    }

    fn make_directories(&self, target: &Target) -> Result<(), RestoreError> {
        for planned in &self.plan.items {
            let item = &self.manifest.items[planned.index];
            if item.kind != ItemKind::Directory {
                continue;
            }
            match planned.action {
                Action::Create => target.make_directory(&planned.path, Some(item), false)?,
                Action::Overwrite if planned.reason != Reason::AttributesDiffer => {
                    target.make_directory(&planned.path, Some(item), true)?;
                }
                // At once, so that what is restored into it is never seen by more than the point
                // lets see, and a restore that is interrupted and started again finds its own.
                Action::Adjust if planned.path.is_empty() => {
                    target.make_directory(&planned.path, Some(item), false)?;
                }
                Action::Overwrite | Action::Adjust => target.open_up(&planned.path)?,
                Action::Unchanged if !planned.parent_only => target.open_up(&planned.path)?,
                Action::Unchanged | Action::Skip | Action::Conflict => {}
            }
        }
        Ok(())
    }

    /// Files without a blob in a config bundle: empty ones, holes, secrets.
    fn write_small(&self, target: &Target, secrets: &Secrets) -> Result<(), RestoreError> {
        for (at, item) in self.files_to_write() {
            if item.content.iter().any(|piece| piece.config_blob().is_some()) {
                continue;
            }
            let path = &self.plan.items[at].path;
            let file = target.begin_file(path, item.size)?;
            let mut offset = 0;
            for piece in &item.content {
                if let Piece::Blob { id, .. } = piece
                    && let Some(secret) = secrets.get(id)
                {
                    target.write(&file, path, offset, secret)?;
                }
                offset += piece.plain_len();
            }
            self.finish_file(target, &file, at, item.size)?;
        }
        Ok(())
    }

    /// The blobs to fetch, each with the piece it is.
    fn wanted(&self) -> Vec<(BundleId, BlobRef, Part)> {
        let mut wanted = Vec::new();
        for (at, item) in self.files_to_write() {
            let blobs = item.content.iter().filter(|p| p.config_blob().is_some()).count();
            let growing = Arc::new(Growing {
                at,
                pending: AtomicUsize::new(blobs),
                begun: Mutex::new(false),
            });
            let mut offset = 0;
            for piece in &item.content {
                if let Some((bundle, blob)) = piece.config_blob() {
                    wanted.push((bundle, blob, Part { file: growing.clone(), offset }));
                }
                offset += piece.plain_len();
            }
        }
        wanted
    }

    fn write_part(&self, target: &Target, part: &Part, bytes: &[u8]) -> Result<(), RestoreError> {
        let (planned, item) = self.planned(part.file.at);
        let path = &planned.path;
        let file = {
            let mut begun = part.file.begun.lock().unwrap_or_else(PoisonError::into_inner);
            let file = if *begun {
                // A descriptor per unfinished file could be too many: each piece opens anew.
                target.reopen_file(path)?
            } else {
                // A single piece needs no length before it is written.
                let alone = item.content.len() == 1;
                target.begin_file(path, if alone { 0 } else { item.size })?
            };
            *begun = true;
            file
        };
        target.write(&file, path, part.offset, bytes)?;
        // The last piece to be written finishes the file.
        if part.file.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            return self.finish_file(target, &file, part.file.at, item.size);
        }
        Ok(())
    }

    fn finish_file(
        &self,
        target: &Target,
        file: &std::fs::File,
        at: usize,
        bytes: u64,
    ) -> Result<(), RestoreError> {
        let (planned, item) = self.planned(at);
        let replace = planned.action == Action::Overwrite;
        target.finish_file(file, &planned.path, item, &self.keyring, replace)?;
        self.tell(bytes);
        Ok(())
    }

    fn tell(&self, bytes: u64) {
        let done = self.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let items = self.items_done.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.on(ProgressEvent {
            phase: Phase::Restoring,
            items,
            items_changed: self.plan.totals.create + self.plan.totals.overwrite,
            bytes_done: done,
            bytes_total: self.plan.totals.bytes,
        });
    }

    /// Further names of files, symbolic links, and files that only need their attributes.
    fn make_names(&self, target: &Target) -> Result<(), RestoreError> {
        for (at, planned) in self.plan.items.iter().enumerate() {
            let item = &self.manifest.items[planned.index];
            if planned.action == Action::Adjust && item.kind != ItemKind::Directory {
                target.set_times(&planned.path, item)?;
            }
            if !matches!(planned.action, Action::Create | Action::Overwrite) {
                continue;
            }
            let replace = planned.action == Action::Overwrite;
            match (item.kind, self.leader(item)) {
                (ItemKind::File | ItemKind::Object, Some(leader)) if leader != at => {
                    let leader = &self.plan.items[leader].path;
                    target.hard_link(leader, &planned.path, item, &self.keyring, replace)?;
                    self.tell(0);
                }
                (ItemKind::File | ItemKind::Object, _) if !writes_content(planned) => {
                    target.adjust(&planned.path, item, &self.keyring)?;
                    self.tell(0);
                }
                (ItemKind::Symlink, _) if writes_content(planned) => {
                    target.symlink(&planned.path, item, replace)?;
                    self.tell(0);
                }
                (ItemKind::Symlink, _) => {
                    target.adjust(&planned.path, item, &self.keyring)?;
                    self.tell(0);
                }
                (
                    ItemKind::File | ItemKind::Object | ItemKind::Directory | ItemKind::Other(_),
                    _,
                ) => {}
            }
        }
        Ok(())
    }

    /// Attributes of directories, deepest first.
    fn finish_directories(&self, target: &Target) -> Result<(), RestoreError> {
        for planned in self.plan.items.iter().rev() {
            let item = &self.manifest.items[planned.index];
            let ours = match planned.action {
                Action::Create | Action::Overwrite | Action::Adjust => true,
                Action::Unchanged => !planned.parent_only,
                Action::Skip | Action::Conflict => false,
            };
            if item.kind == ItemKind::Directory && ours {
                target.adjust(&planned.path, item, &self.keyring)?;
            }
        }
        Ok(())
    }
}

//! From a recovery point back to files: a plan first, printed and checked; then, where something
//! would be overwritten, a safety file; then the writing; then a comparison with the manifest
//! (design section 3, "The way back"). A restore that was interrupted is simply started again:
//! what is already equal is left alone.

mod apply;
mod diff;
mod observe;
mod plan;
mod safety;
mod target;

use std::path::PathBuf;
use std::sync::Arc;

use proto::env::BlockingPanicked;
use proto_types::Code;
use serde::Serialize;

use crate::backup::BackupError;
use crate::export::ExportError;
use crate::home::io_code;
use crate::opened::{OpenedPoint, PointError};
use crate::patterns::{PatternError, Patterns, Selection};
use crate::progress::{Phase, Progress, ProgressEvent};

pub use diff::{ItemDiff, diff};
pub use plan::{Action, ConflictPolicy, PlanTotals, PlannedItem, Reason, RestorePlan};

use observe::{Observer, Rights};
pub(crate) use safety::{is_safety_manifest, make_of_objects as safety_of_objects};
use target::{Excuses, ReadBack, Target};

/// What to restore and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The directory to restore into; made if it does not exist. With several sources in the
    /// point, each gets a directory of its name in it.
    pub to: PathBuf,
    /// What to restore; empty: all. Patterns match paths beneath `to`.
    pub include: Patterns,
    /// What to leave out.
    pub exclude: Patterns,
    /// What to do where the target holds something else.
    pub on_conflict: ConflictPolicy,
    /// Where a safety file is put; by default beside `to`.
    pub safety_directory: Option<PathBuf>,
}

/// Something that is not as the manifest says, after a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Unequal {
    /// Its path, with what is not UTF-8 replaced.
    pub path: String,
    /// What is different.
    pub what: &'static str,
}

/// What a restore did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RestoreReport {
    /// Sums of the plan that was carried out.
    pub totals: PlanTotals,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Where what was overwritten is kept, sealed.
    pub safety_file: Option<PathBuf>,
    /// Items that were compared with the manifest afterwards.
    pub compared: u64,
    /// Those that are not equal.
    pub unequal: Vec<Unequal>,
    /// Whether owners were restored and compared: only root may.
    pub owners: bool,
    /// Extended attributes that this target or this user could not take.
    pub attributes_not_set: u64,
    /// Modification times that this file system rounded when they were set, as reading them back
    /// showed. They are compared with what it made of them.
    pub times_rounded: u64,
    /// All that could not be set, by path; it was not compared either.
    pub not_set: Vec<Unequal>,
}

/// Why a restore did not happen, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The point could not be read.
    #[error(transparent)]
    Point(#[from] PointError),
    /// A pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The patterns choose nothing.
    #[error("nothing in the point matches the patterns: `backup show` lists what it holds")]
    NothingMatches,
    /// The point holds a path that could lead outside of the target.
    #[error(
        "item {index} of the point has a path that could lead outside of the target: it is \
         refused, and so is the restore"
    )]
    UnsafeItem {
        /// Its place in the list.
        index: usize,
    },
    /// A newer program made it.
    #[error("item {index} of the point is of a kind this program does not know: use a newer one")]
    UnknownKind {
        /// Its place in the list.
        index: usize,
    },
    /// The plan has conflicts.
    #[error(
        "{count} items at the target are different, for example {example}: nothing was changed; \
         choose another directory, or --on-conflict skip or overwrite"
    )]
    Conflicts {
        /// How many.
        count: u64,
        /// One of them, and why.
        example: String,
    },
    /// The target cannot be looked at.
    #[error("cannot read {}: {source}", crate::shown::path(path))]
    Observe {
        /// The place.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The target cannot be written.
    #[error(
        "cannot {what} {}: {source}; start the restore again when this is mended",
        crate::shown::path(path)
    )]
    Write {
        /// What was tried.
        what: &'static str,
        /// The place.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody wrote to the target meanwhile.
    #[error(
        "{} changed after the plan was made and was left as it is: start the restore again",
        crate::shown::path(path)
    )]
    TargetChanged {
        /// The place.
        path: PathBuf,
    },
    /// Somebody wrote to the target meanwhile, and what was found could not be put back.
    #[error(
        "{} changed after the plan was made; it could not be put back and is now {}: {source}; \
         move it yourself, then start the restore again",
        crate::shown::path(path),
        crate::shown::path(now)
    )]
    Displaced {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        now: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another restore works on the target.
    #[error("another restore into {} is under way", crate::shown::path(path))]
    Busy {
        /// The target.
        path: PathBuf,
    },
    /// It ended after some of the target was overwritten.
    #[error("{source}; what was overwritten so far is kept in {}", crate::shown::path(safety_file))]
    Unfinished {
        /// Where what was overwritten is kept, sealed.
        safety_file: PathBuf,
        /// What ended it.
        source: Box<RestoreError>,
    },
    /// The safety file could not be made, so nothing was overwritten.
    #[error("the safety file could not be made, so nothing was changed: {0}")]
    SafetySeal(#[source] BackupError),
    /// The safety file could not be written, so nothing was overwritten.
    #[error("the safety file could not be written, so nothing was changed: {0}")]
    SafetyWrite(#[source] ExportError),
    /// What is there now is not what the manifest says.
    #[error(
        "{} of {} restored items are not equal to the point: {}", report.unequal.len(),
        report.compared, first(&report.unequal)
    )]
    NotEqual {
        /// All that was done and found.
        report: Box<RestoreReport>,
    },
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] BlockingPanicked),
}

fn first(unequal: &[Unequal]) -> String {
    unequal
        .first()
        .map(|u| format!("{} ({})", crate::shown::plain(&u.path), u.what))
        .unwrap_or_default()
}

impl RestoreError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Point(error) => error.code(),
            Self::Pattern(error) => error.code(),
            Self::NothingMatches => Code::NothingMatches,
            Self::UnsafeItem { .. } => Code::Damaged,
            Self::UnknownKind { .. } => Code::UnsupportedVersion,
            Self::Conflicts { .. } | Self::TargetChanged { .. } | Self::Displaced { .. } => {
                Code::Conflict
            }
            Self::Observe { source, .. } | Self::Write { source, .. } => io_code(source),
            Self::Busy { .. } => Code::Busy,
            Self::Unfinished { source, .. } => source.code(),
            Self::SafetySeal(error) => error.code(),
            Self::SafetyWrite(error) => error.code(),
            Self::NotEqual { .. } => Code::NotEqual,
            Self::Panicked(_) => Code::Internal,
        }
    }
}

/// Looks at the target and decides what to do with every chosen item. Changes nothing.
///
/// # Errors
/// When nothing matches, an item is unsafe, or the target cannot be read. Conflicts are part of
/// the plan.
pub async fn plan(
    point: &OpenedPoint,
    options: &RestoreOptions,
) -> Result<RestorePlan, RestoreError> {
    let (manifest, keyring) = (point.manifest().clone(), point.keyring().clone());
    let options = options.clone();
    let planned = point.env().blocking("plan a restore", move || {
        let selection = Selection { include: options.include, exclude: options.exclude };
        let chosen = plan::choose(&manifest, &selection)?;
        let place = |path: &[u8]| target::place(&options.to, path);
        let rights = Rights::of_this_process();
        let mut observer = Observer::new(&options.to, &keyring, rights)
            .map_err(|e| RestoreError::Observe { path: options.to.clone(), source: e.source })?;
        let mut items = Vec::with_capacity(chosen.len());
        for chosen in chosen {
            let item = &manifest.items[chosen.index];
            let observed = observer.observe(&chosen.path, item).map_err(|error| {
                RestoreError::Observe { path: place(&chosen.path), source: error.source }
            })?;
            let (action, reason) = plan::decide(observed, options.on_conflict, chosen.parent_only);
            let changes = match reason {
                Reason::AttributesDiffer => observer.changes(&chosen.path, item).map_err(|e| {
                    RestoreError::Observe { path: place(&chosen.path), source: e.source }
                })?,
                _ => Vec::new(),
            };
            items.push(PlannedItem {
                kind: kind(item),
                changes,
                action,
                reason,
                bytes: item.size,
                parent_only: chosen.parent_only,
                index: chosen.index,
                path: chosen.path,
            });
        }
        plan::block_children(&mut items);
        Ok(RestorePlan::new(items))
    });
    planned.await?
}

fn kind(item: &bundle::Item) -> &'static str {
    match item.kind {
        bundle::ItemKind::File => "file",
        bundle::ItemKind::Directory => "directory",
        bundle::ItemKind::Symlink => "symlink",
        bundle::ItemKind::Object => "object",
        bundle::ItemKind::Other(_) => "other",
    }
}

/// Carries a plan out: safety file, writing, comparison.
///
/// # Errors
/// [`RestoreError::Conflicts`] before anything is touched; [`RestoreError::NotEqual`] when the
/// target does not equal the manifest afterwards; whatever kept it from being written.
pub async fn execute(
    point: &OpenedPoint,
    plan: &RestorePlan,
    options: &RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<RestoreReport, RestoreError> {
    if let Some(example) = plan.conflicts().next() {
        let path = target::place(&options.to, &example.path);
        return Err(RestoreError::Conflicts {
            count: plan.totals.conflict,
            example: format!("{} ({})", crate::shown::path(&path), example.reason.as_str()),
        });
    }
    let mut report = RestoreReport { totals: plan.totals, ..RestoreReport::default() };
    let plan = Arc::new(plan.clone());
    if plan.changes_nothing() {
        let nothing = (Excuses::new(), ReadBack::new());
        return compare(point, &plan, options, nothing, &progress, report).await;
    }
    let (to, random) = (options.to.clone(), point.env().random.clone());
    let mut target = point
        .env()
        .blocking("open the target", move || Target::open(&to, Rights::of_this_process(), &*random))
        .await??;
    if plan.totals.overwrite > 0 {
        progress.on(ProgressEvent::begin(Phase::Safety));
        let safety = safety::make(point, &plan, options, &progress).await?;
        report.safety_file = Some(safety.path);
        target.keep(safety.kept);
    }
    let safety_file = report.safety_file.clone();
    let done = write_and_compare(point, &plan, options, target, &progress, report).await;
    // From here on people need to know where it is, however it ended.
    done.map_err(|error| match safety_file {
        Some(safety_file) => RestoreError::Unfinished { safety_file, source: Box::new(error) },
        None => error,
    })
}

async fn write_and_compare(
    point: &OpenedPoint,
    plan: &Arc<RestorePlan>,
    options: &RestoreOptions,
    target: Target,
    progress: &Arc<dyn Progress>,
    mut report: RestoreReport,
) -> Result<RestoreReport, RestoreError> {
    let target = Arc::new(target);
    apply::apply(point, plan, &target, progress, &mut report).await?;
    let excuses = target.excuses();
    for (path, excuse) in &excuses {
        report.times_rounded += u64::from(excuse.modified.is_some());
        report.attributes_not_set += excuse.attributes.len() as u64;
        for (what, is_so) in [
            ("owner", excuse.owner),
            ("hard link, now a copy", excuse.link),
            ("extended attributes", !excuse.attributes.is_empty()),
        ] {
            if is_so {
                let path = String::from_utf8_lossy(path).into_owned();
                report.not_set.push(Unequal { path, what });
            }
        }
    }
    let noted = (excuses, target.read_back());
    compare(point, plan, options, noted, progress, report).await
}

/// Reads everything again that the plan did not skip, and compares it with the manifest.
async fn compare(
    point: &OpenedPoint,
    plan: &Arc<RestorePlan>,
    options: &RestoreOptions,
    (excuses, read_back): (Excuses, ReadBack),
    progress: &Arc<dyn Progress>,
    mut report: RestoreReport,
) -> Result<RestoreReport, RestoreError> {
    let (manifest, keyring) = (point.manifest().clone(), point.keyring().clone());
    let (plan, to, shown) = (plan.clone(), options.to.clone(), progress.clone());
    let rights = Rights::of_this_process();
    let compared = point.env().blocking("compare", move || {
        let failed =
            |path: &[u8], source| RestoreError::Observe { path: target::place(&to, path), source };
        let mut observer =
            Observer::new(&to, &keyring, rights).map_err(|e| failed(b"", e.source))?;
        observer = observer.excusing(excuses).believing(read_back);
        let mut event = ProgressEvent {
            bytes_total: plan.items.iter().map(|item| item.bytes).sum(),
            ..ProgressEvent::begin(Phase::Comparing)
        };
        let mut unequal = Vec::new();
        for planned in plan.items.iter().filter(|item| item.action != Action::Skip) {
            let observed = observer
                .observe(&planned.path, &manifest.items[planned.index])
                .map_err(|error| failed(&planned.path, error.source))?;
            event.items += 1;
            event.bytes_done += planned.bytes;
            if let Some(what) = difference(observed, planned.parent_only) {
                let path = String::from_utf8_lossy(&planned.path).into_owned();
                unequal.push(Unequal { path, what });
            }
            shown.on(event);
        }
        Ok::<_, RestoreError>((event.items, unequal))
    });
    (report.compared, report.unequal) = compared.await??;
    report.owners = rights.owners;
    progress.on(ProgressEvent { items: report.compared, ..ProgressEvent::begin(Phase::Done) });
    if report.unequal.is_empty() {
        Ok(report)
    } else {
        Err(RestoreError::NotEqual { report: Box::new(report) })
    }
}

const fn difference(observed: observe::Observed, parent_only: bool) -> Option<&'static str> {
    use observe::Observed;
    match observed {
        Observed::Same => None,
        // Its own attributes were not asked for.
        Observed::Attributes | Observed::Times | Observed::EmptyTarget if parent_only => None,
        Observed::Absent => Some("it is not there"),
        Observed::Content => Some("content differs"),
        Observed::Attributes | Observed::EmptyTarget => Some("attributes differ"),
        Observed::Times | Observed::RoundedTime => Some("times differ"),
        Observed::Unreadable => Some("it may not be read to be compared"),
        Observed::Other | Observed::FullDirectory | Observed::Special => Some("of another kind"),
    }
}

//! `strongroom backup export --offline`: recovery points out of the data directory of a coordinator
//! that does not run, and what that directory lacks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::export::write_export;
use agent::point_store::PointInfo;
use agent::shown;
use clap::Args;
use coordinator::offline::{About, Chosen, Offline, OfflinePoint, Which};
use proto_types::{ByteCount, Code, LogTime, PointName};
use serde::Serialize;

use super::ExportArgs;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::offline_store::OfflinePointStore;
use crate::output::count;
use crate::{progress, when};

/// Which points of a data directory.
#[derive(Debug, Args)]
pub struct ChoiceArgs {
    /// Only this cluster; its newest complete point [default: that of every cluster]
    #[arg(value_name = "CLUSTER", requires = "offline")]
    pub cluster: Option<String>,
    /// The newest one committed at or before this moment, instead of the newest of all
    #[arg(long, value_name = "TIME", requires = "offline", conflicts_with_all = ["point", "all"])]
    pub at: Option<String>,
    /// Every point that is complete here
    #[arg(long, requires = "offline", conflicts_with = "point")]
    pub all: bool,
}

#[derive(Serialize)]
struct OfflineView {
    data_dir: PathBuf,
    node_id: u64,
    fleet: String,
    fleet_id: String,
    /// The last log entry that is there, and up to where it is known to be committed.
    last_index: u64,
    committed_index: u64,
    log_time: String,
    log_time_ms: u64,
    /// Always `unproven`: a single coordinator cannot know what came later.
    freshness: &'static str,
    problems: Vec<String>,
    exported: Vec<ExportedView>,
    incomplete: Vec<IncompleteView>,
    #[serde(skip)]
    log_time_local: String,
}

#[derive(Serialize)]
struct ExportedView {
    point: String,
    file: PathBuf,
    bytes: u64,
    bundles: u64,
    proved: bool,
    /// Whether it is known to have been committed, and not only written down by this node.
    committed_known: bool,
    committed: String,
    committed_ms: u64,
    #[serde(skip)]
    committed_local: String,
}

#[derive(Serialize)]
struct IncompleteView {
    point: String,
    proved: bool,
    committed: String,
    committed_ms: u64,
    lacks: Vec<LackView>,
}

#[derive(Serialize)]
struct LackView {
    id: String,
    kind: &'static str,
    bytes: u64,
    what: &'static str,
}

/// What is to be read, one row a cluster.
type Wanted = Vec<(String, Which)>;

pub(super) async fn export(
    directory: &Path,
    arguments: &ExportArgs,
    context: &Context,
) -> Result<()> {
    let at = match &arguments.choice.at {
        Some(text) => Some(when::parse(text, &context.now).map_err(CliError::usage)?),
        None => None,
    };
    let opened = directory.to_owned();
    let offline = context.env.blocking("open a data directory", move || Offline::open(&opened));
    let offline = Arc::new(offline.await.map_err(agent::export::ExportError::from)??);
    let wanted = wanted(&offline, arguments, at);
    let about = offline.about().clone();
    for problem in &about.problems {
        context.screen.note(&format!("warning: {problem}"));
    }
    let mut view = OfflineView::of(directory, &about, context);
    let into = Into::of(arguments, &wanted)?;
    let mut unanswered = Vec::new();
    for (cluster, which) in wanted {
        let reader = offline.clone();
        let name = cluster.clone();
        let choosing = context.env.blocking("look at bundles", move || reader.choose(&name, which));
        let chosen = match choosing.await.map_err(agent::export::ExportError::from)? {
            Ok(chosen) => chosen,
            // Of all clusters one may have no point yet.
            Err(error) if error.code() == Code::PointNotFound && !arguments.is_of_one() => {
                context.screen.note(&format!("warning: {}", error.message()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if chosen.complete.is_empty() {
            unanswered.push(chosen.incomplete.first().map_or(cluster, name_of));
        }
        write(&offline, &chosen, &into, &mut view, context).await?;
        view.incomplete.extend(chosen.incomplete.iter().map(IncompleteView::from));
    }
    context.screen.show(&view, OfflineView::describe)?;
    if unanswered.is_empty() {
        return Ok(());
    }
    Err(CliError::new(
        Code::BundleNotFound,
        format!(
            "nothing complete to export for {}: this coordinator lacks bundles of it",
            unanswered.join(", ")
        ),
    )
    .with_remedy(
        "try the data directory of another coordinator, or an older point with --at or --all",
    ))
}

impl ExportArgs {
    const fn is_of_one(&self) -> bool {
        self.point.is_some() || self.choice.cluster.is_some()
    }
}

fn wanted(offline: &Offline, arguments: &ExportArgs, at: Option<LogTime>) -> Wanted {
    if let Some(PointName { cluster, sequence }) = &arguments.point {
        return vec![(cluster.clone(), Which::Sequence(*sequence))];
    }
    let which = if arguments.choice.all { Which::All } else { Which::Newest(at) };
    match &arguments.choice.cluster {
        Some(cluster) => vec![(cluster.clone(), which)],
        None => offline.clusters().into_iter().map(|name| (name, which)).collect(),
    }
}

/// Where files go.
enum Into {
    File(PathBuf),
    Directory(PathBuf),
}

impl Into {
    /// One point goes to the file that was named, unless that is a directory.
    fn of(arguments: &ExportArgs, wanted: &Wanted) -> Result<Self> {
        let out = arguments.out.clone();
        let is_one = arguments.is_of_one() && wanted.iter().all(|(_, which)| *which != Which::All);
        if is_one && !out.is_dir() {
            return Ok(Self::File(out));
        }
        std::fs::create_dir_all(&out).map_err(|e| CliError::io("make the directory", &out, &e))?;
        Ok(Self::Directory(out))
    }

    fn path(&self, info: &PointInfo) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Directory(directory) => {
                directory.join(format!("{}-{}.srx", info.cluster_name, info.sequence))
            }
        }
    }
}

async fn write(
    offline: &Arc<Offline>,
    chosen: &Chosen,
    into: &Into,
    view: &mut OfflineView,
    context: &Context,
) -> Result<()> {
    for found in &chosen.complete {
        let info = PointInfo::from_wire(offline.about().fleet, found.point.clone())?;
        let file = into.path(&info);
        let committed = info.committed_ms;
        let store = Arc::new(OfflinePointStore::new(offline.clone(), info, context.env.clone()));
        let (bar, progress) = progress::shown(&context.screen);
        let written = write_export(&(store as _), &file, &context.env, progress).await;
        bar.finish_and_clear();
        let written = written?;
        view.exported.push(ExportedView {
            point: name_of(found),
            file: written.path,
            bytes: written.bytes,
            bundles: written.bundles,
            proved: found.proved,
            committed_known: found.committed_known,
            committed: when::rfc3339(committed),
            committed_ms: committed.as_millis(),
            committed_local: when::local(committed, context.now.time_zone()),
        });
    }
    Ok(())
}

fn name_of(found: &OfflinePoint) -> String {
    format!("{}@{}", found.point.cluster_name, found.point.sequence)
}

impl From<&OfflinePoint> for IncompleteView {
    fn from(found: &OfflinePoint) -> Self {
        let committed = LogTime::from_millis(found.point.committed_ms);
        let lacks = found.lacks.iter().map(|lack| LackView {
            id: lack.bundle.to_string(),
            kind: lack.kind,
            bytes: lack.bytes,
            what: lack.what,
        });
        Self {
            point: name_of(found),
            proved: found.proved,
            committed: when::rfc3339(committed),
            committed_ms: committed.as_millis(),
            lacks: lacks.collect(),
        }
    }
}

/// Lines of one incomplete point's bundles before the rest are counted.
const LACKS_SHOWN: usize = 5;
/// Incomplete points before the rest are counted.
const INCOMPLETE_SHOWN: usize = 20;

impl OfflineView {
    fn of(directory: &Path, about: &About, context: &Context) -> Self {
        Self {
            data_dir: directory.to_owned(),
            node_id: about.node.get(),
            fleet: about.fleet_name.clone(),
            fleet_id: about.fleet.to_string(),
            last_index: about.last_index.get(),
            committed_index: about.committed_index.get(),
            log_time: when::rfc3339(about.log_time),
            log_time_ms: about.log_time.as_millis(),
            log_time_local: when::local(about.log_time, context.now.time_zone()),
            freshness: "unproven",
            problems: about.problems.clone(),
            exported: Vec::new(),
            incomplete: Vec::new(),
        }
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{}: coordinator {} of fleet {}, nothing in it newer than {}\n",
            shown::path(&self.data_dir),
            self.node_id,
            shown::plain(&self.fleet),
            self.log_time_local,
        );
        for point in &self.exported {
            text.push_str(&format!(
                "exported {} of {} to {} ({}, {}, read back and verified)\n",
                shown::plain(&point.point),
                point.committed_local,
                shown::path(&point.file),
                ByteCount::new(point.bytes),
                count(point.bundles, "bundle"),
            ));
            if !point.proved {
                text.push_str("  not proved: its agent could not show that it is complete\n");
            }
            if !point.committed_known {
                text.push_str(
                    "  not known to be committed: written down here, and perhaps never \
                     acknowledged to its agent\n",
                );
            }
        }
        for point in self.incomplete.iter().take(INCOMPLETE_SHOWN) {
            text.push_str(&format!(
                "incomplete {}: {} not usable here\n",
                shown::plain(&point.point),
                count(point.lacks.len() as u64, "bundle"),
            ));
            for lack in point.lacks.iter().take(LACKS_SHOWN) {
                text.push_str(&format!(
                    "  {} {} ({}) {}\n",
                    lack.kind,
                    lack.id,
                    ByteCount::new(lack.bytes),
                    lack.what
                ));
            }
            if point.lacks.len() > LACKS_SHOWN {
                text.push_str(&format!("  and {} more\n", point.lacks.len() - LACKS_SHOWN));
            }
        }
        if self.incomplete.len() > INCOMPLETE_SHOWN {
            let more = self.incomplete.len() - INCOMPLETE_SHOWN;
            text.push_str(&format!("and {more} more incomplete points\n"));
        }
        text.push_str(
            "freshness: unproven. Another coordinator may hold newer points\n\
             restore without any coordinator with `strongroom restore --from FILE`\n",
        );
        text
    }
}

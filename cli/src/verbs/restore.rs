//! `strongroom restore`: brings back a recovery point, whole or in part, from the fleet or from an
//! exported file. The plan is made and shown before anything is touched (invariant P1).

mod kubernetes;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent::OpenedPoint;
use agent::patterns::Patterns;
use agent::point_store::{PointInfo, PointSelector, ProofInfo};
use agent::restore::{
    self, Action, ConflictPolicy, ItemDiff, PlannedItem, Reason, RestoreOptions, RestorePlan,
    RestoreReport,
};
use agent::shown::{self, plain};
use bundle::{Proof, ProofState};
use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use proto::v1::ReadPurpose;
use proto_types::{ByteCount, LogTime, PointName, Sequence};
use serde::Serialize;

use self::kubernetes::KubernetesArgs;
use super::opening::{Found, KeyArgs, TrustView, in_file, in_fleet};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::count;
use crate::views::times_apart;
use crate::{progress, when};

/// A plan's lines are printed up to this many; `--dry-run` prints all.
const LINES_MAX: usize = 20;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The cluster whose point is restored
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub cluster: Option<String>,
    /// The newest point committed at or before this moment: RFC 3339, local `2026-11-21 14:05`,
    /// `14:05`, or `2h ago`
    #[arg(long, value_name = "TIME", conflicts_with_all = ["point", "from"], requires = "cluster")]
    pub at: Option<String>,
    /// This point, as `backup list` prints it; with --cluster, its number is enough
    #[arg(long, value_name = "ID", conflicts_with = "from")]
    pub point: Option<String>,
    /// An exported file instead of the fleet; no coordinator is asked
    #[arg(long, value_name = "FILE", required_unless_present_any = ["cluster", "point"])]
    pub from: Option<PathBuf>,
    /// Directory to restore into; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "to_kubernetes")]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// Restore only what matches; may stand several times
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out what matches; may stand several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// What to do where something else is already there
    #[arg(long, value_enum, default_value = "fail", value_name = "POLICY")]
    pub on_conflict: OnConflict,
    /// Directory for the sealed safety file of what is overwritten [default: beside --to]
    #[arg(long, value_name = "DIR")]
    pub safety_dir: Option<PathBuf>,
    /// Print the whole plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print what would differ, line by line where it is text and no secret, and change nothing
    #[arg(long)]
    pub diff: bool,
}

/// What to do where something else is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Leave it.
    Skip,
    /// Replace it, after a sealed safety file was made of it.
    Overwrite,
    /// In a cluster: the same, and where a field cannot be changed, delete the object and make it
    /// anew.
    Recreate,
    /// Refuse before anything is touched.
    Fail,
}

impl OnConflict {
    /// The policy for a directory, where nothing needs to be recreated.
    fn of_directory(self) -> Result<ConflictPolicy> {
        match self {
            Self::Skip => Ok(ConflictPolicy::Skip),
            Self::Overwrite => Ok(ConflictPolicy::Overwrite),
            Self::Fail => Ok(ConflictPolicy::Fail),
            Self::Recreate => {
                Err(CliError::usage("--on-conflict recreate is for --to-kubernetes: use overwrite"))
            }
        }
    }
}

#[derive(Serialize)]
struct RestoreView<'a> {
    point: String,
    committed: String,
    /// By the agent's clock, which signed it.
    taken: String,
    to: &'a PathBuf,
    /// Whether anything was, or would have been, written.
    changed: bool,
    trust: TrustView,
    /// Sources that the signed manifest does not call proved.
    not_proved: Vec<ProofInfo>,
    plan: PlanView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<Vec<ItemDiff>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<RestoreReport>,
}

#[derive(Serialize)]
struct PlanView<'a> {
    totals: restore::PlanTotals,
    /// All items where only the plan was asked for; a real restore of many thousand says sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<&'a [PlannedItem]>,
}

pub(crate) async fn run(arguments: RestoreArgs, context: &Context) -> Result<()> {
    // All that can be wrong on this machine is found before the fleet is asked.
    let key = arguments.key.read()?;
    if arguments.kubernetes.to_kubernetes {
        return kubernetes::run(&arguments, &key, context).await;
    }
    let to = arguments.to.clone().ok_or_else(|| CliError::usage("give --to DIR"))?;
    let options = RestoreOptions {
        to,
        include: patterns("--include", &arguments.include)?,
        exclude: patterns("--exclude", &arguments.exclude)?,
        on_conflict: arguments.on_conflict.of_directory()?,
        safety_directory: arguments.safety_dir.clone(),
    };
    let found = find(&arguments, context).await?;
    let store = found.store.clone();
    let done = match found.open(&key, context).await {
        Ok(opened) => restore(&arguments, &options, &opened, context).await,
        Err(error) => Err(error),
    };
    store.end().await;
    done
}

fn patterns(flag: &str, globs: &[String]) -> Result<Patterns> {
    Patterns::new(globs).map_err(|error| CliError::usage(format!("{flag}: {error}")))
}

async fn find(arguments: &RestoreArgs, context: &Context) -> Result<Found> {
    if let Some(file) = &arguments.from {
        return in_file(context, file).await;
    }
    let (cluster, selector) = selection(arguments, context)?;
    in_fleet(context, &cluster, selector, ReadPurpose::Restore).await
}

/// Which point of which cluster; the newest unless said otherwise.
fn selection(arguments: &RestoreArgs, context: &Context) -> Result<(String, PointSelector)> {
    let missing = || CliError::usage("the cluster is missing").with_remedy("give --cluster NAME");
    let Some(point) = &arguments.point else {
        let cluster = arguments.cluster.clone().ok_or_else(missing)?;
        let selector = match &arguments.at {
            None => PointSelector::Newest,
            Some(at) => PointSelector::At(when::parse(at, &context.now).map_err(CliError::usage)?),
        };
        return Ok((cluster, selector));
    };
    if let Ok(sequence) = point.parse::<Sequence>() {
        let cluster = arguments.cluster.clone().ok_or_else(missing)?;
        return Ok((cluster, PointSelector::Sequence(sequence)));
    }
    let name: PointName = point.parse().map_err(|error: proto_types::PointNameError| {
        CliError::usage(format!("--point: {error}"))
    })?;
    match &arguments.cluster {
        Some(cluster) if *cluster != name.cluster => Err(CliError::usage(format!(
            "--point {point} is not of --cluster {cluster}: give one of the two"
        ))),
        _ => Ok((name.cluster, PointSelector::Sequence(name.sequence))),
    }
}

async fn restore(
    arguments: &RestoreArgs,
    options: &RestoreOptions,
    opened: &OpenedPoint,
    context: &Context,
) -> Result<()> {
    let trust = TrustView::of(opened);
    trust.warn(&context.screen);
    let plan = restore::plan(opened, options).await?;
    let looks_only = arguments.dry_run || arguments.diff;
    if !context.screen.is_json() {
        let head = describe_point(opened, context);
        context.screen.text(&format!("{head}{}", plan_lines(&plan, arguments.dry_run)))?;
    }
    let diff = match arguments.diff {
        true => Some(restore::diff(opened, &plan, options).await?),
        false => None,
    };
    let report = match looks_only {
        true => None,
        false => {
            let (bar, progress) = progress::shown(&context.screen);
            let report = restore::execute(opened, &plan, options, progress).await;
            bar.finish_and_clear();
            Some(report?)
        }
    };
    let view = RestoreView {
        point: format!("{}@{}", opened.info().cluster_name, opened.info().sequence),
        committed: when::rfc3339(opened.info().committed_ms),
        taken: when::rfc3339(opened.info().taken_ms),
        to: &options.to,
        changed: report.is_some() && !plan.changes_nothing(),
        trust,
        not_proved: not_proved(opened),
        plan: PlanView { totals: plan.totals, items: looks_only.then_some(&plan.items[..]) },
        diff,
        report,
    };
    context.screen.show(&view, RestoreView::describe)
}

fn describe_point(opened: &OpenedPoint, context: &Context) -> String {
    let (zone, now) = (context.now.time_zone(), context.log_now());
    let head = point_head(opened.info(), opened.is_safety_file(), zone, now);
    let not_proved = not_proved(opened).into_iter().map(|proof| {
        let (source, reason) = (plain(&proof.source), plain(&proof.reason));
        format!("  source {source} is {}: {reason}\n", proof.state)
    });
    head + &not_proved.collect::<String>()
}

/// Which point it is and of when.
fn point_head(info: &PointInfo, safety_file: bool, zone: &TimeZone, now: LogTime) -> String {
    let mut text = format!(
        "point {}@{}, committed {} ({} ago), taken {} by the agent's clock, {}\n",
        plain(&info.cluster_name),
        info.sequence,
        when::local(info.committed_ms, zone),
        when::age(info.committed_ms, LogTime::max(now, info.committed_ms)),
        when::local(info.taken_ms, zone),
        count(info.items, "item")
    );
    // A safety file has the committed time of the point that was restored.
    if let Some(warning) = times_apart(info.taken_ms, info.committed_ms).filter(|_| !safety_file) {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text
}

/// What the signed manifest says is not proved, whatever the store says of it.
fn not_proved(opened: &OpenedPoint) -> Vec<ProofInfo> {
    let unproved = |proof: &Proof| {
        let (state, reason) = match &proof.state {
            ProofState::Proved => return None,
            ProofState::Unproved(reason) => ("unproved", reason),
            ProofState::Failed(reason) => ("failed", reason),
        };
        let (source, state) = (proof.source.clone(), state.to_owned());
        Some(ProofInfo { source, state, reason: reason.clone() })
    };
    opened.manifest().proofs.iter().filter_map(unproved).collect()
}

/// The plan for people: what would surprise first, then what is new.
fn plan_lines(plan: &RestorePlan, all: bool) -> String {
    let limit = if all { usize::MAX } else { LINES_MAX };
    let mut lines: Vec<&PlannedItem> =
        plan.items.iter().filter(|item| item.action != Action::Unchanged).collect();
    lines.sort_by_key(|item| std::cmp::Reverse(item.action == Action::Conflict));
    if !all {
        // What is only created needs no line each, nor do the times of directories; the sums say
        // how many they are. The target itself was somebody's before.
        lines.retain(|item| match item.action {
            Action::Create => false,
            Action::Adjust => item.path.is_empty(),
            _ => true,
        });
    }
    let mut text = String::from("plan\n");
    for item in lines.iter().take(limit) {
        let path = match item.path.as_slice() {
            b"" => ".".to_owned(),
            path => shown::path(OsStr::from_bytes(path)),
        };
        text.push_str(&format!(
            "  {:<9} {path} ({})\n",
            action_word(item.action),
            why(item.action, item.reason, &item.changes)
        ));
    }
    if lines.len() > limit {
        text.push_str(&format!("  ... and {} more; --dry-run prints all\n", lines.len() - limit));
    }
    let totals = &plan.totals;
    text.push_str(&format!(
        "  {} to create, {} to overwrite, {} to adjust, {} already equal, {} skipped, {} in \
         conflict; {} to write\n",
        totals.create,
        totals.overwrite,
        totals.adjust,
        totals.unchanged,
        totals.skip,
        totals.conflict,
        ByteCount::new(totals.bytes)
    ));
    text
}

/// Why something is done, and where only attributes are concerned, what is done.
fn why(action: Action, reason: Reason, changes: &[String]) -> String {
    if changes.is_empty() || reason != Reason::AttributesDiffer {
        return reason.as_str().to_owned();
    }
    let changes = plain(&changes.join(", "));
    match action {
        Action::Adjust => changes,
        _ => format!("{}: {changes}", reason.as_str()),
    }
}

const fn action_word(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Overwrite => "overwrite",
        Action::Adjust => "adjust",
        Action::Unchanged => "equal",
        Action::Skip => "skip",
        Action::Conflict => "CONFLICT",
    }
}

impl RestoreView<'_> {
    /// What follows the plan.
    fn describe(&self) -> String {
        let mut text = String::new();
        for item in self.diff.iter().flatten() {
            text.push_str(&format!("{} {}\n", action_word(item.action), plain(&item.path)));
            for change in &item.changes {
                text.push_str(&format!("  {}\n", plain(change)));
            }
            if let Some(lines) = &item.text {
                text.extend(lines.lines().map(|line| format!("  {}\n", plain(line))));
            }
        }
        match &self.report {
            Some(report) => text.push_str(&report_lines(&self.point, self.to, report)),
            None => text.push_str("nothing was changed, as was asked\n"),
        }
        text
    }
}

/// What a restore did.
fn report_lines(point: &str, to: &Path, report: &RestoreReport) -> String {
    let mut text = String::new();
    if let Some(file) = &report.safety_file {
        text.push_str(&format!("what was overwritten is kept, sealed, in {}\n", shown::path(file)));
    }
    text.push_str(&format!(
        "restored {} to {}: {} written, {} compared, all equal\n",
        plain(point),
        shown::path(to),
        ByteCount::new(report.bytes_written),
        count(report.compared, "item")
    ));
    if !report.owners {
        text.push_str("owners were left as they are: only root may set them\n");
    }
    for item in &report.not_set {
        text.push_str(&format!("could not be set here: {} of {}\n", item.what, plain(&item.path)));
    }
    if report.times_rounded > 0 {
        text.push_str(&format!(
            "{} rounded by the file system there, as reading them back showed\n",
            match report.times_rounded {
                1 => "1 modification time was".to_owned(),
                number => format!("{number} modification times were"),
            }
        ));
    }
    if report.attributes_not_set > 0 {
        text.push_str(&format!(
            "{} extended attributes could not be set here\n",
            report.attributes_not_set
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use proto_types::{BundleId, ClusterId, Epoch, FleetId};

    use super::*;

    #[test]
    fn a_plan_says_when_its_point_was_taken_and_warns_of_clocks_apart() {
        let info = |taken_ms| PointInfo {
            fleet: FleetId::from_bytes([1; 16]),
            cluster: ClusterId::from_bytes([2; 16]),
            cluster_name: "harbour".to_owned(),
            sequence: Sequence::new(7),
            manifest: BundleId::ZERO,
            base: None,
            key_bundle: BundleId::ZERO,
            wraps: BundleId::ZERO,
            committed_ms: LogTime::from_millis(1_795_269_930_125),
            taken_ms: LogTime::from_millis(taken_ms),
            epoch: Epoch::new(1),
            lineage: 1,
            items: 2,
            logical_bytes: 3,
            added_bytes: 4,
            statement: None,
            proofs: Vec::new(),
            bundles: Vec::new(),
        };
        let now = LogTime::from_millis(1_795_269_990_125);
        let head = |taken_ms, safety| point_head(&info(taken_ms), safety, &TimeZone::UTC, now);
        assert_eq!(
            head(1_795_269_925_000, false),
            "point harbour@7, committed 2026-11-21 14:05:30 (60s ago), taken 2026-11-21 14:05:25 \
             by the agent's clock, 2 items\n"
        );
        let warning = "\n  warning: taken 3h after it was committed: ";
        assert!(head(1_795_280_730_125, false).contains(warning));
        assert!(!head(1_795_280_730_125, true).contains("warning"));
    }

    #[test]
    fn paths_in_a_report_neither_drive_a_terminal_nor_add_lines() {
        let evil = "a\u{1b}]0;title\u{7}\nrestored b@1 to /";
        let shown = "a\\u{1b}]0;title\\u{7}\\nrestored b@1 to /";
        let report = RestoreReport {
            safety_file: Some(PathBuf::from(evil)),
            not_set: vec![agent::restore::Unequal { path: evil.to_owned(), what: "owner" }],
            owners: true,
            times_rounded: 2,
            ..RestoreReport::default()
        };
        let text = report_lines(evil, Path::new(evil), &report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                &format!("what was overwritten is kept, sealed, in {shown}"),
                &format!("restored {shown} to {shown}: 0 B written, 0 items compared, all equal"),
                &format!("could not be set here: owner of {shown}"),
                "2 modification times were rounded by the file system there, as reading them back \
                 showed",
            ]
        );
    }

    #[test]
    fn a_plan_says_what_of_attributes_is_set() {
        let changes =
            ["mode 0755 -> 0700".to_owned(), "extended attribute user.\n is set".to_owned()];
        for (action, reason, changes, said) in [
            (
                Action::Adjust,
                Reason::AttributesDiffer,
                &changes[..],
                "mode 0755 -> 0700, extended attribute user.\\n is set",
            ),
            (
                Action::Conflict,
                Reason::AttributesDiffer,
                &changes[..1],
                "attributes differ: mode 0755 -> 0700",
            ),
            (Action::Adjust, Reason::AttributesDiffer, &[], "attributes differ"),
            (Action::Skip, Reason::ParentInTheWay, &changes, "its directory is something else"),
        ] {
            assert_eq!(why(action, reason, changes), said);
        }
    }
}

//! `strongroom restore --to-kubernetes`: a recovery point's objects back into a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent::OpenedPoint;
use agent::kubernetes::restore::{
    self as target, KubeOptions, KubePlan, KubeReport, ObjectDiff, ObjectOutcome, PlannedObject,
};
use agent::kubernetes::{Connection, ObjectAction, ObjectPolicy};
use agent::shown::{self, plain};
use clap::Args;
use proto_types::Code;
use serde::Serialize;

use super::{LINES_MAX, OnConflict, RestoreArgs, describe_point, find, not_proved, patterns};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::count;
use crate::progress;
use crate::verbs::opening::{PointKey, TrustView};
use crate::when;

/// Arguments of a restore into a cluster.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct KubernetesArgs {
    /// Restore the point's Kubernetes objects into a cluster
    #[arg(long, conflicts_with = "to")]
    pub to_kubernetes: bool,
    /// The kubeconfig that leads to it; without one, the account of the pod that this runs in
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", requires = "to_kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "to_kubernetes")]
    context: Option<String>,
    /// Only objects of this kind, as `Secret`, `apps/Deployment` or `Deployment.apps`; may stand
    /// several times
    #[arg(long, value_name = "KIND", requires = "to_kubernetes")]
    kind: Vec<String>,
    /// Only objects of this namespace, and the namespace; may stand several times
    #[arg(long, short, value_name = "NAME", requires = "to_kubernetes")]
    namespace: Vec<String>,
    /// Only objects with this label, `key=value` or `key`; several must all be there
    #[arg(long, value_name = "LABEL", requires = "to_kubernetes")]
    label: Vec<String>,
    /// Put the objects of one namespace into another, `from=to`; may stand several times
    #[arg(long, value_name = "FROM=TO", requires = "to_kubernetes")]
    map_namespace: Vec<String>,
    /// Restore into another cluster than the point's: its name in the kubeconfig
    #[arg(long, value_name = "NAME", requires = "to_kubernetes")]
    into_cluster: Option<String>,
}

#[derive(Serialize)]
struct View<'a> {
    point: String,
    committed: String,
    /// The cluster's name in the kubeconfig.
    to: &'a str,
    /// Whether anything was, or would have been, written.
    changed: bool,
    trust: TrustView,
    not_proved: Vec<agent::point_store::ProofInfo>,
    totals: Totals,
    /// All objects of the plan where only that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a [PlannedObject]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<Vec<ObjectDiff>>,
    /// What happened, or what the server said that would; every object.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a KubeReport>,
}

#[derive(Serialize)]
struct Totals {
    create: usize,
    overwrite: usize,
    unchanged: usize,
    skip: usize,
    conflict: usize,
    refused: usize,
}

impl Totals {
    fn of(plan: &KubePlan) -> Self {
        Self {
            create: plan.count(ObjectAction::Create),
            overwrite: plan.count(ObjectAction::Overwrite),
            unchanged: plan.count(ObjectAction::Unchanged),
            skip: plan.count(ObjectAction::Skip),
            conflict: plan.count(ObjectAction::Conflict),
            refused: plan.count(ObjectAction::Refused),
        }
    }
}

pub(super) async fn run(arguments: &RestoreArgs, key: &PointKey, context: &Context) -> Result<()> {
    let options = options(arguments)?;
    let found = find(arguments, context).await?;
    let store = found.store.clone();
    let done = match found.open(key, context).await {
        Ok(opened) => restore(arguments, &options, &opened, context).await,
        Err(error) => Err(error),
    };
    store.end().await;
    done
}

fn options(arguments: &RestoreArgs) -> Result<KubeOptions> {
    let own = &arguments.kubernetes;
    let mut namespaces = BTreeMap::new();
    for pair in &own.map_namespace {
        let pair = pair.split_once('=').filter(|(from, to)| !from.is_empty() && !to.is_empty());
        let (from, to) = pair.ok_or_else(|| CliError::usage("--map-namespace: write FROM=TO"))?;
        if namespaces.insert(from.to_owned(), to.to_owned()).is_some() {
            return Err(CliError::usage(format!("--map-namespace: {from} is there twice")));
        }
    }
    let label = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    };
    Ok(KubeOptions {
        connection: Connection { kubeconfig: own.kubeconfig.clone(), context: own.context.clone() },
        include: patterns("--include", &arguments.include)?,
        exclude: patterns("--exclude", &arguments.exclude)?,
        kinds: own.kind.clone(),
        in_namespaces: own.namespace.clone(),
        labels: own.label.iter().map(label).collect(),
        namespaces,
        on_conflict: match arguments.on_conflict {
            OnConflict::Skip => ObjectPolicy::Skip,
            OnConflict::Overwrite => ObjectPolicy::Overwrite,
            OnConflict::Recreate => ObjectPolicy::Recreate,
            OnConflict::Fail => ObjectPolicy::Fail,
        },
        into_cluster: own.into_cluster.clone(),
        safety_directory: arguments.safety_dir.clone().unwrap_or_else(|| PathBuf::from(".")),
    })
}

async fn restore(
    arguments: &RestoreArgs,
    options: &KubeOptions,
    opened: &OpenedPoint,
    context: &Context,
) -> Result<()> {
    let trust = TrustView::of(opened);
    trust.warn(&context.screen);
    let plan = target::plan(opened, options).await?;
    if !context.screen.is_json() {
        let head = describe_point(opened, context);
        context.screen.text(&format!("{head}{}", plan_lines(&plan, arguments.dry_run)))?;
    }
    let looks_only = arguments.dry_run || arguments.diff;
    let report = if arguments.diff {
        None
    } else {
        let (bar, progress) = progress::shown(&context.screen);
        let done = target::execute(opened, &plan, options, arguments.dry_run, progress).await;
        bar.finish_and_clear();
        Some(done?)
    };
    let view = View {
        point: format!("{}@{}", opened.info().cluster_name, opened.info().sequence),
        committed: when::rfc3339(opened.info().committed_ms),
        to: &plan.cluster,
        changed: !looks_only
            && plan.count(ObjectAction::Create) + plan.count(ObjectAction::Overwrite) > 0,
        trust,
        not_proved: not_proved(opened),
        totals: Totals::of(&plan),
        plan: looks_only.then_some(&plan.objects[..]),
        diff: arguments.diff.then(|| target::diff(&plan)),
        report: report.as_ref(),
    };
    context.screen.show(&view, View::describe)?;
    // To look is no failure, whatever there is to see.
    match report.as_ref().and_then(|report| Some((report, report.problem()?))) {
        Some((report, code)) if !looks_only => Err(problem(report, code)),
        Some(_) => Ok(()),
        None => Ok(()),
    }
}

fn problem(report: &KubeReport, code: Code) -> CliError {
    let failed = report.count(ObjectOutcome::Failed);
    let unequal = report.count(ObjectOutcome::NotEqual);
    let bad = |o: &&target::ObjectReport| {
        matches!(o.outcome, ObjectOutcome::Failed | ObjectOutcome::NotEqual)
    };
    let example = report.objects.iter().find(bad);
    let example = example.map(|o| format!("{} ({})", o.path, o.note)).unwrap_or_default();
    let words = match code {
        Code::Partial => format!("objects that were not restored: {failed}"),
        _ => format!("objects that are not equal to the point: {unequal}"),
    };
    CliError::new(code, format!("{words}, for example {example}"))
        .with_remedy("the report lists each; mend what they say and start the restore again")
}

/// The plan for people, in the order in which things happen.
fn plan_lines(plan: &KubePlan, all: bool) -> String {
    let limit = if all { usize::MAX } else { LINES_MAX };
    let mut text = format!("plan for the cluster {}\n", plain(&plan.cluster));
    let shown = |action| all || !matches!(action, ObjectAction::Create);
    let lines: Vec<&PlannedObject> = plan
        .in_order()
        .map(|(_, object)| object)
        .filter(|object| object.action != ObjectAction::Unchanged && shown(object.action))
        .collect();
    for object in lines.iter().take(limit) {
        text.push_str(&format!(
            "  {:<9} {} ({})\n",
            action_word(object.action),
            plain(&object.path),
            plain(&object.reason)
        ));
    }
    if lines.len() > limit {
        text.push_str(&format!("  ... and {} more; --dry-run prints all\n", lines.len() - limit));
    }
    let totals = Totals::of(plan);
    text.push_str(&format!(
        "  {} to create, {} to overwrite, {} already equal, {} skipped, {} in conflict, {} \
         refused\n",
        totals.create,
        totals.overwrite,
        totals.unchanged,
        totals.skip,
        totals.conflict,
        totals.refused
    ));
    text
}

const fn action_word(action: ObjectAction) -> &'static str {
    match action {
        ObjectAction::Create => "create",
        ObjectAction::Overwrite => "overwrite",
        ObjectAction::Unchanged => "equal",
        ObjectAction::Skip => "skip",
        ObjectAction::Conflict => "CONFLICT",
        ObjectAction::Refused => "REFUSED",
    }
}

const fn outcome_word(outcome: ObjectOutcome) -> &'static str {
    match outcome {
        ObjectOutcome::Created => "created",
        ObjectOutcome::Overwritten => "overwritten",
        ObjectOutcome::Recreated => "recreated",
        ObjectOutcome::Unchanged => "equal",
        ObjectOutcome::Skipped => "skipped",
        ObjectOutcome::Failed => "FAILED",
        ObjectOutcome::NotEqual => "NOT EQUAL",
    }
}

impl View<'_> {
    /// What follows the plan.
    fn describe(&self) -> String {
        let mut text = String::new();
        for object in self.diff.iter().flatten() {
            text.push_str(&format!("{} {}\n", action_word(object.action), plain(&object.path)));
            text.extend(object.text.lines().map(|line| format!("  {}\n", plain(line))));
        }
        let Some(report) = self.report else {
            return text + "nothing was changed, as was asked\n";
        };
        for object in &report.objects {
            if object.outcome == ObjectOutcome::Unchanged {
                continue;
            }
            let (word, path) = (outcome_word(object.outcome), plain(&object.path));
            text.push_str(&match object.note.as_str() {
                "" => format!("  {word:<11} {path}\n"),
                note => format!("  {word:<11} {path} ({})\n", plain(note)),
            });
        }
        if self.plan.is_some() {
            return text + "the server tried it; nothing was changed, as was asked\n";
        }
        if let Some(file) = &report.safety_file {
            let file = shown::path(file);
            text.push_str(&format!("what was overwritten is kept, sealed, in {file}\n"));
        }
        let bad = report.count(ObjectOutcome::Failed) + report.count(ObjectOutcome::NotEqual);
        let compared = count(report.compared, "object");
        let end = match bad {
            0 => "all equal".to_owned(),
            bad => format!("{bad} not as they should be"),
        };
        text.push_str(&format!(
            "restored {} to {}: {compared} compared, {end}\n",
            plain(&self.point),
            plain(self.to)
        ));
        text
    }
}

//! `strongroom backup show`, `diff` and `verify`: looking at points without restoring them. Names
//! of items come only from who gives a key; without one, only what coordinators know is shown.

use std::path::PathBuf;

use agent::inspect::{self, PointDiff, ShownItem, VerifyReport};
use agent::point_store::PointSelector;
use agent::shown::plain;
use clap::Args;
use proto::v1;
use proto::v1::ReadPurpose;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{ByteCount, PointName};
use serde::Serialize;

use super::super::opening::{
    Found, KeyArgs, OptionalKeyArgs, TrustView, in_file, in_fleet, point_name,
};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::Rows;
use crate::views::PointView;
use crate::{operator, progress};

/// Which point: one of the fleet's, or an exported file.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct WhichArgs {
    /// The point, as `backup list` prints it
    #[arg(value_name = "CLUSTER@NUMBER", value_parser = point_name)]
    pub point: Option<PointName>,
    /// An exported file instead; no coordinator is asked
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// Arguments of `backup show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    key: OptionalKeyArgs,
}

/// Arguments of `backup diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older point
    #[arg(value_name = "OLD", value_parser = point_name)]
    pub old: PointName,
    /// The newer point
    #[arg(value_name = "NEW", value_parser = point_name)]
    pub new: PointName,
    #[command(flatten)]
    key: KeyArgs,
}

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    key: OptionalKeyArgs,
}

impl WhichArgs {
    async fn find(&self, context: &Context) -> Result<Found> {
        match (&self.from, &self.point) {
            (Some(file), _) => in_file(context, file).await,
            (None, Some(PointName { cluster, sequence })) => {
                let selector = PointSelector::Sequence(*sequence);
                in_fleet(context, cluster, selector, ReadPurpose::Drill).await
            }
            (None, None) => Err(CliError::usage("give a point or --from FILE")),
        }
    }
}

#[derive(Serialize)]
struct ShowView {
    #[serde(flatten)]
    point: PointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<TrustView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Vec<ShownItem>>,
}

pub(super) async fn show(arguments: &ShowArgs, context: &Context) -> Result<()> {
    let key = arguments.key.read()?;
    let mut view = match &arguments.which.point {
        Some(name) => ShowView { point: get(name, context).await?, trust: None, contents: None },
        None => {
            let found = arguments.which.find(context).await?;
            let safety_file = found.store.is_safety_file();
            let point = PointView { safety_file, ..PointView::from(found.store.point()) };
            ShowView { point, trust: None, contents: None }
        }
    };
    if let Some(key) = key {
        let opened = arguments.which.find(context).await?.open(&key, context).await?;
        view.trust = Some(TrustView::of(&opened));
        view.contents = Some(inspect::show(&opened));
        opened.store().end().await;
    }
    if let Some(trust) = &view.trust {
        trust.warn(&context.screen);
    }
    context.screen.show(&view, |view| {
        let mut text = view.point.describe(context.now.time_zone());
        if let Some(items) = &view.contents {
            text.push('\n');
            text.push_str(&item_rows(items));
        }
        text
    })
}

/// The point as the fleet knows it, with who holds its bundles.
async fn get(name: &PointName, context: &Context) -> Result<PointView> {
    let (_, client) = operator::connect(context)?;
    let request = v1::GetPointRequest {
        cluster_name: name.cluster.clone(),
        which: Some(v1::get_point_request::Which::Sequence(name.sequence.get())),
        stale: false,
    };
    let answer = client
        .call("finding the recovery point", |channel| {
            let request = request.clone();
            async move { CatalogClient::new(channel).get_point(request).await }
        })
        .await?;
    Ok(PointView::from(&answer.point.unwrap_or_default()))
}

fn item_rows(items: &[ShownItem]) -> String {
    let mut rows = Rows::new(&["KIND", "MODE", "SIZE", "SEALED AS", "PATH"]);
    for item in items {
        let path = match &item.link_target {
            Some(target) => format!("{} -> {}", shown_path(item), plain(target)),
            None => shown_path(item),
        };
        rows.push([
            item.kind.to_owned(),
            format!("{:04o}", item.mode),
            ByteCount::new(item.size).to_string(),
            if item.secret { "key" } else { "config" }.to_owned(),
            path,
        ]);
    }
    rows.render()
}

fn shown_path(item: &ShownItem) -> String {
    if item.path.is_empty() { ".".to_owned() } else { plain(&item.path) }
}

#[derive(Serialize)]
struct DiffView {
    old: String,
    new: String,
    trust: TrustView,
    #[serde(flatten)]
    diff: PointDiff,
}

pub(super) async fn diff(arguments: &DiffArgs, context: &Context) -> Result<()> {
    let key = arguments.key.read()?;
    let open = async |name: &PointName| {
        let selector = PointSelector::Sequence(name.sequence);
        let found = in_fleet(context, &name.cluster, selector, ReadPurpose::Drill).await?;
        found.open(&key, context).await
    };
    let old = open(&arguments.old).await?;
    let new = open(&arguments.new).await;
    let compared = new.and_then(|new| Ok((inspect::diff(&old, &new)?, new)));
    old.store().end().await;
    let (diff, new) = compared?;
    new.store().end().await;
    let view = DiffView {
        old: arguments.old.to_string(),
        new: arguments.new.to_string(),
        trust: TrustView::of(&new),
        diff,
    };
    view.trust.warn(&context.screen);
    context.screen.show(&view, |view| diff_lines(&view.diff))
}

fn diff_lines(diff: &PointDiff) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    for item in &diff.added {
        lines.push((shown_path(item), format!("+ {} {}", item.kind, shown_path(item))));
    }
    for item in &diff.removed {
        lines.push((shown_path(item), format!("- {} {}", item.kind, shown_path(item))));
    }
    for change in &diff.changed {
        let what = match (change.content, change.metadata) {
            (true, true) => "content and attributes",
            (true, false) => "content",
            (false, _) => "attributes",
        };
        let path = shown_path(&change.new);
        lines.push((path.clone(), format!("~ {} {path} ({what})", change.new.kind)));
    }
    lines.sort();
    let mut text: String = lines.into_iter().map(|(_, line)| format!("{line}\n")).collect();
    text.push_str(&format!(
        "{} added, {} removed, {} changed\n",
        diff.added.len(),
        diff.removed.len(),
        diff.changed.len()
    ));
    text
}

#[derive(Serialize)]
struct VerifyView {
    point: String,
    #[serde(flatten)]
    report: VerifyReport,
}

pub(super) async fn verify(arguments: &VerifyArgs, context: &Context) -> Result<()> {
    let key = arguments.key.read()?;
    let found = arguments.which.find(context).await?;
    let store = found.store.clone();
    let (bar, progress) = progress::shown(&context.screen);
    let checked = async {
        let (store, heads) = (&found.store, &found.heads);
        let mut report =
            inspect::verify_sealed(store, heads, &context.env, progress.clone()).await?;
        if let Some(key) = &key {
            let opened = found.open(key, context).await?;
            inspect::verify_opened(&opened, &mut report, progress.clone()).await?;
        }
        Ok::<_, CliError>(report)
    }
    .await;
    bar.finish_and_clear();
    store.end().await;
    let point = store.point();
    let view = VerifyView {
        point: format!("{}@{}", point.cluster_name, point.sequence),
        report: checked?,
    };
    context.screen.show(&view, VerifyView::describe)
}

impl VerifyView {
    fn describe(&self) -> String {
        let bytes = self.report.bundles.iter().map(|bundle| bundle.bytes).sum();
        let opened = match self.report.blobs_opened {
            0 => "not opened: no key was given".to_owned(),
            count => format!("{count} blobs opened"),
        };
        let origin = if self.report.origin_proven {
            "proven".to_owned()
        } else {
            format!("unproven: compare the signer's fingerprint {}", self.report.signer)
        };
        let freshness = match self.report.freshness_proven {
            Some(true) => "proven",
            Some(false) => "unproven",
            None => "not asked: one particular point was checked",
        };
        format!(
            "{} is whole: {} bundles of {}, each with its hash and signature\ncontents   {opened}\n\
             origin     {origin}\nfreshness  {freshness}\n",
            self.point,
            self.report.bundles.len(),
            ByteCount::new(bytes)
        )
    }
}

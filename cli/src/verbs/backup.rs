//! `strongroom backup`: making, listing, inspecting and exporting recovery points.

pub mod inspect;
pub mod now;
mod offline;

use std::path::PathBuf;

use agent::export::write_export;
use agent::point_store::PointSelector;
use agent::shown;
use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::ReadPurpose;
use proto::v1::catalog_client::CatalogClient;
use proto_types::{ByteCount, PointName};
use serde::Serialize;

use super::opening::{in_fleet, point_name};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::progress;
use crate::views::{PointView, point_rows};

/// Verbs about recovery points.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask the agent of this machine for a backup now, and wait until it is acknowledged
    Now(now::NowArgs),
    /// List recovery points, newest first
    List(ListArgs),
    /// Show one point; with a key, also what is in it
    Show(inspect::ShowArgs),
    /// Show what changed between two points of a cluster
    Diff(inspect::DiffArgs),
    /// Read every byte of a point and check it; with a key, open every blob
    Verify(inspect::VerifyArgs),
    /// Write a point, still sealed, to one file that restores without any coordinator
    Export(ExportArgs),
}

/// Arguments of `backup list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only points of this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// At most this many [default: all]
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

/// Arguments of `backup export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The point, as `backup list` prints it
    #[arg(
        long,
        value_name = "CLUSTER@NUMBER",
        value_parser = point_name,
        required_unless_present = "offline",
        conflicts_with = "cluster"
    )]
    pub point: Option<PointName>,
    /// The file to write, which must not exist; with --offline also a directory for one file a
    /// point
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Read the data directory of a coordinator that does not run, instead of asking the fleet;
    /// not a byte of it is changed
    #[arg(long, value_name = "DATA_DIR")]
    pub offline: Option<PathBuf>,
    #[command(flatten)]
    pub choice: offline::ChoiceArgs,
}

#[derive(Serialize)]
struct ExportView {
    point: String,
    file: PathBuf,
    bytes: u64,
    bundles: u64,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Now(arguments) => now::run(arguments, context).await,
        Verb::List(arguments) => list(arguments, context).await,
        Verb::Show(arguments) => inspect::show(&arguments, context).await,
        Verb::Diff(arguments) => inspect::diff(&arguments, context).await,
        Verb::Verify(arguments) => inspect::verify(&arguments, context).await,
        Verb::Export(arguments) => export(&arguments, context).await,
    }
}

async fn list(arguments: ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let mut request = v1::ListPointsRequest {
        cluster_name: arguments.cluster.unwrap_or_default(),
        stale: arguments.stale,
        ..Default::default()
    };
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut points: Vec<PointView> = Vec::new();
    while left > 0 {
        request.page_size = left;
        let page = client
            .call("listing the recovery points", |channel| {
                let request = request.clone();
                async move { CatalogClient::new(channel).list_points(request).await }
            })
            .await?;
        left = left.saturating_sub(page.points.len() as u64);
        points.extend(page.points.iter().map(PointView::from));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    context.screen.show(&points, |points| {
        if points.is_empty() {
            return "no recovery points\n".to_owned();
        }
        point_rows(points, context.now.time_zone(), context.log_now())
    })
}

async fn export(arguments: &ExportArgs, context: &Context) -> Result<()> {
    if let Some(directory) = &arguments.offline {
        return offline::export(directory, arguments, context).await;
    }
    let Some(point) = &arguments.point else {
        return Err(CliError::usage("give the point with --point"));
    };
    let PointName { cluster, sequence } = point;
    let selector = PointSelector::Sequence(*sequence);
    let found = in_fleet(context, cluster, selector, ReadPurpose::Export).await?;
    let (bar, progress) = progress::shown(&context.screen);
    let written = write_export(&found.store, &arguments.out, &context.env, progress).await;
    found.store.end().await;
    bar.finish_and_clear();
    let written = written?;
    let view = ExportView {
        point: point.to_string(),
        file: written.path,
        bytes: written.bytes,
        bundles: written.bundles,
    };
    context.screen.show(&view, |view| {
        format!(
            "exported {} to {} ({}, {} bundles, read back and verified)\n\
             restore it without any coordinator with `strongroom restore --from FILE`\n",
            view.point,
            shown::path(&view.file),
            ByteCount::new(view.bytes),
            view.bundles
        )
    })
}

//! `strongroom fleet bundles`: where bundles are kept, and the way from one place to the other.

use agent::shown;
use clap::{Args, Subcommand, ValueEnum};
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::ByteCount;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::output::count;

/// Arguments of `fleet bundles`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BundlesArgs {
    /// Keep the bundles there from now on, and move all others (role admin)
    #[arg(long, value_enum, value_name = "PLACE")]
    pub to: Option<Place>,
    /// What to show.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Where bundles may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// On the disks of a majority of the coordinators.
    Disks,
    /// In the bucket of the coordinators' configs.
    Bucket,
}

/// Verbs about the bundles' place.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Verb {
    /// Show where the bundles are, and how far a move is
    Status,
}

#[derive(Debug, Serialize)]
struct HomeView {
    /// `disks` or `bucket`: where bundles of new points go.
    home: &'static str,
    /// Whether every bundle is there.
    settled: bool,
    /// The bucket's URL, where the coordinator that was asked has one.
    bucket: Option<String>,
    bundles: u64,
    bytes: u64,
    in_bucket: u64,
    bytes_in_bucket: u64,
    /// On the disks of a majority.
    on_disks: u64,
    /// Objects that nobody needs any more and that are not deleted yet.
    objects_to_delete: u64,
}

impl HomeView {
    fn of(status: v1::BundleHomeStatus) -> Self {
        Self {
            home: match status.home() {
                v1::BundleHome::Bucket => "bucket",
                v1::BundleHome::Disks | v1::BundleHome::Unspecified => "disks",
            },
            settled: status.settled,
            bucket: Some(status.bucket).filter(|url| !url.is_empty()),
            bundles: status.bundles,
            bytes: status.bytes,
            in_bucket: status.in_bucket,
            bytes_in_bucket: status.bytes_in_bucket,
            on_disks: status.on_disks,
            objects_to_delete: status.objects_to_delete,
        }
    }

    fn describe(&self) -> String {
        let place = match (self.home, &self.bucket) {
            ("bucket", Some(url)) => format!("in the bucket {}", shown::plain(url)),
            ("bucket", None) => "in the bucket".to_owned(),
            _ => "on the coordinators' disks".to_owned(),
        };
        let there = if self.home == "bucket" { self.in_bucket } else { self.on_disks };
        let mut text = format!(
            "bundles of new points are kept {place}\n{} in all, {}: {there} there",
            count(self.bundles, "bundle"),
            ByteCount::new(self.bytes)
        );
        text.push_str(if self.settled {
            ", nothing is left to move\n"
        } else {
            ", the others are being moved\n"
        });
        if self.objects_to_delete > 0 {
            text.push_str(&format!(
                "{} of the bucket are being deleted\n",
                count(self.objects_to_delete, "object")
            ));
        }
        text
    }
}

pub(super) async fn run(arguments: &BundlesArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let status = match (arguments.to, arguments.verb) {
        (Some(place), _) => {
            let home = match place {
                Place::Disks => v1::BundleHome::Disks,
                Place::Bucket => v1::BundleHome::Bucket,
            };
            let request = v1::SetBundleHomeRequest {
                write_id: Some(client.next_write_id()),
                home: home.into(),
            };
            let answer = client
                .call("saying where bundles are kept", |channel| {
                    let request = request.clone();
                    async move { FleetClient::new(channel).set_bundle_home(request).await }
                })
                .await?;
            answer.status
        }
        (None, Some(Verb::Status)) => {
            let request = v1::GetBundleHomeRequest { stale: false };
            let answer = client
                .call("asking where bundles are kept", |channel| async move {
                    FleetClient::new(channel).get_bundle_home(request).await
                })
                .await?;
            answer.status
        }
        (None, None) => {
            return Err(CliError::usage("neither --to nor status is given").with_remedy(
                "`strongroom fleet bundles status` shows where they are, `--to bucket` and `--to \
                 disks` move them",
            ));
        }
    };
    let view = HomeView::of(status.unwrap_or_default());
    context.screen.show(&view, HomeView::describe)
}

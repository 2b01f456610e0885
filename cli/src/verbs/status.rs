//! `strongroom status`: the fleet at a glance.

use clap::Args;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::Code;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::views::StatusView;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

pub(crate) async fn run(arguments: StatusArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let stale = arguments.stale;
    let status = client
        .call("asking for the fleet's status", |channel| async move {
            FleetClient::new(channel).get_status(v1::GetStatusRequest { stale }).await
        })
        .await
        .map_err(|error| {
            let error = CliError::from(error);
            match error.code() {
                Code::Unavailable | Code::DeadlineExceeded if !stale => error.with_remedy(
                    "`strongroom status --stale` shows what any single coordinator knows; if that \
                     fails too, none of those in operator.toml runs or can be reached",
                ),
                _ => error,
            }
        })?;
    let view = StatusView::from(&status);
    context.screen.show(&view, |view| view.describe(context.now.time_zone(), context.log_now()))
}

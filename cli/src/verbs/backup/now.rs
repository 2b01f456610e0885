//! `strongroom backup now`: asks the agent of this machine over its local socket.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use proto::ApiError;
use proto::v1;
use proto::v1::local_agent_client::LocalAgentClient;
use proto_types::{ByteCount, Code};

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::count;
use crate::size;
use crate::views::PointView;

/// Which agent: one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct AgentArgs {
    /// The agent's local socket
    #[arg(long, env = "STRONGROOM_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The agent's config file, which names the socket
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `backup now`.
#[derive(Debug, Args)]
pub struct NowArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Upload at most this much per second, as 16MiB [default: as the agent is configured]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub limit_rate: Option<u64>,
    /// Seal and send everything anew, with a full manifest
    #[arg(long)]
    pub full: bool,
}

pub(super) async fn run(arguments: NowArgs, context: &Context) -> Result<()> {
    let socket = match (arguments.agent.socket, &arguments.agent.config) {
        (Some(socket), _) => socket,
        (None, Some(config)) => agent::config::Config::load(config)?.socket,
        (None, None) => return Err(CliError::usage("give --socket or --config")),
    };
    let channel = proto::channel::unix_channel(&socket).await?;
    let request = v1::BackupNowRequest {
        limit_bytes_per_second: arguments.limit_rate.unwrap_or(0),
        full: arguments.full,
    };
    let answer = LocalAgentClient::new(channel).backup_now(request).await;
    let mut stream = answer.map_err(ApiError::from)?.into_inner();
    let bar = context.screen.byte_bar();
    let mut point = None;
    while let Some(progress) = stream.message().await.map_err(ApiError::from)? {
        show(&bar, &progress);
        point = progress.point.or(point);
    }
    bar.finish_and_clear();
    let point = point.ok_or_else(|| {
        CliError::new(Code::Unavailable, "the agent ended before the backup was acknowledged")
            .with_remedy("see its log; start it again and repeat the backup")
    })?;
    let view = PointView::from(&point);
    context.screen.show(&view, |view| {
        let what = match view.form() {
            "unchanged" => "nothing changed".to_owned(),
            form => format!("{form}, {} sealed added", ByteCount::new(view.added_bytes)),
        };
        format!(
            "{} committed: {}, {}, {what}, {}\n",
            view.point,
            count(view.items, "item"),
            ByteCount::new(view.logical_bytes),
            view.proof()
        )
    })
}

fn show(bar: &ProgressBar, progress: &v1::BackupProgress) {
    bar.set_message(agent::shown::plain(&progress.phase));
    bar.set_length(progress.bytes_total);
    bar.set_position(progress.bytes_done);
}

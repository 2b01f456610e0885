//! `strongroom coordinator join`: makes this host a coordinator of a fleet that runs.

use std::path::PathBuf;

use agent::shown;
use clap::Args;
use coordinator::config::Config;
use proto_types::Code;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{RunArgs, start};
use crate::context::Context;
use crate::coordinator_files::{CONFIG, advertised};
use crate::error::{CliError, Result};
use crate::join_token::JoinToken;
use crate::joining::{self, Newcomer};

/// Arguments of `coordinator join`.
#[derive(Args)]
pub struct JoinArgs {
    /// What `strongroom node token` printed
    #[arg(
        value_name = "TOKEN",
        env = "STRONGROOM_JOIN_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub token: Option<String>,
    /// A file with the token, which nobody sees in a list of processes
    #[arg(long, value_name = "FILE", env = "STRONGROOM_JOIN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Directory for the coordinator's files: absent, or empty
    #[arg(long, value_name = "DIR", env = "STRONGROOM_JOIN_DIR")]
    pub dir: PathBuf,
    /// Where it listens
    #[arg(long, value_name = "HOST:PORT", env = "STRONGROOM_JOIN_LISTEN")]
    pub listen: String,
    /// Where others reach it; must be the token's address [default: the token's]
    #[arg(long, value_name = "HOST:PORT", env = "STRONGROOM_JOIN_ADVERTISE")]
    pub advertise: Option<String>,
    /// Where it serves /metrics, plain HTTP [default: nowhere]
    #[arg(long, value_name = "HOST:PORT", env = "STRONGROOM_JOIN_METRICS_LISTEN")]
    pub metrics_listen: Option<String>,
    /// Where it keeps everything [default: data in --dir]
    #[arg(long, value_name = "DIR", env = "STRONGROOM_JOIN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Run the coordinator afterwards, also when it had joined before: for containers
    #[arg(long, env = "STRONGROOM_JOIN_RUN")]
    pub run: bool,
    /// Also stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// The token is a secret.
impl std::fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinArgs").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct JoinedView {
    node_id: u64,
    name: String,
    fleet: String,
    config: PathBuf,
    /// Whether it had joined before, and nothing was done.
    already: bool,
}

pub(super) async fn run(arguments: JoinArgs, context: &Context) -> Result<()> {
    let config = arguments.dir.join(CONFIG);
    let token = token(&arguments)?;
    crate::staging::Staging::recover(&arguments.dir, CONFIG)?;
    let view = if config.exists() {
        already(&config, token.as_ref())?
    } else {
        let token = token.ok_or_else(|| {
            CliError::usage("a join token is missing")
                .with_remedy("give what `strongroom node token` printed, or --token-file FILE")
        })?;
        // Whether others can connect to it is the token's business, unless said here.
        let address = match &arguments.advertise {
            Some(advertise) => Some(advertised(&arguments.listen, Some(advertise))?),
            None => {
                advertised(&arguments.listen, Some("the-token-says:1"))?;
                None
            }
        };
        let data_dir = arguments.data_dir.as_ref().map(|path| {
            std::path::absolute(path).map_err(|error| CliError::io("use", path, &error))
        });
        let newcomer = Newcomer {
            listen: arguments.listen,
            address,
            metrics_listen: arguments.metrics_listen,
            data_dir: data_dir.transpose()?,
        };
        let joined = joining::join(&token, &newcomer, &arguments.dir, &context.env).await?;
        JoinedView {
            node_id: joined.node_id,
            name: joined.name,
            fleet: joined.fleet,
            config: config.clone(),
            already: false,
        }
    };
    if !arguments.run {
        return context.screen.show(&view, JoinedView::describe);
    }
    tracing::info!(event = "joined", node = view.node_id, already = view.already);
    start(&RunArgs { config: Some(config), stop_with_stdin: arguments.stop_with_stdin }, context)
        .await
}

fn token(arguments: &JoinArgs) -> Result<Option<JoinToken>> {
    let text = match (&arguments.token, &arguments.token_file) {
        (Some(text), _) => Zeroizing::new(text.clone()),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|error| CliError::io("read the token in", path, &error))?,
        (None, None) => return Ok(None),
    };
    JoinToken::from_text(&text).map(Some)
}

/// It has joined before; the token, used by then, must be of the same fleet.
fn already(path: &std::path::Path, token: Option<&JoinToken>) -> Result<JoinedView> {
    let config = Config::load(path)?;
    if let Some(token) = token
        && token.fleet != config.fleet.id
    {
        return Err(CliError::new(
            Code::WrongFleet,
            format!(
                "{} is of a coordinator of fleet {}, the token of fleet {}",
                shown::path(path),
                config.fleet.id.short(),
                token.fleet.short()
            ),
        )
        .with_remedy("choose another directory for a coordinator of another fleet"));
    }
    Ok(JoinedView {
        node_id: config.node_id.get(),
        name: config.name,
        fleet: config.fleet.name,
        config: path.to_owned(),
        already: true,
    })
}

impl JoinedView {
    fn describe(&self) -> String {
        let Self { node_id, name, fleet, config, already } = self;
        let config = shown::path(config);
        let done = if *already { "has joined before" } else { "joined" };
        format!(
            "{name} {done}: node {node_id} of fleet {fleet}. Start it with\n  \
             strongroom coordinator run --config {config}\nand let it vote with\n  \
             strongroom node promote {name}\n"
        )
    }
}

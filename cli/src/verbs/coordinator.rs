//! `strongroom coordinator`: runs one member of the fleet.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::error::Result;
use crate::shutdown;

/// Verbs of a coordinator.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run until SIGINT or SIGTERM
    Run(RunArgs),
}

/// Arguments of `coordinator run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Its config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Also stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    let Verb::Run(arguments) = verb;
    let config = coordinator::config::Config::load(&arguments.config)?;
    let shutdown = shutdown::token(arguments.stop_with_stdin)?;
    Ok(coordinator::run(config, context.env.clone(), shutdown).await?)
}

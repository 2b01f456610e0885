//! `strongroom coordinator`: runs one member of the fleet, and what is done to one by hand.

mod recover;

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
    /// Make this coordinator the only one after a majority was lost for good; it must be stopped
    Recover(recover::RecoverArgs),
    /// Tell the others this coordinator's new address, before it is started there
    Move(recover::MoveArgs),
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
    match verb {
        Verb::Run(arguments) => serve(&arguments, context).await,
        Verb::Recover(arguments) => recover::recover(&arguments, context).await,
        Verb::Move(arguments) => recover::relocate(&arguments, context).await,
    }
}

async fn serve(arguments: &RunArgs, context: &Context) -> Result<()> {
    let config = coordinator::config::Config::load(&arguments.config)?;
    let shutdown = shutdown::token(arguments.stop_with_stdin)?;
    Ok(coordinator::run(config, context.env.clone(), shutdown).await?)
}

//! `strongroom coordinator`: runs one member of the fleet, makes a host one, and what is done to one
//! by hand.

mod join;
mod recover;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::environment;
use crate::error::{CliError, Result};
use crate::shutdown;

/// Verbs of a coordinator.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run until SIGINT or SIGTERM
    Run(RunArgs),
    /// Make this host a coordinator of a fleet that runs, with a one-time token
    Join(join::JoinArgs),
    /// Make this coordinator the only one after a majority was lost for good; it must be stopped
    Recover(recover::RecoverArgs),
    /// Tell the others this coordinator's new address, before it is started there
    Move(recover::MoveArgs),
}

impl Verb {
    /// Whether it ends only when it is asked to.
    #[must_use]
    pub const fn runs(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::Join(arguments) => arguments.run,
            Self::Recover(_) | Self::Move(_) => false,
        }
    }
}

/// Arguments of `coordinator run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Its config file [default: none, all by STRONGROOM_COORDINATOR_... variables]
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Run(arguments) => start(&arguments, context).await,
        Verb::Join(arguments) => join::run(arguments, context).await,
        Verb::Recover(arguments) => recover::recover(&arguments, context).await,
        Verb::Move(arguments) => recover::relocate(&arguments, context).await,
    }
}

async fn start(arguments: &RunArgs, context: &Context) -> Result<()> {
    let variables = environment::settings()?;
    if arguments.config.is_none() && variables.is_empty() {
        return Err(CliError::usage("there is no config").with_remedy(
            "give --config FILE, or every key as a STRONGROOM_COORDINATOR_... variable",
        ));
    }
    let config = coordinator::config::Config::load_with(arguments.config.as_deref(), variables)?;
    let shutdown = shutdown::token(arguments.stop_with_stdin)?;
    Ok(coordinator::run(config, context.env.clone(), shutdown).await?)
}

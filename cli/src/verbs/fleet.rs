//! `strongroom fleet`: the fleet as a whole.

mod init;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Result;

/// Verbs about the fleet as a whole.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Found a fleet: its certificate authority, its first coordinator and its first operator
    Init(init::InitArgs),
}

#[allow(clippy::unused_async, reason = "verbs that ask a fleet are added here")]
pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init::run(arguments, context),
    }
}

//! `strongroom fleet`: the fleet as a whole.

use clap::Subcommand;

use super::confirm_time;
use crate::context::Context;
use crate::error::Result;

/// Verbs about the fleet as a whole.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Say that the coordinators' clocks are right, after a jump froze the time
    ConfirmTime,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::ConfirmTime => confirm_time::run(context).await,
    }
}

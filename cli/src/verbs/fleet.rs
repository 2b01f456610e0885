//! `strongroom fleet`: the fleet as a whole.

mod bundles;
mod init;
mod renew;

use clap::Subcommand;

use super::confirm_time;
use crate::context::Context;
use crate::error::Result;

/// Verbs about the fleet as a whole.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Found a fleet: its certificate authority, its first coordinator and its first operator
    Init(Box<init::InitArgs>),
    /// Say where bundles are kept, on the coordinators' disks or in a bucket, or show it
    Bundles(bundles::BundlesArgs),
    /// On a coordinator's host: renew its certificate after its end, without any coordinator that
    /// runs; with the recovery key its authority too
    Renew(renew::RenewArgs),
    /// Say that the coordinators' clocks are right, after a jump froze the time
    ConfirmTime,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init::run(*arguments, context).await,
        Verb::Bundles(arguments) => bundles::run(&arguments, context).await,
        Verb::Renew(arguments) => renew::run(&arguments, context),
        Verb::ConfirmTime => confirm_time::run(context).await,
    }
}

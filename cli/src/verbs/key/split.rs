//! `strongroom key split`: shares of a recovery key that was kept whole in a file, for its holders.
//! The key stays the same, so nothing that is sealed to it has to change.

use std::path::PathBuf;

use agent::shown;
use clap::Args;

use super::init::{InitArgs, give_away};
use crate::context::Context;
use crate::error::Result;
use crate::key_files;

/// Arguments of `key split`.
#[derive(Debug, Args)]
pub struct SplitArgs {
    /// The file with the whole key, as `key init --seed-file` made it
    #[arg(long, value_name = "FILE")]
    pub recovery_key: PathBuf,
    /// How many shares to make, one for each holder
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub shares: u8,
    /// How many of them rebuild the key together
    #[arg(long, value_name = "T", default_value_t = 3)]
    pub threshold: u8,
    /// Directory for recovery.pub and a file for each holder; made if it is not there. Without it
    /// the shares are printed, this once, and recovery.pub is written where you are
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub(super) fn run(arguments: &SplitArgs, context: &Context) -> Result<()> {
    let secret = key_files::recovery_secret(&arguments.recovery_key)?;
    let init = InitArgs {
        shares: arguments.shares,
        threshold: arguments.threshold,
        out: arguments.out.clone(),
        seed_file: None,
    };
    give_away(&secret, &init, context)?;
    context.screen.note(&format!(
        "{} still holds the whole key: remove it once every holder has attested",
        shown::path(&arguments.recovery_key)
    ));
    Ok(())
}

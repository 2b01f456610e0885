//! `strongroom restore`.
use crate::context::Context;
use crate::error::Result;
use clap::Args;
/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {}
pub(crate) async fn run(_arguments: RestoreArgs, _context: &Context) -> Result<()> {
    Ok(())
}

//! inspect
use crate::context::Context;
use crate::error::Result;
use clap::Args;
/// Arguments
#[derive(Debug, Args)]
pub struct ShowArgs {}
/// Arguments
#[derive(Debug, Args)]
pub struct DiffArgs {}
/// Arguments
#[derive(Debug, Args)]
pub struct VerifyArgs {}
pub(super) async fn show(_arguments: &ShowArgs, _context: &Context) -> Result<()> {
    Ok(())
}
pub(super) async fn diff(_arguments: &DiffArgs, _context: &Context) -> Result<()> {
    Ok(())
}
pub(super) async fn verify(_arguments: &VerifyArgs, _context: &Context) -> Result<()> {
    Ok(())
}

//! `strongroom key status`: what a `recovery.pub` says.

use std::path::PathBuf;

use bundle::RecoveryPublicFile;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::key_files;

/// Arguments of `key status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The fleet's recovery.pub
    #[arg(long, value_name = "FILE")]
    pub recovery_pub: PathBuf,
}

/// What is public of a recovery key.
#[derive(Serialize)]
pub(super) struct StatusView {
    fingerprint: String,
    /// The shares that were made; none are known of a key made before there were shares.
    shares: Option<SharesView>,
}

#[derive(Serialize)]
struct SharesView {
    set: String,
    threshold: u8,
    total: u8,
}

impl From<&RecoveryPublicFile> for StatusView {
    fn from(file: &RecoveryPublicFile) -> Self {
        let shares = file.shares.as_ref().map(|shares| SharesView {
            set: shares.set().id(),
            threshold: shares.set().threshold(),
            total: shares.set().total(),
        });
        Self { fingerprint: file.public.fingerprint().to_string(), shares }
    }
}

pub(super) fn run(arguments: &StatusArgs, context: &Context) -> Result<()> {
    let file = key_files::recovery_public_file(&arguments.recovery_pub)?;
    context.screen.show(&StatusView::from(&file), |view| {
        let shares = match &view.shares {
            Some(SharesView { set, threshold, total }) => {
                format!("{total} of set {set}; any {threshold} of them rebuild the key")
            }
            None => "none recorded: the key was made before there were shares".to_owned(),
        };
        format!("fingerprint  {}\nshares       {shares}\n", view.fingerprint)
    })
}

//! `strongroom key attest`: one holder shows that the share is still there and whole, without the
//! others. Compares it with the digest that was recorded when it was made.

use std::path::PathBuf;

use bundle::{RecoveryPublicFile, RecoveryShare};
use clap::Args;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::recovery::{Given, refuse_typed};
use crate::{key_files, share_entry};

/// Arguments of `key attest`.
#[derive(Debug, Args)]
pub struct AttestArgs {
    /// File of the share; without it the share is asked for: hidden on a terminal, else one line on
    /// standard input
    // Several are taken, and refused in words that repeat nothing: a share that was typed here by
    // mistake has spaces.
    #[arg(value_name = "SHARE", num_args = 0..)]
    pub share: Vec<PathBuf>,
    /// The fleet's recovery.pub
    #[arg(long, value_name = "FILE")]
    pub recovery_pub: PathBuf,
}

/// A share that was found to be the one that was made.
#[derive(Serialize)]
struct Attested {
    attested: bool,
    share: u8,
    set: String,
    threshold: u8,
    total: u8,
    fingerprint: String,
}

pub(super) fn run(arguments: &AttestArgs, context: &Context) -> Result<()> {
    let file = key_files::recovery_public_file(&arguments.recovery_pub)?;
    let given = match &arguments.share[..] {
        [] => share_entry::ask_one()?,
        [path] => Given::read(path)?,
        [first, ..] => {
            refuse_typed(first)?;
            return Err(CliError::usage("give one share at a time"));
        }
    };
    let attested = attest(&given.share, &file).map_err(|error| error.during(&given.place))?;
    context.screen.show(&attested, |attested| {
        format!(
            "share {} of {} is whole: set {}, of the recovery key with fingerprint\n  {}\n",
            attested.share, attested.total, attested.set, attested.fingerprint
        )
    })
}

/// Checks one share against what was recorded of it.
fn attest(share: &RecoveryShare, file: &RecoveryPublicFile) -> Result<Attested> {
    let shares = file.shares.as_ref().ok_or_else(|| {
        CliError::new(Code::KeyMissing, "this recovery.pub records no shares")
            .with_remedy("give the recovery.pub that `strongroom key init` made with the shares")
    })?;
    shares.attest(share).map_err(|error| {
        let remedy = match error {
            bundle::AttestError::OtherSet { .. } => {
                "give the recovery.pub of the share's own set, or the share of this one"
            }
            bundle::AttestError::OtherShare { .. } => {
                "do not rely on it: copy it again from the holder's first paper or file; if that \
                 is no better, count it as lost"
            }
        };
        CliError::new(error.code(), error.to_string()).with_remedy(remedy)
    })?;
    Ok(Attested {
        attested: true,
        share: share.index(),
        set: share.set().id(),
        threshold: share.set().threshold(),
        total: share.set().total(),
        fingerprint: file.public.fingerprint().to_string(),
    })
}

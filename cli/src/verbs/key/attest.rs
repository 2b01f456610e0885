//! `strongroom key attest`: one holder shows that the share is still there and whole, without the
//! others. Compares it with the digest that was recorded when it was made.

use std::path::PathBuf;

use bundle::{RecoveryPublicFile, RecoveryShare};
use bytes::Bytes;
use clap::Args;
use proto::v1;
use proto::v1::keys_client::KeysClient;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::recovery::{Given, refuse_typed};
use crate::{key_files, operator, share_entry};

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
    /// Do not tell the fleet; without this it is told where there is an operator.toml
    #[arg(long)]
    pub offline: bool,
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
    /// Whether the fleet was told.
    told: bool,
}

pub(super) async fn run(arguments: &AttestArgs, context: &Context) -> Result<()> {
    let file = key_files::recovery_public_file(&arguments.recovery_pub)?;
    let given = match &arguments.share[..] {
        [] => share_entry::ask_one()?,
        [path] => Given::read(path)?,
        [first, ..] => {
            refuse_typed(first)?;
            return Err(CliError::usage("give one share at a time"));
        }
    };
    let mut attested = attest(&given.share, &file).map_err(|error| error.during(&given.place))?;
    let operator = context.operator_dir().ok().filter(|dir| dir.join(operator::FILE).exists());
    if !arguments.offline && operator.is_some() {
        tell(&given.share, &file, context).await?;
        attested.told = true;
    }
    context.screen.show(&attested, |attested| {
        format!(
            "share {} of {} is whole: set {}, of the recovery key with fingerprint\n  {}\n{}\n",
            attested.share,
            attested.total,
            attested.set,
            attested.fingerprint,
            if attested.told { "the fleet was told" } else { "the fleet was not told" }
        )
    })
}

/// Tells the fleet which share was shown; nothing of the share itself.
async fn tell(share: &RecoveryShare, file: &RecoveryPublicFile, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let set = share.set();
    let request = v1::AttestShareRequest {
        write_id: Some(client.next_write_id()),
        set: Bytes::copy_from_slice(set.id_bytes()),
        fingerprint: Bytes::copy_from_slice(file.public.fingerprint().as_bytes()),
        index: share.index().into(),
        threshold: set.threshold().into(),
        total: set.total().into(),
    };
    client
        .call("telling that the share is there", |channel| {
            let request = request.clone();
            async move { KeysClient::new(channel).attest_share(request).await }
        })
        .await?;
    Ok(())
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
        told: false,
    })
}

//! `strongroom key`: makes the fleet's recovery key, away from the coordinators.

use std::path::PathBuf;

use agent::shown;
use bundle::RecoverySecret;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::private_file;

/// Name of the secret half.
pub const RECOVERY_KEY: &str = "recovery.key";
/// Name of the public half.
pub const RECOVERY_PUB: &str = "recovery.pub";

/// Verbs about keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a fleet's recovery key: recovery.key (secret) and recovery.pub
    Init(InitArgs),
}

/// Arguments of `key init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Directory for both files; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Serialize)]
struct KeyView {
    recovery_key: PathBuf,
    recovery_pub: PathBuf,
    fingerprint: String,
}

pub(crate) fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init(&arguments, context),
    }
}

fn init(arguments: &InitArgs, context: &Context) -> Result<()> {
    private_file::make_directory(&arguments.out)?;
    let view = KeyView {
        recovery_key: arguments.out.join(RECOVERY_KEY),
        recovery_pub: arguments.out.join(RECOVERY_PUB),
        fingerprint: String::new(),
    };
    // Both are looked for before either is made, so that a refusal leaves nothing behind.
    private_file::refuse_existing(&view.recovery_key)?;
    private_file::refuse_existing(&view.recovery_pub)?;
    let secret = RecoverySecret::generate(&*context.env.random);
    let public = secret.public();
    private_file::create(&view.recovery_key, secret.to_text().as_bytes())?;
    private_file::create(&view.recovery_pub, public.to_text().as_bytes())?;
    let view = KeyView { fingerprint: public.fingerprint().to_string(), ..view };
    context.screen.show(&view, |view| {
        format!(
            "made         {}\nmade         {}\nfingerprint  {}\n\n\
             Keep {RECOVERY_KEY} offline and in more than one place: it opens every backup of the \
             fleet,\nand without it a lost cluster's backups stay closed. Coordinators and agents \
             get only {RECOVERY_PUB}.\n",
            shown::path(&view.recovery_key),
            shown::path(&view.recovery_pub),
            view.fingerprint
        )
    })
}

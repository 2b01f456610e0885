//! `strongroom agent`: makes an agent's keys and runs it.

use std::path::PathBuf;

use agent::shown;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::shutdown;

/// Verbs of an agent.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a new agent's KEK and signing key, and print the public half for `cluster register`
    Init(InitArgs),
    /// Print the public half of the signing key in an agent's directory, to compare
    Keys(InitArgs),
    /// Run until SIGINT or SIGTERM
    Run(RunArgs),
}

/// Arguments of `agent init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The agent's directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Arguments of `agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Its config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Also stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

#[derive(Serialize)]
struct InitView {
    kek: PathBuf,
    signing_key: PathBuf,
    signing_public_key: String,
    signing_key_fingerprint: String,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init(&arguments, context),
        Verb::Keys(arguments) => keys(&arguments, context),
        Verb::Run(arguments) => serve(arguments, context).await,
    }
}

fn init(arguments: &InitArgs, context: &Context) -> Result<()> {
    let made = agent::init(&arguments.dir, &*context.env.random)?;
    let view = InitView {
        kek: made.kek,
        signing_key: made.signing_key,
        signing_public_key: made.signing_public.to_string(),
        signing_key_fingerprint: made.signing_fingerprint.to_string(),
    };
    context.screen.show(&view, |view| {
        format!(
            "made         {} (opens this cluster's backups: keep a copy outside the cluster)\n\
             made         {}\nfingerprint  {}\n\nregister the cluster with\n  \
             strongroom cluster register NAME --signing-key {}\n",
            shown::path(&view.kek),
            shown::path(&view.signing_key),
            view.signing_key_fingerprint,
            view.signing_public_key
        )
    })
}

#[derive(Serialize)]
struct KeysView {
    signing_public_key: String,
    signing_key_fingerprint: String,
}

fn keys(arguments: &InitArgs, context: &Context) -> Result<()> {
    let public = agent::home::signing_public(&arguments.dir)?;
    let view = KeysView {
        signing_public_key: public.to_string(),
        signing_key_fingerprint: public.fingerprint().to_string(),
    };
    context.screen.show(&view, |view| {
        format!(
            "signing key  {}\nfingerprint  {}\n",
            view.signing_public_key, view.signing_key_fingerprint
        )
    })
}

async fn serve(arguments: RunArgs, context: &Context) -> Result<()> {
    let config = agent::config::Config::load(&arguments.config)?;
    let shutdown = shutdown::token(arguments.stop_with_stdin)?;
    Ok(agent::run(config, context.env.clone(), shutdown).await?)
}

//! The one binary, `strongroom`: runs coordinators and agents, and does every operator's verb.
//! What it prints, its exit codes and its files are described in `docs/cli.md`. The work itself is
//! in the packages it calls; here is only what stands between them and a person.

pub mod args;
pub mod config_file;
pub mod context;
pub mod coordinator_files;
pub mod dev;
pub mod enrol_token;
pub mod enrol_tokens;
pub mod enrolling;
pub mod environment;
pub mod error;
pub mod exit_codes;
pub mod founding;
pub mod join_token;
pub mod joining;
pub mod key_files;
mod offline_store;
pub mod operator;
pub mod operator_files;
pub mod output;
pub mod private_file;
pub mod progress;
pub mod recovery;
mod share_entry;
pub mod shutdown;
pub mod size;
pub mod staging;
pub mod telemetry;
pub mod verbs;
pub mod views;
pub mod when;

use args::{Cli, Command};
use context::Context;
use error::Result;

/// Runs one verb to its end.
///
/// # Errors
/// Whatever kept it from being done, ready to be printed.
pub async fn run(cli: Cli, context: &Context) -> Result<()> {
    let done = verb(cli, context).await;
    // An operator's certificate renews itself when it is used.
    context.renew_if_due().await;
    done
}

async fn verb(cli: Cli, context: &Context) -> Result<()> {
    match cli.command {
        Command::Coordinator(verb) => verbs::coordinator::run(verb, context).await,
        Command::Fleet(verb) => verbs::fleet::run(verb, context).await,
        Command::Agent(verb) => verbs::agent::run(verb, context).await,
        Command::Key(verb) => verbs::key::run(verb, context).await,
        Command::Cluster(verb) => verbs::cluster::run(verb, context).await,
        Command::Operator(verb) => verbs::operator::run(verb, context).await,
        Command::Pending(verb) => verbs::pending::run(verb, context).await,
        Command::Status(arguments) => verbs::status::run(arguments, context).await,
        Command::Backup(verb) => verbs::backup::run(verb, context).await,
        Command::Restore(arguments) => verbs::restore::run(*arguments, context).await,
        Command::Source(verb) => verbs::source::run(verb, context).await,
        Command::Snapshot(verb) => verbs::snapshot::run(verb, context).await,
        Command::Finding(verb) => verbs::finding::run(verb, context).await,
        Command::Audit(verb) => verbs::audit::run(verb, context).await,
        Command::Node(verb) => verbs::node::run(verb, context).await,
        Command::Dev(arguments) => dev::run(arguments, context).await,
    }
}

/// Whether a command line starts something that runs until it is stopped, and so logs what it
/// does.
#[must_use]
pub const fn is_server(cli: &Cli) -> bool {
    match &cli.command {
        Command::Coordinator(verb) => verb.runs(),
        Command::Agent(verb) => matches!(verb, verbs::agent::Verb::Run(_)),
        _ => false,
    }
}

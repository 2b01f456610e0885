//! The command line as a whole: what is common to all verbs, and the list of verbs. Each verb's
//! own arguments stand beside its code.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::CliError;
use crate::verbs::{
    agent, audit, backup, cluster, coordinator, finding, fleet, key, node, operator, pending,
    restore, snapshot, source, status,
};
use crate::{dev, exit_codes};

/// Keeps sealed backups of Kubernetes clusters on a Raft fleet.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    after_help = exit_codes::HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What is common to all verbs.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// What is common to all verbs.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory with operator.toml: coordinators, certificate and pinned heads
    /// [default: ~/.config/strongroom]
    #[arg(long, global = true, env = "STRONGROOM_OPERATOR_DIR", value_name = "DIR")]
    pub operator_dir: Option<PathBuf>,
    /// Tables for people or JSON for programs
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_OUTPUT",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// Form of the log on standard error
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_LOG",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter as `info,openraft=warn`
    /// [default: info for `run`, error for all else]
    #[arg(long, global = true, env = "STRONGROOM_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

/// Form of what a verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; stable.
    Json,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a coordinator
    #[command(subcommand)]
    Coordinator(coordinator::Verb),
    /// Found a fleet, and look after it as a whole
    #[command(subcommand)]
    Fleet(fleet::Verb),
    /// Prepare or run the agent of a cluster
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Make, check and use the recovery key
    #[command(subcommand)]
    Key(key::Verb),
    /// Register and list workload clusters
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Let operators in, list them, and revoke what they have
    #[command(subcommand)]
    Operator(operator::Verb),
    /// List, approve and cancel acts that need a second admin and wait
    #[command(subcommand)]
    Pending(pending::Verb),
    /// Show leader, nodes, newest recovery point of each cluster, and findings
    Status(status::StatusArgs),
    /// Make, list, inspect and export recovery points
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Bring back a recovery point, whole or in part
    Restore(Box<restore::RestoreArgs>),
    /// Find what a cluster offers to be backed up
    #[command(subcommand)]
    Source(source::Verb),
    /// Save the coordinators' state to a file, and check such files
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// List what people should know, and clear what is dealt with
    #[command(subcommand)]
    Finding(finding::Verb),
    /// List, verify and export who did what
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Say who belongs to the coordinators, and look after one of them
    #[command(subcommand)]
    Node(node::Verb),
    /// Run a fleet of three and an agent on this machine and tell the product's story
    Dev(dev::DevArgs),
}

/// What reading the command line ended with.
pub enum Parsed {
    /// A verb to run.
    Run(Box<Cli>),
    /// Help or version to print.
    Print(String),
    /// No valid command line, with the form the error should have.
    Refused(CliError, Format),
}

/// Reads a command line, program name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => Parsed::Run(Box::new(cli)),
        Err(error) if !error.use_stderr() => Parsed::Print(error.render().to_string()),
        Err(error) => refused(&error, &arguments),
    }
}

fn refused(error: &clap::Error, arguments: &[OsString]) -> Parsed {
    let text = error.render().to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let refusal = CliError::usage("a verb is missing").with_remedy(format!("\n{text}"));
        return Parsed::Refused(refusal, wanted_format(arguments));
    }
    // clap's text is "error: SENTENCE", then tips and usage after empty lines.
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (sentence, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut refusal = CliError::usage(sentence);
    if !rest.is_empty() {
        refusal = refusal.with_remedy(rest);
    }
    Parsed::Refused(refusal, wanted_format(arguments))
}

/// The form that a command line asks for although it is not valid as a whole.
fn wanted_format(arguments: &[OsString]) -> Format {
    let json = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--output=json");
    if json { Format::Json } else { Format::Table }
}

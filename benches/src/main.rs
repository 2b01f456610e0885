//! Measures what the README claims, beside peers, in one run on one disk: Debian's restic for
//! backups and restores, Debian's etcd for the time without a leader. Drives the real binary with
//! real processes, as a user would. Only the group `fleet` links parts of the product, its agents
//! and its client: a process per backup would measure the start of processes. Reports what it
//! got; with `--check` a missed target is an error.

mod backups;
mod data;
mod etcd;
mod failover;
mod figure;
mod files;
mod fleet;
mod interrupt;
mod large_file;
mod machine;
mod memory;
mod pki;
mod ports;
mod process;
mod progress;
mod restic;
mod small_files;
mod strongroom;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::figure::Report;
use crate::memory::Memory;
use crate::strongroom::Program;

/// Figures of strongroom beside its peers.
/// As in the binary: the agents of some figures run in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "benches", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure beside restic and etcd; some eight minutes, 6 GiB of disk
    Peers(PeersArgs),
}

#[derive(Debug, Args)]
struct PeersArgs {
    /// One JSON object per figure on standard output, instead of a table
    #[arg(long)]
    json: bool,
    /// Where to work; the file system to measure. A directory of its own is made in it and
    /// removed at the end [default: the cargo target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program to measure [default: built by `cargo build --release -p cli`]
    #[arg(long, value_name = "FILE")]
    strongroom: Option<PathBuf>,
    /// Measure only these groups; may stand several times
    #[arg(long, value_enum, value_name = "GROUP")]
    only: Vec<Group>,
    /// End with an error when a target was missed
    #[arg(long)]
    check: bool,
    /// In the group `fleet`: also with ten times as many points; some five minutes more
    #[arg(long)]
    tenfold: bool,
    /// Leave the working directory, with all logs, for a look
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// 10,000 files of 1 to 4 KiB: first, unchanged, 1 % changed, restore, stored bytes
    SmallFiles,
    /// One file of 1 GiB that does not compress: wall and CPU time
    LargeFile,
    /// From the leader's SIGKILL to the next acknowledged write
    Failover,
    /// Commits and unchanged points by 1 and by 64 agents
    Rates,
    /// Planned transfers; snapshots and restarts of a fleet with 100,000 points
    Fleet,
}

fn main() -> Result<()> {
    let Cli { command: Command::Peers(arguments) } = Cli::parse();
    interrupt::watch()?;
    peers(&arguments)
}

fn peers(arguments: &PeersArgs) -> Result<()> {
    let program = match &arguments.strongroom {
        Some(path) => Program::at(path)?,
        None => Program::build()?,
    };
    let parent = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => files::target_directory()?,
    };
    std::fs::create_dir_all(&parent)
        .with_context(|| format!("cannot make {}", parent.display()))?;
    let mut work = tempfile::Builder::new()
        .prefix("benches-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
    work.disable_cleanup(arguments.keep);
    let work = work.path().canonicalize().context("the working directory has no true path")?;

    let mut report = Report::new(arguments.json, machine::describe(&work)?);
    let mut memory = Memory::default();
    let wanted = |group| arguments.only.is_empty() || arguments.only.contains(&group);
    if wanted(Group::Failover) {
        failover::measure(&program, &work, &mut report, &mut memory)?;
    }
    if wanted(Group::SmallFiles) {
        small_files::measure(&program, &work, &mut report, &mut memory)?;
    }
    if wanted(Group::LargeFile) {
        large_file::measure(&program, &work, &mut report, &mut memory)?;
    }
    memory.report(&mut report)?;
    if wanted(Group::Rates) {
        fleet::measure_rates(&program, &work, &mut report)?;
    }
    if wanted(Group::Fleet) {
        fleet::measure_sizes(&program, &work, arguments.tenfold, &mut report)?;
    }
    report.finish(arguments.check)
}

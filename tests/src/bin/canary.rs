//! `cargo run --release -p tests --bin canary -- --snapshots 100 [--seed N]`: see
//! `tests::canary`. Ends with 1 when anything was wrong.

use std::process::ExitCode;

use clap::Parser;
use tests::canary::{self, Options};

/// Saves snapshots of a fleet under writes, with kills and pauses at random moments, and looks
/// whether each good file holds what it must and nothing else.
#[derive(Debug, Parser)]
struct Arguments {
    /// Snapshots to save
    #[arg(long, default_value_t = 100)]
    snapshots: u32,
    /// What happens, to whom and when [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Only this round of the seed's
    #[arg(long, value_name = "ROUND")]
    only: Option<u32>,
    /// MiB of sealed bytes in the fleet
    #[arg(long, value_name = "MIB", default_value_t = 24)]
    filler: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    eprintln!("seed {seed}");
    let options = Options {
        snapshots: arguments.snapshots,
        seed,
        only: arguments.only,
        filler_bytes: arguments.filler << 20,
        tell: true,
    };
    let report = canary::run(options).await;
    println!(
        "seed {seed}: {} good ({} after a new beginning), {} failed, {} killed, {} wrong; {} writes",
        report.good,
        report.retried,
        report.failed,
        report.killed,
        report.wrong.len(),
        report.writes
    );
    for what in &report.wrong {
        println!("wrong: {what}");
    }
    if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! Snapshots under fire: writers never stop, and while each snapshot is saved something happens to
//! the leader, to the others, or to whoever saves. Every write is a canary. One that was
//! acknowledged before the save began is in every good file, one begun after it ended is in none,
//! and a file holds the log up to its index, the whole of it and nothing behind (invariant S1).

mod check;
mod plan;
mod round;
mod writers;

use std::time::Instant;

pub use check::{Canary, Found, Save, check};
pub use plan::{Happening, Plan};

use crate::fleet::Fleet;
use crate::raw::RawCluster;
use crate::sealed::Content;
use round::Range;
use writers::Writers;

/// Clusters that write all the time.
const WRITERS: usize = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Snapshots to save.
    pub snapshots: u32,
    /// What happens, to whom and when.
    pub seed: u64,
    /// Only this one of them, as it would have been.
    pub only: Option<u32>,
    /// Sealed bytes in the fleet, which the throttled saver has to take.
    pub filler_bytes: usize,
    /// Whether each round is told on standard error.
    pub tell: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed it came from.
    pub seed: u64,
    /// Files that `snapshot inspect` calls good.
    pub good: u32,
    /// Saves that ended with an error and no file.
    pub failed: u32,
    /// Saves that were killed half way.
    pub killed: u32,
    /// Good files whose saver had to begin anew, through a new leader.
    pub retried: u32,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// What is wrong; nothing, if the product is right.
    pub wrong: Vec<String>,
}

/// Saves snapshots of a fleet of three processes, one after the other.
///
/// # Panics
/// When the fleet cannot be run, or does not come back after what happened to it.
pub async fn run(options: Options) -> Report {
    let mut fleet = Fleet::start().await;
    fill(&fleet, options.filler_bytes).await;
    let mut writers = Writers::default();
    for number in 1..=WRITERS {
        writers.begin(&fleet, &format!("writer-{number}")).await;
    }
    let mut report = Report { seed: options.seed, ..Report::default() };
    let mut found = Vec::new();
    for round in 0..options.snapshots {
        if options.only.is_some_and(|only| only != round) {
            continue;
        }
        let plan = Plan::draw(options.seed, round);
        let began = Instant::now();
        let range = Range { directory: fleet.scratch("canary"), filler: options.filler_bytes };
        let ended = round::run(&mut fleet, &writers, plan, &range).await;
        if options.tell {
            eprintln!("round {round}: {plan:?}: {ended} ({:.1} s)", began.elapsed().as_secs_f64());
        }
        let wrong = ended.wrong.iter().map(|what| format!("round {round}, {plan:?}: {what}"));
        report.wrong.extend(wrong);
        match ended.exit {
            Some(0) => report.good += 1,
            Some(_) => report.failed += 1,
            None => report.killed += 1,
        }
        report.retried += u32::from(ended.retries > 0);
        found.extend(ended.found.map(|file| (round, file)));
    }
    let canaries = writers.end().await;
    report.writes = canaries.iter().filter(|canary| canary.acknowledged.is_some()).count() as u64;
    // Once more with what was not acknowledged when the file was looked at.
    for (round, (file, save)) in &found {
        let wrong = in_short(check(file, save, &canaries));
        report.wrong.extend(wrong.iter().map(|what| format!("round {round}, at the end: {what}")));
    }
    report.wrong.extend(writers::lost(&fleet, &canaries).await);
    report
}

/// A file of another time lacks many points; the first few say as much.
fn in_short(mut wrong: Vec<String>) -> Vec<String> {
    let rest = wrong.len().saturating_sub(3);
    wrong.truncate(3);
    if rest > 0 {
        wrong.push(format!("and {rest} more"));
    }
    wrong
}

/// Something for a throttled saver to be busy with.
async fn fill(fleet: &Fleet, bytes: usize) {
    let mut harbour = RawCluster::register(fleet, "harbour").await;
    let mut random = fastrand::Rng::with_seed(11);
    let contents: Vec<Content> = (0..4)
        .map(|number| {
            let mut noise = vec![0; bytes / 4];
            random.fill(&mut noise);
            Content::file(&format!("file-{number}"), &noise)
        })
        .collect();
    harbour.backup(&fleet.address(1), &contents).await;
}

//! `strongroom dev`: a fleet of three coordinator processes and an agent process on loopback, and
//! the product's story told on them with real kills and real losses. One driver serves the tour
//! for people and `--once` for programs. For trying out and testing only: it holds every key.

pub mod compare;
mod configs;
mod copy;
mod events;
mod examples;
mod failover;
mod fleet;
mod loss;
mod narrator;
mod once;
mod pki;
mod ports;
mod probe;
mod process;
mod runner;
mod state;
mod steps;
mod story;
mod tour;
mod wait;

use std::path::PathBuf;

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::shutdown;
use story::Story;

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Directory of everything this fleet keeps; used again on the next start
    #[arg(long, value_name = "STATE", default_value = "state/dev")]
    pub data: PathBuf,
    /// Tell the story once on --source, without a person, and end
    #[arg(long, requires = "source", requires = "restore_to")]
    pub once: bool,
    /// With --once: the directory to back up; it is only read
    #[arg(long, value_name = "DIR", requires = "once")]
    pub source: Option<PathBuf>,
    /// With --once: where its first recovery point is restored to; must be empty or absent
    #[arg(long, value_name = "OUT", requires = "once")]
    pub restore_to: Option<PathBuf>,
    /// With --once: remove STATE at the end, if all went well
    #[arg(long, requires = "once")]
    pub clean: bool,
}

pub(crate) async fn run(arguments: DevArgs, context: &Context) -> Result<()> {
    let job = match (arguments.source, arguments.restore_to) {
        (Some(source), Some(out)) => Job::Once(once::Once::check(&source, &out, &arguments.data)?),
        _ => Job::Tour,
    };
    let interrupted = shutdown::token(false)?;
    let mut story = Story::open(&arguments.data, !arguments.once, context)?;
    let told = tokio::select! {
        // First: a story that was told to its end and then interrupted has ended well.
        biased;
        told = tell(&job, &mut story, &interrupted) => told,
        () = interrupted.cancelled() => Err(CliError::new(
            proto_types::Code::Unavailable,
            "interrupted before the end",
        )
        .with_remedy("start it again with the same directory; it goes on with a fresh cluster")),
    };
    let told = story.explain(told);
    let stopped = story.stop_all().await;
    told?;
    stopped?;
    if arguments.clean {
        story.remove()?;
    }
    story.finish(&job)
}

/// What is to be done.
enum Job {
    Once(once::Once),
    Tour,
}

async fn tell(
    job: &Job,
    story: &mut Story<'_>,
    interrupted: &tokio_util::sync::CancellationToken,
) -> Result<()> {
    match job {
        Job::Once(job) => once::tell(job, story).await,
        Job::Tour => tour::tell(story, interrupted).await,
    }
}

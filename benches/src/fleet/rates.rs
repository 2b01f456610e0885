//! How many commits a second, by one agent and by 64 at a time, beside etcd's puts of the same
//! size with as many clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::CROWD;
use super::agents::{BackingUp, ITEM_BYTES};
use super::puts::Putting;
use crate::etcd::{self, Cluster};
use crate::figure::{Better, Figure, Report, Runs};
use crate::interrupt;
use crate::progress::say;
use crate::strongroom::Fleet;

const RUNS: usize = 3;
const WARM_UP: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(4);

/// Somebody who makes one durable write after the other.
pub(super) trait Writer: Send + 'static {
    /// One write; returns when it is acknowledged.
    fn write(&mut self) -> impl Future<Output = Result<()>> + Send;
}

const fn figure(name: &'static str, target: Option<f64>, note: &'static str) -> Figure {
    Figure {
        name,
        unit: "per second",
        better: Better::More,
        target,
        peer_name: "etcd",
        how: etcd::HOW,
        note,
    }
}

const NOTE: &str = "acknowledged backups of a directory with one item of 1 KiB, another one each \
                    time, by the product's agents in one process, each with a cluster of its own, \
                    over mTLS; etcd: puts of 1 KiB under new keys over gRPC in clear; three nodes \
                    and all clients on one machine; one client asks the leader, 64 are spread over \
                    the nodes";
const NOTE_UNCHANGED: &str = "the same, the item unchanged: the point is a signed statement; etcd: \
                              the same puts of 1 KiB";

/// Per number of agents: commits and unchanged points.
const FIGURES: [(usize, Figure, Figure); 2] = [
    (
        1,
        figure("commits_by_one_agent", Some(0.05), NOTE),
        figure("unchanged_by_one_agent", Some(0.5), NOTE_UNCHANGED),
    ),
    (
        CROWD,
        figure("commits_by_64_agents", Some(0.05), NOTE),
        figure("unchanged_by_64_agents", Some(0.5), NOTE_UNCHANGED),
    ),
];

/// Measures and reports.
pub(super) async fn measure(
    fleet: &Fleet,
    peer: Option<&Cluster>,
    report: &mut Report,
) -> Result<()> {
    for (count, commits, unchanged) in FIGURES {
        let leader = fleet.addresses().swap_remove(fleet.leader()?);
        let first = (count == 1).then_some(leader.as_str());
        let mut agents = Vec::new();
        for number in 0..count {
            agents.push(BackingUp::start(fleet, number, first).await?);
        }
        let mut clients = Vec::new();
        if let Some(peer) = peer {
            let leader = peer.leader()?;
            for number in 0..count {
                let node = if count == 1 { leader } else { number % peer.addresses().len() };
                let prefix = format!("{count}-{number}");
                clients.push(Putting::start(peer, node, prefix, ITEM_BYTES).await?);
            }
        }
        let (mut changed, mut same) = (Runs::default(), Runs::default());
        for run in 0..RUNS {
            say(&format!("commits by {count}, run {} of {RUNS}", run + 1));
            for changes in [true, false] {
                agents = agents.into_iter().map(|agent| agent.changing(changes)).collect();
                let measured = rate(agents).await?;
                agents = measured.1;
                let runs = if changes { &mut changed } else { &mut same };
                runs.ours.push(measured.0);
            }
            if peer.is_some() {
                let measured = rate(clients).await?;
                clients = measured.1;
                changed.peer.push(measured.0);
                same.peer.push(measured.0);
            }
        }
        report.add(commits, &changed)?;
        report.add(unchanged, &same)?;
    }
    Ok(())
}

/// Has all of them write for a while; how many writes a second were acknowledged.
async fn rate<W: Writer>(writers: Vec<W>) -> Result<(f64, Vec<W>)> {
    rustix::fs::sync();
    let from = Instant::now() + WARM_UP;
    let until = from + WINDOW;
    let mut tasks = JoinSet::new();
    for (number, mut writer) in writers.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut count = 0_u32;
            loop {
                writer.write().await?;
                let now = Instant::now();
                if now >= until {
                    return anyhow::Ok((number, count, writer));
                }
                count += u32::from(now >= from);
            }
        });
    }
    let mut total = 0;
    let mut ended = Vec::new();
    while let Some(task) = tasks.join_next().await {
        interrupt::check()?;
        let (number, count, writer) = task.context("a writer panicked")??;
        total += count;
        ended.push((number, writer));
    }
    ended.sort_by_key(|(number, _)| *number);
    let writers = ended.into_iter().map(|(_, writer)| writer).collect();
    Ok((f64::from(total) / WINDOW.as_secs_f64(), writers))
}

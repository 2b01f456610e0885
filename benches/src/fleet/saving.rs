//! `snapshot save` of many points beside `etcdctl snapshot save` of as many bytes, and whether
//! writers notice that a snapshot is taken.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::points::Stating;
use super::puts::Putting;
use super::rates::Writer;
use super::{CROWD, POINTS};
use crate::backups::bytes;
use crate::etcd::{self, Cluster, Etcd};
use crate::figure::{Better, Figure, Report, Runs};
use crate::interrupt;
use crate::process::{self, Finished};
use crate::progress::say;
use crate::strongroom::{Fleet, json};

const RUNS: usize = 5;
const GAP_LIMIT_MS: f64 = 20.0;

/// How many points, and what the figures are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) points: usize,
    save: Figure,
    gap: Figure,
    pub(super) restart: Figure,
}

const SAVE: Figure = Figure {
    name: "snapshot_save",
    unit: "MB/s",
    better: Better::More,
    target: Some(1.0),
    peer_name: "etcd",
    how: etcd::HOW,
    note: "100,000 points; wall time of `snapshot save` (from a leader confirmed before and after, \
           compressed, hashed, fsynced, read back whole), in bytes of the state; etcd: as many keys \
           of together as many bytes, wall time of `etcdctl snapshot save`, in the same bytes",
};
const GAP: Figure = Figure {
    name: "snapshot_longest_wait_of_a_writer",
    unit: "ms",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 20 ms",
    how: "",
    note: "100,000 points; the longest time between two acknowledgements of one writer of \
           unchanged points at the leader while a snapshot is saved: an upper bound of how long \
           apply pauses, with the verb's own work on the same two cores in it",
};
const RESTART: Figure = Figure {
    name: "node_restart",
    unit: "s",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 5 s",
    how: "",
    note: "100,000 points; from before the start of the process of one follower, which had been \
           stopped by SIGTERM, until it answers a linearizable read",
};

/// 100,000 points.
pub(super) const ONCE: Size = Size { points: POINTS, save: SAVE, gap: GAP, restart: RESTART };
/// Ten times as many; without targets.
pub(super) const TENFOLD: Size = Size {
    points: POINTS * 10,
    save: Figure { name: "tenfold_snapshot_save", target: None, ..SAVE },
    gap: Figure { name: "tenfold_snapshot_longest_wait_of_a_writer", target: None, ..GAP },
    restart: Figure { name: "tenfold_node_restart", target: None, ..RESTART },
};

/// Measures and reports.
pub(super) fn measure(
    runtime: &Runtime,
    fleet: &mut Fleet,
    etcd: Option<&Etcd>,
    directory: &Path,
    size: Size,
    report: &mut Report,
) -> Result<()> {
    fleet.wait_whole()?;
    let out = directory.join("out.snapshot");
    let state_bytes = state_bytes(&save(fleet, &out)?)?;
    say(&format!("{} points are {state_bytes} bytes of state", size.points));
    // With nothing else in it.
    let place = directory.join(format!("etcd-{}", size.points));
    let mut peer = etcd.map(|etcd| etcd.start(&place)).transpose()?;
    if let Some(peer) = &mut peer {
        say("giving etcd as many bytes");
        runtime.block_on(fill(peer, size.points, state_bytes))?;
        peer.wait_whole()?;
    }
    let rate = |finished: &Finished| bytes(state_bytes) / 1e6 / finished.wall.as_secs_f64();
    let (mut saves, mut gaps) = (Runs::default(), Runs::default());
    gaps.peer.push(GAP_LIMIT_MS);
    let mut quiet = Vec::new();
    for run in 0..RUNS {
        say(&format!("snapshot of {} points, run {} of {RUNS}", size.points, run + 1));
        rustix::fs::sync();
        saves.ours.push(rate(&save(fleet, &out)?));
        if let Some(peer) = &peer {
            rustix::fs::sync();
            let saved = process::run(&mut peer.save(peer.leader()?, &out))?;
            saves.peer.push(rate(&saved));
            if run == 0 {
                let file = std::fs::metadata(&out)?.len();
                say(&format!("etcd's snapshot has {file} bytes"));
            }
            std::fs::remove_file(&out)?;
        }
        let leader = fleet.addresses().swap_remove(fleet.leader()?);
        let mut writer = runtime.block_on(Stating::start(fleet, 0, Some(&leader)))?;
        let (while_saving, took) = gap(runtime, &mut writer, || save(fleet, &out))?;
        gaps.ours.push(while_saving);
        let alone = || {
            std::thread::sleep(took);
            Ok(())
        };
        quiet.push(gap(runtime, &mut writer, alone)?.0);
    }
    drop(peer);
    say(&format!("without a snapshot a writer waits at most (ms): {quiet:.1?}"));
    report.add(size.save, &saves)?;
    report.add(size.gap, &gaps)
}

/// Our verb, and the file it left removed.
fn save(fleet: &Fleet, out: &Path) -> Result<Finished> {
    let mut command = fleet.operator();
    command.args(["--output", "json", "snapshot", "save"]).arg(out);
    let finished = process::run(&mut command)?;
    std::fs::remove_file(out)?;
    Ok(finished)
}

fn state_bytes(finished: &Finished) -> Result<u64> {
    let saved = json(finished)?;
    saved.get("state_bytes").and_then(Value::as_u64).context("`snapshot save` names no state_bytes")
}

/// The longest time, in milliseconds, that the writer waits while `work` goes on, and how long
/// that took.
fn gap<T>(
    runtime: &Runtime,
    writer: &mut Stating,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(f64, Duration)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let began = std::time::Instant::now();
            let done = work();
            over.store(true, Ordering::Relaxed);
            done.map(|_| began.elapsed())
        });
        let gap = runtime.block_on(writer.longest_gap(&|| over.load(Ordering::Relaxed)));
        let took = working.join().map_err(|_| anyhow::anyhow!("the work beside panicked"))??;
        Ok((gap?.as_secs_f64() * 1000.0, took))
    })
}

/// As many keys as there are points, their values together as long as the state.
async fn fill(peer: &Cluster, keys: usize, total: u64) -> Result<()> {
    let each = usize::try_from(total)? / keys;
    let share = keys / CROWD + 1;
    let mut tasks = JoinSet::new();
    for number in 0..CROWD {
        let node = number % peer.addresses().len();
        let prefix = format!("state-{keys}-{number}");
        let mut client = Putting::start(peer, node, prefix, each).await?;
        tasks.spawn(async move {
            for _ in 0..share {
                client.write().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        interrupt::check()?;
        task.context("filling etcd panicked")??;
    }
    Ok(())
}

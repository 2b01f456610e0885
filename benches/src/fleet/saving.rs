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
/// What apply may pause for a snapshot.
const PAUSE_LIMIT_MS: f64 = 20.0;
/// The histogram of how long a batch of log entries took to be applied, and its bounds, in
/// seconds, with the same in milliseconds.
const APPLY: &str = "strongroom_raft_apply_seconds";
const BOUNDS: [(&str, f64); 9] = [
    ("0.0005", 0.5),
    ("0.001", 1.0),
    ("0.0025", 2.5),
    ("0.005", 5.0),
    ("0.01", 10.0),
    ("0.025", 25.0),
    ("0.05", 50.0),
    ("0.1", 100.0),
    ("0.25", 250.0),
];

/// How many points, and what the figures are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) points: usize,
    save: Figure,
    pause: Figure,
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
const PAUSE: Figure = Figure {
    name: "snapshot_apply_pause",
    unit: "ms",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 20 ms",
    how: "",
    note: "100,000 points; the bound below which every batch of log entries was applied and \
           published at the leader while a snapshot was saved under one writer, as the histogram \
           of its own metric has it",
};
const GAP: Figure = Figure {
    name: "snapshot_longest_wait_of_a_writer",
    unit: "ms",
    better: Better::Less,
    target: None,
    peer_name: "the same writer without a snapshot",
    how: "",
    note: "100,000 points; the longest time between two acknowledgements of one writer of \
           unchanged points at the leader while a snapshot is saved, with the verb's own work on \
           the same two cores in it; beside it the same for as long without a snapshot",
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
pub(super) const ONCE: Size =
    Size { points: POINTS, save: SAVE, pause: PAUSE, gap: GAP, restart: RESTART };
/// Ten times as many; without targets.
pub(super) const TENFOLD: Size = Size {
    points: POINTS * 10,
    save: Figure { name: "tenfold_snapshot_save", target: None, ..SAVE },
    pause: Figure { name: "tenfold_snapshot_apply_pause", target: None, ..PAUSE },
    gap: Figure { name: "tenfold_snapshot_longest_wait_of_a_writer", ..GAP },
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
    let (mut saves, mut pauses, mut gaps) = (Runs::default(), Runs::default(), Runs::default());
    pauses.peer.push(PAUSE_LIMIT_MS);
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
        let leads = fleet.leader()?;
        let leader = fleet.addresses().swap_remove(leads);
        let mut writer = runtime.block_on(Stating::start(fleet, 0, Some(&leader)))?;
        let before = slower(fleet, leads)?;
        let (while_saving, took) = gap(runtime, &mut writer, || save(fleet, &out))?;
        gaps.ours.push(while_saving);
        let after = slower(fleet, leads)?;
        let bound = BOUNDS.iter().zip(before.iter().zip(&after)).find(|(_, (b, a))| a == b);
        pauses.ours.push(bound.map_or(1000.0, |((_, ms), _)| *ms));
        let alone = || {
            std::thread::sleep(took);
            Ok(())
        };
        gaps.peer.push(gap(runtime, &mut writer, alone)?.0);
    }
    drop(peer);
    report.add(size.save, &saves)?;
    report.add(size.pause, &pauses)?;
    report.add(size.gap, &gaps)
}

/// Per bound, how many batches took longer.
fn slower(fleet: &Fleet, at: usize) -> Result<Vec<u64>> {
    BOUNDS.iter().map(|(bound, _)| fleet.seen_above(at, APPLY, bound)).collect()
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

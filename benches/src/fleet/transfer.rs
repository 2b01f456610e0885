//! A planned transfer of leadership under writes: how long a writer waits at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::v1;
use proto_types::Code;
use tokio::runtime::Runtime;

use super::points::Stating;
use crate::figure::{Better, Figure, Report, Runs};
use crate::interrupt;
use crate::progress::say;
use crate::strongroom::{Fleet, NODES};

const RUNS: usize = 15;
/// The writer writes so long before and after.
const AROUND: Duration = Duration::from_millis(400);
const DEADLINE: Duration = Duration::from_secs(20);

const FIGURE: Figure = Figure {
    name: "planned_transfer_to_next_write",
    unit: "ms",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 50 ms",
    how: "",
    note: "`TransferLeader` under one writer that commits unchanged points without a pause, \
           through the coordinator that neither leads nor will: the longest time between two of \
           its acknowledgements, from 400 ms before to 400 ms after",
};
const LIMIT_MS: f64 = 50.0;

/// Measures and reports.
pub(super) fn measure(runtime: &Runtime, fleet: &mut Fleet, report: &mut Report) -> Result<()> {
    let mut runs = Runs { ours: Vec::new(), peer: vec![LIMIT_MS] };
    for run in 0..RUNS {
        if run.is_multiple_of(5) {
            say(&format!("planned transfer, run {} of {RUNS}", run + 1));
        }
        fleet.wait_whole()?;
        let leader = fleet.leader()?;
        let gap = runtime.block_on(one(fleet, leader))?;
        runs.ours.push(gap.as_secs_f64() * 1000.0);
        interrupt::check()?;
    }
    report.add(FIGURE, &runs)
}

async fn one(fleet: &Fleet, leader: usize) -> Result<Duration> {
    let addresses = fleet.addresses();
    let next = (leader + 1) % NODES;
    let third = addresses[(leader + 2) % NODES].clone();
    let mut writer = Stating::start(fleet, 0, Some(&third)).await?;
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed);
    let writing = writer.longest_gap(&is_over);
    let moving = async {
        tokio::time::sleep(AROUND).await;
        let moved = transfer(fleet, next as u64 + 1).await;
        tokio::time::sleep(AROUND).await;
        over.store(true, Ordering::Relaxed);
        moved
    };
    let (gap, moved) = tokio::join!(writing, moving);
    moved?;
    gap
}

async fn transfer(fleet: &Fleet, to: u64) -> Result<()> {
    let operator = fleet.client(fleet.addresses())?;
    let request = v1::TransferLeaderRequest { node_id: to };
    let started = Instant::now();
    loop {
        let moved = operator
            .call("moving the leadership", |channel| async move {
                v1::fleet_client::FleetClient::new(channel).transfer_leader(request).await
            })
            .await;
        match moved {
            Ok(_) => return Ok(()),
            // It lags a little behind, having been the leader of the run before.
            Err(error) if error.code() == Code::Unavailable && started.elapsed() < DEADLINE => {}
            Err(error) => return Err(error).context("no transfer"),
        }
        if started.elapsed() > DEADLINE {
            bail!("the leadership did not move");
        }
    }
}

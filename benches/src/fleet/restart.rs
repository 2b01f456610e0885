//! From the start of a node's process until it answers a linearizable read.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use proto::v1;
use tokio::runtime::Runtime;

use super::saving::Size;
use crate::figure::{Report, Runs};
use crate::interrupt;
use crate::progress::say;
use crate::strongroom::{Fleet, NODES};

const RUNS: usize = 5;
const LIMIT_S: f64 = 5.0;
const ASK_EVERY: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(120);

/// Measures and reports.
pub(super) fn measure(
    runtime: &Runtime,
    fleet: &mut Fleet,
    size: Size,
    report: &mut Report,
) -> Result<()> {
    let mut runs = Runs { ours: Vec::new(), peer: vec![LIMIT_S] };
    for run in 0..RUNS {
        say(&format!("restart with {} points, run {} of {RUNS}", size.points, run + 1));
        fleet.wait_whole()?;
        let node = (fleet.leader()? + 1) % NODES;
        fleet.stop_node(node)?;
        rustix::fs::sync();
        let began = Instant::now();
        fleet.start_node(node)?;
        runtime.block_on(answers(fleet, node, began))?;
        runs.ours.push(began.elapsed().as_secs_f64());
    }
    report.add(size.restart, &runs)
}

/// Asks, by a connection that is new each time, until there is an answer.
async fn answers(fleet: &Fleet, node: usize, began: Instant) -> Result<()> {
    let address = fleet.addresses().swap_remove(node);
    loop {
        interrupt::check()?;
        let (channel, _) = fleet.client(vec![address.clone()])?.channel();
        let mut client = v1::fleet_client::FleetClient::new(channel);
        let asked = client.list_clusters(v1::ListClustersRequest { stale: false });
        if matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(_))) {
            return Ok(());
        }
        if began.elapsed() > DEADLINE {
            bail!("coordinator {} does not answer after {DEADLINE:?}", node + 1);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

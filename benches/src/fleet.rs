//! What a fleet takes and how it behaves with many points in it: rates of commits beside etcd's
//! puts, planned transfers, snapshots, and the start of a node. Agents are the product's own, in
//! this process, each with a cluster, a directory and connections of its own.

mod agents;
mod points;
mod puts;
mod rates;
mod restart;
mod saving;
mod transfer;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use proto_types::ByteCount;
use tokio::runtime::Runtime;

use crate::etcd::{self, Etcd};
use crate::figure::Report;
use crate::memory::Memory;
use crate::progress::say;
use crate::strongroom::{Fleet, Program};

/// Agents at a time in the crowded measurements, and clusters of the fleet.
const CROWD: usize = 64;
/// Points of the measurements of size, and of their tenfold.
const POINTS: usize = 100_000;

/// Measures how many commits a second there are, and reports.
pub(crate) fn measure_rates(program: &Program, work: &Path, report: &mut Report) -> Result<()> {
    let directory = work.join("rates");
    let (runtime, fleet, etcd) = start(program, &directory)?;
    let peer = etcd.as_ref().map(|etcd| etcd.start(&directory.join("etcd"))).transpose()?;
    runtime.block_on(rates::measure(&fleet, peer.as_ref(), report))?;
    drop(peer);
    end(fleet, &directory)
}

/// Measures what depends on how much there is, and reports.
pub(crate) fn measure_sizes(
    program: &Program,
    work: &Path,
    tenfold: bool,
    report: &mut Report,
) -> Result<()> {
    let directory = work.join("fleet");
    let (runtime, mut fleet, etcd) = start(program, &directory)?;
    // What follows is made of unchanged points, which need a first one.
    for number in 0..CROWD {
        runtime.block_on(agents::BackingUp::start(&fleet, number, None))?;
    }
    transfer::measure(&runtime, &mut fleet, report)?;
    for size in [saving::ONCE, saving::TENFOLD] {
        if size.points > POINTS && !tenfold {
            continue;
        }
        say(&format!("loading {} points", size.points));
        let began = Instant::now();
        runtime.block_on(points::load(&fleet, size.points))?;
        say(&format!("loaded in {:.1} s", began.elapsed().as_secs_f64()));
        saving::measure(&runtime, &mut fleet, etcd.as_ref(), &directory, size, report)?;
        restart::measure(&runtime, &mut fleet, size, report)?;
        let resident = fleet.peak_resident_bytes()?;
        say(&format!("{} points: coordinators hold {}", size.points, ByteCount::new(resident)));
    }
    end(fleet, &directory)
}

fn start(program: &Program, directory: &Path) -> Result<(Runtime, Fleet, Option<Etcd>)> {
    proto::tls::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let fleet = Fleet::start(program, &directory.join("ours"))?;
    let etcd = Etcd::find();
    if etcd.is_none() {
        say(&format!("etcd is {}", etcd::HOW));
    }
    runtime.block_on(agents::enrol(&fleet, CROWD))?;
    Ok((runtime, fleet, etcd))
}

fn end(fleet: Fleet, directory: &Path) -> Result<()> {
    fleet.stop(&mut Memory::default())?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

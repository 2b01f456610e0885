//! One file of 1 GiB that does not compress: wall time of its first backup, and the processor
//! time of the side that reads and seals. Ours writes three copies to the one disk.

use std::path::Path;

use anyhow::Result;

use crate::backups::{alternate, beside_restic, find_restic, report_all};
use crate::data;
use crate::figure::{Report, Runs};
use crate::memory::Memory;
use crate::progress::say;
use crate::strongroom::{Fleet, Program};

const RUNS: usize = 3;

/// Measures and reports.
pub(crate) fn measure(
    program: &Program,
    work: &Path,
    report: &mut Report,
    memory: &mut Memory,
) -> Result<()> {
    let restic = find_restic()?;
    let directory = work.join("large-file");
    let source = directory.join("source");
    std::fs::create_dir_all(&source)?;
    data::make_noise(&source.join("noise"), data::LARGE_BYTES)?;
    let (mut wall, mut cpu) = (Runs::default(), Runs::default());
    for run in 0..RUNS {
        say(&format!("1 GiB, run {} of {RUNS}", run + 1));
        // A fleet of its own, so that no run leaves 3 GiB behind for the next ones.
        let fleet_directory = directory.join(format!("fleet-{run}"));
        let fleet = Fleet::start(program, &fleet_directory)?;
        let agent = fleet.enrol("large", &source)?;
        let peer_directory = directory.join(format!("restic-{run}"));
        let repository = restic.as_ref().map(|restic| restic.init(&peer_directory)).transpose()?;
        alternate(
            run,
            &source,
            || {
                let (agent_before, fleet_before) = (agent.cpu()?, fleet.cpu()?);
                let finished = fleet.backup(&agent)?;
                let sealed = agent.cpu()?.saturating_sub(agent_before);
                let kept = fleet.cpu()?.saturating_sub(fleet_before);
                // No figure, as restic has no such part; it tells which side the time went to.
                say(&format!(
                    "1 GiB: {:.1} s, of processor time {:.1} s the agent, {:.1} s the coordinators",
                    finished.wall.as_secs_f64(),
                    sealed.as_secs_f64(),
                    kept.as_secs_f64()
                ));
                wall.ours.push(finished.wall.as_secs_f64());
                cpu.ours.push((sealed + finished.cpu).as_secs_f64());
                Ok(())
            },
            repository.as_ref().map(|repository| {
                || {
                    let finished = repository.backup(&source)?;
                    wall.peer.push(finished.wall.as_secs_f64());
                    cpu.peer.push(finished.cpu.as_secs_f64());
                    Ok(())
                }
            }),
        )?;
        agent.stop(memory)?;
        fleet.stop(memory)?;
        std::fs::remove_dir_all(fleet_directory)?;
        if repository.is_some() {
            std::fs::remove_dir_all(peer_directory)?;
        }
    }
    std::fs::remove_dir_all(&directory)?;
    report_all(
        report,
        &[
            (
                beside_restic(
                    "one_gib_first_backup",
                    "s",
                    Some(0.3),
                    "wall time of the command; source in the page cache, nothing dirty; ours until \
                     two of three copies are fsynced, all on this disk",
                ),
                &wall,
            ),
            (
                beside_restic(
                    "one_gib_first_backup_cpu",
                    "CPU s",
                    Some(1.0),
                    "user and system time: our agent and the verb that asks it; restic",
                ),
                &cpu,
            ),
        ],
    )
}

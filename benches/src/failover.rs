//! From the leader's SIGKILL to the next acknowledged write, beside etcd with the same heartbeat
//! and election timeout. On both sides a new writer process starts every 50 ms until one of them
//! is acknowledged, so that neither client's own patience decides.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::etcd::{self, Etcd};
use crate::figure::{Better, Figure, Report, Runs};
use crate::interrupt;
use crate::memory::Memory;
use crate::process::{self, Attempt, LOOK_EVERY};
use crate::progress::say;
use crate::strongroom::{Fleet, Program};

const RUNS: usize = 7;
const WRITER_EVERY: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(60);

const FIGURE: Figure = Figure {
    name: "leader_kill_to_next_write",
    unit: "s",
    better: Better::Less,
    target: Some(0.5),
    peer_name: "etcd",
    how: etcd::HOW,
    note: "SIGKILL of the leader to the first acknowledged write through the survivors; three \
           nodes, heartbeat 200 ms, etcd's election timeout 1200 ms, ours 600 to 1200 ms; a new \
           writer process every 50 ms on both sides",
};

/// Measures and reports.
pub(crate) fn measure(
    program: &Program,
    work: &Path,
    report: &mut Report,
    memory: &mut Memory,
) -> Result<()> {
    let directory = work.join("failover");
    let mut fleet = Fleet::start(program, &directory.join("fleet"))?;
    let signing_key = fleet.make_keys("writer")?.join("signing.key");
    let etcd = Etcd::find();
    if etcd.is_none() {
        say(&format!("etcd is {}", etcd::HOW));
    }
    let mut cluster = etcd.map(|etcd| etcd.start(&directory.join("etcd"))).transpose()?;
    let writers = directory.join("writers.log");
    let mut runs = Runs::default();
    for run in 0..RUNS {
        say(&format!("failover, run {} of {RUNS}", run + 1));
        for ours in [run.is_multiple_of(2), !run.is_multiple_of(2)] {
            rustix::fs::sync();
            if ours {
                let leader = fleet.leader()?;
                fleet.kill(leader, memory)?;
                let took = next_write(&writers, |number| {
                    fleet.write(leader, &format!("failover-{run}-{number}"), &signing_key)
                })?;
                runs.ours.push(took.as_secs_f64());
                fleet.start_node(leader)?;
                fleet.wait_whole()?;
            } else if let Some(cluster) = &mut cluster {
                let leader = cluster.leader()?;
                cluster.kill(leader)?;
                let took = next_write(&writers, |number| {
                    Ok(cluster.write(leader, &format!("{run}-{number}")))
                })?;
                runs.peer.push(took.as_secs_f64());
                cluster.start_node(leader)?;
                cluster.wait_whole()?;
            }
        }
    }
    fleet.stop(memory)?;
    drop(cluster);
    std::fs::remove_dir_all(&directory)?;
    report.add(FIGURE, &runs)
}

/// Starts a writer every 50 ms, each with its own number, until one ends well. What they say is
/// appended to `log`.
fn next_write(log: &Path, writer: impl Fn(usize) -> Result<Command>) -> Result<Duration> {
    let start = Instant::now();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut started = 0;
    loop {
        interrupt::check()?;
        if start.elapsed() >= WRITER_EVERY * started {
            attempts.push(Attempt::start(&mut writer(usize::try_from(started)?)?, log)?);
            started += 1;
        }
        let mut running = Vec::new();
        for mut attempt in attempts {
            match attempt.ended()? {
                Some(true) => return Ok(start.elapsed()),
                // Refused: the next one tries anew.
                Some(false) => {}
                None => running.push(attempt),
            }
        }
        attempts = running;
        if start.elapsed() > DEADLINE {
            bail!(
                "no write was acknowledged within {} s of the kill; the writers said: {}",
                DEADLINE.as_secs(),
                process::end_of(log)
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failover_ends_with_the_first_writer_that_is_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let took = next_write(&directory.path().join("log"), |number| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", if number == 2 { "exit 0" } else { "exit 1" }]);
            Ok(command)
        });
        assert!(took.unwrap() >= WRITER_EVERY * 2);
    }

    #[test]
    fn failover_does_not_wait_for_a_writer_that_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let took = next_write(&directory.path().join("log"), |number| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", if number == 0 { "exec sleep 1000" } else { "exit 0" }]);
            Ok(command)
        });
        assert!(took.unwrap() < Duration::from_secs(60));
    }
}

//! One snapshot and what happens to the fleet while it is saved.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use coordinator::snapshot_file;
use proto::identity::Role;
use proto::v1;
use proto_types::{ClusterId, Sequence};
use tokio::process::Child;

use super::check::{Canary, Found, Save, check};
use super::in_short;
use super::plan::{Happening, Plan};
use super::writers::Writers;
use crate::cli::Cli;
use crate::client::Answer;
use crate::fleet::{Fleet, NODES};
use crate::wait::until_so;

/// Eight tries through new leaders take less.
const SAVE_DEADLINE: Duration = Duration::from_secs(180);

/// Where it takes place.
pub(super) struct Range {
    /// For the files.
    pub(super) directory: PathBuf,
    /// Sealed bytes in the fleet.
    pub(super) filler: usize,
}

/// How a round ended.
pub(super) struct Ended {
    /// The saver's exit code; `None`: it was killed.
    pub(super) exit: Option<i32>,
    /// How often it began anew.
    pub(super) retries: u64,
    /// What it printed when it failed.
    pub(super) said: String,
    /// The good file, if there is one.
    pub(super) found: Option<(Found, Save)>,
    /// What is wrong.
    pub(super) wrong: Vec<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.exit, &self.found) {
            (Some(0), _) if self.retries == 0 => f.write_str("good")?,
            (Some(0), _) => write!(f, "good after {} new beginnings", self.retries)?,
            (Some(code), _) => write!(f, "no snapshot, exit {code}: {}", self.said)?,
            (None, Some(_)) => f.write_str("killed when it was good already")?,
            (None, None) => f.write_str("killed, no good file")?,
        }
        self.wrong.iter().try_for_each(|what| write!(f, "\n  WRONG: {what}"))
    }
}

/// Saves a snapshot while that happens; the fleet is whole again afterwards.
pub(super) async fn run(fleet: &mut Fleet, writers: &Writers, plan: Plan, range: &Range) -> Ended {
    let leader = fleet.leader().await;
    let others = Fleet::others(leader);
    if plan.happening == Happening::OldLeaderAsked {
        fleet.node_mut(leader).pause();
        another_leads(fleet, leader).await;
        let before = writers.acknowledged();
        until_so("the new leader has acknowledged", async || writers.acknowledged() > before).await;
    }
    let asked = match plan.happening {
        Happening::OldLeaderAsked => leader,
        _ => [leader, others[0], others[1]][plan.via],
    };
    let out = range.directory.join("canary.snapshot");
    let limit = range.filler as u64 * 1000 / plan.save_ms;
    let mut command = tokio::process::Command::from(saver(fleet, asked, &out, limit));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let began = Instant::now();
    let mut child = command.spawn().expect("the saver starts");
    let moment = Duration::from_millis(plan.save_ms * u64::from(plan.moment) / 1000);
    // Not to wait for anything: this is the random moment.
    tokio::time::sleep(moment).await;
    happen(fleet, plan, leader, &mut child).await;
    // What it prints fits into a pipe.
    let output = tokio::time::timeout(SAVE_DEADLINE, child.wait_with_output()).await;
    let output = output.expect("saving ends").expect("it ran");
    let ended = Instant::now();
    restore(fleet).await;

    let save = Save { began, ended };
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut result = Ended {
        exit: output.status.code(),
        retries: answer["retries"].as_u64().unwrap_or_default(),
        said: String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("").to_owned(),
        found: None,
        wrong: Vec::new(),
    };
    for path in files(&range.directory) {
        look(&path, &out, save, &writers.so_far(), &mut result).await;
        std::fs::remove_file(&path).expect("an own file can be removed");
    }
    if result.exit == Some(0) && result.found.is_none() {
        result.wrong.push("saved, it says, and there is no good file".to_owned());
    }
    result
}

fn saver(fleet: &Fleet, asked: u64, out: &Path, limit: u64) -> std::process::Command {
    let mut addresses = fleet.addresses();
    // Asked first; the others are there for the retry.
    addresses.sort_by_key(|address| *address != fleet.address(asked));
    let operator = fleet.operator(Role::Operator);
    let cli = Cli::for_fleet(&fleet.scratch("saver"), &addresses, operator.files());
    let (out, limit) = (out.display().to_string(), limit.to_string());
    cli.command(&["snapshot", "save", &out, "--include-bundles", "--limit", &limit])
}

async fn another_leads(fleet: &Fleet, old: u64) {
    let viewer = fleet.operator(Role::Viewer);
    let address = fleet.address(Fleet::others(old)[0]);
    until_so("another leads", async || {
        let request = v1::GetStatusRequest { stale: true };
        let status = viewer.fleet(&address).get_status(request).await.answer();
        status.is_ok_and(|status| status.leader_id != old && status.leader_id != 0)
    })
    .await;
}

async fn happen(fleet: &mut Fleet, plan: Plan, leader: u64, saver: &mut Child) {
    let others = Fleet::others(leader);
    let pause = Duration::from_millis(plan.pause_ms);
    let paused: &[u64] = match plan.happening {
        Happening::OldLeaderAsked => {
            fleet.node_mut(leader).resume();
            return;
        }
        Happening::LeaderPaused => &[leader],
        Happening::LeaderCutOff => &others,
        Happening::FollowerPaused => &others[plan.whom..=plan.whom],
        Happening::LeaderKilled => return fleet.node_mut(leader).kill(),
        Happening::FollowerKilled => return fleet.node_mut(others[plan.whom]).kill(),
        Happening::LeaderMoved => return move_to(fleet, &[others[plan.whom]]).await,
        Happening::LeaderMovedAndBack => {
            return move_to(fleet, &[others[plan.whom], leader]).await;
        }
        Happening::SaverKilled => {
            // It may have ended by itself.
            let _ = saver.start_kill();
            return;
        }
        Happening::Nothing => return,
    };
    for node in paused {
        fleet.node_mut(*node).pause();
    }
    tokio::time::sleep(pause).await;
    for node in paused {
        fleet.node_mut(*node).resume();
    }
}

/// Leadership goes there, one after the other. That a transfer may fail is not the matter here.
async fn move_to(fleet: &Fleet, nodes: &[u64]) {
    let admin = fleet.admin_cli();
    for node in nodes {
        let _ = admin.run(&["node", "transfer-leader", &node.to_string()]).await;
    }
}

/// Everybody runs, and all follow one leader.
async fn restore(fleet: &mut Fleet) {
    for node in NODES {
        if fleet.node(node).runs() {
            fleet.node_mut(node).resume();
        }
    }
    fleet.start_all();
    fleet.ready().await;
    fleet.leader().await;
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory is there");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// A file that the saver left.
async fn look(path: &Path, out: &Path, save: Save, canaries: &[Canary], result: &mut Ended) {
    let name = path.display();
    let opened = File::open(path).expect("the file can be read");
    let ids: Vec<ClusterId> = canaries.iter().map(|canary| canary.cluster).collect();
    let inspected = tokio::task::spawn_blocking(move || {
        snapshot_file::inspect(BufReader::new(opened)).map(|file| found(&file, &ids))
    });
    match inspected.await.expect("the inspection ends") {
        Ok(file) => {
            result.wrong.extend(in_short(check(&file, &save, canaries)));
            result.found = Some((file, save));
        }
        Err(error) if path == out => {
            result.wrong.push(format!("{name} has its final name, and is not good: {error}"));
        }
        Err(_) => {}
    }
    if result.exit.is_some() && path != out {
        result.wrong.push(format!("{name} was left behind"));
    }
    if result.exit.is_some_and(|code| code != 0) && path == out {
        result.wrong.push(format!("{name} is there, and the saver said that it failed"));
    }
}

/// What a good file has of the writers.
fn found(file: &snapshot_file::Inspection, clusters: &[ClusterId]) -> Found {
    let mut found = Found { index: file.meta.index, ..Found::default() };
    for id in clusters {
        if found.heads.contains_key(id) {
            continue;
        }
        let mut next = 1;
        for point in file.state.points(id) {
            if point.sequence != Sequence::new(next) {
                found
                    .wrong
                    .push(format!("point {next} of {id} is missing before {}", point.sequence));
            }
            next = point.sequence.get() + 1;
            if point.index.get() > file.meta.index {
                let index = point.index;
                found.wrong.push(format!("point {} of {id} stands at {index}", point.sequence));
            }
        }
        found.heads.insert(*id, next - 1);
    }
    found
}

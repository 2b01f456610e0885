//! Follows a page of `docs/operations/` word by word: its blocks of commands, in their order, each
//! run by bash on the host that the test says. What a page tells in prose the test does itself.
//!
//! The hosts have no systemd: a `systemctl` of ours stands in, which starts and stops the real
//! coordinator of that host as its unit would.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{strongroom, workspace};
use crate::cli::{Cli, forget_settings};
use crate::fleet::{Fleet, Node};

const SYSTEMCTL: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$2" = strongroom-coordinator ] || { echo "Unit $2 not found." >&2; exit 5; }
pidfile="$RUNBOOK_HOST/pid"
active() {
  [ -f "$pidfile" ] && state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$(cat "$pidfile")/status" 2>/dev/null) \
    && [ -n "$state" ] && [ "${state:0:1}" != Z ]
}
case "$1" in
  start)
    active && exit 0
    setsid strongroom --log json --log-level info coordinator run --config "$CONFIG" \
      >>"$RUNBOOK_HOST/log.json" 2>&1 </dev/null &
    echo $! >"$pidfile" ;;
  stop)
    active || exit 0
    kill -TERM "$(cat "$pidfile")"
    while active; do sleep 0.02; done ;;
  is-active) active ;;
  *) echo "Unknown command verb $1." >&2; exit 1 ;;
esac
"#;

/// A page that is being followed.
pub struct Runbook {
    page: String,
    all: VecDeque<Block>,
    /// Those not run yet.
    blocks: VecDeque<Block>,
    bin: PathBuf,
    operator: PathBuf,
    /// Where the processes that the page started have their ids.
    hosts: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
struct Block {
    line: usize,
    text: String,
}

impl Runbook {
    /// Opens a page of `docs/operations/`, with an admin's `operator.toml` for these coordinators.
    ///
    /// # Panics
    /// When it has no block, or one that never ends.
    #[must_use]
    pub fn open(fleet: &Fleet, page: &str, addresses: &[String]) -> Self {
        let path = workspace().join("docs/operations").join(page);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let directory = fleet.scratch(&format!("runbook-{page}"));
        let operator = directory.join("operator");
        let admin = fleet.operator(proto::identity::Role::Admin);
        std::fs::create_dir_all(&operator).expect("a directory can be made");
        // Where no coordinator is left, there is none to list.
        if !addresses.is_empty() {
            let _ = Cli::for_fleet(&operator, addresses, admin.files());
        }
        let bin = directory.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory can be made");
        tools(&bin);
        let blocks = blocks(&text);
        assert!(!blocks.is_empty(), "{page} has no block of commands");
        let (page, all) = (page.to_owned(), blocks.clone());
        Self { page, all, blocks, bin, operator, hosts: Vec::new() }
    }

    /// Opens a page for hosts that the page itself sets up.
    ///
    /// # Panics
    /// As [`Runbook::open`].
    #[must_use]
    pub fn for_new_hosts(directory: &Path, page: &str) -> Self {
        let path = workspace().join("docs/operations").join(page);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let bin = directory.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory can be made");
        tools(&bin);
        let blocks = blocks(&text);
        assert!(!blocks.is_empty(), "{page} has no block of commands");
        let operator = directory.join("operator");
        let (page, all) = (page.to_owned(), blocks.clone());
        Self { page, all, blocks, bin, operator, hosts: Vec::new() }
    }

    /// Runs the next block on a host that is only a directory; its `systemctl` and its files are
    /// below it.
    ///
    /// # Panics
    /// When a command of it fails.
    pub async fn run_in(&mut self, host: &Path, variables: &[(&str, &str)]) -> String {
        let block = self.next();
        std::fs::create_dir_all(host).expect("a directory can be made");
        self.hosts.push(host.to_owned());
        let at = |name: &str| host.join(name).display().to_string();
        let (config, data) = (at("etc/coordinator.toml"), at("data"));
        let mut all = vec![("RUNBOOK_HOST", host.to_str().expect("a plain path"))];
        all.extend([("CONFIG", &*config), ("DATA_DIR", &*data)]);
        all.extend(variables);
        self.run_block(&block, None, &all).await
    }

    /// The admin's `operator.toml`.
    #[must_use]
    pub fn operator_file(&self) -> PathBuf {
        self.operator.join("operator.toml")
    }

    /// The next block's line and text.
    ///
    /// # Panics
    /// When there is none left.
    fn next(&mut self) -> Block {
        self.blocks.pop_front().unwrap_or_else(|| panic!("{} has no block left", self.page))
    }

    /// Runs the next block where only the operator's directory is; what it printed.
    ///
    /// # Panics
    /// When a command of it fails.
    pub async fn run(&mut self, variables: &[(&str, &str)]) -> String {
        let block = self.next();
        self.run_block(&block, None, variables).await
    }

    /// Runs the next block on a coordinator's host.
    ///
    /// # Panics
    /// When a command of it fails.
    pub async fn run_on(&mut self, node: &Node, variables: &[(&str, &str)]) -> String {
        let block = self.next();
        self.run_block(&block, Some(node), variables).await
    }

    /// Runs the next block once for each of these: a host, and variables of its own.
    ///
    /// # Panics
    /// When a command of it fails.
    pub async fn run_each(&mut self, rows: &[(&Node, Vec<(&str, &str)>)]) {
        let block = self.next();
        for (node, variables) in rows {
            self.run_block(&block, Some(node), variables).await;
        }
    }

    /// Starts the coordinator of a host as the page would, so that the page can stop it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self, node: &Node) {
        let text = "systemctl start strongroom-coordinator\n".to_owned();
        self.run_block(&Block { line: 0, text }, Some(node), &[]).await;
    }

    async fn run_block(
        &mut self,
        block: &Block,
        node: Option<&Node>,
        variables: &[(&str, &str)],
    ) -> String {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -euo pipefail\n{}", block.text)]);
        forget_settings(&mut command);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.display()));
        command.env("STRONGROOM_OPERATOR_DIR", &self.operator);
        if let Some(node) = node {
            self.hosts.push(node.directory().to_owned());
            command.env("RUNBOOK_HOST", node.directory());
            command.env("CONFIG", node.config());
            command.env("DATA_DIR", node.data());
            command.env("NODE", format!("coordinator-{}", node.id));
        }
        command.envs(variables.iter().copied());
        let done = Cli::finish(command).await;
        assert!(
            done.exit == 0,
            "{}:{}: exit {}\n{}\n--- printed:\n{}{}",
            self.page,
            block.line,
            done.exit,
            block.text,
            done.stdout,
            done.stderr
        );
        done.stdout + &done.stderr
    }

    /// Takes the next blocks out as a page of their own, for what a page says to do several times.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn split(&mut self, blocks: usize) -> Self {
        let blocks: VecDeque<Block> = (0..blocks).map(|_| self.next()).collect();
        Self {
            page: self.page.clone(),
            all: blocks.clone(),
            blocks,
            bin: self.bin.clone(),
            operator: self.operator.clone(),
            hosts: Vec::new(),
        }
    }

    /// Begins again with the first block.
    pub fn again(&mut self) {
        self.finish();
        self.blocks = self.all.clone();
    }

    /// Says that the page was followed to its end.
    ///
    /// # Panics
    /// When a block of it was not run.
    pub fn finish(&self) {
        let left: Vec<usize> = self.blocks.iter().map(|block| block.line).collect();
        assert!(left.is_empty(), "{}: the blocks in lines {left:?} were not run", self.page);
    }
}

impl Drop for Runbook {
    fn drop(&mut self) {
        for host in &self.hosts {
            kill(host);
        }
    }
}

/// What the blocks find on their `PATH`.
fn tools(bin: &Path) {
    std::os::unix::fs::symlink(strongroom(), bin.join("strongroom")).expect("a link");
    let systemctl = bin.join("systemctl");
    std::fs::write(&systemctl, SYSTEMCTL).expect("a file can be made");
    std::fs::set_permissions(&systemctl, PermissionsExt::from_mode(0o755)).expect("a mode");
}

/// SIGKILL to the process that a host's `systemctl` started, if it still runs.
fn kill(host: &Path) {
    let pid = std::fs::read_to_string(host.join("pid")).ok();
    let pid =
        pid.and_then(|text| text.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = std::fs::remove_file(host.join("pid"));
    }
}

/// The fenced blocks marked `sh`, in their order.
fn blocks(text: &str) -> VecDeque<Block> {
    let mut found = VecDeque::new();
    let mut open: Option<Block> = None;
    for (line, content) in (1..).zip(text.lines()) {
        match (&mut open, content) {
            (None, "```sh") => open = Some(Block { line, text: String::new() }),
            (Some(_), "```") => found.extend(open.take()),
            (Some(block), content) => {
                block.text.push_str(content);
                block.text.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    found
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn a_page_s_blocks_are_found_in_their_order() {
        let text = "a\n```sh\none\ntwo\n```\n```toml\nx = 1\n```\n```sh\nthree\n```\n";
        let found: Vec<(usize, String)> =
            blocks(text).into_iter().map(|block| (block.line, block.text)).collect();
        assert_eq!(found, [(2, "one\ntwo\n".to_owned()), (9, "three\n".to_owned())]);
    }
}

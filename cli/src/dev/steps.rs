//! The quiet steps of the story: fleet, cluster, backups, restores, each with its narration.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::RecoveryPublic;
use proto::identity::{Identity, Party};
use proto_types::{ByteCount, ClusterId, Code};
use serde_json::Value;

use super::compare::Tree;
use super::fleet::Fleet;
use super::process::Server;
use super::state::RECOVERY_KEY;
use super::story::{Cluster, Story};
use super::{configs, wait};
use crate::error::{CliError, Result};
use crate::verbs::key::RECOVERY_PUB;

/// An agent answers on its socket as soon as it has its session.
const AGENT_DEADLINE: Duration = Duration::from_secs(60);
/// Longest path of a Unix socket that Linux takes is 107 bytes.
const SOCKET_PATH_MAX: usize = 100;

/// A recovery point, as the story refers to it.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// `CLUSTER@SEQUENCE`.
    pub(super) name: String,
    /// Its number.
    pub(super) sequence: u64,
    /// When it was committed, RFC 3339 with milliseconds.
    pub(super) committed: String,
    /// `full`, `delta` or `unchanged`.
    pub(super) form: &'static str,
    /// Sealed bytes it added.
    pub(super) added_bytes: u64,
}

/// What opens a restore.
#[derive(Debug, Clone, Copy)]
pub(super) enum OpenWith {
    /// The agent's KEK.
    Kek,
    /// The fleet's recovery key.
    RecoveryKey,
}

impl Story<'_> {
    /// Makes what is not there yet, starts the coordinators, waits for a leader.
    pub(super) async fn start_fleet(&mut self) -> Result<()> {
        self.narrator.begin("starting the fleet");
        let operator = self.state.path("operator");
        if self.state.is_used_again {
            let root = self.state.root().display().to_string();
            self.narrator.say(&format!("{root} holds a fleet already: it is started again"))?;
        } else {
            let root = self.state.root().display().to_string();
            self.narrator.say(&format!("a new fleet, all of it in {root}"))?;
        }
        if !operator.join(RECOVERY_PUB).exists() {
            let seed = operator.join(RECOVERY_KEY);
            let [key, init, out, seed_file] =
                ["key", "init", "--out", "--seed-file"].map(OsStr::new);
            let arguments = [key, init, out, operator.as_os_str(), seed_file, seed.as_os_str()];
            self.runner.run(arguments).await?;
            self.narrator.say(
                "the recovery key is made, as five shares of which any three rebuild it: the \
                 coordinators learn only its public half; in earnest each share has a holder of \
                 its own, and no recovery.key is written",
            )?;
        }
        let recovery = self.recovery_public()?;
        // Kept before it is started: an interruption stops what it finds here.
        self.fleet =
            Some(Fleet::prepare(self.context, &self.state, &self.pki, &recovery, &self.exe)?);
        let fleet = self.fleet()?;
        let status = fleet.start_all().await?;
        let leader = status.nodes.iter().find(|node| node.leader);
        let leader = leader.map_or_else(String::new, |node| node.name.clone());
        let pids: Vec<String> =
            (0..3).filter_map(|at| fleet.pid(at)).map(|pid| pid.to_string()).collect();
        self.narrator.say(&format!(
            "three coordinators run as processes {} and have elected {leader} in term {}",
            pids.join(", "),
            status.term
        ))
    }

    fn recovery_public(&self) -> Result<RecoveryPublic> {
        let path = self.state.path("operator").join(RECOVERY_PUB);
        let text =
            std::fs::read_to_string(&path).map_err(|error| CliError::io("read", &path, &error))?;
        RecoveryPublic::from_text(&text).map_err(|error| {
            CliError::new(error.code(), format!("{}: {error}", agent::shown::path(&path)))
        })
    }

    /// A name for the next cluster that no cluster of this fleet has had.
    pub(super) fn next_cluster_name(&mut self, base: &str) -> Result<String> {
        self.state.saved.stories += 1;
        self.state.save()?;
        Ok(match self.state.saved.stories {
            1 => base.to_owned(),
            story => format!("{base}-{story}"),
        })
    }

    /// Makes an agent's keys, registers the cluster, gives the agent its certificate and config.
    pub(super) async fn enrol(&mut self, name: &str, keys: &[&str]) -> Result<()> {
        self.narrator.begin("enrolling the cluster");
        self.state.destroy("agent")?;
        let directory = self.state.path("agent");
        let arguments =
            [OsStr::new("agent"), OsStr::new("init"), OsStr::new("--dir"), directory.as_os_str()];
        self.runner.run(arguments).await?;
        let signing_key = directory.join("signing.key");
        let arguments = [
            OsStr::new("cluster"),
            OsStr::new("register"),
            OsStr::new(name),
            OsStr::new("--signing-key"),
            signing_key.as_os_str(),
        ];
        let registered = self.runner.run(arguments).await?;
        let id = text_of(&registered, "cluster_id")?;
        let party = Party::Agent(id.parse::<ClusterId>().map_err(|error| {
            CliError::new(Code::Internal, format!("the fleet gave no cluster id: {error}"))
        })?);
        let identity = Identity { fleet: self.state.saved.fleet, party };
        let tls = self.pki.issue(&format!("agent-{name}"), &identity)?;
        let socket = self.socket_path()?;
        let source = self.state.path("source");
        // The leader first: the story's hardest case is that the coordinator that takes an upload
        // is the one that is killed.
        let (leader, _) = self.fleet()?.leader().await?;
        let agent_config = configs::agent(&self.state, leader, name, &tls, &socket, &source, keys)?;
        self.cluster = Cluster { name: name.to_owned(), id, agent_config, socket };
        self.narrator.say(&format!(
            "cluster {name} is registered with the fleet by the key its agent signs with"
        ))
    }

    /// Goes on with the cluster that was enrolled at an earlier start.
    pub(super) fn resume_cluster(&mut self, name: &str) -> Result<()> {
        let agent_config = self.state.path("agent").join("agent.toml");
        let socket = self.socket_path()?;
        self.cluster = Cluster { name: name.to_owned(), id: String::new(), agent_config, socket };
        Ok(())
    }

    /// Beside the agent's files where the path is short enough for a socket. It is the same at
    /// every start: it stands in the agent's config.
    fn socket_path(&self) -> Result<PathBuf> {
        let usual = self.state.path("agent").join("agent.sock");
        if usual.as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(usual);
        }
        let directory = std::env::temp_dir().join(format!("strongroom-{}", self.state.saved.fleet));
        crate::private_file::make_directory(&directory)?;
        Ok(directory.join("agent.sock"))
    }

    /// Starts the agent's process and waits until it answers.
    pub(super) async fn start_agent(&mut self) -> Result<()> {
        let arguments = ["--log", "json", "agent", "run", "--stop-with-stdin", "--config"];
        let mut arguments: Vec<OsString> = arguments.map(Into::into).to_vec();
        arguments.push(self.cluster.agent_config.clone().into_os_string());
        let log = self.state.log("agent");
        let agent = self.agent.insert(Server::start(&self.exe, "agent", arguments, &log)?);
        let socket = self.cluster.socket.clone();
        wait::until("an answer of the agent", AGENT_DEADLINE, async || {
            agent.require_alive()?;
            let Ok(channel) = proto::channel::unix_channel(&socket).await else { return Ok(None) };
            let mut client = proto::v1::local_agent_client::LocalAgentClient::new(channel);
            let answer = client.get_agent_status(proto::v1::GetAgentStatusRequest {}).await;
            // Epoch 0: it has no session with the fleet yet.
            Ok(answer.ok().filter(|answer| answer.get_ref().epoch > 0).map(|_| ()))
        })
        .await
    }

    /// Stops the agent's process.
    pub(super) async fn stop_agent(&mut self) -> Result<()> {
        match self.agent.take() {
            Some(agent) => agent.stop().await,
            None => Ok(()),
        }
    }

    /// `backup now`, to its acknowledgement.
    pub(super) async fn backup(&self) -> Result<Point> {
        let answer = self.runner.run(self.backup_arguments(&[])).await?;
        Point::read(&answer)
    }

    /// The words of `backup now` for the story's agent.
    pub(super) fn backup_arguments(&self, more: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["backup".into(), "now".into(), "--config".into()];
        arguments.push(self.cluster.agent_config.clone().into_os_string());
        arguments.extend(more.iter().map(Into::into));
        arguments
    }

    /// Restores and compares with what it should be; says nothing.
    pub(super) async fn restore(
        &self,
        selection: &[&OsStr],
        to: &Path,
        with: OpenWith,
        expected: &Tree,
    ) -> Result<()> {
        self.run_restore(selection, to, with).await?;
        require_equal(expected, to)
    }

    /// Runs `restore`.
    pub(super) async fn run_restore(
        &self,
        selection: &[&OsStr],
        to: &Path,
        with: OpenWith,
    ) -> Result<Value> {
        let (flag, key) = match with {
            OpenWith::Kek => ("--kek", self.state.path("agent").join("kek.key")),
            OpenWith::RecoveryKey => {
                ("--recovery-key", self.state.path("operator").join(RECOVERY_KEY))
            }
        };
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("restore")];
        arguments.extend(selection);
        arguments.extend([OsStr::new("--to"), to.as_os_str()]);
        arguments.extend([OsStr::new(flag), key.as_os_str()]);
        self.runner.run(arguments).await
    }

    /// Exports a point to a file.
    pub(super) async fn export(&mut self, point: &Point) -> Result<PathBuf> {
        self.narrator.begin("exporting the newest point");
        let file = self.state.path("exports").join(format!("{}.strongroom", point.name));
        let arguments = [
            OsStr::new("backup"),
            OsStr::new("export"),
            OsStr::new("--point"),
            OsStr::new(&point.name),
            OsStr::new("--out"),
            file.as_os_str(),
        ];
        self.runner.run(arguments).await?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        self.narrator.say(&format!(
            "{} is exported, still sealed, to one file of {}",
            point.name,
            ByteCount::new(bytes)
        ))?;
        Ok(file)
    }
}

impl Point {
    /// Reads what `backup now` printed.
    pub(super) fn read(answer: &Value) -> Result<Self> {
        let flag = |name: &str| answer.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        Ok(Self {
            name: text_of(answer, "point")?,
            sequence: number("sequence"),
            committed: text_of(answer, "committed")?,
            form: match (flag("unchanged"), flag("full")) {
                (true, _) => "unchanged",
                (false, true) => "full",
                (false, false) => "delta",
            },
            added_bytes: number("added_bytes"),
        })
    }
}

/// A text of a verb's answer.
fn text_of(answer: &Value, name: &str) -> Result<String> {
    answer
        .get(name)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| CliError::new(Code::Internal, format!("the verb's answer lacks {name:?}")))
}

/// Fails with the first differences, if there are any.
pub(super) fn require_equal(expected: &Tree, found: &Path) -> Result<()> {
    let differences = expected.differences(&Tree::read(found)?);
    if differences.is_empty() {
        return Ok(());
    }
    let first: Vec<String> = differences
        .iter()
        .take(5)
        .map(|difference| format!("{} {}", difference.path, difference.what))
        .collect();
    Err(CliError::new(
        Code::NotEqual,
        format!(
            "{} is not equal to what was backed up, in {} places: {}",
            agent::shown::path(found),
            differences.len(),
            first.join("; ")
        ),
    ))
}

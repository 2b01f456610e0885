//! The three coordinator processes: started, watched, killed, asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bundle::RecoveryPublic;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::{Identity, Party, Role};
use proto::tls::TlsFiles;
use proto::v1;
use proto_types::{Code, NodeId};

use super::configs::{self, COORDINATORS};
use super::pki::Pki;
use super::process::Server;
use super::state::State;
use super::wait;
use crate::context::Context;
use crate::error::{CliError, Result};

/// A first election, or one after a kill, takes a few seconds on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// A node that was away may have to fetch every bundle.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(180);

/// The coordinators of a trial fleet.
pub(super) struct Fleet {
    exe: PathBuf,
    configs: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    servers: Vec<Option<Server>>,
    client: Arc<FleetClient>,
}

impl Fleet {
    /// Writes all config files; starts nothing.
    ///
    /// # Errors
    /// When a certificate or file cannot be made.
    pub(super) fn prepare(
        context: &Context,
        state: &State,
        pki: &Pki,
        recovery: &RecoveryPublic,
        exe: &Path,
    ) -> Result<Self> {
        let fleet = state.saved.fleet;
        let mut paths = Vec::new();
        for (at, name) in COORDINATORS.iter().enumerate() {
            let party = Party::Coordinator(NodeId::new(at as u64 + 1));
            let tls = pki.issue(name, &Identity { fleet, party })?;
            paths.push(configs::coordinator(state, at, &tls, recovery)?);
        }
        let party = Party::Operator { name: "dev".to_owned(), role: Role::Admin };
        let tls = pki.issue("operator", &Identity { fleet, party })?;
        configs::operator(state, &tls)?;
        let tls = TlsFiles { ca: tls.ca, certificate: tls.certificate, key: tls.key }.load()?;
        // Short tries: who polls asks again anyway.
        let policy = RetryPolicy {
            call_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        Ok(Self {
            exe: exe.to_owned(),
            configs: paths,
            logs: COORDINATORS.iter().map(|name| state.log(name)).collect(),
            servers: COORDINATORS.iter().map(|_| None).collect(),
            client: FleetClient::new(context.env.clone(), configs::addresses(state), &tls, policy)?,
        })
    }

    /// Starts one coordinator, counting from 0.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub(super) fn start(&mut self, at: usize) -> Result<()> {
        let arguments = ["--log", "json", "coordinator", "run", "--stop-with-stdin", "--config"];
        let mut arguments: Vec<std::ffi::OsString> = arguments.map(Into::into).to_vec();
        arguments.push(self.configs[at].clone().into_os_string());
        let server = Server::start(&self.exe, COORDINATORS[at], arguments, &self.logs[at])?;
        self.servers[at] = Some(server);
        Ok(())
    }

    /// Starts all, and waits until they have a leader and each other.
    ///
    /// # Errors
    /// When one ends by itself or they are not ready in time.
    pub(super) async fn start_all(&mut self) -> Result<v1::GetStatusResponse> {
        for at in 0..COORDINATORS.len() {
            self.start(at)?;
        }
        let fact = "a leader, with all coordinators reachable,";
        self.wait_for(fact, READY_DEADLINE, |status| {
            status.leader_id != 0 && status.nodes.iter().all(|node| node.reachable)
        })
        .await
    }

    /// Waits until the fleet's status is as wanted.
    ///
    /// # Errors
    /// When that takes too long, or a running coordinator ends by itself.
    pub(super) async fn wait_for(
        &mut self,
        fact: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&v1::GetStatusResponse) -> bool,
    ) -> Result<v1::GetStatusResponse> {
        let (client, servers) = (&self.client, &mut self.servers);
        wait::until(fact, deadline, async || {
            for server in servers.iter_mut().flatten() {
                server.require_alive()?;
            }
            match status(client).await {
                Ok(status) => Ok(Some(status).filter(&mut wanted)),
                // Between two leaders nobody answers.
                Err(error) if error.code().is_retryable() => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Which coordinator leads now, counting from 0, with its term.
    ///
    /// # Errors
    /// When nobody leads for too long.
    pub(super) async fn leader(&mut self) -> Result<(usize, u64)> {
        let status =
            self.wait_for("a leader", READY_DEADLINE, |status| status.leader_id != 0).await?;
        let at = usize::try_from(status.leader_id).unwrap_or(0).wrapping_sub(1);
        if at >= COORDINATORS.len() {
            return Err(CliError::new(
                Code::Internal,
                format!("node {} leads, which is not of this fleet", status.leader_id),
            ));
        }
        Ok((at, status.term))
    }

    /// SIGKILLs one coordinator and waits until it is gone.
    ///
    /// # Errors
    /// When it was not running.
    pub(super) async fn kill(&mut self, at: usize) -> Result<()> {
        let server = self.servers[at].take().ok_or_else(|| {
            CliError::new(Code::Internal, format!("{} does not run", COORDINATORS[at]))
        })?;
        server.kill().await
    }

    /// Fails if one that should run has ended by itself.
    ///
    /// # Errors
    /// `UNAVAILABLE`, with its last words.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.servers.iter_mut().flatten().try_for_each(Server::require_alive)
    }

    /// Process id of a coordinator, for the story.
    pub(super) fn pid(&self, at: usize) -> Option<u32> {
        self.servers[at].as_ref().and_then(Server::pid)
    }

    /// Waits until a restarted coordinator has applied what the leader had, and holds every bundle
    /// that points need.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) async fn wait_caught_up(&mut self, at: usize) -> Result<u64> {
        let node_id = at as u64 + 1;
        let mut goal = None;
        let fact = format!("{} catching up with the leader", COORDINATORS[at]);
        let status = self
            .wait_for(&fact, CATCH_UP_DEADLINE, |status| {
                let leader = status.nodes.iter().find(|node| node.leader && node.reachable);
                let Some(leader) = leader else { return false };
                // What was in the log when it came back; the log may grow on.
                let goal = *goal.get_or_insert(leader.last_log_index);
                let node = status.nodes.iter().find(|node| node.node_id == node_id);
                node.is_some_and(|node| {
                    node.reachable && node.applied_index >= goal && node.missing_bundles == 0
                })
            })
            .await?;
        let node = status.nodes.iter().find(|node| node.node_id == node_id);
        Ok(node.map_or(0, |node| node.applied_index))
    }

    /// Stops all that run, gracefully and together.
    ///
    /// # Errors
    /// When one had to be killed.
    pub(super) async fn stop_all(&mut self) -> Result<()> {
        let running: Vec<Server> = self.servers.iter_mut().filter_map(Option::take).collect();
        let mut stopping = tokio::task::JoinSet::new();
        for server in running {
            stopping.spawn(server.stop());
        }
        let mut result = Ok(());
        while let Some(stopped) = stopping.join_next().await {
            if let Ok(Err(error)) = stopped {
                result = Err(error);
            }
        }
        result
    }
}

async fn status(client: &FleetClient) -> Result<v1::GetStatusResponse> {
    let answer = client.call("asking for the fleet's status", |channel| async move {
        let mut fleet = v1::fleet_client::FleetClient::new(channel);
        fleet.get_status(v1::GetStatusRequest { stale: false }).await
    });
    Ok(answer.await?)
}

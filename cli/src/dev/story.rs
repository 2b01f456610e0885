//! What the story is told with: the state directory, the processes, and who tells. The steps
//! themselves are in `steps`, `failover` and `loss`; their order is `once`'s and `tour`'s.

use std::path::{Path, PathBuf};

use proto_types::Code;
use serde::Serialize;

use super::Job;
use super::fleet::Fleet;
use super::narrator::{Narrator, Told};
use super::pki::Pki;
use super::process::Server;
use super::runner::Runner;
use super::state::State;
use crate::context::Context;
use crate::error::{CliError, Result};

/// The story under way.
pub(super) struct Story<'a> {
    pub(super) context: &'a Context,
    pub(super) narrator: Narrator<'a>,
    pub(super) state: State,
    pub(super) pki: Pki,
    pub(super) exe: PathBuf,
    pub(super) runner: Runner,
    pub(super) fleet: Option<Fleet>,
    pub(super) agent: Option<Server>,
    /// The cluster it is about.
    pub(super) cluster: Cluster,
}

/// The workload cluster of the story.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    /// Its name in the fleet.
    pub(super) name: String,
    /// Its id.
    pub(super) id: String,
    /// Its agent's config file.
    pub(super) agent_config: PathBuf,
    /// Where its agent listens.
    pub(super) socket: PathBuf,
}

#[derive(Serialize)]
struct Summary<'s> {
    state: &'s Path,
    cluster: &'s str,
    steps: &'s [Told],
}

impl<'a> Story<'a> {
    /// Opens or makes the state directory, with the ports that people know if they are free and
    /// `usual_ports` asks for them.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn open(data: &Path, usual_ports: bool, context: &'a Context) -> Result<Self> {
        let exe = std::env::current_exe().map_err(|error| {
            CliError::new(Code::Internal, format!("this program does not find itself: {error}"))
        })?;
        let state = State::open(data, context, usual_ports)?;
        let pki = Pki::open(&state.path("pki"), state.saved.fleet, context.now.date())?;
        Ok(Self {
            context,
            narrator: Narrator::new(context),
            runner: Runner::new(exe.clone(), state.path("operator")),
            state,
            pki,
            exe,
            fleet: None,
            agent: None,
            cluster: Cluster::default(),
        })
    }

    /// The coordinators, once they were started.
    ///
    /// # Errors
    /// When a step comes before the fleet, which only a fault of ours can do.
    pub(super) fn fleet(&mut self) -> Result<&mut Fleet> {
        self.fleet.as_mut().ok_or_else(|| {
            CliError::new(Code::Internal, "this step of the story needs the coordinators")
        })
    }

    /// Names the step in a failure and where the logs are.
    ///
    /// # Errors
    /// The failure that was handed in.
    pub(super) fn explain(&self, told: Result<()>) -> Result<()> {
        told.map_err(|error| {
            let remedy = format!(
                "the story stopped at {:?}; the logs of all processes are in {}",
                self.narrator.step(),
                agent::shown::path(self.state.path("logs"))
            );
            error.during(self.narrator.step()).and_remedy(&remedy)
        })
    }

    /// Stops all processes, gracefully.
    ///
    /// # Errors
    /// When one had to be killed.
    pub(super) async fn stop_all(&mut self) -> Result<()> {
        let agent = match self.agent.take() {
            Some(agent) => agent.stop().await,
            None => Ok(()),
        };
        let fleet = match &mut self.fleet {
            Some(fleet) => fleet.stop_all().await,
            None => Ok(()),
        };
        agent.and(fleet)
    }

    /// Removes the state directory.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        self.state.remove()
    }

    /// The last words.
    ///
    /// # Errors
    /// When standard output is gone.
    pub(super) fn finish(&self, job: &Job) -> Result<()> {
        if self.context.screen.is_json() {
            return self.context.screen.json(&Summary {
                state: self.state.root(),
                cluster: &self.cluster.name,
                steps: self.narrator.told(),
            });
        }
        match job {
            Job::Once(_) => self.context.screen.line("all of it held"),
            Job::Tour => self.context.screen.line("stopped; start it again the same way"),
        }
    }
}

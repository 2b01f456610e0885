//! Writes the config files of a trial fleet: the same files a person would write.

use std::path::{Path, PathBuf};

use bundle::RecoveryPublic;
use serde::Serialize;

use super::pki::Files;
use super::state::State;
use crate::error::{CliError, Result};
use proto_types::Code;

/// Names of the coordinators, in the order of their node ids from 1.
pub(super) const COORDINATORS: [&str; 3] = ["coordinator-1", "coordinator-2", "coordinator-3"];

#[derive(Serialize)]
struct Tls<'a> {
    ca: &'a Path,
    certificate: &'a Path,
    key: &'a Path,
}

impl<'a> From<&'a Files> for Tls<'a> {
    fn from(files: &'a Files) -> Self {
        Self { ca: &files.ca, certificate: &files.certificate, key: &files.key }
    }
}

#[derive(Serialize)]
struct Coordinator<'a> {
    node_id: usize,
    name: &'a str,
    data_dir: &'a str,
    listen: String,
    metrics_listen: String,
    tls: Tls<'a>,
    fleet: Fleet,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Fleet {
    id: String,
    name: &'static str,
    recovery_hpke: String,
    recovery_signing: String,
}

#[derive(Serialize)]
struct Member {
    id: usize,
    name: &'static str,
    address: String,
}

#[derive(Serialize)]
struct Operator<'a> {
    coordinators: Vec<String>,
    pins: &'a str,
    tls: Tls<'a>,
}

#[derive(Serialize)]
struct Agent<'a> {
    cluster: &'a str,
    coordinators: Vec<String>,
    state_dir: &'a str,
    socket: &'a Path,
    recovery_key: &'a Path,
    tls: Tls<'a>,
    sources: [Source<'a>; 1],
}

#[derive(Serialize)]
struct Source<'a> {
    kind: &'a str,
    path: &'a Path,
    keys: &'a [&'a str],
}

/// `host:port` of each coordinator.
pub(super) fn addresses(state: &State) -> Vec<String> {
    state.saved.ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

/// `host:port` of each coordinator's metrics.
pub(super) fn metrics_addresses(state: &State) -> Vec<String> {
    state.saved.ports[3..].iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

/// Writes a coordinator's config, `at` counting from 0, and gives its path.
///
/// # Errors
/// When it cannot be written.
pub(super) fn coordinator(
    state: &State,
    at: usize,
    tls: &Files,
    recovery: &RecoveryPublic,
) -> Result<PathBuf> {
    let addresses = addresses(state);
    let members = COORDINATORS.iter().zip(&addresses).enumerate();
    let config = Coordinator {
        node_id: at + 1,
        name: COORDINATORS[at],
        data_dir: "data",
        listen: addresses[at].clone(),
        metrics_listen: metrics_addresses(state)[at].clone(),
        tls: tls.into(),
        fleet: Fleet {
            id: state.saved.fleet.to_string(),
            name: "dev",
            recovery_hpke: hex::encode(recovery.hpke),
            recovery_signing: hex::encode(recovery.signing),
        },
        members: members
            .map(|(at, (name, address))| Member { id: at + 1, name, address: address.clone() })
            .collect(),
    };
    write(&state.path(COORDINATORS[at]).join("coordinator.toml"), &config)
}

/// Writes `operator.toml` and gives its path.
///
/// # Errors
/// When it cannot be written.
pub(super) fn operator(state: &State, tls: &Files) -> Result<PathBuf> {
    let config = Operator { coordinators: addresses(state), pins: "pins.json", tls: tls.into() };
    write(&state.path("operator").join(crate::operator::FILE), &config)
}

/// Writes `agent.toml` and gives its path. The agent sends to the coordinator at `first` as long as
/// that answers.
///
/// # Errors
/// When it cannot be written.
pub(super) fn agent(
    state: &State,
    first: usize,
    cluster: &str,
    tls: &Files,
    socket: &Path,
    source: &Path,
    keys: &[&str],
) -> Result<PathBuf> {
    let recovery_key = state.path("operator").join(crate::verbs::key::RECOVERY_PUB);
    let mut coordinators = addresses(state);
    coordinators.rotate_left(first);
    let config = Agent {
        cluster,
        coordinators,
        state_dir: ".",
        socket,
        recovery_key: &recovery_key,
        tls: tls.into(),
        sources: [Source { kind: "directory", path: source, keys }],
    };
    write(&state.path("agent").join("agent.toml"), &config)
}

fn write(path: &Path, config: &impl Serialize) -> Result<PathBuf> {
    let text = toml::to_string(config).map_err(|error| {
        CliError::new(
            Code::Internal,
            format!("{} cannot be put as TOML: {error}", agent::shown::path(path)),
        )
    })?;
    if let Some(parent) = path.parent() {
        crate::private_file::make_directory(parent)?;
    }
    std::fs::write(path, text).map_err(|error| CliError::io("write", path, &error))?;
    Ok(path.to_owned())
}

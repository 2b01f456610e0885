//! `strongroom fleet init`: founds a fleet on its first host.

use std::path::PathBuf;

use agent::shown;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::coordinator_files::{CONFIG, advertised};
use crate::error::{CliError, Result};
use crate::founding::{self, FirstNode, FleetSeed, OPERATOR};
use crate::key_files;

/// Arguments of `fleet init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The public recovery key, recovery.pub: what all keys of the fleet are sealed to
    #[arg(long, value_name = "FILE")]
    pub recovery_key: PathBuf,
    /// What people call the fleet: lower-case letters, digits and hyphens
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Directory for the coordinator's files: absent, or empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the coordinator listens
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Where others reach it [default: as --listen]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where it serves /metrics, plain HTTP [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,
    /// Where it keeps everything [default: data in --dir]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What people call the coordinator
    #[arg(long, value_name = "NAME", default_value = "coordinator-1")]
    pub node_name: String,
    /// What people call the first operator, whose role is admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: String,
}

#[derive(Serialize)]
struct FoundedView {
    fleet_id: String,
    fleet: String,
    node_id: u64,
    name: String,
    address: String,
    directory: PathBuf,
    config: PathBuf,
    operator_dir: PathBuf,
    recovery_key_fingerprint: String,
}

pub(super) fn run(arguments: InitArgs, context: &Context) -> Result<()> {
    for (what, name) in [
        ("--name", &arguments.name),
        ("--node-name", &arguments.node_name),
        ("--operator", &arguments.operator),
    ] {
        proto_types::check_cluster_name(name)
            .map_err(|error| CliError::usage(format!("{what} {name:?}: {error}")))?;
    }
    let address = advertised(&arguments.listen, arguments.advertise.as_deref())?;
    let data_dir = arguments
        .data_dir
        .map(|path| std::path::absolute(&path).map_err(|error| CliError::io("use", &path, &error)));
    let recovery = key_files::recovery_public(&arguments.recovery_key)?;
    let seed = FleetSeed::draw(&arguments.name, recovery, &context.env)?;
    let node = FirstNode {
        id: 1,
        name: arguments.node_name,
        listen: arguments.listen,
        address,
        metrics_listen: arguments.metrics_listen,
        data_dir: data_dir.transpose()?,
        operator: arguments.operator,
    };
    founding::found(&seed, &node, &arguments.dir, &context.env)?;
    let view = FoundedView {
        fleet_id: seed.id.to_string(),
        fleet: seed.name,
        node_id: node.id,
        name: node.name,
        address: node.address,
        config: arguments.dir.join(CONFIG),
        operator_dir: arguments.dir.join(OPERATOR),
        directory: arguments.dir,
        recovery_key_fingerprint: seed.recovery.fingerprint().to_string(),
    };
    context.screen.show(&view, FoundedView::describe)
}

impl FoundedView {
    fn describe(&self) -> String {
        format!(
            "fleet         {} ({})\ncoordinator   {} ({}), node {}\nfiles         {}\n\
             operator      {}\nrecovery key  {}\n\n\
             Compare the recovery key's fingerprint. Start the coordinator with\n  \
             strongroom coordinator run --config {}\n\
             and move the operator's directory to where you work. For each further coordinator\n  \
             strongroom node token NAME --address HOST:PORT\n",
            self.fleet,
            self.fleet_id,
            self.name,
            self.address,
            self.node_id,
            shown::path(&self.directory),
            shown::path(&self.operator_dir),
            self.recovery_key_fingerprint,
            shown::path(&self.config),
        )
    }
}

//! `strongroom fleet init`: founds a fleet on its first host.

use std::path::{Path, PathBuf};

use agent::shown;
use clap::Args;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::coordinator_files::{CONFIG, advertised};
use crate::error::{CliError, Result};
use crate::founding::{self, FirstNode, FleetSeed, OPERATOR};
use crate::key_files;
use crate::recovery::{Recovery, ShareArgs};
use crate::verbs::snapshot;

/// Arguments of `fleet init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The public recovery key, recovery.pub: what all keys of the fleet are sealed to. With
    /// --from-snapshot the secret one, where it was kept in a file; it opens the fleet's authority
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["share", "shares"],
        conflicts_with_all = ["share", "shares"]
    )]
    pub recovery_key: Option<PathBuf>,
    #[command(flatten)]
    shares: ShareArgs,
    /// What people call the fleet: lower-case letters, digits and hyphens
    #[arg(long, value_name = "NAME", required_unless_present = "from_snapshot")]
    pub name: Option<String>,
    /// Found a fleet again whose coordinators are all lost: under the identity, the name and the
    /// certificate authority that this snapshot has, so that `strongroom snapshot restore` takes it
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub from_snapshot: Option<PathBuf>,
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
    /// What people call the coordinator [default: coordinator- and its number]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
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

/// A fleet's identity from a snapshot, and the first node id that it never gave out.
async fn from_snapshot(
    snapshot: &Path,
    recovery: &Recovery,
    context: &Context,
) -> Result<(FleetSeed, u64)> {
    let (found, _) = snapshot::inspect(snapshot, context).await?;
    let authority = found.state.authority().ok_or_else(|| {
        CliError::new(
            Code::InvalidConfig,
            format!(
                "{} holds no certificate authority: its fleet was not founded by `fleet init`",
                shown::path(snapshot)
            ),
        )
        .with_remedy(
            "set the first coordinator up as the lost ones were, with the same fleet id and \
             certificates of the same authority, then restore the snapshot",
        )
    })?;
    let names = bundle::read_authority_names(&authority.sealed_root_key)
        .map_err(|error| CliError::new(error.code(), error.to_string()))?;
    recovery.check(names.recovery_key, "the snapshot's fleet")?;
    let seed = FleetSeed::reopen(
        found.meta.fleet,
        &found.meta.fleet_name,
        &authority.root_certificate,
        &authority.sealed_root_key,
        recovery.secret(),
    )?;
    let listed = found.meta.nodes.iter().flatten().copied();
    let known = found.state.nodes().map(|node| node.id.get());
    let holders = found.state.bundles().flat_map(|(_, row)| &row.holders).map(|node| node.get());
    let last = listed.chain(known).chain(holders).chain([found.meta.leader]).max();
    Ok((seed, last.unwrap_or(0) + 1))
}

pub(super) async fn run(arguments: InitArgs, context: &Context) -> Result<()> {
    for (what, name) in [
        ("--name", arguments.name.as_ref()),
        ("--node-name", arguments.node_name.as_ref()),
        ("--operator", Some(&arguments.operator)),
    ] {
        let Some(name) = name else { continue };
        proto_types::check_cluster_name(name)
            .map_err(|error| CliError::usage(format!("{what} {name:?}: {error}")))?;
    }
    let address = advertised(&arguments.listen, arguments.advertise.as_deref())?;
    let data_dir = arguments
        .data_dir
        .map(|path| std::path::absolute(&path).map_err(|error| CliError::io("use", &path, &error)));
    let (seed, id) = match (&arguments.from_snapshot, &arguments.name) {
        (Some(file), _) => {
            let key = arguments.recovery_key.as_deref();
            let recovery = Recovery::read(key, &arguments.shares)?
                .ok_or_else(|| CliError::usage("the recovery key is missing"))?;
            from_snapshot(file, &recovery, context).await?
        }
        (None, Some(name)) => {
            let public =
                arguments.recovery_key.as_deref().filter(|_| !arguments.shares.are_given());
            let public = public.ok_or_else(|| {
                CliError::usage("a new fleet needs only the public half of its recovery key")
                    .with_remedy("give recovery.pub with --recovery-key, and no shares")
            })?;
            let recovery = key_files::recovery_public(public)?;
            (FleetSeed::draw(name, recovery, &context.env)?, 1)
        }
        (None, None) => return Err(CliError::usage("give --name, or --from-snapshot")),
    };
    let node = FirstNode {
        id,
        name: arguments.node_name.unwrap_or_else(|| format!("coordinator-{id}")),
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

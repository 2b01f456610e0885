//! `strongroom cluster`: which workload clusters the fleet protects.

mod enrol;
mod enrol_file;
mod keys;

use std::collections::BTreeMap;

use agent::heads::KnownHeads;
use agent::shown::plain;
use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::{ClusterId, Code, SigningPublicKey, check_cluster_name};

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::views::{ClusterView, cluster_rows};
use crate::{key_files, operator};

/// Verbs about clusters.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a cluster known to the fleet, with the key that signs its backups (role admin)
    Register(RegisterArgs),
    /// Make a one-time token by which a cluster's agent enrols; the cluster is registered when it
    /// comes (role admin)
    Enroll(enrol::EnrollArgs),
    /// Make void what a cluster's agents have, on open connections too (role admin)
    Revoke(enrol::RevokeArgs),
    /// Make tokens by which agents of several clusters enrol (role admin)
    #[command(subcommand)]
    Token(enrol::TokenVerb),
    /// List the agents that wait for approval
    Pending(enrol::PendingArgs),
    /// Let an agent in that waits (role admin)
    Approve(enrol::DecideArgs),
    /// Refuse one that waits, for as long as its token lasts (role admin)
    Reject(enrol::DecideArgs),
    /// Ask for a cluster and all its points to be deleted: another admin approves, and it waits
    /// (role admin)
    Delete(enrol::RevokeArgs),
    /// List the clusters
    List(ListArgs),
    /// Have a cluster's agent take a new KEK with its next backup; no data moves (role admin)
    RotateKek(keys::RotateArgs),
    /// Have a cluster's agent seal new data under a new key; no data moves (role admin)
    RotateDek(keys::RotateArgs),
    /// Say that a cluster's new signing key is its own, after the one before was lost (role admin)
    ApproveLineage(keys::ApproveArgs),
}

/// Arguments of `cluster register`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Its name: lower-case letters, digits and hyphens
    pub name: String,
    /// The cluster's public signing key as `agent init` printed it (64 hexadecimal digits), or a
    /// file with it, or the signing.key file itself, of which only the public half is sent
    #[arg(long, value_name = "FILE|HEX")]
    pub signing_key: String,
    /// A label, for policies; may stand several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// UID of the cluster's kube-system namespace
    #[arg(long, value_name = "UID", default_value = "")]
    pub kube_system_uid: String,
}

/// Arguments of `cluster list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

fn label(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not a label: expected KEY=VALUE")),
    }
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Register(arguments) => register(arguments, context).await,
        Verb::Enroll(arguments) => enrol::enroll(arguments, context).await,
        Verb::Revoke(arguments) => enrol::revoke(arguments, context).await,
        Verb::Token(verb) => enrol::token(verb, context).await,
        Verb::Pending(arguments) => enrol::pending(&arguments, context).await,
        Verb::Approve(arguments) => enrol::decide(arguments, true, context).await,
        Verb::Reject(arguments) => enrol::decide(arguments, false, context).await,
        Verb::Delete(arguments) => super::pending::request(&arguments.name, 0, context).await,
        Verb::List(arguments) => list(&arguments, context).await,
        Verb::RotateKek(arguments) => keys::rotate(&arguments, true, context).await,
        Verb::RotateDek(arguments) => keys::rotate(&arguments, false, context).await,
        Verb::ApproveLineage(arguments) => keys::approve(&arguments, context).await,
    }
}

async fn register(arguments: RegisterArgs, context: &Context) -> Result<()> {
    check_cluster_name(&arguments.name).map_err(|error| CliError::usage(error.to_string()))?;
    let signing_key: SigningPublicKey = key_files::signing_public(&arguments.signing_key)?;
    let labels: BTreeMap<String, String> = arguments.labels.into_iter().collect();
    let (operator, client) = operator::connect(context)?;
    let mut heads = KnownHeads::load(&operator.pins)?;
    let request = v1::RegisterClusterRequest {
        write_id: Some(client.next_write_id()),
        name: arguments.name,
        signing_key: signing_key.as_bytes().to_vec().into(),
        labels: labels.into_iter().collect(),
        kube_system_uid: arguments.kube_system_uid,
    };
    let answer = client
        .call("registering the cluster", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).register_cluster(request).await }
        })
        .await?;
    let cluster = answer.cluster.unwrap_or_default();
    let id = ClusterId::from_slice(&cluster.cluster_id).map_err(|error| {
        CliError::new(Code::Internal, format!("the fleet's answer names no cluster: {error}"))
    })?;
    // The key that the person gave, not the one that the fleet says it was given.
    heads.pin(client.fleet(), id, &cluster.name, signing_key)?;
    heads.save()?;
    let view = ClusterView::from(&cluster);
    context.screen.show(&view, |view| {
        format!(
            "registered   {}\ncluster id   {}\nsigning key  {}\n",
            plain(&view.name),
            view.cluster_id,
            view.signing_key_fingerprint
        )
    })
}

async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let stale = arguments.stale;
    let answer = client
        .call("listing the clusters", |channel| async move {
            FleetClient::new(channel).list_clusters(v1::ListClustersRequest { stale }).await
        })
        .await?;
    let views: Vec<ClusterView> = answer.clusters.iter().map(ClusterView::from).collect();
    context.screen.show(&views, |views| cluster_rows(views))
}

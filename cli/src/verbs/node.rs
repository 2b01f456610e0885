//! `strongroom node`: who belongs to the coordinators, and looking after one of them.

mod members;
mod token;

use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;

/// Verbs about coordinators.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the coordinators, and the change of voters under way
    List(members::ListArgs),
    /// Admit a coordinator: gives out the id for its config and certificate (role admin)
    Add(members::AddArgs),
    /// Make a one-time token by which a coordinator joins (role admin)
    Token(token::TokenArgs),
    /// Let a coordinator vote, once it has caught up and holds the bundles (role admin)
    Promote(members::ChangeArgs),
    /// Remove a coordinator for ever (role admin)
    Remove(members::ChangeArgs),
    /// Give up a change of voters that is still waiting (role admin)
    AbandonChange,
    /// Tell the others the new address of a coordinator (role admin)
    Move(members::MoveArgs),
    /// Let another coordinator lead (role admin)
    TransferLeader(members::TransferArgs),
    /// Read every bundle of a coordinator again; damaged copies are quarantined and repaired from
    /// its peers
    Scrub(ScrubArgs),
}

/// Arguments of `node scrub`.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// The coordinator's node id or name [default: each in turn]
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
}

/// What one scrub found.
#[derive(Debug, Serialize)]
struct ScrubView {
    node_id: u64,
    checked: u64,
    damaged: u64,
    missing: u64,
    repaired: u64,
    unrepaired: Vec<String>,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::List(arguments) => members::list(&arguments, context).await,
        Verb::Add(arguments) => members::add(arguments, context).await,
        Verb::Token(arguments) => token::make(arguments, context).await,
        Verb::Promote(arguments) => members::promote(&arguments, context).await,
        Verb::Remove(arguments) => members::remove(&arguments, context).await,
        Verb::Move(arguments) => members::relocate(arguments, context).await,
        Verb::AbandonChange => members::abandon(context).await,
        Verb::TransferLeader(arguments) => members::transfer(&arguments, context).await,
        Verb::Scrub(arguments) => scrub(&arguments, context).await,
    }
}

async fn scrub(arguments: &ScrubArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let nodes = chosen(&client, arguments.node.as_deref()).await?;
    let mut views = Vec::new();
    for node in nodes {
        views.push(scrub_one(&client, node, context).await?);
    }
    context.screen.show(&views, |views| views.iter().map(ScrubView::describe).collect())?;
    let bad: usize = views.iter().map(|view| view.unrepaired.len()).sum();
    if bad > 0 {
        return Err(CliError::new(
            Code::Damaged,
            format!("{bad} bundles are damaged or missing and no coordinator has a good copy"),
        )
        .with_remedy(
            "start every coordinator and scrub again; what stays unrepaired is lost unless an \
             exported file holds it",
        ));
    }
    Ok(())
}

async fn chosen(
    client: &proto::fleet_client::FleetClient,
    wanted: Option<&str>,
) -> Result<Vec<u64>> {
    let status = members::status(client).await?;
    match wanted {
        Some(wanted) => named(&status, wanted).map(|node| vec![node]),
        None => Ok(status.nodes.iter().map(|node| node.node_id).collect()),
    }
}

/// The id of a coordinator by its id or name.
fn named(status: &v1::GetStatusResponse, wanted: &str) -> Result<u64> {
    let mut matching = status
        .nodes
        .iter()
        .filter(|node| node.name == wanted || node.node_id.to_string() == wanted)
        .map(|node| node.node_id);
    let found = matching.next();
    if matching.next().is_some() {
        return Err(CliError::usage(format!(
            "{wanted:?} is the id of one node and the name of another"
        ))
        .with_remedy("give the id of the one whose name it is"));
    }
    drop(matching);
    found.ok_or_else(|| {
        let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
        CliError::usage(format!("there is no coordinator {wanted:?}"))
            .with_remedy(format!("the fleet has {}", names.join(", ")))
    })
}

async fn scrub_one(
    client: &proto::fleet_client::FleetClient,
    node_id: u64,
    context: &Context,
) -> Result<ScrubView> {
    let mut stream = client
        .call("starting the scrub", |channel| async move {
            FleetClient::new(channel).scrub_node(v1::ScrubNodeRequest { node_id }).await
        })
        .await?;
    let bar = context.screen.count_bar();
    bar.set_message(format!("node {node_id}"));
    let mut last = None;
    while let Some(progress) = stream.message().await.map_err(proto::ApiError::from)? {
        bar.set_length(progress.total);
        bar.set_position(progress.checked);
        last = Some(progress);
    }
    bar.finish_and_clear();
    match last {
        Some(last) if last.done => Ok(ScrubView {
            node_id,
            checked: last.checked,
            damaged: last.damaged,
            missing: last.missing,
            repaired: last.repaired,
            unrepaired: last.unrepaired_ids.iter().map(hex::encode).collect(),
        }),
        _ => Err(CliError::new(
            Code::Unavailable,
            format!("node {node_id} stopped telling about the scrub before its end"),
        )
        .with_remedy("look with `strongroom status`, then start the scrub again")),
    }
}

impl ScrubView {
    fn describe(&self) -> String {
        let mut text = format!(
            "node {}: {} bundles read, {} damaged, {} missing, {} repaired\n",
            self.node_id, self.checked, self.damaged, self.missing, self.repaired
        );
        for id in &self.unrepaired {
            text.push_str(&format!("  not repaired: {id}\n"));
        }
        text
    }
}

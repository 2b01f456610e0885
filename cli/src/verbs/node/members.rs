//! Who belongs to the coordinators, who votes, who leads.

use std::time::Duration;

use clap::Args;
use proto::fleet_client::FleetClient as Client;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::Code;
use serde::Serialize;

use super::named;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::views::StatusView;

/// How long the leader may take to pass on a new address.
const MOVE_SECONDS: u64 = 30;
/// Between two looks at a change under way.
const LOOK: Duration = Duration::from_millis(250);

/// Arguments of `node list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

/// Arguments of `node add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What people call it: lower-case letters, digits and hyphens
    pub name: String,
    /// Where the other coordinators reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
}

/// Arguments of `node promote` and `node remove`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The coordinator's node id or name
    pub node: String,
    /// How long to wait until the change is made; 0: only begin it
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub wait: u64,
}

/// Arguments of `node transfer-leader`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The coordinator's node id or name
    pub node: String,
}

/// Arguments of `node move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The coordinator's node id or name
    pub node: String,
    /// Where the other coordinators reach it from now on
    #[arg(value_name = "HOST:PORT")]
    pub address: String,
}

#[derive(Debug, Serialize)]
struct MovedView {
    node_id: u64,
    address: String,
}

#[derive(Debug, Serialize)]
struct NodeAddedView {
    node_id: u64,
    name: String,
    address: String,
}

#[derive(Debug, Serialize)]
struct ChangedView {
    node_id: u64,
    /// `promoted` or `removed`.
    change: &'static str,
    /// Whether it is made, and not only begun.
    done: bool,
}

pub(super) async fn status(client: &Client) -> Result<v1::GetStatusResponse> {
    let status = client
        .call("asking for the coordinators", |channel| async move {
            FleetClient::new(channel).get_status(v1::GetStatusRequest { stale: false }).await
        })
        .await?;
    Ok(status)
}

pub(super) async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let stale = arguments.stale;
    let status = client
        .call("asking for the coordinators", |channel| async move {
            FleetClient::new(channel).get_status(v1::GetStatusRequest { stale }).await
        })
        .await?;
    let view = StatusView::from(&status);
    if context.screen.is_json() {
        // What a program needs to follow a change, without the clusters.
        return context.screen.show(&NodesView::of(&view), |_| String::new());
    }
    context.screen.show(&view, StatusView::node_rows)
}

#[derive(Serialize)]
struct NodesView<'a> {
    nodes: &'a [crate::views::NodeView],
    change: &'a Option<crate::views::ChangeView>,
    stale: bool,
}

impl<'a> NodesView<'a> {
    fn of(view: &'a StatusView) -> Self {
        Self { nodes: &view.nodes, change: &view.change, stale: view.stale }
    }
}

pub(super) async fn add(arguments: AddArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::AddNodeRequest {
        write_id: Some(client.next_write_id()),
        name: arguments.name.clone(),
        address: arguments.address.clone(),
    };
    let answer = client
        .call("adding the coordinator", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).add_node(request).await }
        })
        .await?;
    let view =
        NodeAddedView { node_id: answer.node_id, name: arguments.name, address: arguments.address };
    context.screen.show(&view, |view| {
        format!(
            "{} is node {id}: give it a certificate of that id, `node_id = {id}` and `join = true` \
             in its config, start it, then `strongroom node promote {}`\n",
            view.name,
            view.name,
            id = view.node_id
        )
    })
}

pub(super) async fn promote(arguments: &ChangeArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let node_id = named(&status(&client).await?, &arguments.node)?;
    let request = v1::PromoteNodeRequest { write_id: Some(client.next_write_id()), node_id };
    client
        .call("promoting the coordinator", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).promote_node(request).await }
        })
        .await?;
    let done = finished(&client, arguments.wait, context, |status| {
        status.nodes.iter().any(|node| node.node_id == node_id && node.voter)
    })
    .await?;
    show(ChangedView { node_id, change: "promoted", done }, context)
}

pub(super) async fn remove(arguments: &ChangeArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let node_id = named(&status(&client).await?, &arguments.node)?;
    let request = v1::RemoveNodeRequest { write_id: Some(client.next_write_id()), node_id };
    client
        .call("removing the coordinator", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).remove_node(request).await }
        })
        .await?;
    let done = finished(&client, arguments.wait, context, |status| {
        status.nodes.iter().all(|node| node.node_id != node_id)
    })
    .await?;
    show(ChangedView { node_id, change: "removed", done }, context)
}

fn show(view: ChangedView, context: &Context) -> Result<()> {
    let (done, node_id) = (view.done, view.node_id);
    context.screen.show(&view, |view| match view.done {
        true => format!("node {} is {}\n", view.node_id, view.change),
        false => format!(
            "node {} is being {}: look with `strongroom node list`\n",
            view.node_id, view.change
        ),
    })?;
    if done {
        return Ok(());
    }
    Err(CliError::new(
        Code::DeadlineExceeded,
        format!("the change of node {node_id} has begun and is not over yet"),
    )
    .with_remedy(
        "it goes on by itself; `strongroom node list` says what it waits for, `strongroom node \
         abandon-change` gives it up",
    ))
}

/// Waits until the change is over; whether it is.
async fn finished(
    client: &Client,
    wait_seconds: u64,
    context: &Context,
    is_made: impl Fn(&v1::GetStatusResponse) -> bool,
) -> Result<bool> {
    let clock = &context.env.clock;
    let deadline = clock.elapsed_millis().saturating_add(wait_seconds.saturating_mul(1000));
    loop {
        let status = status(client).await?;
        if status.change.is_none() && is_made(&status) {
            return Ok(true);
        }
        if clock.elapsed_millis() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(super) async fn abandon(context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::AbandonChangeRequest { write_id: Some(client.next_write_id()) };
    let answer = client
        .call("giving up the change", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).abandon_change(request).await }
        })
        .await?;
    context.screen.show(&serde_json::json!({ "abandoned": !answer.done }), |_| {
        if answer.done {
            "the change of voters was already made\n".to_owned()
        } else {
            "the change of voters is given up\n".to_owned()
        }
    })
}

pub(super) async fn relocate(arguments: MoveArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let node_id = named(&status(&client).await?, &arguments.node)?;
    let request = v1::MoveNodeRequest {
        write_id: Some(client.next_write_id()),
        node_id,
        address: arguments.address.clone(),
    };
    client
        .call("moving the coordinator", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).move_node(request).await }
        })
        .await?;
    let address = &arguments.address;
    let known = finished(&client, MOVE_SECONDS, context, |status| {
        status.nodes.iter().any(|node| node.node_id == node_id && node.address == *address)
    })
    .await?;
    if !known {
        return Err(CliError::new(
            Code::DeadlineExceeded,
            format!("the new address of node {node_id} is recorded, but not known to all yet"),
        )
        .with_remedy("it goes on by itself; look with `strongroom node list`"));
    }
    context.screen.show(&MovedView { node_id, address: arguments.address }, |view| {
        format!("the fleet looks for node {} at {} from now on\n", view.node_id, view.address)
    })
}

pub(super) async fn transfer(arguments: &TransferArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let node_id = named(&status(&client).await?, &arguments.node)?;
    client
        .call("transferring leadership", |channel| async move {
            let request = v1::TransferLeaderRequest { node_id };
            FleetClient::new(channel).transfer_leader(request).await
        })
        .await?;
    context
        .screen
        .show(&serde_json::json!({ "leader_id": node_id }), |_| format!("node {node_id} leads\n"))
}

//! `strongroom pending`: acts that need a second admin and wait.

use std::sync::Arc;

use clap::{Args, Subcommand};
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::acts_client::ActsClient;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::Rows;
use crate::{operator, views, when};

/// Verbs about acts that wait.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them
    List(ListArgs),
    /// Approve one that another admin asked for (role admin)
    Approve(DecideArgs),
    /// Cancel one (role admin)
    Cancel(DecideArgs),
    /// Say how long such acts wait; a shorter wait is one itself (role admin)
    Delay(DelayArgs),
}

/// Arguments of `pending list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

/// Arguments of `pending approve` and `pending cancel`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// Its number
    pub act: u64,
}

/// Arguments of `pending delay`.
#[derive(Debug, Args)]
pub struct DelayArgs {
    /// How long, as in 24h or 5d
    #[arg(value_name = "TIME", value_parser = when::length_ms)]
    pub time: u64,
    /// From now on never below a day; cannot be taken back
    #[arg(long)]
    pub floor: bool,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::List(arguments) => list(&arguments, context).await,
        Verb::Approve(arguments) => decide(&arguments, true, context).await,
        Verb::Cancel(arguments) => decide(&arguments, false, context).await,
        Verb::Delay(arguments) => delay(&arguments, context).await,
    }
}

#[derive(Serialize)]
struct RequestedView {
    act: u64,
}

/// Asks for an act, and says what comes next.
pub(crate) async fn request(
    delete_cluster: &str,
    shorten_delay_ms: u64,
    context: &Context,
) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::RequestActRequest {
        write_id: Some(client.next_write_id()),
        delete_cluster: delete_cluster.to_owned(),
        shorten_delay_ms,
    };
    let answer = client
        .call("asking for it", |channel| {
            let request = request.clone();
            async move { ActsClient::new(channel).request_act(request).await }
        })
        .await?;
    context.screen.show(&RequestedView { act: answer.act }, |view| {
        format!(
            "requested    act {}\nNothing is done yet: another admin says `strongroom pending approve \
             {}`, and then it waits.\n",
            view.act, view.act
        )
    })
}

async fn waiting(client: &Arc<FleetClient>, stale: bool) -> Result<v1::ListWaitingActsResponse> {
    let listed = client
        .call("listing what waits", |channel| async move {
            ActsClient::new(channel).list_waiting_acts(v1::ListWaitingActsRequest { stale }).await
        })
        .await;
    Ok(listed?)
}

#[derive(Serialize)]
struct ActView {
    act: u64,
    what: String,
    cluster: Option<String>,
    cluster_id: Option<String>,
    delay_ms: Option<u64>,
    requested_by: String,
    requested: String,
    approved_by: Option<String>,
    due: Option<String>,
}

#[derive(Serialize)]
struct ListView {
    delay_ms: u64,
    floor: bool,
    frozen: bool,
    acts: Vec<ActView>,
}

impl From<&v1::WaitingAct> for ActView {
    fn from(act: &v1::WaitingAct) -> Self {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            act: act.act,
            what: act.what.clone(),
            cluster: some(&act.cluster),
            cluster_id: some(&hex::encode(&act.cluster_id)),
            delay_ms: (act.delay_ms > 0).then_some(act.delay_ms),
            requested_by: act.requested_by.clone(),
            requested: views::time(act.requested_ms),
            approved_by: some(&act.approved_by),
            due: (act.due_ms > 0).then(|| views::time(act.due_ms)),
        }
    }
}

async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let listed = waiting(&client, arguments.stale).await?;
    let view = ListView {
        delay_ms: listed.delay_ms,
        floor: listed.floor,
        frozen: listed.frozen,
        acts: listed.acts.iter().map(ActView::from).collect(),
    };
    context.screen.show(&view, |view| {
        let mut rows = Rows::new(&["ACT", "WHAT", "OF", "ASKED BY", "APPROVED BY", "DUE"]);
        for act in &view.acts {
            let dash = || "-".to_owned();
            rows.push([
                act.act.to_string(),
                act.what.clone(),
                act.cluster.clone().unwrap_or_else(dash),
                act.requested_by.clone(),
                act.approved_by.clone().unwrap_or_else(dash),
                act.due.clone().unwrap_or_else(dash),
            ]);
        }
        let hours = view.delay_ms / 3_600_000;
        let floor = if view.floor { ", never less than 24 h" } else { "" };
        let frozen = if view.frozen { "; time is frozen: nothing is done" } else { "" };
        let listed = if rows.is_empty() { "nothing waits\n".to_owned() } else { rows.render() };
        format!("{listed}an approved act waits {hours} h{floor}{frozen}\n")
    })
}

#[derive(Serialize)]
struct DecidedView {
    act: u64,
    approved: bool,
    due: Option<String>,
}

async fn decide(arguments: &DecideArgs, approve: bool, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::DecideActRequest {
        write_id: Some(client.next_write_id()),
        act: arguments.act,
        approve,
    };
    let answer = client
        .call("deciding", |channel| {
            let request = request.clone();
            async move { ActsClient::new(channel).decide_act(request).await }
        })
        .await?;
    let due = (answer.due_ms > 0).then(|| views::time(answer.due_ms));
    let view = DecidedView { act: arguments.act, approved: approve, due };
    context.screen.show(&view, |view| match &view.due {
        Some(due) => format!(
            "approved     act {}, done on {due}\nUntil then `strongroom pending cancel {}`.\n",
            view.act, view.act
        ),
        None => format!("cancelled    act {}\n", view.act),
    })
}

async fn delay(arguments: &DelayArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let now = waiting(&client, false).await?;
    if arguments.time < now.delay_ms {
        if arguments.floor && !now.floor {
            return Err(CliError::usage("a floor and a shorter wait at once").with_remedy(
                "set the floor with the wait of now first, then ask for a shorter one",
            ));
        }
        return request("", arguments.time, context).await;
    }
    let request = v1::SetActDelayRequest {
        write_id: Some(client.next_write_id()),
        delay_ms: arguments.time,
        floor: arguments.floor,
    };
    client
        .call("setting the wait", |channel| {
            let request = request.clone();
            async move { ActsClient::new(channel).set_act_delay(request).await }
        })
        .await?;
    let view = serde_json::json!({
        "delay_ms": arguments.time,
        "floor": arguments.floor || now.floor,
    });
    context.screen.show(&view, |_| format!("acts wait    {} h\n", arguments.time / 3_600_000))
}

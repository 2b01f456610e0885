//! `strongroom coordinator recover` and `move`: what is done to one coordinator by hand, on its own
//! host, when the fleet around it is lost or it gets another address.

use std::path::PathBuf;

use agent::shown::plain;
use clap::Args;
use coordinator::config::Config;
use coordinator::recover::{Answering, Plan, answering, examine, force, is_unneeded};
use coordinator::relocate::announce;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::count;
use crate::when;

/// Arguments of `coordinator recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Its config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Make this coordinator the only voter: when a majority is lost for good, and only then
    #[arg(long, required = true)]
    pub force_single: bool,
    /// Do not ask: the name of this coordinator, as its config has it
    #[arg(long, value_name = "NAME")]
    pub yes_i_lost_the_others: Option<String>,
}

/// Arguments of `coordinator move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Its config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Where the other coordinators reach it from now on
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
}

#[derive(Serialize)]
struct RecoveredView {
    node_id: u64,
    name: String,
    /// Whether something was done; not if it was the only voter already.
    recovered: bool,
    removed: Vec<u64>,
    last_index: u64,
    /// Up to here the log was known to be committed.
    committed_index: u64,
    /// Where in the log the recovery stands.
    index: Option<u64>,
    lost_bundles: u64,
    lost_points: u64,
    points: u64,
}

pub(super) async fn recover(arguments: &RecoverArgs, context: &Context) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    let plan = examine(&config, &context.env).await?;
    if plan.is_alone() {
        return show(&plan, None, context);
    }
    let there = answering(&config, &context.env, &plan).await?;
    if is_unneeded(&plan, &there) {
        let nodes: Vec<String> = there.iter().map(|other| other.node.to_string()).collect();
        return Err(CliError::new(
            Code::Conflict,
            format!(
                "a majority is there: {} answers. Nothing is lost, and nothing was changed",
                nodes.join(", ")
            ),
        )
        .with_remedy("start this coordinator as usual; `strongroom status` shows the fleet"));
    }
    for line in warning(&plan, &there, context) {
        context.screen.note(&line);
    }
    let typed = match &arguments.yes_i_lost_the_others {
        Some(name) => name.clone(),
        None => ask(&plan, context).await?,
    };
    if typed.trim() != plan.member.name {
        return Err(CliError::new(
            Code::Conflict,
            format!("{:?} is not the name of this coordinator: nothing was changed", typed.trim()),
        )
        .with_remedy("run it again and give the name exactly, if you mean it"));
    }
    let index = force(&config, &context.env, &plan).await?;
    show(&plan, Some(index.get()), context)
}

async fn ask(plan: &Plan, context: &Context) -> Result<String> {
    context.screen.note(&format!(
        "type the name of this coordinator ({}) to go on:",
        plain(&plan.member.name)
    ));
    let reading = context.env.blocking("ask", || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    reading
        .await
        .map_err(|error| CliError::new(Code::Internal, error.to_string()))?
        .map_err(|error| CliError::new(Code::LocalIo, format!("cannot read an answer: {error}")))
}

/// What a person has to know before they say yes.
fn warning(plan: &Plan, there: &[Answering], context: &Context) -> Vec<String> {
    let others: Vec<String> = plan
        .others
        .iter()
        .map(|(id, member)| {
            format!("{} (node {id}, {})", plain(&member.name), plain(&member.address))
        })
        .collect();
    let mut lines = vec![
        format!(
            "{} (node {}) would be the only coordinator of the fleet. For ever removed: {}.",
            plain(&plan.member.name),
            plan.node,
            others.join(", ")
        ),
        format!(
            "Its log ends at index {}, {}. Whatever the others acknowledged after that is lost.",
            plan.last_index,
            when::local(plan.log_time, context.now.time_zone())
        ),
    ];
    let forced = plan.last_index.get().saturating_sub(plan.committed_index.get());
    if forced > 0 {
        lines.push(format!(
            "Its last {} not known to be committed, and become so.",
            if forced == 1 { "entry is".to_owned() } else { format!("{forced} entries are") }
        ));
    }
    if plan.lost_bundles > 0 {
        lines.push(format!(
            "It lacks {}: {} of {} recovery points will not restore in full, unless their bundles \
             are found on an old disk.",
            count(plan.lost_bundles, "bundle"),
            plan.lost_points,
            plan.points
        ));
    }
    for other in there {
        let better = (other.term, other.last_index) > (plan.last_term, plan.last_index.get());
        lines.push(format!(
            "Node {} still answers, with a log that ends at index {} of term {}: {}",
            other.node,
            other.last_index,
            other.term,
            if better { "recover that one instead, it has more." } else { "stop and wipe it." }
        ));
    }
    lines.push(
        "If any of the others comes back with its old disk and cannot reach this one, there are two \
         fleets: make sure that they stay off."
            .to_owned(),
    );
    lines
}

fn show(plan: &Plan, index: Option<u64>, context: &Context) -> Result<()> {
    let view = RecoveredView {
        node_id: plan.node.get(),
        name: plan.member.name.clone(),
        recovered: index.is_some(),
        removed: plan.others.keys().map(|id| id.get()).collect(),
        last_index: plan.last_index.get(),
        committed_index: plan.committed_index.get(),
        index,
        lost_bundles: plan.lost_bundles,
        lost_points: plan.lost_points,
        points: plan.points,
    };
    context.screen.show(&view, |view| {
        if view.recovered {
            format!(
                "{} is the only voter now: start it, add new coordinators with `strongroom node \
                 add`, and look at `strongroom finding list`\n",
                plain(&view.name)
            )
        } else {
            format!("{} is the only voter already: start it\n", plain(&view.name))
        }
    })
}

pub(super) async fn relocate(arguments: &MoveArgs, context: &Context) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    announce(&config, &context.env, &arguments.address).await?;
    let view = serde_json::json!({
        "node_id": config.node_id.get(),
        "name": config.name,
        "address": arguments.address,
    });
    context.screen.show(&view, |_| {
        format!(
            "the fleet looks for {} at {} from now on: write that into `listen` of its config, and \
             start it there\n",
            plain(&config.name),
            plain(&arguments.address)
        )
    })
}

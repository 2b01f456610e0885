//! `strongroom source`: what a cluster offers to be backed up.

use std::path::PathBuf;

use agent::kubernetes::{Api, AppBinding, Connection, app_bindings};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::output::Rows;

/// Verbs of sources.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the applications that a cluster's AppBindings offer
    Discover(DiscoverArgs),
}

/// Arguments of `source discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// The kubeconfig that leads to the cluster; without one, the account of this pod
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// A context of it [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
}

#[derive(Serialize)]
struct View {
    applications: Vec<AppBinding>,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    let Verb::Discover(arguments) = verb;
    let connection = Connection { kubeconfig: arguments.kubeconfig, context: arguments.context };
    let api = Api::connect(&connection).await?;
    let view = View { applications: app_bindings(&api).await? };
    context.screen.show(&view, |view| {
        if view.applications.is_empty() {
            return "the cluster has no AppBindings\n".to_owned();
        }
        let mut table =
            Rows::new(&["NAMESPACE", "NAME", "TYPE", "VERSION", "ADDRESS", "SECRET", "SOURCE"]);
        for app in &view.applications {
            table.push([
                &app.namespace,
                &app.name,
                &app.kind,
                &app.version,
                &app.address,
                &app.secret,
                app.source.unwrap_or("-"),
            ]);
        }
        table.render()
    })
}

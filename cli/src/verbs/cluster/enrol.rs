//! `strongroom cluster enroll`, `revoke`, `token`, `pending`, `approve`, `reject`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent::shown::plain;
use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::enrolment_client::EnrolmentClient;
use proto_types::{ClusterId, Code, KeyFingerprint, LogTime};
use serde::Serialize;

use super::{enrol_file, label};
use crate::context::Context;
use crate::enrol_tokens::{self, Maker, TokenView, Wanted};
use crate::error::{CliError, Result};
use crate::output::Rows;
use crate::{operator, views, when};

/// Arguments of `cluster enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// Its name: lower-case letters, digits and hyphens
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    /// A YAML list of clusters (`clusters:` of `name:` and `labels:`): makes tokens for those that are
    /// not registered yet
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "labels", "again"])]
    pub file: Option<PathBuf>,
    /// With --file: a directory for the tokens, NAME.token each; those in it that are still good stay
    #[arg(long, value_name = "DIR", requires = "file")]
    pub out: Option<PathBuf>,
    /// A label, for policies; may stand several times
    #[arg(
        long = "label",
        value_name = "KEY=VALUE",
        value_parser = label,
        conflicts_with = "again"
    )]
    pub labels: Vec<(String, String)>,
    /// It is registered already: its id and its points stay, and every certificate that its agents
    /// have becomes void when the token is used
    #[arg(long)]
    pub again: bool,
    /// How long the token can be used, as in 90s, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = when::length_ms)]
    pub expires: u64,
    /// The fleet's recovery.pub, which the token pins [default: that of the operator's directory]
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

/// Arguments of `cluster revoke` and `cluster delete`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Its name
    pub name: String,
}

/// Verbs of `cluster token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make one token by which agents of several new clusters enrol; each waits for approval
    Create(TokenArgs),
}

/// Arguments of `cluster token create`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// How many agents may enrol with it
    #[arg(long, value_name = "N")]
    pub count: u32,
    /// A label that their clusters get; may stand several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// How long it can be used, as in 90s, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = when::length_ms)]
    pub expires: u64,
    /// The fleet's recovery.pub, which the token pins [default: that of the operator's directory]
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

/// Arguments of `cluster pending`.
#[derive(Debug, Args)]
pub struct PendingArgs {
    /// Also those that were rejected
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `cluster approve` and `cluster reject`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The name that it gave itself, or its id
    pub cluster: String,
}

pub(super) async fn enroll(arguments: EnrollArgs, context: &Context) -> Result<()> {
    let recovery_key = arguments.recovery_key.as_ref();
    if let Some(file) = &arguments.file {
        let out = arguments.out.as_deref();
        return enrol_file::enroll(file, out, arguments.expires, recovery_key, context).await;
    }
    let maker = Maker::of(context, recovery_key).await?;
    let wanted = Wanted {
        cluster: arguments.name.unwrap_or_default(),
        labels: arguments.labels.into_iter().collect(),
        again: arguments.again,
        count: 1,
        ttl_ms: arguments.expires,
        ..Wanted::default()
    };
    let view = maker.make(&wanted, context).await?;
    context.screen.show(&view, |view| {
        format!(
            "One-time token for the agent of {}, until {}. Run where it will run:\n\n  {}\n\n\
             Whoever has it can enrol in its place: send it by a way you trust. It is not shown \
             again.\n",
            view.cluster, view.expires, view.command
        )
    })
}

pub(super) async fn token(verb: TokenVerb, context: &Context) -> Result<()> {
    let TokenVerb::Create(arguments) = verb;
    let maker = Maker::of(context, arguments.recovery_key.as_ref()).await?;
    let wanted = Wanted {
        labels: arguments.labels.into_iter().collect(),
        count: arguments.count,
        ttl_ms: arguments.expires,
        ..Wanted::default()
    };
    let view = maker.make(&wanted, context).await?;
    context.screen.show(&view, |view: &TokenView| {
        format!(
            "Token for {} agents, until {}. Run where each will run:\n\n  {}\n\nEach waits until \
             `strongroom cluster approve NAME`. The token is not shown again.\n",
            arguments.count, view.expires, view.command
        )
    })
}

#[derive(Serialize)]
struct RevokedView {
    cluster: String,
    revoked: bool,
}

pub(super) async fn revoke(arguments: RevokeArgs, context: &Context) -> Result<()> {
    enrol_tokens::revoke(&arguments.name, "", context).await?;
    let view = RevokedView { cluster: arguments.name, revoked: true };
    context.screen.show(&view, |view| {
        format!(
            "revoked      what the agents of {} have\nagain with   strongroom cluster enroll {} \
             --again\n",
            view.cluster, view.cluster
        )
    })
}

#[derive(Serialize)]
struct WaitingView {
    name: String,
    cluster_id: String,
    labels: BTreeMap<String, String>,
    signing_key_fingerprint: String,
    kube_system_uid: String,
    since: String,
    since_ms: u64,
    token: String,
    rejected: bool,
}

impl From<&v1::WaitingAgent> for WaitingView {
    fn from(agent: &v1::WaitingAgent) -> Self {
        Self {
            name: agent.name.clone(),
            cluster_id: hex::encode(&agent.cluster_id),
            labels: agent.labels.clone().into_iter().collect(),
            signing_key_fingerprint: KeyFingerprint::of(&agent.signing_key).to_string(),
            kube_system_uid: agent.kube_system_uid.clone(),
            since: views::time(agent.since_ms),
            since_ms: agent.since_ms,
            token: hex::encode(&agent.token_hash),
            rejected: agent.rejected,
        }
    }
}

pub(super) async fn pending(arguments: &PendingArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let listed = enrol_tokens::list(&client, false).await?;
    let shown = listed.waiting.iter().filter(|waiting| arguments.all || !waiting.rejected);
    let views: Vec<WaitingView> = shown.map(WaitingView::from).collect();
    let now = context.log_now();
    context.screen.show(&views, |views| {
        if views.is_empty() {
            return "no agent waits for approval\n".to_owned();
        }
        let mut rows = Rows::new(&["NAME", "WAITS", "LABELS", "SIGNING KEY", "TOKEN", "ID"]);
        for view in views {
            let labels: Vec<String> =
                view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            rows.push([
                view.name.clone(),
                match view.rejected {
                    true => "rejected".to_owned(),
                    false => when::age(LogTime::from_millis(view.since_ms), now),
                },
                if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
                view.signing_key_fingerprint.chars().take(16).collect(),
                view.token.clone(),
                view.cluster_id.clone(),
            ]);
        }
        rows.render()
    })
}

#[derive(Serialize)]
struct DecidedView {
    cluster_id: String,
    approved: bool,
}

pub(super) async fn decide(arguments: DecideArgs, approve: bool, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let cluster = match arguments.cluster.parse::<ClusterId>() {
        Ok(id) => id.as_bytes().to_vec(),
        Err(_) => {
            let listed = enrol_tokens::list(&client, false).await?;
            let named = listed.waiting.iter().find(|w| !w.rejected && w.name == arguments.cluster);
            let named = named.ok_or_else(|| {
                CliError::new(
                    Code::NothingMatches,
                    format!("no agent called {:?} waits for approval", arguments.cluster),
                )
                .with_remedy("`strongroom cluster pending` lists those that do")
            })?;
            named.cluster_id.to_vec()
        }
    };
    let request = v1::DecideEnrolmentRequest {
        write_id: Some(client.next_write_id()),
        cluster_id: cluster.clone().into(),
        approve,
    };
    client
        .call("deciding", |channel| {
            let request = request.clone();
            async move { EnrolmentClient::new(channel).decide_enrolment(request).await }
        })
        .await?;
    let view = DecidedView { cluster_id: hex::encode(cluster), approved: approve };
    context.screen.show(&view, |view| {
        let word = if approve { "approved" } else { "rejected" };
        format!("{word}     {} ({})\n", plain(&arguments.cluster), view.cluster_id)
    })
}

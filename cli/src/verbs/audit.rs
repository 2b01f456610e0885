//! `strongroom audit`: who did, or was refused, what; and whether that is still what was written.

mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::ApiError;
use proto::fleet_client::FleetClient as Client;
use proto::v1;
use proto::v1::audit_client::AuditClient;
use proto::v1::export_audit_part::Part;
use proto_types::{Code, LogTime};
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::output::count;
use crate::views::{EntryView, PlaceView, entry_rows};
use crate::when;

/// Verifying reads the whole log of every coordinator.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// A coordinator that sends nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Verbs about the audit log.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List acts, newest first (role viewer)
    List(ListArgs),
    /// Recompute the chain of hashes, on every coordinator or in a file
    Verify(VerifyArgs),
    /// Write the whole log to a file, which `audit verify` checks without any coordinator
    Export(ExportArgs),
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only since this moment: 14:05, 2026-11-21 14:05, 2h ago
    #[arg(long, value_name = "MOMENT")]
    pub since: Option<String>,
    /// Only until this moment
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// Only of this actor: its name, its kind (operator, agent, coordinator, token, console), or
    /// both, as "agent harbour"
    #[arg(long, value_name = "ACTOR")]
    pub actor: Option<String>,
    /// Only this act, as the table prints it
    #[arg(long, value_name = "ACT")]
    pub act: Option<String>,
    /// Only about this cluster, or by its agent
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,
    /// Only what was refused
    #[arg(long)]
    pub refused: bool,
    /// At most this many; 0: all
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub limit: u64,
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
    /// Read an export or a snapshot instead of asking the fleet
    #[arg(long, value_name = "FILE", conflicts_with = "stale")]
    pub file: Option<PathBuf>,
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// An export or a snapshot, instead of the fleet
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only this coordinator, by its node id [default: every one]
    #[arg(long, value_name = "NODE", conflicts_with = "file")]
    pub node: Option<u64>,
    /// An export or snapshot of before, from which the log must go on
    #[arg(long, value_name = "FILE")]
    pub continues: Option<PathBuf>,
}

/// Arguments of `audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The file to write; it must not exist
    pub file: PathBuf,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    first: u64,
    last: u64,
    what: String,
}

#[derive(Debug, Serialize)]
struct NodeAuditView {
    node_id: u64,
    /// `good`, `damaged`, `different` or `unreachable`.
    verdict: &'static str,
    head: Option<PlaceView>,
    segments: u64,
    problems: Vec<ProblemView>,
}

#[derive(Debug, Serialize)]
struct VerifiedView {
    /// `good`: whatever was read hangs together. Anything else is an error.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    head: PlaceView,
    /// Entries that a snapshot lacks.
    missing: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeAuditView>,
    /// The last entry of the file from which the log goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<PlaceView>,
}

#[derive(Debug, Serialize)]
struct ExportedView {
    file: PathBuf,
    entries: u64,
    head: PlaceView,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::List(arguments) => list(&arguments, context).await,
        Verb::Verify(arguments) => verify(&arguments, context).await,
        Verb::Export(arguments) => export(&arguments, context).await,
    }
}

fn moment(text: Option<&String>, option: &str, context: &Context) -> Result<Option<LogTime>> {
    let parsed = text.map(|text| when::parse(text, &context.now)).transpose();
    parsed.map_err(|error| CliError::usage(format!("{option}: {error}")))
}

async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let since = moment(arguments.since.as_ref(), "--since", context)?;
    let until = moment(arguments.until.as_ref(), "--until", context)?;
    let limit = if arguments.limit == 0 { u64::MAX } else { arguments.limit };
    let entries = match &arguments.file {
        Some(path) => {
            let filter = file::Filter::of(arguments, since, until);
            file::list(path, filter, limit, context).await?
        }
        None => {
            let (_, client) = operator::connect(context)?;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let request = v1::ListActsRequest {
                stale: arguments.stale,
                since_ms: since.map_or(0, LogTime::as_millis),
                until_ms: until.map_or(0, LogTime::as_millis),
                actor: text(&arguments.actor),
                act: text(&arguments.act),
                cluster: text(&arguments.cluster),
                refused_only: arguments.refused,
                page_size: 0,
                before: 0,
            };
            pages(&client, request, limit).await?
        }
    };
    context.screen.show(&entries, |entries| match entries.is_empty() {
        true => "no acts\n".to_owned(),
        false => entry_rows(entries, context.now.time_zone()),
    })
}

async fn pages(
    client: &Client,
    mut request: v1::ListActsRequest,
    limit: u64,
) -> Result<Vec<EntryView>> {
    let mut entries: Vec<EntryView> = Vec::new();
    loop {
        let left = limit - entries.len() as u64;
        request.page_size = u32::try_from(left.min(1000)).unwrap_or(1000);
        let page = client
            .call("listing acts", |channel| {
                let request = request.clone();
                async move { AuditClient::new(channel).list_acts(request).await }
            })
            .await?;
        entries.extend(page.entries.iter().map(EntryView::of));
        if page.next_before == 0 || entries.len() as u64 >= limit {
            return Ok(entries);
        }
        request.before = page.next_before;
    }
}

async fn verify(arguments: &VerifyArgs, context: &Context) -> Result<()> {
    let before = match &arguments.continues {
        Some(path) => Some(file::read(path, context, |_| {}).await?.head),
        None => None,
    };
    let mut view = match &arguments.file {
        Some(path) => verify_file(path, before.as_ref(), context).await?,
        None => verify_fleet(arguments, before.as_ref(), context).await?,
    };
    view.continues = before;
    context.screen.show(&view, describe)
}

fn does_not_continue(before: &PlaceView) -> CliError {
    CliError::new(
        Code::Rollback,
        format!(
            "the log does not go on from entry {} of the file given with --continues: it was \
             replaced, or is of before",
            before.number
        ),
    )
    .with_remedy("keep that file; find out which of the two logs is the true one")
}

async fn verify_file(
    path: &Path,
    before: Option<&PlaceView>,
    context: &Context,
) -> Result<VerifiedView> {
    let wanted = before.cloned();
    let found = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(
        wanted.as_ref().is_none_or(|before| before.number == 0),
    ));
    let seen = found.clone();
    let loaded = file::read(path, context, move |entry| {
        if wanted.as_ref().is_some_and(|b| b.number == entry.number && b.hash == entry.hash) {
            seen.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    })
    .await?;
    if let Some(before) = before
        && !found.load(std::sync::atomic::Ordering::Relaxed)
    {
        return Err(does_not_continue(before));
    }
    Ok(VerifiedView {
        verdict: "good",
        file: Some(path.to_owned()),
        head: loaded.head,
        missing: loaded.missing,
        nodes: Vec::new(),
        continues: None,
    })
}

async fn verify_fleet(
    arguments: &VerifyArgs,
    before: Option<&PlaceView>,
    context: &Context,
) -> Result<VerifiedView> {
    let (operator, client) = operator::connect(context)?;
    let slow = operator.connect_for(context, VERIFY_TIMEOUT)?;
    let request = v1::VerifyAuditRequest { node_id: arguments.node.unwrap_or(0) };
    let answer = slow
        .call("verifying the audit log", |channel| async move {
            AuditClient::new(channel).verify_audit(request).await
        })
        .await?;
    let head = answer.head.as_ref().map(PlaceView::from);
    let head = head.ok_or_else(|| CliError::new(Code::Internal, "the answer names no head"))?;
    let nodes: Vec<NodeAuditView> = answer.nodes.iter().map(|node| judge(node, &head)).collect();
    if let Some(bad) = nodes.iter().find(|node| ["damaged", "different"].contains(&node.verdict)) {
        return Err(bad_node(bad, &head));
    }
    if nodes.iter().all(|node| node.verdict == "unreachable") {
        return Err(CliError::new(Code::Unavailable, "no coordinator that was asked answered"));
    }
    if let Some(before) = before.filter(|before| before.number > 0) {
        let request = v1::ListActsRequest {
            before: before.number + 1,
            page_size: 1,
            ..v1::ListActsRequest::default()
        };
        let page = pages(&client, request, 1).await?;
        let goes_on = page
            .first()
            .is_some_and(|entry| entry.number == before.number && entry.hash == before.hash);
        if !goes_on {
            return Err(does_not_continue(before));
        }
    }
    Ok(VerifiedView { verdict: "good", file: None, head, missing: 0, nodes, continues: None })
}

fn judge(node: &v1::NodeAudit, head: &PlaceView) -> NodeAuditView {
    let problems: Vec<ProblemView> = node
        .problems
        .iter()
        .map(|problem| ProblemView {
            first: problem.first,
            last: problem.last,
            what: problem.what.clone(),
        })
        .collect();
    let compared = node.compared.as_ref().map(PlaceView::from);
    let verdict = match (node.reachable, problems.is_empty()) {
        (false, _) => "unreachable",
        (true, false) => "damaged",
        (true, true) if head.number > 0 && compared.as_ref() != Some(head) => "different",
        (true, true) => "good",
    };
    NodeAuditView {
        node_id: node.node_id,
        verdict,
        head: node.head.as_ref().map(PlaceView::from),
        segments: node.segments,
        problems,
    }
}

fn bad_node(node: &NodeAuditView, head: &PlaceView) -> CliError {
    let text = match node.problems.first() {
        Some(problem) => {
            format!("the audit log of node {} is damaged: {}", node.node_id, problem.what)
        }
        None => format!(
            "node {} has another entry {} than the others: one of the logs was changed",
            node.node_id, head.number
        ),
    };
    CliError::new(Code::Damaged, text).with_remedy(
        "a damaged file is put aside and fetched from another coordinator: verify again in a minute, \
         and look at `strongroom finding list`; compare with an earlier export by `strongroom audit \
         verify --continues FILE`",
    )
}

fn describe(view: &VerifiedView) -> String {
    let mut text =
        format!("good: {}", count(view.head.number, "entry").replace("entrys", "entries"));
    if let Some(file) = &view.file {
        text = format!("{}: {text}", agent::shown::path(file));
    }
    text.push_str(&format!("\nlast hash {}\n", view.head.hash));
    if view.missing > 0 {
        text.push_str(&format!(
            "{} entries are not in the file: the coordinator that saved it lacked them\n",
            view.missing
        ));
    }
    for node in &view.nodes {
        let head = node.head.as_ref().map_or(0, |head| head.number);
        text.push_str(&match node.verdict {
            "unreachable" => format!("node {}: did not answer\n", node.node_id),
            verdict => format!("node {}: {verdict}, {head} entries\n", node.node_id),
        });
    }
    if let Some(before) = &view.continues {
        text.push_str(&format!("goes on from entry {} of the file before\n", before.number));
    }
    text
}

async fn export(arguments: &ExportArgs, context: &Context) -> Result<()> {
    let out = &arguments.file;
    // Before it becomes an act.
    file::refuse_existing(out)?;
    let (_, client) = operator::connect(context)?;
    let mut stream = client
        .call("exporting the audit log", |channel| async move {
            AuditClient::new(channel).export_audit(v1::ExportAuditRequest {}).await
        })
        .await?;
    let mut writer = None;
    let broken = |what: &str| CliError::new(Code::Damaged, format!("the export {what}"));
    loop {
        let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
        let silent = |_| ApiError::new(Code::Unavailable, "the coordinator went silent");
        let Some(message) = message.map_err(silent)?.map_err(ApiError::from)? else { break };
        match (message.part, &mut writer) {
            (Some(Part::Opening(opening)), None) => {
                writer = Some(file::Writer::new(out, &opening)?)
            }
            (Some(Part::Entries(entries)), Some(writer)) => {
                for entry in &entries.entries {
                    writer.entry(EntryView::of(entry).without_names())?;
                }
            }
            _ => return Err(broken("does not begin with its opening")),
        }
    }
    let head = writer.ok_or_else(|| broken("is empty"))?.finish()?;
    let view = ExportedView { file: out.clone(), entries: head.number, head };
    context.screen.show(&view, |view| {
        format!(
            "exported {} acts to {}\nlast hash {}\n",
            view.entries,
            agent::shown::path(&view.file),
            view.head.hash
        )
    })
}

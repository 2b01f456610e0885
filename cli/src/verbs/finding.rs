//! `strongroom finding`: what people should know of the fleet, and saying that it is dealt with.

use agent::shown::plain;
use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::views::{FindingView, finding_rows};

/// Verbs about findings.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the findings of the fleet, its coordinators and its clusters
    List(ListArgs),
    /// Take a finding away that is dealt with; it comes back if its cause is still there
    Clear(ClearArgs),
}

/// Arguments of `finding list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

/// Arguments of `finding clear`. Without --cluster and --node it is one of the fleet.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// Its kind, as `finding list` prints it
    #[arg(long, value_name = "KIND")]
    pub kind: String,
    /// The cluster that it is of
    #[arg(long, value_name = "NAME", conflicts_with = "node")]
    pub cluster: Option<String>,
    /// Node id or name of the coordinator that it is of
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Which one, where a kind stands several times
    #[arg(long, value_name = "SUBJECT", default_value = "")]
    pub subject: String,
}

#[derive(Serialize)]
struct ClearView {
    cleared: FindingView,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::List(arguments) => list(&arguments, context).await,
        Verb::Clear(arguments) => clear(&arguments, context).await,
    }
}

async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let status = status(&client, arguments.stale).await?;
    let views: Vec<FindingView> = status.findings.iter().map(FindingView::from).collect();
    context.screen.show(&views, |views| match views.is_empty() {
        true => "no findings\n".to_owned(),
        false => finding_rows(views, context.now.time_zone()),
    })
}

async fn clear(arguments: &ClearArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    // The fleet answers a clear with nothing, whether there was anything to clear or not. A
    // confirmed read before it tells a mistyped kind from one that is dealt with.
    let status = status(&client, false).await?;
    let found = chosen(&status, arguments)?;
    let request = v1::ClearFindingRequest {
        write_id: Some(client.next_write_id()),
        cluster_id: found.cluster_id.clone(),
        node_id: found.node_id,
        kind: found.kind.clone(),
        subject: found.subject.clone(),
    };
    client
        .call("clearing the finding", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).clear_finding(request).await }
        })
        .await?;
    let view = ClearView { cleared: FindingView::from(found) };
    context.screen.show(&view, |ClearView { cleared }| {
        format!(
            "cleared {}: {}\nit comes back if its cause is still there\n",
            plain(&cleared.name()),
            plain(&cleared.message)
        )
    })
}

async fn status(
    client: &proto::fleet_client::FleetClient,
    stale: bool,
) -> Result<v1::GetStatusResponse> {
    let asked = client.call("asking for the findings", |channel| async move {
        FleetClient::new(channel).get_status(v1::GetStatusRequest { stale }).await
    });
    Ok(asked.await?)
}

/// The finding that the arguments name; where there is none, what there is instead.
fn chosen<'s>(status: &'s v1::GetStatusResponse, arguments: &ClearArgs) -> Result<&'s v1::Finding> {
    let (cluster_id, node_id) = scope(status, arguments)?;
    let of_kind: Vec<&v1::Finding> = status
        .findings
        .iter()
        .filter(|finding| finding.cluster_id == cluster_id && finding.node_id == node_id)
        .filter(|finding| finding.kind == arguments.kind)
        .collect();
    if let Some(found) = of_kind.iter().find(|finding| finding.subject == arguments.subject) {
        return Ok(found);
    }
    let of = match (&arguments.cluster, &arguments.node) {
        (Some(cluster), _) => format!("cluster {cluster}"),
        (None, Some(node)) => format!("node {node}"),
        (None, None) => "the fleet".to_owned(),
    };
    let about = match arguments.subject.as_str() {
        "" => "without a subject".to_owned(),
        subject => format!("with subject {subject:?}"),
    };
    let kind = &arguments.kind;
    let message = match of_kind.is_empty() {
        true => format!("there is no finding {kind:?} of {of}: nothing was cleared"),
        false => format!("there is no finding {kind:?} of {of} {about}: nothing was cleared"),
    };
    let subjects: Vec<String> =
        of_kind.iter().map(|finding| format!("{:?}", finding.subject)).collect();
    Err(CliError::new(Code::NothingMatches, message).with_remedy(match subjects.is_empty() {
        true => "`strongroom finding list` prints the findings there are".to_owned(),
        false => format!("it stands with --subject {}", subjects.join(", ")),
    }))
}

/// What a finding is of, as the fleet names it.
fn scope(status: &v1::GetStatusResponse, arguments: &ClearArgs) -> Result<(bytes::Bytes, u64)> {
    if let Some(wanted) = &arguments.cluster {
        let clusters = status.clusters.iter().filter_map(|status| status.cluster.as_ref());
        let mut named = clusters.filter(|cluster| cluster.name == *wanted);
        return named.next().map(|cluster| (cluster.cluster_id.clone(), 0)).ok_or_else(|| {
            CliError::new(Code::ClusterNotFound, format!("there is no cluster {wanted:?}"))
        });
    }
    let Some(wanted) = &arguments.node else { return Ok((bytes::Bytes::new(), 0)) };
    let mut named = status.nodes.iter().filter(|node| node.name == *wanted);
    if let Some(node) = named.next() {
        return Ok((bytes::Bytes::new(), node.node_id));
    }
    // By its number also of a node that was removed: findings may outlive it.
    match wanted.parse::<u64>() {
        Ok(node_id) if node_id != 0 => Ok((bytes::Bytes::new(), node_id)),
        _ => {
            let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
            Err(CliError::usage(format!("there is no coordinator {wanted:?}"))
                .with_remedy(format!("the fleet has {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::GetStatusResponse {
        let finding = |kind: &str, cluster: &[u8], node_id, subject: &str| v1::Finding {
            kind: kind.to_owned(),
            cluster_id: bytes::Bytes::copy_from_slice(cluster),
            node_id,
            subject: subject.to_owned(),
            message: "something".to_owned(),
            ..v1::Finding::default()
        };
        let cluster = |name: &str, id: &[u8]| v1::ClusterStatus {
            cluster: Some(v1::Cluster {
                name: name.to_owned(),
                cluster_id: bytes::Bytes::copy_from_slice(id),
                ..v1::Cluster::default()
            }),
            ..v1::ClusterStatus::default()
        };
        let node = |node_id, name: &str| v1::NodeStatus {
            node_id,
            name: name.to_owned(),
            ..v1::NodeStatus::default()
        };
        v1::GetStatusResponse {
            nodes: vec![node(1, "one"), node(2, "two")],
            clusters: vec![cluster("harbour", b"h"), cluster("quay", b"q")],
            findings: vec![
                finding("source-unreadable", b"h", 0, "conf"),
                finding("source-unreadable", b"q", 0, "conf"),
                finding("head-rolled-back", b"h", 0, ""),
                finding("disk-full", b"", 2, ""),
                finding("disk-full", b"", 7, ""),
                finding("clock-jumped", b"", 0, ""),
            ],
            ..v1::GetStatusResponse::default()
        }
    }

    #[test]
    fn a_finding_is_chosen_by_kind_scope_and_subject() {
        let status = status();
        for (kind, cluster, node, subject, expected) in [
            ("source-unreadable", Some("harbour"), None, "conf", Ok(0)),
            ("source-unreadable", Some("quay"), None, "conf", Ok(1)),
            ("head-rolled-back", Some("harbour"), None, "", Ok(2)),
            ("disk-full", None, Some("2"), "", Ok(3)),
            ("disk-full", None, Some("two"), "", Ok(3)),
            // A node that is gone, by its number.
            ("disk-full", None, Some("7"), "", Ok(4)),
            ("clock-jumped", None, None, "", Ok(5)),
            // One of a cluster or node is none of the fleet, and the other way round.
            ("disk-full", None, None, "", Err((5, "\"disk-full\" of the fleet: nothing was"))),
            ("clock-jumped", None, Some("1"), "", Err((5, "of node 1: nothing was cleared"))),
            ("head-rolled-back", Some("quay"), None, "", Err((5, "of cluster quay: nothing"))),
            ("source-unreadable", Some("quay"), None, "", Err((5, "--subject \"conf\""))),
            ("source-unreadable", Some("quay"), None, "x", Err((5, "with subject \"x\""))),
            ("disk-full", Some("pier"), None, "", Err((5, "there is no cluster \"pier\""))),
            ("disk-full", None, Some("three"), "", Err((2, "the fleet has one, two"))),
            ("disk-full", None, Some("0"), "", Err((2, "there is no coordinator \"0\""))),
        ] {
            let arguments = ClearArgs {
                kind: kind.to_owned(),
                cluster: cluster.map(str::to_owned),
                node: node.map(str::to_owned),
                subject: subject.to_owned(),
            };
            match (chosen(&status, &arguments), expected) {
                (Ok(found), Ok(at)) => assert_eq!(*found, status.findings[at], "{arguments:?}"),
                (Err(error), Err((exit, said))) => {
                    assert_eq!(error.code().exit_code(), exit, "{arguments:?}");
                    let text = error.render(crate::args::Format::Table).unwrap();
                    assert!(text.contains(said), "{arguments:?}: {text}");
                }
                (found, expected) => panic!("{arguments:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}

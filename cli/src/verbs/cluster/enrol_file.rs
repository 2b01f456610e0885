//! `strongroom cluster enroll --file`: tokens for all clusters of a list that are not registered
//! yet. Done again it makes none for those that are, and keeps those that are still good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agent::shown;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::{Code, check_cluster_name};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::enrol_token::EnrolToken;
use crate::enrol_tokens::{self, Maker, Wanted};
use crate::error::{CliError, Result};
use crate::output::Rows;
use crate::{private_file, views};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    clusters: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct View {
    cluster: String,
    /// `enrolled`: it is registered; `open`: its token was made before; `new`: it is made now.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    expires: Option<String>,
}

fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::io("read", path, &error))?;
    let wrong = |why: String| {
        CliError::new(Code::InvalidConfig, format!("{}: {why}", shown::path(path))).with_remedy(
            "write a list `clusters:` of `name:` and, where you want, `labels:` with text values",
        )
    };
    let file: File = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut names = BTreeSet::new();
    for entry in &file.clusters {
        check_cluster_name(&entry.name).map_err(|error| wrong(error.to_string()))?;
        if !names.insert(&entry.name) {
            return Err(wrong(format!("the cluster {} stands twice", entry.name)));
        }
    }
    Ok(file.clusters)
}

/// The token that an earlier run wrote, if the fleet would still take it.
fn still_open(path: &Path, open: &[v1::OpenToken]) -> Option<String> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).ok()?;
    let hash = EnrolToken::from_text(&text).ok()?.hash();
    let token = open.iter().find(|token| token.token_hash[..] == hash[..8])?;
    Some(views::time(token.expires_ms))
}

pub(super) async fn enroll(
    file: &Path,
    out: Option<&Path>,
    ttl_ms: u64,
    recovery_key: Option<&PathBuf>,
    context: &Context,
) -> Result<()> {
    let entries = read(file)?;
    let maker = Maker::of(context, recovery_key).await?;
    let listed = maker
        .client()
        .call("listing the clusters", |channel| async move {
            FleetClient::new(channel).list_clusters(v1::ListClustersRequest { stale: false }).await
        })
        .await?;
    let known: BTreeSet<&str> = listed.clusters.iter().map(|c| c.name.as_str()).collect();
    let open = enrol_tokens::list(maker.client(), false).await?.tokens;
    if let Some(out) = out {
        private_file::make_directory(out)?;
    }
    let mut views = Vec::new();
    for entry in entries {
        let mut view = View {
            cluster: entry.name.clone(),
            state: "enrolled",
            token: None,
            file: out.map(|out| out.join(format!("{}.token", entry.name))),
            expires: None,
        };
        if known.contains(entry.name.as_str()) {
            view.file = None;
            views.push(view);
            continue;
        }
        if let Some(path) = &view.file {
            view.expires = still_open(path, &open);
            if view.expires.is_some() {
                view.state = "open";
                views.push(view);
                continue;
            }
            // One that is over, or was replaced, is good for nothing.
            if path.exists() {
                std::fs::remove_file(path).map_err(|error| CliError::io("remove", path, &error))?;
            }
        }
        let wanted = Wanted {
            cluster: entry.name,
            labels: entry.labels,
            count: 1,
            ttl_ms,
            ..Wanted::default()
        };
        let made = maker.make(&wanted, context).await?;
        view.state = "new";
        view.expires = Some(made.expires);
        match &view.file {
            Some(path) => private_file::create(path, made.token.as_bytes())?,
            None => view.token = Some(made.token),
        }
        views.push(view);
    }
    context.screen.show(&views, |views| {
        let mut rows = Rows::new(&["CLUSTER", "STATE", "UNTIL", "TOKEN"]);
        for view in views {
            let file = view.file.as_deref().map(shown::path);
            rows.push([
                view.cluster.clone(),
                view.state.to_owned(),
                view.expires.clone().unwrap_or_else(|| "-".to_owned()),
                view.token
                    .clone()
                    .or(file.map(|f| f.to_string()))
                    .unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        format!("{}\nOn each: strongroom agent enroll TOKEN --dir DIR\n", rows.render())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_clusters_are_read_or_refused_with_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clusters.yaml");
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).map(|entries| {
                entries.into_iter().map(|entry| (entry.name, entry.labels)).collect::<Vec<_>>()
            })
        };
        let good =
            "clusters:\n  - name: harbour\n    labels: {env: prod, tier: \"1\"}\n  - name: quay\n";
        let labels: BTreeMap<String, String> =
            [("env".into(), "prod".into()), ("tier".into(), "1".into())].into();
        let expected = vec![("harbour".to_owned(), labels), ("quay".to_owned(), BTreeMap::new())];
        assert_eq!(said(good).unwrap(), expected);
        for (text, part) in [
            ("clusters:\n  - name: No!\n", "No!"),
            ("clusters:\n  - name: a\n  - name: a\n", "stands twice"),
            ("clusters:\n  - name: a\n    label: {}\n", "label"),
            ("clusters: [", "clusters.yaml"),
        ] {
            let error = said(text).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{text:?}");
            assert!(error.to_string().contains(part), "{text:?}: {error}");
        }
    }
}

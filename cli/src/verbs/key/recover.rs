//! `strongroom key recover`: the keys of clusters that are gone, out of exported points, with the
//! recovery key alone. Written as an agent keeps them, so that `restore --kek` and a new agent take
//! them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent::OpenedPoint;
use agent::shown;
use clap::Args;
use proto_types::{Code, PointName, check_cluster_name};
use serde::Serialize;
use zeroize::Zeroizing;

use super::super::opening::{PointKey, RecoveryArgs, TrustView, in_file};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::private_file;

/// As an agent's directory has them.
const KEK: &str = "kek.key";
const SIGNING_KEY: &str = "signing.key";

/// Arguments of `key recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Exported points, as `backup export` writes them; can be said several times
    #[arg(long, value_name = "FILE", required = true)]
    pub from: Vec<PathBuf>,
    /// Only points of this cluster; can be said several times
    #[arg(long, value_name = "NAME")]
    pub cluster: Vec<String>,
    /// Directory for the keys, one directory for each point; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    recovery: RecoveryArgs,
}

#[derive(Serialize)]
struct RecoveredView {
    fingerprint: String,
    recovered: Vec<PointView>,
}

#[derive(Serialize)]
struct PointView {
    point: String,
    cluster_id: String,
    directory: PathBuf,
    /// The KEK that the point's keys are wrapped under, for `restore --kek`.
    kek: PathBuf,
    /// Those before it.
    older_keks: Vec<PathBuf>,
    signing_key: PathBuf,
    trust: TrustView,
}

/// A point's keys, not yet written.
struct Keys {
    view: PointView,
    files: Vec<(PathBuf, Zeroizing<String>)>,
}

pub(super) async fn run(arguments: &RecoverArgs, context: &Context) -> Result<()> {
    let recovery = arguments.recovery.require()?;
    let fingerprint = recovery.secret().public().fingerprint().to_string();
    let key = PointKey::from(recovery);
    let mut missing: BTreeSet<&str> = arguments.cluster.iter().map(String::as_str).collect();
    let mut recovered: Vec<Keys> = Vec::new();
    for file in &arguments.from {
        let found = in_file(context, file).await?;
        let name = found.store.point().cluster_name.clone();
        if !arguments.cluster.is_empty() && !arguments.cluster.contains(&name) {
            continue;
        }
        missing.remove(name.as_str());
        let opened = found.look(&key, context).await.map_err(|e| e.during(&shown::path(file)))?;
        let keys = keys_of(&opened, &arguments.out)?;
        opened.store().end().await;
        keys.view.trust.warn(&context.screen);
        if recovered.iter().all(|other| other.view.directory != keys.view.directory) {
            recovered.push(keys);
        }
    }
    if let Some(name) = missing.first() {
        return Err(CliError::new(
            Code::ClusterNotFound,
            format!("no file given with --from is of cluster {name}"),
        )
        .with_remedy("give an export of it, or leave --cluster out"));
    }
    write(&recovered, &arguments.out)?;
    let recovered = recovered.into_iter().map(|keys| keys.view).collect();
    context.screen.show(&RecoveredView { fingerprint, recovered }, RecoveredView::describe)
}

fn keys_of(opened: &OpenedPoint, out: &Path) -> Result<Keys> {
    let info = opened.info();
    // It becomes the name of a directory, and nobody signed it.
    check_cluster_name(&info.cluster_name)
        .map_err(|error| CliError::new(Code::Damaged, format!("the point's cluster: {error}")))?;
    let point = PointName { cluster: info.cluster_name.clone(), sequence: info.sequence };
    let directory = out.join(point.to_string());
    let keyring = opened.keyring();
    let current = keyring.kek_generation();
    let mut files = Vec::new();
    let mut older_keks = Vec::new();
    for (generation, kek) in keyring.keks() {
        let path = if generation == current {
            directory.join(KEK)
        } else {
            let path = directory.join(format!("kek-generation-{generation}.key"));
            older_keks.push(path.clone());
            path
        };
        files.push((path, kek.to_text()));
    }
    let signing_key = directory.join(SIGNING_KEY);
    files.push((signing_key.clone(), keyring.signing_key().to_text()));
    let view = PointView {
        point: point.to_string(),
        cluster_id: info.cluster.to_string(),
        kek: directory.join(KEK),
        directory,
        older_keks,
        signing_key,
        trust: TrustView::of(opened),
    };
    Ok(Keys { view, files })
}

fn write(recovered: &[Keys], out: &Path) -> Result<()> {
    private_file::make_directory(out)?;
    let mut made = Vec::new();
    for keys in recovered {
        private_file::make_directory(&keys.view.directory)?;
        made.push(private_file::create_all(&keys.files)?);
    }
    made.into_iter().for_each(private_file::Made::keep);
    Ok(())
}

impl RecoveredView {
    fn describe(&self) -> String {
        let mut text = String::new();
        for point in &self.recovered {
            let (name, kek) = (shown::plain(&point.point), shown::path(&point.kek));
            text.push_str(&format!("keys of {name} are in {}\n", shown::path(&point.directory)));
            text.push_str(&format!("  strongroom restore --from FILE --to DIR --kek {kek}\n"));
        }
        text.push_str(
            "\nThese keys open backups by themselves: remove them when you are done, or give them \
             to the\nnew agent of the cluster.\n",
        );
        text
    }
}

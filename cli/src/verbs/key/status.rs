//! `strongroom key status`: what a `recovery.pub` says, or what the fleet knows of the recovery key:
//! what is still sealed to a former one, and which holders showed their shares.

use std::path::PathBuf;
use std::sync::Arc;

use agent::shown::plain;
use bundle::{FormerRecovery, RecoveryPublic, RecoveryPublicFile};
use clap::Args;
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::keys_client::KeysClient;
use proto_types::Code;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::{key_files, operator};

/// Arguments of `key status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Say what this recovery.pub says, and ask nobody
    #[arg(long, value_name = "FILE", conflicts_with = "stale")]
    pub recovery_pub: Option<PathBuf>,
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

/// What is public of a recovery key.
#[derive(Serialize)]
pub(super) struct StatusView {
    fingerprint: String,
    /// The shares that were made; none are known of a key made before there were shares.
    shares: Option<SharesView>,
}

#[derive(Serialize)]
struct SharesView {
    set: String,
    threshold: u8,
    total: u8,
}

impl From<&RecoveryPublicFile> for StatusView {
    fn from(file: &RecoveryPublicFile) -> Self {
        let shares = file.shares.as_ref().map(|shares| SharesView {
            set: shares.set().id(),
            threshold: shares.set().threshold(),
            total: shares.set().total(),
        });
        Self { fingerprint: file.public.fingerprint().to_string(), shares }
    }
}

/// What the fleet knows.
#[derive(Serialize)]
struct FleetView {
    fingerprint: String,
    /// Recovery keys before it, oldest first.
    former: Vec<FormerView>,
    /// Clusters with key bundles that are sealed to a former key.
    owed: Vec<OwedView>,
    /// Whether a rotation is under way.
    rotating: bool,
    attested: Vec<AttestedView>,
    /// Too few holders showed their shares in the last 180 days.
    attest_overdue: bool,
    clusters: Vec<ClusterView>,
}

#[derive(Serialize)]
struct FormerView {
    fingerprint: String,
    /// Whether nothing is sealed to it any more.
    finished: bool,
    /// When it was followed by the next, RFC 3339.
    until: String,
}

#[derive(Serialize)]
struct OwedView {
    cluster: String,
    key_bundles: usize,
}

#[derive(Serialize)]
struct AttestedView {
    set: String,
    share: u32,
    threshold: u32,
    total: u32,
    /// RFC 3339.
    at: String,
}

/// A cluster whose keys somebody has to know of.
#[derive(Serialize)]
struct ClusterView {
    cluster: String,
    lineage: u32,
    /// Orders to the agent that it has not fulfilled.
    kek_ordered: bool,
    dek_ordered: bool,
    /// Its signing key waits for `cluster approve-lineage`.
    unapproved: bool,
}

pub(super) async fn run(arguments: &StatusArgs, context: &Context) -> Result<()> {
    let Some(path) = &arguments.recovery_pub else {
        let (_, client) = operator::connect(context)?;
        let answer = ask(&client, arguments.stale).await?;
        return context.screen.show(&FleetView::of(&answer)?, FleetView::describe);
    };
    let file = key_files::recovery_public_file(path)?;
    context.screen.show(&StatusView::from(&file), |view| {
        let shares = match &view.shares {
            Some(SharesView { set, threshold, total }) => {
                format!("{total} of set {set}; any {threshold} of them rebuild the key")
            }
            None => "none recorded: the key was made before there were shares".to_owned(),
        };
        format!("fingerprint  {}\nshares       {shares}\n", view.fingerprint)
    })
}

/// Asks the fleet.
pub(super) async fn ask(
    client: &Arc<FleetClient>,
    stale: bool,
) -> Result<v1::GetKeyStatusResponse> {
    Ok(client
        .call("asking for the state of the keys", |channel| async move {
            KeysClient::new(channel).get_key_status(v1::GetKeyStatusRequest { stale }).await
        })
        .await?)
}

fn no_sense(what: &str) -> CliError {
    CliError::new(Code::Internal, format!("the fleet's answer makes no sense: {what}"))
}

fn public(hpke: &[u8], signing: &[u8]) -> Result<RecoveryPublic> {
    let half = |bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| no_sense("a recovery key has two 32-byte halves"))
    };
    Ok(RecoveryPublic { hpke: half(hpke)?, signing: half(signing)? })
}

/// The fleet's recovery key, as it says.
pub(super) fn recovery_of(answer: &v1::GetKeyStatusResponse) -> Result<RecoveryPublic> {
    public(&answer.recovery_hpke, &answer.recovery_signing)
}

/// A former one, with what it signed.
pub(super) fn former_of(row: &v1::FormerRecoveryKey) -> Result<FormerRecovery> {
    let signature =
        row.signature[..].try_into().map_err(|_| no_sense("a signature has 64 bytes"))?;
    Ok(FormerRecovery { key: public(&row.hpke, &row.signing)?, signature })
}

impl FleetView {
    fn of(answer: &v1::GetKeyStatusResponse) -> Result<Self> {
        let name = |cluster: &Option<v1::Cluster>| {
            cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default()
        };
        let former = |row: &v1::FormerRecoveryKey| {
            Ok(FormerView {
                fingerprint: former_of(row)?.key.fingerprint().to_string(),
                finished: row.finished,
                until: crate::views::time(row.since_ms),
            })
        };
        let clusters = answer.clusters.iter().map(|keys| {
            let orders = keys.orders.unwrap_or_default();
            ClusterView {
                cluster: name(&keys.cluster),
                lineage: keys.cluster.as_ref().map_or(0, |cluster| cluster.lineage),
                kek_ordered: orders.kek > orders.kek_done,
                dek_ordered: orders.dek > orders.dek_done,
                unapproved: keys.unapproved,
            }
        });
        Ok(Self {
            fingerprint: recovery_of(answer)?.fingerprint().to_string(),
            former: answer.former.iter().map(former).collect::<Result<_>>()?,
            owed: answer
                .owed
                .iter()
                .map(|owed| OwedView {
                    cluster: name(&owed.cluster),
                    key_bundles: owed.key_bundles.len(),
                })
                .collect(),
            rotating: answer.former.last().is_some_and(|former| !former.finished),
            attested: answer
                .attested
                .iter()
                .map(|row| AttestedView {
                    set: hex::encode(&row.set),
                    share: row.index,
                    threshold: row.threshold,
                    total: row.total,
                    at: crate::views::time(row.at_ms),
                })
                .collect(),
            attest_overdue: answer.attest_overdue,
            clusters: clusters.collect(),
        })
    }

    fn describe(&self) -> String {
        let mut text = format!("fingerprint  {}\n", self.fingerprint);
        for former in &self.former {
            let state = if former.finished { "nothing is sealed to it" } else { "still in use" };
            text.push_str(&format!("before       {} ({state})\n", former.fingerprint));
        }
        for owed in &self.owed {
            text.push_str(&format!(
                "to renew     {}: {} key bundles\n",
                plain(&owed.cluster),
                owed.key_bundles
            ));
        }
        if self.attested.is_empty() {
            text.push_str("attested     no holder has shown a share\n");
        }
        for row in &self.attested {
            text.push_str(&format!(
                "attested     share {} of {} (set {}, {} rebuild the key) {}\n",
                row.share, row.total, row.set, row.threshold, row.at
            ));
        }
        if self.attest_overdue {
            text.push_str("             too few in the last 180 days: ask the holders\n");
        }
        for cluster in &self.clusters {
            let mut notes = Vec::new();
            if cluster.kek_ordered {
                notes.push("a new KEK is ordered".to_owned());
            }
            if cluster.dek_ordered {
                notes.push("a new data key is ordered".to_owned());
            }
            if cluster.unapproved {
                notes.push("its new signing key waits for approval".to_owned());
            }
            if cluster.lineage > 0 {
                notes.push(format!("lineage {}", cluster.lineage));
            }
            if !notes.is_empty() {
                let name = plain(&cluster.cluster);
                text.push_str(&format!("cluster      {name}: {}\n", notes.join(", ")));
            }
        }
        text
    }
}

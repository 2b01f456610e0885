//! `strongroom cluster rotate-kek|rotate-dek|approve-lineage`: what an operator says of a cluster's
//! keys. The agent does it, with its next backup; no key is here.

use agent::heads::KnownHeads;
use agent::shown::plain;
use clap::Args;
use proto::v1;
use proto::v1::keys_client::KeysClient;
use proto_types::{ClusterId, Code, SigningPublicKey};
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;

/// Arguments of `cluster rotate-kek` and `cluster rotate-dek`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The cluster
    pub name: String,
}

/// Arguments of `cluster approve-lineage`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The cluster
    pub name: String,
    /// Fingerprint of the new signing key, as `strongroom agent keys` prints it on the cluster
    #[arg(long, value_name = "HEX")]
    pub fingerprint: String,
}

#[derive(Serialize)]
struct OrderedView {
    cluster: String,
    /// Which key: "kek" or "dek".
    key: &'static str,
    /// The order's number.
    order: u64,
    /// Orders that the agent has fulfilled.
    done: u64,
}

pub(super) async fn rotate(arguments: &RotateArgs, kek: bool, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::OrderKeysRequest {
        write_id: Some(client.next_write_id()),
        cluster_name: arguments.name.clone(),
        kek,
        dek: !kek,
    };
    let answer = client
        .call("asking for another key", |channel| {
            let request = request.clone();
            async move { KeysClient::new(channel).order_keys(request).await }
        })
        .await?;
    let orders = answer.orders.unwrap_or_default();
    let (order, done) =
        if kek { (orders.kek, orders.kek_done) } else { (orders.dek, orders.dek_done) };
    let key = if kek { "kek" } else { "dek" };
    let view = OrderedView { cluster: arguments.name.clone(), key, order, done };
    context.screen.show(&view, |view| {
        let what = if kek { "KEK (strongroom-store-secret)" } else { "data key" };
        format!(
            "ordered      {}: its agent takes a new {what} with its next backup (order {})\n",
            plain(&view.cluster),
            view.order
        )
    })
}

#[derive(Serialize)]
struct ApprovedView {
    cluster: String,
    signing_key: String,
    fingerprint: String,
    /// False: it was approved already.
    approved: bool,
}

pub(super) async fn approve(arguments: &ApproveArgs, context: &Context) -> Result<()> {
    let (operator, client) = operator::connect(context)?;
    let mut heads = KnownHeads::load(&operator.pins)?;
    let answer = client
        .call("asking for the cluster's key", |channel| async move {
            KeysClient::new(channel).get_key_status(v1::GetKeyStatusRequest { stale: false }).await
        })
        .await?;
    let found = answer.clusters.into_iter().filter_map(|keys| keys.cluster);
    let cluster =
        found.into_iter().find(|cluster| cluster.name == arguments.name).ok_or_else(|| {
            CliError::new(
                Code::ClusterNotFound,
                format!("the fleet has no cluster {}", plain(&arguments.name)),
            )
            .with_remedy("`strongroom cluster list` lists them")
        })?;
    let internal = |error: proto_types::ParseIdError| {
        CliError::new(Code::Internal, format!("the fleet's answer makes no sense: {error}"))
    };
    let key = SigningPublicKey::from_slice(&cluster.signing_key).map_err(internal)?;
    let id = ClusterId::from_slice(&cluster.cluster_id).map_err(internal)?;
    let fingerprint = key.fingerprint().to_string();
    if !fingerprint.eq_ignore_ascii_case(arguments.fingerprint.trim()) {
        return Err(CliError::new(
            Code::WrongKey,
            format!(
                "cluster {} signs with a key of fingerprint {fingerprint}, not with the one given",
                plain(&cluster.name)
            ),
        )
        .with_remedy(
            "ask again what `strongroom agent keys` prints on the cluster; if it is not this one, \
             somebody else acts as its agent: approve nothing",
        ));
    }
    let request = v1::ApproveLineageRequest {
        write_id: Some(client.next_write_id()),
        cluster_name: cluster.name.clone(),
        signing_key: cluster.signing_key.clone(),
    };
    let answer = client
        .call("approving the signing key", |channel| {
            let request = request.clone();
            async move { KeysClient::new(channel).approve_lineage(request).await }
        })
        .await?;
    heads.pin_successor(client.fleet(), id, &cluster.name, key);
    heads.save()?;
    let view = ApprovedView {
        cluster: cluster.name,
        signing_key: key.to_string(),
        fingerprint,
        approved: answer.approved,
    };
    context.screen.show(&view, |view| {
        let what = if view.approved { "approved" } else { "approved before" };
        format!(
            "{what}: cluster {} signs with {}\npoints from the next one on can be proved\n",
            plain(&view.cluster),
            view.fingerprint
        )
    })
}

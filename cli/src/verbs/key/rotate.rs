//! `strongroom key rotate`: a new recovery key for the fleet, named by the one before. Then every key
//! bundle gets wraps for it: the agents make them by themselves, and for clusters that are gone they
//! are made here, from shares of the key before. Until that is done both keys are needed, each for
//! what is sealed to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::point_store::{FleetPointStore, PointSelector, PointStore, read_small};
use agent::shown;
use bundle::{Expect, FormerRecovery, Identity, RecoveryPublic, RecoverySecret, RecoveryShare};
use bytes::Bytes;
use clap::Args;
use proto::fleet_client::FleetClient;
use proto::v1::keys_client::KeysClient;
use proto::v1::{self, ReadPurpose};
use proto_types::{BundleKind, Code, Epoch, FleetId, Sequence};
use serde::Serialize;
use zeroize::Zeroizing;

use super::super::opening::RecoveryArgs;
use super::init::{file_name, prove};
use super::status::ask;
use super::{RECOVERY_PUB, status};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::recovery::Recovery;
use crate::{operator, private_file};

/// Arguments of `key rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Directory for the new recovery.pub and a file for each holder; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "finish_for")]
    pub out: Option<PathBuf>,
    /// How many shares to make of the new key, one for each holder
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub new_shares: u8,
    /// How many of them rebuild it together
    #[arg(long, value_name = "T", default_value_t = 3)]
    pub new_threshold: u8,
    /// Also write the whole new key, which opens everything by itself, into this file: for tests and
    /// automation
    #[arg(long, value_name = "FILE")]
    pub new_seed_file: Option<PathBuf>,
    /// Renew what is left of a cluster whose agent is gone, with the key before; can be said several
    /// times
    #[arg(long, value_name = "CLUSTER", conflicts_with_all = ["out", "new_seed_file"])]
    pub finish_for: Vec<String>,
    #[command(flatten)]
    recovery: RecoveryArgs,
}

#[derive(Serialize)]
struct RotatedView {
    /// The fleet's recovery key now.
    fingerprint: String,
    /// The one before.
    former: String,
    recovery_pub: PathBuf,
    share_files: Vec<PathBuf>,
    set: String,
    threshold: u8,
    total: u8,
    /// Key bundles that are sealed to the key before.
    owed: usize,
}

#[derive(Serialize)]
struct FinishedView {
    cluster: String,
    /// Key bundles that have wraps for the new key now.
    renewed: usize,
    /// Those that the key did not open.
    left: usize,
}

pub(super) async fn run(arguments: &RotateArgs, context: &Context) -> Result<()> {
    let recovery = arguments.recovery.require()?;
    let (_, client) = operator::connect(context)?;
    match &arguments.out {
        Some(out) => begin(arguments, out, &recovery, &client, context).await,
        None => finish(&arguments.finish_for, &recovery, &client, context).await,
    }
}

async fn begin(
    arguments: &RotateArgs,
    out: &Path,
    recovery: &Recovery,
    client: &Arc<FleetClient>,
    context: &Context,
) -> Result<()> {
    let known = ask(client, false).await?;
    let former = status::recovery_of(&known)?;
    recovery.check(former.fingerprint(), "the fleet")?;
    let random = &*context.env.random;
    let secret = RecoverySecret::generate(random);
    let shares = secret
        .split(arguments.new_threshold, arguments.new_shares, random)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let public = secret.public();
    let file = prove(&shares, public)?;
    let sealed_root_key = reseal_root(&known, client.fleet(), recovery, &public, context)?;

    private_file::make_directory(out)?;
    let share_files: Vec<PathBuf> = shares.iter().map(|share| out.join(file_name(share))).collect();
    let mut files: Vec<(PathBuf, Zeroizing<String>)> =
        share_files.iter().cloned().zip(shares.iter().map(RecoveryShare::to_file_text)).collect();
    files.extend(arguments.new_seed_file.iter().map(|path| (path.clone(), secret.to_text())));
    let recovery_pub = out.join(RECOVERY_PUB);
    files.push((recovery_pub.clone(), file.to_text().into()));
    let made = private_file::create_all(&files)?;

    let signature = recovery.secret().sign_successor(client.fleet(), &public);
    let request = v1::RotateRecoveryRequest {
        write_id: Some(client.next_write_id()),
        hpke: Bytes::copy_from_slice(&public.hpke),
        signing: Bytes::copy_from_slice(&public.signing),
        signature: Bytes::copy_from_slice(&signature),
        sealed_root_key,
    };
    let rotated = client
        .call("rotating the recovery key", |channel| {
            let request = request.clone();
            async move { KeysClient::new(channel).rotate_recovery(request).await }
        })
        .await;
    if let Err(error) = rotated {
        let error = CliError::from(error);
        // Refused: nobody will ever need the new key. All else may have been done.
        if !error.code().is_retryable() && error.code() != Code::Internal {
            return Err(error);
        }
        made.keep();
        return Err(error.with_remedy(format!(
            "it is not known whether the fleet took the new key: keep {}, and look at `strongroom \
             key status` before you try again",
            shown::path(out)
        )));
    }
    made.keep();
    let owed = ask(client, false).await?.owed.iter().map(|owed| owed.key_bundles.len()).sum();
    let set = shares[0].set();
    let view = RotatedView {
        fingerprint: public.fingerprint().to_string(),
        former: former.fingerprint().to_string(),
        recovery_pub,
        share_files,
        set: set.id(),
        threshold: set.threshold(),
        total: set.total(),
        owed,
    };
    context.screen.show(&view, RotatedView::describe)
}

/// The root authority's key for the new recovery key; nothing in a fleet without one.
fn reseal_root(
    known: &v1::GetKeyStatusResponse,
    fleet: FleetId,
    recovery: &Recovery,
    public: &RecoveryPublic,
    context: &Context,
) -> Result<Bytes> {
    if known.sealed_root_key.is_empty() {
        return Ok(Bytes::new());
    }
    let (sealed, certificate) = (&known.sealed_root_key, &known.root_certificate);
    let key = bundle::open_authority(sealed, fleet, certificate, recovery.secret())
        .map_err(|error| CliError::new(error.code(), format!("the root's sealed key: {error}")))?;
    let random = &*context.env.random;
    let sealed = bundle::seal_authority(&key, fleet, certificate, public, random)
        .map_err(|error| CliError::new(Code::Internal, format!("the root's key: {error}")))?;
    Ok(sealed.into())
}

async fn finish(
    clusters: &[String],
    recovery: &Recovery,
    client: &Arc<FleetClient>,
    context: &Context,
) -> Result<()> {
    let known = ask(client, false).await?;
    let newest = status::recovery_of(&known)?;
    let held = recovery.secret().public();
    // A coordinator could offer a key of its own to seal to (invariant K3).
    let steps =
        known.former.iter().map(status::former_of).collect::<Result<Vec<FormerRecovery>>>()?;
    if !held.leads_to(client.fleet(), &steps, &newest) {
        return Err(CliError::new(
            Code::WrongKey,
            format!(
                "the fleet's recovery key {} was not named by the one given, {}",
                newest.fingerprint(),
                held.fingerprint()
            ),
        )
        .with_remedy(
            "give shares of a recovery key that was the fleet's before; if they are, somebody put \
             another key in its place",
        ));
    }
    let mut views = Vec::new();
    for name in clusters {
        let owed = known
            .owed
            .iter()
            .find(|owed| owed.cluster.as_ref().is_some_and(|cluster| cluster.name == *name));
        let mut view = FinishedView { cluster: name.clone(), renewed: 0, left: 0 };
        for key_bundle in owed.iter().flat_map(|owed| &owed.key_bundles) {
            match renew(name, key_bundle, recovery, &newest, client, context).await {
                Ok(()) => view.renewed += 1,
                Err(error) => {
                    view.left += 1;
                    context.screen.note(&format!(
                        "point {}@{}: {}",
                        shown::plain(name),
                        key_bundle.sequence,
                        error.message()
                    ));
                }
            }
        }
        views.push(view);
    }
    let left: usize = views.iter().map(|view| view.left).sum();
    context.screen.show(&views, |views| {
        let line = |view: &FinishedView| {
            format!(
                "{}: {} renewed, {} left\n",
                shown::plain(&view.cluster),
                view.renewed,
                view.left
            )
        };
        views.iter().map(line).collect()
    })?;
    if left > 0 {
        return Err(CliError::new(
            Code::WrongKey,
            format!("{left} key bundles could not be renewed with this key"),
        )
        .with_remedy(
            "`strongroom key status` shows which are left; try again, with the key before",
        ));
    }
    Ok(())
}

/// Makes new wraps for one key bundle from the key before.
async fn renew(
    cluster: &str,
    owed: &v1::OwedKeyBundle,
    recovery: &Recovery,
    newest: &RecoveryPublic,
    client: &Arc<FleetClient>,
    context: &Context,
) -> Result<()> {
    let selector = PointSelector::Sequence(Sequence::new(owed.sequence));
    let purpose = ReadPurpose::Restore;
    let store = FleetPointStore::open(client.clone(), cluster, selector, purpose).await?;
    let info = store.point().clone();
    let wraps = read_small(&store, info.wraps, BundleKind::Wraps).await;
    let keys = read_small(&store, info.key_bundle, BundleKind::Key).await;
    // Given up before the new file comes: it may not replace what somebody reads.
    store.end().await;
    let opening = |error: bundle::OpenError| CliError::new(error.code(), error.to_string());
    let expect = Expect::of(info.fleet, info.cluster);
    let opened =
        bundle::open_wraps_with_recovery(&wraps?, recovery.secret(), &expect.with_id(info.wraps))
            .map_err(opening)?;
    let expect = expect.with_id(info.key_bundle);
    let keys = bundle::open_key_bundle(&keys?, &opened.content_key, &expect).map_err(opening)?;
    let header = keys.file.header.header();
    let identity = Identity {
        fleet: info.fleet,
        cluster: info.cluster,
        lineage: header.lineage,
        sequence: header.sequence,
        epoch: Epoch::new(header.epoch.get()),
        created: context.log_now(),
    };
    let (_, bytes) = bundle::seal_wraps(
        Vec::new(),
        &keys.keyring,
        &opened.content_key,
        info.key_bundle,
        &identity,
        newest,
        &*context.env.random,
    )
    .map_err(|error| CliError::new(Code::Internal, error.to_string()))?;
    let request = v1::ReplaceWrapsRequest {
        write_id: Some(client.next_write_id()),
        cluster_name: cluster.to_owned(),
        key_bundle_id: owed.key_bundle_id.clone(),
        wraps: bytes.into(),
    };
    client
        .call("renewing wraps", |channel| {
            let request = request.clone();
            async move { KeysClient::new(channel).replace_wraps(request).await }
        })
        .await?;
    Ok(())
}

impl RotatedView {
    fn describe(&self) -> String {
        let mut text = format!(
            "rotated      the fleet's recovery key is {} now\nbefore       {}\nmade         {}\n",
            self.fingerprint,
            self.former,
            shown::path(&self.recovery_pub)
        );
        for path in &self.share_files {
            text.push_str(&format!("made         {}\n", shown::path(path)));
        }
        text.push_str(&format!(
            "\nGive each share file to its holder and keep no copy; any {} of the {} rebuild the key.\n\
             {} key bundles are still sealed to the key before: the agents renew theirs with their \
             next\nbackup; for clusters that are gone say `strongroom key rotate --finish-for CLUSTER` \
             with the\nshares of before. Keep those until `strongroom key status` says that nothing is \
             left.\n",
            self.threshold, self.total, self.owed
        ));
        text
    }
}

//! Finding and opening a recovery point, as `restore` and the `backup` verbs need it: which point,
//! from the fleet or a file, and the key.

use std::path::PathBuf;
use std::sync::Arc;

use agent::export::ExportPointStore;
use agent::heads::KnownHeads;
use agent::opened::PointError;
use agent::point_store::{FleetPointStore, PointSelector, SharedStore};
use agent::{OpenedPoint, Opener};
use bundle::{Freshness, Origin};
use clap::Args;
use proto::v1::ReadPurpose;
use proto_types::{Code, PointName, Sequence};
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator::{self, Operator};
use crate::output::Screen;
use crate::recovery::{Recovery, ShareArgs};

/// The key that opens a point: the cluster's own, or the fleet's recovery key.
#[derive(Debug, Args)]
#[group(skip)]
pub struct KeyArgs {
    #[command(flatten)]
    key: OptionalKeyArgs,
}

/// The same where a verb can do something without a key.
#[derive(Debug, Args)]
#[group(skip)]
pub struct OptionalKeyArgs {
    /// The cluster's own key, kek.key in its agent's directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recovery_key", "share", "shares"])]
    pub kek: Option<PathBuf>,
    #[command(flatten)]
    recovery: RecoveryArgs,
}

/// The fleet's recovery key, for when the cluster is gone.
#[derive(Debug, Args)]
#[group(skip)]
pub struct RecoveryArgs {
    /// The fleet's whole recovery key, where it was kept in a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["share", "shares"])]
    recovery_key: Option<PathBuf>,
    #[command(flatten)]
    shares: ShareArgs,
}

/// A key that opens points, with what to do if it turns out to be the wrong one.
pub(crate) struct PointKey {
    opener: Opener,
    remedy: Option<&'static str>,
}

impl RecoveryArgs {
    /// Reads the recovery key.
    pub(crate) fn read(&self) -> Result<Option<Recovery>> {
        Recovery::read(self.recovery_key.as_deref(), &self.shares)
    }

    /// As [`RecoveryArgs::read`], where there must be one.
    pub(crate) fn require(&self) -> Result<Recovery> {
        self.read()?.ok_or_else(|| {
            CliError::usage("the recovery key is missing")
                .with_remedy("give its shares with --share or --shares")
        })
    }
}

impl KeyArgs {
    pub(crate) fn read(&self) -> Result<PointKey> {
        self.key.read()?.ok_or_else(|| {
            CliError::usage(
                "the key is missing: give it with --kek, --share, --shares or --recovery-key",
            )
        })
    }
}

impl OptionalKeyArgs {
    pub(crate) fn read(&self) -> Result<Option<PointKey>> {
        if let Some(path) = &self.kek {
            return Ok(Some(PointKey { opener: Opener::from_kek_file(path)?, remedy: None }));
        }
        Ok(self.recovery.read()?.map(PointKey::from))
    }
}

impl From<Recovery> for PointKey {
    fn from(recovery: Recovery) -> Self {
        let (secret, remedy) = recovery.into_parts();
        Self { opener: Opener::Recovery(secret), remedy: Some(remedy) }
    }
}

impl PointKey {
    pub(crate) const fn opener(&self) -> &Opener {
        &self.opener
    }

    /// An error of opening a point with this key, with advice that fits how it was given.
    pub(crate) fn explain(&self, error: PointError) -> CliError {
        let error = CliError::from(error);
        match self.remedy {
            Some(remedy) if error.code() == Code::WrongKey => error.with_remedy(remedy),
            _ => error,
        }
    }
}

/// Reads `CLUSTER@NUMBER`, for clap.
pub(crate) fn point_name(text: &str) -> std::result::Result<PointName, String> {
    text.parse().map_err(|error: proto_types::PointNameError| error.to_string())
}

/// A point's sealed bytes, wherever they are, and what this machine remembers of clusters.
pub(crate) struct Found {
    /// The point.
    pub(crate) store: SharedStore,
    /// Pins; of nothing, where there is no operator's directory.
    pub(crate) heads: KnownHeads,
    /// Whether it is an exported file, for which no coordinator is asked.
    from_file: bool,
}

/// Finds a point in the fleet.
pub(crate) async fn in_fleet(
    context: &Context,
    cluster: &str,
    selector: PointSelector,
    purpose: ReadPurpose,
) -> Result<Found> {
    let (operator, client) = operator::connect(context)?;
    let heads = KnownHeads::load(&operator.pins)?;
    let store = FleetPointStore::open(client, cluster, selector, purpose).await?;
    Ok(Found { store: Arc::new(store), heads, from_file: false })
}

/// Opens an exported file. No coordinator is asked; pins are used where the operator has some.
pub(crate) async fn in_file(context: &Context, file: &std::path::Path) -> Result<Found> {
    // Without any operator's directory a file must still restore: that is what it is for.
    let operator = context.operator_dir().ok().filter(|dir| dir.join(operator::FILE).exists());
    let heads = match operator {
        Some(directory) => KnownHeads::load(&Operator::load(&directory)?.pins)?,
        None => KnownHeads::nothing(),
    };
    let store = ExportPointStore::open(file, &context.env).await?;
    Ok(Found { store: Arc::new(store), heads, from_file: true })
}

impl Found {
    /// Opens the point and writes nothing down, not even that it was seen.
    pub(crate) async fn look(mut self, key: &PointKey, context: &Context) -> Result<OpenedPoint> {
        self.unlock(key, context).await
    }

    /// Opens the point. A KEK that is newer than the point opens it by way of the newest point, whose
    /// key bundle remembers the KEKs before.
    async fn unlock(&mut self, key: &PointKey, context: &Context) -> Result<OpenedPoint> {
        let (opener, heads) = (key.opener(), &mut self.heads);
        let opened = OpenedPoint::open(self.store.clone(), opener, heads, &context.env).await;
        let error = match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let is_kek = matches!(opener, Opener::Kek(_));
        if self.from_file || !is_kek || error.code() != Code::WrongKey {
            return Err(key.explain(error));
        }
        let name = self.store.point().cluster_name.clone();
        let newest = in_fleet(context, &name, PointSelector::Newest, ReadPurpose::Restore).await?;
        let store = newest.store;
        let opened = OpenedPoint::open(store.clone(), opener, heads, &context.env).await;
        store.end().await;
        // It opens nothing: what was said of the point itself is what a person needs.
        let Ok(newest) = opened else { return Err(key.explain(error)) };
        let opener = Opener::Keyring(newest.keyring().clone());
        OpenedPoint::open(self.store.clone(), &opener, heads, &context.env)
            .await
            .map_err(|error| key.explain(error))
    }

    /// Opens the point and remembers its head, if it is the newest.
    pub(crate) async fn open(mut self, key: &PointKey, context: &Context) -> Result<OpenedPoint> {
        let opened = self.unlock(key, context).await;
        let saved = self.heads.save();
        let failed = opened.is_err() || (saved.is_err() && !self.from_file);
        if failed {
            self.store.end().await;
        }
        let opened = opened?;
        match saved {
            // A restore does not wait for a disk that this machine's notes are on.
            Err(error) if self.from_file => context.screen.note(&format!("warning: {error}")),
            saved => saved?,
        }
        Ok(opened)
    }
}

/// What can be believed of a point that was opened.
#[derive(Debug, Serialize)]
pub(crate) struct TrustView {
    /// `proven`, or `unproven` when nobody pinned the cluster's signing key here.
    origin: &'static str,
    /// Fingerprint of the key that signed it, to compare.
    signer: String,
    /// `proven`, `unproven`, or none when not the newest point was asked for.
    freshness: Option<&'static str>,
    /// The newest point seen from here, when it is newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    newer_seen: Option<u64>,
    /// Whether it is what a restore overwrote, and no recovery point.
    safety_file: bool,
}

impl TrustView {
    pub(crate) fn of(opened: &OpenedPoint) -> Self {
        Self {
            origin: match opened.origin() {
                Origin::Proven => "proven",
                Origin::Unproven(_) => "unproven",
            },
            signer: opened.signer().fingerprint().to_string(),
            freshness: opened.freshness().map(|freshness| match freshness {
                Freshness::Proven => "proven",
                Freshness::Unproven => "unproven",
            }),
            newer_seen: opened.newer_seen().map(Sequence::get),
            safety_file: opened.is_safety_file(),
        }
    }

    /// Tells people what is not proven; programs read it in the answer.
    pub(crate) fn warn(&self, screen: &Screen) {
        if self.safety_file {
            screen.note("this is a safety file, what a restore overwrote, not a recovery point");
        } else if let Some(newest) = self.newer_seen {
            screen.note(&format!("older than the newest seen here (@{newest})"));
        }
        if self.origin == "unproven" {
            screen.note(&format!(
                "origin: unproven. No signing key of this cluster is pinned here; compare the \
                 signer's fingerprint: {}",
                self.signer
            ));
        }
        if self.freshness == Some("unproven") {
            screen.note(
                "freshness: unproven. From here no point was seen that could show it: an older one \
                 could be offered in place of a newer one",
            );
        }
    }
}

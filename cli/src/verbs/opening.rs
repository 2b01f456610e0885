//! Finding and opening a recovery point, as `restore` and the `backup` verbs need it: which point,
//! from the fleet or a file, and the key.

use std::path::PathBuf;
use std::sync::Arc;

use agent::export::ExportPointStore;
use agent::heads::KnownHeads;
use agent::point_store::{FleetPointStore, PointSelector, SharedStore};
use agent::{OpenedPoint, Opener};
use bundle::{Freshness, Origin};
use clap::Args;
use proto::v1::ReadPurpose;
use proto_types::{PointName, Sequence};
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator::{self, Operator};
use crate::output::Screen;

/// The key that opens a point: one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct KeyArgs {
    /// The cluster's own key, kek.key in its agent's directory
    #[arg(long, value_name = "FILE")]
    pub kek: Option<PathBuf>,
    /// The fleet's recovery key, recovery.key, for when the cluster is gone
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

/// The same where a verb can do something without a key.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub struct OptionalKeyArgs {
    /// The cluster's own key, kek.key in its agent's directory
    #[arg(long, value_name = "FILE")]
    pub kek: Option<PathBuf>,
    /// The fleet's recovery key, recovery.key, for when the cluster is gone
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

impl KeyArgs {
    pub(crate) fn read(&self) -> Result<Opener> {
        read(self.kek.as_ref(), self.recovery_key.as_ref())?
            .ok_or_else(|| CliError::usage("give the key with --kek or --recovery-key"))
    }
}

impl OptionalKeyArgs {
    pub(crate) fn read(&self) -> Result<Option<Opener>> {
        read(self.kek.as_ref(), self.recovery_key.as_ref())
    }
}

fn read(kek: Option<&PathBuf>, recovery_key: Option<&PathBuf>) -> Result<Option<Opener>> {
    Ok(match (kek, recovery_key) {
        (Some(path), _) => Some(Opener::from_kek_file(path)?),
        (None, Some(path)) => Some(Opener::from_recovery_file(path)?),
        (None, None) => None,
    })
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
    /// Opens the point and remembers its head, if it is the newest.
    pub(crate) async fn open(mut self, opener: &Opener, context: &Context) -> Result<OpenedPoint> {
        let opened =
            OpenedPoint::open(self.store.clone(), opener, &mut self.heads, &context.env).await;
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

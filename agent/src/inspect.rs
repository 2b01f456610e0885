//! Looking at recovery points without restoring them: are all bundles whole and signed, what is
//! in a point, what changed from one to another.

use std::io::BufReader;
use std::sync::Arc;

use bundle::{Expect, Freshness, Item, ItemKind, Location, OpenError, Origin, Piece};
use futures::future::join;
use proto::env::Env;
use proto_types::{BundleId, BundleKind, KeyFingerprint, SigningPublicKey};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::heads::KnownHeads;
use crate::opened::{OpenedPoint, PointError, opening};
use crate::point_store::{ChannelReader, SharedStore, coalesce, pump};
use crate::progress::{Phase, Progress, ProgressEvent};

/// Chunks between the store and the verifier: some 4 MiB.
const CHUNKS_MAX: usize = 4;

/// One bundle that is whole.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedBundle {
    /// Its id: the hash of what was read.
    pub id: BundleId,
    /// config, key, manifest or wraps.
    pub kind: &'static str,
    /// Length in bytes.
    pub bytes: u64,
}

/// What was found of a point whose bundles are all whole.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Every bundle that the point needs.
    pub bundles: Vec<VerifiedBundle>,
    /// Who signed them.
    pub signer: KeyFingerprint,
    /// Whether that is the pinned key. `false`: compare the fingerprint with what was written
    /// down when the cluster was registered.
    pub origin_proven: bool,
    /// Whether it is known not to be older than what was seen; `None` when not the newest was
    /// asked for, or no key was given.
    pub freshness_proven: Option<bool>,
    /// Blobs and secrets that were opened; 0 without a key.
    pub blobs_opened: u64,
}

/// Reads every bundle of a point and checks hash, signature, fleet and cluster. Needs no key.
///
/// # Errors
/// The first bundle that is missing or not what it should be.
pub async fn verify_sealed(
    store: &SharedStore,
    heads: &KnownHeads,
    env: &Env,
    progress: Arc<dyn Progress>,
) -> Result<VerifyReport, PointError> {
    let info = store.point();
    heads.check_name(info.fleet, &info.cluster_name, info.cluster)?;
    let pinned = heads.cluster(info.cluster).and_then(|known| known.signing_key);
    let mut event = ProgressEvent {
        bytes_total: info.bundles.iter().map(|entry| entry.bytes).sum(),
        ..ProgressEvent::begin(Phase::Verifying)
    };
    let mut bundles = Vec::new();
    let mut signer: Option<SigningPublicKey> = pinned;
    for entry in &info.bundles {
        let expect = Expect { signer, ..Expect::of(info.fleet, info.cluster).with_id(entry.id) };
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let verifying = env.blocking("verify a bundle", move || {
            let reader = BufReader::with_capacity(1 << 20, ChannelReader::new(receiver));
            bundle::verify_file(reader, &expect)
        });
        let ids = [entry.id];
        let (pumped, verified) = join(pump(&**store, &ids, sender), verifying).await;
        pumped?;
        let verified = verified?.map_err(opening(kind_word(&entry.kind)))?;
        let header = verified.header.header();
        // Without a pin, all must at least be signed by one key.
        signer = Some(header.signer);
        bundles.push(VerifiedBundle {
            id: verified.id,
            kind: header.kind.as_str(),
            bytes: verified.bytes,
        });
        event.items += 1;
        event.bytes_done += verified.bytes;
        progress.on(event);
    }
    check_parts(store, &bundles)?;
    let signer = signer.ok_or(PointError::Contradiction { what: "it lists no bundles" })?;
    Ok(VerifyReport {
        bundles,
        signer: signer.fingerprint(),
        origin_proven: pinned.is_some(),
        freshness_proven: None,
        blobs_opened: 0,
    })
}

/// Opens every blob and secret of a point whose bundles were verified, and adds what the key
/// proves to the report.
///
/// # Errors
/// The first blob that does not open.
pub async fn verify_opened(
    point: &OpenedPoint,
    report: &mut VerifyReport,
    progress: Arc<dyn Progress>,
) -> Result<(), PointError> {
    let mut wanted = Vec::new();
    let mut secrets = 0;
    let mut seen = std::collections::HashSet::new();
    for piece in point.manifest().items.iter().flat_map(|item| &item.content) {
        if let Piece::Blob { id, location: Location::Key, .. } = piece {
            point.secret(id)?;
            secrets += 1;
        } else if let Some((bundle, blob)) = piece.config_blob()
            && seen.insert((bundle, blob.offset))
        {
            wanted.push((bundle, blob, u64::from(blob.plain_len)));
        }
    }
    let total = wanted.iter().map(|(_, _, bytes)| bytes).sum();
    let blobs = wanted.len() as u64;
    let done = std::sync::atomic::AtomicU64::new(0);
    point
        .for_each_blob(coalesce(wanted), move |bytes: u64, _plain| {
            let done = done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            progress.on(ProgressEvent {
                bytes_done: done,
                bytes_total: total,
                ..ProgressEvent::begin(Phase::Verifying)
            });
            Ok::<_, PointError>(())
        })
        .await?;
    report.blobs_opened = blobs + secrets;
    report.origin_proven = point.origin() == Origin::Proven;
    report.freshness_proven = point.freshness().map(|freshness| freshness == Freshness::Proven);
    Ok(())
}

/// The point's own files must be among its bundles, each of its kind.
fn check_parts(store: &SharedStore, bundles: &[VerifiedBundle]) -> Result<(), PointError> {
    let info = store.point();
    let parts = [
        (Some(info.manifest), BundleKind::Manifest),
        (info.base, BundleKind::Manifest),
        (Some(info.key_bundle), BundleKind::Key),
        (Some(info.wraps), BundleKind::Wraps),
    ];
    for (id, kind) in parts.into_iter().filter_map(|(id, kind)| id.map(|id| (id, kind))) {
        let found = bundles.iter().find(|bundle| bundle.id == id);
        if found.is_none_or(|bundle| bundle.kind != kind.as_str()) {
            return Err(PointError::Contradiction { what: "one of its own files is not listed" });
        }
    }
    Ok(())
}

fn kind_word(kind: &str) -> &'static str {
    match kind {
        "config" => "a config bundle",
        "key" => "the key bundle",
        "manifest" => "a manifest",
        "wraps" => "the wraps of the key bundle",
        _ => "a bundle",
    }
}

/// One item of a point, for people and JSON.
#[derive(Debug, Clone, Serialize)]
pub struct ShownItem {
    /// Label of the source.
    pub source: String,
    /// Path within the source, with what is not UTF-8 replaced.
    pub path: String,
    /// file, directory, symlink or other.
    pub kind: &'static str,
    /// Bytes of content.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
    /// Whether its content is in the key bundle.
    pub secret: bool,
}

impl ShownItem {
    fn of(item: &Item) -> Self {
        let link = item.kind == ItemKind::Symlink;
        Self {
            source: item.key.source.clone(),
            path: String::from_utf8_lossy(&item.key.path).into_owned(),
            kind: match item.kind {
                ItemKind::File => "file",
                ItemKind::Directory => "directory",
                ItemKind::Symlink => "symlink",
                ItemKind::Object => "object",
                ItemKind::Other(_) => "other",
            },
            size: item.size,
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            modified_ms: item
                .modified
                .seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(item.modified.nanos / 1_000_000)),
            link_target: link.then(|| String::from_utf8_lossy(&item.link_target).into_owned()),
            secret: item
                .content
                .iter()
                .any(|piece| matches!(piece, Piece::Blob { location: Location::Key, .. })),
        }
    }
}

/// All items of a point, by source and path.
#[must_use]
pub fn show(point: &OpenedPoint) -> Vec<ShownItem> {
    point.manifest().items.iter().map(ShownItem::of).collect()
}

/// An item that two points hold differently.
#[derive(Debug, Clone, Serialize)]
pub struct ChangedItem {
    /// As it was.
    pub old: ShownItem,
    /// As it is.
    pub new: ShownItem,
    /// Whether bytes or link target differ.
    pub content: bool,
    /// Whether mode, owner, time, links or extended attributes differ.
    pub metadata: bool,
}

/// What is different between two points.
#[derive(Debug, Clone, Serialize)]
pub struct PointDiff {
    /// Only in the newer.
    pub added: Vec<ShownItem>,
    /// Only in the older.
    pub removed: Vec<ShownItem>,
    /// In both, and different.
    pub changed: Vec<ChangedItem>,
}

/// Compares two points of one cluster.
///
/// # Errors
/// When they are of different clusters.
pub fn diff(old: &OpenedPoint, new: &OpenedPoint) -> Result<PointDiff, PointError> {
    let (expected, found) = (old.info().cluster, new.info().cluster);
    if expected != found {
        return Err(opening("the newer point")(OpenError::WrongCluster { expected, found }));
    }
    let diff = bundle::diff(&old.manifest().items, &new.manifest().items);
    Ok(PointDiff {
        added: diff.added.into_iter().map(ShownItem::of).collect(),
        removed: diff.removed.into_iter().map(ShownItem::of).collect(),
        changed: diff
            .changed
            .into_iter()
            .map(|change| ChangedItem {
                old: ShownItem::of(change.old),
                new: ShownItem::of(change.new),
                content: change.content,
                metadata: change.metadata,
            })
            .collect(),
    })
}

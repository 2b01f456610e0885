//! A recovery point that was opened: wraps → keyring → manifest and its base, each verified, and
//! the reading of its blobs. Where the bytes come from is a point store's business; what is done
//! with them, the restore's.

use std::path::Path;
use std::sync::Arc;

use bundle::{
    BlobId, BlobOpener, BlobRef, Expect, Freshness, Kek, Keyring, Manifest, ManifestError,
    OpenError, OpenedManifest, OpenedWraps, Origin, RecoverySecret, Secrets,
};
use futures::{StreamExt, TryStreamExt, stream};
use proto::env::{BlockingPanicked, Env};
use proto_types::{
    BundleId, BundleKind, Code, KeyFingerprint, Sequence, SignedHeader, SigningPublicKey,
};
use zeroize::Zeroizing;

use crate::heads::{HeadsError, KnownHeads, SeenHead};
use crate::home::{HomeError, load_kek, load_recovery_secret};
use crate::point_store::{
    Offered, PointInfo, RangeRead, SharedStore, StoreError, read_all, read_small,
};
use crate::restore::is_safety_manifest;

/// Ranges that are fetched and opened at the same time.
const RANGES_AT_ONCE: usize = 2;
/// A range whose blobs do not open is read again from other copies.
const COPIES_TRIED_MAX: u32 = 3;

/// The key that opens a point.
pub enum Opener {
    /// The cluster's own.
    Kek(Kek),
    /// The fleet's, for when the cluster is gone.
    Recovery(RecoverySecret),
    /// A newer point's keyring, which remembers the KEKs before its own.
    Keyring(Arc<Keyring>),
}

impl Opener {
    /// Reads a KEK file.
    ///
    /// # Errors
    /// When it is missing, short, damaged or another key.
    pub fn from_kek_file(path: &Path) -> Result<Self, HomeError> {
        load_kek(path).map(Self::Kek)
    }

    /// Reads a `recovery.key` file.
    ///
    /// # Errors
    /// When it is missing, short, damaged or another key.
    pub fn from_recovery_file(path: &Path) -> Result<Self, HomeError> {
        load_recovery_secret(path).map(Self::Recovery)
    }

    fn open(&self, wraps: &[u8], expect: &Expect) -> Result<OpenedWraps, OpenError> {
        match self {
            Self::Kek(kek) => bundle::open_wraps_with_kek(wraps, kek, expect),
            Self::Recovery(secret) => bundle::open_wraps_with_recovery(wraps, secret, expect),
            Self::Keyring(keyring) => {
                let keks: Vec<&Kek> = keyring.keks().map(|(_, kek)| kek).collect();
                let mut last = OpenError::WrongKek(keyring.kek_generation());
                for kek in keks.into_iter().rev() {
                    match bundle::open_wraps_with_kek(wraps, kek, expect) {
                        Err(error @ OpenError::WrongKek(_)) => last = error,
                        result => return result,
                    }
                }
                Err(last)
            }
        }
    }
}

/// Why a point could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// Its bytes could not be had.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// They are not what they should be, or the key is another one.
    #[error("{what}: {source}")]
    Open {
        /// Which part of the point.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: Box<OpenError>,
    },
    /// Manifest and base do not fit together.
    #[error("the manifest and its base do not fit together: {0}")]
    Merge(#[from] ManifestError),
    /// The store's description and the signed bytes contradict each other.
    #[error("the point is described as something else than what was signed: {what}")]
    Contradiction {
        /// What differs.
        what: &'static str,
    },
    /// The keyring's signing key did not sign the point.
    #[error(
        "the point is signed by {signer}, but its own key bundle holds the signing key {keyring}"
    )]
    StrangeSigner {
        /// Fingerprint of who signed.
        signer: KeyFingerprint,
        /// Fingerprint of the key in the keyring.
        keyring: KeyFingerprint,
    },
    /// Pins say otherwise.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] BlockingPanicked),
}

impl PointError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Open { source, .. } => source.code(),
            Self::Merge(_) | Self::Contradiction { .. } => Code::Damaged,
            Self::StrangeSigner { .. } => Code::BadSignature,
            Self::Heads(error) => error.code(),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

impl From<StoreError> for PointError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

pub(crate) fn opening(what: &'static str) -> impl FnOnce(OpenError) -> PointError {
    move |source| PointError::Open { what, source: Box::new(source) }
}

/// A point whose keyring and manifest were opened and verified.
pub struct OpenedPoint {
    store: SharedStore,
    env: Env,
    info: PointInfo,
    keyring: Arc<Keyring>,
    secrets: Arc<Secrets>,
    manifest: Arc<Manifest>,
    manifest_sequence: Sequence,
    signer: SigningPublicKey,
    origin: Origin,
    freshness: Option<Freshness>,
    newer_seen: Option<Sequence>,
    safety_file: bool,
}

impl OpenedPoint {
    /// Opens a point. A newer one than known before is noted in `heads`; saving is the caller's.
    ///
    /// # Errors
    /// `WRONG_KEY` before anything is decrypted, `BAD_SIGNATURE`, `WRONG_CLUSTER`, `ROLLBACK`,
    /// `DAMAGED`, or what reading from the store may end with.
    pub async fn open(
        store: SharedStore,
        opener: &Opener,
        heads: &mut KnownHeads,
        env: &Env,
    ) -> Result<Self, PointError> {
        let info = store.point().clone();
        heads.check_name(info.fleet, &info.cluster_name, info.cluster)?;
        let known = heads.cluster(info.cluster);
        let mut pinned = known.and_then(|known| known.signing_key);
        let seen = known.and_then(|known| known.head);
        let wraps = read_small(&*store, info.wraps, BundleKind::Wraps).await?;
        let keys = read_small(&*store, info.key_bundle, BundleKind::Key).await?;
        // A key that was lost since signed what came before; the key bundle says which, and has to be
        // signed by it.
        let signer = SignedHeader::from_tail(&keys, keys.len() as u64).ok();
        let signer = signer.map(|signed| signed.header().signer);
        let former = known.map_or(&[][..], |known| &known.former_signing_keys);
        if let Some(signer) = signer.filter(|signer| former.contains(signer)) {
            pinned = Some(signer);
        }
        let expect = Expect { signer: pinned, ..Expect::of(info.fleet, info.cluster) };
        let wraps = opener
            .open(&wraps, &expect.with_id(info.wraps))
            .map_err(opening("the wraps of the key bundle"))?;
        if wraps.names.key_bundle != info.key_bundle {
            return Err(PointError::Contradiction { what: "its wraps open another key bundle" });
        }
        let keys =
            bundle::open_key_bundle(&keys, &wraps.content_key, &expect.with_id(info.key_bundle))
                .map_err(opening("the key bundle"))?;
        let signer = keys.file.header.header().signer;
        let keyring_signer = keys.keyring.signing_key().public();
        if signer != keyring_signer {
            let (signer, keyring) = (signer.fingerprint(), keyring_signer.fingerprint());
            return Err(PointError::StrangeSigner { signer, keyring });
        }
        // From here on all must be signed by the key that the keyring holds.
        let expect = expect.signed_by(signer);

        let opened = read_manifest(&store, info.manifest, &keys.keyring, &expect).await?;
        check_claims(&info, &opened, &signer)?;
        // What is signed decides; what the file says of itself has to agree.
        let safety_file = is_safety_manifest(&opened.manifest);
        if safety_file != store.is_safety_file() {
            let what = "a safety file and a recovery point are not the same";
            return Err(PointError::Contradiction { what });
        }
        let manifest_sequence = opened.manifest.sequence;
        let offered = SeenHead {
            sequence: info.sequence,
            manifest: info.manifest,
            manifest_sequence,
            committed_ms: Some(info.committed_ms),
        };
        // A safety file has the number of the point that was restored, and never was a head.
        let freshness =
            if safety_file { None } else { check_head(seen, offered, store.offered_as())? };
        let base = opened.manifest.form.base();
        let manifest = if base.is_zero() {
            opened.manifest
        } else {
            let base_opened = read_manifest(&store, base, &keys.keyring, &expect).await?;
            env.blocking("merge manifests", move || {
                bundle::merge(base, base_opened.manifest, opened.manifest)
            })
            .await??
        };
        let origin = match (pinned, opener) {
            // Only who holds the KEK can have made a wrap that it opens.
            (Some(_), _) | (None, Opener::Kek(_) | Opener::Keyring(_)) => Origin::Proven,
            (None, Opener::Recovery(_)) => Origin::Unproven(signer.fingerprint()),
        };
        // Anybody can seal to a public key: what is not proven may not become the measure.
        if origin == Origin::Proven && store.offered_as() == Offered::Newest {
            heads.observe(info.fleet, info.cluster, &info.cluster_name, offered);
        }
        let newer_seen = seen.map(|seen| seen.sequence).filter(|seen| *seen > info.sequence);
        Ok(Self {
            env: env.clone(),
            keyring: Arc::new(keys.keyring),
            secrets: Arc::new(keys.secrets),
            manifest: Arc::new(manifest),
            store,
            info,
            manifest_sequence,
            signer,
            origin,
            freshness,
            newer_seen,
            safety_file,
        })
    }

    /// What the store says of the point; verified as far as it is signed.
    #[must_use]
    pub const fn info(&self) -> &PointInfo {
        &self.info
    }
    /// All items of the point.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }
    /// The point that its manifest was sealed for.
    #[must_use]
    pub const fn manifest_sequence(&self) -> Sequence {
        self.manifest_sequence
    }
    /// The point's keys.
    #[must_use]
    pub const fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }
    /// Who signed it.
    #[must_use]
    pub const fn signer(&self) -> &SigningPublicKey {
        &self.signer
    }
    /// Whether it is proved who made it.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }
    /// Whether it is proved not to be older than what was seen; `None` when not the newest was
    /// asked for.
    #[must_use]
    pub const fn freshness(&self) -> Option<Freshness> {
        self.freshness
    }
    /// The newest point seen from here, when it is newer than this one.
    #[must_use]
    pub const fn newer_seen(&self) -> Option<Sequence> {
        self.newer_seen
    }
    /// Whether it is what a restore overwrote, and no recovery point.
    #[must_use]
    pub const fn is_safety_file(&self) -> bool {
        self.safety_file
    }
    /// Where its bytes come from.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }
    /// The environment it was opened in.
    #[must_use]
    pub const fn env(&self) -> &Env {
        &self.env
    }
    pub(crate) const fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// One secret of the key bundle.
    pub(crate) fn secret(&self, id: &BlobId) -> Result<&[u8], PointError> {
        self.secrets.get(id).ok_or(OpenError::MissingSecret(*id)).map_err(opening("the key bundle"))
    }

    /// Fetches and opens blobs, and hands each to `work` on a blocking thread, in no order.
    /// `work` sees every blob once.
    pub(crate) async fn for_each_blob<T, E>(
        &self,
        ranges: Vec<RangeRead<T>>,
        work: impl Fn(T, Zeroizing<Vec<u8>>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<(), E>
    where
        T: Send + Sync + 'static,
        E: From<PointError> + Send + 'static,
    {
        let work = Arc::new(work);
        stream::iter(ranges)
            .map(|range| async move {
                let bytes = read_all(&*self.store, range.bundle, range.offset, range.length).await;
                Ok::<_, E>((range, bytes.map_err(PointError::from)?))
            })
            .buffered(RANGES_AT_ONCE)
            .try_for_each_concurrent(RANGES_AT_ONCE, |(range, bytes)| {
                let work = work.clone();
                async move {
                    let opened = self.open_range(range, bytes).await?;
                    self.env
                        .blocking("use blobs", move || {
                            opened.into_iter().try_for_each(|(tag, plain)| work(tag, plain))
                        })
                        .await
                        .map_err(PointError::from)?
                }
            })
            .await
    }

    async fn open_range<T: Send + Sync + 'static>(
        &self,
        range: RangeRead<T>,
        mut bytes: Vec<u8>,
    ) -> Result<Vec<(T, Zeroizing<Vec<u8>>)>, PointError> {
        let range = Arc::new(range);
        let mut tries = 1;
        let plains = loop {
            let (keyring, shared) = (self.keyring.clone(), range.clone());
            let (fleet, cluster) = (self.info.fleet, self.info.cluster);
            let opened = self
                .env
                .blocking("open blobs", move || {
                    let mut opener = BlobOpener::new(&keyring, fleet, cluster);
                    let open = |(blob, _): &(BlobRef, T)| {
                        opener.open(record_of(&bytes, shared.offset, blob), blob)
                    };
                    shared.blobs.iter().map(open).collect::<Result<Vec<_>, _>>()
                })
                .await?;
            match opened {
                Ok(plains) => break plains,
                Err(error) if error.code() == Code::Damaged && tries < COPIES_TRIED_MAX => {
                    tracing::warn!(bundle = %range.bundle, "a copy is damaged: reading another");
                    tries += 1;
                    self.store.suspect(range.bundle).await;
                    bytes =
                        read_all(&*self.store, range.bundle, range.offset, range.length).await?;
                }
                Err(error) => return Err(opening("a config bundle")(error)),
            }
        };
        let blobs = Arc::into_inner(range).map(|range| range.blobs).unwrap_or_default();
        Ok(blobs.into_iter().map(|(_, tag)| tag).zip(plains).collect())
    }
}

/// A record's bytes within a range; empty, and so refused, when it is out of it.
fn record_of<'a>(bytes: &'a [u8], offset: u64, blob: &BlobRef) -> &'a [u8] {
    let record = blob.record_range();
    let place = |at: u64| at.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
    place(record.start)
        .zip(place(record.end))
        .and_then(|(start, end)| bytes.get(start..end))
        .unwrap_or_default()
}

async fn read_manifest(
    store: &SharedStore,
    id: BundleId,
    keyring: &Keyring,
    expect: &Expect,
) -> Result<OpenedManifest, PointError> {
    let bytes = read_small(&**store, id, BundleKind::Manifest).await?;
    bundle::open_manifest(&bytes, keyring, &expect.with_id(id)).map_err(opening("the manifest"))
}

/// Compares what a store says of a point with what was signed.
fn check_claims(
    info: &PointInfo,
    opened: &OpenedManifest,
    signer: &SigningPublicKey,
) -> Result<(), PointError> {
    let manifest = &opened.manifest;
    let contradiction = |what| Err(PointError::Contradiction { what });
    info.check_manifest(manifest.sequence, signer).map_err(opening("the manifest"))?;
    if manifest.key_bundle != info.key_bundle {
        return contradiction("its manifest names another key bundle");
    }
    if opened.file.header.header().lineage != info.lineage {
        return contradiction("its manifest is of another lineage");
    }
    let base = manifest.form.base();
    if (!base.is_zero()).then_some(base) != info.base {
        return contradiction("its manifest names another base");
    }
    if !info.is_unchanged() && opened.file.header.header().created != info.taken_ms {
        return contradiction("it was taken at another time");
    }
    Ok(())
}

/// Whether what is offered may be believed to be the newest, or the newest of its time
/// (invariant K3).
pub(crate) fn check_head(
    seen: Option<SeenHead>,
    offered: SeenHead,
    offered_as: Offered,
) -> Result<Option<Freshness>, PointError> {
    let rollback = opening("the newest point");
    let Some(seen) = seen else {
        return Ok((offered_as != Offered::Exactly).then_some(Freshness::Unproven));
    };
    let older = |known, offered| Err(rollback_of(known, offered));
    let head = (offered.sequence, offered.manifest);
    // Another manifest under a number that is known is a fork, whatever was asked for.
    if offered.sequence == seen.sequence || offered_as == Offered::Newest {
        // A point that is said to be unchanged may not lead back behind a manifest seen before.
        if offered_as == Offered::Newest && offered.manifest_sequence < seen.manifest_sequence {
            return older(seen.manifest_sequence, offered.manifest_sequence);
        }
        let freshness = bundle::check_freshness(Some((seen.sequence, seen.manifest)), head)
            .map_err(rollback)?;
        return Ok((offered_as != Offered::Exactly).then_some(freshness));
    }
    match offered_as {
        Offered::At(time) if offered.sequence < seen.sequence => {
            match seen.committed_ms {
                // The one seen is of that time, too, and newer.
                Some(committed) if committed <= time => older(seen.sequence, offered.sequence),
                Some(_) | None => Ok(Some(Freshness::Unproven)),
            }
        }
        Offered::At(_) => Ok(Some(Freshness::Proven)),
        Offered::Newest | Offered::Exactly => Ok(None),
    }
}

fn rollback_of(known: Sequence, offered: Sequence) -> PointError {
    opening("the newest point")(OpenError::Rollback { known, offered })
}

#[cfg(test)]
mod tests {
    use proto_types::LogTime;

    use super::*;

    fn head(sequence: u64, manifest: u8, manifest_sequence: u64) -> SeenHead {
        SeenHead {
            sequence: Sequence::new(sequence),
            manifest: BundleId::from_bytes([manifest; 32]),
            manifest_sequence: Sequence::new(manifest_sequence),
            committed_ms: Some(LogTime::from_millis(sequence * 1000)),
        }
    }

    #[test]
    fn invariant_k3_an_older_state_offered_as_the_newest_is_found_out() {
        let at = |millis| Offered::At(LogTime::from_millis(millis));
        let rollback = Err(Code::Rollback);
        let proven = Ok(Some(Freshness::Proven));
        for (seen, offered, offered_as, expected) in [
            (None, head(3, 3, 3), Offered::Newest, Ok(Some(Freshness::Unproven))),
            (None, head(3, 3, 3), Offered::Exactly, Ok(None)),
            (Some(head(3, 3, 3)), head(3, 3, 3), Offered::Newest, proven),
            (Some(head(3, 3, 3)), head(5, 5, 5), Offered::Newest, proven),
            (Some(head(3, 3, 3)), head(5, 3, 3), Offered::Newest, proven),
            (Some(head(3, 3, 3)), head(2, 2, 2), Offered::Newest, rollback),
            // An "unchanged" point that leads back to an older manifest.
            (Some(head(3, 3, 3)), head(9, 2, 2), Offered::Newest, rollback),
            // Another manifest under a number that is known.
            (Some(head(3, 3, 3)), head(3, 4, 3), Offered::Newest, rollback),
            (Some(head(3, 3, 3)), head(3, 4, 3), Offered::Exactly, rollback),
            // The newest of a time: the one seen was committed at 3000.
            (None, head(2, 2, 2), at(2500), Ok(Some(Freshness::Unproven))),
            (Some(head(3, 3, 3)), head(2, 2, 2), at(2500), Ok(Some(Freshness::Unproven))),
            (Some(head(3, 3, 3)), head(2, 2, 2), at(3000), rollback),
            (Some(head(3, 3, 3)), head(3, 3, 3), at(3000), proven),
            (Some(head(3, 3, 3)), head(4, 4, 4), at(9000), proven),
            (Some(head(3, 3, 3)), head(3, 4, 3), at(9000), rollback),
            // An older one that was asked for is no rollback.
            (Some(head(3, 3, 3)), head(2, 2, 2), Offered::Exactly, Ok(None)),
        ] {
            let found = check_head(seen, offered, offered_as).map_err(|error| error.code());
            assert_eq!(found, expected, "{seen:?} {offered:?}");
        }
    }
}

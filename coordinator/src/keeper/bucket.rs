//! Bundles in the bucket, as any coordinator uses it: takes uploads into it, says what is there
//! for a commit, reads from it. Only the leader deletes there (`home`).
//!
//! An object counts only after this node has read it back whole, whatever the store said when it
//! took it (invariant B1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordinator_core::{AnnounceObject, BundleHome, Command, Outcome, RecordObjects, State};
use proto::ApiError;
use proto_types::{BundleId, Code, LogIndex, SignedHeader};
use storage::bundles::{BucketBundleStore, BundleError, BundleStore};
use tokio::sync::mpsc;

use super::receive::next_piece;
use super::{Inner, Keeper, Pieces, Receiving, Upload, lock, store_error};
use crate::service::core_request;
use crate::telemetry;

/// An object found whole this long ago counts as whole: nothing is ever written under its name
/// again, so that only rot is left, which the scrub looks for.
const OBJECT_VERIFIED_MS: u64 = 600_000;
/// So many of them are remembered before the old ones are forgotten.
const OBJECTS_VERIFIED_MAX: usize = 4096;
/// An object that is not there is looked for again, before it is called lost.
const LOOKS: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Pieces on their way between the bucket and the disk.
const PIECES_IN_FLIGHT: usize = 4;
const PIECE_BYTES: usize = 1 << 20;

impl Inner {
    /// The objects of one generation.
    pub(super) fn objects(&self, generation: LogIndex) -> Result<BucketBundleStore, ApiError> {
        self.bucket.as_ref().map(|bucket| bucket.of(generation)).ok_or_else(|| {
            ApiError::new(
                Code::Unavailable,
                format!(
                    "node {} has no [bucket] in its config, and the bundles are kept in one: give \
                     it the one of the others; meanwhile ask another node",
                    self.this
                ),
            )
        })
    }

    pub(super) fn remember_object(&self, bundle: BundleId, generation: LogIndex) {
        let now = self.env.clock.elapsed_millis();
        let mut verified = lock(&self.verified_objects);
        if verified.len() >= OBJECTS_VERIFIED_MAX {
            verified.retain(|_, at| now.saturating_sub(*at) < OBJECT_VERIFIED_MS);
        }
        verified.insert((bundle, generation), now);
    }

    fn is_verified(&self, bundle: BundleId, generation: LogIndex) -> bool {
        let now = self.env.clock.elapsed_millis();
        let verified = lock(&self.verified_objects);
        let at = verified.get(&(bundle, generation));
        at.is_some_and(|at| now.saturating_sub(*at) < OBJECT_VERIFIED_MS)
    }
}

/// Whether a commit or a live upload has this object, in a state that is at least as new as when
/// the object was written.
fn is_wanted(state: &State, bundle: &BundleId, generation: LogIndex) -> bool {
    state.is_announced(generation, bundle)
        || state.bundle(bundle).is_some_and(|row| row.object == Some(generation))
}

impl Keeper {
    /// Whether bundles of new points go to the bucket.
    pub(crate) fn goes_to_bucket(&self) -> bool {
        self.inner.raft.local().state.home().to == BundleHome::Bucket
    }

    /// The bucket's URL, where this node has one.
    pub(crate) fn bucket_url(&self) -> Option<String> {
        self.inner.bucket.as_ref().map(|bucket| bucket.bucket().to_string())
    }

    /// Takes a bundle into the bucket: announced in the log, written, read back.
    pub(super) async fn upload_object(
        &self,
        upload: Upload,
        mut pieces: Pieces,
    ) -> Result<(), ApiError> {
        let generation = upload.lease_index;
        self.inner.objects(generation)?;
        let receiving = self.receiving(upload.bundle)?;
        let command = Command::AnnounceObject(AnnounceObject {
            lease: upload.lease,
            bundle: upload.bundle,
            bytes: upload.bytes,
        });
        match self.inner.raft.propose(core_request(None, command)).await?.0 {
            Outcome::Refused(coordinator_core::Refusal::BundlesOnDisks) => {
                return Err(ApiError::new(
                    Code::Unavailable,
                    "bundles go to the coordinators' disks again: send it once more",
                ));
            }
            Outcome::Refused(refusal) => {
                return Err(ApiError::new(refusal.code(), refusal.to_string()));
            }
            _ => {}
        }
        let copy = self.begin_object(&receiving, upload);
        let mut first = true;
        while let Some(piece) = next_piece(&mut pieces).await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    copy.abandon().await;
                    return Err(error);
                }
            };
            if first {
                telemetry::upload_progress(upload.lease, upload.bundle, piece.len() as u64);
                first = false;
            }
            if !copy.write(piece).await {
                break;
            }
        }
        copy.finish().await?;
        telemetry::bundle_stored(upload.bundle, upload.bytes, "bucket");
        Ok(())
    }

    /// Whether an announced object that was written, or perhaps written, is wanted. Where its upload
    /// ended meanwhile, whoever deletes what that left may have been here before the object was: it
    /// is deleted once more. Its name is never used again.
    pub(super) async fn settle_object(&self, upload: Upload) -> Result<bool, ApiError> {
        // A state of before the write would not know of the end.
        let state = self.inner.raft.read().await?.state;
        let is_wanted = is_wanted(&state, &upload.bundle, upload.lease_index);
        if !is_wanted {
            self.delete_object(upload.bundle, upload.lease_index).await?;
        }
        Ok(is_wanted)
    }

    /// Deletes one object by name.
    pub(super) async fn delete_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<(), ApiError> {
        lock(&self.inner.verified_objects).remove(&(bundle, generation));
        self.blocking("delete-object", move |inner| {
            inner.objects(generation)?.delete(&bundle).map_err(store_error)
        })
        .await
    }

    /// How much of a bundle is in the bucket or on its way there through this node.
    pub(crate) async fn object_offset(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<(u64, bool), ApiError> {
        self.blocking("read-object-offset", move |inner| {
            let store = inner.objects(generation)?;
            if let Some(bytes) = store.size(&bundle).map_err(store_error)? {
                return Ok((bytes, true));
            }
            let partials = store.partials().map_err(store_error)?;
            let partial = partials.iter().find(|partial| partial.id == bundle);
            Ok((partial.map_or(0, |partial| partial.bytes), false))
        })
        .await
    }

    /// The header of a bundle that an upload put into the bucket, after the whole object was read
    /// back by this node; `None` where there is no good one.
    pub(crate) async fn uploaded_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<Option<SignedHeader>, ApiError> {
        if !self.inner.raft.local().state.is_announced(generation, &bundle)
            || !self.verify_object(bundle, generation).await?
        {
            return Ok(None);
        }
        self.blocking("read-object-header", move |inner| {
            let store = inner.objects(generation)?;
            store.header(&bundle).map(Some).map_err(store_error)
        })
        .await
    }

    /// Whether an object is there and whole. A damaged one is put aside. An error says that nobody
    /// knows: the store did not answer.
    pub(super) async fn verify_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<bool, ApiError> {
        if self.inner.is_verified(bundle, generation) {
            return Ok(true);
        }
        for look in 1.. {
            let found = self.blocking("verify-object", move |inner| {
                let store = inner.objects(generation)?;
                match store.verify(&bundle) {
                    Ok(()) => Ok(Some(true)),
                    Err(BundleError::NotFound { .. }) => Ok(None),
                    Err(error @ BundleError::Damaged { .. }) => {
                        telemetry::damage_on_read(bundle, &super::chain(&error));
                        store.quarantine(&bundle).map_err(store_error)?;
                        Ok(Some(false))
                    }
                    Err(error) => Err(store_error(error)),
                }
            });
            match found.await? {
                Some(true) => {
                    self.inner.remember_object(bundle, generation);
                    return Ok(true);
                }
                Some(false) => return Ok(false),
                None if look == LOOKS => return Ok(false),
                None => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        Ok(false)
    }

    /// Makes sure that the object of a committed bundle is whole, and gives its length. A lost one
    /// is reported to the fleet.
    pub(super) async fn whole_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<u64, ApiError> {
        if self.verify_object(bundle, generation).await? {
            let row = self.inner.raft.local().state.bundle(&bundle).map(|row| row.facts.bytes);
            if let Some(bytes) = row {
                return Ok(bytes);
            }
        }
        self.report_lost_object(bundle, generation).await?;
        Err(ApiError::new(
            Code::BundleNotFound,
            format!("the bucket has no good object of bundle {}", bundle.short()),
        ))
    }

    /// Tells the fleet that an object is gone or damaged.
    pub(super) async fn report_lost_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<(), ApiError> {
        let state = self.inner.raft.local().state;
        if state.bundle(&bundle).and_then(|row| row.object) != Some(generation) {
            return Ok(());
        }
        telemetry::object_lost(bundle);
        let command = Command::RecordObjects(RecordObjects {
            began: state.home().began,
            present: vec![],
            absent: vec![bundle],
            gone: vec![],
        });
        self.inner.raft.propose(core_request(None, command)).await?;
        self.wake();
        Ok(())
    }

    /// Brings a bundle from the bucket to this node's disk.
    pub(super) async fn fetch_object(
        &self,
        receiving: &Arc<Receiving>,
        generation: LogIndex,
        bytes: u64,
    ) -> Result<(), ApiError> {
        let bundle = receiving.bundle;
        let (sender, mut pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let inner = self.inner.clone();
        self.inner.env.spawn.blocking(
            "fetch-object",
            Box::new(move || {
                // Nobody may wait for the rest any more.
                let _ = send_pieces(&inner, bundle, generation, bytes, &sender);
            }),
        );
        let copy = self.begin_local(receiving, bytes, 0);
        while let Some(piece) = pieces.recv().await {
            match piece {
                Ok(piece) => {
                    if !copy.write(piece).await {
                        break;
                    }
                }
                Err(error) => {
                    copy.abandon().await;
                    return Err(error);
                }
            }
        }
        copy.finish().await
    }
}

fn send_pieces(
    inner: &Inner,
    bundle: BundleId,
    generation: LogIndex,
    bytes: u64,
    out: &mpsc::Sender<Result<Bytes, ApiError>>,
) -> Result<(), mpsc::error::SendError<Result<Bytes, ApiError>>> {
    let store = match inner.objects(generation) {
        Ok(store) => store,
        Err(error) => return out.blocking_send(Err(error)),
    };
    let mut at = 0;
    while at < bytes {
        // As large as one request may be, in pieces as the disk takes them.
        match store.read_range(&bundle, at, storage::bucket::PART_BYTES).map_err(store_error) {
            Ok(part) if part.is_empty() => return Ok(()),
            Ok(part) => {
                at += part.len() as u64;
                let part = Bytes::from(part);
                for from in (0..part.len()).step_by(PIECE_BYTES) {
                    let piece = part.slice(from..part.len().min(from + PIECE_BYTES));
                    out.blocking_send(Ok(piece))?;
                }
            }
            Err(error) => return out.blocking_send(Err(error)),
        }
    }
    Ok(())
}

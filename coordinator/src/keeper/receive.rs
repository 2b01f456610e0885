//! Writes one bundle to this node's disk: pieces in, digest checked, fsynced, then acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use proto::ApiError;
use proto_types::{BundleId, Code};
use storage::bundles::{BundleError, BundleStore};
use storage::ledger::UploadClaim;
use tokio::sync::mpsc;

use super::durable::is_fatal;
use super::{Inner, Keeper, Pieces, Receiving, Upload};
use crate::service::lease_gone;
use crate::telemetry;

/// Pieces between network and disk: 8 MiB, enough to hide one slow write.
const PIECES_IN_FLIGHT: usize = 8;
/// A sender from whom nothing comes for this long has gone, although its connection lives.
const SENDER_PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions whether an object that was written is wanted.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// The writing end of a bundle on its way to this node's disk.
pub(super) struct LocalCopy {
    pieces: mpsc::Sender<Bytes>,
    done: tokio::sync::oneshot::Receiver<Result<(), ApiError>>,
}

impl LocalCopy {
    /// Hands a piece to the disk; false when the disk has given up, which `finish` explains.
    pub(super) async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until everything is on stable storage under its name.
    pub(super) async fn finish(self) -> Result<(), ApiError> {
        drop(self.pieces);
        outcome(self.done).await
    }

    /// Waits until what was handed over is written, and leaves it for a later continuation.
    pub(super) async fn abandon(self) {
        // The writer sees too few bytes and keeps the partial; its error is what is expected.
        let _ = self.finish().await;
    }
}

async fn outcome(
    done: tokio::sync::oneshot::Receiver<Result<(), ApiError>>,
) -> Result<(), ApiError> {
    done.await.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "the disk writer panicked")))
}

/// The next piece of a stream, within a sender's patience.
pub(super) async fn next_piece(pieces: &mut Pieces) -> Option<Result<Bytes, ApiError>> {
    tokio::time::timeout(SENDER_PATIENCE, pieces.next()).await.unwrap_or_else(|_| {
        Some(Err(ApiError::new(
            Code::Unavailable,
            format!("nothing came for {SENDER_PATIENCE:?}; continue where the stream ended"),
        )))
    })
}

impl Keeper {
    /// Begins to write a bundle at `offset`; the bytes before are here already. Whole, it is in
    /// the ledger, too, whether or not anybody still waits.
    pub(super) fn begin_local(
        &self,
        receiving: &Arc<Receiving>,
        bytes: u64,
        offset: u64,
    ) -> LocalCopy {
        self.begin_copy(receiving, move |receiving, pieces| {
            let inner = &receiving.inner;
            write(inner, &*inner.store, receiving.bundle, (bytes, offset), pieces)?;
            inner.note_held(receiving.bundle, bytes)
        })
    }

    /// The same into the bucket, under an announced name; read back at the end, and looked after
    /// when nobody waits any more.
    pub(super) fn begin_object(&self, receiving: &Arc<Receiving>, upload: Upload) -> LocalCopy {
        let generation = upload.lease_index;
        let copy = self.begin_copy(receiving, move |receiving, pieces| {
            let (inner, bundle) = (&receiving.inner, receiving.bundle);
            let store = inner.objects(generation)?;
            write(inner, &store, bundle, (upload.bytes, upload.offset), pieces)?;
            inner.remember_object(bundle, generation);
            Ok(())
        });
        let (report, done) = tokio::sync::oneshot::channel();
        let LocalCopy { pieces, done: written } = copy;
        let keeper = self.clone();
        self.inner.env.spawn.task(
            "settle-object",
            Box::pin(async move {
                let written = outcome(written).await;
                let mut is_wanted = keeper.settle_object(upload).await;
                let _ = report.send(match &is_wanted {
                    Ok(true) => written,
                    Ok(false) => written.and(Err(lease_gone(upload.lease))),
                    Err(error) => written.and(Err(error.clone())),
                });
                while let Err(error) = is_wanted {
                    tracing::debug!(bundle = %upload.bundle, %error, "is this object wanted?");
                    tokio::time::sleep(SETTLE_PAUSE).await;
                    is_wanted = keeper.settle_object(upload).await;
                }
            }),
        );
        LocalCopy { pieces, done }
    }

    fn begin_copy(
        &self,
        receiving: &Arc<Receiving>,
        write: impl FnOnce(&Receiving, mpsc::Receiver<Bytes>) -> Result<(), ApiError> + Send + 'static,
    ) -> LocalCopy {
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (report, done) = tokio::sync::oneshot::channel();
        let receiving = receiving.clone();
        self.inner.env.spawn.blocking(
            "write-bundle",
            Box::new(move || {
                let result = write(&receiving, receiver);
                drop(receiving);
                // Nobody waits any more when the request was cancelled; the partial stays.
                let _ = report.send(result);
            }),
        );
        LocalCopy { pieces, done }
    }

    /// Takes a copy that another coordinator sends under an upload lease, and acknowledges it.
    pub(crate) async fn store_copy(
        &self,
        upload: Upload,
        mut pieces: Pieces,
    ) -> Result<(), ApiError> {
        self.inner.raft.applied(upload.lease_index).await?;
        let receiving = self.receiving(upload.bundle)?;
        if !self.holds(upload.bundle).await? {
            self.note_claim(upload).await?;
            let copy = self.begin_local(&receiving, upload.bytes, upload.offset);
            while let Some(piece) = next_piece(&mut pieces).await {
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
            copy.finish().await?;
            self.stored(upload.bundle, upload.bytes, "upload");
        }
        drop(receiving);
        self.acknowledge_one(upload.lease, upload.bundle).await
    }

    /// Notes in the ledger for which upload a bundle is being written, before its first byte is,
    /// so that what an ended upload left behind is found again.
    pub(super) async fn note_claim(&self, upload: Upload) -> Result<(), ApiError> {
        self.blocking("note-claim", move |inner| {
            let claim =
                UploadClaim { lease: upload.lease, bundle: upload.bundle, bytes: upload.offset };
            inner.noted(inner.ledger.put_claim(claim))
        })
        .await
    }

    /// Tells that a bundle is here, whole, and just compared with its name.
    pub(super) fn stored(&self, bundle: BundleId, bytes: u64, way: &'static str) {
        self.inner.remember_verified(bundle);
        telemetry::bundle_stored(bundle, bytes, way);
    }
}

fn write(
    inner: &Inner,
    store: &dyn BundleStore,
    bundle: BundleId,
    (bytes, offset): (u64, u64),
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(), ApiError> {
    let wrote = |result: Result<_, BundleError>| {
        if result.as_ref().is_err_and(is_fatal)
            && let Err(error) = store.abandon(&bundle)
        {
            // What is there may be in the page cache only: the next process must not build on it.
            tracing::warn!(%error, "could not remove what a failed write left");
        }
        inner.wrote(result)
    };
    let mut have = wrote(store.begin(&bundle, bytes))?;
    if have < offset {
        return Err(ApiError::new(
            Code::Unavailable,
            format!(
                "{have} bytes of bundle {} are here, the stream begins at {offset}: begin there",
                bundle.short()
            ),
        ));
    }
    let mut at = offset;
    while let Some(piece) = pieces.blocking_recv() {
        let end = at + piece.len() as u64;
        if end > bytes {
            return Err(ApiError::new(
                Code::DigestMismatch,
                format!("bundle {} is longer than the {bytes} bytes announced", bundle.short()),
            ));
        }
        // What an earlier try brought is not written twice.
        let known = usize::try_from(have.saturating_sub(at)).unwrap_or(usize::MAX);
        if let Some(new) = piece.get(known..).filter(|new| !new.is_empty()) {
            wrote(store.write(&bundle, have, new).map(|()| 0))?;
            have += new.len() as u64;
        }
        at = end;
    }
    if have < bytes {
        return Err(ApiError::new(
            Code::Unavailable,
            format!(
                "the stream of bundle {} ended at {have} of {bytes} bytes; continue from there",
                bundle.short()
            ),
        ));
    }
    // Checks the digest, fsyncs file and directory: after this it survives a power cut (R2). Of an
    // object, reads it back.
    wrote(store.finish(&bundle, bytes).map(|()| 0)).map(drop)
}

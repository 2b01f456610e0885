//! Writes one bundle to this node's disk: pieces in, digest checked, fsynced, then acknowledged.

use futures::StreamExt;
use proto::ApiError;
use proto_types::{BundleId, Code};
use storage::bundles::BundleStore;
use storage::ledger::{BundleRow, UploadClaim};
use tokio::sync::mpsc;

use super::{Keeper, Pieces, Upload, ledger_error, lock, store_error};
use crate::telemetry;
use bytes::Bytes;

/// Pieces between network and disk: 8 MiB, enough to hide one slow write.
const PIECES_IN_FLIGHT: usize = 8;

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
        self.done
            .await
            .unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "the disk writer panicked")))
    }

    /// Waits until what was handed over is written, and leaves it for a later continuation.
    pub(super) async fn abandon(self) {
        // The writer sees too few bytes and keeps the partial; its error is what is expected.
        let _ = self.finish().await;
    }
}

impl Keeper {
    /// Begins to write a bundle at `offset`; the bytes before are here already.
    pub(super) fn begin_local(&self, bundle: BundleId, bytes: u64, offset: u64) -> LocalCopy {
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (report, done) = tokio::sync::oneshot::channel();
        let store = self.inner.store.clone();
        self.inner.env.spawn.blocking(
            "write-bundle",
            Box::new(move || {
                // Nobody waits any more when the request was cancelled; the partial stays.
                let _ = report.send(write(&*store, bundle, bytes, offset, receiver));
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
            let copy = self.begin_local(upload.bundle, upload.bytes, upload.offset);
            while let Some(piece) = pieces.next().await {
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
            self.stored(upload.bundle, upload.bytes, "upload").await?;
        }
        drop(receiving);
        self.acknowledge(upload.lease, &[upload.bundle]).await.map(drop)
    }

    /// Notes in the ledger for which upload a bundle is being written, before its first byte is,
    /// so that what an ended upload left behind is found again.
    pub(super) async fn note_claim(&self, upload: Upload) -> Result<(), ApiError> {
        self.blocking("note-claim", move |inner| {
            let claim =
                UploadClaim { lease: upload.lease, bundle: upload.bundle, bytes: upload.offset };
            inner.ledger.put_claim(claim).map_err(ledger_error)
        })
        .await
    }

    /// Notes that a bundle is here, whole.
    pub(super) async fn stored(
        &self,
        bundle: BundleId,
        bytes: u64,
        way: &'static str,
    ) -> Result<(), ApiError> {
        let now = self.inner.env.clock.now();
        self.blocking("note-stored", move |inner| {
            let row = BundleRow { bytes, last_scrubbed: Some(now) };
            inner.ledger.put_bundle(&bundle, row).map_err(ledger_error)
        })
        .await?;
        let elapsed = self.inner.env.clock.elapsed_millis();
        lock(&self.inner.verified).insert(bundle, elapsed);
        telemetry::bundle_stored(bundle, bytes, way);
        Ok(())
    }
}

fn write(
    store: &dyn BundleStore,
    bundle: BundleId,
    bytes: u64,
    offset: u64,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(), ApiError> {
    let mut have = store.begin(&bundle, bytes).map_err(store_error)?;
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
            store.write(&bundle, have, new).map_err(store_error)?;
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
    // Checks the digest, fsyncs file and directory: after this it survives a power cut (R2).
    store.finish(&bundle, bytes).map_err(store_error)
}

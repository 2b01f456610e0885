//! Streams bundles out: to clients, after this node has found its copy or the bucket's whole, and
//! to peers.

use std::sync::Arc;

use bytes::Bytes;
use proto::{ApiError, v1};
use proto_types::{BundleId, Code, LogIndex};
use storage::bundles::{BundleError, BundleStore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::durable::is_damage;
use super::{Inner, Keeper, chain, lock, store_error};
use crate::service::ReceiverStreamOf;
use crate::telemetry;

/// Bytes of one message.
const PIECE_BYTES: usize = 1 << 20;
/// Messages between disk and network.
const PIECES_IN_FLIGHT: usize = 4;
/// A copy found whole this long ago is served without being read twice. Short, so that rot is
/// found by whoever reads next; a client that opens a blob finds the rest by itself.
const VERIFIED_MS: u64 = 10_000;
/// So many of them are remembered before the old ones are forgotten.
const VERIFIED_MAX: usize = 1024;

impl Keeper {
    /// Streams a range of a bundle. A copy that is missing or damaged here is brought from a peer
    /// first (invariant B3).
    pub(crate) async fn read(
        self,
        bundle: BundleId,
        offset: u64,
        length: u64,
    ) -> Result<ReceiverStreamOf<v1::ReadBundleResponse>, ApiError> {
        let (total, object) = self.whole(bundle).await?;
        if offset > total {
            return Err(ApiError::new(
                Code::InvalidArgument,
                format!("offset {offset} is behind the bundle's end at {total}"),
            ));
        }
        let end = match length {
            0 => total,
            length => offset.saturating_add(length).min(total),
        };
        Ok(self.stream(bundle, object, (offset, end), move |data| v1::ReadBundleResponse {
            data,
            total_bytes: total,
        }))
    }

    /// Streams this node's copy to a peer that repairs its own. The peer checks the digest; a
    /// damaged copy is reported here, and not sent.
    pub(crate) async fn send_copy(
        self,
        bundle: BundleId,
    ) -> Result<ReceiverStreamOf<v1::FetchBundleResponse>, ApiError> {
        if !self.holds(bundle).await? || !self.verify(bundle).await? {
            self.wake();
            return Err(ApiError::new(
                Code::BundleNotFound,
                format!("node {} has no good copy of {}", self.inner.this, bundle.short()),
            ));
        }
        let total = self.length(bundle).await?;
        Ok(self.stream(bundle, None, (0, total), move |data| v1::FetchBundleResponse {
            data,
            total_bytes: total,
        }))
    }

    async fn length(&self, bundle: BundleId) -> Result<u64, ApiError> {
        self.blocking("read-length", move |inner| {
            inner
                .store
                .size(&bundle)
                .and_then(|size| size.ok_or(BundleError::NotFound { id: bundle }))
                .map_err(store_error)
        })
        .await
    }

    /// Makes sure that a whole copy is here or in the bucket, and gives its length and the
    /// generation of its object.
    async fn whole(&self, bundle: BundleId) -> Result<(u64, Option<LogIndex>), ApiError> {
        let now = self.inner.env.clock.elapsed_millis();
        let fresh = lock(&self.inner.verified)
            .get(&bundle)
            .is_some_and(|at| now.saturating_sub(*at) < VERIFIED_MS);
        let here = self.holds(bundle).await?;
        let state = self.inner.raft.local().state;
        let object = state.bundle(&bundle).and_then(|row| row.object);
        if !(here && (fresh || self.verify(bundle).await?)) {
            if let Some(generation) = object {
                return Ok((self.whole_object(bundle, generation).await?, object));
            }
            self.repair(bundle).await?;
        }
        Ok((self.length(bundle).await?, object))
    }

    /// Reads a bundle whole and compares its digest. A damaged one is set aside.
    pub(super) async fn verify(&self, bundle: BundleId) -> Result<bool, ApiError> {
        let damage = self
            .blocking("verify-bundle", move |inner| match inner.store.verify(&bundle) {
                Ok(()) => Ok(None),
                Err(error) if is_damage(&error) => inner.put_aside(bundle, &error),
                Err(error) => Err(store_error(error)),
            })
            .await?;
        match damage {
            None => {
                self.inner.remember_verified(bundle);
                Ok(true)
            }
            Some(error) => {
                lock(&self.inner.verified).remove(&bundle);
                telemetry::damage_on_read(bundle, &error);
                Ok(false)
            }
        }
    }

    fn stream<M: Send + 'static>(
        &self,
        bundle: BundleId,
        object: Option<LogIndex>,
        (offset, end): (u64, u64),
        message: impl Fn(Bytes) -> M + Send + 'static,
    ) -> ReceiverStreamOf<M> {
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let keeper = self.clone();
        // A task, and a blocking thread only for each read: a reader that does not read on holds
        // no thread, of which there are a few hundred for all the node's disk work.
        self.inner.env.spawn.task(
            "read-bundle",
            Box::pin(async move {
                let mut at = offset;
                // An empty range still tells the length.
                loop {
                    let length =
                        usize::try_from(end - at).map_or(PIECE_BYTES, |l| l.min(PIECE_BYTES));
                    let read = move |inner: &Arc<Inner>| {
                        match (inner.store.read_range(&bundle, at, length), object) {
                            // In the bucket, perhaps only since a moment ago.
                            (Err(BundleError::NotFound { .. }), Some(generation)) => {
                                let objects = inner.objects(generation)?;
                                objects.read_range(&bundle, at, length).map_err(store_error)
                            }
                            (read, _) => read.map_err(store_error),
                        }
                    };
                    let piece = keeper.blocking("read-piece", read).await;
                    let got = piece.as_ref().map_or(0, |p| p.len() as u64);
                    let last = got == 0 || at + got >= end;
                    telemetry::read_bytes(got);
                    let item = piece.map(|p| message(Bytes::from(p))).map_err(Status::from);
                    // A reader that has gone needs nothing more.
                    if sender.send(item).await.is_err() || last {
                        return;
                    }
                    at += got;
                }
            }),
        );
        ReceiverStream::new(receiver)
    }
}

impl Inner {
    /// Puts a copy aside that a read found bad, and says what was wrong; nothing if it is good
    /// after all: another reader may have had it repaired since, and the new copy must not go.
    fn put_aside(
        self: &Arc<Self>,
        bundle: BundleId,
        found: &BundleError,
    ) -> Result<Option<String>, ApiError> {
        // Being written anew this very moment: not good yet, and not ours to touch.
        let Ok(_writing) = self.receiving(bundle) else { return Ok(Some(chain(found))) };
        match self.store.verify(&bundle) {
            Ok(()) => Ok(None),
            Err(BundleError::NotFound { .. }) => Ok(Some(chain(found))),
            Err(error) if is_damage(&error) => {
                self.wrote(self.store.quarantine(&bundle))?;
                self.noted(self.ledger.remove_bundle(&bundle))?;
                Ok(Some(chain(&error)))
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Remembers for a while that a copy was found whole.
    pub(super) fn remember_verified(&self, bundle: BundleId) {
        let now = self.env.clock.elapsed_millis();
        let mut verified = lock(&self.verified);
        if verified.len() >= VERIFIED_MAX {
            verified.retain(|_, at| now.saturating_sub(*at) < VERIFIED_MS);
        }
        verified.insert(bundle, now);
    }
}

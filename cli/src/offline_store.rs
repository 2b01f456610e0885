//! A recovery point in the data directory of a coordinator that does not run, as the agent's
//! package reads points.

use std::sync::Arc;

use agent::export::ExportError;
use agent::point_store::{Offered, PointInfo, PointStore, StoreError};
use bytes::Bytes;
use coordinator::offline::Offline;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use proto::env::{BoxFuture, Env};
use proto_types::BundleId;

const CHUNK_BYTES: u64 = 1 << 20;

/// One complete point of an [`Offline`].
pub(crate) struct OfflinePointStore {
    offline: Arc<Offline>,
    info: PointInfo,
    env: Env,
}

impl OfflinePointStore {
    /// A point whose bundles were all found whole.
    pub(crate) const fn new(offline: Arc<Offline>, info: PointInfo, env: Env) -> Self {
        Self { offline, info, env }
    }
}

impl PointStore for OfflinePointStore {
    fn point(&self) -> &PointInfo {
        &self.info
    }

    fn offered_as(&self) -> Offered {
        // One coordinator alone cannot say what is the newest.
        Offered::Exactly
    }

    fn read(
        &self,
        bundle: BundleId,
        offset: u64,
        length: u64,
    ) -> BoxStream<'_, Result<Bytes, StoreError>> {
        let bytes = match self.info.bundle(bundle) {
            Ok(entry) => entry.bytes,
            Err(error) => return stream::once(async move { Err(error) }).boxed(),
        };
        let end = match length {
            0 => bytes,
            length => offset.saturating_add(length).min(bytes),
        };
        stream::try_unfold(offset, move |at| async move {
            if at >= end {
                return Ok(None);
            }
            let want = usize::try_from((end - at).min(CHUNK_BYTES)).unwrap_or_default();
            let offline = self.offline.clone();
            let read = self
                .env
                .blocking("read a bundle", move || offline.read(bundle, at, want))
                .await
                .map_err(ExportError::from)??;
            if read.is_empty() {
                // Cut since it was looked at.
                return Err(StoreError::Length {
                    id: bundle,
                    expected: end - offset,
                    found: at - offset,
                });
            }
            let next = at + read.len() as u64;
            Ok(Some((Bytes::from(read), next)))
        })
        .boxed()
    }

    fn suspect(&self, _bundle: BundleId) -> BoxFuture<'_, ()> {
        // There is no other copy.
        Box::pin(std::future::ready(()))
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

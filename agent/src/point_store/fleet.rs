//! A recovery point in the fleet, read under a lease from any coordinator. A stream that breaks
//! is continued at another coordinator where it stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use proto::ApiError;
use proto::env::BoxFuture;
use proto::fleet_client::FleetClient;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::{self, ReadPurpose};
use proto_types::{BundleId, ClusterId, Code, FleetId, SigningPublicKey};
use tonic::Streaming;

use super::{Offered, PointInfo, PointSelector, PointStore, StoreError};

/// A lease is renewed while there is reading; it ends with [`PointStore::end`], or so long after
/// a program was killed, or a person was asked and went away.
const LEASE_MILLIS: u64 = 4 * 60 * 60 * 1000;
/// A coordinator that sends nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Tries without a single byte before an error is final.
const FRUITLESS_TRIES_MAX: u32 = 20;
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// One point of one cluster, in the fleet.
pub struct FleetPointStore {
    client: Arc<FleetClient>,
    info: PointInfo,
    signing_key: SigningPublicKey,
    lease: Bytes,
    renew_every_millis: u64,
    /// When the lease was opened or last renewed, in elapsed time.
    renewed_millis: AtomicU64,
    ended: AtomicBool,
    offered_as: Offered,
}

impl FleetPointStore {
    /// Finds a point by a linearizable read and takes a read lease on what it needs.
    ///
    /// # Errors
    /// `CLUSTER_NOT_FOUND`, `POINT_NOT_FOUND`, or what a call to the fleet may end with.
    pub async fn open(
        client: Arc<FleetClient>,
        cluster: &str,
        selector: PointSelector,
        purpose: ReadPurpose,
    ) -> Result<Self, StoreError> {
        let response = get_point(&client, cluster, selector).await?;
        let missing =
            |what: &str| ApiError::new(Code::Internal, format!("the fleet's answer has no {what}"));
        let fleet = FleetId::from_slice(&response.fleet_id)?;
        let expected = client.fleet();
        if fleet != expected {
            return Err(ApiError::new(
                Code::WrongFleet,
                format!("the fleet answers as {fleet}, this certificate is of {expected}"),
            )
            .into());
        }
        if response.read.as_ref().is_some_and(|read| read.stale) {
            return Err(StoreError::Stale);
        }
        let about = response.cluster.ok_or_else(|| missing("cluster"))?;
        let info = PointInfo::from_wire(fleet, response.point.ok_or_else(|| missing("point"))?)?;
        if ClusterId::from_slice(&about.cluster_id)? != info.cluster {
            return Err(missing("point of the cluster it names").into());
        }
        if info.cluster_name != cluster || !selector.is_met_by(&info) {
            return Err(StoreError::OtherPoint {
                asked: format!("{cluster}, {selector:?}"),
                answered: format!("{}@{}", info.cluster_name, info.sequence),
            });
        }
        let request = v1::OpenReadLeaseRequest {
            write_id: Some(client.next_write_id()),
            cluster_name: cluster.to_owned(),
            sequence: info.sequence.get(),
            purpose: purpose.into(),
            ttl_ms: LEASE_MILLIS,
        };
        let taken_millis = client.env().clock.elapsed_millis();
        let lease = client
            .call("taking a read lease", |channel| {
                let request = request.clone();
                async move { CatalogClient::new(channel).open_read_lease(request).await }
            })
            .await?;
        Ok(Self {
            signing_key: SigningPublicKey::from_slice(&about.signing_key)?,
            client,
            info,
            lease: lease.lease_id,
            renew_every_millis: lease.ttl_ms / 3,
            renewed_millis: AtomicU64::new(taken_millis),
            ended: AtomicBool::new(false),
            offered_as: selector.offered_as(),
        })
    }

    /// The signing key that the fleet says the cluster has. A claim, until compared with a pin.
    #[must_use]
    pub const fn claimed_signing_key(&self) -> &SigningPublicKey {
        &self.signing_key
    }
}

impl FleetPointStore {
    /// Renews the lease when a third of its time is over.
    async fn keep_lease(&self) -> Result<(), ApiError> {
        let now = self.client.env().clock.elapsed_millis();
        let renewed = self.renewed_millis.load(Ordering::Relaxed);
        if now.saturating_sub(renewed) < self.renew_every_millis
            // Of several streams one renews.
            || self
                .renewed_millis
                .compare_exchange(renewed, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return Ok(());
        }
        let request = v1::RenewReadLeaseRequest {
            write_id: Some(self.client.next_write_id()),
            lease_id: self.lease.clone(),
        };
        self.client
            .call("renewing the read lease", |channel| {
                let request = request.clone();
                async move { CatalogClient::new(channel).renew_read_lease(request).await }
            })
            .await?;
        Ok(())
    }
}

async fn get_point(
    client: &FleetClient,
    cluster: &str,
    selector: PointSelector,
) -> Result<v1::GetPointResponse, ApiError> {
    use v1::get_point_request::Which;
    let request = v1::GetPointRequest {
        cluster_name: cluster.to_owned(),
        which: Some(match selector {
            PointSelector::Newest => Which::Newest(true),
            PointSelector::At(time) => Which::AtMs(time.as_millis()),
            PointSelector::Sequence(sequence) => Which::Sequence(sequence.get()),
        }),
        stale: false,
    };
    client
        .call("finding the recovery point", |channel| {
            let request = request.clone();
            async move { CatalogClient::new(channel).get_point(request).await }
        })
        .await
}

impl PointStore for FleetPointStore {
    fn point(&self) -> &PointInfo {
        &self.info
    }

    fn offered_as(&self) -> Offered {
        self.offered_as
    }

    fn read(
        &self,
        bundle: BundleId,
        offset: u64,
        length: u64,
    ) -> BoxStream<'_, Result<Bytes, StoreError>> {
        let end = (length > 0).then(|| offset.saturating_add(length));
        let state = Reading { store: self, bundle, offset, end, stream: None, fruitless: 0 };
        stream::try_unfold(state, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })
        .boxed()
    }

    fn suspect(&self, bundle: BundleId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.client.turn();
            // Read in full, a coordinator verifies its copy and repairs it from a peer.
            let mut stream = self.read(bundle, 0, 0);
            while let Some(chunk) = stream.next().await {
                if let Err(error) = chunk {
                    tracing::warn!(%bundle, %error, "a suspected bundle could not be read whole");
                    return;
                }
            }
        })
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.ended.swap(true, Ordering::Relaxed) {
                return;
            }
            let request = v1::EndReadLeaseRequest {
                write_id: Some(self.client.next_write_id()),
                lease_id: self.lease.clone(),
            };
            let ended = self
                .client
                .call("ending the read lease", |channel| {
                    let request = request.clone();
                    async move { CatalogClient::new(channel).end_read_lease(request).await }
                })
                .await;
            if let Err(error) = ended {
                // It ends by itself later; the bytes read are not worse for it.
                tracing::warn!(%error, "the read lease could not be ended");
            }
        })
    }
}

/// One read that survives broken streams.
struct Reading<'a> {
    store: &'a FleetPointStore,
    bundle: BundleId,
    offset: u64,
    /// Where to stop; of a read to the end it is known once the first message came.
    end: Option<u64>,
    stream: Option<Streaming<v1::ReadBundleResponse>>,
    fruitless: u32,
}

impl Reading<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.store.keep_lease().await?;
        while self.end.is_none_or(|end| self.offset < end) {
            match self.try_next().await {
                Ok(chunk) => {
                    self.fruitless = 0;
                    self.offset += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Err(error) if error.is_retryable() && self.fruitless < FRUITLESS_TRIES_MAX => {
                    tracing::debug!(bundle = %self.bundle, %error, "reading elsewhere");
                    self.fruitless += 1;
                    self.stream = None;
                    self.store.client.turn();
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Bytes, ApiError> {
        let silent = |_| ApiError::new(Code::DeadlineExceeded, "a coordinator went silent");
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let request = v1::ReadBundleRequest {
                    bundle_id: Bytes::copy_from_slice(self.bundle.as_bytes()),
                    offset: self.offset,
                    length: self.end.map_or(0, |end| end - self.offset),
                };
                let (channel, _) = self.store.client.channel();
                let mut client = CatalogClient::new(channel);
                let response = tokio::time::timeout(SILENCE_MAX, client.read_bundle(request))
                    .await
                    .map_err(silent)??;
                self.stream.insert(response.into_inner())
            }
        };
        let message =
            tokio::time::timeout(SILENCE_MAX, stream.message()).await.map_err(silent)??;
        let message = message.ok_or_else(|| {
            ApiError::new(Code::Unavailable, "a coordinator ended a bundle early")
        })?;
        let end = *self.end.get_or_insert(message.total_bytes);
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if message.data.len() > left {
            return Err(ApiError::new(Code::Damaged, "a coordinator sent more than was asked for"));
        }
        if message.data.is_empty() && left > 0 {
            // Taken for progress, it could go on for ever.
            return Err(ApiError::new(Code::Unavailable, "a coordinator sent an empty part"));
        }
        Ok(message.data)
    }
}

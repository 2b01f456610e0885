//! Reading recovery points and their sealed bytes.

use coordinator_core::{Command, EndReadLease, OpenReadLease, Outcome, PointRow, RenewLease};
use proto::v1::catalog_server::Catalog;
use proto::{ApiError, v1};
use proto_types::{Code, LeaseId, LogIndex, LogTime, Sequence};
use tonic::{Request, Response, Status};

use super::fleet::cluster_by_name;
use super::{ReceiverStreamOf, Shared, convert};
use crate::auth::Caller;
use crate::raft::Published;

/// The `Catalog` service.
pub(crate) struct CatalogService(pub(crate) Shared);

fn no_point(cluster: &str, what: &str) -> ApiError {
    ApiError::new(
        Code::PointNotFound,
        format!(
            "cluster {cluster:?} has no recovery point {what}; `strongroom backup list` shows \
             those there are"
        ),
    )
}

fn page_size(asked: u64) -> usize {
    /// A point without its bundles is some 400 bytes.
    const MOST: usize = 1000;
    match usize::try_from(asked) {
        Ok(0) | Err(_) => MOST,
        Ok(asked) => asked.min(MOST),
    }
}

/// A page's token is the place of the last point before it.
fn page_token(token: &str) -> Result<Option<(u32, LogIndex)>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = token.split_once('.').and_then(|(generation, index)| {
        Some((generation.parse().ok()?, index.parse().map(LogIndex::new).ok()?))
    });
    place.map(Some).ok_or_else(|| {
        convert::invalid("page_token: give the next_page_token of the page before, unchanged")
    })
}

fn find<'a>(
    view: &'a Published,
    cluster: &coordinator_core::Cluster,
    which: &v1::get_point_request::Which,
) -> Result<&'a PointRow, ApiError> {
    use v1::get_point_request::Which;
    let state = &view.state;
    match which {
        Which::Sequence(sequence) => state
            .point(&cluster.id, Sequence::new(*sequence))
            .ok_or_else(|| no_point(&cluster.name, &format!("with number {sequence}"))),
        Which::AtMs(at) => state
            .point_at(&cluster.id, LogTime::from_millis(*at))
            .ok_or_else(|| no_point(&cluster.name, "at or before that time")),
        Which::Newest(_) => state
            .point(&cluster.id, cluster.head.sequence)
            .ok_or_else(|| no_point(&cluster.name, "yet")),
    }
}

impl CatalogService {
    async fn list(
        &self,
        caller: &Caller,
        message: v1::ListPointsRequest,
    ) -> Result<v1::ListPointsResponse, ApiError> {
        let view = self.0.view(message.stale).await?;
        let state = &view.state;
        let clusters: Vec<_> = if message.cluster_name.is_empty() {
            let only = caller.restricted_to();
            state.clusters().filter(|c| only.is_none_or(|id| id == c.id)).collect()
        } else {
            vec![cluster_by_name(&view, &message.cluster_name)?]
        };
        let before = page_token(&message.page_token)?;
        let mut rows = Vec::new();
        for cluster in clusters {
            caller.reader_of(cluster.id)?;
            let older =
                state.points(&cluster.id).filter(|row| before.is_none_or(|b| row.place() < b));
            rows.extend(older.map(|row| (row, cluster)));
        }
        // The order of commits, over restores of the fleet as well.
        rows.sort_unstable_by_key(|(row, _)| std::cmp::Reverse(row.place()));
        let more = rows.len() > page_size(message.page_size);
        rows.truncate(page_size(message.page_size));
        let next_page_token = match rows.last() {
            Some((last, _)) if more => format!("{}.{}", last.generation, last.index),
            Some(_) | None => String::new(),
        };
        Ok(v1::ListPointsResponse {
            read: Some(self.0.read_info(&view, message.stale)),
            points: rows
                .into_iter()
                .map(|(row, cluster)| convert::point(state, row, cluster))
                .collect(),
            next_page_token,
        })
    }

    async fn get(
        &self,
        caller: &Caller,
        message: v1::GetPointRequest,
    ) -> Result<v1::GetPointResponse, ApiError> {
        let view = self.0.view(message.stale).await?;
        let cluster = cluster_by_name(&view, &message.cluster_name)?;
        caller.reader_of(cluster.id)?;
        let which = message.which.ok_or_else(|| {
            convert::invalid("which point: give a number, a time, or ask for the newest")
        })?;
        let row = find(&view, cluster, &which)?;
        Ok(v1::GetPointResponse {
            read: Some(self.0.read_info(&view, message.stale)),
            point: Some(convert::point_with_bundles(&view.state, row, cluster)),
            cluster: Some(convert::cluster(cluster)),
            fleet_id: convert::bytes_of(self.0.config.fleet.id.as_bytes()),
        })
    }

    async fn open_lease(
        &self,
        caller: &Caller,
        message: v1::OpenReadLeaseRequest,
    ) -> Result<v1::OpenReadLeaseResponse, ApiError> {
        let view = self.0.view(false).await?;
        let cluster = cluster_by_name(&view, &message.cluster_name)?;
        caller.reader_of(cluster.id)?;
        let command = Command::OpenReadLease(OpenReadLease {
            lease: LeaseId::random(&*self.0.env.random),
            cluster: cluster.id,
            sequence: Sequence::new(message.sequence),
            purpose: convert::purpose(message.purpose())?,
            ttl_ms: message.ttl_ms,
        });
        match self.0.write(message.write_id.as_ref(), command).await? {
            Outcome::ReadOpened { lease, .. } => {
                let lease_id = convert::bytes_of(lease.as_bytes());
                Ok(v1::OpenReadLeaseResponse { lease_id, ttl_ms: message.ttl_ms })
            }
            outcome => Err(super::unexpected(&outcome)),
        }
    }

    async fn renew_lease(
        &self,
        caller: &Caller,
        message: v1::RenewReadLeaseRequest,
    ) -> Result<v1::RenewReadLeaseResponse, ApiError> {
        let lease = convert::lease_id(&message.lease_id, "lease_id")?;
        let view = self.0.view(false).await?;
        let row = view.state.read(&lease).ok_or_else(|| {
            ApiError::new(
                Code::LeaseGone,
                format!("read lease {} is over or never was: take a new one", lease.short()),
            )
        })?;
        caller.reader_of(row.cluster)?;
        let command = Command::RenewLease(RenewLease { lease });
        self.0.write(message.write_id.as_ref(), command).await?;
        Ok(v1::RenewReadLeaseResponse {})
    }

    async fn end_lease(
        &self,
        caller: &Caller,
        message: v1::EndReadLeaseRequest,
    ) -> Result<v1::EndReadLeaseResponse, ApiError> {
        let lease = convert::lease_id(&message.lease_id, "lease_id")?;
        // An ended lease is gone from the state; ending it again is no harm.
        if let Some(row) = self.0.view(false).await?.state.read(&lease) {
            caller.reader_of(row.cluster)?;
            let command = Command::EndReadLease(EndReadLease { lease });
            self.0.write(message.write_id.as_ref(), command).await?;
        }
        Ok(v1::EndReadLeaseResponse {})
    }
}

#[tonic::async_trait]
impl Catalog for CatalogService {
    async fn list_points(
        &self,
        request: Request<v1::ListPointsRequest>,
    ) -> Result<Response<v1::ListPointsResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.list(&caller, request.into_inner()).await
        };
        self.0.answer("ListPoints", work).await
    }

    async fn get_point(
        &self,
        request: Request<v1::GetPointRequest>,
    ) -> Result<Response<v1::GetPointResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.get(&caller, request.into_inner()).await
        };
        self.0.answer("GetPoint", work).await
    }

    async fn open_read_lease(
        &self,
        request: Request<v1::OpenReadLeaseRequest>,
    ) -> Result<Response<v1::OpenReadLeaseResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.open_lease(&caller, request.into_inner()).await
        };
        self.0.answer("OpenReadLease", work).await
    }

    async fn renew_read_lease(
        &self,
        request: Request<v1::RenewReadLeaseRequest>,
    ) -> Result<Response<v1::RenewReadLeaseResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.renew_lease(&caller, request.into_inner()).await
        };
        self.0.answer("RenewReadLease", work).await
    }

    async fn end_read_lease(
        &self,
        request: Request<v1::EndReadLeaseRequest>,
    ) -> Result<Response<v1::EndReadLeaseResponse>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            self.end_lease(&caller, request.into_inner()).await
        };
        self.0.answer("EndReadLease", work).await
    }

    type ReadBundleStream = ReceiverStreamOf<v1::ReadBundleResponse>;

    async fn read_bundle(
        &self,
        request: Request<v1::ReadBundleRequest>,
    ) -> Result<Response<Self::ReadBundleStream>, Status> {
        let work = async {
            let caller = self.0.caller(&request)?;
            let message = request.into_inner();
            let id = convert::bundle_id(&message.bundle_id, "bundle_id")?;
            // Linearizable, so that a bundle committed a moment ago elsewhere is known here.
            let view = self.0.view(false).await?;
            let Some(row) = view.state.bundle(&id) else {
                return Err(ApiError::new(
                    Code::BundleNotFound,
                    format!("no recovery point needs bundle {}", id.short()),
                ));
            };
            caller.reader_of(row.facts.cluster)?;
            self.0.record_read(row.facts.cluster).await?;
            self.0.keeper.clone().read(id, message.offset, message.length).await
        };
        self.0.answer("ReadBundle", work).await
    }
}

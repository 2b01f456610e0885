//! A revocation takes effect on what is open: a call or stream of a party whose certificate becomes
//! void while it lasts ends then, whatever its handler does. New calls are refused where callers are
//! authenticated (`Shared::caller`), so that they are recorded.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use coordinator_core::{PartyId, Refusal};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http_body::Frame;
use proto::ApiError;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};

use crate::auth::Caller;
use crate::raft::RaftNode;

/// What such a call is told.
pub(crate) fn void() -> ApiError {
    let refusal = Refusal::CertificateVoid;
    ApiError::new(refusal.code(), refusal.to_string())
}

/// A service whose calls end when their caller is revoked.
#[derive(Clone)]
pub(crate) struct Revocable<S> {
    inner: S,
    raft: RaftNode,
}

impl<S> Revocable<S> {
    pub(crate) const fn new(inner: S, raft: RaftNode) -> Self {
        Self { inner, raft }
    }
}

impl<S: NamedService> NamedService for Revocable<S> {
    const NAME: &'static str = S::NAME;
}

/// Resolves when the caller's certificate is void.
type Gone = Shared<BoxFuture<'static, ()>>;

fn gone(request: &http::Request<Body>, raft: &RaftNode) -> Option<Gone> {
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let certificates = connection.peer_certs()?;
    let (party, generation) = Caller::party_of(certificates.first()?)?;
    // A coordinator that is removed hears so from its peers, and goes by itself.
    if matches!(party, PartyId::Coordinator(_)) {
        return None;
    }
    let mut published = raft.watch();
    // Who comes too late is refused where it is recorded.
    if published.borrow().state.is_void(&party, generation) {
        return None;
    }
    let gone = async move {
        let void = published.wait_for(|view| view.state.is_void(&party, generation)).await.is_ok();
        if !void {
            // The coordinator ends, and cuts its calls itself.
            std::future::pending::<()>().await;
        }
        tracing::info!(event = "revoked_cut", party = ?party, "a call of a revoked party was cut off");
    };
    Some(gone.boxed().shared())
}

impl<S> Service<http::Request<Body>> for Revocable<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(gone) = gone(&request, &self.raft) else {
            return self.inner.call(request).boxed();
        };
        let request = request.map(|body| Body::new(Until::incoming(body, gone.clone())));
        let answering = self.inner.call(request);
        async move {
            tokio::select! {
                biased;
                answer = answering => {
                    answer.map(|answer| answer.map(|body| Body::new(Until::outgoing(body, gone))))
                }
                () = gone.clone() => Ok(Status::from(void()).into_http()),
            }
        }
        .boxed()
    }
}

/// A body that ends when the caller is revoked.
struct Until {
    body: Body,
    gone: Gone,
    is_outgoing: bool,
    is_over: bool,
}

impl Until {
    const fn incoming(body: Body, gone: Gone) -> Self {
        Self { body, gone, is_outgoing: false, is_over: false }
    }

    const fn outgoing(body: Body, gone: Gone) -> Self {
        Self { body, gone, is_outgoing: true, is_over: false }
    }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.gone.poll_unpin(cx).is_pending() {
            return Pin::new(&mut self.body).poll_frame(cx);
        }
        self.is_over = true;
        let status = Status::from(void());
        if !self.is_outgoing {
            return Poll::Ready(Some(Err(status)));
        }
        // A stream's status stands behind its messages.
        let mut trailers = http::HeaderMap::new();
        let written = status.add_header(&mut trailers);
        Poll::Ready(Some(match written {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(error) => Err(Status::new(Code::Unauthenticated, error.to_string())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

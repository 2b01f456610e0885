//! Accepts connections with TLS under a certificate that may be renewed meanwhile: each handshake
//! shows the newest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::env::Connection;

/// For the handshake: who connects and says nothing holds no socket for longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at one time. Less would let a few who say nothing keep everybody out; what bounds them
/// is the number of sockets.
const HANDSHAKES: usize = 1 << 16;

/// The connections whose handshake succeeded.
pub fn secured(
    connections: impl Stream<Item = io::Result<Connection>> + Send,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> + Send {
    let acceptor = TlsAcceptor::from(config);
    connections
        .map(move |connection| {
            let acceptor = acceptor.clone();
            async move {
                let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(connection?));
                accepted.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
        })
        .buffer_unordered(HANDSHAKES)
        .filter_map(|handshake| async move {
            handshake
                .inspect_err(|error| tracing::debug!(%error, "a handshake failed"))
                .ok()
                .map(Ok)
        })
}

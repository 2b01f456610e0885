//! Channels to coordinators over the network that was handed in, with deadlines of our own: a
//! connection that is accepted and then silent is the usual failure.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};
use tower::service_fn;

use crate::env::{Connection, Net};
use crate::error::ApiError;
use proto_types::Code;

/// Deadlines of a channel.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// How often a silent connection is asked for a sign of life.
    pub keep_alive_interval: Duration,
    /// How long it may take to give one.
    pub keep_alive_timeout: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// A channel that connects when first used, and again when it broke.
///
/// # Errors
/// When the TLS material is not valid.
pub fn lazy_channel(
    net: Arc<dyn Net>,
    address: &str,
    tls: ClientTlsConfig,
    deadlines: Deadlines,
) -> Result<Channel, ApiError> {
    let endpoint = endpoint(tls, deadlines)?;
    let address = address.to_owned();
    let connector = service_fn(move |_: Uri| {
        let (net, address) = (net.clone(), address.clone());
        async move {
            net.connect(&address).await.map(TokioIo::new).map_err(|error| {
                std::io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
            })
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn endpoint(tls: ClientTlsConfig, deadlines: Deadlines) -> Result<Endpoint, ApiError> {
    // The address is the connector's business; the URI only has to say https.
    Endpoint::from_static("https://coordinator")
        .connect_timeout(deadlines.connect)
        .http2_keep_alive_interval(deadlines.keep_alive_interval)
        .keep_alive_timeout(deadlines.keep_alive_timeout)
        .keep_alive_while_idle(true)
        // One megabyte messages at full speed need more than HTTP/2's 64 KiB window.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .tls_config(tls)
        .map_err(|error| {
            ApiError::new(
                Code::Unauthenticated,
                format!("certificate, key or CA cannot be used: {error}; are they PEM files?"),
            )
        })
}

/// A channel to an agent's local socket.
///
/// # Errors
/// `UNAVAILABLE` when nobody listens there.
pub async fn unix_channel(path: &std::path::Path) -> Result<Channel, ApiError> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    Endpoint::from_static("http://agent")
        .connect_with_connector(service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(TokioIo::new(Connection::new(stream, None, None)))
            }
        }))
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            ApiError::new(
                Code::Unavailable,
                format!(
                    "no agent answers at {shown} ({}): start it with `strongroom agent run`, or \
                     give its socket with --socket",
                    cause.unwrap_or_else(|| error.to_string())
                ),
            )
        })
}

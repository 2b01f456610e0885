//! Channels to coordinators over the network that was handed in, with deadlines of our own: a
//! connection that is accepted and then silent is the usual failure.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::env::{Connection, Net};
use crate::error::ApiError;
use crate::tls::ClientTls;
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
#[must_use]
pub fn lazy_channel(
    net: Arc<dyn Net>,
    address: &str,
    tls: ClientTls,
    deadlines: Deadlines,
) -> Channel {
    channel_to_any(net, vec![address.to_owned()], tls, deadlines)
}

/// [`lazy_channel`] to the first of these addresses that answers.
#[must_use]
pub fn channel_to_any(
    net: Arc<dyn Net>,
    addresses: Vec<String>,
    tls: ClientTls,
    deadlines: Deadlines,
) -> Channel {
    let addresses: Arc<[String]> = addresses.into();
    let connector = service_fn(move |_: Uri| {
        let (net, addresses, tls) = (net.clone(), addresses.clone(), tls.clone());
        // One that hangs leaves the others their share of the time.
        let share = deadlines.connect / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        async move {
            let mut last = std::io::Error::other("there is no address to connect to");
            for address in addresses.iter() {
                let connecting = connect(&*net, address, tls.clone());
                match tokio::time::timeout(share, connecting).await {
                    Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                    Ok(Err(error)) => last = error,
                    Err(_) => {
                        let what = format!("{address} did not answer in {share:?}");
                        last = std::io::Error::new(std::io::ErrorKind::TimedOut, what);
                    }
                }
            }
            Err(last)
        }
    });
    // Address and TLS are the connector's business: tonic wraps nothing around an http URI.
    Endpoint::from_static("http://coordinator")
        .connect_timeout(deadlines.connect)
        .http2_keep_alive_interval(deadlines.keep_alive_interval)
        .keep_alive_timeout(deadlines.keep_alive_timeout)
        .keep_alive_while_idle(true)
        // One megabyte messages at full speed need more than HTTP/2's 64 KiB window.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_with_connector_lazy(connector)
}

async fn connect(
    net: &dyn Net,
    address: &str,
    tls: ClientTls,
) -> std::io::Result<BufReader<TlsStream<Connection>>> {
    let connection = net.connect(address).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
    })?;
    secured(connection, tls).await
}

/// The handshake, and the server's first word after it. With TLS 1.3 a client is done before the
/// server has looked at its certificate: only what comes next, HTTP/2's settings or an alert,
/// tells whether it was accepted. Waited for here, a refusal has its reason; later it would be
/// a connection that broke.
async fn secured(
    connection: Connection,
    tls: ClientTls,
) -> std::io::Result<BufReader<TlsStream<Connection>>> {
    /// Holds the settings; larger reads go past the buffer.
    const FIRST_WORD_BYTES: usize = 256;
    let stream = TlsConnector::from(tls.config).connect(tls.server, connection).await?;
    let mut stream = BufReader::with_capacity(FIRST_WORD_BYTES, stream);
    if stream.fill_buf().await?.is_empty() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the coordinator closed the connection before it said a word",
        ));
    }
    Ok(stream)
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

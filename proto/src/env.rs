//! The environment of a running program that is handed in, so that a simulation can replace it:
//! network, tasks and blocking work here, clock and randomness in `proto_types::env`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto_types::env::{Clock, Random, SystemClock, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A boxed future that may cross threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a program takes from outside, cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Wall clock and elapsed time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Tasks.
    pub spawn: Arc<dyn Spawn>,
}

impl Env {
    /// The operating system's environment.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            net: Arc::new(TcpNet),
            spawn: Arc::new(TokioSpawn),
        }
    }

    /// Runs blocking work off the async threads and waits for its result.
    ///
    /// # Errors
    /// When the work panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingPanicked> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.spawn.blocking(
            name,
            Box::new(move || {
                // The caller may have gone; its work is done all the same.
                let _ = sender.send(work());
            }),
        );
        receiver.await.map_err(|_| BlockingPanicked { name })
    }
}

/// Blocking work ended by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the work {name} panicked")]
pub struct BlockingPanicked {
    /// Name of the work.
    pub name: &'static str,
}

/// Starts tasks and blocking work.
pub trait Spawn: Send + Sync + 'static {
    /// Runs a future to its end.
    fn task(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Runs blocking work where it disturbs no task.
    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>);
}

/// Tokio's tasks and blocking threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioSpawn;

impl Spawn for TokioSpawn {
    fn task(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }
    fn blocking(&self, _name: &'static str, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

/// Opens sockets.
pub trait Net: Send + Sync + 'static {
    /// Connects to `host:port`.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>>;
    /// Listens on `host:port`; port 0 takes a free one.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// A listening socket.
pub trait Listener: Send + Sync + 'static {
    /// The address it listens on.
    ///
    /// # Errors
    /// When the socket is gone.
    fn local_address(&self) -> io::Result<SocketAddr>;
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>>;
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One byte stream, of whatever network was handed in.
pub struct Connection {
    io: Box<dyn Io>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
}

impl Connection {
    /// Wraps a byte stream with the addresses of its ends, where it has any.
    pub fn new(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> Self {
        Self { io: Box::new(io), local, remote }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = tonic::transport::server::TcpConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        tonic::transport::server::TcpConnectInfo {
            local_addr: self.local,
            remote_addr: self.remote,
        }
    }
}

/// The operating system's TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
            Ok(Connection::new(stream, local, remote))
        })
    }
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            Ok(Box::new(TcpListener(listener)) as Box<dyn Listener>)
        })
    }
}

struct TcpListener(tokio::net::TcpListener);

impl Listener for TcpListener {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let (stream, remote) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            let local = stream.local_addr().ok();
            Ok(Connection::new(stream, local, Some(remote)))
        })
    }
}

/// The stream of connections that tonic serves. A failed accept ends nothing: the peer may have
/// gone before it was answered, and a process out of file descriptors gets some back.
pub fn incoming(
    listener: Box<dyn Listener>,
) -> impl futures::Stream<Item = io::Result<Connection>> + Send {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    futures::stream::unfold(listener, |mut listener| async move {
        loop {
            match listener.accept().await {
                Ok(connection) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

//! A network path that can fall silent: bytes are swallowed, nothing is closed, as when a firewall
//! forgets a connection or a cable is pulled. What was open then stays silent for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ports::Port;

/// Forwards connections to one address. Ends with the test's runtime.
pub struct Proxy {
    port: Port,
    state: Arc<State>,
}

struct State {
    to: String,
    is_silent: AtomicBool,
    accepted: AtomicUsize,
}

impl Proxy {
    /// One in front of `to`.
    ///
    /// # Panics
    /// When its port is taken.
    pub async fn before(to: &str) -> Self {
        let port = Port::reserve();
        let listener = TcpListener::bind(port.address()).await.expect("a reserved port is free");
        let state = Arc::new(State {
            to: to.to_owned(),
            is_silent: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        });
        let for_task = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                for_task.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(client, for_task.clone()));
            }
        });
        Self { port, state }
    }

    /// `host:port` to connect to.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Swallows everything from now on, also what new connections send.
    pub fn fall_silent(&self) {
        self.state.is_silent.store(true, Ordering::SeqCst);
    }

    /// Forwards new connections again; those that were silent stay so.
    pub fn recover(&self) {
        self.state.is_silent.store(false, Ordering::SeqCst);
    }

    /// Connections taken so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let silent = Arc::new(AtomicBool::new(state.is_silent.load(Ordering::SeqCst)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = if silent.load(Ordering::SeqCst) {
        (None, None)
    } else {
        let Ok(server) = TcpStream::connect(&state.to).await else { return };
        let (read, write) = server.into_split();
        (Some(read), Some(write))
    };
    let up = pump(from_client, to_server, silent.clone(), state.clone());
    match from_server {
        Some(from_server) => {
            let down = pump(from_server, Some(to_client), silent, state);
            tokio::join!(up, down);
        }
        None => {
            up.await;
            drop(to_client);
        }
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: Option<tokio::net::tcp::OwnedWriteHalf>,
    silent: Arc<AtomicBool>,
    state: Arc<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.is_silent.load(Ordering::SeqCst) {
            silent.store(true, Ordering::SeqCst);
        }
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(to) = &mut to
            && to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
    // The other half is closed only of a connection that was never silent.
    if silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

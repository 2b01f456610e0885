//! The running agent: keys, session and local socket, from start to graceful stop. It keeps
//! trying while the fleet is out of reach, and stops by itself only for what will not pass: a
//! newer agent of the same cluster, or keys and certificates that do not fit.

use std::path::PathBuf;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use proto::ApiError;
use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::renewal;
use proto::v1::local_agent_server::LocalAgentServer;
use proto_types::Code;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupError, Engine};
use crate::config::Config;
use crate::home::{Home, HomeError, load_recovery_public};
use crate::local::{self, Local, SocketError};

const SESSION_DELAY_MIN: Duration = Duration::from_millis(500);
const SESSION_DELAY_MAX: Duration = Duration::from_secs(30);

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its directory or a key file.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Certificates, or the addresses of coordinators.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Serving the local socket ended.
    #[error("serving the local socket {} ended: {source}", crate::shown::path(path))]
    Serve {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It may not go on.
    #[error("the agent stops: {0}")]
    Fatal(#[source] BackupError),
}

impl AgentError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Home(error) => error.code(),
            Self::Api(error) => error.code(),
            Self::Socket(error) => crate::home::io_code(&error.source),
            Self::Serve { .. } => Code::LocalIo,
            Self::Fatal(error) => error.code(),
        }
    }
}

/// Runs an agent until `shutdown`. A backup that runs then is interrupted: nothing of it counts.
///
/// # Errors
/// When keys, certificates, directory or socket cannot be used, or the fleet refuses this agent
/// for good.
pub async fn run(config: Config, env: Env, shutdown: CancellationToken) -> Result<(), AgentError> {
    let home = Home::open(&config.state_dir, &*env.random)?;
    let recovery = load_recovery_public(&config.recovery_key)?;
    let tls = config.tls.load()?;
    let policy = RetryPolicy::default();
    let client = FleetClient::new(env.clone(), config.coordinators.clone(), &tls, policy)?;
    let files = config.tls.clone();
    let renewing = {
        let (env, client) = (env.clone(), client.clone());
        async move {
            let ask = |request| renewal::ask(&client, request);
            renewal::keep(&env, &files, &tls, ask).await;
        }
    };
    let socket = config.socket.clone();
    let cluster = config.cluster.clone();
    let engine =
        Engine::new(config, env.clone(), home, client, recovery).map_err(AgentError::Fatal)?;
    let listener = local::listen(&socket)?;

    let stop = shutdown.child_token();
    let (fatal, mut fatals) = mpsc::channel(1);
    let service = Local::new(cluster.clone(), env, engine, stop.clone(), fatal);
    tracing::info!(cluster, socket = %socket.display(), "agent_ready");
    let serving = tonic::transport::Server::builder()
        .add_service(LocalAgentServer::new(service.clone()))
        .serve_with_incoming_shutdown(local::incoming(listener), stop.clone().cancelled_owned());
    let watching = async {
        let ended = tokio::select! {
            result = keep_session(&service) => result.map_err(AgentError::Fatal),
            Some(error) = fatals.recv() => Err(AgentError::Fatal(error)),
            () = renewing => Ok(()),
            () = stop.cancelled() => Ok(()),
        };
        // An agent that may not go on stops serving too.
        stop.cancel();
        ended
    };
    let (served, watched) = futures::join!(serving, watching);
    service.close().await;
    // Only the name: the next agent replaces what is left of a socket.
    let _ = std::fs::remove_file(&socket);
    tracing::info!("agent_stopped");
    watched?;
    served.map_err(|source| AgentError::Serve { path: socket, source })
}

/// Opens the session once the fleet can be reached; later failures are each backup's to mend.
async fn keep_session(service: &Local) -> Result<(), BackupError> {
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(SESSION_DELAY_MIN)
        .with_max_delay(SESSION_DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match service.ensure_session().await {
            Ok(()) => return std::future::pending().await,
            Err(error) if !error.code().is_retryable() => return Err(error),
            Err(error) => {
                tracing::warn!(code = %error.code(), %error, "the fleet is out of reach");
                tokio::time::sleep(delays.next().unwrap_or(SESSION_DELAY_MAX)).await;
            }
        }
    }
}

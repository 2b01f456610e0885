//! The agent's own socket on its machine: `backup now` with its progress, and what the agent is
//! doing. Open to the user that runs the agent and to nobody else; one backup at a time.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use futures::stream;
use proto::ApiError;
use proto::env::{BoxFuture, Connection, Env};
use proto::v1;
use proto::v1::local_agent_server::LocalAgent;
use proto_types::Code;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::backup::{BackupError, BackupRequest, Engine, EngineStatus};
use crate::progress::{NoProgress, Phase, Progress, ProgressEvent};

/// Events between a backup and a listener that may be slow; what does not fit is dropped, for
/// progress is information only. The last message has a place of its own.
const EVENTS_MAX: usize = 16;
/// Progress is told at most so often.
const EVENT_INTERVAL_MILLIS: u64 = 50;

/// What the agent is doing, for whoever asks.
#[derive(Default)]
struct State {
    engine: EngineStatus,
    last_error: String,
    busy: bool,
}

/// The service and the one engine behind it.
#[derive(Clone)]
pub(crate) struct Local {
    cluster: String,
    env: Env,
    engine: Arc<tokio::sync::Mutex<Engine>>,
    status: Arc<Mutex<State>>,
    /// Ends running backups and streams.
    stop: CancellationToken,
    /// Errors after which the agent must not go on.
    fatal: mpsc::Sender<BackupError>,
}

impl Local {
    pub(crate) fn new(
        cluster: String,
        env: Env,
        engine: Engine,
        stop: CancellationToken,
        fatal: mpsc::Sender<BackupError>,
    ) -> Self {
        Self {
            cluster,
            env,
            engine: Arc::new(tokio::sync::Mutex::new(engine)),
            status: Arc::default(),
            stop,
            fatal,
        }
    }

    /// Opens the session with the fleet. An error that may pass is for the caller to try again.
    pub(crate) async fn ensure_session(&self) -> Result<(), BackupError> {
        let mut engine = self.engine.lock().await;
        let result = engine.ensure_session().await;
        self.note(|status| {
            status.engine = engine.status();
            status.last_error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        });
        result
    }

    /// Backs up what changed in followed clusters.
    pub(crate) async fn back_up_changes(&self) -> Result<(), BackupError> {
        let mut engine = self.engine.lock().await;
        let request = BackupRequest { changes_only: true, ..BackupRequest::default() };
        self.back_up(&mut engine, request, Arc::new(NoProgress)).await.map(drop)
    }

    /// Ends the engine well, once its backup has ended.
    pub(crate) async fn close(&self) {
        self.engine.lock().await.close().await;
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One backup, to its end or to the end of the agent.
    async fn back_up(
        &self,
        engine: &mut Engine,
        request: BackupRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<v1::Point, BackupError> {
        self.note(|status| status.busy = true);
        let result = tokio::select! {
            result = engine.run(request, progress) => result,
            () = self.stop.cancelled() => Err(BackupError::Interrupted),
        };
        self.note(|status| {
            status.busy = false;
            status.engine = engine.status();
            status.last_error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        });
        crate::telemetry::backup_ended(&result);
        result
    }
}

type ProgressStream =
    std::pin::Pin<Box<dyn Stream<Item = Result<v1::BackupProgress, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl LocalAgent for Local {
    type BackupNowStream = ProgressStream;

    async fn backup_now(
        &self,
        request: Request<v1::BackupNowRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let request = request.into_inner();
        let Ok(mut engine) = self.engine.clone().try_lock_owned() else {
            return Err(ApiError::new(
                Code::Busy,
                "a backup is running, or the session is being opened: try again when it is done",
            )
            .into());
        };
        let (events, listener) = mpsc::channel(EVENTS_MAX);
        let (last, end) = tokio::sync::oneshot::channel();
        let request = BackupRequest {
            limit_bytes_per_second: request.limit_bytes_per_second,
            full: request.full,
            changes_only: false,
        };
        let progress =
            Arc::new(Teller { events, env: self.env.clone(), told: Mutex::new((0, Phase::Done)) });
        let local = self.clone();
        // A task of its own: a backup goes on when whoever asked for it has gone.
        let backup: BoxFuture<'static, ()> = Box::pin(async move {
            let result = local.back_up(&mut engine, request, progress).await;
            drop(engine);
            let message = match &result {
                Ok(point) => Ok(v1::BackupProgress {
                    phase: Phase::Done.as_str().to_owned(),
                    items: point.items,
                    bytes_done: point.added_bytes,
                    bytes_total: point.added_bytes,
                    point: Some(point.clone()),
                    ..v1::BackupProgress::default()
                }),
                Err(error) => Err(ApiError::new(error.code(), error.to_string()).into()),
            };
            if let Err(error) = result
                && error.code() == Code::StaleEpoch
            {
                // The agent ends for the first one; there is room for no other.
                let _ = local.fatal.try_send(error);
            }
            // Whoever asked may have gone.
            let _ = last.send(message);
        });
        self.env.spawn.task("backup", backup);
        let events = stream::unfold(listener, |mut listener| async move {
            listener.recv().await.map(|event| (Ok(event), listener))
        });
        let end = stream::once(async move {
            end.await.unwrap_or_else(|_| {
                Err(ApiError::new(Code::Internal, "the backup ended without a word").into())
            })
        });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(events, end))))
    }

    async fn get_agent_status(
        &self,
        _request: Request<v1::GetAgentStatusRequest>,
    ) -> Result<Response<v1::GetAgentStatusResponse>, Status> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Response::new(v1::GetAgentStatusResponse {
            cluster_name: self.cluster.clone(),
            epoch: status.engine.epoch,
            head_sequence: status.engine.head_sequence,
            state: if status.busy { "backing-up" } else { "idle" }.to_owned(),
            last_error: status.last_error.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}

/// Passes progress on, not too often.
struct Teller {
    events: mpsc::Sender<v1::BackupProgress>,
    env: Env,
    told: Mutex<(u64, Phase)>,
}

impl Progress for Teller {
    fn on(&self, event: ProgressEvent) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.env.clock.elapsed_millis();
            if told.1 == event.phase && now.saturating_sub(told.0) < EVENT_INTERVAL_MILLIS {
                return;
            }
            *told = (now, event.phase);
        }
        // A slow listener misses some.
        let _ = self.events.try_send(v1::BackupProgress {
            phase: event.phase.as_str().to_owned(),
            items: event.items,
            items_changed: event.items_changed,
            bytes_done: event.bytes_done,
            bytes_total: event.bytes_total,
            point: None,
        });
    }
}

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the local socket {}: {source}", crate::shown::path(path))]
pub struct SocketError {
    /// The socket.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listens on a Unix socket that only this user can open. What a crash left there is replaced:
/// the agent's directory is locked, so nobody else listens.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let error = |source| SocketError { path: path.to_owned(), source };
    let mut fresh = path.to_owned().into_os_string();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    if let Err(source) = std::fs::remove_file(&fresh)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error(source));
    }
    // Made under another name, so that nobody can open it before its mode is set.
    let listener = UnixListener::bind(&fresh).map_err(error)?;
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(error)?;
    Ok(listener)
}

/// The stream of connections that tonic serves. An error of one accept ends nothing.
pub(crate) fn incoming(
    listener: UnixListener,
) -> impl Stream<Item = std::io::Result<Connection>> + Send {
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await;
        let wrap = |(stream, _): (UnixStream, _)| Connection::new(stream, None, None);
        Some((accepted.map(wrap), listener))
    })
}

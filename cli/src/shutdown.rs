//! Ends a server when the process is asked to: SIGINT, SIGTERM, or, when started by `dev`, the
//! end of standard input, which comes even if `dev` itself was killed.

use proto_types::Code;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Result};

/// A token that is cancelled when the process should end.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn token(with_stdin: bool) -> Result<CancellationToken> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            CliError::new(Code::Internal, format!("cannot listen for signals: {error}"))
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let stdin_ended = async {
            if with_stdin {
                let mut input = tokio::io::stdin();
                let mut buffer = [0; 64];
                while matches!(input.read(&mut buffer).await, Ok(1..)) {}
            } else {
                std::future::pending::<()>().await;
            }
        };
        let reason = tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
            () = stdin_ended => "standard input ended",
        };
        tracing::info!(reason, "shutting down");
        cancelled.cancel();
    });
    Ok(token)
}

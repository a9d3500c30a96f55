use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Waits for SIGTERM or SIGINT and cancels `token`; also ends when the token is cancelled by somebody else.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn shutdown_on_signal(token: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Each arm only waits, so dropping the others loses nothing.
    tokio::select! {
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "shutting down"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "shutting down"),
        () = token.cancelled() => {}
    }
    token.cancel();
    Ok(())
}

//! Removes what wiped volumes held, in the background: it may be much.

use std::time::Duration;

use hearth_telemetry::ErrorChain;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::OwnVolumes;

/// When what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Runs until `stop` is cancelled. What is half removed then goes on after the next start.
pub(crate) async fn run(volumes: OwnVolumes, stop: CancellationToken) {
    loop {
        let removing = volumes.clone();
        let removed = tokio::task::spawn_blocking(move || removing.empty_trash()).await;
        let again = match removed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::error!(error = %ErrorChain(&error), retry_in = ?AGAIN, "a wiped volume is still on the disk");
                Some(Instant::now() + AGAIN)
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "removing wiped volumes ended");
                Some(Instant::now() + AGAIN)
            }
        };
        let retry = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: all only wait, and a notice that is not taken stays.
        tokio::select! {
            () = stop.cancelled() => return,
            () = volumes.wiped() => {}
            () = retry => {}
        }
    }
}

//! The parts of a daemon that never end, and ending them.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DaemonError;

/// How long tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The parts of a daemon that never end.
#[derive(Debug)]
pub(crate) struct Tasks {
    set: JoinSet<Result<(), DaemonError>>,
    stop: CancellationToken,
}

impl Tasks {
    /// Parts that are told to end by `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            stop,
        }
    }

    /// Spawns a part; when it ends before it was told to, the daemon ends with it.
    pub(crate) fn never_ends(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), DaemonError>> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.set.spawn(async move {
            part.await?;
            if stop.is_cancelled() {
                Ok(())
            } else {
                Err(DaemonError::Ended(name))
            }
        });
    }

    /// Waits until `told`, or until a part has ended.
    ///
    /// # Errors
    /// Why the part has ended.
    pub(crate) async fn until(&mut self, told: &CancellationToken) -> Result<(), DaemonError> {
        // Cancel-safe: `join_next` keeps what it has not returned.
        tokio::select! {
            () = told.cancelled() => Ok(()),
            ended = self.set.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error),
                Some(Err(source)) => Err(DaemonError::Abandoned { what: "a part of the daemon", source }),
                Some(Ok(Ok(()))) | None => Ok(()),
            },
        }
    }

    /// Tells all parts to end, and waits for them and for what else runs on `tracker`.
    pub(crate) async fn shut_down(&mut self, tracker: &TaskTracker) {
        self.stop.cancel();
        tracker.close();
        let ended = async {
            tracker.wait().await;
            while self.set.join_next().await.is_some() {}
        };
        if timeout(SHUTDOWN, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

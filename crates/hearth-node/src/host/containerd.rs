//! Watching the dedicated containerd, and starting it again.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cri::{CriError, PodRuntime};
use hearth_sys::{Process, ProcessId};
use hearth_telemetry::ErrorChain;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::process::{self, Running, StartError};
use super::ready::ReadySocket;
use super::{ContainerdMetrics, Host, set_aside};

/// How long containerd may take to answer after its start: it looks up the shims of all pods before.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Pauses between two questions whether it answers: its socket is there a moment before it does.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];
/// Pauses between two starts: the first and the longest.
const START_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// How often containerd is asked for a sign of life, and how many times in a row it may fail to give one. Its end is
/// an event; this is for one that hangs.
const ASK_FOR_LIFE: Duration = Duration::from_secs(10);
const SIGNS_MISSED: u32 = 6;
/// One that has answered for this long starts a new series of attempts.
const STABLE: Duration = Duration::from_secs(60);

/// What is known of the dedicated containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerdState {
    /// It is being started or found, and does not answer yet.
    Starting,
    /// It answers.
    Up {
        /// Since when.
        since: Instant,
        /// Which process it is.
        process: ProcessId,
        /// Where its root of before is, when it could not be opened and this daemon began with an empty one: all
        /// pods and images of before are gone.
        set_aside: Option<PathBuf>,
    },
    /// It does not run; it is started again after a pause.
    Down {
        /// What ended it, or why it could not be started.
        reason: String,
        /// How often it ended without having been up for a minute, from 1.
        attempt: u32,
    },
}

impl ContainerdState {
    /// Whether it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Waits until containerd answers; `false` when nobody watches it any more.
pub async fn wait_up(state: &mut watch::Receiver<ContainerdState>) -> bool {
    state.wait_for(ContainerdState::is_up).await.is_ok()
}

/// Starts and watches the dedicated containerd; the only one that does.
///
/// containerd outlives it: neither its end nor a kill of the daemon ends containerd, and the next daemon finds it.
#[derive(Debug)]
pub struct ContainerdHost {
    host: Host,
    runtime: Arc<dyn PodRuntime>,
    state: watch::Sender<ContainerdState>,
    metrics: ContainerdMetrics,
    set_aside: Option<PathBuf>,
}

/// How one containerd ended.
struct Ended {
    reason: String,
    /// For how long it had answered.
    up: Duration,
    /// Whether it ended because its root cannot be used.
    root_damaged: bool,
}

impl ContainerdHost {
    /// `runtime` is the client of the containerd that will listen at the host's socket.
    #[must_use]
    pub fn new(host: &Host, runtime: Arc<dyn PodRuntime>, metrics: ContainerdMetrics) -> Self {
        Self {
            host: host.clone(),
            runtime,
            state: watch::Sender::new(ContainerdState::Starting),
            metrics,
            set_aside: None,
        }
    }

    /// The state, as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ContainerdState> {
        self.state.subscribe()
    }

    /// Runs until `stop` is cancelled, and leaves containerd running.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut attempt = 0;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.run_once() => ended,
            };
            self.metrics.up.set(0);
            self.metrics.ends.inc();
            attempt = if ended.up >= STABLE { 1 } else { attempt + 1 };
            warn!(reason = ended.reason, attempt, "containerd is down");
            self.state.send_replace(ContainerdState::Down {
                reason: ended.reason,
                attempt,
            });
            if ended.root_damaged {
                self.begin_anew().await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause(START_AGAIN, attempt)) => {}
            }
        }
    }

    /// Finds or starts containerd and follows it to its end.
    async fn run_once(&self) -> Ended {
        let began = Instant::now();
        self.state.send_replace(ContainerdState::Starting);
        let ready = match ReadySocket::bind(&self.host.paths().notify_socket()) {
            Ok(ready) => ready,
            Err(error) => return Ended::unstarted(&error),
        };
        let running = match self.acquire().await {
            Ok(running) => running,
            Err(error) => return Ended::unstarted(&error),
        };
        let exit = match Exit::of(&running.process) {
            Ok(exit) => exit,
            Err(error) => return Ended::unstarted(&error),
        };
        let answered = tokio::select! {
            // Its end explains a missing answer, not the other way round.
            biased;
            () = exit.wait() => None,
            () = self.answers(running.started.then_some(&ready)) => Some(Instant::now()),
            () = tokio::time::sleep(START_LIMIT) => {
                return self.give_up(running, "containerd did not answer in time after its start").await;
            }
        };
        drop(ready);
        if let Some(since) = answered {
            let process = running.process.id();
            info!(
                pid = process.pid,
                took_ms = began.elapsed().as_millis(),
                "containerd answers"
            );
            self.metrics.up.set(1);
            self.metrics.ready.observe(began.elapsed().as_secs_f64());
            self.state.send_replace(ContainerdState::Up {
                since,
                process,
                set_aside: self.set_aside.clone(),
            });
            tokio::select! {
                biased;
                () = exit.wait() => {}
                () = self.gives_no_sign_of_life() => {
                    return self.give_up(running, "containerd did not answer any more").await;
                }
            }
        }
        self.look_back(&running, answered)
    }

    async fn acquire(&self) -> Result<Running, StartError> {
        let host = self.host.clone();
        // Not cancelled with this future: it is short, and leaves a containerd that the next daemon finds.
        tokio::task::spawn_blocking(move || process::acquire(&host))
            .await
            .map_err(StartError::Abandoned)?
    }

    /// Returns once containerd and its network are ready. One that was just started says so itself; only then is it
    /// worth asking.
    async fn answers(&self, ready: Option<&ReadySocket>) {
        if let Some(ready) = ready
            && let Err(error) = ready.said().await
        {
            warn!(error = %ErrorChain(&error), "containerd's word cannot be received");
        }
        let mut asked = 0;
        loop {
            match self.lacks().await {
                Ok(None) => return,
                Ok(Some(lack)) => debug!(lack, "containerd is not ready yet"),
                Err(error) => debug!(error = %ErrorChain(&error), "containerd does not answer yet"),
            }
            asked += 1;
            tokio::time::sleep(pause(ASK_AGAIN, asked)).await;
        }
    }

    /// What a containerd that answers still lacks.
    async fn lacks(&self) -> Result<Option<String>, CriError> {
        self.runtime.version().await?;
        let status = self.runtime.status().await?;
        let lacking = status
            .conditions
            .into_iter()
            .find(|c| is_ours(&c.r#type) && !c.status);
        Ok(lacking.map(|c| format!("{}: {}", c.reason, c.message)))
    }

    /// Returns when containerd has not answered for too long.
    async fn gives_no_sign_of_life(&self) {
        let mut missed = 0;
        while missed < SIGNS_MISSED {
            tokio::time::sleep(ASK_FOR_LIFE).await;
            match self.runtime.version().await {
                Ok(_) => missed = 0,
                Err(error) => {
                    missed += 1;
                    warn!(missed, error = %ErrorChain(&error), "containerd gives no sign of life");
                }
            }
        }
    }

    /// Ends a containerd that does not answer.
    async fn give_up(&self, running: Running, reason: &str) -> Ended {
        let reason = reason.to_owned();
        let stopped = tokio::task::spawn_blocking(move || process::stop(&running.process)).await;
        let stopped = stopped.map_err(StartError::Abandoned).flatten();
        if let Err(error) = stopped {
            error!(error = %ErrorChain(&error), "containerd cannot be ended");
        }
        Ended {
            reason,
            up: Duration::ZERO,
            root_damaged: false,
        }
    }

    fn look_back(&self, running: &Running, answered: Option<Instant>) -> Ended {
        let status = match running.process.reap() {
            Ok(Some(status)) => status.to_string(),
            // Not our child: an earlier daemon started it.
            Ok(None) => "exit status unknown".to_owned(),
            Err(error) => ErrorChain(&error).to_string(),
        };
        let log = process::log_since(&self.host.paths().containerd_log(), running.log_start);
        let said = set_aside::last_words(&log);
        Ended {
            reason: match said {
                Some(said) => format!("containerd ended ({status}): {said}"),
                None => format!("containerd ended ({status})"),
            },
            up: answered.map_or(Duration::ZERO, |since| since.elapsed()),
            root_damaged: set_aside::tells_of_damage(&log),
        }
    }

    /// Sets a root that cannot be used aside, with all that runs from it.
    async fn begin_anew(&mut self) {
        let host = self.host.clone();
        let done = tokio::task::spawn_blocking(move || set_aside::set_aside(&host)).await;
        match done {
            Ok(Ok(path)) => {
                error!(path = %path.display(), "containerd's root cannot be used and was set aside; all pods of this node are made anew");
                self.set_aside = Some(path);
            }
            Ok(Err(error)) => {
                error!(error = %ErrorChain(&error), "containerd's damaged root could not be set aside")
            }
            Err(error) => {
                error!(error = %ErrorChain(&error), "setting containerd's damaged root aside was abandoned")
            }
        }
    }
}

impl Ended {
    fn unstarted(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            reason: ErrorChain(error).to_string(),
            up: Duration::ZERO,
            root_damaged: false,
        }
    }
}

/// The conditions that stand for a runtime that can make pods; others are advice.
fn is_ours(condition: &str) -> bool {
    matches!(condition, "RuntimeReady" | "NetworkReady")
}

/// The pause before attempt `attempt + 1`: from the first to the longest, doubled each time.
fn pause([first, longest]: [Duration; 2], attempt: u32) -> Duration {
    let factor = 1 << attempt.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(longest)
}

/// The end of a process, as an event.
struct Exit(AsyncFd<OwnedFd>);

impl Exit {
    fn of(process: &Process) -> std::io::Result<Self> {
        let fd = process.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change; an OwnedFd's does not"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self(fd))
    }

    async fn wait(&self) {
        // A pidfd stays readable from the exit on. The wait fails only when the runtime shuts down.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let check = |attempt, millis| {
            assert_eq!(
                pause(START_AGAIN, attempt),
                Duration::from_millis(millis),
                "{attempt}"
            );
        };
        check(1, 100);
        check(2, 200);
        check(5, 1600);
        check(8, 10_000);
        check(u32::MAX, 10_000);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_an_event() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap())
            .unwrap()
            .unwrap();
        let exit = Exit::of(&id.open().unwrap().unwrap()).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), exit.wait()).await;
        assert!(early.is_err(), "it runs");
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(30), exit.wait())
            .await
            .unwrap();
        child.wait().unwrap();
    }
}

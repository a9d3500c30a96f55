//! The dedicated containerd: its configuration, its process, its images.
//!
//! containerd runs in the instance's supervisor cgroup, in a session of its own, and outlives the daemon: a daemon
//! that starts finds it there and goes on. [`RuntimeHost::run`] is the only one that starts or restarts it. Everybody
//! else watches [`RuntimeState`].

mod files;
mod images;
mod metrics;
mod network;
mod process;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_cri::PodRuntime;
use hearth_sys::cgroup::CgroupTree;
use hearth_sys::spawn::SpawnError;
use hearth_sys::{CgroupError, ProcessError};
use hearth_telemetry::ErrorChain;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::paths::Paths;
use process::{Containerd, ReadySocket};

pub use images::{ImageError, import_archives};
pub use metrics::RuntimeMetrics;
pub use network::{NetworkError, set_up_network};

/// Between an exit and the next start, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// After this long a containerd counts as healthy and the back-off starts anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How long containerd may take to say that it is ready. A busy machine with hundreds of shims takes seconds.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How often containerd is asked for a sign of life, and how many times in a row it may fail to give one.
const HEALTH_EVERY: Duration = Duration::from_secs(10);
const HEALTH_FAILURES: u32 = 6;
/// How long containerd may take to end when it is asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Starts in a row that may fail after a reboot before containerd's data is taken to be damaged.
const FAILED_STARTS: u32 = 3;

/// Whether containerd serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// It is being started for the first time since the daemon started.
    Starting,
    /// It serves. The number grows with each process.
    Running {
        /// How many processes have served since the daemon started.
        generation: u64,
    },
    /// It does not serve; it is being started again.
    Down {
        /// Why, in a sentence.
        reason: String,
    },
}

/// What can go wrong with containerd.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// A file or directory of ours.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The cgroup of containerd.
    #[error("cannot find containerd by its cgroup")]
    Cgroup(#[source] CgroupError),
    /// The process could not be started.
    #[error("cannot start containerd")]
    Spawn(#[source] SpawnError),
    /// The process could not be watched or signalled.
    #[error("cannot watch containerd")]
    Process(#[source] ProcessError),
    /// It ended before it served.
    #[error("containerd ended before it was ready, with {status}; its log is {}", log.display())]
    Ended {
        /// How.
        status: String,
        /// Where it says why.
        log: PathBuf,
    },
    /// It did not get ready in time.
    #[error("containerd was not ready within {} s", READY_DEADLINE.as_secs())]
    NotReady,
}

/// Starts, watches and restarts containerd.
#[derive(Debug)]
pub struct RuntimeHost {
    bin_dir: PathBuf,
    paths: Paths,
    tree: CgroupTree,
    cri: Arc<dyn PodRuntime>,
    state: watch::Sender<RuntimeState>,
    metrics: RuntimeMetrics,
    /// The configuration is another than the one that a running containerd was started with.
    stale_config: bool,
    /// The machine was booted since the last start, so that containerd's data may have been cut off in a write.
    rebooted: bool,
}

impl RuntimeHost {
    /// Writes the configuration of containerd and CNI and makes the directories. Blocks on the disk.
    ///
    /// # Errors
    /// [`RuntimeError::File`].
    pub fn prepare(
        config: &Config,
        tree: CgroupTree,
        cri: Arc<dyn PodRuntime>,
        rebooted: bool,
        metrics: RuntimeMetrics,
    ) -> Result<Self, RuntimeError> {
        let paths = config.paths();
        let dirs = [paths.containerd_root(), paths.containerd_state(), paths.logs(), paths.cni_conf(), paths.cni_data()];
        dirs.iter().chain(&paths.shim_sockets()).try_for_each(|dir| make_dir(dir))?;
        if rebooted {
            // Addresses that pods of the last boot held; none of them runs.
            remove_dir(&paths.cni_data())?;
            make_dir(&paths.cni_data())?;
        }
        let host = files::Host { may_set_oom_score: hearth_sys::check::may_lower_oom_scores() };
        let stale_config =
            write_if_changed(&paths.containerd_config(), &files::containerd_config(config, &paths, host))?;
        write_if_changed(&paths.cni_conf().join("10-hearth.conflist"), &files::cni_config(config, &paths))?;
        let state = watch::Sender::new(RuntimeState::Starting);
        Ok(Self { bin_dir: config.bin_dir.clone(), paths, tree, cri, state, metrics, stale_config, rebooted })
    }

    /// Whether containerd serves, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RuntimeState> {
        self.state.subscribe()
    }

    /// Keeps containerd running until `stop` is cancelled, and leaves it running then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failed_starts = 0;
        let mut pause = BACK_OFF.0;
        let mut generation = 0;
        loop {
            let began = Instant::now();
            // Dropping any of these leaves containerd as it is; the next daemon finds it by its cgroup.
            let served = tokio::select! {
                () = stop.cancelled() => return,
                served = self.serve_once(&mut generation) => served,
            };
            let reason = match served {
                Ok(reason) => {
                    failed_starts = 0;
                    reason
                }
                Err(error) => {
                    failed_starts += 1;
                    ErrorChain(&error).to_string()
                }
            };
            self.metrics.failures.inc();
            tracing::error!(reason, failed_starts, "containerd is down");
            self.state.send_replace(RuntimeState::Down { reason });
            if self.rebooted && failed_starts >= FAILED_STARTS {
                self.rebooted = false;
                self.set_root_aside();
            }
            if began.elapsed() > SETTLED {
                pause = BACK_OFF.0;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Finds or starts containerd and watches it to its end, whose reason it returns.
    async fn serve_once(&mut self, generation: &mut u64) -> Result<String, RuntimeError> {
        let began = Instant::now();
        let containerd = match self.find().await? {
            Some(found) if self.stale_config => {
                tracing::info!(pid = found.pid(), "containerd runs with another configuration: restarting it");
                found.stop(STOP_DEADLINE).await?;
                self.start().await?
            }
            Some(found) => {
                tracing::info!(pid = found.pid(), "containerd is running already");
                self.wait_for_answer(&found).await?;
                found
            }
            None => self.start().await?,
        };
        self.stale_config = false;
        *generation += 1;
        self.metrics.ready.observe(began.elapsed().as_secs_f64());
        tracing::info!(pid = containerd.pid(), took_ms = began.elapsed().as_millis(), "containerd is ready");
        self.state.send_replace(RuntimeState::Running { generation: *generation });
        tokio::select! {
            ended = containerd.ended() => Ok(format!("containerd ended with {}", ended?)),
            () = self.unhealthy() => {
                containerd.stop(STOP_DEADLINE).await?;
                Ok("containerd did not answer any more and was stopped".to_owned())
            }
        }
    }

    async fn find(&self) -> Result<Option<Containerd>, RuntimeError> {
        let (tree, config) = (self.tree.clone(), self.paths.containerd_config());
        blocking(move || Containerd::find(&tree, &config)).await
    }

    async fn start(&self) -> Result<Containerd, RuntimeError> {
        let mut ready = ReadySocket::bind(&self.paths.notify_socket())?;
        let spec = process::Spec::new(&self.bin_dir, &self.paths, self.tree.supervisor());
        let containerd = blocking(move || spec.spawn()).await?;
        self.metrics.starts.inc();
        let log = self.paths.containerd_log();
        tokio::select! {
            biased;
            ended = containerd.ended() => Err(RuntimeError::Ended { status: ended?, log }),
            said = tokio::time::timeout(READY_DEADLINE, ready.said()) => match said {
                Ok(said) => said.map(|()| containerd),
                Err(_) => {
                    containerd.stop(STOP_DEADLINE).await?;
                    Err(RuntimeError::NotReady)
                }
            },
        }
    }

    /// Waits until a containerd that somebody else started answers.
    async fn wait_for_answer(&self, containerd: &Containerd) -> Result<(), RuntimeError> {
        let answer = async {
            let mut pause = BACK_OFF.0;
            while let Err(error) = self.cri.version().await {
                tracing::debug!(error = %ErrorChain(&error), "containerd does not answer yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        };
        tokio::select! {
            biased;
            ended = containerd.ended() => {
                Err(RuntimeError::Ended { status: ended?, log: self.paths.containerd_log() })
            }
            answered = tokio::time::timeout(READY_DEADLINE, answer) => {
                if answered.is_err() {
                    containerd.stop(STOP_DEADLINE).await?;
                    return Err(RuntimeError::NotReady);
                }
                Ok(())
            }
        }
    }

    /// Returns when containerd has failed to answer for too long. Its exit is noticed elsewhere, at once; this is for
    /// one that hangs.
    async fn unhealthy(&self) {
        let mut failures = 0;
        while failures < HEALTH_FAILURES {
            tokio::time::sleep(HEALTH_EVERY).await;
            match self.cri.version().await {
                Ok(_) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(failures, error = %ErrorChain(&error), "containerd does not answer");
                }
            }
        }
    }

    /// containerd's metadata is written without syncing, so a power cut may leave it unreadable. Nothing in it is
    /// needed: all that ran is gone, and images are imported or pulled again.
    fn set_root_aside(&self) {
        let root = self.paths.containerd_root();
        let seconds = jiff::Timestamp::now().as_second();
        let aside = root.with_file_name(format!("containerd.damaged-{seconds}"));
        match fs::rename(&root, &aside).and_then(|()| fs::create_dir_all(&root)) {
            Ok(()) => tracing::error!(aside = %aside.display(), "containerd's data cannot be used after the reboot and was set aside"),
            Err(error) => tracing::error!(%error, root = %root.display(), "cannot set containerd's data aside"),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn make_dir(path: &Path) -> Result<(), RuntimeError> {
    fs::create_dir_all(path)
        .map_err(|source| RuntimeError::File { action: "create", path: path.to_owned(), source })
}

fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    fs::remove_dir_all(path)
        .map_err(|source| RuntimeError::File { action: "remove", path: path.to_owned(), source })
}

/// Whether the file had another content.
fn write_if_changed(path: &Path, text: &str) -> Result<bool, RuntimeError> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    fs::write(path, text).map_err(|source| RuntimeError::File { action: "write", path: path.to_owned(), source })?;
    Ok(true)
}

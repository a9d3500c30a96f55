//! The logs of containers: how much of them is kept, and when they go.
//!
//! containerd appends to a file for as long as a container runs. One that has grown too large is set aside and containerd
//! told to begin it anew, as a kubelet does it; no event tells how large a file is, so that those of pods whose processes
//! run are looked at again and again. A daemon that is killed between the two steps leaves a log that nobody can see
//! grow: the next look finds that and has it begun anew.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_api::Tier;
use hearth_core::podspec::ContainerPlan;
use hearth_telemetry::ErrorChain;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::cell::Cell;
use super::manager::Shared;
use super::storage::jittered;
use super::work::{Problem, Result, Subject};
use crate::log_files::{self, CurrentLog};

/// How much is kept of what a container logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A file that has this many bytes is set aside.
    pub max_bytes: u64,
    /// Files that are kept of one start of a container, that which is being written included; at least 2.
    pub max_files: usize,
}

impl Default for LogLimits {
    /// A kubelet's.
    fn default() -> Self {
        Self {
            max_bytes: 10 << 20,
            max_files: 5,
        }
    }
}

/// Sets aside logs that have grown too large. Never ends.
pub(super) async fn keep(shared: &Arc<Shared>) -> Infallible {
    loop {
        sleep(jittered(shared.config.measure)).await;
        let cells: Vec<_> = shared.cells.read().values().map(Arc::clone).collect();
        // Who stands frozen writes nothing.
        let writing = cells
            .into_iter()
            .filter(|cell| cell.view().tier == Some(Tier::Running));
        let logs: Vec<_> = writing.flat_map(|cell| logs_of(shared, &cell)).collect();
        let limits = shared.config.logs;
        let look = move || {
            let due = logs.into_iter().filter_map(|log| log.due(&limits));
            due.collect::<Vec<_>>()
        };
        let due = match spawn_blocking(look).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "the thread that looks at logs has ended");
                continue;
            }
        };
        for due in due {
            due.rotate(shared).await;
        }
    }
}

/// A container that may be logging.
struct Log {
    container_id: String,
    directory: PathBuf,
}

fn logs_of(shared: &Shared, cell: &Cell) -> Vec<Log> {
    let view = cell.view();
    let directory = log_files::directory(&shared.config.logs_dir, &view.key, &cell.uid);
    let log = |(name, container_id): (String, String)| Log {
        container_id,
        directory: directory.join(name),
    };
    cell.made().containers.into_iter().map(log).collect()
}

/// A log that is to be begun anew.
struct Due {
    container_id: String,
    log: CurrentLog,
    /// Whether it is there, to be set aside first.
    there: bool,
}

impl Log {
    /// What is to be done about it, if anything. What has to go so that not too many files are kept goes now.
    fn due(self, limits: &LogLimits) -> Option<Due> {
        let look = || -> io::Result<Option<(CurrentLog, bool)>> {
            let Some(log) = log_files::current(&self.directory)? else {
                return Ok(None);
            };
            let there = match fs::metadata(&log.path) {
                Ok(found) if found.len() < limits.max_bytes => return Ok(None),
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            // With the one that is set aside now and the one that is begun.
            let keep = limits.max_files.saturating_sub(2);
            let excess = log.aside.len().saturating_sub(keep);
            for old in log.aside.iter().take(excess).filter(|_| there) {
                fs::remove_file(old)?;
            }
            Ok(Some((log, there)))
        };
        match look() {
            Ok(found) => found.map(|(log, there)| Due {
                container_id: self.container_id,
                log,
                there,
            }),
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), %error, "cannot look after a container's log");
                None
            }
        }
    }
}

impl Due {
    async fn rotate(self, shared: &Shared) {
        let Self {
            container_id,
            log: CurrentLog { path, next, .. },
            there,
        } = self;
        if there && let Err(error) = tokio::fs::rename(&path, &next).await {
            tracing::warn!(log = %path.display(), %error, "cannot set a container's log aside");
            return;
        }
        if let Err(error) = shared.runtime.reopen_container_log(&container_id).await {
            // One that has just ended, most likely. It is written to under its old name if it is at all.
            tracing::debug!(
                log = %path.display(),
                error = %ErrorChain(&error),
                "a container's log was not begun anew"
            );
            let back = there && !path.exists();
            if back && let Err(error) = tokio::fs::rename(&next, &path).await {
                tracing::warn!(log = %next.display(), %error, "cannot put a container's log back");
            }
            return;
        }
        shared.metrics.rotated();
    }
}

/// Removes the logs of sandboxes of which nothing is known.
pub(super) fn remove_orphans(
    root: &Path,
    is_known: impl Fn(&hearth_core::ids::SandboxUid) -> bool,
) {
    let removed = || -> io::Result<()> {
        for name in log_files::entries(root)? {
            if log_files::owner(&name).is_some_and(|owner| !is_known(&owner)) {
                tracing::info!(directory = name, "removing logs of a sandbox that is gone");
                fs::remove_dir_all(root.join(name))?;
            }
        }
        Ok(())
    };
    if let Err(error) = removed() {
        tracing::warn!(%error, "logs of sandboxes that are gone could not be removed");
    }
}

impl Subject {
    fn log_directory(&self) -> PathBuf {
        log_files::directory(&self.shared.config.logs_dir, &self.key, &self.cell.uid)
    }

    /// Where the next start of a container logs, below its sandbox's directory.
    pub(super) async fn next_log(&self, container: &ContainerPlan) -> Result<String> {
        let directory = self.log_directory().join(&container.name);
        let next = spawn_blocking(move || {
            let next = log_files::begin_next(&directory);
            next.map_err(|error| format!("logs in {}: {error}", directory.display()))
        });
        let number = match next.await {
            Ok(number) => number.map_err(Problem::Failed)?,
            Err(error) => return Err(Problem::of(&error)),
        };
        Ok(log_files::log_path(&container.name, number))
    }

    /// Removes all that the sandbox has logged.
    pub(super) async fn remove_logs(&self) -> Result<()> {
        let logs = self.log_directory();
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::Failed(format!(
                "remove logs {}: {error}",
                logs.display()
            ))),
            _ => Ok(()),
        }
    }
}

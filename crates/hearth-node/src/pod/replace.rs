//! The end of a container that another takes the place of, and that nobody has used: at once, and what is left of it later.

use std::path::PathBuf;
use std::time::Duration;

use hearth_core::sandbox::{Container, Learned};
use tokio::task::spawn_blocking;

use super::metrics::Kill;
use super::work::{NOTHING, Problem, Result, Subject, blocking, changed};
use crate::host::Runtime;
use crate::log_files;

impl Subject {
    /// Kills it, without hook and grace period. Where its processes are the host's it is done by the kernel, which takes
    /// milliseconds; the runtime, which also clears up before it answers, is asked where they are not, or nobody finds them.
    pub(super) async fn kill_predecessor(&self, id: &str) -> Result<Learned> {
        if self.cell.has_killed(id) {
            return NOTHING;
        }
        self.cell.kills(id);
        let kill = self.kill_by_cgroup(id).await?;
        if kill != Kill::Cgroup {
            tracing::debug!(sandbox = %self.key, container = id, why = ?kill, "the runtime is asked to kill a container");
            changed(self.shared.runtime.stop_container(id, Duration::ZERO).await)?;
        }
        self.shared.metrics.killed(kill);
        self.cell.killed(id);
        NOTHING
    }

    /// Makes a container, and has the one that runs in its place killed meanwhile: the runtime makes a container without
    /// touching the pod's processes. Whether that one is dead is asked again before the new one starts.
    pub(super) async fn create_in_place(
        &self,
        index: usize,
        attempt: u32,
        with_env: bool,
    ) -> Result<Learned> {
        let plan = self.container(index)?;
        let container = self.pod()?.containers.get(index);
        let predecessor = container.and_then(Container::living_predecessor);
        let kill = async {
            match predecessor {
                Some(id) => self.kill_predecessor(id).await,
                None => NOTHING,
            }
        };
        let (created, killed) = tokio::join!(self.create(plan, attempt, with_env), kill);
        if let Err(Problem::Failed(error) | Problem::Unknown(error)) = killed {
            tracing::debug!(
                sandbox = %self.key,
                container = plan.name,
                error,
                "a container was not killed while the next one was made; it will be before that starts"
            );
        }
        created.map_err(|problem| problem.about(&plan.name))
    }

    /// Kills it by its cgroup, if that can be done; else says how it is to be killed.
    async fn kill_by_cgroup(&self, id: &str) -> Result<Kill> {
        if Runtime::of_handler(&self.handler.name) != Some(Runtime::Runc) {
            return Ok(Kill::Handler);
        }
        let (pod, container) = (self.pod()?.uid.clone(), id.to_owned());
        let killed = blocking(&self.shared, move |host| {
            host.kill_container(&pod, &container)
        });
        Ok(match killed.await {
            Ok(true) => Kill::Cgroup,
            Ok(false) => Kill::NotFound,
            Err(Problem::Failed(error) | Problem::Unknown(error)) => {
                tracing::warn!(
                    sandbox = %self.key,
                    uid = %self.cell.uid,
                    container = id,
                    error,
                    "a container was not killed by its cgroup; the runtime is asked to stop it"
                );
                Kill::Failed
            }
        })
    }

    /// Removes what is left of it, the log first: nobody shall take it for one that has crashed. To do it again does no
    /// harm, so that an unknown outcome is a failure like any other.
    pub(super) async fn remove_predecessor(&self, id: &str) -> Result<Learned> {
        let runtime = &self.shared.runtime;
        let status = runtime.container_status(id).await;
        if let Some(status) = status.map_err(|error| Problem::of(&error))? {
            let log = PathBuf::from(status.log_path);
            let removed = spawn_blocking(move || {
                log_files::remove(&log)
                    .map_err(|error| format!("remove log {}: {error}", log.display()))
            });
            let removed = removed.await.map_err(|error| Problem::of(&error))?;
            removed.map_err(Problem::Failed)?;
        }
        let removed = runtime.remove_container(id).await;
        removed.map_err(|error| Problem::of(&error))?;
        // That it ended stays known for as long as there is the pod: the event may come later than this.
        NOTHING
    }
}

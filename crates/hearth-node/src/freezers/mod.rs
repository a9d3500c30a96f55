//! Which freezer a pod has: that of its runtime.

mod tasks;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::PodUid;
use hearth_cri::{CriError, PodRuntime, v1};
use hearth_sys::{CgroupError, CgroupTree, FreezeError, Freezer, SentryFreezer};

use crate::host::Runtime;

pub use tasks::{TaskApi, TaskFreezer};

/// The namespace of containerd in which CRI's pods are; runsc keeps a directory for each.
const CRI_NAMESPACE: &str = "k8s.io";
/// The label by which CRI knows a pod's uid.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// A pod, as a freezer needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeTarget {
    /// Its uid, which names its cgroup.
    pub pod: PodUid,
    /// The CRI handler that it runs on.
    pub handler: String,
    /// The CRI sandbox. Empty for a runtime that is frozen by cgroup.
    pub sandbox: String,
    /// The containers that run in it. Empty for a runtime that is not frozen by its tasks.
    pub containers: Vec<String>,
}

/// A pod for which there is no freezer.
#[derive(Debug, thiserror::Error)]
pub enum NoFreezer {
    /// Its cgroup.
    #[error("the pod's cgroup")]
    Cgroup(#[source] CgroupError),
    /// The freezer of its cgroup.
    #[error("the freezer of the pod's cgroup")]
    Freezer(#[source] FreezeError),
    /// Nothing is known that freezes pods of this handler.
    #[error("pods of handler {0} cannot be frozen")]
    Unsupported(String),
}

/// Finds freezers.
#[derive(Clone, Debug)]
pub struct Freezers {
    cgroups: CgroupTree,
    runsc_state: PathBuf,
    tasks: Option<TaskApi>,
}

impl Freezers {
    /// For the pods in these cgroups. `runsc_state`: runsc's root. `tasks`: containerd's, where a runtime is frozen by them.
    #[must_use]
    pub fn new(cgroups: CgroupTree, runsc_state: PathBuf, tasks: Option<TaskApi>) -> Self {
        Self {
            cgroups,
            runsc_state,
            tasks,
        }
    }

    /// Resumes what does not outlive containerd, before containerd is ended. Blocks; says how many tasks there were.
    ///
    /// # Errors
    /// When containerd does not answer, or one could not be resumed.
    pub fn before_containerd_ends(&self, within: Duration) -> Result<usize, FreezeError> {
        let tasks = self.tasks.as_ref();
        tasks.map_or(Ok(0), |tasks| tasks.resume_all(within))
    }

    /// The freezer of a pod. Blocks.
    ///
    /// # Errors
    /// When there is none, for instance because its cgroup is gone.
    pub fn of(&self, target: &FreezeTarget) -> Result<Arc<dyn Freezer>, NoFreezer> {
        match Runtime::of_handler(&target.handler) {
            Some(Runtime::Gvisor) => {
                let name = format!("runsc-{}.sock", target.sandbox);
                let socket = self.runsc_state.join(CRI_NAMESPACE).join(name);
                Ok(Arc::new(SentryFreezer::new(socket)))
            }
            Some(Runtime::Runc) => {
                let cgroup = self.cgroups.pod(&target.pod.0).map_err(NoFreezer::Cgroup)?;
                let freezer = cgroup.freezer().map_err(NoFreezer::Freezer)?;
                Ok(Arc::from(freezer))
            }
            // Its cgroup has the virtual machine, which would be taken for hung.
            Some(Runtime::Kata) => match &self.tasks {
                Some(tasks) => Ok(Arc::new(tasks.freezer(&target.containers))),
                None => Err(NoFreezer::Unsupported(target.handler.clone())),
            },
            None => Err(NoFreezer::Unsupported(target.handler.clone())),
        }
    }
}

/// Looks up a pod at the runtime; `None` when it has no sandbox there, so that nothing of it can stand still. What is
/// frozen by cgroup is not looked up.
///
/// # Errors
/// When the runtime does not answer.
pub(crate) async fn find(
    runtime: &dyn PodRuntime,
    pod: &PodUid,
    handler: &str,
) -> Result<Option<FreezeTarget>, CriError> {
    let target = |sandbox: String| FreezeTarget {
        pod: pod.clone(),
        handler: handler.to_owned(),
        sandbox,
        containers: Vec::new(),
    };
    if Runtime::of_handler(handler) == Some(Runtime::Runc) {
        return Ok(Some(target(String::new())));
    }
    let filter = v1::PodSandboxFilter {
        label_selector: [(POD_UID.to_owned(), pod.0.clone())].into(),
        ..v1::PodSandboxFilter::default()
    };
    let sandboxes = runtime.list_pod_sandboxes(filter).await?;
    let newest = sandboxes
        .into_iter()
        .max_by_key(|sandbox| sandbox.metadata.as_ref().map(|metadata| metadata.attempt));
    let Some(newest) = newest else {
        return Ok(None);
    };
    let mut target = target(newest.id);
    target.containers = containers(runtime, &target).await?;
    Ok(Some(target))
}

/// The containers that run in a pod, where they are what is frozen.
///
/// # Errors
/// When the runtime does not answer.
pub(crate) async fn containers(
    runtime: &dyn PodRuntime,
    target: &FreezeTarget,
) -> Result<Vec<String>, CriError> {
    if Runtime::of_handler(&target.handler) != Some(Runtime::Kata) {
        return Ok(Vec::new());
    }
    // Also those that are not said to run: a task that was paused when containerd was started is unknown to it.
    let filter = v1::ContainerFilter {
        pod_sandbox_id: target.sandbox.clone(),
        ..v1::ContainerFilter::default()
    };
    let containers = runtime.list_containers(filter).await?;
    Ok(containers
        .into_iter()
        .map(|container| container.id)
        .collect())
}

//! What people ask about pods beyond their views: what the runtime and the host have of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::{PodUid, SandboxUid};
use hearth_cri::{CriError, v1};
use hearth_sys::Usage;
use tokio::task::JoinError;

use super::cri_config::{
    ANNOTATION_STDIN, ANNOTATION_TTY, LABEL_BOUND_ENV, LABEL_INSTANCE, LABEL_POD_UID,
};
use super::gate::Hold;
use super::host::HostError;
use super::manager::{GateRefused, PodManager};
use super::view::PodView;

impl PodManager {
    /// When each pod was made at the runtime, in nanoseconds since 1970.
    pub(crate) async fn created(&self) -> Result<HashMap<PodUid, i64>, CriError> {
        let instance = self.shared.config.instance.clone();
        let filter = v1::PodSandboxFilter {
            label_selector: [(LABEL_INSTANCE.to_owned(), instance)].into(),
            ..Default::default()
        };
        let sandboxes = self.shared.runtime.list_pod_sandboxes(filter).await?;
        let uid = |sandbox: &v1::PodSandbox| {
            let metadata = sandbox.metadata.as_ref()?;
            Some(PodUid(metadata.uid.clone()))
        };
        Ok(sandboxes
            .iter()
            .filter_map(|sandbox| Some((uid(sandbox)?, sandbox.created_at)))
            .collect())
    }

    /// The pod's containers at the runtime, those that have exited included, by name and attempt. Without those that were
    /// replaced for the variables of a bind: nobody is to use them, and their end is no crash.
    pub(crate) async fn containers(
        &self,
        pod: &PodUid,
    ) -> Result<Vec<v1::ContainerStatus>, CriError> {
        let filter = v1::ContainerFilter {
            label_selector: [(LABEL_POD_UID.to_owned(), pod.0.clone())].into(),
            ..Default::default()
        };
        let runtime = &self.shared.runtime;
        let mut containers = Vec::new();
        for container in runtime.list_containers(filter).await? {
            // One that is gone by now is none.
            containers.extend(runtime.container_status(&container.id).await?);
        }
        let order = |container: &v1::ContainerStatus| {
            let metadata = container.metadata.clone().unwrap_or_default();
            (metadata.name, metadata.attempt)
        };
        containers.sort_by_cached_key(order);
        drop_replaced(&mut containers);
        Ok(containers)
    }

    /// Runs a command in a container. Its pod must be held live: this is for use inside [`PodManager::with`].
    pub(crate) async fn exec_live(
        &self,
        container_id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let runtime = &self.shared.runtime;
        runtime
            .exec_sync(container_id, command.to_vec(), limit)
            .await
    }

    /// The pod's cgroup, in each hierarchy.
    pub(crate) fn cgroup(&self, pod: &PodUid) -> Result<String, HostError> {
        self.shared.host.cgroup_parent(pod)
    }

    /// What the cgroup of each of the pods uses; `None` for one that has none (any more).
    pub(crate) async fn usages(
        &self,
        pods: Vec<PodUid>,
    ) -> Result<Vec<Result<Option<Usage>, HostError>>, JoinError> {
        let host = Arc::clone(&self.shared.host);
        let look = move || pods.iter().map(|pod| host.usage(pod)).collect();
        tokio::task::spawn_blocking(look).await
    }

    /// Thaws a pod and keeps it from being frozen for as long as the guard lives.
    ///
    /// # Errors
    /// When there is no pod, and when it could not be thawed.
    pub(crate) async fn hold_live(
        &self,
        uid: &SandboxUid,
    ) -> Result<(LiveHold, Arc<PodView>), GateRefused> {
        let no_pod = || GateRefused::NoPod(uid.clone());
        let cell = self.cell(uid).ok_or_else(no_pod)?;
        let held = cell.hold(self.shared.config.thaw_within).await;
        let hold = held.map_err(|source| GateRefused::Thaw {
            uid: uid.clone(),
            source: Box::new(source),
        })?;
        Ok((LiveHold { _hold: hold }, cell.view()))
    }

    /// CRI id of the pod's sandbox; `None` when it does not run.
    pub(crate) async fn cri_sandbox(&self, pod: &PodUid) -> Result<Option<String>, CriError> {
        let filter = v1::PodSandboxFilter {
            label_selector: [(LABEL_POD_UID.to_owned(), pod.0.clone())].into(),
            state: Some(v1::PodSandboxStateValue {
                state: v1::PodSandboxState::SandboxReady.into(),
            }),
            ..Default::default()
        };
        let mut sandboxes = self.shared.runtime.list_pod_sandboxes(filter).await?;
        // An earlier attempt that is not removed yet is not the pod.
        sandboxes.sort_by_key(|sandbox| sandbox.created_at);
        Ok(sandboxes.pop().map(|sandbox| sandbox.id))
    }

    /// Where the sandbox's containers log, whatever pod it has.
    #[cfg(test)]
    pub(crate) fn log_directory(&self, view: &PodView) -> std::path::PathBuf {
        crate::log_files::directory(&self.shared.config.logs_dir, &view.key, &view.uid)
    }
}

fn drop_replaced(containers: &mut Vec<v1::ContainerStatus>) {
    let has_env = |container: &v1::ContainerStatus| container.labels.contains_key(LABEL_BOUND_ENV);
    let name = |container: &v1::ContainerStatus| {
        let metadata = container.metadata.as_ref();
        metadata.map_or_else(String::new, |metadata| metadata.name.clone())
    };
    let with_env = containers.iter().filter(|container| has_env(container));
    let anew: HashSet<String> = with_env.map(name).collect();
    containers.retain(|container| has_env(container) || !anew.contains(&name(container)));
}

/// Keeps a pod's processes running.
#[derive(Debug)]
pub(crate) struct LiveHold {
    _hold: Hold,
}

/// What the PodSpec gives a container for a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Console {
    /// Whether its process can be given input.
    pub(crate) stdin: bool,
    /// Whether it runs on a terminal.
    pub(crate) terminal: bool,
}

impl Console {
    /// As the container was made.
    pub(crate) fn of(container: &v1::ContainerStatus) -> Self {
        let is_set = |name| container.annotations.contains_key(name);
        Self {
            stdin: is_set(ANNOTATION_STDIN),
            terminal: is_set(ANNOTATION_TTY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_not_shown_and_what_has_crashed_is() {
        let container = |name: &str, attempt, has_env: bool| {
            let label = (LABEL_BOUND_ENV.to_owned(), "true".to_owned());
            v1::ContainerStatus {
                metadata: Some(v1::ContainerMetadata {
                    name: name.to_owned(),
                    attempt,
                }),
                labels: has_env.then_some(label).into_iter().collect(),
                ..Default::default()
            }
        };
        let mut containers = vec![
            container("main", 0, false),
            container("main", 1, true),
            container("main", 2, true),
            container("side", 0, false),
            container("side", 1, false),
        ];
        drop_replaced(&mut containers);
        let left = containers.into_iter().filter_map(|left| left.metadata);
        let left: Vec<_> = left.map(|left| (left.name, left.attempt)).collect();
        let expect = [("main", 1), ("main", 2), ("side", 0), ("side", 1)];
        assert_eq!(
            left,
            expect.map(|(name, attempt)| (name.to_owned(), attempt))
        );
    }
}

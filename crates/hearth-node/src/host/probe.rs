//! Whether pods can be frozen here, found out with a throw-away pod for each handler.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::HandlerStatus;
use hearth_core::ids::PodUid;
use hearth_cri::{CriError, PodRuntime, v1};
use hearth_sys::{CgroupError, FreezeError, Freezer, boot};
use hearth_telemetry::ErrorChain;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Host, HostError, Runtime, files};
use crate::freezers::{FreezeTarget, NoFreezer};

/// How often the pod is frozen and thawed.
const CYCLES: u32 = 50;
/// How long one freeze or thaw may take.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// What the pod is asked between two freezes: the pause container of Kubernetes says its version and ends, and so does
/// ours. It needs a new process of a pod that was frozen, a shell or a network it does not.
const REQUEST: [&str; 2] = ["/pause", "-v"];
/// How long the pod may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long all of it may take, the pod's removal not counted. Some seconds are usual.
const PROBE_LIMIT: Duration = Duration::from_secs(120);
/// How long the pod's cgroup may take to go after the pod.
const CGROUP_LIMIT: Duration = Duration::from_secs(5);
/// Marks the pods of probes, so that what an interrupted one left is found.
const LABEL: &str = "hearth.dev/freeze-probe";

/// What was found out, and for what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Finding {
    key: Key,
    freeze_method: String,
}

/// Another runtime, kernel or boot may freeze differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    binary_digest: String,
    kernel: String,
    boot_id: String,
}

/// A probe that did not show that pods can be frozen.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("find out what is probed")]
    Key(#[source] HostError),
    #[error("make the pod's cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("run the pod")]
    Runtime(#[source] CriError),
    #[error("find the pod's freezer")]
    NoFreezer(#[source] NoFreezer),
    #[error("cycle {cycle} of {CYCLES}")]
    Freeze {
        cycle: u32,
        #[source]
        source: FreezeError,
    },
    #[error("cycle {cycle} of {CYCLES}: the pod is {state} when it should not be")]
    Unconfirmed { cycle: u32, state: &'static str },
    #[error("after {cycles} of {CYCLES} cycles the pod does not answer")]
    Silent {
        cycles: u32,
        #[source]
        source: CriError,
    },
    #[error("after {cycles} of {CYCLES} cycles the pod answers with exit code {code}: {said}")]
    Answer {
        cycles: u32,
        code: i32,
        said: String,
    },
    #[error("the pod did not survive being frozen")]
    Dead,
    #[error("the probe did not end within {PROBE_LIMIT:?}")]
    Timeout,
    #[error("the probe was abandoned")]
    Abandoned(#[source] tokio::task::JoinError),
}

/// Finds out how the pods of each of the node's handlers are frozen. A good result is kept for these runtime binaries,
/// kernel and boot; a bad one is found out again at the next start. Needs a containerd that answers and has the pause
/// image.
pub async fn probe_all(host: &Host, runtime: &dyn PodRuntime) -> Vec<HandlerStatus> {
    let mut found = Vec::new();
    for handler in host.runtimes() {
        found.push(probe_freeze(host, runtime, *handler).await);
    }
    found
}

/// Finds out how the pods of one handler are frozen.
pub async fn probe_freeze(
    host: &Host,
    runtime: &dyn PodRuntime,
    handler: Runtime,
) -> HandlerStatus {
    let probe = Probe {
        host,
        runtime,
        handler,
    };
    let status = |freeze_method: String, message: String| HandlerStatus {
        name: handler.handler().to_owned(),
        freeze_method,
        message,
    };
    match probe.find().await {
        Ok(method) => status(method, String::new()),
        Err(error) => {
            let message = format!(
                "Pods are not frozen, because the probe failed: {}",
                ErrorChain(&error)
            );
            warn!(%handler, message);
            status(String::new(), message)
        }
    }
}

/// The probe of one handler.
struct Probe<'a> {
    host: &'a Host,
    runtime: &'a dyn PodRuntime,
    handler: Runtime,
}

impl Probe<'_> {
    async fn find(&self) -> Result<String, ProbeError> {
        let (owned, handler) = (self.host.clone(), self.handler);
        let key = tokio::task::spawn_blocking(move || key(&owned, handler))
            .await
            .map_err(ProbeError::Abandoned)?
            .map_err(ProbeError::Key)?;
        let kept = load(&self.host.paths().probes());
        let name = self.handler.handler();
        if let Some(finding) = kept.get(name).filter(|finding| finding.key == key) {
            return Ok(finding.freeze_method.clone());
        }
        self.remove_leftovers().await;
        let found = match tokio::time::timeout(PROBE_LIMIT, self.run()).await {
            Ok(found) => found,
            Err(_elapsed) => Err(ProbeError::Timeout),
        };
        self.remove_leftovers().await;
        let freeze_method = found?;
        info!(handler = %self.handler, freeze_method, "probed how pods are frozen");
        let finding = Finding {
            key,
            freeze_method: freeze_method.clone(),
        };
        store(&self.host.paths().probes(), kept, name, finding);
        Ok(freeze_method)
    }

    /// Runs a pod that waits for requests, and freezes and thaws it.
    async fn run(&self) -> Result<String, ProbeError> {
        let uid = format!("probe-{}", uuid::Uuid::new_v4());
        let cgroup = self.host.cgroups().pod(&uid).map_err(ProbeError::Cgroup)?;
        cgroup.create().map_err(ProbeError::Cgroup)?;
        let config = self.pod(&uid, cgroup.path());
        let sandbox = self
            .runtime
            .run_pod_sandbox(config.clone(), self.handler.handler())
            .await
            .map_err(ProbeError::Runtime)?;
        let container = self
            .runtime
            .create_container(&sandbox, self.container(), config)
            .await
            .map_err(ProbeError::Runtime)?;
        self.runtime
            .start_container(&container)
            .await
            .map_err(ProbeError::Runtime)?;
        let target = FreezeTarget {
            pod: PodUid(uid),
            handler: self.handler.handler().to_owned(),
            sandbox: sandbox.clone(),
            containers: vec![container.clone()],
        };
        let method = self.cycles(target).await?;
        self.check_alive(&sandbox, &container).await?;
        Ok(method)
    }

    async fn cycles(&self, target: FreezeTarget) -> Result<String, ProbeError> {
        let container = target.containers.first().cloned().unwrap_or_default();
        let freezers = self.host.freezers();
        let freezer = tokio::task::spawn_blocking(move || freezers.of(&target))
            .await
            .map_err(ProbeError::Abandoned)?
            .map_err(ProbeError::NoFreezer)?;
        self.ask(&container, 0).await?;
        for cycle in 1..=CYCLES {
            let freezer = Arc::clone(&freezer);
            tokio::task::spawn_blocking(move || one_cycle(freezer.as_ref(), cycle))
                .await
                .map_err(ProbeError::Abandoned)??;
            self.ask(&container, cycle).await?;
        }
        Ok(freezer.method().as_str().to_owned())
    }

    /// Has the pod answer a request.
    async fn ask(&self, container: &str, cycles: u32) -> Result<(), ProbeError> {
        let request = REQUEST.map(str::to_owned).to_vec();
        let answer = self
            .runtime
            .exec_sync(container, request, ANSWER_LIMIT)
            .await
            .map_err(|source| ProbeError::Silent { cycles, source })?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let said = [answer.stdout, answer.stderr].concat();
        Err(ProbeError::Answer {
            cycles,
            code: answer.exit_code,
            said: String::from_utf8_lossy(&said).trim().to_owned(),
        })
    }

    /// The pod and its container are those that were started.
    async fn check_alive(&self, sandbox: &str, container: &str) -> Result<(), ProbeError> {
        let pod = self.runtime.pod_sandbox_status(sandbox).await;
        let pod = pod.map_err(ProbeError::Runtime)?.unwrap_or_default();
        let status = self.runtime.container_status(container).await;
        let status = status.map_err(ProbeError::Runtime)?.unwrap_or_default();
        let alive = pod.id == sandbox
            && pod.state() == v1::PodSandboxState::SandboxReady
            && status.state() == v1::ContainerState::ContainerRunning;
        if alive { Ok(()) } else { Err(ProbeError::Dead) }
    }

    /// A pod without a network of its own, which it does not need.
    fn pod(&self, uid: &str, cgroup: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: format!("freeze-probe-{}", self.handler),
                namespace: "hearth-system".to_owned(),
                uid: uid.to_owned(),
                attempt: 0,
            }),
            labels: [(LABEL.to_owned(), self.handler.to_string())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: cgroup.to_owned(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: v1::NamespaceMode::Node.into(),
                        ..v1::NamespaceOption::default()
                    }),
                    ..v1::LinuxSandboxSecurityContext::default()
                }),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        }
    }

    fn container(&self) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "probed".to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: self.host.pause_image().to_owned(),
                ..v1::ImageSpec::default()
            }),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: v1::NamespaceMode::Node.into(),
                        pid: v1::NamespaceMode::Container.into(),
                        ..v1::NamespaceOption::default()
                    }),
                    ..v1::LinuxContainerSecurityContext::default()
                }),
                ..v1::LinuxContainerConfig::default()
            }),
            ..v1::ContainerConfig::default()
        }
    }

    /// Removes the pods of this and of earlier probes.
    async fn remove_leftovers(&self) {
        let filter = v1::PodSandboxFilter {
            label_selector: [(LABEL.to_owned(), self.handler.to_string())].into(),
            ..v1::PodSandboxFilter::default()
        };
        let remove = async {
            for pod in self.runtime.list_pod_sandboxes(filter).await? {
                let uid = pod.metadata.unwrap_or_default().uid;
                self.thaw(&pod.id, &uid).await;
                self.runtime.stop_pod_sandbox(&pod.id).await?;
                self.runtime.remove_pod_sandbox(&pod.id).await?;
                self.remove_cgroup(&uid).await;
            }
            Ok::<_, CriError>(())
        };
        if let Err(error) = remove.await {
            warn!(error = %ErrorChain(&error), "the pod of a freeze probe was not removed");
        }
    }

    /// Thaws what a probe has left frozen: it could not be stopped.
    async fn thaw(&self, sandbox: &str, uid: &str) {
        let filter = v1::ContainerFilter {
            pod_sandbox_id: sandbox.to_owned(),
            ..v1::ContainerFilter::default()
        };
        let containers = self.runtime.list_containers(filter).await;
        let containers = containers.unwrap_or_default();
        let target = FreezeTarget {
            pod: PodUid::from(uid),
            handler: self.handler.handler().to_owned(),
            sandbox: sandbox.to_owned(),
            containers: containers.into_iter().map(|c| c.id).collect(),
        };
        let freezers = self.host.freezers();
        let thaw = move || match freezers.of(&target) {
            Ok(freezer) => freezer.thaw(FREEZE_LIMIT),
            Err(_no_freezer) => Ok(()),
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(thaw).await {
            warn!(error = %ErrorChain(&error), "the pod of a freeze probe was not thawed");
        }
    }

    async fn remove_cgroup(&self, uid: &str) {
        let Ok(cgroup) = self.host.cgroups().pod(uid) else {
            return;
        };
        let removed = tokio::task::spawn_blocking(move || cgroup.remove(CGROUP_LIMIT)).await;
        if let Ok(Err(error)) = removed {
            warn!(error = %ErrorChain(&error), "the cgroup of a freeze probe was not removed");
        }
    }
}

fn one_cycle(freezer: &dyn Freezer, cycle: u32) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Freeze { cycle, source };
    freezer.freeze(FREEZE_LIMIT).map_err(failed)?;
    let frozen = freezer.is_frozen().map_err(failed)?;
    freezer.thaw(FREEZE_LIMIT).map_err(failed)?;
    let state = if frozen { "frozen" } else { "running" };
    if !frozen || freezer.is_frozen().map_err(failed)? {
        return Err(ProbeError::Unconfirmed { cycle, state });
    }
    Ok(())
}

fn key(host: &Host, handler: Runtime) -> Result<Key, HostError> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map_err(|source| HostError::io("read", Path::new(path), source))
    };
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    let programs = handler.programs().iter();
    let digests: Vec<_> = programs
        .map(|program| files::digest(&host.program(program)))
        .collect::<Result<_, _>>()?;
    Ok(Key {
        binary_digest: files::digest_of(&digests.concat()),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        boot_id: boot::boot_id().map_err(|source| HostError::io("read", boot, source))?,
    })
}

/// What was found out before, by handler. A file that cannot be read costs one more probe.
fn load(path: &Path) -> BTreeMap<String, Finding> {
    let content = files::read_if_exists(path).ok().flatten();
    content
        .and_then(|content| serde_json::from_slice(&content).ok())
        .unwrap_or_default()
}

fn store(path: &Path, mut kept: BTreeMap<String, Finding>, handler: &str, finding: Finding) {
    kept.insert(handler.to_owned(), finding);
    let stored = serde_json::to_vec(&kept)
        .map_err(|error| HostError::io("write", path, io::Error::other(error)))
        .and_then(|content| files::write(path, &content));
    if let Err(error) = stored {
        warn!(error = %ErrorChain(&error), "how pods are frozen is not remembered and will be probed again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        assert!(load(&path).is_empty());
        let finding = |method: &str| Finding {
            key: Key {
                binary_digest: "d".to_owned(),
                kernel: "6".to_owned(),
                boot_id: "b".to_owned(),
            },
            freeze_method: method.to_owned(),
        };
        store(&path, load(&path), "runc", finding("cgroup-v2"));
        store(&path, load(&path), "runsc", finding("sentry"));
        let kept = load(&path);
        assert_eq!(kept.get("runc"), Some(&finding("cgroup-v2")));
        assert_eq!(kept.get("runsc"), Some(&finding("sentry")));
        std::fs::write(&path, "damaged").unwrap();
        assert!(load(&path).is_empty());
    }
}

//! Whether pods can be frozen here, found out with a throw-away pod.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_api::HandlerStatus;
use hearth_cri::{CriError, PodRuntime, v1};
use hearth_sys::cgroup::Version;
use hearth_sys::{Cgroup, CgroupError, FreezeError, boot};
use hearth_telemetry::ErrorChain;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Host, HostError, RUNC, files};

/// How often the pod is frozen and thawed.
const CYCLES: u32 = 10;
/// How long one freeze or thaw may take.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// How long all of it may take, the pod's removal not counted. Half a second is usual.
const PROBE_LIMIT: Duration = Duration::from_secs(20);
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
    #[error("cycle {cycle} of {CYCLES}")]
    Freeze {
        cycle: u32,
        #[source]
        source: FreezeError,
    },
    #[error("cycle {cycle} of {CYCLES}: the kernel says that the pod is {state}")]
    Unconfirmed { cycle: u32, state: &'static str },
    #[error("the pod did not survive being frozen")]
    Dead,
    #[error("the probe did not end within {PROBE_LIMIT:?}")]
    Timeout,
    #[error("the probe was abandoned")]
    Abandoned(#[source] tokio::task::JoinError),
}

/// Finds out how pods of the handler `runc` are frozen. A good result is kept for this runtime binary, kernel and
/// boot; a bad one is found out again at the next start. Needs a containerd that answers and has the pause image.
pub async fn probe_freeze(host: &Host, runtime: &dyn PodRuntime) -> HandlerStatus {
    let status = |freeze_method: String, message: String| HandlerStatus {
        name: RUNC.to_owned(),
        freeze_method,
        message,
    };
    match probe(host, runtime).await {
        Ok(method) => status(method, String::new()),
        Err(error) => {
            let message = format!(
                "Pods are not frozen, because the probe failed: {}",
                ErrorChain(&error)
            );
            warn!(handler = RUNC, message);
            status(String::new(), message)
        }
    }
}

async fn probe(host: &Host, runtime: &dyn PodRuntime) -> Result<String, ProbeError> {
    let owned = host.clone();
    let key = tokio::task::spawn_blocking(move || key(&owned))
        .await
        .map_err(ProbeError::Abandoned)?
        .map_err(ProbeError::Key)?;
    let kept = load(&host.paths().probes());
    if let Some(finding) = kept.get(RUNC).filter(|finding| finding.key == key) {
        return Ok(finding.freeze_method.clone());
    }
    remove_leftovers(host, runtime).await;
    let uid = format!("probe-{}", uuid::Uuid::new_v4());
    let found = match tokio::time::timeout(PROBE_LIMIT, run(host, runtime, &uid)).await {
        Ok(found) => found,
        Err(_elapsed) => Err(ProbeError::Timeout),
    };
    remove_leftovers(host, runtime).await;
    let freeze_method = found?;
    info!(handler = RUNC, freeze_method, "probed how pods are frozen");
    store(
        &host.paths().probes(),
        kept,
        &Finding {
            key,
            freeze_method: freeze_method.clone(),
        },
    );
    Ok(freeze_method)
}

/// Runs a pod that only pauses, and freezes and thaws it.
async fn run(host: &Host, runtime: &dyn PodRuntime, uid: &str) -> Result<String, ProbeError> {
    let cgroup = host.cgroups().pod(uid).map_err(ProbeError::Cgroup)?;
    cgroup.create().map_err(ProbeError::Cgroup)?;
    let id = runtime
        .run_pod_sandbox(pod(uid, &cgroup), RUNC)
        .await
        .map_err(ProbeError::Runtime)?;
    let method = tokio::task::spawn_blocking(move || cycles(&cgroup))
        .await
        .map_err(ProbeError::Abandoned)??;
    let status = runtime
        .pod_sandbox_status(&id)
        .await
        .map_err(ProbeError::Runtime)?;
    match status {
        Some(status) if status.state() == v1::PodSandboxState::SandboxReady => {
            Ok(method.to_owned())
        }
        _ => Err(ProbeError::Dead),
    }
}

fn cycles(cgroup: &Cgroup) -> Result<&'static str, ProbeError> {
    let failed = |cycle| move |source| ProbeError::Freeze { cycle, source };
    let freezer = cgroup.freezer().map_err(failed(0))?;
    for cycle in 1..=CYCLES {
        freezer.freeze(FREEZE_LIMIT).map_err(failed(cycle))?;
        let frozen = freezer.is_frozen().map_err(failed(cycle))?;
        freezer.thaw(FREEZE_LIMIT).map_err(failed(cycle))?;
        let state = if frozen { "frozen" } else { "running" };
        if !frozen || freezer.is_frozen().map_err(failed(cycle))? {
            return Err(ProbeError::Unconfirmed { cycle, state });
        }
    }
    Ok(match freezer.version() {
        Version::V2 => "cgroup-v2",
        Version::V1 => "cgroup-v1",
    })
}

/// A pod without a network of its own, which it does not need.
fn pod(uid: &str, cgroup: &Cgroup) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "freeze-probe".to_owned(),
            namespace: "hearth-system".to_owned(),
            uid: uid.to_owned(),
            attempt: 0,
        }),
        labels: [(LABEL.to_owned(), RUNC.to_owned())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup.path().to_owned(),
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

/// Removes the pods of this and of earlier probes.
async fn remove_leftovers(host: &Host, runtime: &dyn PodRuntime) {
    let filter = v1::PodSandboxFilter {
        label_selector: [(LABEL.to_owned(), RUNC.to_owned())].into(),
        ..v1::PodSandboxFilter::default()
    };
    let remove = async {
        for pod in runtime.list_pod_sandboxes(filter).await? {
            runtime.stop_pod_sandbox(&pod.id).await?;
            runtime.remove_pod_sandbox(&pod.id).await?;
            remove_cgroup(host, &pod.metadata.unwrap_or_default().uid).await;
        }
        Ok::<_, CriError>(())
    };
    if let Err(error) = remove.await {
        warn!(error = %ErrorChain(&error), "the pod of a freeze probe was not removed");
    }
}

async fn remove_cgroup(host: &Host, uid: &str) {
    let Ok(cgroup) = host.cgroups().pod(uid) else {
        return;
    };
    let removed = tokio::task::spawn_blocking(move || cgroup.remove(CGROUP_LIMIT)).await;
    if let Ok(Err(error)) = removed {
        warn!(error = %ErrorChain(&error), "the cgroup of a freeze probe was not removed");
    }
}

fn key(host: &Host) -> Result<Key, HostError> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map_err(|source| HostError::io("read", Path::new(path), source))
    };
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(Key {
        binary_digest: files::digest(&host.program(RUNC))?,
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

fn store(path: &Path, mut kept: BTreeMap<String, Finding>, finding: &Finding) {
    kept.insert(RUNC.to_owned(), finding.clone());
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
        let finding = Finding {
            key: Key {
                binary_digest: "d".to_owned(),
                kernel: "6".to_owned(),
                boot_id: "b".to_owned(),
            },
            freeze_method: "cgroup-v2".to_owned(),
        };
        store(&path, BTreeMap::new(), &finding);
        assert_eq!(load(&path).get(RUNC), Some(&finding));
        std::fs::write(&path, "damaged").unwrap();
        assert!(load(&path).is_empty());
    }
}

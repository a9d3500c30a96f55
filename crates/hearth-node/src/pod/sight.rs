//! Looking at what the runtime has of a sandbox.

use std::collections::HashMap;
use std::time::Duration;

use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::sandbox::{Life, Pod, SeenContainer, SeenLife, SeenSandbox, Sighting};
use hearth_cri::{CriError, PodRuntime, v1};

use super::cell::Listing;
use super::cri_config::{LABEL_BOUND_ENV, LABEL_INSTANCE, LABEL_SANDBOX_UID};

/// Lists what the runtime has under the sandbox's uid. Of what `known` knows already nothing more is asked.
pub(super) async fn look(
    runtime: &dyn PodRuntime,
    uid: &SandboxUid,
    known: Option<&Pod>,
) -> Result<Sighting, CriError> {
    let selector = HashMap::from([(LABEL_SANDBOX_UID.to_owned(), uid.0.clone())]);
    let filter = v1::PodSandboxFilter {
        label_selector: selector.clone(),
        ..Default::default()
    };
    // Sandboxes last: a container whose sandbox is missing from an older list would be taken for a leftover.
    let containers = runtime
        .list_containers(v1::ContainerFilter {
            label_selector: selector,
            ..Default::default()
        })
        .await?;
    let sandboxes = runtime.list_pod_sandboxes(filter).await?;
    let mut sighting = Sighting::default();
    for sandbox in sandboxes {
        let ready = sandbox.state == v1::PodSandboxState::SandboxReady as i32;
        let metadata = sandbox.metadata.unwrap_or_default();
        let knows_ips = known.is_some_and(|pod| {
            !pod.ips.is_empty() && pod.sandbox.id() == Some(sandbox.id.as_str())
        });
        let ips = if ready && !knows_ips {
            addresses(runtime, &sandbox.id).await?
        } else {
            Vec::new()
        };
        let pod_uid = PodUid(metadata.uid);
        sighting.sandboxes.push(SeenSandbox {
            id: sandbox.id,
            pod_uid,
            attempt: metadata.attempt,
            ready,
            ips,
        });
    }
    for container in containers {
        let Some(life) = life(runtime, &container, known).await? else {
            continue;
        };
        let metadata = container.metadata.unwrap_or_default();
        sighting.containers.push(SeenContainer {
            id: container.id,
            sandbox_id: container.pod_sandbox_id,
            name: metadata.name,
            attempt: metadata.attempt,
            with_env: container.labels.contains_key(LABEL_BOUND_ENV),
            life,
        });
    }
    Ok(sighting)
}

/// Addresses of a sandbox; empty when it is gone.
pub(super) async fn addresses(
    runtime: &dyn PodRuntime,
    sandbox_id: &str,
) -> Result<Vec<String>, CriError> {
    let status = runtime.pod_sandbox_status(sandbox_id).await?;
    let Some(network) = status.and_then(|status| status.network) else {
        return Ok(Vec::new());
    };
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Ok(std::iter::once(network.ip)
        .chain(more)
        .filter(|ip| !ip.is_empty())
        .collect())
}

/// Where a container is in its life; `None` when it is gone by now.
async fn life(
    runtime: &dyn PodRuntime,
    container: &v1::Container,
    known: Option<&Pod>,
) -> Result<Option<SeenLife>, CriError> {
    let state = v1::ContainerState::try_from(container.state)
        .unwrap_or(v1::ContainerState::ContainerUnknown);
    Ok(match state {
        v1::ContainerState::ContainerCreated => Some(SeenLife::Created),
        v1::ContainerState::ContainerRunning => Some(SeenLife::Running),
        v1::ContainerState::ContainerUnknown => Some(SeenLife::Unknown),
        v1::ContainerState::ContainerExited => match known_code(known, &container.id) {
            Some(code) => Some(SeenLife::Exited {
                code,
                ran_for: Duration::ZERO,
                reason: String::new(),
            }),
            None => runtime
                .container_status(&container.id)
                .await?
                .map(|status| exited(&status)),
        },
    })
}

/// Exit code of what was replaced. How that ended in truth is nothing to anybody: it was killed by this daemon.
const KILLED: i32 = 137;

/// The code of a container that is known to have ended.
pub(super) fn known_code(known: Option<&Pod>, container_id: &str) -> Option<i32> {
    known?.containers.iter().find_map(
        |container| match (&container.life, &container.predecessor) {
            (Life::Exited { id, code }, _) if id == container_id => Some(*code),
            (_, Some(predecessor)) if predecessor.id == container_id => Some(KILLED),
            _ => None,
        },
    )
}

fn exited(status: &v1::ContainerStatus) -> SeenLife {
    let ran_for = status.finished_at.saturating_sub(status.started_at);
    let ran_for = if status.started_at > 0 {
        u64::try_from(ran_for).unwrap_or(0)
    } else {
        0
    };
    let reason = match (status.reason.as_str(), status.message.as_str()) {
        // What every container says that ended by itself is no news.
        ("Completed" | "Error", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    };
    SeenLife::Exited {
        code: status.exit_code,
        ran_for: Duration::from_nanos(ran_for),
        reason,
    }
}

/// Everything that this instance has at the runtime, by sandbox.
pub(super) async fn list_all(
    runtime: &dyn PodRuntime,
    instance: &str,
) -> Result<HashMap<SandboxUid, Found>, CriError> {
    let selector = HashMap::from([(LABEL_INSTANCE.to_owned(), instance.to_owned())]);
    let filter = v1::PodSandboxFilter {
        label_selector: selector.clone(),
        ..Default::default()
    };
    let containers = runtime
        .list_containers(v1::ContainerFilter {
            label_selector: selector,
            ..Default::default()
        })
        .await?;
    let sandboxes = runtime.list_pod_sandboxes(filter).await?;
    let mut found: HashMap<SandboxUid, Found> = HashMap::new();
    for mut sandbox in sandboxes {
        let uid = SandboxUid(sandbox.labels.remove(LABEL_SANDBOX_UID).unwrap_or_default());
        let entry = found.entry(uid).or_default();
        entry.pods.push((
            sandbox.id.clone(),
            PodUid(sandbox.metadata.unwrap_or_default().uid),
        ));
        entry.listing.sandboxes.push((
            sandbox.id,
            sandbox.state == v1::PodSandboxState::SandboxReady as i32,
        ));
    }
    for mut container in containers {
        let uid = SandboxUid(
            container
                .labels
                .remove(LABEL_SANDBOX_UID)
                .unwrap_or_default(),
        );
        let running = container.state == v1::ContainerState::ContainerRunning as i32;
        found
            .entry(uid)
            .or_default()
            .listing
            .containers
            .push((container.id, running));
    }
    Ok(found)
}

/// What the runtime has of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// CRI sandboxes: id and the pod's uid.
    pub(super) pods: Vec<(String, PodUid)>,
    /// All ids and whether they run.
    pub(super) listing: Listing,
}

//! Following the runtime: its events, a list after each reconnect, and the slow resync behind them.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::restart::doubled;
use hearth_cri::{CriError, v1};
use hearth_telemetry::ErrorChain;
use rand::Rng;
use tokio::time::{Instant, sleep};

use super::cri_config::LABEL_SANDBOX_UID;
use super::logs;
use super::manager::Shared;
use super::sight;
use super::work::{Orphan, remove_orphan};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Follows container events. There is no replay: after each subscription everything is looked at.
pub(super) async fn events(shared: &Arc<Shared>) -> Infallible {
    let mut failures = 0;
    loop {
        match shared.runtime.container_events().await {
            Ok(mut events) => {
                failures = 0;
                shared.tell_all(|inbox| {
                    inbox.changed = true;
                    inbox.retry = true;
                });
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => tell(shared, &event),
                        Err(error) => {
                            tracing::warn!(error = %ErrorChain(&error), "container events ended");
                            break;
                        }
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "container events cannot be had");
            }
        }
        sleep(doubled(FIRST_RETRY, failures, LONGEST_RETRY)).await;
        failures += 1;
    }
}

/// Tells the sandbox whose container has ended. The other events are answers to what its runner did itself, and so is the
/// end of a container that it replaces: somebody waits for the next one, and a look at what there is would come first.
fn tell(shared: &Shared, event: &v1::ContainerEventResponse) {
    if event.container_event_type != v1::ContainerEventType::ContainerStoppedEvent as i32 {
        return;
    }
    let uid = event
        .pod_sandbox_status
        .as_ref()
        .and_then(|status| status.labels.get(LABEL_SANDBOX_UID));
    let cell = uid.and_then(|uid| shared.cells.read().get(&SandboxUid(uid.clone())).cloned());
    if let Some(cell) = cell.filter(|cell| !cell.is_killing(&event.container_id)) {
        cell.tell(|inbox| inbox.changed = true);
    }
}

/// Compares everything with what the runtime has, now and then. Events are what drives; this is behind them, and counts
/// what they missed.
pub(super) async fn resync(shared: &Arc<Shared>) -> Infallible {
    loop {
        // Nodes that were started together do not resync together.
        let jitter = rand::rng().random_range(0.8..1.2);
        sleep(shared.config.resync.mul_f64(jitter)).await;
        let at = Instant::now();
        match sight::list_all(shared.runtime.as_ref(), &shared.config.instance).await {
            Ok(found) => {
                shared.metrics.resynced();
                let cells: Vec<_> = shared.cells.read().values().cloned().collect();
                let known: HashSet<SandboxUid> =
                    cells.iter().map(|cell| cell.uid.clone()).collect();
                for cell in cells {
                    let listing = found
                        .get(&cell.uid)
                        .map(|found| found.listing.clone())
                        .unwrap_or_default();
                    cell.tell(|inbox| inbox.listing = Some((at, listing)));
                }
                for (uid, found) in found.into_iter().filter(|(uid, _)| !known.contains(uid)) {
                    // It may have come and been heard of since.
                    if !shared.cells.read().contains_key(&uid) {
                        remove_all(shared, &uid, found.pods).await;
                    }
                }
            }
            Err(error) => tracing::warn!(error = %ErrorChain(&error), "resync"),
        }
    }
}

/// Removes what is ours and no record names: pods at the runtime, then what is left of others on the host.
pub(super) async fn remove_unrecorded(
    shared: &Arc<Shared>,
    owners: &HashSet<SandboxUid>,
    pods: &HashSet<PodUid>,
) {
    let found = match list_with_patience(shared).await {
        Ok(found) => found,
        Err(error) => {
            // What cannot be listed is found by a resync.
            tracing::warn!(error = %ErrorChain(&error), "pods that no record names could not be looked for");
            return;
        }
    };
    let mut at_runtime = HashSet::new();
    for (uid, found) in found {
        at_runtime.extend(found.pods.iter().map(|(_, pod)| pod.clone()));
        if !owners.contains(&uid) {
            remove_all(shared, &uid, found.pods).await;
        }
    }
    let (logs, of) = (shared.config.logs_dir.clone(), Arc::clone(shared));
    let recorded = owners.clone();
    let is_known =
        move |uid: &SandboxUid| recorded.contains(uid) || of.cells.read().contains_key(uid);
    let removed = tokio::task::spawn_blocking(move || logs::remove_orphans(&logs, is_known));
    if let Err(error) = removed.await {
        tracing::warn!(%error, "logs of sandboxes that are gone could not be looked for");
    }
    let host = Arc::clone(&shared.host);
    let on_host = match tokio::task::spawn_blocking(move || host.pods()).await {
        Ok(Ok(on_host)) => on_host,
        Ok(Err(error)) => {
            tracing::warn!(error = %ErrorChain(&error), "what pods left on the host could not be looked for");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "what pods left on the host could not be looked for");
            return;
        }
    };
    for pod in on_host
        .into_iter()
        .filter(|pod| !pods.contains(pod) && !at_runtime.contains(pod))
    {
        let orphan = Orphan {
            sandbox: None,
            pod,
            owner: SandboxUid(String::new()),
        };
        remove_orphan(shared, &orphan).await;
    }
}

async fn list_with_patience(
    shared: &Shared,
) -> Result<std::collections::HashMap<SandboxUid, sight::Found>, CriError> {
    let mut failures = 0;
    loop {
        match sight::list_all(shared.runtime.as_ref(), &shared.config.instance).await {
            Err(error) if error.is_retryable() && failures < 8 => {
                sleep(doubled(FIRST_RETRY, failures, LONGEST_RETRY)).await;
                failures += 1;
            }
            result => return result,
        }
    }
}

async fn remove_all(shared: &Shared, owner: &SandboxUid, pods: Vec<(String, PodUid)>) {
    for (sandbox, pod) in pods {
        let orphan = Orphan {
            sandbox: Some(sandbox),
            pod,
            owner: owner.clone(),
        };
        remove_orphan(shared, &orphan).await;
    }
}

//! Pods that take more of the disk than they may.
//!
//! No event tells how much a directory holds, so that those who have a limit are measured again and again, as a kubelet
//! does it. Only they, and only while their processes run: who stands frozen writes nothing. One pod after the other on
//! one thread, so that measuring never takes more than a share of one core.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::Tier;
use hearth_core::ids::PodUid;
use hearth_core::podspec::PodPlan;
use hearth_core::storage::{ContainerStorage, PodStorage, exceeded};
use hearth_telemetry::ErrorChain;
use rand::Rng as _;
use tokio::time::sleep;

use super::cell::{Cell, Made};
use super::host::{HostError, PodHost};
use super::manager::Shared;
use crate::log_files;

/// Measures the pods that have limits, from time to time, and has those evicted that exceed them. Never ends.
pub(super) async fn watch(shared: &Arc<Shared>) -> std::convert::Infallible {
    loop {
        sleep(jittered(shared.config.measure)).await;
        let cells: Vec<_> = shared.cells.read().values().map(Arc::clone).collect();
        let measured: Vec<_> = cells
            .into_iter()
            .filter_map(|cell| Measured::of(shared, cell))
            .collect();
        if measured.is_empty() {
            continue;
        }
        let host = Arc::clone(&shared.host);
        let found = tokio::task::spawn_blocking(move || measure_all(host.as_ref(), measured)).await;
        let excesses = match found {
            Ok(Ok(excesses)) => excesses,
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot measure what pods take of the disk");
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "the thread that measures disks has ended");
                continue;
            }
        };
        for (cell, pod, why) in excesses {
            cell.tell(|inbox| inbox.evict = Some((pod, why)));
        }
    }
}

/// Up to a tenth longer or shorter, so that many nodes do not do the same at the same time.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// A pod that is to be measured.
struct Measured {
    cell: Arc<Cell>,
    pod: PodUid,
    plan: Arc<PodPlan>,
    /// Names and ids.
    containers: Vec<(String, String)>,
    logs: PathBuf,
    volumes: PathBuf,
}

impl Measured {
    /// `None` for one without limits, and for one that writes nothing now.
    fn of(shared: &Shared, cell: Arc<Cell>) -> Option<Self> {
        let view = cell.view();
        let pod = view.pod_uid.clone()?;
        let writes = view.tier == Some(Tier::Running);
        let Made {
            plan, containers, ..
        } = cell.made();
        let plan = plan.filter(|plan| writes && plan.limits_storage())?;
        let logs = log_files::directory(&shared.config.logs_dir, &view.key, &cell.uid);
        let volumes = shared.host.volumes(&pod);
        Some(Self {
            cell,
            pod,
            plan,
            containers,
            logs,
            volumes,
        })
    }

    fn measure(
        &self,
        host: &dyn PodHost,
        layers: &HashMap<String, PathBuf>,
    ) -> Result<PodStorage, HostError> {
        let mut used = PodStorage::default();
        for volume in self.plan.volumes.iter().filter(|volume| !volume.memory) {
            let bytes = host.measure(&self.volumes.join(&volume.name))?.bytes;
            used.volumes.insert(volume.name.clone(), bytes);
        }
        for plan in &self.plan.containers {
            let mut ids = self.containers.iter();
            let id = ids.find(|(name, _)| *name == plan.name).map(|(_, id)| id);
            let layer = match id.and_then(|id| layers.get(id)) {
                Some(layer) => host.measure(layer)?.bytes,
                None => 0,
            };
            let logs = host.measure(&self.logs.join(&plan.name))?.bytes;
            let container = ContainerStorage { layer, logs };
            used.containers.insert(plan.name.clone(), container);
        }
        Ok(used)
    }
}

/// The pods that exceed a limit, and which. One that cannot be measured does not hold up the others.
fn measure_all(
    host: &dyn PodHost,
    pods: Vec<Measured>,
) -> Result<Vec<(Arc<Cell>, PodUid, String)>, HostError> {
    let layers = host.layers()?;
    let mut excesses = Vec::new();
    for pod in pods {
        match pod.measure(host, &layers) {
            Ok(used) => {
                let why = exceeded(&pod.plan, &used);
                excesses.extend(why.map(|why| (pod.cell, pod.pod, why)));
            }
            Err(error) => {
                tracing::warn!(pod = %pod.pod, error = %ErrorChain(&error), "cannot measure what a pod takes of the disk");
            }
        }
    }
    Ok(excesses)
}

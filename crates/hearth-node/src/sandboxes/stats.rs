//! What sandboxes use, from the cgroups of their pods.

use std::sync::Arc;

use hearth_core::ids::PodUid;
use hearth_proto::sandboxes::v1 as proto;
use hearth_sys::Usage;

use super::error::Refusal;
use super::look::pod;
use super::{Shared, show};
use crate::pod::PodView;

/// Of one sandbox, or of all that have a pod.
pub(super) async fn stats(
    shared: &Shared,
    request: proto::StatsRequest,
) -> Result<proto::StatsResponse, Refusal> {
    let pods = &shared.node()?.pods;
    let views = views(shared, &request.sandbox)?;
    let with_pod = |view: Arc<PodView>| Some((view.pod_uid.clone()?, view));
    let (uids, views): (Vec<PodUid>, Vec<_>) = views.into_iter().filter_map(with_pod).unzip();
    let usages = pods.usages(uids).await.map_err(Refusal::Thread)?;
    let mut sandboxes = Vec::new();
    for (view, usage) in views.iter().zip(usages) {
        let usage = usage.map_err(|source| Refusal::Host {
            key: view.key.clone(),
            source: Box::new(source),
        })?;
        // One that is gone by now uses nothing.
        sandboxes.extend(usage.map(|usage| stat(view, usage)));
    }
    Ok(proto::StatsResponse { sandboxes })
}

fn views(shared: &Shared, name: &str) -> Result<Vec<Arc<PodView>>, Refusal> {
    if name.is_empty() {
        return Ok(shared.views());
    }
    let view = shared.find(name)?;
    // Of all, those without a pod are left out; of one, an empty answer would say nothing.
    pod(&view)?;
    Ok(vec![view])
}

fn stat(view: &PodView, usage: Usage) -> proto::SandboxStats {
    proto::SandboxStats {
        uid: view.uid.0.clone(),
        namespace: view.key.namespace.clone(),
        name: view.key.name.clone(),
        tier: view.tier.map_or("", show::tier).to_owned(),
        cpu_micros: usage.cpu_micros,
        memory_bytes: usage.memory_bytes,
        working_set_bytes: usage.working_set_bytes,
        tasks: usage.pids,
        swap_bytes: usage.swap_bytes,
    }
}

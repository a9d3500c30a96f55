//! Finding out whether a pod is frozen that an earlier daemon has left.

use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::{Key, PodUid};
use hearth_core::sandbox::Residency;
use hearth_sys::{FreezeError, Freezer};
use hearth_telemetry::ErrorChain;

use super::manager::Shared;
use crate::freezers;

/// An attempt at a freezer call for a pod that a restarted daemon found.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// How often one is asked that does not answer, as on a machine that has too much to do, before it is thawed.
const LOOKS: usize = 3;

/// Only that is frozen which was confirmed to be: a freeze that was under way is undone.
pub(super) async fn settle(
    shared: &Arc<Shared>,
    key: &Key,
    pod: PodUid,
    handler: String,
) -> (Option<Arc<dyn Freezer>>, Residency) {
    let target = match freezers::find(shared.runtime.as_ref(), &pod, &handler).await {
        Ok(Some(target)) => target,
        // Nothing that could stand still.
        Ok(None) => return (None, Residency::Running),
        Err(error) => {
            let error = ErrorChain(&error);
            tracing::warn!(sandbox = %key, %error, "it is not known yet whether it is frozen");
            return (None, Residency::Unclear);
        }
    };
    let host = Arc::clone(&shared.host);
    // So many that do not answer would add to what keeps them from it.
    let _permit = shared.freezes.acquire().await;
    let found = tokio::task::spawn_blocking(move || {
        // No freezer: no cgroup or no tasks, so that nothing stands still.
        let Ok(freezer) = host.freezer(&target) else {
            return (None, Residency::Running);
        };
        let residency = match look(freezer.as_ref()) {
            Ok(true) => Residency::Frozen,
            _ if freezer.thaw(SETTLE_WITHIN).is_ok() => Residency::Running,
            _ => Residency::Unclear,
        };
        (Some(freezer), residency)
    });
    // A thread that panicked is answered like a freezer that does.
    found.await.unwrap_or((None, Residency::Unclear))
}

fn look(freezer: &dyn Freezer) -> Result<bool, FreezeError> {
    let mut answer = freezer.is_frozen();
    for _ in 1..LOOKS {
        if !matches!(answer, Err(FreezeError::Silent { .. })) {
            break;
        }
        answer = freezer.is_frozen();
    }
    answer
}

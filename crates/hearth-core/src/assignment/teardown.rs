//! The end of a Sandbox with volumes: its object stays until its pod is gone, so that nothing is wiped under processes.

use hearth_api::constants::TEARDOWN_FINALIZER;
use serde_json::{Value, json};

use super::Decision;
use crate::index::{Index, PodStanding, SandboxRecord};

/// Lets a Sandbox that is marked as deleted go once nothing of it is left.
pub(super) fn decide(index: &Index, record: &SandboxRecord) -> Decision {
    if !record.is_guarded() {
        return Decision::Rest;
    }
    if let Some(at) = record.retry.blocked_until(index.now.mono) {
        return Decision::Until(at);
    }
    match index.pod_standing(record) {
        PodStanding::There => Decision::Rest,
        PodStanding::Unheard(until) => Decision::Until(until),
        PodStanding::Gone => Decision::Finalizers(without(record)),
    }
}

fn without(record: &SandboxRecord) -> Value {
    let others = record.finalizers.iter();
    let others: Vec<_> = others.filter(|name| *name != TEARDOWN_FINALIZER).collect();
    patch(record, &json!(others))
}

/// Makes a Sandbox with volumes stay until its pod is gone.
pub(super) fn guard(record: &SandboxRecord) -> Decision {
    let mut all = record.finalizers.to_vec();
    all.push(TEARDOWN_FINALIZER.to_owned());
    Decision::Finalizers(patch(record, &json!(all)))
}

/// The version makes it fail when somebody else has changed them, because the list is written as a whole.
fn patch(record: &SandboxRecord, finalizers: &Value) -> Value {
    let version = record.version.to_string();
    json!({"metadata": {"uid": record.uid.0, "resourceVersion": version, "finalizers": finalizers}})
}

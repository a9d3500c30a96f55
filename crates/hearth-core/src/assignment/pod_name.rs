//! The annotation that names the pod of a Sandbox: there while it has one, for clients that look for it.
//!
//! The pod has the Sandbox's name. Placement and adoption write the annotation with what they write anyway, so that this
//! is for what is suspended and resumed, and for what somebody has removed. What has expired keeps it, as upstream's does.

use hearth_api::OperatingMode;
use hearth_api::constants::annotation;
use serde_json::json;

use super::is_owned_by_live_node;
use crate::effects::Body;
use crate::index::{Index, SandboxRecord};
use crate::patch;

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodName {
    /// There is a pod, or one is being made.
    Add,
    /// There is none any more.
    Remove,
    /// It names another one than the Pod that the Sandbox controls.
    Untrack,
}

/// Whether the annotation must change.
pub(super) fn decide(index: &Index, record: &SandboxRecord) -> Option<PodName> {
    let is_there = record.marks.pod_name;
    if record.has_no_pod() {
        return is_there.then_some(PodName::Remove);
    }
    // Pools' members have it from their creation, and nobody looks for their pods.
    let has_one = record.mode != OperatingMode::Suspended
        && !record.is_member()
        && is_owned_by_live_node(index, record);
    (has_one && !is_there).then_some(PodName::Add)
}

/// The pod that a Sandbox whose annotation names one has by that.
fn named(record: &SandboxRecord) -> &str {
    let other = record.detail.as_ref().map(|detail| &*detail.other_pod);
    other
        .filter(|name| !name.is_empty())
        .unwrap_or(&record.key.name)
}

/// Whether the annotation names another pod than `pod`, which is the one that the Sandbox has.
pub(super) fn is_misleading(record: &SandboxRecord, pod: &str) -> bool {
    record.marks.pod_name && named(record) != pod
}

impl PodName {
    /// The patch. It fails on another object of that name, and a removal on one that was resumed meanwhile or names
    /// another pod by then.
    pub(super) fn body(self, record: &SandboxRecord) -> Body {
        let uid = record.uid.as_str();
        match self {
            Self::Add => Body::Merge(json!({"metadata": {
                "uid": uid, "annotations": {annotation::POD_NAME: record.key.name},
            }})),
            Self::Remove => Body::Operations(json!([
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "test", "path": "/spec/operatingMode", "value": OperatingMode::Suspended},
                {"op": "remove", "path": patch::annotation(annotation::POD_NAME)},
            ])),
            Self::Untrack => Body::Operations(json!([
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "test", "path": patch::annotation(annotation::POD_NAME), "value": named(record)},
                {"op": "remove", "path": patch::annotation(annotation::POD_NAME)},
            ])),
        }
    }
}

//! What is said of a Sandbox that a Pod of the controller before this one runs, and that therefore gets no node.
//!
//! Only the Pod's metadata is known here. What that controller has said of the Pod stays, so that clients see no change
//! while nothing changes; a condition of ours says why the Sandbox gets no node and what helps.

use hearth_api::OperatingMode;

use super::pod_name::{PodName, is_misleading};
use super::{Decision, words};
use crate::index::{Index, SandboxRecord};
use crate::legacy::OldPods;

/// What is to be done about a Sandbox without a node that controls such Pods.
pub(super) fn decide(index: &Index, record: &SandboxRecord, pods: OldPods<'_>) -> Decision {
    let (name, going) = match pods {
        OldPods::Several(number) => return words::several_pods(index, record, number),
        OldPods::One { name, going } => (name, going),
    };
    let said = match record.mode {
        OperatingMode::Suspended => words::suspending(index, record),
        OperatingMode::Running | OperatingMode::Frozen => {
            words::old_pod(index, record, name, going)
        }
    };
    if said == Decision::Rest && is_misleading(record, name) {
        return Decision::PodName(PodName::Untrack);
    }
    said
}

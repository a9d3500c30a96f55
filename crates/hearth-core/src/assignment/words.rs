//! What a Sandbox says of itself while no live node owns it.
//!
//! There is no pod then, or nobody can tell: what is said of a pod that a node does not answer for is kept, and where
//! nothing was said that it is not known.

use hearth_api::constants::{condition, label, message, reason};
use hearth_api::{Condition, OperatingMode, Time};
use serde_json::{Value, json};

use super::{Decision, is_suspended};
use crate::claim::status::whole_second;
use crate::conditions::{ConditionStatus, find_condition, set_condition};
use crate::ids::NodeName;
use crate::index::{Index, SandboxRecord};
use crate::names::name_hash;
use crate::services;
use crate::status::{ServiceFact, error_seen};

/// What becomes of the fields of the status that are no conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// They stay.
    Keep,
    /// Those that speak of the pod go.
    NoPod,
    /// All go.
    Clear,
}

/// The conditions of a Sandbox on their way to what they shall be.
struct Words<'a> {
    record: &'a SandboxRecord,
    at: Time,
    conditions: Vec<Condition>,
}

impl<'a> Words<'a> {
    fn of(index: &Index, record: &'a SandboxRecord) -> Self {
        let mut words = Self::as_they_are(index, record);
        // Whoever has more to say of it than that a Pod keeps it from a node, says it in its place.
        words.remove(condition::HEARTH_ASSIGNED);
        words
    }

    fn as_they_are(index: &Index, record: &'a SandboxRecord) -> Self {
        let detail = record.detail.as_ref();
        Self {
            record,
            at: whole_second(index.now.wall),
            conditions: detail
                .map(|detail| detail.conditions.clone())
                .unwrap_or_default(),
        }
    }

    fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, text: &str) {
        let generation = Some(self.record.generation);
        set_condition(
            &mut self.conditions,
            type_,
            status,
            reason,
            text,
            generation,
            &self.at,
        );
    }

    fn remove(&mut self, type_: &str) {
        self.conditions.retain(|known| known.type_ != type_);
    }

    fn find(&self, type_: &str) -> Option<&Condition> {
        find_condition(&self.conditions, type_)
    }

    fn not_suspended(&mut self) {
        self.set(
            condition::SUSPENDED,
            ConditionStatus::False,
            reason::NOT_SUSPENDED,
            message::SANDBOX_NOT_SUSPENDED,
        );
    }

    fn pod_terminated(&mut self) {
        self.set(
            condition::SUSPENDED,
            ConditionStatus::True,
            reason::POD_TERMINATED,
            message::POD_TERMINATED,
        );
    }

    /// There is no pod.
    fn no_pod(&mut self) {
        self.remove(condition::POD_SCHEDULED);
        match self.record.mode {
            OperatingMode::Suspended => self.pod_terminated(),
            OperatingMode::Running | OperatingMode::Frozen => self.not_suspended(),
        }
    }

    /// There is a pod, or there is none: its node does not say.
    fn unknown_pod(&mut self) {
        let suspended = self.find(condition::SUSPENDED);
        let is_frozen = suspended.is_some_and(|suspended| suspended.reason == reason::FROZEN);
        match self.record.mode {
            OperatingMode::Suspended => self.set(
                condition::SUSPENDED,
                ConditionStatus::Unknown,
                reason::POD_STATE_UNKNOWN,
                message::POD_STATE_UNKNOWN,
            ),
            OperatingMode::Frozen if is_frozen => {}
            OperatingMode::Running | OperatingMode::Frozen => self.not_suspended(),
        }
        if self.find(condition::POD_SCHEDULED).is_none() {
            self.set(
                condition::POD_SCHEDULED,
                ConditionStatus::Unknown,
                reason::POD_SCHEDULING_UNKNOWN,
                message::POD_SCHEDULING_UNKNOWN,
            );
        }
    }

    /// Says what stands in the way of its Service, as a node says it of a Sandbox of its own. Returns whether anything does.
    fn hindered_by_service(&mut self, index: &Index) -> bool {
        if let Some(fault) = services::fault(index, self.record) {
            self.not_ready(reason::RECONCILER_ERROR, &error_seen(&fault));
            return true;
        }
        let ServiceFact::Impossible(why) = services::fact(index, self.record) else {
            return false;
        };
        self.not_ready(reason::INVALID_CONFIGURATION, &why);
        true
    }

    fn not_ready(&mut self, reason: &str, text: &str) {
        self.set(condition::READY, ConditionStatus::False, reason, text);
    }

    fn write(self, fields: Fields) -> Decision {
        decision(self.record, self.conditions, fields)
    }
}

/// Why it has no node. `intended` is the one that its volumes are being bound for.
pub(super) fn unplaced(
    index: &Index,
    record: &SandboxRecord,
    refused: &str,
    intended: Option<NodeName>,
) -> Decision {
    let mut words = Words::of(index, record);
    words.not_suspended();
    words.set(
        condition::POD_SCHEDULED,
        ConditionStatus::False,
        reason::UNSCHEDULABLE,
        refused,
    );
    if !words.hindered_by_service(index) {
        // To users it is a pod that waits for the scheduler.
        let service = services::fact(index, record);
        words.not_ready(
            reason::DEPENDENCIES_NOT_READY,
            &format!("Pod exists with phase: Pending{}", service.suffix()),
        );
    }
    Decision::Unplaced {
        conditions: words.conditions,
        intended,
    }
}

/// What stands in the way of what belongs to it.
pub(super) fn error(index: &Index, record: &SandboxRecord, fault: &str) -> Decision {
    let mut words = Words::of(index, record);
    if record.node.is_none() || is_suspended(record) {
        words.no_pod();
    } else {
        words.unknown_pod();
    }
    words.not_ready(reason::RECONCILER_ERROR, &error_seen(fault));
    words.write(Fields::Keep)
}

/// It is suspended, and was so before it got a node.
pub(super) fn suspended(index: &Index, record: &SandboxRecord) -> Decision {
    let mut words = Words::of(index, record);
    words.no_pod();
    if !words.hindered_by_service(index) {
        words.not_ready(reason::SANDBOX_SUSPENDED, message::SANDBOX_SUSPENDED);
    }
    words.write(Fields::NoPod)
}

/// A Pod of the controller before this one runs it. What that one has said of the Pod stays, but for what is known to be
/// otherwise.
pub(super) fn old_pod(index: &Index, record: &SandboxRecord, pod: &str, going: bool) -> Decision {
    let mut words = Words::as_they_are(index, record);
    let suspended = words.find(condition::SUSPENDED);
    if suspended.is_none_or(|suspended| suspended.reason != reason::NOT_SUSPENDED) {
        words.not_suspended();
    }
    let doubted = words.find(condition::READY).is_some_and(|ready| {
        [reason::MULTIPLE_PODS, reason::SANDBOX_SUSPENDED].contains(&ready.reason.as_str())
    });
    if going {
        words.not_ready(reason::DEPENDENCIES_NOT_READY, message::POD_NOT_READY);
    } else if doubted {
        // That of a Pod of which nobody knows better.
        words.not_ready(
            reason::DEPENDENCIES_NOT_READY,
            "Pod exists with phase: Unknown",
        );
    }
    let text = if going {
        format!(
            "Pod \"{pod}\" of the old controller is being deleted; the Sandbox gets a node when it is gone"
        )
    } else {
        format!(
            "Pod \"{pod}\" of the old controller is still there; suspend or delete the Sandbox, or run \
             agent-sandbox-controller migrate"
        )
    };
    words.set(
        condition::HEARTH_ASSIGNED,
        ConditionStatus::False,
        reason::OLD_POD_PRESENT,
        &text,
    );
    words.write(Fields::Keep)
}

/// It is to be suspended, and its Pod of the controller before this one is still there.
pub(super) fn suspending(index: &Index, record: &SandboxRecord) -> Decision {
    let mut words = Words::of(index, record);
    words.set(
        condition::SUSPENDED,
        ConditionStatus::False,
        reason::POD_TERMINATING,
        message::POD_TERMINATING,
    );
    words.not_ready(reason::SANDBOX_SUSPENDED, message::SANDBOX_SUSPENDING);
    words.write(Fields::Keep)
}

/// Several Pods are its own, and nobody can tell which one is meant.
pub(super) fn several_pods(index: &Index, record: &SandboxRecord, number: usize) -> Decision {
    let mut words = Words::of(index, record);
    if record.mode == OperatingMode::Suspended {
        words.set(
            condition::SUSPENDED,
            ConditionStatus::Unknown,
            reason::POD_STATE_UNKNOWN,
            message::POD_STATE_UNKNOWN,
        );
    } else {
        words.not_suspended();
    }
    let text = format!(
        "multiple Pods ({number}) are controlled by this Sandbox; refusing to choose or create a Pod"
    );
    words.not_ready(reason::MULTIPLE_PODS, &text);
    words.write(Fields::Keep)
}

/// The node that has its pod does not answer.
pub(super) fn node_lost(index: &Index, record: &SandboxRecord, node: &NodeName) -> Decision {
    let mut words = Words::of(index, record);
    words.unknown_pod();
    let text = format!("Node \"{node}\" does not answer. The state of the Sandbox is unknown");
    words.set(
        condition::READY,
        ConditionStatus::Unknown,
        reason::NODE_LOST,
        &text,
    );
    words.write(Fields::Keep)
}

/// Its time is over. What it was stays as it was, with the generation of then.
pub(super) fn expired(index: &Index, record: &SandboxRecord) -> Decision {
    let mut words = Words::of(index, record);
    if words.find(condition::SUSPENDED).is_none() {
        if record.node.is_none() {
            words.no_pod();
        } else {
            words.unknown_pod();
        }
    }
    words.remove(condition::POD_SCHEDULED);
    words.not_ready(reason::SANDBOX_EXPIRED, message::SANDBOX_EXPIRED);
    words.write(Fields::Clear)
}

/// A write of the status, unless it says that already.
pub(super) fn decision(
    record: &SandboxRecord,
    conditions: Vec<Condition>,
    fields: Fields,
) -> Decision {
    let there = record
        .detail
        .as_ref()
        .map(|detail| detail.fields)
        .unwrap_or_default();
    let left_over = match fields {
        Fields::Keep => false,
        Fields::NoPod => there.pod,
        Fields::Clear => there.pod || there.others,
    };
    let detail = record.detail.as_ref();
    let same = detail.is_some_and(|detail| detail.conditions == conditions);
    if same && !left_over {
        Decision::Rest
    } else {
        Decision::Status(conditions, fields)
    }
}

/// The patch that writes them.
pub(super) fn patch(record: &SandboxRecord, conditions: &[Condition], fields: Fields) -> Value {
    let mut status = json!({"conditions": conditions});
    let gone: &[&str] = match fields {
        Fields::Keep => &[],
        Fields::NoPod => &["podIPs", "nodeName", "node"],
        Fields::Clear => &[
            "podIPs",
            "nodeName",
            "node",
            "selector",
            "service",
            "serviceFQDN",
        ],
    };
    for field in gone {
        status[*field] = Value::Null;
    }
    if fields != Fields::Clear {
        let hash = name_hash(&record.key.name);
        status["selector"] = format!("{}={hash}", label::SANDBOX_NAME_HASH).into();
    }
    // The version keeps it from overwriting what a node that came back has said.
    json!({"metadata": {"resourceVersion": record.version.to_string()}, "status": status})
}

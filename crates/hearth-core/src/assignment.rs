//! The rules of Sandboxes as objects: which node they are assigned to, what their status says while no live node owns
//! them, and how they go.

mod teardown;
mod volumes;

use hearth_api::constants::{annotation, condition, label, message, reason};
use hearth_api::{Condition, OperatingMode, ShutdownPolicy, Time};
use serde_json::{Value, json};

use crate::claim::status::whole_second;
use crate::conditions::{ConditionStatus, set_condition};
use crate::effects::{Body, Intent, Lane, NodeRequest, Subject};
use crate::expiry;
use crate::ids::{Key, NodeName};
use crate::index::{Index, Leaving, SandboxOp, SandboxRecord};
use crate::names::name_hash;
use crate::placement::Newcomer;
use crate::suspension::{self, Suspension};

/// What to do about a Sandbox.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    Rest,
    Until(std::time::Duration),
    /// Give up a creation that nobody ever saw.
    Forget,
    /// Send its creation again.
    CreateAgain,
    /// It must go.
    Leave(Leaving),
    /// Something cannot be done for it, which its node, a live one, says in its status.
    Fault {
        fault: String,
        /// When it is looked at again even if nothing changes.
        until: Option<std::time::Duration>,
    },
    /// Ask its node for leave to delete it.
    Retire(NodeName),
    Delete,
    Place(NodeName),
    /// What holds its object back.
    Finalizers(Value),
    /// Its volumes are not ready.
    Volumes {
        actions: Vec<volumes::Action>,
        /// The node that they are made ready for.
        intended: Option<NodeName>,
    },
    /// It goes to no node now.
    Unplaced {
        /// Says why.
        conditions: Vec<Condition>,
        /// The node that its volumes are being bound for.
        intended: Option<NodeName>,
    },
    /// Nobody uses it, or somebody does again.
    Suspension(Suspension),
    /// No live node owns it: its status is ours to write.
    Status(Vec<Condition>, PodFields),
}

/// What becomes of the fields that speak of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodFields {
    Keep,
    Clear,
}

/// Looks at a Sandbox and collects what must be done.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(id) = index.sandbox_id(key) else {
        return;
    };
    // A member that was put aside may be picked again by now.
    index.refresh(id);
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let decision = decide(index, record);
    let uid = record.uid.0.clone();
    if !matches!(decision, Decision::Unplaced { .. }) {
        index.unplaced.remove(&id);
    }
    match decision {
        Decision::Rest => {}
        Decision::Until(at) => index.wake(Subject::Sandbox(key.clone()), at),
        Decision::Forget => {
            index.drop_placeholder(key);
        }
        Decision::CreateAgain => crate::pool::create_again(index, id),
        Decision::Leave(leaving) => index.doom_id(id, leaving),
        Decision::Fault { fault, until } => {
            crate::attachments::set_fault(index, key, Some(fault));
            if let Some(at) = until {
                index.wake(Subject::Sandbox(key.clone()), at);
            }
        }
        Decision::Retire(node) => {
            index.change_sandbox(id, |record| record.op = Some(SandboxOp::Retiring));
            index.ask(
                node,
                NodeRequest::Retire {
                    sandbox: uid.into(),
                },
            );
        }
        Decision::Delete => write(
            index,
            id,
            Intent::SandboxDelete,
            Lane::Refill,
            Body::Delete { foreground: false },
        ),
        Decision::Place(node) => {
            // The UID makes the patch fail on another object of the same name.
            let labels = json!({label::NODE: node.as_str()});
            let annotations = json!({annotation::POD_NAME: key.name});
            let patch =
                json!({"metadata": {"uid": uid, "labels": labels, "annotations": annotations}});
            write(index, id, Intent::Place, Lane::Answer, Body::Merge(patch));
        }
        Decision::Suspension(suspension) => {
            let Some(record) = index.sandboxes.get(&id) else {
                return;
            };
            let patch = suspension.operations(record);
            write(
                index,
                id,
                Intent::Suspension,
                Lane::Refill,
                Body::Operations(patch),
            );
        }
        Decision::Finalizers(patch) => write(
            index,
            id,
            Intent::Finalizers,
            Lane::Adopt,
            Body::Merge(patch),
        ),
        Decision::Volumes { actions, intended } => {
            if intended.is_some() {
                index.change_sandbox(id, |record| record.intended = intended);
                if actions.is_empty() {
                    // Others are at it: it is looked at again for how long already.
                    index.mark_sandbox(key);
                }
            }
            for action in actions {
                match action {
                    volumes::Action::Claim {
                        key,
                        uid,
                        intent,
                        body,
                    } => index.write_volume(Subject::VolumeClaim(key), &uid, intent, *body),
                    volumes::Action::Keep {
                        volume,
                        uid,
                        claim,
                        patch,
                    } => index.keep_volume(&volume, &uid, &claim, *patch),
                }
            }
        }
        Decision::Unplaced {
            conditions,
            intended,
        } => {
            index.change_sandbox(id, |record| record.intended = intended);
            index.unplaced.insert(id);
            write_status(index, id, &conditions, PodFields::Keep);
        }
        Decision::Status(conditions, fields) => write_status(index, id, &conditions, fields),
    }
}

fn decide(index: &Index, record: &SandboxRecord) -> Decision {
    let now = index.now;
    if !record.exists() {
        return placeholder(index, record);
    }
    if record.is_busy() {
        return Decision::Rest;
    }
    if record.deleting {
        return teardown::decide(index, record);
    }
    if let Some(at) = record.retry.blocked_until(now.mono) {
        return Decision::Until(at);
    }
    if let Some(leaving) = record.leaving {
        return leave(index, record, leaving);
    }
    let shutdown = record
        .detail
        .as_ref()
        .and_then(|detail| Some((detail.shutdown_time?, detail.shutdown_policy)));
    if let Some((at, policy)) = shutdown {
        if expiry::time_left(at, now.wall).is_none() {
            return expired(index, record, policy);
        }
        let decision = assigned(index, record);
        let left = expiry::sleep_towards(at, now.wall);
        return match (decision, left) {
            (Decision::Rest, Some(left)) => Decision::Until(now.mono + left),
            (Decision::Fault { fault, .. }, Some(left)) => Decision::Fault {
                fault,
                until: Some(now.mono + left),
            },
            (decision, _) => decision,
        };
    }
    assigned(index, record)
}

/// Its creation was sent but nothing has been seen of it.
fn placeholder(index: &Index, record: &SandboxRecord) -> Decision {
    if record.is_busy() {
        return Decision::Rest;
    }
    if let Some(at) = record.given_up_at {
        return if at <= index.now.mono {
            Decision::Forget
        } else {
            Decision::Until(at)
        };
    }
    match record.retry.blocked_until(index.now.mono) {
        Some(at) => Decision::Until(at),
        None => Decision::CreateAgain,
    }
}

fn leave(index: &Index, record: &SandboxRecord, leaving: Leaving) -> Decision {
    let node = record
        .node
        .as_ref()
        .and_then(|key| index.nodes.get(key).map(|node| (key, node)));
    match (leaving, node) {
        (Leaving::Delete, _) => Decision::Delete,
        // Without a node there is nobody who could bind it.
        (Leaving::Retire, None) => Decision::Leave(Leaving::Delete),
        (Leaving::Retire, Some((_, node))) if !node.registered => Decision::Leave(Leaving::Delete),
        // Until the stream is back, and its inventory has settled what was asked before.
        (Leaving::Retire, Some((_, node)))
            if !node.synced || record.op == Some(SandboxOp::RetireUnknown) =>
        {
            Decision::Rest
        }
        (Leaving::Retire, Some((key, _))) => Decision::Retire(key.clone()),
    }
}

fn is_owned_by_live_node(index: &Index, record: &SandboxRecord) -> bool {
    let node = record.node.as_ref().and_then(|node| index.nodes.get(node));
    node.is_some_and(|node| node.registered && !node.lost)
}

fn expired(index: &Index, record: &SandboxRecord, policy: ShutdownPolicy) -> Decision {
    if policy == ShutdownPolicy::Delete {
        return Decision::Leave(Leaving::Delete);
    }
    if is_owned_by_live_node(index, record) || record.node.is_some() {
        return Decision::Rest;
    }
    let mut conditions = conditions(record);
    let at = whole_second(index.now.wall);
    set(
        &mut conditions,
        record,
        &at,
        condition::READY,
        ConditionStatus::False,
        reason::SANDBOX_EXPIRED,
        message::SANDBOX_EXPIRED,
    );
    conditions.retain(|condition| condition.type_ != condition::POD_SCHEDULED);
    status(record, conditions, PodFields::Clear)
}

fn assigned(index: &Index, record: &SandboxRecord) -> Decision {
    if let Some(suspension) = suspension::decide(index, record) {
        return Decision::Suspension(suspension);
    }
    let suspended = record.mode == OperatingMode::Suspended;
    if record.has_volumes() {
        if !record.is_guarded() {
            return teardown::guard(record);
        }
        match volumes::claims(index, record) {
            None => {}
            Some(Ok(actions)) if actions.is_empty() => return Decision::Rest,
            Some(Ok(actions)) => {
                return Decision::Volumes {
                    actions,
                    intended: None,
                };
            }
            // What a live node owns, it writes the status of.
            Some(Err(fault)) if is_owned_by_live_node(index, record) => {
                return Decision::Fault { fault, until: None };
            }
            Some(Err(fault)) => return write_error(index, record, &fault),
        }
    }
    let Some(node) = &record.node else {
        if crate::legacy::holds_back(index, record) {
            return Decision::Rest;
        }
        return if suspended {
            write_suspended(index, record)
        } else {
            place(index, record)
        };
    };
    if is_owned_by_live_node(index, record) || record.is_member() {
        return if record.has_volumes() && !suspended {
            volumes::bind_there(index, record, node)
        } else {
            Decision::Rest
        };
    }
    // Its node is gone. Suspended means that no pod of it is left there, so it may start elsewhere.
    if is_suspended(record) {
        return if suspended {
            Decision::Rest
        } else {
            place(index, record)
        };
    }
    let at = whole_second(index.now.wall);
    let mut conditions = conditions(record);
    let text = format!("Node \"{node}\" does not answer. The state of the Sandbox is unknown");
    set(
        &mut conditions,
        record,
        &at,
        condition::READY,
        ConditionStatus::Unknown,
        reason::NODE_LOST,
        &text,
    );
    status(record, conditions, PodFields::Keep)
}

fn is_suspended(record: &SandboxRecord) -> bool {
    let suspended = record
        .detail
        .as_ref()
        .and_then(|detail| detail.condition(condition::SUSPENDED));
    suspended.is_some_and(|suspended| {
        suspended.status == "True" && suspended.reason == reason::POD_TERMINATED
    })
}

pub(super) fn newcomer(record: &SandboxRecord) -> Newcomer<'_> {
    Newcomer {
        shape: &record.spec.shape,
        namespace: &record.key.namespace,
        labels: &record.pod_labels,
    }
}

fn place(index: &Index, record: &SandboxRecord) -> Decision {
    match &record.spec.fault {
        Some(fault) => {
            let text = format!("spec.podTemplate.spec cannot be read: {fault}");
            unplaced(index, record, &text, None)
        }
        None if record.has_volumes() => volumes::place(index, record),
        None => match index.place(newcomer(record)) {
            Ok(node) => Decision::Place(node),
            Err(refused) => unplaced(index, record, &refused.to_string(), None),
        },
    }
}

/// Says why it has no node.
fn unplaced(
    index: &Index,
    record: &SandboxRecord,
    refused: &str,
    intended: Option<NodeName>,
) -> Decision {
    let at = whole_second(index.now.wall);
    let mut conditions = conditions(record);
    let mut set = |type_, status, reason, text: &str| {
        set(&mut conditions, record, &at, type_, status, reason, text)
    };
    let not_suspended = message::SANDBOX_NOT_SUSPENDED;
    set(
        condition::SUSPENDED,
        ConditionStatus::False,
        reason::NOT_SUSPENDED,
        not_suspended,
    );
    set(
        condition::POD_SCHEDULED,
        ConditionStatus::False,
        reason::UNSCHEDULABLE,
        refused,
    );
    let text = "Pod exists with phase: Pending";
    set(
        condition::READY,
        ConditionStatus::False,
        reason::DEPENDENCIES_NOT_READY,
        text,
    );
    Decision::Unplaced {
        conditions,
        intended,
    }
}

/// Says what stands in the way of what belongs to it.
fn write_error(index: &Index, record: &SandboxRecord, fault: &str) -> Decision {
    let at = whole_second(index.now.wall);
    let mut conditions = conditions(record);
    conditions.retain(|condition| condition.type_ != condition::POD_SCHEDULED);
    let mut set = |type_, status, reason, text: &str| {
        set(&mut conditions, record, &at, type_, status, reason, text)
    };
    match record.mode {
        OperatingMode::Suspended => set(
            condition::SUSPENDED,
            ConditionStatus::Unknown,
            reason::POD_STATE_UNKNOWN,
            message::POD_STATE_UNKNOWN,
        ),
        OperatingMode::Running | OperatingMode::Frozen => set(
            condition::SUSPENDED,
            ConditionStatus::False,
            reason::NOT_SUSPENDED,
            message::SANDBOX_NOT_SUSPENDED,
        ),
    }
    set(
        condition::READY,
        ConditionStatus::False,
        reason::RECONCILER_ERROR,
        &format!("Error seen: {fault}"),
    );
    status(record, conditions, PodFields::Keep)
}

fn write_suspended(index: &Index, record: &SandboxRecord) -> Decision {
    let at = whole_second(index.now.wall);
    let mut conditions = conditions(record);
    conditions.retain(|condition| condition.type_ != condition::POD_SCHEDULED);
    let mut set = |type_, status, reason, text: &str| {
        set(&mut conditions, record, &at, type_, status, reason, text)
    };
    set(
        condition::SUSPENDED,
        ConditionStatus::True,
        reason::POD_TERMINATED,
        message::POD_TERMINATED,
    );
    set(
        condition::READY,
        ConditionStatus::False,
        reason::SANDBOX_SUSPENDED,
        message::SANDBOX_SUSPENDED,
    );
    status(record, conditions, PodFields::Clear)
}

fn conditions(record: &SandboxRecord) -> Vec<Condition> {
    record
        .detail
        .as_ref()
        .map(|detail| detail.conditions.clone())
        .unwrap_or_default()
}

fn set(
    conditions: &mut Vec<Condition>,
    record: &SandboxRecord,
    at: &Time,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    text: &str,
) {
    set_condition(
        conditions,
        type_,
        status,
        reason,
        text,
        Some(record.generation),
        at,
    );
}

/// A status write, unless it says what is there already.
fn status(record: &SandboxRecord, conditions: Vec<Condition>, fields: PodFields) -> Decision {
    let detail = record.detail.as_ref();
    let same = detail.is_some_and(|detail| detail.conditions == conditions);
    let cleared =
        fields == PodFields::Keep || detail.is_none_or(|detail| detail.pod_ips.is_empty());
    if same && cleared {
        Decision::Rest
    } else {
        Decision::Status(conditions, fields)
    }
}

fn write_status(index: &mut Index, id: u64, conditions: &[Condition], fields: PodFields) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    if let Decision::Rest = status(record, conditions.to_vec(), fields) {
        return;
    }
    let hash = name_hash(&record.key.name);
    let mut wanted = json!({"conditions": conditions, "selector": format!("{}={hash}", label::SANDBOX_NAME_HASH)});
    if fields == PodFields::Clear {
        wanted["podIPs"] = Value::Null;
        wanted["nodeName"] = Value::Null;
    }
    // The version keeps it from overwriting what a node that came back has said.
    let patch =
        json!({"metadata": {"resourceVersion": record.version.to_string()}, "status": wanted});
    write(
        index,
        id,
        Intent::SandboxStatus,
        Lane::Adopt,
        Body::MergeStatus(patch),
    );
}

fn write(index: &mut Index, id: u64, intent: Intent, lane: Lane, body: Body) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let (subject, uid) = (Subject::Sandbox(record.key.clone()), record.uid.0.clone());
    index.change_sandbox(id, |record| record.op = Some(SandboxOp::Writing));
    index.write(subject, &uid, intent, lane, body);
}

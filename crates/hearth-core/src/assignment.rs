//! The rules of Sandboxes as objects: which node they are assigned to, what their status says while no live node owns
//! them, and how they go.

mod expiry;
mod old_pod;
mod pod_name;
mod teardown;
mod volumes;
mod words;

#[cfg(test)]
mod tests;

use hearth_api::constants::{annotation, condition, label, reason};
use hearth_api::{Condition, OperatingMode};
use serde_json::{Value, json};

use crate::effects::{Body, Intent, Lane, NodeRequest, Subject};
use crate::ids::{Key, NodeName};
use crate::index::{Index, Leaving, SandboxOp, SandboxRecord};
use crate::placement::Newcomer;
use crate::pool::Membership;
use crate::services;
use crate::suspension::{self, Suspension};
use pod_name::PodName;
use volumes::Claims;
use words::{Fields, unplaced};

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
    /// Ask its node for leave to delete it.
    Retire(NodeName),
    Delete,
    Place(NodeName),
    /// It becomes a member of its pool again, or a proper one.
    Membership(Value),
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
    /// The annotation that names its pod must change.
    PodName(PodName),
    /// No live node owns it: its status is ours to write.
    Status(Vec<Condition>, Fields),
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
    if let Some(at) = expiry::next_look(index, record) {
        index.wake(Subject::Sandbox(key.clone()), at);
    }
    tell_of_claims(index, id, key);
    crate::legacy::sandbox_seen(index, key);
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
        Decision::Retire(node) => {
            index.change_sandbox(id, |record| record.op = Some(SandboxOp::Retiring));
            index.ask(
                node,
                NodeRequest::Retire {
                    sandbox: uid.into(),
                },
            );
        }
        Decision::Delete => index.write_sandbox(
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
            index.write_sandbox(id, Intent::Place, Lane::Answer, Body::Merge(patch));
        }
        Decision::Suspension(suspension) => {
            let Some(record) = index.sandboxes.get(&id) else {
                return;
            };
            let patch = suspension.operations(record);
            index.write_sandbox(
                id,
                Intent::Suspension,
                Lane::Refill,
                Body::Operations(patch),
            );
        }
        Decision::PodName(change) => {
            let Some(record) = index.sandboxes.get(&id) else {
                return;
            };
            let body = change.body(record);
            index.write_sandbox(id, Intent::PodName, Lane::Refill, body);
        }
        Decision::Membership(operations) => index.write_sandbox(
            id,
            Intent::Membership,
            Lane::Refill,
            Body::Operations(operations),
        ),
        Decision::Finalizers(patch) => {
            index.write_sandbox(id, Intent::Finalizers, Lane::Adopt, Body::Merge(patch))
        }
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
            write_status(index, id, &conditions, Fields::Keep);
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
    match crate::pool::membership(index, record) {
        Some(Membership::Keep(operations)) => return Decision::Membership(operations),
        Some(Membership::Dismiss) => return Decision::Leave(Leaving::Retire),
        None => {}
    }
    if let Some(decision) = expiry::over(index, record) {
        return decision;
    }
    match kept(index, record) {
        Decision::Rest => pod_name::decide(index, record).map_or(Decision::Rest, Decision::PodName),
        decision => decision,
    }
}

/// What is to be done for a Sandbox that is to stay; where that is nothing, its status says what there is of its Service.
fn kept(index: &Index, record: &SandboxRecord) -> Decision {
    match assigned(index, record) {
        Decision::Rest if !is_owned_by_live_node(index, record) => services::unsaid(index, record)
            .map_or(Decision::Rest, |conditions| {
                Decision::Status(conditions, Fields::Keep)
            }),
        decision => decision,
    }
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

/// Whether a live node owns it, which writes its status then.
pub(crate) fn is_owned_by_live_node(index: &Index, record: &SandboxRecord) -> bool {
    let node = index.node_of(record);
    node.is_some_and(|node| node.registered && !node.lost)
}

/// Tells the node of a Sandbox what its claims lack, or that they lack nothing any more: that stands in the status, which is
/// the node's to write.
fn tell_of_claims(index: &mut Index, id: u64, key: &Key) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    if record.templates.is_empty() || !is_owned_by_live_node(index, record) {
        return;
    }
    match volumes::claims(index, record) {
        Claims::Own => crate::attachments::set_fault(index, key, None),
        Claims::Faulty(fault) => crate::attachments::set_fault(index, key, Some(fault)),
        // What was said last holds until it is known how that comes out.
        Claims::Pending(_) => {}
    }
}

fn assigned(index: &Index, record: &SandboxRecord) -> Decision {
    // Before anything is done for it: what has a Pod is left to that.
    if record.node.is_none()
        && let Some(pods) = crate::legacy::pods(index, record)
    {
        return old_pod::decide(index, record, pods);
    }
    if let Some(suspension) = suspension::decide(index, record) {
        return Decision::Suspension(suspension);
    }
    let suspended = record.mode == OperatingMode::Suspended;
    if record.has_volumes() {
        if !record.is_guarded() {
            return teardown::guard(record);
        }
        match volumes::claims(index, record) {
            Claims::Own => {}
            Claims::Pending(actions) if actions.is_empty() => return Decision::Rest,
            Claims::Pending(actions) => {
                return Decision::Volumes {
                    actions,
                    intended: None,
                };
            }
            // The node says it.
            Claims::Faulty(_) if is_owned_by_live_node(index, record) => return Decision::Rest,
            Claims::Faulty(fault) => return words::error(index, record, &fault),
        }
    }
    let Some(node) = &record.node else {
        return if suspended {
            words::suspended(index, record)
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
    words::node_lost(index, record, node)
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

fn write_status(index: &mut Index, id: u64, conditions: &[Condition], fields: Fields) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let is_said = services::is_said(index, record);
    if is_said && words::decision(record, conditions.to_vec(), fields) == Decision::Rest {
        return;
    }
    let mut patch = words::patch(record, conditions, fields);
    if fields != Fields::Clear {
        services::say(index, record, &mut patch["status"]);
    }
    index.write_sandbox(
        id,
        Intent::SandboxStatus,
        Lane::Adopt,
        Body::MergeStatus(patch),
    );
}

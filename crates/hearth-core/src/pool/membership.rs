//! Sandboxes that are to be members of a pool, but are not as the pool made them: those that have lost their controller,
//! and members that have lost the label by which dashboards tell them.

use hearth_api::constants::{annotation, label};
use serde_json::{Value, json};

use super::member::{owner_reference, warmth};
use crate::index::{Index, Owner, PoolRecord, SandboxRecord};
use crate::patch;

/// What becomes of such a Sandbox.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Membership {
    /// It becomes a member, or a proper one: the operations of the patch.
    Keep(Value),
    /// It goes, because the template says otherwise by now.
    Dismiss,
}

/// What is to be done about the membership of a Sandbox; nothing for all that are as they should be.
pub(crate) fn membership(index: &Index, record: &SandboxRecord) -> Option<Membership> {
    if record.reserved.is_some() || has_owner(index, record) {
        return None;
    }
    if let Owner::Pool { uid, position } = &record.owner
        && record.is_member()
    {
        if record.marks.launched_warm || index.pool_by_uid(uid).is_none() {
            return None;
        }
        let same_pool = patch::test_owner(*position, uid);
        return Some(Membership::Keep(json!([
            same_object(record),
            same_pool,
            launched_warm(),
        ])));
    }
    let pool = index.pool_of_orphan(record).filter(|pool| !pool.deleting)?;
    let template = index.template_of(pool)?;
    // By meaning only: whoever took the owner off may have had a hand in the labels too.
    let is_stale =
        *record.template_ref_hash != *template.ref_hash || record.semantics != template.semantics;
    Some(if is_stale {
        Membership::Dismiss
    } else {
        Membership::Keep(adoption(record, pool))
    })
}

/// Whether its node has given it to an owner.
fn has_owner(index: &Index, record: &SandboxRecord) -> bool {
    let node = index.node_of(record);
    let reported = node.and_then(|node| node.reported.get(&record.uid));
    reported.is_some_and(|reported| reported.owner.is_some())
}

fn same_object(record: &SandboxRecord) -> Value {
    json!({"op": "test", "path": "/metadata/uid", "value": record.uid.as_str()})
}

fn launched_warm() -> Value {
    // There is a label already: that of the pool.
    json!({"op": "add", "path": patch::label(label::LAUNCH_TYPE), "value": "warm"})
}

/// Makes the pool the controller, and the first of the owners: there the adoption by a claim looks for it. The API server
/// refuses a second controller, should somebody be faster.
fn adoption(record: &SandboxRecord, pool: &PoolRecord) -> Value {
    let mut operations = vec![same_object(record)];
    let path = "/metadata/ownerReferences";
    let owner = owner_reference(pool);
    if matches!(
        record.owner,
        Owner::Orphan {
            has_owners: true,
            ..
        }
    ) {
        operations.push(json!({"op": "add", "path": format!("{path}/0"), "value": owner}));
    } else {
        operations.push(json!({"op": "test", "path": path, "value": null}));
        operations.push(json!({"op": "add", "path": path, "value": [owner]}));
    }
    if !record.marks.launched_warm {
        operations.push(launched_warm());
    }
    if !record.marks.warmth {
        if !record.marks.annotations {
            operations.extend(patch::make_annotations());
        }
        let path = patch::annotation(annotation::WARMTH);
        operations.push(json!({"op": "add", "path": path, "value": warmth(pool.warmth)}));
    }
    Value::Array(operations)
}

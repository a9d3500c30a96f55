//! A member becomes the claim's: one JSON patch that fails unless the object is still the pool's.

use hearth_api::constants::{annotation, label};
use hearth_api::{ClaimEnvVar, PodMetadata};
use serde_json::{Value, json};

use super::blueprint::owner_reference;
use super::env;
use crate::index::{ClaimRecord, SandboxRecord};
use crate::patch;

/// The operations of the adoption. `is_the_pools` tests that the pool is still the controller; `env` are the variables
/// that the sandbox has from the claim's bind.
///
/// There is no resourceVersion in it: the node writes the object's status meanwhile. The tests on the UIDs of the object
/// and of its owner are what keeps the patch from another object and from one that somebody else has.
pub(super) fn operations(
    claim: &ClaimRecord,
    sandbox: &SandboxRecord,
    is_the_pools: Value,
    pod_metadata: Option<&PodMetadata>,
    env: &[ClaimEnvVar],
) -> Value {
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": sandbox.uid.as_str()}),
        is_the_pools,
        json!({"op": "replace", "path": "/metadata/ownerReferences", "value": [owner_reference(claim)]}),
    ];
    let marks = sandbox.marks;
    for (present, key) in [
        (marks.warm_pool, label::WARM_POOL),
        (marks.template_hash, label::TEMPLATE_HASH),
        (marks.pod_template_hash, label::POD_TEMPLATE_HASH),
        (
            marks.created_by && claim.created_by.is_none(),
            label::CREATED_BY,
        ),
    ] {
        if present {
            operations.push(json!({"op": "remove", "path": patch::label(key)}));
        }
    }
    let mut added = vec![
        (label::LAUNCH_TYPE, "warm"),
        (label::CLAIM_UID, claim.uid.as_str()),
    ];
    added.extend(
        claim
            .created_by
            .as_deref()
            .map(|created_by| (label::CREATED_BY, created_by)),
    );
    for (key, value) in added {
        operations.push(json!({"op": "add", "path": patch::label(key), "value": value}));
    }
    if !marks.annotations {
        operations.extend(patch::make_annotations());
    }
    operations.push(json!({"op": "add", "path": patch::annotation(annotation::POD_NAME), "value": sandbox.key.name}));
    if marks.warmth {
        operations.push(json!({"op": "remove", "path": patch::annotation(annotation::WARMTH)}));
    }
    if let Some(context) = &claim.trace_context {
        operations.push(json!({"op": "add", "path": patch::annotation(annotation::TRACE_CONTEXT), "value": context}));
    }
    if let Some(metadata) = pod_metadata {
        operations
            .push(json!({"op": "add", "path": "/spec/podTemplate/metadata", "value": metadata}));
    }
    // So that a later resume has them too.
    operations.extend(env::operations(&sandbox.spec.text, env));
    Value::Array(operations)
}

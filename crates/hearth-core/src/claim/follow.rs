//! What a Sandbox has from its claim and follows while both are there: the metadata of its pod, and the labels by which
//! people find it.

use std::sync::Arc;

use hearth_api::PodMetadata;
use hearth_api::constants::label;
use serde_json::{Value, json};

use super::metadata;
use super::refusal::Refusal;
use crate::index::{ClaimRecord, Detail, Index, SandboxRecord};
use crate::patch;
use crate::pool::Template;

/// What the Sandbox of a claim is to have, with the template that it follows.
pub(super) struct Wanted {
    template: Arc<Template>,
    pod_metadata: PodMetadata,
}

/// What the Sandbox of a claim is to have; `None` where no template says so and the claim adds nothing.
///
/// # Errors
/// When what the claim adds is invalid, the template says otherwise, or the template is not there to tell.
pub(super) fn wanted(
    index: &Index,
    claim: &ClaimRecord,
    sandbox: &SandboxRecord,
) -> Result<Option<Wanted>, Refusal> {
    let additional = claim.spec.additional_pod_metadata.as_ref();
    metadata::validate(additional, &index.settings.allowed_label_domains)
        .map_err(Refusal::metadata)?;
    let template = match template_of(index, claim, sandbox) {
        Ok(template) => template,
        Err(refusal) if claim.adds_metadata() => return Err(refusal),
        Err(_) => return Ok(None),
    };
    let created_by = claim.created_by.as_deref();
    let pod_metadata =
        metadata::merge(&template, &claim.uid, created_by, additional).map_err(Refusal::error)?;
    Ok(Some(Wanted {
        template,
        pod_metadata,
    }))
}

fn template_of(
    index: &Index,
    claim: &ClaimRecord,
    sandbox: &SandboxRecord,
) -> Result<Arc<Template>, Refusal> {
    let Some(pool) = index.pools.get(&claim.pool_key()) else {
        return Err(Refusal::no_pool(&claim.spec.warm_pool_ref.name));
    };
    index
        .template_followed(sandbox, pool)
        .ok_or_else(|| Refusal::no_template_to_follow(&pool.template))
}

/// The operations that make the Sandbox what is wanted; `None` when it is.
pub(super) fn operations(
    claim: &ClaimRecord,
    sandbox: &SandboxRecord,
    detail: &Detail,
    wanted: Option<&Wanted>,
) -> Option<Value> {
    let set = |key, value: &str| json!({"op": "add", "path": patch::label(key), "value": value});
    let mut operations = Vec::new();
    if !sandbox.marks.launch_type {
        let launch_type = if claim.has_member() { "warm" } else { "cold" };
        operations.push(set(label::LAUNCH_TYPE, launch_type));
    }
    if let Some(wanted) = wanted {
        let ref_hash = wanted.template.ref_hash.as_str();
        if *sandbox.template_ref_hash != *ref_hash {
            operations.push(set(label::TEMPLATE_REF_HASH, ref_hash));
        }
        match &claim.created_by {
            Some(created_by) if *created_by != detail.created_by => {
                operations.push(set(label::CREATED_BY, created_by));
            }
            None if sandbox.marks.created_by => {
                let path = patch::label(label::CREATED_BY);
                operations.push(json!({"op": "remove", "path": path}));
            }
            _ => {}
        }
        if wanted.pod_metadata != detail.pod_metadata {
            let metadata = &wanted.pod_metadata;
            operations.push(
                json!({"op": "add", "path": "/spec/podTemplate/metadata", "value": metadata}),
            );
        }
    }
    if operations.is_empty() {
        return None;
    }
    let uid = sandbox.uid.as_str();
    let mut all = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
    if !sandbox.marks.labels {
        all.extend(patch::make_labels());
    }
    all.extend(operations);
    Some(Value::Array(all))
}

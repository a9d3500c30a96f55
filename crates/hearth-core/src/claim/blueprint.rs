//! The Sandbox that is made for a claim: the template, with what the claim may add.

use hearth_api::constants::{
    EXTENSIONS_API_VERSION, SANDBOX_API_VERSION, TEARDOWN_FINALIZER, annotation, label,
};
use hearth_api::{
    AdditionalPodMetadata, ClaimEnvVar, InjectionPolicy, PersistentVolumeClaimTemplate,
};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use super::{env, metadata};
use crate::controller_ref::reference;
use crate::ids::NodeName;
use crate::index::{Bind, ClaimRecord};
use crate::podspec::claims_in;
use crate::pool::Template;

/// The Sandbox for a claim, without a node.
///
/// # Errors
/// When the claim asks for what the template forbids.
pub(super) fn sandbox(claim: &ClaimRecord, template: &Template) -> Result<Value, Refusal> {
    let additional = claim.spec.additional_pod_metadata.as_ref();
    let (env, policy) = (&claim.spec.env, template.env_policy);
    sandbox_with(claim, template, env, policy, additional)
}

/// The same with these variables, as far as the policy allows them, and with these pod metadata.
fn sandbox_with(
    claim: &ClaimRecord,
    template: &Template,
    env: &[ClaimEnvVar],
    policy: InjectionPolicy,
    additional: Option<&AdditionalPodMetadata>,
) -> Result<Value, Refusal> {
    // Volumes, metadata, variables: of several faults clients are told the first in this order.
    let volumes = volumes(template, &claim.spec.volume_claim_templates)?;
    let created_by = claim.created_by.as_deref();
    let pod_metadata =
        metadata::merge(template, &claim.uid, created_by, additional).map_err(Refusal::error)?;
    let mut pod_spec = template.pod_spec.clone();
    env::inject(&mut pod_spec, env, policy)?;

    let mut labels = Map::new();
    labels.insert(label::LAUNCH_TYPE.into(), "cold".into());
    labels.insert(label::CLAIM_UID.into(), claim.uid.clone().into());
    labels.insert(
        label::TEMPLATE_REF_HASH.into(),
        template.ref_hash.clone().into(),
    );
    if let Some(created_by) = created_by {
        labels.insert(label::CREATED_BY.into(), created_by.into());
    }
    let mut annotations = metadata::sandbox_annotations(template, &claim.key.name);
    if let Some(context) = &claim.trace_context {
        annotations.insert(annotation::TRACE_CONTEXT.into(), context.clone().into());
    }
    let mut object = json!({
        "apiVersion": SANDBOX_API_VERSION,
        "kind": "Sandbox",
        "metadata": {
            "name": claim.key.name,
            "namespace": claim.key.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(claim)],
        },
        "spec": template.sandbox_spec(&pod_metadata, &pod_spec, &volumes),
    });
    guard_volumes(&mut object);
    Ok(object)
}

/// Whether a Sandbox uses PersistentVolumeClaims.
pub(crate) fn has_volumes(object: &Value) -> bool {
    let templates = object["spec"]["volumeClaimTemplates"].as_array();
    templates.is_some_and(|templates| !templates.is_empty())
        || !claims_in(&object["spec"]["podTemplate"]["spec"]).is_empty()
}

/// Makes a Sandbox with volumes stay until its pod is gone.
pub(crate) fn guard_volumes(object: &mut Value) {
    if has_volumes(object) {
        object["metadata"]["finalizers"] = json!([TEARDOWN_FINALIZER]);
    }
}

/// The Sandbox object of a bound pod, made again after the first one went with its pool. It has the variables of the bind,
/// whatever the claim asks for and the template allows by now; none when the template has not even the containers any more
/// that they are for, and without `additional` where the template contradicts that: no reasons to give up a pod that is
/// in use.
pub(super) fn recreated(
    claim: &ClaimRecord,
    template: &Template,
    bind: &Bind,
    additional: Option<&AdditionalPodMetadata>,
) -> Result<Value, Refusal> {
    let policy = InjectionPolicy::Overrides;
    let with =
        |env: &[ClaimEnvVar], additional| sandbox_with(claim, template, env, policy, additional);
    let env = claim.bound_env(&bind.owner);
    let mut object = with(env, additional)
        .or_else(|_| with(env, None))
        .or_else(|_| with(&[], additional))
        .or_else(|_| with(&[], None))?;
    let (name, old_uid) = (claim.sandbox.as_str(), bind.sandbox.as_str());
    object["metadata"]["name"] = name.into();
    object["metadata"]["labels"][label::LAUNCH_TYPE] = "warm".into();
    object["metadata"]["annotations"][annotation::ADOPTS] = old_uid.into();
    object["metadata"]["annotations"][annotation::POD_NAME] = name.into();
    Ok(object)
}

/// Puts the node's label on an object that is created.
pub(crate) fn assign(object: &mut Value, node: &NodeName) {
    object["metadata"]["labels"][label::NODE] = node.0.clone().into();
}

/// The reference by which a claim owns its Sandbox.
pub(super) fn owner_reference(claim: &ClaimRecord) -> Value {
    reference(
        EXTENSIONS_API_VERSION,
        "SandboxClaim",
        &claim.key.name,
        &claim.uid,
    )
}

fn volumes(
    template: &Template,
    claimed: &[PersistentVolumeClaimTemplate],
) -> Result<Vec<PersistentVolumeClaimTemplate>, Refusal> {
    if claimed.is_empty() {
        check_names(&template.volumes).map_err(|fault| {
            Refusal::volumes(format!(
                "invalid volume claim templates in template: {fault}"
            ))
        })?;
        return Ok(template.volumes.clone());
    }
    merged_volumes(template, claimed).map_err(|fault| {
        Refusal::volumes(format!("failed to merge volume claim templates: {fault}"))
    })
}

/// The template's volumes with those of the claim, as far as the template allows it. What is wrong with a name comes
/// before what the template allows.
fn merged_volumes(
    template: &Template,
    claimed: &[PersistentVolumeClaimTemplate],
) -> Result<Vec<PersistentVolumeClaimTemplate>, String> {
    check_names(&template.volumes).map_err(|fault| format!("template: {fault}"))?;
    check_names(claimed).map_err(|fault| format!("claim: {fault}"))?;
    if template.volume_policy == InjectionPolicy::Disallowed {
        return Err("volume claim templates are disallowed by the template".into());
    }
    let mut merged = template.volumes.clone();
    for volume in claimed {
        let name = &volume.metadata.name;
        match merged
            .iter_mut()
            .find(|existing| existing.metadata.name == *name)
        {
            None => merged.push(volume.clone()),
            Some(existing) if template.volume_policy == InjectionPolicy::Overrides => {
                *existing = volume.clone()
            }
            Some(_) => {
                return Err(format!(
                    "overriding volume claim templates is forbidden by the template: cannot override template volume \
                     {name:?}"
                ));
            }
        }
    }
    Ok(merged)
}

/// Each has a name, and one of its own.
fn check_names(volumes: &[PersistentVolumeClaimTemplate]) -> Result<(), String> {
    const INVALID: &str = "invalid volume claim templates";
    for (position, volume) in volumes.iter().enumerate() {
        let name = &volume.metadata.name;
        if name.is_empty() {
            return Err(format!("{INVALID}: name at index {position} is empty"));
        }
        let mut earlier = volumes.iter().take(position);
        if earlier.any(|earlier| earlier.metadata.name == *name) {
            return Err(format!("{INVALID}: duplicate name {name:?}"));
        }
    }
    Ok(())
}

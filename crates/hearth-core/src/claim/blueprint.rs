//! The Sandbox that is made for a claim: the template, with what the claim may add.

use hearth_api::constants::{
    EXTENSIONS_API_VERSION, SANDBOX_API_VERSION, TEARDOWN_FINALIZER, annotation, label,
};
use hearth_api::{ClaimEnvVar, InjectionPolicy, PersistentVolumeClaimTemplate};
use serde_json::{Map, Value, json};

use super::metadata;
use super::refusal::Refusal;
use crate::ids::NodeName;
use crate::index::ClaimRecord;
use crate::podspec::claims_in;
use crate::pool::Template;

/// The Sandbox for a claim, without a node.
///
/// # Errors
/// When the claim asks for what the template forbids.
pub(super) fn sandbox(claim: &ClaimRecord, template: &Template) -> Result<Value, Refusal> {
    let volumes = volumes(template, &claim.spec.volume_claim_templates)?;
    let mut pod_spec = template.pod_spec.clone();
    inject_env(&mut pod_spec, &claim.spec.env, template.env_policy)?;
    let created_by = claim.created_by.as_deref();
    let pod_metadata = metadata::merge(
        template,
        &claim.uid,
        created_by,
        claim.spec.additional_pod_metadata.as_ref(),
    )
    .map_err(Refusal::error)?;

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
    let mut spec = Map::new();
    spec.insert(
        "podTemplate".into(),
        json!({"metadata": pod_metadata, "spec": pod_spec}),
    );
    if !volumes.is_empty() {
        spec.insert("volumeClaimTemplates".into(), json!(volumes));
    }
    insert_some(&mut spec, "service", template.service);
    insert_some(&mut spec, "idle", template.idle.as_ref());
    insert_some(&mut spec, "recreate", template.recreate);
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
        "spec": spec,
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

/// The Sandbox object of a bound pod, made again after the first one went with its pool.
pub(super) fn recreated(
    claim: &ClaimRecord,
    template: &Template,
    name: &str,
    old_uid: &str,
) -> Result<Value, Refusal> {
    let mut object = sandbox(claim, template)?;
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

fn insert_some<T: serde::Serialize>(spec: &mut Map<String, Value>, field: &str, value: Option<T>) {
    if let Some(value) = value {
        spec.insert(field.into(), json!(value));
    }
}

/// The reference by which a claim owns its Sandbox.
pub(super) fn owner_reference(claim: &ClaimRecord) -> Value {
    json!({
        "apiVersion": EXTENSIONS_API_VERSION,
        "kind": "SandboxClaim",
        "name": claim.key.name,
        "uid": claim.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn volumes(
    template: &Template,
    claimed: &[PersistentVolumeClaimTemplate],
) -> Result<Vec<PersistentVolumeClaimTemplate>, Refusal> {
    let refuse = |fault: String| {
        Refusal::volumes(format!("failed to merge volume claim templates: {fault}"))
    };
    if claimed.is_empty() {
        unique_names(&template.volumes).map_err(|fault| {
            Refusal::volumes(format!(
                "invalid volume claim templates in template: {fault}"
            ))
        })?;
        return Ok(template.volumes.clone());
    }
    if template.volume_policy == InjectionPolicy::Disallowed {
        return Err(refuse(
            "volume claim templates are disallowed by the template".into(),
        ));
    }
    unique_names(&template.volumes).map_err(refuse)?;
    unique_names(claimed).map_err(refuse)?;
    let mut merged = template.volumes.clone();
    for volume in claimed {
        match merged
            .iter_mut()
            .find(|existing| existing.metadata.name == volume.metadata.name)
        {
            None => merged.push(volume.clone()),
            Some(existing) if template.volume_policy == InjectionPolicy::Overrides => {
                *existing = volume.clone()
            }
            Some(_) => {
                return Err(refuse(format!(
                    "volume claim template \"{}\" is in the template already and may not be overridden",
                    volume.metadata.name
                )));
            }
        }
    }
    Ok(merged)
}

fn unique_names(volumes: &[PersistentVolumeClaimTemplate]) -> Result<(), String> {
    for (position, volume) in volumes.iter().enumerate() {
        let name = &volume.metadata.name;
        if name.is_empty() {
            return Err("a volume claim template has no name".into());
        }
        if volumes
            .iter()
            .take(position)
            .any(|earlier| earlier.metadata.name == *name)
        {
            return Err(format!("volume claim template \"{name}\" is there twice"));
        }
    }
    Ok(())
}

fn inject_env(
    pod_spec: &mut Value,
    env: &[ClaimEnvVar],
    policy: InjectionPolicy,
) -> Result<(), Refusal> {
    if env.is_empty() {
        return Ok(());
    }
    if policy == InjectionPolicy::Disallowed {
        return Err(Refusal::env(
            "environment variable injection rejected: environment variable injection is not allowed by the template \
             policy",
        ));
    }
    for variable in env {
        inject_one(pod_spec, variable, policy)?;
    }
    Ok(())
}

fn inject_one(
    pod_spec: &mut Value,
    variable: &ClaimEnvVar,
    policy: InjectionPolicy,
) -> Result<(), Refusal> {
    let container = target(pod_spec, &variable.container_name).ok_or_else(|| {
        Refusal::error(format!(
            "target container \"{}\" not found in template for environment variable \"{}\"",
            variable.container_name, variable.name
        ))
    })?;
    let uses_env_from = container
        .get("envFrom")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if policy == InjectionPolicy::Allowed && uses_env_from {
        let name = container
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        return Err(Refusal::env(format!(
            "environment variable injection rejected: container \"{name}\" uses EnvFrom sources; Allowed policy cannot \
             safely prevent overriding EnvFrom-provided variables"
        )));
    }
    let entry = json!({"name": variable.name, "value": variable.value});
    let list = container.entry("env").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return Err(Refusal::error("env of the template is no list"));
    };
    match list
        .iter_mut()
        .find(|existing| existing["name"] == variable.name.as_str())
    {
        None => list.push(entry),
        Some(existing) if policy == InjectionPolicy::Overrides => *existing = entry,
        Some(_) => {
            return Err(Refusal::error(format!(
                "environment variable override is not allowed by the template policy for variable \"{}\"",
                variable.name
            )));
        }
    }
    Ok(())
}

/// The container that a variable is for: the first main container, or the named one, init containers included.
fn target<'a>(pod_spec: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    if name.is_empty() {
        return pod_spec
            .get_mut("containers")?
            .as_array_mut()?
            .first_mut()?
            .as_object_mut();
    }
    let has = |list: &Value| {
        list.as_array()
            .is_some_and(|all| all.iter().any(|c| c["name"] == name))
    };
    let field = ["containers", "initContainers"]
        .into_iter()
        .find(|field| pod_spec.get(field).is_some_and(has))?;
    let containers = pod_spec.get_mut(field)?.as_array_mut()?;
    containers
        .iter_mut()
        .find(|container| container["name"] == name)?
        .as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str, container: &str) -> ClaimEnvVar {
        ClaimEnvVar {
            name: name.into(),
            value: value.into(),
            container_name: container.into(),
        }
    }

    fn check(env: &[ClaimEnvVar], policy: InjectionPolicy, expect: Result<Value, &str>) {
        let mut spec = json!({
            "initContainers": [{"name": "init"}],
            "containers": [
                {"name": "main", "env": [{"name": "A", "valueFrom": {"x": 1}}]},
                {"name": "side", "envFrom": [{"secretRef": {"name": "s"}}]},
            ],
        });
        let result = inject_env(&mut spec, env, policy).map_err(|refusal| refusal.message);
        match expect {
            Ok(env) => assert_eq!((result, &spec["containers"][0]["env"]), (Ok(()), &env)),
            Err(part) => assert!(result.clone().unwrap_err().contains(part), "{result:?}"),
        }
    }

    #[test]
    fn the_policy_says_what_a_claim_may_set() {
        use InjectionPolicy::{Allowed, Disallowed, Overrides};
        let a = || json!({"name": "A", "valueFrom": {"x": 1}});
        check(&[], Disallowed, Ok(json!([a()])));
        check(
            &[variable("B", "2", "")],
            Disallowed,
            Err("is not allowed by the template policy"),
        );
        check(
            &[variable("B", "2", "")],
            Allowed,
            Ok(json!([a(), {"name": "B", "value": "2"}])),
        );
        check(
            &[variable("A", "9", "main")],
            Allowed,
            Err("override is not allowed by the template policy for variable \"A\""),
        );
        check(
            &[variable("A", "9", "main")],
            Overrides,
            Ok(json!([{"name": "A", "value": "9"}])),
        );
        check(
            &[variable("B", "2", "side")],
            Allowed,
            Err("uses EnvFrom sources"),
        );
        check(&[variable("B", "2", "side")], Overrides, Ok(json!([a()])));
        check(&[variable("B", "2", "init")], Allowed, Ok(json!([a()])));
        check(
            &[variable("A", "9", "nope")],
            Overrides,
            Err("target container \"nope\" not found in template for environment variable \"A\""),
        );
    }
}

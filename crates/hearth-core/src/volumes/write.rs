//! What is written to claims and volumes.

use hearth_api::PersistentVolumeClaimTemplate;
use hearth_api::constants::{SANDBOX_API_VERSION, label};
use serde_json::{Value, json};

use super::facts::{Pv, Pvc};
use super::{BOUND_BY_CONTROLLER, CLAIM_FINALIZER, SELECTED_NODE, VOLUME_FINALIZER};
use crate::controller_ref::reference;
use crate::ids::{Key, SandboxUid};
use crate::names::name_hash;

/// The claim that a Sandbox's template makes.
pub(crate) fn claim_of_template(
    sandbox: &Key,
    uid: &SandboxUid,
    template: &PersistentVolumeClaimTemplate,
) -> Value {
    let mut labels = template.metadata.labels.clone();
    labels.insert(
        label::SANDBOX_NAME_HASH.to_owned(),
        name_hash(&sandbox.name),
    );
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": format!("{}-{}", template.metadata.name, sandbox.name),
            "namespace": sandbox.namespace,
            "labels": labels,
            "annotations": template.metadata.annotations,
            "finalizers": [CLAIM_FINALIZER],
            "ownerReferences": [owner(sandbox, uid)],
        },
        "spec": template.spec,
    })
}

fn owner(sandbox: &Key, uid: &SandboxUid) -> Value {
    reference(SANDBOX_API_VERSION, "Sandbox", &sandbox.name, uid.as_str())
}

/// Makes a claim that nobody controls the Sandbox's.
pub(crate) fn adopt(pvc: &Pvc, sandbox: &Key, uid: &SandboxUid) -> Value {
    guarded(
        pvc.version,
        json!({"ownerReferences": [owner(sandbox, uid)]}),
    )
}

/// Keeps a claim for as long as sandboxes use it.
pub(crate) fn protect(pvc: &Pvc) -> Value {
    let mut finalizers = pvc.finalizers.clone();
    finalizers.push(CLAIM_FINALIZER.to_owned());
    guarded(pvc.version, json!({"finalizers": finalizers}))
}

/// Lets a claim go.
pub(crate) fn release_pvc(pvc: &Pvc) -> Value {
    guarded(
        pvc.version,
        json!({"finalizers": without(&pvc.finalizers, CLAIM_FINALIZER)}),
    )
}

/// Lets a volume of ours go.
pub(crate) fn release_pv(pv: &Pv) -> Value {
    guarded(
        pv.version,
        json!({"finalizers": without(&pv.finalizers, VOLUME_FINALIZER)}),
    )
}

/// Tells provisioners where the pod of a claim goes.
pub(crate) fn select_node(pvc: &Pvc, node_name: &str) -> Value {
    guarded(
        pvc.version,
        json!({"annotations": {SELECTED_NODE: node_name}}),
    )
}

/// Keeps a volume for a claim; the PV controller then binds the two.
pub(crate) fn prebind(pv: &Pv, key: &Key, pvc: &Pvc) -> Value {
    let mut patch = guarded(
        pv.version,
        json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}}),
    );
    patch["spec"] = json!({"claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": key.namespace, "name": key.name, "uid": pvc.uid,
    }});
    patch
}

/// A merge patch that fails when the object is not as it was seen.
fn guarded(version: u64, mut metadata: Value) -> Value {
    metadata["resourceVersion"] = version.to_string().into();
    json!({"metadata": metadata})
}

fn without(finalizers: &[String], gone: &str) -> Vec<String> {
    let others = finalizers.iter().filter(|name| *name != gone);
    others.cloned().collect()
}

//! What is written to Services.

use std::collections::BTreeMap;

use hearth_api::constants::{SANDBOX_API_VERSION, label};
use serde_json::{Map, Value, json};

use super::{Port, ServiceRecord};
use crate::controller_ref::reference;
use crate::index::SandboxRecord;
use crate::names::name_hash;
use crate::patch;

/// The Service of a Sandbox.
pub(super) fn create(sandbox: &SandboxRecord) -> Value {
    let labels = json!({label::SANDBOX_NAME_HASH: name_hash(&sandbox.key.name)});
    let mut spec = json!({"clusterIP": "None", "selector": labels});
    if !sandbox.spec.ports.is_empty() {
        spec["ports"] = ports(&sandbox.spec.ports);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": sandbox.key.name,
            "namespace": sandbox.key.namespace,
            "labels": labels,
            "ownerReferences": [owner(sandbox)],
        },
        "spec": spec,
    })
}

/// Makes a Service that nobody controls the Sandbox's, in one write: operations, because other labels and owners of it
/// stay, and nothing of its old selector does.
pub(super) fn adopt(service: &ServiceRecord, sandbox: &SandboxRecord) -> Value {
    let hash = name_hash(&sandbox.key.name);
    let owners = if service.has_owners {
        json!({"op": "add", "path": "/metadata/ownerReferences/-", "value": owner(sandbox)})
    } else {
        json!({"op": "add", "path": "/metadata/ownerReferences", "value": [owner(sandbox)]})
    };
    json!([
        {"op": "test", "path": "/metadata/uid", "value": service.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": service.version.to_string()},
        // It has labels: one of them is why it may be adopted.
        {"op": "add", "path": patch::label(label::SANDBOX_NAME_HASH), "value": hash},
        owners,
        {"op": "add", "path": "/spec/selector", "value": {label::SANDBOX_NAME_HASH: hash}},
        {"op": "add", "path": "/spec/ports", "value": ports(&sandbox.spec.ports)},
    ])
}

/// What makes a Service of the Sandbox's as it is to be; `None` when it is. Ports are kept only where the Sandbox asks
/// for a Service: of one that it merely has, they are the user's.
pub(super) fn keep(service: &ServiceRecord, sandbox: &SandboxRecord) -> Option<Value> {
    let surface = service.surface.as_deref()?;
    let hash = name_hash(&sandbox.key.name);
    let wanted = BTreeMap::from([(label::SANDBOX_NAME_HASH.to_owned(), hash.clone())]);
    let mut patch = json!({"metadata": {"uid": service.uid}});
    let mut differs = false;
    if service.name_hash.as_ref() != Some(&hash) {
        patch["metadata"]["labels"] = json!({label::SANDBOX_NAME_HASH: hash});
        differs = true;
    }
    if surface.selector != wanted {
        let others = surface
            .selector
            .keys()
            .map(|key| (key.clone(), Value::Null));
        let mut selector: Map<String, Value> = others.collect();
        selector.insert(label::SANDBOX_NAME_HASH.to_owned(), hash.into());
        patch["spec"]["selector"] = selector.into();
        differs = true;
    }
    if sandbox.service == Some(true) && *surface.ports != *sandbox.spec.ports {
        patch["spec"]["ports"] = ports(&sandbox.spec.ports);
        differs = true;
    }
    differs.then_some(patch)
}

fn ports(ports: &[Port]) -> Value {
    let port = |port: &Port| json!({"name": port.name, "protocol": port.protocol, "port": port.port, "targetPort": port.port});
    ports.iter().map(port).collect()
}

fn owner(sandbox: &SandboxRecord) -> Value {
    reference(
        SANDBOX_API_VERSION,
        "Sandbox",
        &sandbox.key.name,
        sandbox.uid.as_str(),
    )
}

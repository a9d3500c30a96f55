//! Objects for tests.

use std::time::Duration;

use hearth_api::{Sandbox, SandboxClaim, SandboxNode, SandboxTemplate, SandboxWarmPool};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Index, Phase, Reported, Settings, node_key};
use crate::effects::{Effect, NodeRequest, Now, Write};
use crate::ids::{Key, NodeName, OwnerKey};

/// `ms` after the start, on both clocks.
pub(crate) fn at(ms: u64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000).unwrap() + Duration::from_millis(ms);
    Now {
        wall,
        mono: Duration::from_millis(ms),
    }
}

/// An index that leads.
pub(crate) fn leader() -> Index {
    let mut index = Index::new(
        Settings {
            claim_events: false,
            sandbox_events: false,
            ..Settings::default()
        },
        1,
        at(0),
    );
    index.lead(at(0));
    index
}

/// Looks at everything that waits and gives the effects.
pub(crate) fn settle(index: &mut Index, now: Now) -> Vec<Effect> {
    let mut effects = Vec::new();
    for _ in 0..10_000 {
        let looked = index.step(now);
        effects.extend(index.take_effects());
        if !looked {
            return effects
                .into_iter()
                .filter(|effect| !matches!(effect, Effect::Observe(_)))
                .collect();
        }
    }
    panic!("the rules do not come to rest");
}

pub(crate) fn writes(effects: Vec<Effect>) -> Vec<Write> {
    effects
        .into_iter()
        .filter_map(|e| {
            if let Effect::Write(w) = e {
                Some(*w)
            } else {
                None
            }
        })
        .collect()
}

pub(crate) fn asks(effects: &[Effect]) -> Vec<NodeRequest> {
    effects
        .iter()
        .filter_map(|e| {
            if let Effect::Ask { request, .. } = e {
                Some(request.clone())
            } else {
                None
            }
        })
        .collect()
}

pub(crate) fn metadata(name: &str, version: u64) -> Value {
    json!({"namespace": "n", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
           "generation": 1, "creationTimestamp": "2027-01-15T08:00:00Z"})
}

pub(crate) fn template(name: &str, version: u64) -> SandboxTemplate {
    let spec = json!({
        "podTemplate": {
            "metadata": {"labels": {"app": "demo"}, "annotations": {"note": "x"}},
            "spec": {"containers": [{"name": "main", "image": "i"}]},
        },
    });
    serde_json::from_value(json!({"metadata": metadata(name, version), "spec": spec})).unwrap()
}

pub(crate) fn pool(name: &str, replicas: i32, version: u64) -> SandboxWarmPool {
    let spec = json!({"sandboxTemplateRef": {"name": "tpl"}, "replicas": replicas});
    serde_json::from_value(json!({"metadata": metadata(name, version), "spec": spec})).unwrap()
}

pub(crate) fn claim(name: &str, version: u64) -> SandboxClaim {
    let spec = json!({"warmPoolRef": {"name": "pool"}});
    serde_json::from_value(json!({"metadata": metadata(name, version), "spec": spec})).unwrap()
}

pub(crate) fn claim_with(name: &str, version: u64, spec: Value) -> SandboxClaim {
    let mut all = json!({"warmPoolRef": {"name": "pool"}});
    all.as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": metadata(name, version), "spec": all})).unwrap()
}

pub(crate) fn node(name: &str) -> SandboxNode {
    let status = json!({
        "endpoint": "127.0.0.1:1", "fingerprint": "f", "handlers": [{"name": "runc"}],
        "capacity": {"sandboxes": 100, "milliCpu": 0, "memoryBytes": 0},
        "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2027-01-15T08:00:00Z"}],
    });
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {}, "status": status}))
        .unwrap()
}

/// A Sandbox from what was created: the API server adds UID, version and times.
pub(crate) fn created(object: &Value, version: u64) -> Sandbox {
    let mut object = object.clone();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object["metadata"]["uid"] = format!("uid-{name}").into();
    object["metadata"]["resourceVersion"] = version.to_string().into();
    object["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z".into();
    object["metadata"]["generation"] = 1.into();
    serde_json::from_value(object).unwrap()
}

pub(crate) fn reported(name: &str, phase: Phase, owner: Option<&str>) -> Reported {
    Reported {
        sandbox: format!("uid-{name}").into(),
        namespace: "n".into(),
        name: name.into(),
        phase,
        pod_ips: vec!["10.0.0.1".into()],
        owner: owner.map(|owner| OwnerKey(owner.into())),
        asks_suspension: false,
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("n", name)
}

pub(crate) fn n1() -> NodeName {
    node_key("n1")
}

/// Applies a JSON merge patch.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(
                target
                    .as_object_mut()
                    .unwrap()
                    .entry(name.clone())
                    .or_insert(Value::Null),
                value,
            );
        }
    }
}

/// Applies a JSON patch; false when an operation fails, and then the object is half changed.
pub(crate) fn operate(object: &mut Value, operations: &Value) -> bool {
    let mut operations = operations.as_array().unwrap().iter();
    operations.all(|operation| operate_once(object, operation))
}

fn operate_once(object: &mut Value, operation: &Value) -> bool {
    let path = operation["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match operation["op"].as_str().unwrap() {
        // A field that is not there is null, as to the API server.
        "test" => object.pointer(path).unwrap_or(&Value::Null) == &operation["value"],
        "replace" => object
            .pointer_mut(path)
            .map(|at| *at = operation["value"].clone())
            .is_some(),
        "remove" => {
            let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
            parent.and_then(|parent| parent.remove(&last)).is_some()
        }
        "add" => {
            let value = operation["value"].clone();
            match object.pointer_mut(parent) {
                Some(Value::Object(fields)) => {
                    fields.insert(last, value);
                }
                Some(Value::Array(list)) => match last.as_str() {
                    "-" => list.push(value),
                    at => list.insert(at.parse().unwrap(), value),
                },
                _ => return false,
            }
            true
        }
        other => panic!("no operation {other}"),
    }
}

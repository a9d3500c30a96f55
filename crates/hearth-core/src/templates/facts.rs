//! What is kept of NetworkPolicies: little of those that are nothing to us.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use crate::controller_ref::ControllerRef;
use crate::index::{Versioned, version_of};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRecord {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who controls it.
    pub controller: Option<ControllerRef>,
    /// Its spec, with what the API server filled in; kept only of policies that something controls.
    pub spec: Option<Box<Value>>,
}

impl PolicyRecord {
    /// What is kept of a NetworkPolicy.
    #[must_use]
    pub fn of(policy: NetworkPolicy) -> Self {
        let NetworkPolicy { metadata, spec } = policy;
        let controller = ControllerRef::of(&metadata);
        let spec = spec.filter(|_| controller.is_some());
        Self {
            version: version_of(metadata.resource_version.as_ref()),
            uid: metadata.uid.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            controller,
            spec: spec.and_then(|spec| serde_json::to_value(spec).ok().map(Box::new)),
        }
    }
}

impl PolicyRecord {
    /// What stands in it, as far as that is kept.
    pub(super) fn spec(&self) -> &Value {
        static NOTHING: Value = Value::Null;
        self.spec.as_deref().unwrap_or(&NOTHING)
    }
}

impl Versioned for PolicyRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_spec_is_kept_of_what_something_controls() {
        let mut object = json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "7"},
            "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"]},
        });
        let record = |object| PolicyRecord::of(serde_json::from_value(object).unwrap());
        let free = record(object.clone());
        assert_eq!((free.uid.as_str(), free.version, free.spec), ("u", 7, None));

        object["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v", "kind": "SandboxTemplate", "name": "t", "uid": "o", "controller": true},
        ]);
        let owned = record(object.clone());
        assert_eq!(owned.controller.unwrap().kind, "SandboxTemplate");
        assert_eq!(*owned.spec.unwrap(), object["spec"]);
    }
}

//! The NetworkPolicy of a template: how it is called, what stands in it, and what one that is there lacks of that.

use hearth_api::constants::{CONTROLLER_NAMESPACE, EXTENSIONS_API_VERSION, label};
use hearth_api::{NetworkPolicyManagement, SandboxTemplateSpec};
use serde_json::{Map, Value, json};

use super::PolicyRecord;
use crate::controller_ref::{ControllerRef, is_extension, reference};
use crate::ids::Key;
use crate::pool::Template;

/// A policy is called like its template, with this behind it. Earlier releases of upstream had one for each claim, called
/// like the claim with the same behind it.
const SUFFIX: &str = "-network-policy";

/// Namespace and name of the policy of this template.
pub(super) fn key_of(template: &Key) -> Key {
    let name = format!("{}{SUFFIX}", template.name);
    Key::new(template.namespace.clone(), name)
}

/// Namespace and name of the template, or of the claim, that a policy of this name would be of.
pub(super) fn owner_of(policy: &Key) -> Option<Key> {
    let name = policy.name.strip_suffix(SUFFIX)?;
    Some(Key::new(policy.namespace.clone(), name))
}

/// Whether a policy is the one that earlier releases of upstream made for the claim whose name it has.
///
/// The claim need not be known: a policy of one that is gone goes as well.
pub(super) fn is_of_claim(policy: &PolicyRecord, owner: &Key) -> bool {
    let is_claim = |controller: &ControllerRef| {
        is_extension(&controller.api_version)
            && controller.kind == "SandboxClaim"
            && controller.name == owner.name
    };
    policy.controller.as_ref().is_some_and(is_claim)
}

/// Whose a policy is that is called like that of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The template's.
    Template,
    /// That of a template of the same name that is gone: the garbage collector takes it away.
    Predecessor,
    /// Somebody else's: it is not touched.
    Other,
}

/// Whose a policy is that is called like that of this template.
pub(super) fn whose(policy: &PolicyRecord, template: &Template) -> Whose {
    match &policy.controller {
        Some(controller) if controller.uid == template.uid => Whose::Template,
        Some(controller)
            if controller.kind == "SandboxTemplate" && controller.name == template.name =>
        {
            Whose::Predecessor
        }
        _ => Whose::Other,
    }
}

/// Spec of the policy that a template wants, with what the API server would fill in; `None` when it wants none.
pub(crate) fn spec(template: &SandboxTemplateSpec, ref_hash: &str) -> Option<Value> {
    if template.network_policy_management == NetworkPolicyManagement::Unmanaged {
        return None;
    }
    let (ingress, egress) = match &template.network_policy {
        Some(rules) => (json!(rules.ingress), json!(rules.egress)),
        None => (closed_ingress(), closed_egress()),
    };
    let mut spec = json!({
        "podSelector": {"matchLabels": {label::TEMPLATE_REF_HASH: ref_hash}},
        // Both, whatever rules there are: a direction without any is denied.
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    });
    settle(&mut spec);
    Some(spec)
}

/// Only the router reaches the sandboxes.
fn closed_ingress() -> Value {
    json!([{"from": [{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CONTROLLER_NAMESPACE}},
        "podSelector": {"matchLabels": {"app": "sandbox-router"}},
    }]}])
}

/// The sandboxes reach the internet, and nothing of the cluster and the networks that it may be in.
fn closed_egress() -> Value {
    let private = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
    ];
    let private_v6 = ["fc00::/7", "fe80::/10"];
    json!([{"to": [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": private}},
        {"ipBlock": {"cidr": "::/0", "except": private_v6}},
    ]}])
}

/// Makes of a spec what the API server would show of it: without what Go does not write because it is empty, and with the
/// one field that is defaulted below the top.
///
/// An empty selector stays: to select everything is not to select nothing.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(settle);
            fields.retain(|name, value| !is_omitted(name, value));
            if let Some(Value::Array(ports)) = fields.get_mut("ports") {
                let ports = ports.iter_mut().filter_map(Value::as_object_mut);
                ports.for_each(|port| {
                    port.entry("protocol").or_insert_with(|| json!("TCP"));
                });
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

fn is_omitted(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(labels) => name == "matchLabels" && labels.is_empty(),
        _ => false,
    }
}

/// The policy of a template, to be made.
pub(super) fn object(template: &Key, uid: &str, spec: &Value) -> Value {
    let policy = key_of(template);
    let owner = reference(
        EXTENSIONS_API_VERSION,
        "SandboxTemplate",
        &template.name,
        uid,
    );
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": policy.name,
            "namespace": policy.namespace,
            "ownerReferences": [owner],
        },
        "spec": spec,
    })
}

/// The JSON merge patch (RFC 7396) that makes `wanted`, which has no nulls, of what is there; `None` when that is it.
pub(super) fn difference(there: &Value, wanted: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (there, wanted) else {
        return (there != wanted).then(|| wanted.clone());
    };
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let mut patch: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in new {
        let change = match old.get(name) {
            Some(old) => difference(old, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(fields: &Value) -> Option<Value> {
        let mut template = json!({"podTemplate": {"spec": {"containers": []}}});
        let all = template.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        spec(&serde_json::from_value(template).unwrap(), "9d22159f")
    }

    /// The spec of a policy with these sections and what is in each.
    fn with(sections: &Value) -> Value {
        let mut spec = json!({
            "podSelector": {"matchLabels": {"agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f"}},
            "policyTypes": ["Ingress", "Egress"],
        });
        let all = spec.as_object_mut().unwrap();
        all.extend(sections.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn the_closed_default_is_upstream_s() {
        let closed = with(&json!({
            "egress": [{"to": [
                {"ipBlock": {"cidr": "0.0.0.0/0",
                             "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}},
            ]}],
            "ingress": [{"from": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agent-sandbox-system"}},
                "podSelector": {"matchLabels": {"app": "sandbox-router"}},
            }]}],
        }));
        assert_eq!(wanted(&json!({})), Some(closed));
    }

    #[test]
    fn rules_of_a_template_take_the_place_of_the_default() {
        let policy = |rules: Value| wanted(&json!({"networkPolicy": rules})).unwrap();
        // A direction without rules is denied, by a policy that has no such section.
        assert_eq!(policy(json!({})), with(&json!({})));
        assert_eq!(
            policy(json!({"ingress": [], "egress": [{}]})),
            with(&json!({"egress": [{}]}))
        );
        // What the API server fills in and leaves out.
        let rules = json!({"ingress": [
            {"from": [], "ports": [{"port": 80}, {"port": "dns", "protocol": "UDP"}]},
            {"from": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {}}}]},
        ]});
        assert_eq!(
            policy(rules),
            with(&json!({"ingress": [
                {"ports": [{"port": 80, "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}]},
                {"from": [{"podSelector": {}}, {"namespaceSelector": {}}]},
            ]}))
        );
    }

    #[test]
    fn an_unmanaged_template_wants_no_policy() {
        let fields = json!({"networkPolicyManagement": "Unmanaged", "networkPolicy": {}});
        assert_eq!(wanted(&fields), None);
    }

    #[test]
    fn a_difference_changes_what_differs_and_removes_what_is_too_much() {
        let there = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "x": {"y": 1}, "same": {"z": []}});
        let wanted = json!({"a": {"b": 1, "d": {}}, "l": [1], "same": {"z": []}, "new": {"n": 1}});
        assert_eq!(
            difference(&there, &wanted),
            Some(json!({"a": {"c": null, "d": {}}, "l": [1], "x": null, "new": {"n": 1}}))
        );
        assert_eq!(difference(&wanted, &wanted), None);
        // Everything, and everything of the own namespace.
        let (all, own) = (json!({"namespaceSelector": {}}), json!({"podSelector": {}}));
        assert_eq!(
            difference(&json!({"from": [all]}), &json!({"from": [own]})),
            Some(json!({"from": [{"podSelector": {}}]}))
        );
    }

    #[test]
    fn names_lead_both_ways() {
        let template = Key::new("n", "tpl");
        let policy = key_of(&template);
        assert_eq!(policy, Key::new("n", "tpl-network-policy"));
        assert_eq!(owner_of(&policy), Some(template));
        assert_eq!(owner_of(&Key::new("n", "tpl")), None);
    }
}

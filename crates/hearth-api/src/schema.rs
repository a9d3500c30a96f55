//! Schemas of fields whose Rust type cannot say all that the CRD must: enums with defaults, raw PodSpecs, times.
//!
//! A default that stands here is part of the API: the API server writes it into the object. The schemas of PodSpec and
//! its like are an API server's own, see `schemas/` and the `hearth-schemas` program.

use schemars::{Schema, SchemaGenerator, json_schema};

/// `map[string]string`.
pub fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// `map[string]number`.
pub fn number_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "number"}})
}

/// `[]string`.
pub fn string_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string"}})
}

/// `*bool`.
pub fn optional_boolean(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "boolean"})
}

/// RFC 3339.
pub fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Go's duration format.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$"})
}

/// Milliseconds.
pub fn milliseconds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "number", "minimum": 0})
}

/// `*int32`, not negative.
pub fn optional_seconds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0})
}

/// Sandbox `operatingMode`.
pub fn operating_mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Running", "Suspended", "Frozen"], "default": "Running"})
}

/// Sandbox `shutdownPolicy`.
pub fn shutdown_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Delete", "Retain"], "default": "Retain"})
}

/// Claim `shutdownPolicy`.
pub fn claim_shutdown_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Delete", "DeleteForeground", "Retain"], "default": "Retain"})
}

/// `recreate`.
pub fn recreate_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Never", "OnFailure", "OnNodeLoss", "Always"]})
}

/// `status.node.tier`.
pub fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Running", "Frozen", "Reclaimed"]})
}

/// `networkPolicyManagement`.
pub fn network_policy_management(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Managed", "Unmanaged"], "default": "Managed"})
}

/// Template policies on claims.
pub fn injection_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Allowed", "Overrides", "Disallowed"], "default": "Disallowed"})
}

/// Pool `replicas`.
pub fn pool_replicas(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "default": 1})
}

/// Pool `readinessGracePeriodSeconds`.
pub fn readiness_grace_period(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 30})
}

/// Pool `updateStrategy.type`.
pub fn update_strategy_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Recreate", "OnReplenish", "RollingUpdate"], "default": "OnReplenish"})
}

/// Pool `maxUnavailable`: a number or a percentage, as of Deployments; none at all would be no rollout.
pub fn max_unavailable(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "pattern": "^([1-9][0-9]?|100)%$",
    })
}

/// Pool `warmth`.
pub fn warmth(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Frozen", "Running", "Sandbox"]})
}

/// `observedGeneration`.
pub fn observed_generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

/// `[]metav1.Condition` with the standard validation.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
                },
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "type": {
                    "type": "string", "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
                }
            }
        }
    })
}

/// Claim `env`: an atomic list.
pub fn claim_env(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<crate::ClaimEnvVar>();
    json_schema!({"type": "array", "items": item, "x-kubernetes-list-type": "atomic"})
}

/// `volumeClaimTemplates`: an atomic list.
pub fn volume_claim_templates(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<crate::PersistentVolumeClaimTemplate>();
    json_schema!({"type": "array", "items": item, "x-kubernetes-list-type": "atomic"})
}

/// The rule on a Sandbox's spec. It stands on the spec and not on the field, so that adding and removing the field are
/// changes too.
#[must_use]
pub fn immutable_volume_claim_templates() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.volumeClaimTemplates) == has(oldSelf.volumeClaimTemplates) && \
                 (!has(self.volumeClaimTemplates) || self.volumeClaimTemplates == oldSelf.volumeClaimTemplates)",
        "message": "volumeClaimTemplates is immutable",
    })
}

/// The rule on a pool's spec that no limit stands there which nothing keeps to.
#[must_use]
pub fn rolling_update_is_used() -> serde_json::Value {
    serde_json::json!({
        "rule": "!has(self.updateStrategy) || !has(self.updateStrategy.rollingUpdate) || \
                 self.updateStrategy.type == 'RollingUpdate'",
        "message": "updateStrategy.rollingUpdate is only for the type RollingUpdate",
    })
}

/// `core/v1` PodSpec.
pub fn pod_spec(_: &mut SchemaGenerator) -> Schema {
    embedded(include_str!("../schemas/pod-spec.json"))
}

/// `core/v1` PersistentVolumeClaimSpec.
pub fn persistent_volume_claim_spec(_: &mut SchemaGenerator) -> Schema {
    embedded(include_str!("../schemas/persistent-volume-claim-spec.json"))
}

/// `networking.k8s.io/v1` ingress rules.
pub fn network_policy_ingress(_: &mut SchemaGenerator) -> Schema {
    let rule = embedded(include_str!("../schemas/network-policy-ingress-rule.json"));
    json_schema!({"type": "array", "items": rule})
}

/// `networking.k8s.io/v1` egress rules.
pub fn network_policy_egress(_: &mut SchemaGenerator) -> Schema {
    let rule = embedded(include_str!("../schemas/network-policy-egress-rule.json"));
    json_schema!({"type": "array", "items": rule})
}

/// A schema that `hearth-schemas` took from an API server.
fn embedded(text: &str) -> Schema {
    serde_json::from_str(text)
        .expect("the checked-in schemas are JSON objects, and a test generates all CRDs")
}

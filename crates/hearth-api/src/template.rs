use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;
use crate::{IdlePolicy, PersistentVolumeClaimTemplate, PodTemplate, RecreatePolicy};

/// What the sandboxes of a pool look like.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxTemplate",
    plural = "sandboxtemplates",
    singular = "sandboxtemplate",
    shortname = "sandboxtemplate",
    namespaced,
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct SandboxTemplateSpec {
    /// What the pods are made from.
    pub pod_template: PodTemplate,
    /// Volumes that each sandbox gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::volume_claim_templates")]
    pub volume_claim_templates: Vec<PersistentVolumeClaimTemplate>,
    /// As in the Sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_boolean")]
    pub service: Option<bool>,
    /// Rules of the managed NetworkPolicy; unset means the closed default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<TemplateNetworkPolicy>,
    /// Whether the controller keeps the NetworkPolicy.
    #[serde(default)]
    #[schemars(schema_with = "schema::network_policy_management")]
    pub network_policy_management: NetworkPolicyManagement,
    /// Whether a claim may set environment variables.
    #[serde(default)]
    #[schemars(schema_with = "schema::injection_policy")]
    pub env_vars_injection_policy: InjectionPolicy,
    /// Whether a claim may bring volumes.
    #[serde(default)]
    #[schemars(schema_with = "schema::injection_policy")]
    pub volume_claim_templates_policy: InjectionPolicy,
    /// As in the Sandbox. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdlePolicy>,
    /// As in the Sandbox. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::recreate_policy")]
    pub recreate: Option<RecreatePolicy>,
}

/// Rules of a template's NetworkPolicy. A missing section denies that direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNetworkPolicy {
    /// Rules for traffic into the sandboxes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::network_policy_ingress")]
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// Rules for traffic out of the sandboxes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::network_policy_egress")]
    pub egress: Vec<NetworkPolicyEgressRule>,
}

/// Whether the controller keeps a template's NetworkPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkPolicyManagement {
    /// It does.
    #[default]
    Managed,
    /// It does not, and deletes the one it made.
    Unmanaged,
}

/// What a claim may change of its template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InjectionPolicy {
    /// Add, but not replace.
    Allowed,
    /// Add and replace.
    Overrides,
    /// Nothing.
    #[default]
    Disallowed,
}

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A number of sandboxes kept ready to be claimed.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxWarmPool",
    plural = "sandboxwarmpools",
    singular = "sandboxwarmpool",
    shortname = "swp",
    namespaced,
    status = "SandboxWarmPoolStatus",
    derive = "PartialEq",
    derive = "Default",
    scale = r#"{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::rolling_update_is_used()]))]
pub struct SandboxWarmPoolSpec {
    /// The template, in the pool's own namespace.
    pub sandbox_template_ref: TemplateRef,
    /// How many unclaimed sandboxes to keep; unset means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pool_replicas")]
    pub replicas: Option<i32>,
    /// How members follow a changed template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// How long a member may take to become ready, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::readiness_grace_period")]
    pub readiness_grace_period_seconds: Option<i64>,
    /// How far members are made before they are claimed; unset means `Frozen`. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::warmth")]
    pub warmth: Option<Warmth>,
}

/// A SandboxTemplate by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateRef {
    /// Name of the template.
    pub name: String,
}

/// How members follow a changed template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// The strategy.
    #[serde(default, rename = "type")]
    #[schemars(schema_with = "schema::update_strategy_type")]
    pub type_: UpdateStrategyType,
    /// Limits of `RollingUpdate`. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Limits of the strategy `RollingUpdate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// How many members may be missing, or a percentage; unset means 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::max_unavailable")]
    pub max_unavailable: Option<IntOrString>,
}

/// How members follow a changed template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategyType {
    /// Stale members are deleted at once.
    Recreate,
    /// Stale members stay until they are claimed.
    #[default]
    OnReplenish,
    /// Stale members are replaced a few at a time, and claimed meanwhile. Hearth only.
    RollingUpdate,
}

/// How far members are made before they are claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Warmth {
    /// Started, ready, then frozen.
    #[default]
    Frozen,
    /// Started, ready, running.
    Running,
    /// Pod sandbox only, containers not created yet.
    Sandbox,
}

/// What is known of a pool. A count of zero is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxWarmPoolStatus {
    /// Members that are not being deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replicas: i32,
    /// Members that are ready to be claimed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Label selector of the members.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::observed_generation")]
    pub observed_generation: Option<i64>,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;
use crate::{Condition, PersistentVolumeClaimTemplate, PodTemplate, Time};

/// One sandbox: a pod with a stable name, state and network identity.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "agents.x-k8s.io",
    version = "v1beta1",
    kind = "Sandbox",
    plural = "sandboxes",
    singular = "sandbox",
    shortname = "sandbox",
    namespaced,
    status = "SandboxStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::immutable_volume_claim_templates()]))]
pub struct SandboxSpec {
    /// What the pod is made from. Editing it reaches only the next pod.
    pub pod_template: PodTemplate,
    /// Volumes that outlive the pod. Immutable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::volume_claim_templates")]
    pub volume_claim_templates: Vec<PersistentVolumeClaimTemplate>,
    /// `true`: keep a headless Service; `false`: keep none; unset: keep the one that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_boolean")]
    pub service: Option<bool>,
    /// Whether the sandbox runs.
    #[serde(default)]
    #[schemars(schema_with = "schema::operating_mode")]
    pub operating_mode: OperatingMode,
    /// When the sandbox expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub shutdown_time: Option<Time>,
    /// What expiry does with the object.
    #[serde(default)]
    #[schemars(schema_with = "schema::shutdown_policy")]
    pub shutdown_policy: ShutdownPolicy,
    /// When an idle sandbox gives up CPU and memory. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdlePolicy>,
    /// Whether a sandbox whose pod or node is gone is made again. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::recreate_policy")]
    pub recreate: Option<RecreatePolicy>,
}

/// Whether a sandbox runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperatingMode {
    /// Processes run, or are frozen for the time being and thawed on use.
    #[default]
    Running,
    /// Processes are kept in memory, stopped. Hearth only.
    Frozen,
    /// No pod; volumes, Service and name are kept.
    Suspended,
}

/// What expiry does with the Sandbox object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShutdownPolicy {
    /// The object is deleted.
    Delete,
    /// The object stays and says that it has expired.
    #[default]
    Retain,
}

/// When an idle sandbox gives up CPU and memory. Durations are Go's format (`30s`, `5m`, `1h30m`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdlePolicy {
    /// Idle time until the processes are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub freeze_after: Option<String>,
    /// Frozen time until memory is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub reclaim_after: Option<String>,
    /// Idle time until the sandbox is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub suspend_after: Option<String>,
}

/// Whether a sandbox whose pod or node is gone is made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecreatePolicy {
    /// Never, as upstream does.
    #[default]
    Never,
    /// After the pod failed.
    OnFailure,
    /// After the node was lost for good.
    OnNodeLoss,
    /// In both cases.
    Always,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// `<service>.<namespace>.svc.<cluster domain>`.
    #[serde(
        default,
        rename = "serviceFQDN",
        skip_serializing_if = "String::is_empty"
    )]
    pub service_fqdn: String,
    /// Name of the headless Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Ready, Suspended, PodScheduled, Finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Label selector of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Addresses of the pod.
    #[serde(default, rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::string_list")]
    pub pod_ips: Vec<String>,
    /// Node of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// What the node says of the pod. Hearth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SandboxNodeInfo>,
}

/// What the node says of a sandbox's pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxNodeInfo {
    /// How much of the pod is resident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::tier")]
    pub tier: Option<Tier>,
    /// CRI runtime handler, for example `runc`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub handler: String,
    /// How the handler's pods are frozen, for example `cgroup-v2`; empty when they are not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub freeze_method: String,
    /// The uid of this incarnation of the pod, as CRI, cgroup and logs know it.
    #[serde(default, rename = "podUID", skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// What stands in the way, in a sentence that names the field, image or container; empty when nothing does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Where the time of the last start, wake or suspension went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<PhaseTimes>,
}

/// How much of a sandbox's pod is resident and running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Processes run.
    Running,
    /// Processes are stopped and confirmed so; memory is kept.
    Frozen,
    /// Frozen, and most of the memory is in swap.
    Reclaimed,
}

/// Milliseconds of each phase of the last start, wake or suspension; absent phases did not happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTimes {
    /// Choosing the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub pick: Option<f64>,
    /// Making the bind durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub bind: Option<f64>,
    /// Thawing the processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub thaw: Option<f64>,
    /// Making and mounting the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub volumes: Option<f64>,
    /// Pod sandbox, network included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub sandbox: Option<f64>,
    /// Creating the containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub create: Option<f64>,
    /// Starting the containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub start: Option<f64>,
    /// From started to ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub ready: Option<f64>,
    /// Stopping the containers, hooks and grace period included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub stop: Option<f64>,
    /// Taking down what was left: pod sandbox, mounts, cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::milliseconds")]
    pub teardown: Option<f64>,
}

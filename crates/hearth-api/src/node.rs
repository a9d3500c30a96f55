use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, schema};

/// One node that runs sandboxes. Written by its own hearthd, read by the controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hearth.dev",
    version = "v1alpha1",
    kind = "SandboxNode",
    plural = "sandboxnodes",
    singular = "sandboxnode",
    shortname = "sbn",
    status = "SandboxNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Sandboxes","type":"integer","jsonPath":".status.usage.sandboxes"}"#,
    printcolumn = r#"{"name":"Free","type":"integer","jsonPath":".status.usage.freeMembers"}"#,
    printcolumn = r#"{"name":"Max","type":"integer","jsonPath":".status.capacity.sandboxes"}"#,
    printcolumn = r#"{"name":"Handlers","type":"string","jsonPath":".status.handlers[*].name"}"#,
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.podCIDR","priority":1}"#,
    printcolumn = r#"{"name":"Endpoint","type":"string","jsonPath":".status.endpoint","priority":1}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SandboxNodeSpec {
    /// Addresses of the node's pods.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    /// No new sandboxes here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,
    /// Taints, copied from the Node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<NodeTaint>,
}

/// A taint, as in `core/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeTaint {
    /// Key of the taint.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxNodeStatus {
    /// `host:port` of the node API.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// SHA-256 of the node API's certificate (DER), lower-case hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Version of hearthd.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Boot id of the machine.
    #[serde(default, rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// What sandboxes may use in all.
    #[serde(default)]
    pub capacity: NodeCapacity,
    /// What they use now.
    #[serde(default)]
    pub usage: NodeUsage,
    /// Runtime handlers and what is known of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerStatus>,
    /// Images present, by reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::string_list")]
    pub images: Vec<String>,
    /// Pressure stall averages over 10 s in per cent, by resource (`cpu`, `memory`, `io`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::number_map")]
    pub pressure: BTreeMap<String, f64>,
    /// Ready, and what stands in its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What sandboxes may use in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCapacity {
    /// Sandboxes.
    #[serde(default)]
    pub sandboxes: i32,
    /// CPU in thousandths of a core.
    #[serde(default)]
    pub milli_cpu: i64,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: i64,
    /// Ephemeral storage in bytes: layers, logs and volumes on disk.
    #[serde(default)]
    pub storage_bytes: i64,
}

/// What sandboxes use now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// Sandboxes with a pod.
    #[serde(default)]
    pub sandboxes: i32,
    /// Of these, running.
    #[serde(default)]
    pub running: i32,
    /// Of these, frozen.
    #[serde(default)]
    pub frozen: i32,
    /// Pool members ready to be claimed.
    #[serde(default)]
    pub free_members: i32,
    /// CPU requested, in thousandths of a core.
    #[serde(default)]
    pub milli_cpu: i64,
    /// Memory requested, in bytes.
    #[serde(default)]
    pub memory_bytes: i64,
    /// Ephemeral storage requested, in bytes.
    #[serde(default)]
    pub storage_bytes: i64,
}

/// One runtime handler of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandlerStatus {
    /// Name of the CRI handler, for example `runc`.
    pub name: String,
    /// How its pods are frozen, for example `cgroup-v2`; empty when they are not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub freeze_method: String,
    /// Why they are not frozen, when they are not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

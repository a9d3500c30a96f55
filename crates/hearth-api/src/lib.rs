//! The agent-sandbox API (`agents.x-k8s.io`, `extensions.agents.x-k8s.io`, both `v1beta1`) and Hearth's own
//! `hearth.dev/v1alpha1`: types, constants and the CRDs made from them. Pure data, no logic.
//!
//! The four upstream kinds keep their exact wire form. Hearth's additions are optional fields that an upstream
//! client never sees. PodSpecs stay raw JSON ([`PodSpecJson`]): of all the readers only the node needs to
//! understand one, and a controller that holds 100,000 Sandboxes must not pay for parsing them.

mod claim;
pub mod constants;
mod crd;
mod guarded;
mod meta;
mod node;
mod podspec;
mod sandbox;
pub mod schema;
mod template;
mod v1alpha1;
mod warmpool;

pub use claim::{
    AdditionalPodMetadata, ClaimEnvVar, ClaimLifecycle, ClaimShutdownPolicy, ClaimedSandbox,
    SandboxClaim, SandboxClaimSpec, SandboxClaimStatus, WarmPoolRef,
};
pub use crd::crds;
pub use guarded::{Guarded, InvalidObject};
pub use meta::{PersistentVolumeClaimTemplate, PodMetadata, PodTemplate, VolumeClaimMetadata};
pub use node::{
    HandlerStatus, NodeCapacity, NodeTaint, NodeUsage, SandboxNode, SandboxNodeSpec,
    SandboxNodeStatus,
};
pub use podspec::PodSpecJson;
pub use sandbox::{
    IdlePolicy, OperatingMode, PhaseTimes, RecreatePolicy, Sandbox, SandboxNodeInfo, SandboxSpec,
    SandboxStatus, ShutdownPolicy, Tier,
};
pub use template::{
    InjectionPolicy, NetworkPolicyManagement, SandboxTemplate, SandboxTemplateSpec,
    TemplateNetworkPolicy,
};
pub use v1alpha1::crds_with_v1alpha1;
pub use warmpool::{
    RollingUpdate, SandboxWarmPool, SandboxWarmPoolSpec, SandboxWarmPoolStatus, TemplateRef,
    UpdateStrategy, UpdateStrategyType, Warmth,
};

/// `metav1.Condition`, as every status of the API carries it.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
/// `metav1.Time`: RFC 3339 with second precision on the wire.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

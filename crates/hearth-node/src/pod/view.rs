//! What is known of a sandbox, for status, inventory and metrics.

use hearth_api::{PhaseTimes, Tier};
use hearth_core::ids::{Key, PodUid, SandboxUid};

/// What is known of one sandbox at one moment.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The Sandbox object.
    pub uid: SandboxUid,
    /// Its name.
    pub key: Key,
    /// `metadata.generation` of the wish that is being followed; `None` while only the journal is known.
    pub generation: Option<i64>,
    /// Whether it is an unclaimed pool member.
    pub member: bool,
    /// This incarnation of the pod.
    pub pod_uid: Option<PodUid>,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// How much of it is resident; `None` without a pod. Never `Frozen` unless the kernel confirmed it.
    pub tier: Option<Tier>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// The CRI handler.
    pub handler: String,
    /// How its pods are frozen; empty when they are not.
    pub freeze_method: &'static str,
    /// What stands in the way; empty when nothing does.
    pub message: String,
    /// Where the time of the last start or wake went.
    pub phases: PhaseTimes,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Nothing was made yet, or it is being made.
    Pending,
    /// All containers were started, but not all are ready.
    NotReady,
    /// Ready; `tier` says whether the processes run.
    Ready,
    /// Being stopped, to be suspended or removed.
    Stopping,
    /// No pod, on purpose: suspended, or expired.
    Stopped,
    /// A step failed and is tried again after a back-off, or the specification was refused.
    Failed,
    /// The outcome of an operation is being found out.
    Unknown,
    /// All containers have ended.
    Finished,
}

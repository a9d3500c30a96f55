//! What the journal keeps of a sandbox's pod.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_core::podspec::PodPlan;
use serde::{Deserialize, Serialize};

/// The durable facts of one sandbox on this node. Written before what it names is made, deleted after that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The Sandbox object.
    pub uid: SandboxUid,
    /// Its name.
    pub key: Key,
    /// This incarnation of the pod; `None` while there is none (suspended).
    pub pod_uid: Option<PodUid>,
    /// Whether it was made as a pool member.
    pub member: bool,
    /// The CRI handler of the incarnation; empty while there is none.
    #[serde(default)]
    pub handler: String,
    /// How far its life has come.
    pub stage: Stage,
    /// What the incarnation was made from. A template that is edited reaches only the next one.
    pub plan: Option<Arc<PodPlan>>,
}

/// How far the life of a sandbox has come, as far as a restarted daemon cannot see it for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The pod is being made, or was made and has not been ready yet.
    Creating,
    /// The pod has been ready.
    Ready,
    /// The pod is being stopped; it is never used again.
    Stopping,
    /// No pod, on purpose.
    Suspended,
    /// All containers ended well, and none is started again.
    Succeeded,
    /// All containers ended, at least one badly, and none is started again.
    Failed,
}

/// Where records are kept. The journal implements it.
#[async_trait]
pub trait RecordStore: Send + Sync + std::fmt::Debug {
    /// Writes or replaces the record of `record.uid`. Durable when it returns.
    async fn put(&self, record: &PodRecord) -> Result<(), RecordError>;

    /// Deletes the record of `uid`; succeeds when there is none. Durable when it returns.
    async fn delete(&self, uid: &SandboxUid) -> Result<(), RecordError>;
}

/// A record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("journal: record of sandbox {uid}")]
pub struct RecordError {
    /// The sandbox.
    pub uid: SandboxUid,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

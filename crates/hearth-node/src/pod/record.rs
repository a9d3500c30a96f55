//! What the journal keeps of a sandbox's pod.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_core::podspec::PodPlan;
use serde::{Deserialize, Serialize};

pub use hearth_core::sandbox::Stage;

/// The durable facts of one sandbox on this node. Written before what it names is made, deleted after that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The Sandbox object.
    pub uid: SandboxUid,
    /// Its name.
    pub key: Key,
    /// How far its life has come.
    pub stage: Stage,
    /// Whether it was made as a pool member.
    #[serde(default)]
    pub member: bool,
    /// Its pod; `None` while there is none (suspended).
    #[serde(default)]
    pub pod: Option<PodIncarnation>,
}

/// One incarnation of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodIncarnation {
    /// Its uid.
    pub uid: PodUid,
    /// The highest attempt of its CRI sandbox that may have been used.
    #[serde(default)]
    pub attempt: u32,
    /// The CRI handler that it runs on; empty in records of before this was kept.
    #[serde(default)]
    pub handler: String,
    /// The node's id of its root, if it has a user namespace of its own.
    #[serde(default)]
    pub first_id: Option<u32>,
    /// How long it had been active, in milliseconds, as far as it has a deadline for that.
    #[serde(default)]
    pub active_ms: u64,
    /// What it was made from. A template that is edited reaches only the next one.
    pub plan: Arc<PodPlan>,
    /// Why the node ended it, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted: Option<String>,
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

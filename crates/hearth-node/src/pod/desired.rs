//! What the API wants of a sandbox.

use std::sync::Arc;

use hearth_api::{OperatingMode, Warmth};
use hearth_core::ids::Key;
use hearth_core::podspec::{PodPlan, Refusal};
use jiff::Timestamp;

/// What the API wants of a sandbox of this node: the newest one counts, intermediate ones may be skipped.
#[derive(Clone, Debug)]
pub struct DesiredSandbox {
    /// Its name.
    pub key: Key,
    /// `metadata.generation`, for `observedGeneration`.
    pub generation: i64,
    /// Whether it runs.
    pub mode: OperatingMode,
    /// How a member that nobody has claimed is kept; `None` for claimed and bare sandboxes.
    pub member: Option<Warmth>,
    /// When it expires.
    pub shutdown_time: Option<Timestamp>,
    /// What its pod is made from, or why none can be made.
    pub plan: Result<Arc<PodPlan>, Arc<Refusal>>,
}

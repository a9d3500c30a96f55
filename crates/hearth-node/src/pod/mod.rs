//! Everything that makes, runs, freezes and stops the sandboxes of this node.
//!
//! [`PodManager`] is the handle. Each sandbox has one runner task, the only one that touches its CRI ids, cgroup and
//! volumes, and one gate, through which whoever needs its processes alive goes.

mod activity;
mod changes;
mod config;
mod desired;
mod manager;
mod record;
mod view;

pub use activity::ClaimActivity;
pub use changes::Changes;
pub use config::PodConfig;
pub use desired::DesiredSandbox;
pub use manager::{Adopted, BoundPod, PodDeps, PodManager, RemoveReason, ThawRefused};
pub use record::{PodRecord, RecordError, RecordStore, Stage};
pub use view::{PodPhase, PodView};

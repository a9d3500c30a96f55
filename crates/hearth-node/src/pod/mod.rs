//! Everything that makes, runs, freezes and stops the sandboxes of this node.
//!
//! [`PodManager`] is the handle. Each sandbox has one runner task, which drives the pure state machine of
//! `hearth_core::sandbox` and is the only one that touches its CRI ids, cgroup and volumes; and one gate, the only one
//! that freezes and thaws, through which whoever needs its processes alive goes. A bind takes the short way: it thaws
//! through the gate without waiting for the runner, whatever that is busy with.
//!
//! Who talks to whom:
//!
//! * the manager puts wishes and hints into a runner's inbox, where the newest wins (no queue that could fill up);
//! * the runner waits for its inbox, its operation, its probes and its timer at once;
//! * runners and gates publish views; whoever subscribed hears which sandbox changed, coalesced;
//! * container events, a list after each reconnect and a slow resync tell runners to look at the runtime.

mod activity;
mod alarm;
mod attached;
mod cell;
mod changes;
mod classes;
mod clock;
mod config;
mod contents;
mod create;
mod cri_config;
mod desired;
mod disk;
mod empty_dir;
mod env_files;
mod errand;
mod follow;
mod gate;
mod host;
mod image;
mod inspect;
mod located;
mod logs;
mod manager;
mod metrics;
mod payload;
mod persistent;
mod prober;
mod record;
mod replace;
mod rest;
mod runner;
mod settle;
mod show;
mod sight;
mod slots;
mod stalls;
mod stop;
mod storage;
mod tls;
mod user_ids;
mod view;
mod words;
mod work;

#[cfg(test)]
mod gate_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use activity::ClaimActivity;
pub use changes::Changes;
pub use classes::NodeClass;
pub use clock::WallClock;
pub use config::{Handler, PodConfig, Reach};
pub use desired::{DesiredSandbox, NoPlan};
pub use disk::DiskUsage;
pub use gate::BoundPod;
pub use host::{HostError, Part, PodHost, Reclaim, SysHost, VolumeFiles};
pub(crate) use inspect::{Console, LiveHold};
pub use logs::LogLimits;
pub use manager::{
    Adopted, GateRefused, Need, PodDeps, PodManager, RemoveReason, RunnerPanicked, ThawRefused,
};
pub use metrics::PodMetrics;
pub(crate) use metrics::ThawReason;
pub use persistent::MountVolumeError;
pub use record::{PodIncarnation, PodRecord, RecordError, RecordStore, Stage};
pub(crate) use rest::Footing;
pub use view::{ForStatus, PodPhase, PodView, Requests};

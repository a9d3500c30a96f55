//! The runtime host: what the machine must be like for pods, and the dedicated containerd.
//!
//! [`Host::prepare`] makes directories, cgroups, the packet filter, the network's and containerd's configuration.
//! [`ContainerdHost`] starts containerd, watches it and starts it again; containerd runs in the supervisor's cgroup in
//! a session of its own, outlives the daemon, and is found again by the next. [`import_images`] and [`probe_all`]
//! need a containerd that answers.
//!
//! Everything derives from the instance id and the instance's two directories, so that several instances run side by
//! side, and [`crate::cleanup`] takes all of it away.

mod containerd;
mod error;
mod files;
mod handlers;
mod images;
mod metrics;
mod prepare;
mod probe;
mod process;
mod ready;
mod render;
mod set_aside;

pub use containerd::{ContainerdHost, ContainerdState, wait_up};
pub use error::HostError;
pub use handlers::Runtime;
pub use images::{Import, ImportError, ImportOutcome, import_images};
pub use metrics::{ContainerdMetrics, HandlerMetrics};
pub use prepare::Host;
pub use probe::{probe_all, probe_freeze};

pub(crate) use files::{
    lock, owner, read_if_exists, remove_owned, remove_unmarked, write as write_file,
};
pub(crate) use prepare::{FORWARDED_BEFORE, TOOL_LIMIT};
pub(crate) use process::end_recorded;

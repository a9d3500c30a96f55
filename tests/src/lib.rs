//! What the cluster suite is made of: the cluster that `cargo xtask up` left, a namespace for each test, and looks at
//! the sandboxes from every side that does not depend on our own word: the API server's watch and audit log, the
//! kernel's cgroup files, containerd's lists, and HTTP into the sandboxes.

pub mod audit;
pub mod cgroups;
pub mod cluster;
pub mod component;
pub mod containerd;
pub mod daemon_logs;
pub mod gvisor;
pub mod http;
pub mod observe;
pub mod process;
pub mod pty;
pub mod registry;
pub mod rights;
pub mod scene;
pub mod status;
pub mod tail;

pub use hearth_test::{fixtures, wait};

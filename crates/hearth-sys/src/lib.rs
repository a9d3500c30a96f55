//! What Hearth asks of the kernel: freezer, cgroup limits and statistics, mounts, processes, nftables.
//!
//! Everything here blocks; the node calls it on blocking threads. Nothing waits without a limit. Everything that is
//! global to the machine takes its name from the instance id, and nothing touches a cgroup, mount, link or table that
//! does not carry it.
//!
//! This is the only crate that may contain `unsafe`, and [`spawn`] is the only module of it that does.

mod command;
mod wait;

pub mod boot;
pub mod cgroup;
pub mod check;
pub mod disk;
pub mod fake;
pub mod freezer;
pub mod host_path;
pub mod link;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod nft;
pub mod process;
pub mod spawn;
pub mod sysctl;
pub mod tree;

pub use cgroup::{Cgroup, CgroupError, CgroupTree, Layout, Limits, Usage};
pub use freezer::{FreezeError, Freezer, Method, SentryFreezer};
pub use process::{Process, ProcessError, ProcessId, Signal};

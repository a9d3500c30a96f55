//! What Hearth asks of the kernel: freezer, cgroup limits and statistics, reclaim, mounts, processes, nftables and its log.
//!
//! Everything here blocks; the node calls it on blocking threads. Nothing waits without a limit. Everything that is
//! global to the machine takes its name from the instance id, and nothing touches a cgroup, mount, link or table that
//! does not carry it.
//!
//! This is the only crate that may contain `unsafe`, and [`spawn`] and `reclaim::pageout` are the only modules of it that do.

mod command;
mod wait;

pub mod boot;
pub mod cgroup;
pub mod check;
pub mod disk;
pub mod fake;
pub mod file;
pub mod freezer;
pub mod host_path;
pub mod link;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod nft;
pub mod process;
pub mod reclaim;
pub mod spawn;
pub mod sysctl;
pub mod traffic;
pub mod tree;
pub mod zram;

pub use cgroup::{Cgroup, CgroupError, CgroupTree, HeldMemory, Layout, Limits, Usage};
pub use freezer::{FreezeError, Freezer, Method, SentryFreezer};
pub use process::{Process, ProcessError, ProcessId, Signal};

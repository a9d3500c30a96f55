//! The cgroups of one instance, in every hierarchy of the host.
//!
//! ```text
//! /hearth-<instance>/supervisor        containerd and the shims; never frozen
//! /hearth-<instance>/pods/pod<uid>     one pod: our limits, what is frozen and thawed
//! /hearth-<instance>/pods/pod<uid>/…   its containers, made by the runtime
//! ```
//!
//! A host has one v2 hierarchy, or several v1 hierarchies beside a v2 one (hybrid), or v1 only. A cgroup here stands for
//! the directory of that path in each of them: the runtime puts a container's tasks into all, and each controller
//! works in exactly one.

mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod layout;
mod limits;
mod remove;
mod tree;
mod usage;

use std::io;
use std::path::{Path, PathBuf};

pub use layout::{Hierarchy, Layout, Version};
pub use limits::Limits;
pub use tree::{Cgroup, CgroupTree};
pub use usage::{HeldMemory, Usage};

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A file or directory could not be read, written, made or removed.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// What was tried: `read`, `write 100 to`, `create`, …
        action: String,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file's content is not what the kernel documents.
    #[error("{path} has unexpected content {content:?}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it held.
        content: String,
    },
    /// No cgroup hierarchy under the root.
    #[error("no cgroup hierarchy is mounted under {root}", root = .root.display())]
    NoHierarchy {
        /// The root that was looked at.
        root: PathBuf,
    },
    /// A controller that limits need is in no hierarchy, or not passed on to ours.
    #[error("the {controller} controller is not available in {path}", path = .path.display())]
    NoController {
        /// The controller, such as `memory`.
        controller: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An instance id or pod uid that cannot be part of a path.
    #[error("{name:?} cannot be part of a cgroup's name")]
    BadName {
        /// The name.
        name: String,
    },
    /// Tasks were left when the time was over.
    #[error("{path} still has tasks: {tasks:?}", path = .path.display())]
    Busy {
        /// The cgroup.
        path: PathBuf,
        /// Process ids of the tasks, as far as they could be read.
        tasks: Vec<i32>,
    },
}

impl CgroupError {
    /// An error of `action` on `path`.
    pub(crate) fn io(action: impl Into<String>, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action: action.into(),
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the cgroup, or a file of it, is not there (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_gone(source),
            _ => false,
        }
    }
}

/// A removed cgroup: the path is gone, or an open file of it answers `ENODEV`.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV)
    )
}

/// Writes a value to the same file of a cgroup and of all below it; what is gone is skipped.
pub(crate) fn write_below(directory: &Path, name: &str, value: &str) -> Result<(), CgroupError> {
    for cgroup in file::subtree(directory)? {
        file::unless_gone(file::write(&cgroup.join(name), value))?;
    }
    Ok(())
}

//! Stopping and resuming all tasks of a cgroup, with confirmation.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Stops and resumes the tasks of one pod.
pub trait Freezer: Send + Sync + std::fmt::Debug {
    /// Freezes and returns once the kernel has confirmed that every task is stopped.
    ///
    /// # Errors
    /// On any failure, the deadline included, the cgroup is thawed again; [`FreezeError::Stuck`] says that this failed
    /// as well. A cgroup that is gone is an error: nothing was frozen.
    fn freeze(&self, within: Duration) -> Result<(), FreezeError>;

    /// Thaws and returns once the kernel has confirmed it. Success when the cgroup is gone.
    fn thaw(&self, within: Duration) -> Result<(), FreezeError>;

    /// Whether the kernel says that every task is stopped. Half-frozen is `false`; so is a cgroup that is gone.
    fn is_frozen(&self) -> Result<bool, FreezeError>;
}

/// A failed freeze or thaw.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// A control file could not be read or written.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A control file holds something unexpected.
    #[error("{path} has unexpected content {content:?}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it held.
        content: String,
    },
    /// The cgroup does not exist.
    #[error("{path} does not exist", path = .path.display())]
    Gone {
        /// The cgroup.
        path: PathBuf,
    },
    /// Not all tasks stopped in time (one may be in an uninterruptible sleep). The cgroup is thawed again.
    #[error("{path} was not frozen within {within:?}", path = .path.display())]
    NotFrozen {
        /// The cgroup.
        path: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// The kernel did not confirm the thaw in time.
    #[error("{path} was not thawed within {within:?}", path = .path.display())]
    NotThawed {
        /// The cgroup.
        path: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// A freeze failed, and the thaw that was to undo it failed too: the tasks may be stopped, fully or in part.
    #[error("{path} could not be frozen and is not known to be thawed (the freeze failed: {freeze})", path = .path.display())]
    Stuck {
        /// The cgroup.
        path: PathBuf,
        /// Why the freeze failed.
        freeze: Box<FreezeError>,
        /// Why the thaw failed.
        #[source]
        thaw: Box<FreezeError>,
    },
    /// The cgroup holds this very process, which would stop itself.
    #[error("{path} holds this process", path = .path.display())]
    Own {
        /// The cgroup.
        path: PathBuf,
    },
    /// No hierarchy of the host has a freezer.
    #[error("no hierarchy of this host can freeze {cgroup}")]
    Unsupported {
        /// The cgroup's path below the hierarchies' roots.
        cgroup: String,
    },
}

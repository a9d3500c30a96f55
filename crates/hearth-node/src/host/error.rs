//! Why a host could not be prepared.

use std::io;
use std::path::{Path, PathBuf};

use hearth_sys::CgroupError;
use hearth_sys::nft::CommandError;

use crate::config::ConfigError;

/// Why a host could not be prepared, or containerd not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A value of the configuration cannot be used.
    #[error("unusable configuration")]
    Config(#[source] ConfigError),
    /// The machine lacks something: one sentence for each, with its remedy.
    #[error("{}", .0.join(" "))]
    Problems(Vec<String>),
    /// A daemon of this instance runs already.
    #[error("another hearthd of this instance runs: it holds {path}", path = .path.display())]
    Locked {
        /// The file that it holds.
        path: PathBuf,
    },
    /// The directory is another instance's.
    #[error("{path} belongs to the instance {owner:?}", path = .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// A file or directory could not be made, read or written.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The cgroups could not be made.
    #[error("make the cgroups of the instance")]
    Cgroup(#[source] CgroupError),
    /// The packet filter could not be loaded.
    #[error("load the packet filter")]
    Filter(#[source] CommandError),
    /// The work was abandoned, by a panic or because the process ends.
    #[error("prepare the host")]
    Abandoned(#[source] tokio::task::JoinError),
}

impl HostError {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

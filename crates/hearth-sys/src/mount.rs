//! Mounts of this mount namespace.

use std::io;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Its file system type, such as `overlay` or `nsfs`.
    pub fs_type: String,
    /// Its source as the kernel shows it.
    pub source: String,
}

/// A failed operation on a mount.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}", path = .path.display())]
pub struct MountError {
    /// What was tried.
    pub action: &'static str,
    /// The mount point.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// Mounts at and below `prefix` (an absolute path without symbolic links), in the order they were made.
pub fn under(prefix: &Path) -> Result<Vec<Mount>, MountError> {
    let _ = prefix;
    todo!()
}

/// Mounts `source` with all below it at `target`, which must exist and be of the same kind.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), MountError> {
    let _ = (source, target, read_only);
    todo!()
}

/// Mounts a memory file system at the directory `target`, of at most `size_bytes` (default: half of the memory).
pub fn tmpfs(target: &Path, size_bytes: Option<u64>) -> Result<(), MountError> {
    let _ = (target, size_bytes);
    todo!()
}

/// Mounts the directory at itself, if it is no mount point yet, and makes it shared, so that mounts made below it are
/// seen by containers that have it with host-to-container propagation.
pub fn make_shared(directory: &Path) -> Result<(), MountError> {
    let _ = directory;
    todo!()
}

/// Detaches the topmost mount at `target`, busy or not. Success when nothing is mounted there.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    let _ = target;
    todo!()
}

/// Detaches everything mounted at and below `prefix`, last mounted first, and returns how many there were.
pub fn unmount_all(prefix: &Path) -> Result<usize, MountError> {
    let _ = prefix;
    todo!()
}

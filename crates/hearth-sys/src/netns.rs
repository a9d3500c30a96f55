//! Network namespaces that are kept by a mount.

use std::path::{Path, PathBuf};

use crate::mount::MountError;

/// Network namespaces mounted in `directory`.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, MountError> {
    let _ = directory;
    todo!()
}

/// Unmounts a network namespace and removes its file; its links end when no process uses it any more. Success when it
/// does not exist.
pub fn remove(path: &Path) -> Result<(), MountError> {
    let _ = path;
    todo!()
}

//! Network namespaces that are kept by a mount.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::mount::{self, MountError};

/// Network namespaces mounted in `directory`, by path.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, MountError> {
    let mounts = mount::under(directory)?;
    let mut paths: Vec<_> = mounts
        .into_iter()
        .filter(|m| m.fs_type == "nsfs")
        .map(|m| m.target)
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Unmounts a network namespace and removes its file; its links end when no process uses it any more. Success when it
/// does not exist.
pub fn remove(path: &Path) -> Result<(), MountError> {
    mount::unmount_all(path)?;
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(MountError::new("remove", path, error)),
    }
}

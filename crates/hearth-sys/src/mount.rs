//! Mounts of this mount namespace.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::Process;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::process::proc_error;

/// How often everything below a path is unmounted until nothing is left: mounts may be made meanwhile.
const ROUNDS: usize = 8;

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

impl MountError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Mounts at and below `prefix` (an absolute path without symbolic links), in the order they were made.
pub fn under(prefix: &Path) -> Result<Vec<Mount>, MountError> {
    let infos = Process::myself().and_then(|process| process.mountinfo());
    let infos = infos
        .map_err(|error| MountError::new("list the mounts below", prefix, proc_error(error)))?;
    let mounts = infos.into_iter().map(|info| Mount {
        target: unescape(info.mount_point.as_os_str()),
        fs_type: info.fs_type,
        source: info.mount_source.unwrap_or_default(),
    });
    Ok(mounts
        .filter(|mount| mount.target.starts_with(prefix))
        .collect())
}

/// Whether something is mounted at `path` itself. Asks the kernel for this one path: the list of all mounts grows by four
/// with each pod.
pub fn is_mount_point(path: &Path) -> Result<bool, MountError> {
    let asked = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::empty(),
    );
    let stat = asked.map_err(|error| MountError::new("look for a mount at", path, error))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Detaches all that is mounted at the entries of `directory`, but not below them. Success when there is no such
/// directory.
pub fn unmount_entries(directory: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::new("list", directory, error);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        for _ in 0..ROUNDS {
            if !is_mount_point(&path)? {
                break;
            }
            unmount(&path)?;
        }
    }
    Ok(())
}

/// Mounts `source` with all below it at `target`, which must exist and be of the same kind. What is mounted below the
/// source stays writable also when `read_only` is set.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), MountError> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|error| MountError::new("mount a directory or file at", target, error))?;
    if read_only {
        // The kernel takes the flag on a second call only.
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        if let Err(error) = rustix::mount::mount_remount(target, flags, "") {
            unmount(target)?;
            return Err(MountError::new(
                "make read-only the mount at",
                target,
                error,
            ));
        }
    }
    Ok(())
}

/// Mounts a memory file system at the directory `target`, of at most `size_bytes` (default: half of the memory). Every
/// user may write to it, no file of it can be a device or give its owner's rights.
pub fn tmpfs(target: &Path, size_bytes: Option<u64>) -> Result<(), MountError> {
    let size = size_bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
    let failed = |error: io::Error| MountError::new("mount a memory file system at", target, error);
    let options = CString::new(format!("mode=0777{size}"))
        .map_err(|error| failed(io::Error::other(error)))?;
    rustix::mount::mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(options.as_c_str()),
    )
    .map_err(|error| failed(error.into()))
}

/// Mounts the directory at itself, if it is no mount point yet, and makes it shared, so that mounts made below it are
/// seen by containers that have it with host-to-container propagation.
pub fn make_shared(directory: &Path) -> Result<(), MountError> {
    if !is_mount_point(directory)? {
        rustix::mount::mount_bind_recursive(directory, directory)
            .map_err(|error| MountError::new("mount at itself", directory, error))?;
    }
    rustix::mount::mount_change(directory, MountPropagationFlags::SHARED)
        .map_err(|error| MountError::new("share the mount at", directory, error))
}

/// Detaches the topmost mount at `target`, busy or not. Success when nothing is mounted there.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount point, or no such path.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(MountError::new("unmount", target, error)),
    }
}

/// Detaches everything mounted at and below `prefix`, last mounted first, and returns how many there were.
///
/// # Errors
/// Also when mounts keep appearing.
pub fn unmount_all(prefix: &Path) -> Result<usize, MountError> {
    let mut count = 0;
    for _ in 0..ROUNDS {
        let mounts = under(prefix)?;
        if mounts.is_empty() {
            return Ok(count);
        }
        for mount in mounts.iter().rev() {
            unmount(&mount.target)?;
        }
        count += mounts.len();
    }
    Err(MountError::new(
        "unmount everything below",
        prefix,
        io::Error::from(io::ErrorKind::ResourceBusy),
    ))
}

/// The kernel writes blanks, line ends and backslashes in mount points as three octal digits.
fn unescape(path: &OsStr) -> PathBuf {
    let mut bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (first, rest)
        {
            plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            bytes = after;
        } else {
            plain.push(*first);
            bytes = rest;
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let check = |escaped: &str, plain: &str| {
            assert_eq!(unescape(OsStr::new(escaped)), Path::new(plain))
        };
        check("/plain", "/plain");
        check("/with\\040blank\\011and\\134", "/with blank\tand\\");
        check("/not\\04", "/not\\04");
        check("/not\\999", "/not\\999");
    }
}

//! Mounts of this mount namespace.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

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

/// Overlays at and below `prefix` (an absolute path without symbolic links): where each is mounted, and the directory that
/// takes what is written to it.
pub fn overlays_under(prefix: &Path) -> Result<Vec<(PathBuf, PathBuf)>, MountError> {
    let infos = Process::myself().and_then(|process| process.mountinfo());
    let infos = infos
        .map_err(|error| MountError::new("list the mounts below", prefix, proc_error(error)))?;
    let overlay = |mut info: MountInfo| {
        let target = unescape(info.mount_point.as_os_str());
        let upper = info.super_options.remove("upperdir").flatten()?;
        let upper = unescape(OsStr::new(&upper));
        (target.starts_with(prefix) && upper.is_absolute()).then_some((target, upper))
    };
    Ok(infos.into_iter().filter_map(overlay).collect())
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
        unmount_at(&entry.map_err(failed)?.path())?;
    }
    Ok(())
}

/// Detaches all that is mounted at `path`, but not below it. Success when there is no such path. What is mounted below it
/// goes with it, and stays elsewhere.
pub fn unmount_at(path: &Path) -> Result<(), MountError> {
    for _ in 0..ROUNDS {
        if !path.try_exists().unwrap_or(true) || !is_mount_point(path)? {
            return Ok(());
        }
        // Whoever mounted it may have been killed before this was done.
        set_apart(path)?;
        unmount(path)?;
    }
    Err(MountError::new(
        "unmount",
        path,
        io::Error::from(io::ErrorKind::ResourceBusy),
    ))
}

/// Mounts `source` with all below it at `target`, which must exist and be of the same kind. What is mounted below the
/// source stays writable also when `read_only` is set.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), MountError> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|error| MountError::new("mount a directory or file at", target, error))?;
    if let Err(error) = set_apart(target) {
        unmount(target)?;
        return Err(error);
    }
    // The kernel takes the flag on a second call only.
    if read_only && let Err(error) = make_read_only(target) {
        unmount(target)?;
        return Err(error);
    }
    Ok(())
}

/// Keeps what happens to the mount at `target`, and to those below it, from happening elsewhere. With a recursive mount come
/// copies of the node's own mounts below: where those are shared, taking ours away would take theirs away. Harmless when it
/// was done already; but what was shared since is shared no longer.
pub fn set_apart(target: &Path) -> Result<(), MountError> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(target, flags)
        .map_err(|error| MountError::new("set apart the mount at", target, error))
}

/// Makes what is bind-mounted at `target` read-only, but not what is mounted below it. Harmless when it is already.
pub fn make_read_only(target: &Path) -> Result<(), MountError> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(target, flags, "")
        .map_err(|error| MountError::new("make read-only the mount at", target, error))
}

/// Mounts what is at `path` below the directory `root` at `target`, which is made. Links are followed as long as they stay
/// below `root`, whatever anybody makes of them meanwhile: the kernel checks each step, and what was opened is what is
/// mounted. With `make`, directories that are missing are made, open to all.
pub fn bind_beneath(root: &Path, path: &Path, target: &Path, make: bool) -> Result<(), MountError> {
    let failed = |error: Errno| MountError::new("open, without leaving its volume,", path, error);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    let beneath = |path: &Path, flags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve)
    };
    let found = match beneath(path, flags) {
        Err(Errno::NOENT) if make => {
            let open_to_all = Mode::from_raw_mode(0o777);
            make_beneath(&top, path, open_to_all, &beneath).map_err(failed)?;
            beneath(path, flags)
        }
        found => found,
    };
    let found = found.map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    attach(&found, FileType::from_raw_mode(stat.st_mode), target)
}

/// Mounts what was opened, with all that is mounted below it, at `target`, which is made.
pub(crate) fn attach(found: &OwnedFd, kind: FileType, target: &Path) -> Result<(), MountError> {
    let made = if kind == FileType::Directory {
        std::fs::create_dir_all(target)
    } else {
        std::fs::File::create(target).map(drop)
    };
    made.map_err(|error| MountError::new("make the mount point", target, error))?;
    let mounting = |error| MountError::new("mount what was opened at", target, error);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(found, "", flags).map_err(mounting)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, target, flags).map_err(mounting)
}

/// Makes the directories of `path` that are missing, from the top, with this mode.
pub(crate) fn make_beneath(
    top: &OwnedFd,
    path: &Path,
    mode: Mode,
    beneath: &dyn Fn(&Path, OFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<()> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut parent = top.try_clone().map_err(|_| Errno::MFILE)?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        match rustix::fs::mkdirat(&parent, Path::new(part.as_os_str()), mode) {
            // The mode given to mkdir is cut by the process's umask.
            Ok(()) => {
                let made = beneath(&so_far, directory)?;
                rustix::fs::fchmod(&made, mode)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        parent = beneath(&so_far, directory)?;
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

//! Files and directories of the node in a pod.

use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::mount::{MountError, attach, make_beneath, set_apart};

/// Mode of directories that are made, as kubelet makes them.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
/// Mode of files that are made, as kubelet makes them.
const FILE: Mode = Mode::from_raw_mode(0o644);

/// What a path must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Anything,
    /// A directory.
    Directory,
    /// An ordinary file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Expect {
    /// Whether `kind` is what is expected.
    fn meets(self, kind: FileType) -> bool {
        match self {
            Self::Anything => true,
            Self::Directory => kind == FileType::Directory,
            Self::File => kind == FileType::RegularFile,
            Self::Socket => kind == FileType::Socket,
            Self::CharDevice => kind == FileType::CharacterDevice,
            Self::BlockDevice => kind == FileType::BlockDevice,
        }
    }

    /// In words.
    fn name(self) -> &'static str {
        match self {
            Self::Anything => "anything",
            Self::Directory => "a directory",
            Self::File => "a file",
            Self::Socket => "a socket",
            Self::CharDevice => "a character device",
            Self::BlockDevice => "a block device",
        }
    }
}

/// What is done about a path that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: it is an error.
    Fail,
    /// It is made as a directory, with those above it.
    MakeDirectory,
    /// It is made as an empty file.
    MakeFile,
}

/// Mounts what is at `path` below the directory `allowed`, with all that is mounted below it, at `target`, which is made.
/// An empty `path` means the directory itself.
///
/// Links are followed as long as they stay below `allowed`, whatever anybody makes of them meanwhile: the kernel checks each
/// step, and what was opened is what is mounted. (A link with an absolute target counts as leaving, unless `allowed` is `/`.)
/// Mounts that come and go at the node are seen through it, and nothing that is mounted or unmounted there reaches the node.
///
/// # Errors
/// Also when it is not what was expected.
pub fn bind_host_path(
    allowed: &Path,
    path: &Path,
    target: &Path,
    expect: Expect,
    missing: Missing,
) -> Result<(), MountError> {
    let shown = allowed.join(path);
    let failed =
        |error: Errno| MountError::new("open, without leaving what is allowed,", &shown, error);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top =
        rustix::fs::open(allowed, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    let inside = match allowed.parent() {
        Some(_) => ResolveFlags::BENEATH,
        // Everything is inside of `/`.
        None => ResolveFlags::IN_ROOT,
    };
    let beneath = |path: &Path, flags| {
        let resolve = inside | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve)
    };
    let found = match beneath(path, flags) {
        Err(Errno::NOENT) if missing != Missing::Fail => {
            make(&top, path, missing, &beneath).map_err(failed)?;
            beneath(path, flags)
        }
        found => found,
    };
    let found = found.map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !expect.meets(kind) {
        let what = format!("it is not {}", expect.name());
        return Err(MountError::new(
            "use, as its type says,",
            &shown,
            io::Error::other(what),
        ));
    }
    attach(&found, kind, target)?;
    set_apart(target)
}

fn make(
    top: &OwnedFd,
    path: &Path,
    missing: Missing,
    beneath: &dyn Fn(&Path, OFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<()> {
    if missing == Missing::MakeDirectory {
        return make_beneath(top, path, DIRECTORY, beneath);
    }
    let (Some(name), parent) = (path.file_name(), path.parent()) else {
        return Err(Errno::ISDIR);
    };
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = beneath(parent.unwrap_or_else(|| Path::new(".")), directory)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, Path::new(name), flags, FILE)?;
    // The mode given at its making is cut by the process's umask.
    rustix::fs::fchmod(&file, FILE)
}

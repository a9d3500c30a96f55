//! Stopping and resuming all tasks of a pod, with confirmation: by its cgroup, or by the Sentry it runs in.

mod sentry;
mod v1;
mod v2;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::{Cgroup, CgroupError, is_gone};
use crate::wait::Deadline;

pub use sentry::SentryFreezer;
use v1::V1Freezer;
use v2::V2Freezer;

/// Stops and resumes the tasks of one pod.
pub trait Freezer: Send + Sync + std::fmt::Debug {
    /// Freezes and returns once the kernel of the pod has confirmed that every task is stopped.
    ///
    /// # Errors
    /// On any failure, the deadline included, the pod is thawed again, unless nothing was done to it yet;
    /// [`FreezeError::Stuck`] says that this failed as well. A pod that is gone is an error: nothing was frozen.
    fn freeze(&self, within: Duration) -> Result<(), FreezeError>;

    /// Thaws and returns once that was confirmed. Success when the pod is gone. After [`FreezeError::NotThawed`] it can
    /// be called again, and goes on waiting.
    fn thaw(&self, within: Duration) -> Result<(), FreezeError>;

    /// Whether the pod's kernel says that every task is stopped. Half-frozen is `false`; so is a pod that is gone.
    fn is_frozen(&self) -> Result<bool, FreezeError>;

    /// How it does it.
    fn method(&self) -> Method;

    /// Whether it is of this CRI sandbox, and remembers what it has asked of it: another one would have to find that out
    /// first, so that this one is worth keeping for as long as the sandbox lives.
    fn remembers(&self, _sandbox: &str) -> bool {
        false
    }
}

/// How a pod is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `cgroup.freeze` of cgroup v2.
    CgroupV2,
    /// The v1 freezer.
    CgroupV1,
    /// gVisor's kernel, asked over its control socket.
    Sentry,
    /// The runtime's tasks, paused over containerd's task API.
    Task,
}

impl Method {
    /// Its name in status and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup-v2",
            Self::CgroupV1 => "cgroup-v1",
            Self::Sentry => "sentry",
            Self::Task => "task",
        }
    }
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
    /// The pod does not exist.
    #[error("{path} does not exist", path = .path.display())]
    Gone {
        /// The cgroup, or the socket.
        path: PathBuf,
    },
    /// Who was asked over a socket said no.
    #[error("{path} refused: {message}", path = .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The answer.
        message: String,
    },
    /// An earlier freeze was undone without having ended, and still waits for a task that does not stop.
    #[error("an earlier pause of {path} has not ended: a task does not stop", path = .path.display())]
    Wedged {
        /// The socket.
        path: PathBuf,
    },
    /// Who was asked over a socket did not answer in time.
    #[error("{path} does not answer", path = .path.display())]
    Silent {
        /// The socket.
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

impl FreezeError {
    /// An error of `action` on `path`, a file of `cgroup`.
    fn io(action: &'static str, cgroup: &Path, path: &Path, source: io::Error) -> Self {
        if is_gone(&source) {
            return Self::Gone {
                path: cgroup.to_owned(),
            };
        }
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// How long the thaw that undoes a failed freeze may take at least, however short the freeze's own time was.
const UNDO: Duration = Duration::from_secs(1);

/// What the generations of the freezer do differently.
trait Control {
    /// The cgroup's directory.
    fn cgroup(&self) -> &Path;

    /// Tells the kernel what is wanted.
    fn request(&self, frozen: bool) -> Result<(), FreezeError>;

    /// Waits until the kernel says that it is so; `false` when the deadline passed first.
    fn confirm(&self, frozen: bool, deadline: Deadline) -> Result<bool, FreezeError>;
}

fn freeze(control: &impl Control, within: Duration) -> Result<(), FreezeError> {
    let attempt = || {
        control.request(true)?;
        if control.confirm(true, Deadline::after(within))? {
            return Ok(());
        }
        Err(FreezeError::NotFrozen {
            path: control.cgroup().to_owned(),
            within,
        })
    };
    let Err(failure) = attempt() else {
        return Ok(());
    };
    match thaw(control, within.max(UNDO)) {
        Ok(()) => Err(failure),
        Err(thaw) => Err(FreezeError::Stuck {
            path: control.cgroup().to_owned(),
            freeze: Box::new(failure),
            thaw: Box::new(thaw),
        }),
    }
}

fn thaw(control: &impl Control, within: Duration) -> Result<(), FreezeError> {
    let attempt = || {
        control.request(false)?;
        control.confirm(false, Deadline::after(within))
    };
    match attempt() {
        Ok(true) | Err(FreezeError::Gone { .. }) => Ok(()),
        Ok(false) => Err(FreezeError::NotThawed {
            path: control.cgroup().to_owned(),
            within,
        }),
        Err(error) => Err(error),
    }
}

/// The freezer for the tasks that are in the cgroup now.
pub(crate) fn of(cgroup: &Cgroup) -> Result<Box<dyn Freezer>, FreezeError> {
    let layout = cgroup.layout();
    let v2 = layout
        .hierarchies()
        .iter()
        .find(|h| layout.unified() == Some(&h.path))
        .map(|h| cgroup.directory(h));
    let v1 = layout.controller("freezer").map(|h| cgroup.directory(h));
    let v1_only = match (&v2, &v1) {
        // Tasks that are in neither are none: then the v2 freezer will do.
        (Some(v2), Some(v1)) => !v2::populated(v2)? && v1::populated(v1)?,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    match (v2, v1) {
        (_, Some(v1)) if v1_only => {
            refuse_own(cgroup, has_freezer)?;
            Ok(Box::new(V1Freezer::new(v1)))
        }
        (Some(v2), _) => {
            refuse_own(cgroup, str::is_empty)?;
            Ok(Box::new(V2Freezer::new(v2)))
        }
        (None, _) => Err(FreezeError::Unsupported {
            cgroup: cgroup.path().to_owned(),
        }),
    }
}

/// Lets go of what a v1 freezer holds in the cgroup and below, without waiting.
pub(crate) fn thaw_v1(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let Some(hierarchy) = cgroup.layout().controller("freezer") else {
        return Ok(());
    };
    v1::release(&cgroup.directory(hierarchy))
}

/// Refuses a cgroup that holds this process: it would freeze itself and never come to thaw.
///
/// `own` picks this process's line of `/proc/self/cgroup` by its list of controllers.
fn refuse_own(cgroup: &Cgroup, own: impl Fn(&str) -> bool) -> Result<(), FreezeError> {
    let path = Path::new("/proc/self/cgroup");
    let content = fs::read_to_string(path).map_err(|source| FreezeError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    if holds(cgroup.path(), &content, own) {
        return Err(FreezeError::Own {
            path: cgroup.path().into(),
        });
    }
    Ok(())
}

/// Whether the cgroup is, or is above, the one that a content of `/proc/<pid>/cgroup` names.
fn holds(cgroup: &str, content: &str, own: impl Fn(&str) -> bool) -> bool {
    let path_of = |line: &str| {
        let (_id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        own(controllers).then(|| Path::new(path).starts_with(cgroup))
    };
    content.lines().find_map(path_of).unwrap_or(false)
}

fn has_freezer(controllers: &str) -> bool {
    controllers.split(',').any(|name| name == "freezer")
}

/// Reads an open control file from its start.
pub(crate) fn read_again(file: &File) -> io::Result<String> {
    let mut buffer = [0; 256];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_the_processes_in_it_and_below() {
        let check = |own: &str, expected| {
            let content = format!("9:name=systemd:/\n6:freezer:/elsewhere\n0::{own}\n");
            assert_eq!(
                holds("/hearth-t/pods/poda", &content, str::is_empty),
                expected,
                "{own}"
            );
        };
        check("/hearth-t/pods/poda", true);
        check("/hearth-t/pods/poda/c1", true);
        check("/hearth-t/pods/podab", false);
        check("/hearth-t/pods", false);
        check("/", false);
        assert!(holds(
            "/elsewhere",
            "6:cpu,freezer:/elsewhere\n0::/\n",
            has_freezer
        ));
        assert!(!holds(
            "/elsewhere",
            "6:cpu:/elsewhere\n0::/\n",
            has_freezer
        ));
    }
}

//! Processes by pid and start time, so that a reused pid is never taken for the process that had it before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use procfs::ProcError;
use procfs::process::Stat;
use rustix::event::PollFlags;
use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::wait::{Deadline, wait_any};

/// A process for as long as the machine runs: pids are reused, pids with their start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Start time after boot, in clock ticks (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}

/// A failed operation on a process.
#[derive(Debug, thiserror::Error)]
#[error("{action} process {pid}")]
pub struct ProcessError {
    /// What was tried.
    pub action: &'static str,
    /// The pid.
    pub pid: i32,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

impl ProcessId {
    /// The process that has this pid now, or `None`. One that has exited and was not yet reaped still has it.
    pub fn of(pid: i32) -> Result<Option<Self>, ProcessError> {
        Ok(stat(pid)?.map(|stat| Self {
            pid,
            start_time: stat.starttime,
        }))
    }

    /// Whether the process still runs. One that has exited and was not yet reaped does not.
    pub fn is_alive(&self) -> Result<bool, ProcessError> {
        let runs = |stat: Stat| {
            stat.starttime == self.start_time && !matches!(stat.state, 'Z' | 'X' | 'x')
        };
        Ok(stat(self.pid)?.is_some_and(runs))
    }

    /// Opens the process for signals and for waiting; `None` when it does not run any more.
    pub fn open(&self) -> Result<Option<Process>, ProcessError> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // The pid of a thread that is not its process's main one is refused as invalid.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(self.error("open", error)),
        };
        // Looked at after opening: what has this start time now is what was opened.
        Ok(self.is_alive()?.then_some(Process { id: *self, fd }))
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> ProcessError {
        ProcessError {
            action,
            pid: self.pid,
            source: source.into(),
        }
    }
}

fn stat(pid: i32) -> Result<Option<Stat>, ProcessError> {
    match procfs::process::Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) => Ok(Some(stat)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(ProcError::Io(error, _))
            if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(ProcessError {
            action: "look at",
            pid,
            source: proc_error(error),
        }),
    }
}

/// The system's error below one of the procfs crate, or that one as it is.
pub(crate) fn proc_error(error: ProcError) -> io::Error {
    match error {
        ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    }
}

/// A running process behind a pidfd.
///
/// The descriptor ([`AsFd`], or [`Process::into_fd`]) becomes readable when the process exits: give it to
/// `tokio::io::unix::AsyncFd` with read interest.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    fd: OwnedFd,
}

impl Process {
    /// Opens a child that was not waited for yet, even if it has exited.
    pub(crate) fn of_child(child: &Child) -> Result<Self, ProcessError> {
        let pid = Pid::from_child(child);
        let failed = |source: io::Error| ProcessError {
            action: "open",
            pid: pid.as_raw_nonzero().get(),
            source,
        };
        // The pid is the child's until it is waited for, so there is nothing to confuse it with.
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| failed(error.into()))?;
        let id = ProcessId::of(pid.as_raw_nonzero().get())?;
        let id = id.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(Self { id, fd })
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Sends a signal; `false` when the process has exited.
    pub fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(self.id.error("signal", error)),
        }
    }

    /// Waits for the exit; `false` when it still runs after `within`. A zero duration only looks.
    pub fn wait(&self, within: Duration) -> Result<bool, ProcessError> {
        wait_any(&[self.fd.as_fd()], PollFlags::IN, Deadline::after(within))
            .map_err(|error| self.id.error("wait for", error))
    }

    /// Collects the exit status of a child that has exited, so that no zombie is left. `None` when it still runs, and
    /// when it is not a child of this process (then somebody else reaps it).
    pub fn reap(&self) -> Result<Option<ExitStatus>, ProcessError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(None) | Err(Errno::CHILD) => Ok(None),
            Ok(Some(status)) => {
                let code = status.exit_status().unwrap_or(0) << 8;
                Ok(Some(ExitStatus::from_raw(
                    status.terminating_signal().unwrap_or(code),
                )))
            }
            Err(error) => Err(self.id.error("reap", error)),
        }
    }

    /// The pidfd.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn sleeper() -> (Child, ProcessId) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, ProcessId::of(pid).unwrap().unwrap())
    }

    #[test]
    fn a_process_is_alive_until_it_has_exited() {
        let (mut child, id) = sleeper();
        assert!(id.is_alive().unwrap());
        let process = id.open().unwrap().unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        assert_eq!(process.reap().unwrap(), None);
        assert!(process.signal(Signal::KILL).unwrap());
        assert!(process.wait(LONG).unwrap());
        assert!(!id.is_alive().unwrap(), "not reaped, but dead");
        assert!(id.open().unwrap().is_none());
        child.wait().unwrap();
        assert!(!id.is_alive().unwrap());
        assert_eq!(ProcessId::of(id.pid).unwrap(), None);
        assert!(!process.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let (mut child, id) = sleeper();
        let earlier = ProcessId {
            start_time: id.start_time - 1,
            ..id
        };
        assert!(!earlier.is_alive().unwrap());
        assert!(earlier.open().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn reaping_tells_how_it_ended() {
        let check = |script: &str, code, signal| {
            #[expect(clippy::zombie_processes, reason = "reaped through its pidfd")]
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = Process::of_child(&child).unwrap();
            assert!(process.wait(LONG).unwrap());
            let status = process.reap().unwrap().unwrap();
            assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
            assert_eq!(process.reap().unwrap(), None, "reaped already");
        };
        check("exit 0", Some(0), None);
        check("exit 7", Some(7), None);
        check("kill -9 $$", None, Some(9));
    }

    #[test]
    fn nobodys_child_is_not_reaped() {
        let process = ProcessId::of(1).unwrap().unwrap().open().unwrap().unwrap();
        assert_eq!(process.reap().unwrap(), None);
    }
}

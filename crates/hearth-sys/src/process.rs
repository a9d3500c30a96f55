//! Processes by pid and start time, so that a reused pid is never taken for the process that had it before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub use rustix::process::Signal;
use serde::{Deserialize, Serialize};

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
    /// The process that has this pid now, or `None`.
    pub fn of(pid: i32) -> Result<Option<Self>, ProcessError> {
        let _ = pid;
        todo!()
    }

    /// Whether the process still runs. One that has exited and was not yet reaped does not.
    pub fn is_alive(&self) -> Result<bool, ProcessError> {
        todo!()
    }

    /// Opens the process for signals and for waiting; `None` when it does not run any more.
    pub fn open(&self) -> Result<Option<Process>, ProcessError> {
        todo!()
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
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Sends a signal; `false` when the process has exited.
    pub fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        let _ = signal;
        todo!()
    }

    /// Waits for the exit; `false` when it still runs after `within`. A zero duration only looks.
    pub fn wait(&self, within: Duration) -> Result<bool, ProcessError> {
        let _ = within;
        todo!()
    }

    /// Collects the exit status of a child that has exited, so that no zombie is left. `None` when it still runs, and
    /// when it is not a child of this process (then somebody else reaps it).
    pub fn reap(&self) -> Result<Option<std::process::ExitStatus>, ProcessError> {
        todo!()
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

//! Daemons that outlive the process that starts them.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::{Cgroup, CgroupError, Process, ProcessError};

/// A daemon to start: own session, own cgroup from before its first instruction, output in a file, no input.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The program, as a path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Where its standard output and error are appended.
    pub log: PathBuf,
    /// The cgroup that it joins in every hierarchy before it runs; it must exist.
    pub cgroup: Option<Cgroup>,
}

/// A daemon that could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The log file could not be opened.
    #[error("open log {path}", path = .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A cgroup could not be opened for joining.
    #[error("join the daemon's cgroup")]
    Cgroup(#[source] CgroupError),
    /// The program could not be started.
    #[error("start {program}", program = .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The program was started and has exited before it could be identified; its log tells why.
    #[error("{program} exited at once", program = .program.display())]
    Exited {
        /// The program.
        program: PathBuf,
    },
    /// The started process could not be identified.
    #[error("identify the started process")]
    Identify(#[source] ProcessError),
}

/// Starts a daemon and returns it. It is not stopped when the returned value is dropped, nor when this process ends;
/// while this process runs, it must [`reap`](Process::reap) the daemon after its exit.
pub fn spawn(daemon: &Daemon) -> Result<Process, SpawnError> {
    let _ = daemon;
    todo!()
}

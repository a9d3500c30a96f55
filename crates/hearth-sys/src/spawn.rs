//! Daemons that outlive the process that starts them.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
    /// The program could not be started: not be found or executed, or not join its cgroup.
    #[error("start {program}", program = .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The program was started, but could not be identified, and was killed.
    #[error("identify the started process")]
    Identify(#[source] ProcessError),
}

/// Starts a daemon and returns it. It is not stopped when the returned value is dropped, nor when this process ends;
/// while this process runs, it must [`reap`](Process::reap) the daemon after its exit.
///
/// The program is running when this returns, or has ended since; what it says is in the log.
pub fn spawn(daemon: &Daemon) -> Result<Process, SpawnError> {
    let log = open_log(daemon)?;
    let err = log.try_clone().map_err(|source| SpawnError::Log {
        path: daemon.log.clone(),
        source,
    })?;
    let entrances = match &daemon.cgroup {
        Some(cgroup) => cgroup.entrances().map_err(SpawnError::Cgroup)?,
        None => Vec::new(),
    };
    let mut command = Command::new(&daemon.program);
    command
        .args(&daemon.args)
        .env_clear()
        .envs(daemon.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&daemon.directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(err);
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed. It makes the
    // system calls setsid and write on descriptors that were opened before the fork, and neither allocates nor locks:
    // `rustix` issues them directly, and converting an errno to an `io::Error` stores the number only.
    unsafe {
        command.pre_exec(move || detach(&entrances));
    }
    let mut child = command.spawn().map_err(|source| SpawnError::Start {
        program: daemon.program.clone(),
        source,
    })?;
    Process::of_child(&child).map_err(|error| {
        // Nobody could ever find it again. The failure to identify it is the one to report.
        let _ = child.kill().and_then(|()| child.wait());
        SpawnError::Identify(error)
    })
}

fn open_log(daemon: &Daemon) -> Result<File, SpawnError> {
    let open = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&daemon.log);
    open.map_err(|source| SpawnError::Log {
        path: daemon.log.clone(),
        source,
    })
}

/// Leaves the starter's session, so that no terminal's signal reaches the daemon, and its cgroups.
fn detach(entrances: &[File]) -> io::Result<()> {
    rustix::process::setsid()?;
    for entrance in entrances {
        rustix::io::write(entrance, b"0")?;
    }
    Ok(())
}

//! The process of the dedicated containerd: found again after a restart of the daemon, or started.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use hearth_sys::spawn::{self, Daemon, SpawnError};
use hearth_sys::{CgroupError, Process, ProcessError, ProcessId, Signal, boot};
use hearth_telemetry::ErrorChain;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Host, HostError, files};
use crate::paths::Paths;

/// How long containerd may take to end when it is asked to, and again when it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to resume what would not outlive containerd.
const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// A log longer than this is set aside when containerd is started, in bytes.
const LOG_LIMIT: u64 = 16 << 20;
/// How much of the log's end is read to learn why containerd ended, in bytes.
const LOG_READ: u64 = 64 << 10;
/// Where the tools are that containerd and the CNI plugins call, after the bin directory.
const SYSTEM_PATH: &str = ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What of the environment containerd gets beside `PATH`: how to reach registries.
const PASSED_ON: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Which process containerd is, and what it was started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    process: ProcessId,
    boot_id: String,
    config_digest: String,
    binary_digest: String,
}

impl Record {
    /// The record in a file, if there is one. One that cannot be read is as good as none: the process is found by its
    /// cgroup.
    fn load(path: &Path) -> Result<Option<Self>, HostError> {
        let Some(content) = files::read_if_exists(path)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&content);
        if record.is_err() {
            warn!(path = %path.display(), "the record of containerd's process is damaged");
        }
        Ok(record.ok())
    }

    /// The process, if it still runs.
    fn open(&self) -> Result<Option<Process>, StartError> {
        let boot_id = boot_id()?;
        if self.boot_id != boot_id {
            return Ok(None);
        }
        self.process.open().map_err(StartError::Process)
    }

    fn store(&self, path: &Path) -> Result<(), HostError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| HostError::io("write", path, io::Error::other(error)))?;
        files::write(path, &text)
    }
}

/// A containerd that could not be started, stopped or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("prepare the start of containerd")]
    Prepare(#[source] HostError),
    #[error("look for containerd's process")]
    Process(#[source] ProcessError),
    #[error("look at the supervisor's cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("start containerd")]
    Spawn(#[source] SpawnError),
    #[error("containerd, process {pid}, does not end")]
    Stuck { pid: i32 },
    #[error("the start of containerd was abandoned")]
    Abandoned(#[source] tokio::task::JoinError),
}

impl From<HostError> for StartError {
    fn from(error: HostError) -> Self {
        Self::Prepare(error)
    }
}

/// A running containerd.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    /// Where the log was when it was started or found, in bytes.
    pub(super) log_start: u64,
    /// Whether it was started just now, and will say when it is ready.
    pub(super) started: bool,
}

/// Finds the containerd that runs, or starts one. One that was started from another binary or configuration is
/// replaced; pods do not notice.
pub(super) fn acquire(host: &Host) -> Result<Running, StartError> {
    let paths = host.paths();
    let binary_digest = files::digest(&host.program("containerd"))?;
    let recorded = Record::load(&paths.containerd_record())?;
    let mut current = None;
    if let Some(record) = recorded
        && let Some(process) = record.open()?
    {
        if record.binary_digest == binary_digest
            && record.config_digest == host.containerd_config_digest()
        {
            current = Some(process);
        } else {
            info!(
                pid = process.id().pid,
                "containerd is replaced: its binary or configuration has changed"
            );
            resume_tasks(host);
            stop(&process)?;
        }
    }
    stop_strays(host, current.as_ref().map(Process::id))?;
    if let Some(process) = current {
        info!(pid = process.id().pid, "found containerd running");
        let log_start = fs::metadata(paths.containerd_log()).map_or(0, |log| log.len());
        return Ok(Running {
            process,
            log_start,
            started: false,
        });
    }
    start(host, binary_digest)
}

/// Resumes what would not outlive containerd's end. What cannot be resumed is lost with it, and made anew.
fn resume_tasks(host: &Host) {
    match host.freezers().before_containerd_ends(RESUME_LIMIT) {
        Ok(0) => {}
        Ok(tasks) => info!(tasks, "resumed tasks before containerd is ended"),
        Err(error) => {
            warn!(error = %ErrorChain(&error), "not all tasks were resumed before containerd is ended");
        }
    }
}

fn start(host: &Host, binary_digest: String) -> Result<Running, StartError> {
    let paths = host.paths();
    let log_start = set_log_aside(&paths.containerd_log())?;
    // What answers at the socket from now on is the new one.
    files::remove(&paths.containerd_socket())?;
    let boot_id = boot_id()?;
    let process = spawn::spawn(&daemon(host)).map_err(StartError::Spawn)?;
    let record = Record {
        process: process.id(),
        boot_id,
        config_digest: host.containerd_config_digest().to_owned(),
        binary_digest,
    };
    if let Err(error) = record.store(&paths.containerd_record()) {
        stop(&process)?;
        return Err(error.into());
    }
    info!(pid = process.id().pid, "started containerd");
    Ok(Running {
        process,
        log_start,
        started: true,
    })
}

fn daemon(host: &Host) -> Daemon {
    let paths = host.paths();
    let mut path = host.program("").into_os_string();
    path.push(SYSTEM_PATH);
    let mut env = vec![
        (OsString::from("PATH"), path),
        ("NOTIFY_SOCKET".into(), paths.notify_socket().into()),
    ];
    let passed_on = |name: &&str| Some(((*name).into(), std::env::var_os(name)?));
    env.extend(PASSED_ON.iter().filter_map(passed_on));
    Daemon {
        program: host.program("containerd"),
        args: vec!["--config".into(), paths.containerd_config().into()],
        env,
        directory: paths.root().to_owned(),
        log: paths.containerd_log(),
        cgroup: Some(host.cgroups().supervisor()),
    }
}

/// Ends containerds of the instance that no record names: the daemon was killed between starting and recording it.
fn stop_strays(host: &Host, known: Option<ProcessId>) -> Result<(), StartError> {
    let pids = host
        .cgroups()
        .supervisor()
        .processes()
        .map_err(StartError::Cgroup)?;
    for pid in pids {
        let id = ProcessId::of(pid).map_err(StartError::Process)?;
        let Some(id) = id.filter(|id| Some(*id) != known && is_containerd(pid, host.paths()))
        else {
            continue;
        };
        if let Some(process) = id.open().map_err(StartError::Process)? {
            info!(pid, "a containerd that no record names is replaced");
            stop(&process)?;
        }
    }
    Ok(())
}

/// Whether a process of our cgroup was started as our containerd. Shims have other arguments.
fn is_containerd(pid: i32, paths: &Paths) -> bool {
    let config = paths.containerd_config();
    let config = config.as_os_str().as_encoded_bytes();
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|argument| argument == config)
    })
}

/// Ends a containerd; the shims and their pods stay.
pub(super) fn stop(process: &Process) -> Result<(), StartError> {
    for signal in [Signal::TERM, Signal::KILL] {
        let there = process.signal(signal).map_err(StartError::Process)?;
        if !there || process.wait(STOP_LIMIT).map_err(StartError::Process)? {
            process.reap().map_err(StartError::Process)?;
            return Ok(());
        }
    }
    Err(StartError::Stuck {
        pid: process.id().pid,
    })
}

/// Ends the containerd that the instance's record names, wherever it runs. Success when there is none.
pub(crate) fn end_recorded(paths: &Paths) -> Result<(), StartError> {
    let Some(record) = Record::load(&paths.containerd_record())? else {
        return Ok(());
    };
    match record.open()? {
        Some(process) => stop(&process),
        None => Ok(()),
    }
}

/// Sets a long log aside, replacing the one before; returns the length of the log that is appended to.
fn set_log_aside(log: &Path) -> Result<u64, HostError> {
    let length = fs::metadata(log).map_or(0, |log| log.len());
    if length <= LOG_LIMIT {
        return Ok(length);
    }
    fs::rename(log, log.with_extension("log.old"))
        .map_err(|source| HostError::io("set aside", log, source))?;
    Ok(0)
}

/// The end of what the log has from `start` on; empty when it cannot be read.
pub(super) fn log_since(log: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_READ))))?;
        let mut bytes = Vec::new();
        file.take(LOG_READ).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn boot_id() -> Result<String, HostError> {
    boot::boot_id().map_err(|source| {
        HostError::io("read", Path::new("/proc/sys/kernel/random/boot_id"), source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            process: ProcessId::of(i32::try_from(std::process::id()).unwrap())
                .unwrap()
                .unwrap(),
            boot_id: boot_id().unwrap(),
            config_digest: "c".to_owned(),
            binary_digest: "b".to_owned(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        assert_eq!(Record::load(&path).unwrap(), None);
        record().store(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(record()));
        fs::write(&path, "{").unwrap();
        assert_eq!(Record::load(&path).unwrap(), None, "damaged");
    }

    #[test]
    fn only_the_recorded_process_of_this_boot_is_opened() {
        assert!(record().open().unwrap().is_some());
        let rebooted = Record {
            boot_id: "another".to_owned(),
            ..record()
        };
        assert!(rebooted.open().unwrap().is_none());
        let mut reused = record();
        reused.process.start_time -= 1;
        assert!(reused.open().unwrap().is_none());
    }

    #[test]
    fn the_log_is_read_from_where_the_process_began() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        assert_eq!(log_since(&path, 0), "");
        fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(log_since(&path, 4), "new\n");
        let long = "x".repeat(100 << 10) + "end";
        fs::write(&path, &long).unwrap();
        let read = log_since(&path, 0);
        assert!(read.len() as u64 <= LOG_READ && read.ends_with("end"));
    }

    #[test]
    fn a_long_log_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("containerd.log");
        assert_eq!(set_log_aside(&path).unwrap(), 0);
        fs::write(&path, "x").unwrap();
        assert_eq!(set_log_aside(&path).unwrap(), 1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LOG_LIMIT + 1)
            .unwrap();
        assert_eq!(set_log_aside(&path).unwrap(), 0);
        assert!(!path.exists() && dir.path().join("containerd.log.old").exists());
    }
}

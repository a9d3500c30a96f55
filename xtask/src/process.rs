//! Processes, known by pid and start time, so that a recycled pid is never mistaken for ours.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Every supervised process carries this variable, with the cluster's directory as its value. It
/// finds the processes of a cluster whose records were lost.
pub(crate) const MARK: &str = "HEARTH_SUPERVISED_FOR";

/// One process, now or in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Process id.
    pub(crate) pid: i32,
    /// Start time in clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` when there is none or it is a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, start_time })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A handle that cannot come to mean another process; `None` when it has ended.
    pub(crate) fn open(self) -> Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open process {}", self.pid));
            }
        };
        // Opened first and compared second: had the pid been recycled, the start time would tell.
        Ok(self.is_alive().then_some(Handle { fd, id: self }))
    }

    /// Ends the process: asks it, and after `grace` makes it. Returns once it is gone.
    pub(crate) fn end(self, grace: Duration) -> Result<()> {
        const KILL_TAKES_AT_MOST: Duration = Duration::from_secs(10);
        let Some(handle) = self.open()? else {
            return Ok(());
        };
        handle.signal(Signal::TERM)?;
        // A stopped process does not hear the first one until it goes on.
        handle.signal(Signal::CONT)?;
        if handle.wait(grace)? {
            return Ok(());
        }
        handle.signal(Signal::KILL)?;
        anyhow::ensure!(
            handle.wait(KILL_TAKES_AT_MOST)?,
            "process {} does not end, not even by SIGKILL",
            self.pid
        );
        Ok(())
    }
}

/// An open process.
#[derive(Debug)]
pub(crate) struct Handle {
    fd: OwnedFd,
    id: ProcessId,
}

impl Handle {
    /// Sends a signal; a process that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot signal process {}", self.id.pid))
            }
        }
    }

    /// Waits for the end of the process and says whether it came within `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool> {
        wait_readable(&self.fd, limit)
            .with_context(|| format!("cannot wait for process {}", self.id.pid))
    }
}

/// Waits until `fd` is readable and says whether it was within `limit`.
pub(crate) fn wait_readable(
    fd: &impl std::os::fd::AsFd,
    limit: Duration,
) -> rustix::io::Result<bool> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timespec(left))) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A duration as poll wants it.
fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    }
}

/// State and start time out of `/proc/<pid>/stat`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The name in parentheses may hold spaces and parentheses of its own: start after the last one.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // `state` is field 3 of the line and the start time field 22.
    let start_time = fields.nth(18)?.trim().parse().ok()?;
    Some((state, start_time))
}

/// Every process of the machine that `wanted` chooses, given its pid.
pub(crate) fn find(wanted: impl Fn(i32) -> bool) -> Result<Vec<ProcessId>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let entry = entry.context("cannot list /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if u32::try_from(pid).is_ok_and(|pid| pid == own) || !wanted(pid) {
            continue;
        }
        found.extend(ProcessId::of(pid));
    }
    Ok(found)
}

/// Whether the process carries the mark of the cluster in `root`.
pub(crate) fn is_marked(pid: i32, root: &Path) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| has_mark(&environ, root))
}

fn has_mark(environ: &[u8], root: &Path) -> bool {
    environ.split(|byte| *byte == 0).any(|variable| {
        variable
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| value == root.as_os_str().as_encoded_bytes())
    })
}

/// The command line of a process, for people to read.
pub(crate) fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = raw
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses() {
        let tail = "S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 99 1 1 1";
        for (line, expect) in [
            (format!("7 (etcd) {tail}"), Some(('S', 4711))),
            (format!("7 (a ) S b) {tail}"), Some(('S', 4711))),
            ("7 (etcd) S 1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_stat(&line), expect, "{line}");
        }
    }

    #[test]
    fn mark_is_a_whole_variable_with_the_whole_path() {
        let root = Path::new("/x/.hearth");
        for (environ, expect) in [
            (format!("A=b\0{MARK}=/x/.hearth\0"), true),
            (format!("{MARK}=/x/.hearth-test\0"), false),
            (format!("X{MARK}=/x/.hearth\0"), false),
            (String::new(), false),
        ] {
            assert_eq!(has_mark(environ.as_bytes(), root), expect, "{environ:?}");
        }
    }

    #[test]
    fn a_process_with_another_start_time_is_left_alone() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        let stranger = ProcessId {
            start_time: id.start_time + 1,
            ..id
        };
        stranger.end(Duration::ZERO).unwrap();
        assert!(id.is_alive());
        id.end(Duration::from_secs(10)).unwrap();
        assert!(!id.is_alive());
        child.wait().unwrap();
    }
}

//! Processes, known by pid and start time, so that a recycled pid is never taken for the one that was meant.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;

/// One process, now or in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks after boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` when there is none or it is a zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.dead).then_some(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal` to exactly this process.
    ///
    /// # Errors
    /// When it has ended, or may not be signalled.
    pub fn signal(self, signal: Signal) -> Result<()> {
        pidfd_send_signal(self.open()?, signal)
            .with_context(|| format!("cannot signal process {}", self.pid))
    }

    /// Kills the process with SIGKILL and returns once it has ended.
    ///
    /// # Errors
    /// When it had ended before, or does not end.
    pub async fn kill(self) -> Result<()> {
        const LIMIT: Timespec = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let fd = self.open()?;
        pidfd_send_signal(&fd, Signal::KILL)
            .with_context(|| format!("cannot kill process {}", self.pid))?;
        let ended = tokio::task::spawn_blocking(move || {
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&LIMIT))
        });
        let ended = ended.await?.context("cannot wait for a process")?;
        ensure!(ended > 0, "process {} does not end", self.pid);
        Ok(())
    }

    fn open(self) -> Result<std::os::fd::OwnedFd> {
        let pid = Pid::from_raw(self.pid).context("pid 0")?;
        let fd = pidfd_open(pid, PidfdFlags::empty())
            .with_context(|| format!("cannot open process {}", self.pid))?;
        // Opened first and compared second: had the pid been recycled, the start time would tell.
        if Self::of(self.pid) != Some(self) {
            bail!("process {} has ended", self.pid);
        }
        Ok(fd)
    }
}

/// Of `pids`, those whose parent is not one of them: what a container was started with, without what it forked since.
#[must_use]
pub fn roots(pids: &BTreeSet<i32>) -> BTreeSet<ProcessId> {
    let mut roots = BTreeSet::new();
    for &pid in pids {
        if let Some(stat) = Stat::read(pid)
            && !stat.dead
            && !pids.contains(&stat.parent)
        {
            roots.insert(ProcessId {
                pid,
                start_time: stat.start_time,
            });
        }
    }
    roots
}

/// The name of the program that `pid` runs; empty when it has ended.
#[must_use]
pub fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

#[derive(Debug, PartialEq)]
struct Stat {
    dead: bool,
    parent: i32,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The name in parentheses may hold spaces and parentheses of its own: start after the last one.
        let (_, rest) = line.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // `state` is field 3 of the line, the parent field 4 and the start time field 22.
        let start_time = fields.nth(17)?.trim().parse().ok()?;
        Some(Self {
            dead: matches!(state, "Z" | "X"),
            parent,
            start_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses() {
        let tail = "7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 99 1 1 1";
        for (line, expect) in [
            (
                format!("7 (etcd) S 1 {tail}"),
                Some(Stat {
                    dead: false,
                    parent: 1,
                    start_time: 4711,
                }),
            ),
            (
                format!("7 (a ) S b) Z 2 {tail}"),
                Some(Stat {
                    dead: true,
                    parent: 2,
                    start_time: 4711,
                }),
            ),
            ("7 (etcd) S 1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(Stat::parse(&line), expect, "{line}");
        }
    }

    #[tokio::test]
    async fn a_process_with_another_start_time_is_left_alone() {
        let mut child = tokio::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let id = ProcessId::of(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        assert!(
            ProcessId {
                start_time: id.start_time + 1,
                ..id
            }
            .kill()
            .await
            .is_err()
        );
        assert!(id.is_alive());
        id.kill().await.unwrap();
        assert!(!id.is_alive());
        child.wait().await.unwrap();
    }
}

//! Emptying and removing cgroups.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;

use super::{Cgroup, CgroupError, Version, file};
use crate::freezer;
use crate::process::{Process, ProcessId, Signal};
use crate::wait::{Deadline, wait_any};

/// The kernel takes an exited task out of its cgroup a moment after its exit can be seen, and v1 has no event for it.
const UNLINK_PAUSE: Duration = Duration::from_millis(1);

/// Process ids of all tasks in a directory and below, in one hierarchy. Tasks of another pid namespace show as 0 and
/// are left out.
pub(super) fn processes(directory: &Path) -> Result<BTreeSet<i32>, CgroupError> {
    let mut pids = BTreeSet::new();
    for cgroup in file::subtree(directory)? {
        let path = cgroup.join("cgroup.procs");
        if let Some(content) = file::unless_gone(file::read(&path))? {
            for line in content.lines() {
                let pid: i32 = line.parse().map_err(|_| file::unexpected(&path, line))?;
                pids.extend((pid != 0).then_some(pid));
            }
        }
    }
    Ok(pids)
}

/// Kills until nothing is left: a task may have forked between the look and the kill.
pub(super) fn kill(cgroup: &Cgroup, deadline: Deadline) -> Result<(), CgroupError> {
    loop {
        // Where the tasks are in the v2 hierarchy the kernel kills them all at once, however fast they fork.
        if let Some(unified) = cgroup
            .layout()
            .hierarchies()
            .iter()
            .find(|h| h.version == Version::V2)
        {
            file::unless_gone(file::write(
                &cgroup.directory(unified).join("cgroup.kill"),
                "1",
            ))?;
        }
        let victims = open_some(&cgroup.processes()?)?;
        // Looked at again after opening: what still is in the cgroup under this pid is what was opened.
        let present = cgroup.processes()?;
        if present.is_empty() {
            return Ok(());
        }
        for victim in victims
            .iter()
            .filter(|victim| present.contains(&victim.id().pid))
        {
            victim.signal(Signal::KILL).map_err(process_error)?;
        }
        // A v1 freezer holds back even SIGKILL.
        freezer::thaw_v1(cgroup)?;
        wait_for_exits(&victims, deadline)?;
        if deadline.passed() {
            return busy(cgroup.path().as_ref(), cgroup.processes()?);
        }
    }
}

/// Removes a directory of one hierarchy and all below it, waiting for their tasks to go.
pub(super) fn subtree(
    version: Version,
    directory: &Path,
    deadline: Deadline,
) -> Result<(), CgroupError> {
    loop {
        let Some(blocked) = remove_once(directory)? else {
            return Ok(());
        };
        if deadline.passed() {
            return busy(&blocked, processes(directory)?);
        }
        match version {
            Version::V2 => wait_until_empty(&blocked, deadline)?,
            Version::V1 => wait_for_exits(&open_some(&processes(&blocked)?)?, deadline)?,
        }
    }
}

/// Removes what can be removed, the deepest first; returns the first cgroup that is in use.
fn remove_once(directory: &Path) -> Result<Option<std::path::PathBuf>, CgroupError> {
    for cgroup in file::subtree(directory)?.into_iter().rev() {
        match fs::remove_dir(&cgroup) {
            Ok(()) => {}
            Err(error) if super::is_gone(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(Some(cgroup)),
            Err(error) => return Err(CgroupError::io("remove", &cgroup, error)),
        }
    }
    Ok(None)
}

/// Waits for the event by which a v2 cgroup tells that it has no tasks any more.
fn wait_until_empty(cgroup: &Path, deadline: Deadline) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.events");
    let failed = |source: io::Error| CgroupError::io("wait on", &path, source);
    let events = match File::open(&path) {
        Ok(events) => events,
        Err(error) if super::is_gone(&error) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    loop {
        let content = match freezer::read_again(&events) {
            Ok(content) => content,
            Err(error) if super::is_gone(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if !content.lines().any(|line| line == "populated 1") {
            // Empty, and yet it could not be removed: a child cgroup was made meanwhile, or the last task is just
            // leaving. The caller looks again.
            return pause(deadline);
        }
        if !wait_any(&[events.as_fd()], PollFlags::PRI, deadline).map_err(failed)? {
            return Ok(());
        }
    }
}

/// Opens the first of the processes: not more than file descriptors are likely to be free for. The callers come again.
fn open_some(pids: &BTreeSet<i32>) -> Result<Vec<Process>, CgroupError> {
    let mut opened = Vec::new();
    for pid in pids.iter().take(128) {
        if let Some(id) = ProcessId::of(*pid).map_err(process_error)? {
            opened.extend(id.open().map_err(process_error)?);
        }
    }
    Ok(opened)
}

fn wait_for_exits(processes: &[Process], deadline: Deadline) -> Result<(), CgroupError> {
    for process in processes {
        process.wait(deadline.left()).map_err(process_error)?;
    }
    pause(deadline)
}

fn pause(deadline: Deadline) -> Result<(), CgroupError> {
    let pause = Deadline::after(UNLINK_PAUSE.min(deadline.left()));
    wait_any(&[], PollFlags::empty(), pause)
        .map_err(|source| CgroupError::io("wait on", Path::new("/"), source))?;
    Ok(())
}

fn busy<T>(path: &Path, tasks: BTreeSet<i32>) -> Result<T, CgroupError> {
    Err(CgroupError::Busy {
        path: path.to_owned(),
        tasks: tasks.into_iter().collect(),
    })
}

fn process_error(error: crate::ProcessError) -> CgroupError {
    CgroupError::io(
        error.action,
        &Path::new("/proc").join(error.pid.to_string()),
        error.source,
    )
}

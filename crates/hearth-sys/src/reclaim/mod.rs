//! Giving back the memory of a pod that stands still: to swap or zram, and what is only cached at once.
//!
//! Where the memory controller is v2 the kernel reclaims from the pod's cgroup (`memory.reclaim`), whatever the pages
//! are. Elsewhere the pages of each task are advised out (`process_madvise` with `MADV_PAGEOUT`), which moves private
//! memory and what only one task has mapped. v1's `memory.force_empty` is not used: one write of it takes everything,
//! for as long as that takes, so that neither a rate nor a brake can be kept.
//!
//! Neither needs anything of the tasks. A page comes back when it is touched.

mod pageout;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::cgroup::{Cgroup, CgroupError, Version};
use crate::process::ProcessError;

use pageout::Piece;

/// How memory is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Through the cgroup.
    MemoryReclaim,
    /// Task by task.
    PageOut,
}

impl Method {
    /// The name as people know it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryReclaim => "memory.reclaim",
            Self::PageOut => "process_madvise",
        }
    }
}

/// Memory could not be given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimError {
    /// The cgroup.
    #[error("reclaim from cgroup")]
    Cgroup(#[source] CgroupError),
    /// A task could not be looked at.
    #[error("look at a task")]
    Task(#[source] ProcessError),
    /// What a task has mapped could not be read.
    #[error("read {path}", path = .path.display())]
    Maps {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel takes no advice for other processes from this one.
    #[error("advise the pages of process {pid} out")]
    Advise {
        /// The process.
        pid: i32,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Gives back the memory of one pod, piece by piece.
#[derive(Debug)]
pub struct Reclaimer {
    cgroup: Cgroup,
    method: Method,
    /// What is left to advise; `None` before the tasks were looked at.
    pieces: Option<VecDeque<Piece>>,
}

impl Reclaimer {
    /// By the best way that this host has.
    #[must_use]
    pub fn new(cgroup: Cgroup) -> Self {
        let file = reclaim_file(&cgroup);
        let method = if file.is_some_and(|file| file.exists()) {
            Method::MemoryReclaim
        } else {
            Method::PageOut
        };
        Self {
            cgroup,
            method,
            pieces: None,
        }
    }

    /// How it does it.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Gives back up to about `bytes`. `false` when there is nothing left that would go.
    pub fn reclaim(&mut self, bytes: u64) -> Result<bool, ReclaimError> {
        match self.method {
            Method::MemoryReclaim => self.reclaim_from_cgroup(bytes),
            Method::PageOut => self.page_out(bytes),
        }
    }

    fn reclaim_from_cgroup(&self, bytes: u64) -> Result<bool, ReclaimError> {
        let Some(file) = reclaim_file(&self.cgroup) else {
            return Ok(false);
        };
        // Anonymous memory first; a kernel before 6.9 does not know the word.
        let wished = write(&file, &format!("{bytes} swappiness=200"));
        let written = match wished {
            Err(error) if is(&error, Errno::INVAL) => write(&file, &bytes.to_string()),
            written => written,
        };
        match written {
            Ok(()) => Ok(true),
            // Less than that is left that goes; or the pod has just gone.
            Err(error) if is(&error, Errno::AGAIN) || crate::cgroup::is_gone(&error) => Ok(false),
            Err(source) => Err(ReclaimError::Cgroup(CgroupError::io(
                "write to", &file, source,
            ))),
        }
    }

    fn page_out(&mut self, bytes: u64) -> Result<bool, ReclaimError> {
        let pieces = match &mut self.pieces {
            Some(pieces) => pieces,
            none => {
                let tasks = self.cgroup.processes().map_err(ReclaimError::Cgroup)?;
                none.insert(pageout::pieces(&tasks, bytes)?)
            }
        };
        let mut done = 0;
        while let Some(piece) =
            pieces.pop_front_if(|piece| done == 0 || done + piece.resident <= bytes)
        {
            done += piece.resident;
            piece.advise_out()?;
        }
        Ok(!pieces.is_empty())
    }
}

/// Where the memory controller is v2.
fn reclaim_file(cgroup: &Cgroup) -> Option<PathBuf> {
    let memory = cgroup.layout().controller("memory")?;
    (memory.version == Version::V2).then(|| cgroup.directory(memory).join("memory.reclaim"))
}

fn write(path: &std::path::Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::{CgroupTree, Layout, fixture};

    fn pod(root: &std::path::Path) -> Cgroup {
        let layout = Layout::discover(root).unwrap();
        CgroupTree::new(layout, "t").unwrap().pod("a").unwrap()
    }

    #[test]
    fn the_cgroup_is_asked_where_its_controller_can() {
        let root = fixture::pure_v2();
        let directory = root.path().join("hearth-t/pods/poda");
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(Reclaimer::new(pod(root.path())).method(), Method::PageOut);
        fs::write(directory.join("memory.reclaim"), "").unwrap();
        let mut reclaimer = Reclaimer::new(pod(root.path()));
        assert_eq!(reclaimer.method(), Method::MemoryReclaim);
        assert!(reclaimer.reclaim(4096).unwrap());
        let written = fs::read_to_string(directory.join("memory.reclaim")).unwrap();
        assert_eq!(written, "4096 swappiness=200");
        fs::remove_dir_all(&directory).unwrap();
        assert!(
            !reclaimer.reclaim(4096).unwrap(),
            "a pod that is gone has nothing left"
        );
    }

    #[test]
    fn a_host_with_a_v1_memory_controller_advises_task_by_task() {
        let root = fixture::hybrid();
        let mut reclaimer = Reclaimer::new(pod(root.path()));
        assert_eq!(reclaimer.method(), Method::PageOut);
        assert!(!reclaimer.reclaim(4096).unwrap(), "no tasks");
    }
}

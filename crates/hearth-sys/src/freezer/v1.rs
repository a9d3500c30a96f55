//! The freezer of cgroup v1: `freezer.state` to ask and to be told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::PollFlags;

use super::{Control, Deadline, FreezeError, Freezer, Method, freeze, is_gone, thaw};
use crate::cgroup::CgroupError;
use crate::wait::wait_any;

/// How often the state is read again at once before the reads are spread out.
const READS_AT_ONCE: u32 = 100;
/// The longest pause between two reads. v1 has no event for a change of the state: reading it is what updates it.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Freezes a cgroup of the v1 freezer hierarchy.
///
/// Unlike in v2, frozen tasks cannot even be killed.
#[derive(Debug)]
pub(super) struct V1Freezer {
    cgroup: PathBuf,
}

impl V1Freezer {
    /// The freezer of the cgroup at this directory, which need not exist yet.
    pub(super) fn new(cgroup: PathBuf) -> Self {
        Self { cgroup }
    }

    fn state_file(&self) -> PathBuf {
        self.cgroup.join("freezer.state")
    }

    fn frozen(&self) -> Result<Option<bool>, FreezeError> {
        let path = self.state_file();
        let content = fs::read_to_string(&path)
            .map_err(|source| FreezeError::io("read", &self.cgroup, &path, source))?;
        match content.trim() {
            "FROZEN" => Ok(Some(true)),
            "FREEZING" => Ok(None),
            "THAWED" => Ok(Some(false)),
            _ => Err(FreezeError::Content { path, content }),
        }
    }
}

impl Control for V1Freezer {
    fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn request(&self, frozen: bool) -> Result<(), FreezeError> {
        let path = self.state_file();
        let (action, value) = if frozen {
            ("write FROZEN to", "FROZEN")
        } else {
            ("write THAWED to", "THAWED")
        };
        let write = |mut file: fs::File| std::io::Write::write_all(&mut file, value.as_bytes());
        let result = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(write);
        result.map_err(|source| FreezeError::io(action, &self.cgroup, &path, source))
    }

    fn confirm(&self, frozen: bool, deadline: Deadline) -> Result<bool, FreezeError> {
        let mut pause = Duration::from_micros(100);
        for read in 0.. {
            if self.frozen()? == Some(frozen) {
                return Ok(true);
            }
            if deadline.passed() {
                return Ok(false);
            }
            if read < READS_AT_ONCE {
                // The tasks need the CPU to stop.
                std::thread::yield_now();
                continue;
            }
            let next = Deadline::after(pause.min(deadline.left()));
            wait_any(&[], PollFlags::empty(), next).map_err(|source| {
                FreezeError::io("wait on", &self.cgroup, &self.state_file(), source)
            })?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(false)
    }
}

impl Freezer for V1Freezer {
    fn method(&self) -> Method {
        Method::CgroupV1
    }

    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        freeze(self, within)
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        thaw(self, within)
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        match self.frozen() {
            Ok(state) => Ok(state == Some(true)),
            Err(FreezeError::Gone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether the cgroup or one below it has tasks.
pub(super) fn populated(cgroup: &Path) -> Result<bool, FreezeError> {
    let failed = |path: &Path, source| FreezeError::io("read", cgroup, path, source);
    let mut next = vec![cgroup.to_owned()];
    while let Some(directory) = next.pop() {
        let path = directory.join("cgroup.procs");
        match fs::read_to_string(&path) {
            Ok(content) if content.trim().is_empty() => {}
            Ok(_) => return Ok(true),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(failed(&path, error)),
        }
        for entry in fs::read_dir(&directory).map_err(|error| failed(&directory, error))? {
            let entry = entry.map_err(|error| failed(&directory, error))?;
            if entry
                .file_type()
                .map_err(|error| failed(&directory, error))?
                .is_dir()
            {
                next.push(entry.path());
            }
        }
    }
    Ok(false)
}

/// Writes `THAWED` to the cgroup and to all below it, without waiting.
pub(super) fn release(cgroup: &Path) -> Result<(), CgroupError> {
    crate::cgroup::write_below(cgroup, "freezer.state", "THAWED")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(state: &str) -> (tempfile::TempDir, V1Freezer) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("freezer.state"), state).unwrap();
        let freezer = V1Freezer::new(directory.path().to_owned());
        (directory, freezer)
    }

    #[test]
    fn half_frozen_is_not_frozen() {
        let check = |state: &str, expected| {
            let (_directory, freezer) = fixture(state);
            assert_eq!(freezer.is_frozen().ok(), expected, "{state:?}");
        };
        check("FROZEN\n", Some(true));
        check("FREEZING\n", Some(false));
        check("THAWED\n", Some(false));
        check("WARM\n", None);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_thawed_and_cannot_be_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let freezer = V1Freezer::new(directory.path().join("gone"));
        assert!(matches!(
            freezer.freeze(Duration::from_millis(1)),
            Err(FreezeError::Gone { .. })
        ));
        freezer.thaw(Duration::from_millis(1)).unwrap();
        assert!(!freezer.is_frozen().unwrap());
    }
}

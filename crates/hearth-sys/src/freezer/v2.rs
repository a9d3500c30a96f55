//! The freezer of cgroup v2: `cgroup.freeze` to ask, `cgroup.events` to be told.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::PollFlags;

use super::{Control, Deadline, FreezeError, Freezer, Method, freeze, is_gone, read_again, thaw};
use crate::wait::wait_any;

/// For how long `cgroup.events` is read again at once before its event is waited for. The kernel sends at most one
/// event in ten milliseconds, so that one may come late, and the tasks of a pod stop in a fraction of one.
const READ_AT_ONCE: Duration = Duration::from_millis(1);

/// Freezes a cgroup of the v2 hierarchy.
#[derive(Debug)]
pub(super) struct V2Freezer {
    cgroup: PathBuf,
}

impl V2Freezer {
    /// The freezer of the cgroup at this directory, which need not exist yet.
    pub(super) fn new(cgroup: PathBuf) -> Self {
        Self { cgroup }
    }

    fn open_events(&self) -> Result<File, FreezeError> {
        let path = self.cgroup.join("cgroup.events");
        File::open(&path).map_err(|source| FreezeError::io("open", &self.cgroup, &path, source))
    }

    fn frozen(&self, events: &File) -> Result<bool, FreezeError> {
        let path = self.cgroup.join("cgroup.events");
        let content = read_again(events)
            .map_err(|source| FreezeError::io("read", &self.cgroup, &path, source))?;
        match flag(&content, "frozen") {
            Some(frozen) => Ok(frozen),
            None => Err(FreezeError::Content { path, content }),
        }
    }
}

impl Control for V2Freezer {
    fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn request(&self, frozen: bool) -> Result<(), FreezeError> {
        let path = self.cgroup.join("cgroup.freeze");
        let (action, value) = if frozen {
            ("write 1 to", "1")
        } else {
            ("write 0 to", "0")
        };
        let write = |mut file: File| std::io::Write::write_all(&mut file, value.as_bytes());
        let result = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(write);
        result.map_err(|source| FreezeError::io(action, &self.cgroup, &path, source))
    }

    fn confirm(&self, frozen: bool, deadline: Deadline) -> Result<bool, FreezeError> {
        let events = self.open_events()?;
        let at_once = Deadline::after(READ_AT_ONCE);
        while !at_once.passed() {
            if self.frozen(&events)? == frozen {
                return Ok(true);
            }
            if deadline.passed() {
                return Ok(false);
            }
            // The tasks need the CPU to stop.
            std::thread::yield_now();
        }
        loop {
            // An event since the last read ends the wait at once, so that none is missed in between.
            let failed = |source| {
                FreezeError::io(
                    "wait on",
                    &self.cgroup,
                    &self.cgroup.join("cgroup.events"),
                    source,
                )
            };
            let woken = wait_any(&[events.as_fd()], PollFlags::PRI, deadline).map_err(failed)?;
            if self.frozen(&events)? == frozen {
                return Ok(true);
            }
            if !woken {
                return Ok(false);
            }
        }
    }
}

impl Freezer for V2Freezer {
    fn method(&self) -> Method {
        Method::CgroupV2
    }

    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        freeze(self, within)
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        thaw(self, within)
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        match self.open_events().and_then(|events| self.frozen(&events)) {
            Err(FreezeError::Gone { .. }) => Ok(false),
            result => result,
        }
    }
}

/// Whether the cgroup or one below it has tasks.
pub(super) fn populated(cgroup: &Path) -> Result<bool, FreezeError> {
    let path = cgroup.join("cgroup.events");
    let content = match fs::read_to_string(&path) {
        Ok(content) => content,
        Err(error) if is_gone(&error) => return Ok(false),
        Err(source) => return Err(FreezeError::io("read", cgroup, &path, source)),
    };
    flag(&content, "populated").ok_or(FreezeError::Content { path, content })
}

/// The value of a flag in the content of `cgroup.events`.
fn flag(content: &str, name: &str) -> Option<bool> {
    let value = content
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(events: &str) -> (tempfile::TempDir, V2Freezer) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.freeze"), "0").unwrap();
        fs::write(directory.path().join("cgroup.events"), events).unwrap();
        let freezer = V2Freezer::new(directory.path().to_owned());
        (directory, freezer)
    }

    fn requested(directory: &tempfile::TempDir) -> String {
        fs::read_to_string(directory.path().join("cgroup.freeze")).unwrap()
    }

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn the_kernels_word_counts_and_not_the_request() {
        let (directory, freezer) = fixture("populated 1\nfrozen 0\n");
        fs::write(directory.path().join("cgroup.freeze"), "1").unwrap();
        assert!(!freezer.is_frozen().unwrap());
        let (_directory, freezer) = fixture("populated 1\nfrozen 1\n");
        assert!(freezer.is_frozen().unwrap());
    }

    #[test]
    fn a_freeze_that_is_not_confirmed_is_undone() {
        let (directory, freezer) = fixture("populated 1\nfrozen 0\n");
        let error = freezer.freeze(SHORT).unwrap_err();
        assert!(matches!(error, FreezeError::NotFrozen { .. }), "{error:?}");
        assert_eq!(requested(&directory), "0");
    }

    #[test]
    fn a_thaw_that_is_not_confirmed_is_an_error() {
        let (directory, freezer) = fixture("populated 1\nfrozen 1\n");
        let error = freezer.thaw(SHORT).unwrap_err();
        assert!(matches!(error, FreezeError::NotThawed { .. }), "{error:?}");
        assert_eq!(requested(&directory), "0");
    }

    #[test]
    fn a_freeze_that_cannot_be_undone_says_both() {
        let (directory, freezer) = fixture("nonsense\n");
        let error = freezer.freeze(SHORT).unwrap_err();
        assert!(matches!(error, FreezeError::Stuck { .. }), "{error:?}");
        assert_eq!(requested(&directory), "0");
    }

    #[test]
    fn a_cgroup_that_is_gone_is_thawed_and_cannot_be_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let freezer = V2Freezer::new(directory.path().join("gone"));
        assert!(matches!(
            freezer.freeze(SHORT),
            Err(FreezeError::Gone { .. })
        ));
        freezer.thaw(SHORT).unwrap();
        assert!(!freezer.is_frozen().unwrap());
    }

    #[test]
    fn flags() {
        let check =
            |content, expected| assert_eq!(flag(content, "frozen"), expected, "{content:?}");
        check("populated 1\nfrozen 1\n", Some(true));
        check("frozen 0", Some(false));
        check("frozen 2\n", None);
        check("frozenness 1\n", None);
        check("", None);
    }
}

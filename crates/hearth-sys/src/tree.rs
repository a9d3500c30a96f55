//! Directory trees that somebody else fills: removed, given to a group, measured. Never by following a link, and never
//! across a mount point, whatever anybody makes of the tree meanwhile: the kernel refuses such steps.
//!
//! What is mounted somewhere in a tree belongs to somebody else. A tree that has a mount in it is not removed.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Levels that are held open at once. What lies deeper in a tree that is removed is brought up first.
const DEPTH: usize = 64;
/// Levels of a tree that is walked; one more is an error.
const WALK_DEPTH: usize = 512;
/// How often a directory is listed anew because it is not empty: it may be filled meanwhile.
const ROUNDS: usize = 64;

/// A tree could not be dealt with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Something is mounted in it.
    #[error("something is mounted at {name} in {path}", path = .path.display())]
    Mounted {
        /// The tree.
        path: PathBuf,
        /// The entry.
        name: String,
    },
    /// It has too many levels.
    #[error("{path} has more than {WALK_DEPTH} levels", path = .path.display())]
    TooDeep {
        /// The tree.
        path: PathBuf,
    },
    /// A call failed.
    #[error("{action} {name} in {path}", path = .path.display())]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The tree.
        path: PathBuf,
        /// The entry.
        name: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Removes a file, or a directory with all in it. Success when there is none.
///
/// # Errors
/// [`TreeError::Mounted`] when something is mounted at it or in it: that and what is above it stays, and what the mount
/// shows is untouched.
pub fn remove(path: &Path) -> Result<(), TreeError> {
    let tree = Tree { path };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(tree.failed("remove", c"/", Errno::INVAL));
    };
    let name =
        CString::new(name.as_bytes()).map_err(|_| tree.failed("remove", c"", Errno::INVAL))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        parent => parent.map_err(|error| tree.failed("open the parent of", &name, error))?,
    };
    match open_dir(parent.as_fd(), &name) {
        Ok(top) => {
            tree.empty(&top)?;
            tree.unlink(parent.as_fd(), &name, AtFlags::REMOVEDIR)
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => tree.unlink(parent.as_fd(), &name, AtFlags::empty()),
        Err(error) => Err(tree.failed("open", &name, error)),
    }
}

/// Gives a directory with all in it to a group, which can read and write it then, as kubelet does it for `fsGroup`: what is
/// made in its directories belongs to the group as well. With `only_if_needed` nothing is done when the directory itself
/// is the group's already.
pub fn give_to_group(path: &Path, group: u32, only_if_needed: bool) -> Result<(), TreeError> {
    const FILE: u32 = 0o660;
    const DIRECTORY: u32 = 0o2770;
    let tree = Tree { path };
    let top = tree.open_top()?;
    let stat = rustix::fs::fstat(&top).map_err(|error| tree.failed("look at", c".", error))?;
    let has = stat.st_gid == group && stat.st_mode & DIRECTORY == DIRECTORY;
    if only_if_needed && has {
        return Ok(());
    }
    let give = |entry: &Entry<'_>| {
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        let owned = rustix::fs::chownat(
            entry.file,
            c"",
            None,
            Some(Gid::from_raw(group)),
            AtFlags::EMPTY_PATH,
        );
        owned.map_err(|error| tree.failed("change the group of", entry.name, error))?;
        if kind == FileType::Symlink {
            return Ok(());
        }
        let more = if kind == FileType::Directory {
            DIRECTORY
        } else {
            FILE
        };
        let mode = (entry.stat.st_mode & 0o7777) | more;
        // A file that is open by its path only has no other handle.
        let handle = format!("/proc/self/fd/{}", entry.file.as_raw_fd());
        std::fs::set_permissions(handle, Permissions::from_mode(mode)).map_err(|source| {
            TreeError::Failed {
                action: "change the mode of",
                path: path.to_owned(),
                name: shown(entry.name),
                source,
            }
        })
    };
    // From below: a directory that is the group's says that all in it is.
    tree.walk(top.as_fd(), 0, &give)?;
    give(&Entry {
        file: top.as_fd(),
        name: c".",
        stat,
    })
}

/// Bytes that a directory with all in it takes on its disk. What has several names counts once.
pub fn disk_usage(path: &Path) -> Result<u64, TreeError> {
    let tree = Tree { path };
    let top = tree.open_top()?;
    let seen = std::cell::RefCell::new((0_u64, HashSet::new()));
    tree.walk(top.as_fd(), 0, &|entry| {
        let (bytes, files) = &mut *seen.borrow_mut();
        let stat = &entry.stat;
        if stat.st_nlink < 2
            || FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            || files.insert((stat.st_dev, stat.st_ino))
        {
            *bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok(())
    })?;
    Ok(seen.into_inner().0)
}

struct Tree<'a> {
    path: &'a Path,
}

struct Entry<'a> {
    /// Open by its path only.
    file: BorrowedFd<'a>,
    name: &'a CStr,
    stat: Stat,
}

impl Tree<'_> {
    fn failed(&self, action: &'static str, name: &CStr, error: Errno) -> TreeError {
        let (path, name) = (self.path.to_owned(), shown(name));
        // A step onto another mount, and the removal of a place where something is mounted.
        if matches!(error, Errno::XDEV | Errno::BUSY) {
            return TreeError::Mounted { path, name };
        }
        TreeError::Failed {
            action,
            path,
            name,
            source: error.into(),
        }
    }

    fn open_top(&self) -> Result<OwnedFd, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(self.path, flags, Mode::empty());
        top.map_err(|error| self.failed("open", c".", error))
    }

    fn unlink(&self, parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), TreeError> {
        match rustix::fs::unlinkat(parent, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", name, error)),
        }
    }

    /// Removes all that is in a directory.
    fn empty(&self, top: &OwnedFd) -> Result<(), TreeError> {
        let (mut moved, mut idle) = (0_u64, 0);
        while idle < ROUNDS {
            let before = moved;
            self.empty_level(top.as_fd(), top.as_fd(), 0, &mut moved)?;
            // What was brought up makes the tree less deep, so that this ends.
            if moved > before {
                continue;
            }
            if self.list(top.as_fd())?.is_empty() {
                return Ok(());
            }
            idle += 1;
        }
        Err(self.failed("empty", c".", Errno::NOTEMPTY))
    }

    fn empty_level(
        &self,
        top: BorrowedFd<'_>,
        level: BorrowedFd<'_>,
        depth: usize,
        moved: &mut u64,
    ) -> Result<(), TreeError> {
        for _ in 0..ROUNDS {
            let names = self.list(level)?;
            if names.is_empty() {
                return Ok(());
            }
            let before = *moved;
            for name in &names {
                self.empty_entry(top, level, name, depth, moved)?;
            }
            // At the top what was brought up is left for the next round.
            if depth == 0 && *moved > before {
                return Ok(());
            }
        }
        Err(self.failed("empty", c".", Errno::NOTEMPTY))
    }

    fn empty_entry(
        &self,
        top: BorrowedFd<'_>,
        level: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
        moved: &mut u64,
    ) -> Result<(), TreeError> {
        let directory = match open_dir(level, name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => return self.unlink(level, name, AtFlags::empty()),
            Err(error) => return Err(self.failed("open", name, error)),
        };
        if depth + 1 < DEPTH {
            self.empty_level(top, directory.as_fd(), depth + 1, moved)?;
            return self.unlink(level, name, AtFlags::REMOVEDIR);
        }
        drop(directory);
        loop {
            let up = format!(".hearth-removing-{moved}");
            *moved += 1;
            match rustix::fs::renameat(level, name, top, up.as_str()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Of a removal that was cut short.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(error) => return Err(self.failed("bring up", name, error)),
            }
        }
    }

    fn walk(
        &self,
        level: BorrowedFd<'_>,
        depth: usize,
        visit: &dyn Fn(&Entry<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        if depth >= WALK_DEPTH {
            return Err(TreeError::TooDeep {
                path: self.path.to_owned(),
            });
        }
        for name in self.list(level)? {
            let file = match open_beneath(level, &name, OFlags::PATH) {
                // Gone, or somebody else's.
                Err(Errno::NOENT | Errno::XDEV) => continue,
                file => file.map_err(|error| self.failed("open", &name, error))?,
            };
            let stat = rustix::fs::fstat(&file);
            let stat = stat.map_err(|error| self.failed("look at", &name, error))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                match open_dir(level, &name) {
                    Ok(below) => self.walk(below.as_fd(), depth + 1, visit)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                    Err(error) => return Err(self.failed("open", &name, error)),
                }
            }
            visit(&Entry {
                file: file.as_fd(),
                name: &name,
                stat,
            })?;
        }
        Ok(())
    }

    fn list(&self, level: BorrowedFd<'_>) -> Result<Vec<CString>, TreeError> {
        let read = || {
            let mut names = Vec::new();
            for entry in Dir::read_from(level)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    names.push(name.to_owned());
                }
            }
            Ok(names)
        };
        read().map_err(|error| self.failed("list", c".", error))
    }
}

fn open_dir(level: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    open_beneath(level, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens an entry of a directory: no link, and nothing that is mounted there.
fn open_beneath(level: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(level, name, flags, Mode::empty(), resolve)
}

fn shown(name: &CStr) -> String {
    OsStr::from_bytes(name.to_bytes())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_tree_is_removed_with_its_links_and_without_what_they_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "data").unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("broken")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "data");
        remove(&tree).unwrap();
        symlink(&outside, &tree).unwrap();
        remove(&tree).unwrap();
        assert!(fs::symlink_metadata(&tree).is_err() && outside.join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut level = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..1500 {
            rustix::fs::mkdirat(&level, name.as_str(), Mode::RWXU).unwrap();
            level = rustix::fs::openat(&level, name.as_str(), flags, Mode::empty()).unwrap();
        }
        assert!(matches!(disk_usage(&tree), Err(TreeError::TooDeep { .. })));
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn usage_counts_a_file_of_two_names_once_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a")).unwrap();
        let before = disk_usage(&tree).unwrap();
        fs::write(tree.join("a/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.join("a/file"), tree.join("again")).unwrap();
        symlink("a/file", tree.join("link")).unwrap();
        let after = disk_usage(&tree).unwrap();
        let grown = after - before;
        assert!(((1 << 20)..(1 << 20) + 65_536).contains(&grown), "{grown}");
    }

    #[test]
    fn a_tree_is_given_to_a_group_once() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a")).unwrap();
        fs::write(tree.join("a/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/file"), Permissions::from_mode(0o4700)).unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "x").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        // Nobody's group but the own one can be given to without rights.
        let own = fs::metadata(&tree).unwrap().gid();
        let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().mode() & 0o7777;
        let before = fs::metadata(&outside).unwrap().mode();
        give_to_group(&tree, own, false).unwrap();
        assert_eq!(mode(".") & 0o2770, 0o2770);
        assert_eq!(mode("a") & 0o2770, 0o2770);
        assert_eq!(mode("a/file"), 0o4760);
        assert_eq!(
            fs::metadata(&outside).unwrap().mode(),
            before,
            "through the link"
        );
        fs::set_permissions(tree.join("a/file"), Permissions::from_mode(0o600)).unwrap();
        give_to_group(&tree, own, true).unwrap();
        assert_eq!(mode("a/file"), 0o600);
        give_to_group(&tree, own, false).unwrap();
        assert_eq!(mode("a/file"), 0o660);
    }
}

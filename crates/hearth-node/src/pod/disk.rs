//! How much of a disk a tree of files takes.
//!
//! What is measured here is written by sandboxes, while it is measured: nothing of it may lead the walk out of its tree,
//! make it endless or cost the daemon its memory. So directories are opened one from the other and never through a link,
//! what is mounted inside is somebody else's, a walk has at most [`MOST_ENTRIES`] files, and a tree is followed to
//! [`MOST_LEVELS`] at most, because each level holds a file descriptor.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Most files that one walk looks at.
const MOST_ENTRIES: u64 = 1_000_000;
/// How deep a walk goes.
const MOST_LEVELS: usize = 128;
/// The unit of `st_blocks`, in bytes, whatever the file system's own is.
const BLOCK: u64 = 512;

/// What a tree of files takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// Space, in bytes: what is allocated, not what a file with holes pretends to have. Files with several names count
    /// once.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Whether all was looked at. If not it takes this much at least.
    pub complete: bool,
}

impl Default for DiskUsage {
    /// Of a tree that is not there.
    fn default() -> Self {
        Self {
            bytes: 0,
            inodes: 0,
            complete: true,
        }
    }
}

/// Measures the tree at `root`, a directory or a file; nothing when there is none. What comes and goes meanwhile is
/// counted or not. Blocks for about a microsecond a file, and for as long as the disk takes.
///
/// # Errors
/// When the system refuses to show a part of it.
pub(super) fn measure(root: &Path) -> io::Result<DiskUsage> {
    Walk::new(MOST_ENTRIES).measure(root)
}

struct Walk {
    left: u64,
    usage: DiskUsage,
    /// Files with several names that were counted, by number.
    counted: HashSet<u64>,
}

impl Walk {
    fn new(left: u64) -> Self {
        Self {
            left,
            usage: DiskUsage::default(),
            counted: HashSet::new(),
        }
    }

    fn measure(mut self, root: &Path) -> io::Result<DiskUsage> {
        let Some(stat) = found(rustix::fs::statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW))? else {
            return Ok(self.usage);
        };
        self.count(&stat);
        let mut open = Vec::new();
        if is_directory(&stat) {
            open.extend(found(open_directory(CWD, root))?);
        }
        loop {
            let level = open.len();
            let Some(directory) = open.last_mut() else {
                break;
            };
            if self.left == 0 {
                self.usage.complete = false;
                break;
            }
            let Some(entry) = directory.read() else {
                open.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let at = directory.fd()?;
            let Some(inner) = found(rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW))?
            else {
                continue;
            };
            if inner.st_dev != stat.st_dev {
                continue;
            }
            self.count(&inner);
            if !is_directory(&inner) {
                continue;
            }
            if level >= MOST_LEVELS {
                self.usage.complete = false;
                continue;
            }
            let deeper = found(open_directory(at, name))?;
            open.extend(deeper);
        }
        Ok(self.usage)
    }

    fn count(&mut self, stat: &Stat) {
        self.left = self.left.saturating_sub(1);
        let several = stat.st_nlink > 1 && !is_directory(stat);
        if several && !self.counted.insert(stat.st_ino) {
            return;
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.usage.bytes = self.usage.bytes.saturating_add(blocks * BLOCK);
        self.usage.inodes += 1;
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open_directory(
    at: impl rustix::fd::AsFd,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// What is not there any more, or has been replaced by something else meanwhile, is nothing.
fn found<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn allocated(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * BLOCK
    }

    #[test]
    fn each_file_counts_once_with_what_it_takes() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        assert_eq!(measure(&at("none")).unwrap(), DiskUsage::default());
        fs::create_dir(at("deep")).unwrap();
        fs::write(at("deep/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(at("deep/file"), at("again")).unwrap();
        // Pretends to have a gigabyte.
        fs::File::create(at("holes"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let usage = measure(tree.path()).unwrap();
        let parts = ["", "deep", "deep/file", "holes"].map(|name| allocated(&at(name)));
        let expect = DiskUsage {
            bytes: parts.iter().sum(),
            inodes: 4,
            complete: true,
        };
        assert_eq!(usage, expect);
        assert!(usage.bytes >= 100_000 && usage.bytes < 1 << 20, "{usage:?}");
        assert_eq!(
            measure(&at("again")).unwrap().inodes,
            1,
            "a file of its own"
        );
    }

    #[test]
    fn a_link_leads_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![7; 1 << 20]).unwrap();
        let tree = tempfile::tempdir().unwrap();
        symlink(outside.path(), tree.path().join("way")).unwrap();
        symlink(outside.path().join("large"), tree.path().join("file")).unwrap();
        let usage = measure(tree.path()).unwrap();
        assert!(usage.bytes < 1 << 20 && usage.inodes == 3, "{usage:?}");
        assert_eq!(measure(&tree.path().join("way")).unwrap().inodes, 1);
    }

    #[test]
    fn a_tree_without_end_is_measured_in_part() {
        let tree = tempfile::tempdir().unwrap();
        for name in 0..20 {
            fs::write(tree.path().join(name.to_string()), "x").unwrap();
        }
        let part = Walk::new(10).measure(tree.path()).unwrap();
        assert_eq!((part.inodes, part.complete), (10, false));
        let mut deep = tree.path().to_owned();
        for _ in 0..MOST_LEVELS + 10 {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        let usage = measure(tree.path()).unwrap();
        assert!(!usage.complete);
        assert_eq!(usage.inodes, 21 + MOST_LEVELS as u64);
    }
}

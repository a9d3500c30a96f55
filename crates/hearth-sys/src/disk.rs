//! Size and fill of file systems.

use std::io;
use std::path::Path;

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileSystem {
    /// What ordinary use can have in all, in bytes: what is used and what is available. What is kept for the
    /// administrator is neither.
    pub capacity_bytes: u64,
    /// What is left of it, in bytes.
    pub available_bytes: u64,
    /// Files and directories that it can have; 0 when it has no such limit.
    pub inodes: u64,
    /// How many more it can have.
    pub inodes_free: u64,
}

/// Looks at the file system that `path` is on. One system call, which reads nothing from the disk.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let stat = rustix::fs::statvfs(path)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Ok(FileSystem {
        capacity_bytes: used
            .saturating_add(stat.f_bavail)
            .saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_plausible() {
        let found = file_system(Path::new("/")).unwrap();
        assert!(found.capacity_bytes > 1 << 20, "{found:?}");
        assert!(found.available_bytes <= found.capacity_bytes, "{found:?}");
        assert!(found.inodes_free <= found.inodes, "{found:?}");
    }
}

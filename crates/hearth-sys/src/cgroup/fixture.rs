//! Directories that look like cgroup mounts. New directories in them get no control files, as they would from a
//! kernel: the tests make those.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

pub(crate) fn pure_v2() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(
        root.path().join("cgroup.controllers"),
        "cpuset cpu io memory pids\n",
    )
    .unwrap();
    fs::write(root.path().join("cgroup.procs"), "1\n").unwrap();
    root
}

pub(crate) fn hybrid() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in [
        "cpu,cpuacct",
        "cpuset",
        "freezer",
        "memory",
        "pids",
        "systemd",
        "unified",
    ] {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("cgroup.procs"), "1\n").unwrap();
    }
    for name in ["cpu", "cpuacct"] {
        std::os::unix::fs::symlink("cpu,cpuacct", root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("unified/cgroup.controllers"), "hugetlb\n").unwrap();
    root
}

/// Makes empty control files, as the kernel does in a new cgroup.
pub(crate) fn files(directory: &Path, names: &[&str]) {
    fs::create_dir_all(directory).unwrap();
    for name in names {
        fs::write(directory.join(name), "").unwrap();
    }
}

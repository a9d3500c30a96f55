//! What a cgroup uses.

use super::limits::place;
use super::{Cgroup, CgroupError, Version, file};

/// What a cgroup and all below it use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Memory charged, page cache included, in bytes.
    pub memory_bytes: u64,
    /// Memory that cannot be dropped at once: charged memory without inactive file pages, in bytes.
    pub working_set_bytes: u64,
    /// Memory in swap, in bytes; 0 where the kernel does not count it.
    pub swap_bytes: u64,
    /// CPU time used since the cgroup was made, in microseconds.
    pub cpu_micros: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Memory that a cgroup and all below it hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldMemory {
    /// In memory, page cache included, in bytes.
    pub resident_bytes: u64,
    /// In swap, in bytes; 0 where the kernel does not count it.
    pub swapped_bytes: u64,
}

/// Reads what is held in memory and in swap: two files, so that it can be read of many.
pub(super) fn held(cgroup: &Cgroup) -> Result<HeldMemory, CgroupError> {
    let (version, memory) = place(cgroup, "memory")?;
    let unless_missing = |name: &str| file::unless_gone(file::number(&memory.join(name)));
    Ok(match version {
        Version::V1 => {
            let resident_bytes = file::number(&memory.join("memory.usage_in_bytes"))?;
            // Both together; swap that was read back but not let go of yet counts once.
            let both = unless_missing("memory.memsw.usage_in_bytes")?;
            HeldMemory {
                resident_bytes,
                swapped_bytes: both.map_or(0, |both| both.saturating_sub(resident_bytes)),
            }
        }
        Version::V2 => HeldMemory {
            resident_bytes: file::number(&memory.join("memory.current"))?,
            swapped_bytes: unless_missing("memory.swap.current")?.unwrap_or(0),
        },
    })
}

/// Reads each figure where its controller works.
pub(super) fn read(cgroup: &Cgroup) -> Result<Usage, CgroupError> {
    let (version, memory) = place(cgroup, "memory")?;
    let (memory_bytes, inactive_file) = match version {
        Version::V1 => (
            file::number(&memory.join("memory.usage_in_bytes"))?,
            file::keyed_number(&memory.join("memory.stat"), "total_inactive_file")?,
        ),
        Version::V2 => (
            file::number(&memory.join("memory.current"))?,
            file::keyed_number(&memory.join("memory.stat"), "inactive_file")?,
        ),
    };
    let (_, pids) = place(cgroup, "pids")?;
    Ok(Usage {
        memory_bytes,
        working_set_bytes: memory_bytes.saturating_sub(inactive_file),
        swap_bytes: held(cgroup)?.swapped_bytes,
        cpu_micros: cpu_micros(cgroup)?,
        pids: file::number(&pids.join("pids.current"))?,
    })
}

/// v1 accounts for CPU time in a controller of its own, v2 in every cgroup without any. Where both are there v1 is
/// right: every runtime puts its tasks into the v1 hierarchies, not every one into v2 beside them.
pub(super) fn cpu_micros(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    if cgroup.layout().controller("cpuacct").is_some() {
        let (_, cpuacct) = place(cgroup, "cpuacct")?;
        return Ok(file::number(&cpuacct.join("cpuacct.usage"))? / 1000);
    }
    let (_, cpu) = place(cgroup, "cpu")?;
    file::keyed_number(&cpu.join("cpu.stat"), "usage_usec")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::cgroup::{CgroupTree, Layout, fixture};

    fn put(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn usage(root: &Path) -> Result<Usage, CgroupError> {
        CgroupTree::new(Layout::discover(root).unwrap(), "t")
            .unwrap()
            .pod("a")
            .unwrap()
            .usage()
    }

    const EXPECTED: Usage = Usage {
        memory_bytes: 5000,
        working_set_bytes: 3000,
        swap_bytes: 700,
        cpu_micros: 42,
        pids: 7,
    };

    #[test]
    fn from_v2() {
        let root = fixture::pure_v2();
        let pod = root.path().join("hearth-t/pods/poda");
        put(&pod.join("memory.current"), "5000\n");
        put(&pod.join("memory.swap.current"), "700\n");
        put(
            &pod.join("memory.stat"),
            "anon 1\ninactive_file_other 9\ninactive_file 2000\n",
        );
        put(&pod.join("cpu.stat"), "usage_usec 42\nuser_usec 40\n");
        put(&pod.join("pids.current"), "7\n");
        assert_eq!(usage(root.path()).unwrap(), EXPECTED);
    }

    #[test]
    fn from_v1() {
        let root = fixture::hybrid();
        let pod = |name: &str| root.path().join(name).join("hearth-t/pods/poda");
        put(&pod("memory").join("memory.usage_in_bytes"), "5000\n");
        put(&pod("memory").join("memory.memsw.usage_in_bytes"), "5700\n");
        put(
            &pod("memory").join("memory.stat"),
            "inactive_file 1\ntotal_inactive_file 2000\n",
        );
        put(&pod("cpu,cpuacct").join("cpuacct.usage"), "42999\n");
        put(&pod("pids").join("pids.current"), "7\n");
        assert_eq!(usage(root.path()).unwrap(), EXPECTED);
    }

    #[test]
    fn from_a_cgroup_that_is_gone() {
        let root = fixture::hybrid();
        assert!(usage(root.path()).unwrap_err().is_gone());
    }
}

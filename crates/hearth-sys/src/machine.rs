//! Size and load of the machine.

use std::io;
use std::path::Path;

use procfs::{
    CpuPressure, Current, IoPressure, Meminfo, MemoryPressure, PressureRecord, ProcError,
};
use rustix::io::Errno;

use crate::process::proc_error;

/// Whether the kernel confines programs by AppArmor profiles.
#[must_use]
pub fn has_app_armor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.trim() == "Y")
}

/// Whether the kernel makes user namespaces, and has not been told to make none.
#[must_use]
pub fn has_user_namespaces() -> bool {
    std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .is_ok_and(|most| most.trim() != "0")
}

/// A resource whose shortage the kernel measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Resource {
    Cpu,
    Memory,
    Io,
}

/// Share of time lost to a shortage, in percent (0 to 100).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Over the last 10 seconds.
    pub avg10: f32,
    /// Over the last minute.
    pub avg60: f32,
    /// Since boot, in microseconds.
    pub total_micros: u64,
}

impl From<PressureRecord> for Stall {
    fn from(record: PressureRecord) -> Self {
        Self {
            avg10: record.avg10,
            avg60: record.avg60,
            total_micros: record.total,
        }
    }
}

/// Pressure stall information of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Time in which at least one task waited.
    pub some: Stall,
    /// Time in which all tasks waited.
    pub full: Stall,
}

/// Reads the machine's pressure; `None` when the kernel does not measure it.
pub fn pressure(resource: Resource) -> io::Result<Option<Pressure>> {
    let records = match resource {
        Resource::Cpu => CpuPressure::current().map(|p| (p.some, p.full)),
        Resource::Memory => MemoryPressure::current().map(|p| (p.some, p.full)),
        Resource::Io => IoPressure::current().map(|p| (p.some, p.full)),
    };
    match records {
        Ok((some, full)) => Ok(Some(Pressure {
            some: some.into(),
            full: full.into(),
        })),
        Err(ProcError::NotFound(_)) => Ok(None),
        // Compiled in, but switched off at boot.
        Err(ProcError::Io(error, _))
            if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(proc_error(error)),
    }
}

/// Memory of the machine in bytes.
pub fn memory_total_bytes() -> io::Result<u64> {
    Meminfo::current()
        .map(|memory| memory.mem_total)
        .map_err(proc_error)
}

/// Memory that new processes could get without swapping, in bytes.
pub fn memory_available_bytes() -> io::Result<u64> {
    let memory = Meminfo::current().map_err(proc_error)?;
    Ok(memory.mem_available.unwrap_or(memory.mem_free))
}

/// Bytes that somebody without privileges could write to the file system of `path`.
pub fn disk_free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Swap of the machine, zram included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// In all, in bytes.
    pub total_bytes: u64,
    /// Not used, in bytes.
    pub free_bytes: u64,
}

/// Swap of the machine; nothing where there is none.
pub fn swap() -> io::Result<Swap> {
    let memory = Meminfo::current().map_err(proc_error)?;
    Ok(Swap {
        total_bytes: memory.swap_total,
        free_bytes: memory.swap_free,
    })
}

/// Cores that this process may use.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_plausible() {
        let total = memory_total_bytes().unwrap();
        assert!(total > 64 << 20, "{total} bytes");
        assert!((1..=total).contains(&memory_available_bytes().unwrap()));
        assert!(cpu_count() >= 1);
        assert!(disk_free_bytes(Path::new("/")).unwrap() > 0);
        let swap = swap().unwrap();
        assert!(swap.free_bytes <= swap.total_bytes, "{swap:?}");
        for resource in [Resource::Cpu, Resource::Memory, Resource::Io] {
            if let Some(pressure) = pressure(resource).unwrap() {
                assert!(
                    (0.0..=100.0).contains(&pressure.some.avg10),
                    "{resource:?} {pressure:?}"
                );
            }
        }
    }
}

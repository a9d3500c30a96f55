//! What a cgroup uses.

/// What a cgroup and all below it use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Memory charged, page cache included, in bytes.
    pub memory_bytes: u64,
    /// Memory that cannot be dropped at once: charged memory without inactive file pages, in bytes.
    pub working_set_bytes: u64,
    /// CPU time used since the cgroup was made, in microseconds.
    pub cpu_micros: u64,
    /// Processes and threads.
    pub pids: u64,
}

//! Size and load of the machine.

use std::io;

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
    let _ = resource;
    todo!()
}

/// Memory of the machine in bytes.
pub fn memory_total_bytes() -> io::Result<u64> {
    todo!()
}

/// Memory that new processes could get without swapping, in bytes.
pub fn memory_available_bytes() -> io::Result<u64> {
    todo!()
}

/// Cores that this process may use.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

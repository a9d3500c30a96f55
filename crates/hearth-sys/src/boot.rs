//! Which boot of the machine this is.

use std::io;

/// The id of this boot: all runtime state of another boot is void.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

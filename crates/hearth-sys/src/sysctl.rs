//! Kernel settings that pods need.

use std::io;

/// Whether the kernel forwards IPv4 packets between links.
pub fn ip_forward() -> io::Result<bool> {
    todo!()
}

/// Switches IPv4 forwarding and returns what it was, for whoever restores it.
///
/// The setting belongs to the whole machine: restore it only when this call changed it and no other instance runs.
pub fn set_ip_forward(on: bool) -> io::Result<bool> {
    let _ = on;
    todo!()
}

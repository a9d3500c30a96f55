//! Kernel settings that pods need.

use std::fs;
use std::io;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the kernel forwards IPv4 packets between links.
pub fn ip_forward() -> io::Result<bool> {
    Ok(fs::read_to_string(IP_FORWARD)?.trim() != "0")
}

/// Switches IPv4 forwarding and returns what it was, for whoever restores it.
///
/// The setting belongs to the whole machine: restore it only when this call changed it and no other instance runs.
pub fn set_ip_forward(on: bool) -> io::Result<bool> {
    let before = ip_forward()?;
    // Writing the value it has would reset the settings of each link.
    if before != on {
        fs::write(IP_FORWARD, if on { "1" } else { "0" })?;
    }
    Ok(before)
}

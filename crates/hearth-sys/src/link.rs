//! Network links of this network namespace.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::command::{self, CommandError};

/// Where the kernel lists the links.
const LINKS: &str = "/sys/class/net";

/// Names of all links that begin with `prefix`.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(LINKS)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether the link exists.
#[must_use]
pub fn exists(name: &str) -> bool {
    Path::new(LINKS).join(name).exists()
}

/// Deletes a link through the `ip` tool. Success when it does not exist.
pub fn delete(name: &str, within: Duration) -> Result<(), CommandError> {
    if !exists(name) {
        return Ok(());
    }
    match command::run(
        Path::new("ip"),
        &["link", "delete", "dev", name],
        "",
        within,
    ) {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(CommandError::Failed { .. }) if !exists(name) => Ok(()),
        Err(error) => Err(error),
    }
}

//! Network links of this network namespace.

use std::time::Duration;

use crate::command::CommandError;

/// Names of all links that begin with `prefix`.
pub fn list(prefix: &str) -> std::io::Result<Vec<String>> {
    let _ = prefix;
    todo!()
}

/// Whether the link exists.
#[must_use]
pub fn exists(name: &str) -> bool {
    let _ = name;
    todo!()
}

/// Deletes a link through the `ip` tool. Success when it does not exist.
pub fn delete(name: &str, within: Duration) -> Result<(), CommandError> {
    let _ = (name, within);
    todo!()
}

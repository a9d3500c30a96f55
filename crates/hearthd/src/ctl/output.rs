//! What goes to stdout.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Prints text as it is.
pub(super) fn print(text: &str) -> io::Result<()> {
    write(text.as_bytes())
}

/// Writes bytes as they are.
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Prints a value as JSON for people and for jq.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("write the answer as JSON")?;
    print(&format!("{text}\n"))?;
    Ok(())
}

/// Whether an error says no more than that whoever reads the output has read enough, such as `head`.
pub(super) fn nobody_listens(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

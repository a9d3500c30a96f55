//! `cargo xtask down`.

use anyhow::Result;

use crate::paths::Layout;
use crate::services;
use crate::supervise;
use crate::system;
use crate::ui;

/// Stops the cluster and removes all of it but its logs. What it finds decides what it does, so it
/// serves a cluster that is half up as well, and a second time it finds nothing.
pub(crate) fn down(layout: &Layout) -> Result<()> {
    system::require_root()?;
    ui::heading(format!("taking down {}", layout.root().display()));
    for name in services::START_ORDER.iter().rev() {
        if supervise::spec(layout, name)?.is_some() {
            supervise::stop(layout, name)?;
            ui::note(format!("stopped {name}"));
        }
    }
    for stray in supervise::end_marked(layout)? {
        ui::note(format!("ended a process without a record: {stray}"));
    }
    remove_files(layout)
}

/// Everything but the logs, which tell what happened.
fn remove_files(layout: &Layout) -> Result<()> {
    let entries = match std::fs::read_dir(layout.root()) {
        Ok(entries) => entries,
        Err(_) => return Ok(()),
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.path() != layout.logs() {
            system::remove(&entry.path())?;
        }
    }
    Ok(())
}

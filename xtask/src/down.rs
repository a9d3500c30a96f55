//! `cargo xtask down`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::existing;
use crate::instance::Instance;
use crate::inventory::Inventory;
use crate::paths::Layout;
use crate::services;
use crate::supervise;
use crate::sysctl;
use crate::system;
use crate::ui;

/// Stops the cluster and removes all of it but its logs. What it finds decides what it does, so it
/// serves a cluster that is half up as well, and a second time it finds nothing.
pub(crate) fn down(layout: &Layout) -> Result<()> {
    system::require_root()?;
    ui::heading(format!("taking down {}", layout.root().display()));
    let _lock = layout.lock()?;
    let foreign = Instance::load(layout)?
        .filter(|instance| instance.existing && has_run(layout, services::HEARTHD));
    if foreign.is_some() {
        existing::remove_examples(layout);
    }
    for name in [services::CONTROLLER, services::HEARTHD] {
        stop(layout, name)?;
    }
    let node = clean_node(layout);
    if let Some(instance) = foreign
        && let Err(error) = existing::leave(layout, &instance)
    {
        ui::warn(format!("the cluster was not left cleanly: {error:#}"));
    }
    for name in services::START_ORDER.iter().rev() {
        stop(layout, name)?;
    }
    for stray in supervise::end_marked(layout)? {
        ui::note(format!("ended a process without a record: {stray}"));
    }
    // Its files are what a second attempt goes by.
    node.context("the sandboxes could not be removed; `cargo xtask down` tries again")?;
    verify(layout)?;
    remove_files(layout)?;
    sysctl::restore(layout)?;
    let logs = layout.logs();
    ui::heading(if logs.exists() {
        format!("down; the logs stay in {}", logs.display())
    } else {
        "down".to_owned()
    });
    Ok(())
}

/// Whether a program of ours was ever installed in this cluster.
fn has_run(layout: &Layout, program: &str) -> bool {
    layout.program(program).exists()
}

fn stop(layout: &Layout, name: &str) -> Result<()> {
    if supervise::spec(layout, name)?.is_some() {
        supervise::stop(layout, name)?;
        ui::note(format!("stopped {name}"));
    }
    Ok(())
}

/// Removes what outlives hearthd on purpose: the sandboxes, their containerd, mounts, network and
/// cgroups. A cluster that never had a hearthd has none of it.
fn clean_node(layout: &Layout) -> Result<()> {
    if !has_run(layout, services::HEARTHD) {
        return Ok(());
    }
    ui::step("removing the sandboxes", || {
        let path = std::env::var("PATH").unwrap_or_default();
        system::capture(
            Command::new(layout.program(services::HEARTHD))
                .arg("cleanup")
                .arg(format!("--instance={}", layout.instance_id()))
                .arg(format!("--root-dir={}", layout.node().display()))
                .arg(format!("--run-dir={}", layout.node_run().display()))
                .env("PATH", format!("{}:{path}", layout.bin().display())),
        )
        .map(drop)
    })
}

/// Everything but the logs, which tell what happened.
fn remove_files(layout: &Layout) -> Result<()> {
    let describe = || format!("cannot list {}", layout.root().display());
    for entry in fs::read_dir(layout.root()).with_context(describe)? {
        let path = entry.with_context(describe)?.path();
        if path != layout.logs() {
            system::remove(&path)?;
        }
    }
    // Fails when there are logs.
    let _ = fs::remove_dir(layout.root());
    system::remove(&layout.node_run())
}

/// Looks whether anything is left, rather than believing that nothing is. This comes before files
/// are removed: below a mount that is left they would be somebody else's.
fn verify(layout: &Layout) -> Result<()> {
    let left = Inventory::take(layout)?.leftovers(layout);
    ensure!(
        left.is_empty(),
        "these are left of the cluster, and so are its files:\n  {}",
        left.join("\n  ")
    );
    Ok(())
}

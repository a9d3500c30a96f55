//! `cargo xtask up`.

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::apt::{self, Consent};
use crate::components;
use crate::control_plane;
use crate::deploy;
use crate::instance::Instance;
use crate::paths::{Layout, repository};
use crate::system;
use crate::ui;

/// What `up` can be told.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Install missing Debian packages without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Use the cluster that KUBECONFIG points to instead of starting one.
    #[arg(long)]
    pub(crate) existing: bool,
    /// Start the cluster only: neither hearthd nor the controller.
    #[arg(long)]
    pub(crate) no_hearth: bool,
    /// Do not apply the example template and pool.
    #[arg(long)]
    pub(crate) no_examples: bool,
}

/// Starts the cluster, or brings a running one up to date.
pub(crate) fn up(layout: &Layout, options: &Options) -> Result<()> {
    let started = Instant::now();
    system::require_root()?;
    apt::ensure_packages(Consent::new(options.yes))?;

    ui::heading(format!("cluster in {}", layout.root().display()));
    let instance = Instance::ensure(layout, options.existing)?;
    components::provide(layout)?;
    install_self(layout)?;
    control_plane::start(layout, &instance)?;
    deploy::apply(layout, &instance)?;

    ui::heading(format!("up in {}", ui::duration(started.elapsed())));
    ui::note(format!(
        "export KUBECONFIG={}",
        relative(&layout.kubeconfig()).display()
    ));
    Ok(())
}

/// Copies this very program to where supervisors are started from.
fn install_self(layout: &Layout) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    install(&own, &layout.program("xtask"))
}

/// Copies a program, unless the copy is already there. What runs from the old copy goes on.
fn install(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let describe = || format!("cannot copy {} to {}", from.display(), to.display());
    if same_contents(from, to).with_context(describe)? {
        return Ok(());
    }
    let temporary = system::sibling(to, ".tmp");
    std::fs::copy(from, &temporary)
        .and_then(|_| std::fs::rename(&temporary, to))
        .with_context(describe)
}

fn same_contents(a: &std::path::Path, b: &std::path::Path) -> std::io::Result<bool> {
    use std::fs::File;
    use std::io::{BufRead as _, BufReader};
    let b = match File::open(b) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let a = File::open(a)?;
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

/// A path the way a user in the checkout would type it.
fn relative(path: &std::path::Path) -> std::path::PathBuf {
    match path.strip_prefix(repository()) {
        Ok(inside) if std::env::current_dir().is_ok_and(|now| now == repository()) => {
            inside.to_owned()
        }
        _ => path.to_owned(),
    }
}

//! `cargo xtask up`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::apt::{self, Consent};
use crate::cargo::Build;
use crate::components;
use crate::control_plane;
use crate::deploy;
use crate::existing;
use crate::hearth::{self, Nodes};
use crate::install::install_self;
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
    /// Run so many nodes without machines in place of this one, for measuring.
    #[arg(long, value_name = "N", conflicts_with = "existing", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) fake_nodes: Option<u16>,
    /// A flag for hearthd, such as --node-flag=--heartbeat-seconds=40. May be given several times.
    #[arg(
        long,
        value_name = "FLAG",
        conflicts_with = "no_hearth",
        allow_hyphen_values = true
    )]
    pub(crate) node_flag: Vec<String>,
    /// How our programs are built.
    #[arg(skip)]
    pub(crate) build: Build,
}

/// Starts the cluster, or brings a running one up to date.
pub(crate) fn up(layout: &Layout, options: &Options) -> Result<()> {
    let started = Instant::now();
    system::require_root()?;
    apt::ensure_packages(Consent::new(options.yes))?;

    ui::heading(format!("cluster in {}", layout.root().display()));
    let _lock = layout.lock()?;
    let instance = Instance::ensure(layout, options.existing, system::node_name())?;
    components::provide(layout, !options.existing)?;
    install_self(layout)?;
    let server = if options.existing {
        existing::adopt(layout)?
    } else {
        control_plane::start(layout, &instance)?
    };
    deploy::apply(layout, &instance)?;
    if !options.no_hearth {
        let nodes = Nodes {
            fake: options.fake_nodes,
            flags: &options.node_flag,
        };
        hearth::start(layout, &instance, &server, nodes, options.build)?;
        if !options.no_examples {
            hearth::start_examples(layout)?;
        }
    }
    ui::heading(format!("up in {}", ui::duration(started.elapsed())));
    if !options.no_hearth {
        print_next_steps(layout);
    }
    Ok(())
}

fn print_next_steps(layout: &Layout) {
    let kubeconfig = as_typed(&layout.kubeconfig());
    let bin = as_typed(&layout.bin());
    ui::note(format!("export KUBECONFIG={kubeconfig} PATH={bin}:$PATH"));
    ui::note("kubectl apply -f examples/claim.yaml");
    ui::note("kubectl get sandboxclaims,sandboxes,swp,sandboxnodes -A");
    ui::note("cargo xtask status | down");
}

/// A path the way a user in the checkout would type it.
fn as_typed(path: &Path) -> String {
    let inside: Option<PathBuf> = path.strip_prefix(repository()).ok().map(Path::to_owned);
    match inside {
        Some(inside) => format!("$PWD/{}", inside.display()),
        None => path.display().to_string(),
    }
}

//! The development tool of the repository, run as `cargo xtask`.
//!
//! It builds the third-party components from pinned Go modules, makes a single-machine cluster of
//! them under `.hearth/`, runs our own programs in it under their own service accounts, tests all
//! of it, and takes it down without a trace.
//!
//! Processes: `up` starts one supervisor (this program again) per long-running program and exits;
//! see [`supervise`]. Everything else is a short-lived command.

mod apt;
mod cargo;
mod components;
mod conformance;
mod control_plane;
mod deploy;
mod down;
mod existing;
mod generate;
mod guest;
mod handed_out;
mod hearth;
mod images;
mod install;
mod instance;
mod inventory;
mod kubeconfig;
mod kubectl;
mod manifests;
mod paths;
mod pki;
mod process;
mod sdk;
mod services;
mod status;
mod suite;
mod supervise;
mod sysctl;
mod system;
mod ui;
mod up;
mod v1alpha1;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::apt::Consent;
use crate::cargo::Build;
use crate::paths::Layout;

/// Builds, runs, tests and takes down the development cluster.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Where {
    /// The cluster's directory [default: .hearth in the checkout].
    #[arg(long, env = "HEARTH_DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Packages {
    /// Install missing Debian packages without asking.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the cluster, or brings a running one up to date.
    Up {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        options: up::Options,
    },
    /// Stops the cluster and removes all of it but its logs.
    Down {
        #[command(flatten)]
        place: Where,
    },
    /// Shows what runs.
    Status {
        #[command(flatten)]
        place: Where,
    },
    /// Starts a program that was stopped.
    Start {
        #[command(flatten)]
        place: Where,
        /// As `status` shows it.
        name: String,
    },
    /// Stops a program until it is started again.
    Stop {
        #[command(flatten)]
        place: Where,
        /// As `status` shows it.
        name: String,
    },
    /// Stops a program and starts it again.
    Restart {
        #[command(flatten)]
        place: Where,
        /// As `status` shows it.
        name: String,
    },
    /// Checks format, lints and every test that needs no cluster.
    Check {
        #[command(flatten)]
        packages: Packages,
    },
    /// Runs every test there is, the cluster suite on a cluster of its own.
    Test {
        /// The directory of that cluster [default: .hearth-test in the checkout].
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        packages: Packages,
    },
    /// Runs the checks of the Python SDK on the cluster that is up.
    Sdk {
        #[command(flatten)]
        place: Where,
    },
    /// Tests the node in a guest with unified cgroup v2 and systemd.
    VmTest {
        /// The directory of its cluster [default: .hearth-guest in the checkout].
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        packages: Packages,
        /// Run only the cluster tests whose names hold one of these.
        filters: Vec<String>,
    },
    /// Tries the rows of the agent-sandbox API on the running cluster.
    Conformance {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        options: conformance::Options,
    },
    /// Generates the CRDs in deploy/crds from the API types.
    Crds,
    /// Writes deploy/install.yaml from the manifests in deploy.
    Manifests,
    /// Tests the chart and the kustomizations by helm and kubectl, which it builds.
    Chart,
    /// Compares what our parts may do with what they did on the running cluster, after the suites.
    Rights {
        #[command(flatten)]
        place: Where,
    },
    /// Takes the schemas that the CRDs embed from the running API server.
    Schemas {
        #[command(flatten)]
        place: Where,
    },
    /// Builds the third-party components into the cache.
    BuildComponents {
        #[command(flatten)]
        packages: Packages,
    },
    /// Writes images as OCI archives: those of the examples and tests, or those that are handed out.
    Images {
        #[command(flatten)]
        place: Where,
        #[command(subcommand)]
        what: Option<images::What>,
    },
    /// Prints what is on the machine of the kinds of things that a cluster makes, as JSON.
    Inventory {
        #[command(flatten)]
        place: Where,
    },
    /// Keeps one program running; `up` starts this.
    #[command(hide = true)]
    Supervise {
        /// The program's specification.
        spec: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { place, options } => up::up(&place.layout()?, &options),
        Command::Down { place } => down::down(&place.layout()?),
        Command::Status { place } => status::print(&place.layout()?),
        Command::Start { place, name } => {
            let layout = place.layout()?;
            let _lock = layout.lock()?;
            supervise::resume(&layout, &name)
        }
        Command::Stop { place, name } => {
            let layout = place.layout()?;
            let _lock = layout.lock()?;
            supervise::halt(&layout, &name)
        }
        Command::Restart { place, name } => {
            let layout = place.layout()?;
            let _lock = layout.lock()?;
            supervise::halt(&layout, &name)?;
            supervise::resume(&layout, &name)
        }
        Command::Check { packages } => suite::check(packages.consent()),
        Command::Test { dir, packages } => {
            let dir = dir.unwrap_or_else(|| paths::repository().join(".hearth-test"));
            suite::test(&Layout::new(Some(&dir))?, packages.consent())
        }
        Command::Sdk { place } => sdk::test(&place.layout()?),
        Command::VmTest {
            dir,
            packages,
            filters,
        } => {
            let dir = dir.unwrap_or_else(|| paths::repository().join(".hearth-guest"));
            let options = guest::Options { filters };
            guest::test(&Layout::new(Some(&dir))?, packages.consent(), &options)
        }
        Command::Conformance { place, options } => {
            conformance::run(&place.layout()?, Build::Alone, &options)
        }
        Command::Crds => generate::crds(),
        Command::Manifests => manifests::write(),
        Command::Chart => handed_out::chart(),
        Command::Rights { place } => handed_out::rights(&place.layout()?),
        Command::Schemas { place } => generate::schemas(&place.layout()?),
        Command::BuildComponents { packages } => {
            apt::ensure_packages(packages.consent())?;
            components::build_all()
        }
        Command::Images { place, what: None } => images::write_all(&place.layout()?.images()),
        Command::Images {
            what: Some(images::What::Release(options)),
            ..
        } => images::release::write(&options),
        Command::Inventory { place } => inventory::print(&place.layout()?),
        Command::Supervise { spec } => supervise::supervise(&spec),
    }
}

impl Where {
    fn layout(&self) -> Result<Layout> {
        Layout::new(self.dir.as_deref())
    }
}

impl Packages {
    fn consent(&self) -> Consent {
        Consent::new(self.yes)
    }
}

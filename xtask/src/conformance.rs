//! `cargo xtask conformance`: the rows of the agent-sandbox API on a running cluster, and what is written down of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo::{self, Build};
use crate::instance::Instance;
use crate::paths::{Layout, repository};
use crate::services::CONTROLLER;
use crate::system;
use crate::ui;

/// The program that tries the rows.
const PROGRAM: &str = "hearth-conformance";
/// What a cluster of `up` has for the rows: a node whose sandboxes this machine reaches, Kubernetes' own controllers, and
/// our controller's metrics and program. It has no kubelet and no core Pods behind Sandboxes.
const HAVE: &str = "node,reach,controllers,metrics,program";

/// What to try.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Write what comes of the rows to the record, and docs/conformance.md anew.
    #[arg(long)]
    write: bool,
    /// Only these rows; `3.1-*` are all of a section.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Tries the rows on the cluster, and fails when they come out otherwise than recorded.
pub(crate) fn run(layout: &Layout, build: Build, options: &Options) -> Result<()> {
    let instance = Instance::load(layout)?
        .context("there is no cluster; `cargo xtask up` starts one, --dir names another")?;
    let program = program(build)?;
    let mut command = Command::new(&program);
    command
        .arg("run")
        .arg(format!("--kubeconfig={}", layout.kubeconfig().display()))
        .arg(format!("--have={HAVE}"))
        .arg(format!(
            "--metrics=127.0.0.1:{}",
            instance.ports.controller_metrics
        ))
        .arg(format!(
            "--program={}",
            layout.program(CONTROLLER).display()
        ))
        .arg(format!("--record={}", record().display()));
    if options.write {
        command.arg("--write");
    }
    if !options.only.is_empty() {
        command.arg(format!("--only={}", options.only.join(",")));
    }
    system::run(&mut command)?;
    if options.write {
        write_document(&program)?;
    }
    Ok(())
}

/// Writes the document of the rows and their record.
fn write_document(program: &Path) -> Result<()> {
    let record = format!("--record={}", record().display());
    let text = system::capture(Command::new(program).args(["document", &record]))?;
    let file = repository().join("docs/conformance.md");
    system::write_atomic(&file, text.as_bytes(), 0o644)
}

fn record() -> PathBuf {
    repository().join("tests/conformance/results/hearth.json")
}

fn program(build: Build) -> Result<PathBuf> {
    let built = ui::step("building the conformance suite", || {
        cargo::build_programs(build)
    })?;
    built
        .into_iter()
        .find(|program| program.file_name() == Some(PROGRAM.as_ref()))
        .with_context(|| format!("cargo built no program {PROGRAM}"))
}

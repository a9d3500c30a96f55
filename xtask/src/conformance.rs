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
use crate::v1alpha1;

/// The program that tries the rows.
const PROGRAM: &str = "hearth-conformance";
/// What a cluster of `up` has for the rows: a node whose sandboxes this machine reaches, Kubernetes' own controllers, and
/// our controller's metrics and program. It has no kubelet and no core Pods behind Sandboxes.
const HAVE: &str = "node,reach,controllers,metrics,program";

/// What it has besides while v1alpha1 is served, and not before: a row says that nothing but v1beta1 is.
const V1ALPHA1: &str = "v1alpha1";
/// The rows that need it.
const V1ALPHA1_ROWS: &str = "1-b,1-c,1.6-*";

/// What to try.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Write what comes of the rows to the record, and docs/conformance.md anew.
    #[arg(long)]
    write: bool,
    /// Only these rows; `3.1-*` are all of a section.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The rows that need v1alpha1, with CRDs that have it, instead of the others.
    #[arg(long)]
    v1alpha1: bool,
}

impl Options {
    /// The rows that need v1alpha1.
    pub(crate) fn of_v1alpha1() -> Self {
        Self {
            v1alpha1: true,
            ..Self::default()
        }
    }
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
    let only = options.only.join(",");
    if options.v1alpha1 {
        let only = if only.is_empty() {
            V1ALPHA1_ROWS
        } else {
            &only
        };
        command
            .arg(format!("--have={HAVE},{V1ALPHA1}"))
            .arg(format!("--only={only}"));
        v1alpha1::while_served(layout, &instance, || system::run(&mut command))?;
    } else {
        command
            .arg(format!("--have={HAVE}"))
            .arg(format!("--elsewhere={V1ALPHA1}"));
        if !only.is_empty() {
            command.arg(format!("--only={only}"));
        }
        system::run(&mut command)?;
    }
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

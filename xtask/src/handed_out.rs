//! Tests that need what a build has made: the chart by the real helm, and the rights of our parts by the log of a cluster.

use anyhow::{Context as _, Result};

use crate::cargo::{self, CLUSTER_FEATURE};
use crate::components::{self, Built};
use crate::paths::Layout;
use crate::system;

/// Builds helm and kubectl and holds the chart and the kustomizations against `deploy/install.yaml`.
pub(crate) fn chart() -> Result<()> {
    let helm = components::build("helm")?;
    let kubernetes = components::build("kubernetes")?;
    system::run(
        test("chart")
            .env("HEARTH_HELM", program(&helm, "helm")?)
            .env("HEARTH_KUBECTL", program(&kubernetes, "kubectl")?),
    )
}

/// Compares what our parts may do with what they did on the cluster that is up, and prints both. It wants the suites to
/// have been run there.
pub(crate) fn rights(layout: &Layout) -> Result<()> {
    system::run(
        test("rights")
            .env("HEARTH_DIR", layout.root())
            .env("KUBECONFIG", layout.kubeconfig()),
    )
}

/// One test program of the cluster suite, with all packages: another choice would mean another build of dependencies.
fn test(name: &str) -> std::process::Command {
    let target = format!("--test={name}");
    cargo::cargo(&[
        "test",
        "--workspace",
        CLUSTER_FEATURE,
        &target,
        "--",
        "--nocapture",
    ])
}

fn program<'a>(component: &'a Built, name: &str) -> Result<&'a std::path::Path> {
    let mut programs = component.programs.iter();
    programs
        .find(|(program, _)| *program == name)
        .map(|(_, file)| file.as_path())
        .with_context(|| format!("the component {} has no {name}", component.name))
}

//! What is applied to the cluster before our programs start: the CRDs, namespaces, service accounts
//! and roles of `deploy/`, the runtime classes of `runtimes/`, and the core Node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::instance::Instance;
use crate::kubectl::Kubectl;
use crate::paths::{Layout, repository};
use crate::ui;

/// The label of a Node that no kubelet registered but this tool, with the instance as its value.
pub(crate) const MADE_BY: &str = "hearth.dev/made-by-instance";

/// Applies all of it. Applying twice changes nothing.
pub(crate) fn apply(layout: &Layout, instance: &Instance) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    let deploy = repository().join("deploy");
    kubectl.capture(&["apply", "--kustomize", &path_argument(&deploy)])?;
    // The controller's webhook is on here; the CRDs have v1alpha1 only while it is tried.
    let webhook = deploy.join("v1alpha1/rbac.yaml");
    kubectl.capture(&["apply", "--filename", &path_argument(&webhook)])?;
    // A CRD is served a moment after it was accepted.
    let crds: Vec<_> = crds()?.iter().map(|file| path_argument(file)).collect();
    let crds: Vec<_> = crds
        .iter()
        .flat_map(|file| ["--filename", file.as_str()])
        .collect();
    kubectl.wait(&crds, "condition=Established", Duration::from_secs(30))?;
    for class in runtime_classes()? {
        kubectl.capture(&["apply", "--filename", &path_argument(&class)])?;
    }
    ui::note("applied deploy/ and the runtime classes");
    ensure_node(&kubectl, instance)
}

fn path_argument(path: &Path) -> String {
    path.display().to_string()
}

/// One file per kind.
fn crds() -> Result<Vec<PathBuf>> {
    let dir = repository().join("deploy/crds");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut crds: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|file| file.file_name() != Some("kustomization.yaml".as_ref()))
        .collect();
    crds.sort();
    Ok(crds)
}

/// One file per handler.
fn runtime_classes() -> Result<Vec<PathBuf>> {
    let dir = repository().join("runtimes");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut classes: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("runtimeclass.yaml"))
        .filter(|file| file.exists())
        .collect();
    classes.sort();
    Ok(classes)
}

/// Makes the core Node of this machine, which placement and node-bound tokens need and no kubelet
/// registers here.
fn ensure_node(kubectl: &Kubectl, instance: &Instance) -> Result<()> {
    let name = &instance.node_name;
    let known = kubectl.capture(&["get", "node", name, "--ignore-not-found", "--output=name"])?;
    if !known.trim().is_empty() {
        return Ok(());
    }
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
                MADE_BY: instance.id,
            },
        },
    });
    kubectl.apply(&node.to_string())?;
    // Admission taints every new Node as not ready, and the controller that would remove the taint
    // watches kubelets.
    kubectl.capture(&[
        "patch",
        "node",
        name,
        "--type=merge",
        "--patch",
        r#"{"spec":{"taints":null}}"#,
    ])?;
    let capacity = json!({
        "cpu": cores().to_string(),
        "memory": format!("{}Ki", memory_kib(&read("/proc/meminfo")?)?),
        "pods": "1024",
    });
    let status = json!({ "status": {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            { "type": "InternalIP", "address": "127.0.0.1" },
            { "type": "Hostname", "address": name },
        ],
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "DevelopmentCluster",
            "message": "made by cargo xtask up; no kubelet runs here",
        }],
    }});
    kubectl.capture(&[
        "patch",
        "node",
        name,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &status.to_string(),
    ])?;
    ui::note(format!("made the Node {name}"));
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn memory_kib(meminfo: &str) -> Result<u64> {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("/proc/meminfo has no MemTotal in kB")
}

/// The machine's architecture as Kubernetes calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_from_meminfo() {
        let text = "MemTotal:       24684092 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_kib(text).unwrap(), 24_684_092);
        assert!(memory_kib("MemFree: 1 kB\n").is_err());
    }
}

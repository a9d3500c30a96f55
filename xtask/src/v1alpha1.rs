//! `v1alpha1` beside `v1beta1`, for as long as something is tried with it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::instance::Instance;
use crate::kubectl::Kubectl;
use crate::paths::{Layout, repository};
use crate::services::{self, CONTROLLER};
use crate::ui;

/// The CRDs with both versions.
const CRDS: [&str; 4] = [
    "sandboxes.agents.x-k8s.io",
    "sandboxclaims.extensions.agents.x-k8s.io",
    "sandboxtemplates.extensions.agents.x-k8s.io",
    "sandboxwarmpools.extensions.agents.x-k8s.io",
];

/// How long it may take until the API server has heard of the CRDs and of whom to trust.
const WITHIN: Duration = Duration::from_secs(60);

/// Does something while `v1alpha1` is served. Whatever comes of it, one version is served afterwards; that is possible
/// because `v1alpha1` is never stored.
pub(crate) fn while_served(
    layout: &Layout,
    instance: &Instance,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    let done =
        ui::step("serving v1alpha1", || begin(layout, instance, &kubectl)).and_then(|()| work());
    let ended = apply(&kubectl, "crds");
    done.and(ended)
}

fn begin(layout: &Layout, instance: &Instance, kubectl: &Kubectl) -> Result<()> {
    let port = instance.ports.webhook;
    ensure!(
        port != 0,
        "this cluster was begun without a port for the webhook; take it down and up again"
    );
    apply(kubectl, "v1alpha1/crds")?;
    // No Service leads out of this cluster, whose API server is beside the controller.
    let url = format!("https://127.0.0.1:{port}/convert");
    let patch = json!([{
        "op": "replace", "path": "/spec/conversion/webhook/clientConfig", "value": {"url": url},
    }]);
    for crd in CRDS {
        let patch = format!("--patch={patch}");
        kubectl.capture(&["patch", "crd", crd, "--type=json", &patch])?;
    }
    // Created for show, of all kinds: that needs the webhook.
    services::wait_until(layout, CONTROLLER, WITHIN, || {
        for mut object in [
            json!({
                "apiVersion": "agents.x-k8s.io/v1alpha1", "kind": "Sandbox",
                "spec": {"podTemplate": {"spec": {"containers": []}}},
            }),
            json!({
                "apiVersion": "extensions.agents.x-k8s.io/v1alpha1", "kind": "SandboxClaim",
                "spec": {"sandboxTemplateRef": {"name": "t"}},
            }),
            json!({
                "apiVersion": "extensions.agents.x-k8s.io/v1alpha1", "kind": "SandboxTemplate",
                "spec": {"podTemplate": {"spec": {"containers": []}}},
            }),
            json!({
                "apiVersion": "extensions.agents.x-k8s.io/v1alpha1", "kind": "SandboxWarmPool",
                "spec": {"sandboxTemplateRef": {"name": "t"}, "replicas": 0},
            }),
        ] {
            object["metadata"] = json!({"name": "for-show", "namespace": "default"});
            kubectl
                .create_for_show(&object.to_string())
                .context("v1alpha1 is not converted")?;
        }
        Ok(())
    })
}

fn apply(kubectl: &Kubectl, directory: &str) -> Result<()> {
    let directory = repository().join("deploy").join(directory);
    let directory = directory.display().to_string();
    kubectl
        .capture(&["apply", "--kustomize", &directory])
        .map(drop)
}

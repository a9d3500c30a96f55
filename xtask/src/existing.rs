//! A cluster that somebody else runs: `up --existing`.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::deploy;
use crate::hearth;
use crate::instance::Instance;
use crate::kubeconfig::{self, Server};
use crate::kubectl::Kubectl;
use crate::paths::Layout;
use crate::system;
use crate::ui;

/// Takes the administrator's credentials from the user's KUBECONFIG, and says where the cluster is.
pub(crate) fn adopt(layout: &Layout) -> Result<Server> {
    // With its data inline, so that it does not depend on files that may move.
    let text = system::capture(Command::new(layout.program("kubectl")).args([
        "config",
        "view",
        "--minify",
        "--flatten",
        "--raw",
        "--output=json",
    ]))
    .context("--existing wants KUBECONFIG to point to a cluster")?;
    let server =
        kubeconfig::server(&text).context("--existing wants KUBECONFIG to point to a cluster")?;
    system::write_atomic(&layout.kubeconfig(), text.as_bytes(), 0o600)?;
    ui::note(format!("using the cluster at {}", server.url));
    Ok(server)
}

/// Removes from the cluster what belongs to this machine. CRDs and roles stay: others may use them
/// by now.
pub(crate) fn leave(layout: &Layout, instance: &Instance) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    let name = &instance.node_name;
    kubectl.capture(&["delete", "sandboxnode", name, "--ignore-not-found"])?;
    kubectl.capture(&[
        "--namespace=hearth-nodes",
        "delete",
        "lease",
        name,
        "--ignore-not-found",
    ])?;
    kubectl.capture(&[
        "delete",
        "node",
        &format!("--field-selector=metadata.name={name}"),
        &format!("--selector={}={}", deploy::MADE_BY, instance.id),
    ])?;
    ui::note("the CRDs, namespaces and roles stay; `kubectl delete -k deploy` removes them");
    Ok(())
}

/// Asks the running controller to take the example pool away while it still can.
pub(crate) fn remove_examples(layout: &Layout) {
    if let Err(error) = hearth::remove_examples(layout) {
        ui::warn(format!("the examples could not be removed: {error:#}"));
    }
}

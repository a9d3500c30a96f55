//! Files that are generated from the API types, and the types' inputs from the API server.

use anyhow::Result;

use crate::cargo;
use crate::kubectl::Kubectl;
use crate::paths::Layout;
use crate::system;
use crate::ui;

/// Writes `deploy/crds` anew. A test of hearth-api fails when it is out of date.
pub(crate) fn crds() -> Result<()> {
    cargo::run(&[
        "run",
        "--quiet",
        "--package",
        "hearth-api",
        "--bin",
        "crdgen",
    ])
}

/// Takes the schemas of PodSpec and PersistentVolumeClaimSpec from the running API server, which
/// has the list keys and defaults that no client library carries. Wanted when the pinned
/// Kubernetes version changes.
pub(crate) fn schemas(layout: &Layout) -> Result<()> {
    let document = Kubectl::new(layout).capture(&["get", "--raw", "/openapi/v3/api/v1"])?;
    let said = system::capture_with_input(
        &mut cargo::cargo(&[
            "run",
            "--quiet",
            "--package",
            "hearth-api",
            "--bin",
            "extract-schemas",
        ]),
        document.as_bytes(),
    )?;
    ui::note(said.trim());
    Ok(())
}

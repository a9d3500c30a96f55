//! Files that are generated from the API types, and the types' inputs from the API server.

use anyhow::Result;

use crate::cargo;
use crate::kubectl::Kubectl;
use crate::paths::Layout;
use crate::system;

/// Writes `deploy/crds` and `deploy/v1alpha1/crds` anew. A test of hearth-api fails when it is out of date.
pub(crate) fn crds() -> Result<()> {
    run("hearth-crdgen", &[])
}

/// Takes the schemas that the CRDs embed from the running API server, whose documents have the list
/// keys and defaults that no client library carries, and generates the CRDs from them. Wanted when
/// the pinned Kubernetes version changes.
pub(crate) fn schemas(layout: &Layout) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    let dir = layout.root().join("cache/openapi");
    let mut files = Vec::new();
    for (name, document) in [
        ("core", "/openapi/v3/api/v1"),
        ("networking", "/openapi/v3/apis/networking.k8s.io/v1"),
    ] {
        let file = dir.join(format!("{name}.json"));
        let text = kubectl.capture(&["get", "--raw", document])?;
        system::write_atomic(&file, text.as_bytes(), 0o644)?;
        files.push(file.display().to_string());
    }
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    run("hearth-schemas", &files)?;
    crds()
}

/// Runs one of hearth-api's generators.
fn run(generator: &str, args: &[&str]) -> Result<()> {
    let mut all = vec![
        "run",
        "--quiet",
        "--package=hearth-api",
        "--bin",
        generator,
        "--",
    ];
    all.extend(args);
    cargo::run(&all)
}

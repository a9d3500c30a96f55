//! The manifests, read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The checkout.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A file of `deploy`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

pub(crate) fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The objects of a file.
pub(crate) fn objects(file: &Path) -> Vec<Value> {
    let text = format!("\n{}", text(file));
    text.split("\n---\n")
        .filter(|document| {
            document
                .lines()
                .any(|line| !line.starts_with('#') && !line.is_empty())
        })
        .map(|document| {
            serde_saphyr::from_str(document)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        })
        .collect()
}

/// All that is installed, and what is for clusters with the Prometheus operator.
pub(crate) fn all() -> Vec<Value> {
    let files = [
        "install.yaml",
        "monitoring/monitors.yaml",
        "monitoring/rules.yaml",
    ];
    files
        .iter()
        .flat_map(|file| objects(&deploy(file)))
        .collect()
}

/// A string in an object; empty when it is not there.
pub(crate) fn at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The elements of a list in an object; none when it is not there.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `Kind namespace/name`, for messages.
pub(crate) fn title(object: &Value) -> String {
    format!(
        "{} {}/{}",
        at(object, "/kind"),
        at(object, "/metadata/namespace"),
        at(object, "/metadata/name")
    )
}

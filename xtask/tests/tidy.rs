//! Rules of the repository that no compiler and no lint checks.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Beyond this a reader needs a map.
const LONGEST_FILE: usize = 700;

/// What the pure crates may depend on: no runtime, no network, no kernel.
const PURE: &[(&str, &[&str])] = &[
    (
        "hearth-core",
        &[
            "base64",
            "hearth-api",
            "jiff",
            "k8s-openapi",
            "serde",
            "serde_json",
            "thiserror",
        ],
    ),
    (
        "hearth-convert",
        &[
            "hearth-api",
            "hearth-core",
            "serde",
            "serde_json",
            "thiserror",
        ],
    ),
];

/// What tries the API from outside.
const CONFORMANCE: &str = "tests/conformance";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The directories of the workspace's packages.
fn packages() -> Vec<PathBuf> {
    let root = repository();
    let crates = fs::read_dir(root.join("crates")).unwrap();
    let mut packages: Vec<_> = crates
        .map(|entry| entry.unwrap().path())
        .chain(["benches", "tests", CONFORMANCE, "xtask"].map(|name| root.join(name)))
        .filter(|dir| dir.join("Cargo.toml").exists())
        .collect();
    packages.sort();
    packages
}

/// The lines of a manifest's sections whose names end in `section`.
fn section(manifest: &str, section: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            inside = name.trim_end_matches(']').ends_with(section);
        } else if inside && line.contains('=') && !line.starts_with('#') {
            lines.push(line.to_owned());
        }
    }
    lines
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_package_has_the_lints_and_the_versions_of_the_workspace() {
    let mut problems = Vec::new();
    for package in packages() {
        let file = package.join("Cargo.toml");
        let manifest = fs::read_to_string(&file).unwrap();
        if section(&manifest, "lints") != ["workspace = true"] {
            problems.push(format!("{}: no workspace lints", file.display()));
        }
        for line in section(&manifest, "dependencies") {
            if !line.contains("workspace = true") {
                problems.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn pure_crates_depend_on_nothing_that_acts() {
    for (package, allowed) in PURE {
        let file = repository().join("crates").join(package).join("Cargo.toml");
        let manifest = fs::read_to_string(file).unwrap();
        // Not of tests: those may do what they like.
        let (manifest, _) = manifest
            .split_once("[dev-dependencies]")
            .unwrap_or((&manifest, ""));
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        let used: BTreeSet<String> = section(manifest, "dependencies")
            .iter()
            .filter_map(|line| line.split(['=', '.', ' ']).next())
            .map(str::to_owned)
            .collect();
        let used: BTreeSet<_> = used.iter().map(String::as_str).collect();
        let more: Vec<_> = used.difference(&allowed).collect();
        assert!(more.is_empty(), "{package} depends on {more:?}");
    }
}

#[test]
fn the_conformance_suite_shares_nothing_with_what_it_tries() {
    let file = repository().join(CONFORMANCE).join("Cargo.toml");
    let manifest = fs::read_to_string(file).unwrap();
    let dependencies = section(&manifest, "dependencies");
    assert!(!dependencies.is_empty());
    let ours: Vec<_> = dependencies
        .iter()
        .filter(|line| line.starts_with("hearth"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn no_file_is_too_long_to_find_the_way_in() {
    let mut files = Vec::new();
    for package in packages() {
        rust_files(&package, &mut files);
    }
    assert!(files.len() > 50, "found only {} files", files.len());
    let long: Vec<_> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn sections_of_a_manifest_are_told_apart() {
    let manifest = "[dependencies]\na = 1\n# b = 2\n\n[dev-dependencies]\nc = 3\n[lints]\nd = 4\n";
    assert_eq!(section(manifest, "dependencies"), ["a = 1", "c = 3"]);
    assert_eq!(section(manifest, "lints"), ["d = 4"]);
}

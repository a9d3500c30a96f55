//! `deploy/install.yaml`: all that `deploy/install` names, in one file that wants no tool but kubectl.
//!
//! It is put together here and not by kustomize, because a test that needs no cluster holds it up to date, and because
//! comments stay. So of kustomizations only lists of resources are understood, and anything else is refused: what this
//! writes is what kustomize would, and a phase of `cargo xtask test` compares the two.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::paths::repository;
use crate::system;
use crate::ui;

/// What is installed.
const ROOT: &str = "deploy/install";
/// The same in one file.
const FILE: &str = "deploy/install.yaml";
const HEADER: &str = "\
# Hearth in a cluster, all of it:
#   kubectl apply -f deploy/install.yaml
# Written by `cargo xtask manifests` from deploy/install. Do not edit.
";

/// Writes the file anew. A test fails when it is out of date.
pub(crate) fn write() -> Result<()> {
    let text = render(&repository())?;
    let file = repository().join(FILE);
    if fs::read_to_string(&file).is_ok_and(|now| now == text) {
        ui::note(format!("{FILE} is up to date"));
        return Ok(());
    }
    system::write_atomic(&file, text.as_bytes(), 0o644)?;
    ui::note(format!("wrote {FILE}"));
    Ok(())
}

/// The text for a checkout.
fn render(repository: &Path) -> Result<String> {
    let mut files = Vec::new();
    resources(&repository.join(ROOT), &mut files)?;
    let mut text = HEADER.to_owned();
    for file in files {
        let contents = read(&file)?;
        for document in documents(&contents) {
            // Writing to a String cannot fail.
            let _ = write!(text, "---\n{document}");
        }
    }
    Ok(text)
}

/// The manifests of a kustomization and of those that it names, in order.
fn resources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let file = dir.join("kustomization.yaml");
    let kustomization = read(&file)?;
    let named = named(&kustomization).with_context(|| format!("cannot use {}", file.display()))?;
    for name in named {
        let path = dir.join(name);
        if path.is_dir() {
            resources(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The resources that a kustomization names.
fn named(kustomization: &str) -> Result<Vec<&str>> {
    let mut listing = false;
    let mut named = Vec::new();
    for line in kustomization.lines() {
        let text = line.trim_end();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(name) = text.strip_prefix("  - ").filter(|_| listing) {
            named.push(name);
            continue;
        }
        listing = text == "resources:";
        let known = [
            "resources:",
            "apiVersion: kustomize.config.k8s.io/v1beta1",
            "kind: Kustomization",
        ];
        if !known.contains(&text) {
            bail!("only a list of resources is understood, and this line is none: {line:?}");
        }
    }
    ensure!(!named.is_empty(), "it names no resources");
    Ok(named)
}

/// The documents of a file, each with the comments before it and a line end behind it.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_file_is_up_to_date() {
        let found = read(&repository().join(FILE)).unwrap();
        assert!(
            found == render(&repository()).unwrap(),
            "{FILE} is out of date: cargo xtask manifests"
        );
    }

    #[test]
    fn what_kustomize_would_change_is_refused() {
        let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        let good = format!("# A comment.\n{head}resources:\n  - a.yaml\n  - ../b\n");
        assert_eq!(named(&good).unwrap(), ["a.yaml", "../b"]);
        for more in [
            "namePrefix: x-\n",
            "images:\n  - name: a\n",
            "patches:\n  - path: p.yaml\n",
        ] {
            assert!(named(&format!("{good}{more}")).is_err(), "{more}");
        }
        assert!(named(head).is_err());
    }

    #[test]
    fn documents_keep_their_comments() {
        let text = "# One.\na: 1\n---\n\n---\n# Two.\nb: 2";
        assert_eq!(documents(text), ["# One.\na: 1\n", "# Two.\nb: 2\n"]);
    }
}

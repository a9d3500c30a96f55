//! The chart's files: what it has by links, and that values, their schema and the templates know the same ones. What helm
//! makes of it is tried in `tests/chart`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifests::{at, deploy, objects, repository, text};

fn chart(path: &str) -> PathBuf {
    deploy("helm/hearth").join(path)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn values() -> Value {
    let mut values = objects(&chart("values.yaml"));
    assert_eq!(values.len(), 1);
    values.remove(0)
}

fn templates() -> String {
    let files = files(&chart("templates"));
    files.iter().map(|file| text(file)).collect()
}

/// A copy would grow old.
#[test]
fn manifests_without_values_are_links_to_those_of_kustomize() {
    let root = repository().canonicalize().unwrap();
    let mut linked = BTreeSet::new();
    for file in [files(&chart("crds")), files(&chart("files"))].concat() {
        let metadata = fs::symlink_metadata(&file).unwrap();
        assert!(metadata.is_symlink(), "{} is a copy", file.display());
        let place = file.canonicalize().unwrap();
        let place = place.strip_prefix(&root).unwrap().to_owned();
        assert!(
            place.starts_with("deploy") || place.starts_with("runtimes"),
            "{} leads to {}",
            file.display(),
            place.display()
        );
        assert!(!place.starts_with("deploy/helm"), "{}", file.display());
        linked.insert(place);
    }
    let crds = files(&deploy("crds")).into_iter();
    let crds = crds.filter(|file| file.file_name() != Some("kustomization.yaml".as_ref()));
    let rbac = ["deploy/rbac/controller.yaml", "deploy/rbac/hearthd.yaml"];
    let wanted = crds
        .map(|file| file.canonicalize().unwrap())
        .map(|file| file.strip_prefix(&root).unwrap().to_owned())
        .chain(rbac.map(PathBuf::from));
    let missing: Vec<_> = wanted.filter(|file| !linked.contains(file)).collect();
    assert!(missing.is_empty(), "the chart lacks {missing:?}");
}

#[test]
fn every_linked_file_is_in_a_template() {
    let templates = templates();
    for file in files(&chart("files")) {
        let name = file.file_name().unwrap().to_string_lossy();
        let used = format!(".Files.Get \"files/{name}\"");
        assert_eq!(templates.matches(&used).count(), 1, "{name}");
    }
}

/// Paths of values such as `node.image.tag`; what is empty or a list ends a path.
fn paths(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    let object = value.as_object().filter(|object| !object.is_empty());
    let Some(object) = object else {
        found.insert(prefix.to_owned());
        return;
    };
    for (name, value) in object {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        paths(value, &path, found);
    }
}

/// The paths that templates ask for.
fn asked() -> BTreeSet<String> {
    let templates = templates();
    let asked = templates.split(".Values.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    asked.collect()
}

#[test]
fn templates_use_each_value_and_no_others() {
    let mut known = BTreeSet::new();
    paths(&values(), "", &mut known);
    let asked = asked();
    assert!(known.len() > 20, "{known:?}");
    for path in &known {
        // A whole object may be asked for, such as an image.
        let mut above = path.match_indices('.').map(|(end, _)| &path[..end]);
        let used = asked.contains(path) || above.any(|above| asked.contains(above));
        assert!(used, "nothing uses the value {path}");
    }
    for path in &asked {
        let below = format!("{path}.");
        let there = known.contains(path) || known.iter().any(|path| path.starts_with(&below));
        assert!(there, "there is no value {path}");
    }
}

/// The schema of a value, behind its reference.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match at(schema, "/$ref").strip_prefix('#') {
        Some(pointer) => root.pointer(pointer).unwrap(),
        None => schema,
    }
}

fn compare(values: &Value, schema: &Value, root: &Value, path: &str) {
    let schema = resolved(schema, root);
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object())
    else {
        return;
    };
    if path != "node.updateStrategy" {
        assert_eq!(schema["additionalProperties"], false, "{path} lets all in");
    }
    let known: BTreeSet<_> = properties.keys().filter(|name| *name != "global").collect();
    let there: BTreeSet<_> = values.keys().collect();
    assert_eq!(known, there, "the schema of {path:?} and its values");
    for (name, value) in values {
        let path = format!("{path}.{name}");
        compare(value, &properties[name], root, path.trim_start_matches('.'));
    }
}

#[test]
fn the_schema_knows_each_value() {
    let schema = text(&chart("values.schema.json"));
    let schema: Value = serde_json::from_str(&schema).unwrap();
    compare(&values(), &schema, &schema, "");
}

#[test]
fn versions_are_those_of_the_workspace() {
    let chart = objects(&chart("Chart.yaml")).remove(0);
    for field in ["/version", "/appVersion"] {
        assert_eq!(at(&chart, field), env!("CARGO_PKG_VERSION"), "{field}");
    }
    let values = values();
    for (part, image) in [
        ("controller", "agent-sandbox-controller"),
        ("node", "hearth-node"),
    ] {
        let repository = at(&values[part], "/image/repository");
        assert_eq!(repository, format!("localhost/{image}"));
        assert_eq!(values[part]["image"]["tag"], "");
    }
}

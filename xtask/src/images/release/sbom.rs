//! What an image is made of, as a CycloneDX document: crates by cargo's account, Go modules by what is
//! in the programs, packages by dpkg's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::super::archive::Moment;

/// One thing that is in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Component {
    /// `library`, `application` or `file`.
    pub(super) kind: &'static str,
    /// Its name where it comes from.
    pub(super) name: String,
    /// Its version there.
    pub(super) version: String,
    /// Its package URL; empty when it has none.
    pub(super) purl: String,
    /// Its licence as an SPDX expression, where that is known.
    pub(super) license: Option<String>,
    /// The digest of a file, SHA-256 in hexadecimal.
    pub(super) sha256: Option<String>,
}

impl Component {
    /// A program.
    pub(super) fn program(name: &str, version: &str, sha256: String) -> Self {
        Self {
            kind: "application",
            name: name.to_owned(),
            version: version.to_owned(),
            purl: String::new(),
            license: None,
            sha256: Some(sha256),
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "type": self.kind,
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
        });
        if !self.purl.is_empty() {
            value["purl"] = json!(self.purl);
        }
        if let Some(license) = &self.license {
            value["licenses"] = json!([{ "expression": license }]);
        }
        if let Some(digest) = &self.sha256 {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
        }
        value
    }

    fn reference(&self) -> String {
        if self.purl.is_empty() {
            format!("{}:{}@{}", self.kind, self.name, self.version)
        } else {
            self.purl.clone()
        }
    }
}

/// The document of the image `name`. Components that are the same are in it once, whatever their order.
pub(super) fn document(
    name: &str,
    version: &str,
    made: &Moment,
    components: impl IntoIterator<Item = Component>,
) -> Vec<u8> {
    let components: BTreeMap<String, Component> = components
        .into_iter()
        .map(|component| (component.reference(), component))
        .collect();
    let components: Vec<_> = components.values().map(Component::json).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": made.text,
            "component": {
                "type": "container",
                "bom-ref": format!("container:{name}@{version}"),
                "name": name,
                "version": version,
            },
        },
        "components": components,
    });
    let mut text = format!("{document:#}").into_bytes();
    text.push(b'\n');
    text
}

/// The crates that a package of the workspace is built from, by what `cargo metadata` says. Features are those of the
/// whole workspace, so that it may be a few too many, and never too few.
pub(super) fn crates(metadata: &Value, package: &str) -> Result<Vec<Component>> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    // What has no source is the workspace's own.
    let root = packages
        .iter()
        .find(|(_, found)| found["name"] == package && found["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("cargo knows no package {package}"))?;
    let mut reached = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let node = nodes
            .get(id)
            .with_context(|| format!("cargo does not say what {id} depends on"))?;
        let dependencies = node["deps"].as_array().into_iter().flatten();
        let linked = dependencies.filter(|dependency| is_linked(dependency));
        for id in linked.filter_map(|dependency| dependency["pkg"].as_str()) {
            if reached.insert(id) {
                open.push(id);
            }
        }
    }
    reached
        .into_iter()
        .map(|id| {
            let package = packages
                .get(id)
                .with_context(|| format!("cargo does not say what {id} is"))?;
            Ok(a_crate(package))
        })
        .collect()
}

/// Whether a dependency gets into the program, and is not only for tests and build scripts.
fn is_linked(dependency: &Value) -> bool {
    let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
    kinds.any(|kind| kind["kind"].is_null())
}

fn a_crate(package: &Value) -> Component {
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let purl = if package["source"].is_null() {
        String::new()
    } else {
        format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
    };
    // Before there were expressions a slash stood for a choice.
    let license = package["license"].as_str();
    Component {
        kind: "library",
        name,
        version,
        purl,
        license: license.map(|license| license.replace(" OR ", "/").replace('/', " OR ")),
        sha256: None,
    }
}

/// The modules that a Go program is built from, by what `go version -m` says of it.
pub(super) fn go_modules(said: &str) -> Vec<Component> {
    let mut modules: Vec<Component> = Vec::new();
    let compiler = said.lines().next().and_then(|line| line.rsplit_once("go"));
    if let Some((_, version)) = compiler {
        modules.push(module("stdlib", version.trim()));
    }
    for line in said.lines() {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let (Some(path), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        match word {
            // A main of ours, which has no version.
            "mod" if version == "(devel)" => {}
            "mod" | "dep" => modules.push(module(path, version)),
            // It took the place of the one before.
            "=>" => {
                modules.pop();
                modules.push(module(path, version));
            }
            _ => {}
        }
    }
    modules
}

fn module(path: &str, version: &str) -> Component {
    Component {
        kind: "library",
        name: path.to_owned(),
        version: version.to_owned(),
        purl: format!(
            "pkg:golang/{}@{}",
            path.to_lowercase(),
            version.replace('+', "%2B")
        ),
        license: None,
        sha256: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(components: &[Component]) -> Vec<String> {
        components.iter().map(Component::reference).collect()
    }

    #[test]
    fn modules_come_from_what_go_says() {
        let said = "/c/runc: go1.26.8\n\
                    \tpath\tgithub.com/opencontainers/runc\n\
                    \tmod\tgithub.com/opencontainers/runc\tv1.5.1\th1:abc=\n\
                    \tdep\tgithub.com/Old/Name\tv1.0.0\th1:abc=\n\
                    \t=>\tgithub.com/New/Name\tv2.0.0+incompatible\th1:abc=\n\
                    \tbuild\t-tags=seccomp\n\
                    \tbuild\tCGO_ENABLED=1\n";
        let expect = [
            "pkg:golang/stdlib@1.26.8",
            "pkg:golang/github.com/opencontainers/runc@v1.5.1",
            "pkg:golang/github.com/new/name@v2.0.0%2Bincompatible",
        ];
        assert_eq!(names(&go_modules(said)), expect);
        let ours = "x: go1.26.8\n\tmod\thearth.dev/components/gvisor\t(devel)\t\n";
        assert_eq!(names(&go_modules(ours)), ["pkg:golang/stdlib@1.26.8"]);
    }

    #[test]
    fn crates_are_those_that_are_linked() {
        let package = |id: &str, source: Value, license: &str| json!({"id": id, "name": id, "version": "1.0.0", "source": source, "license": license});
        let registry = || json!("registry");
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("ours", Value::Null, "Apache-2.0"),
                package("linked", registry(), "MIT/Apache-2.0"),
                package("deeper", registry(), "MIT OR Apache-2.0"),
                package("tests", registry(), "MIT"),
                package("build", registry(), "MIT"),
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [
                    dependency("linked", Value::Null),
                    dependency("tests", json!("dev")),
                    dependency("build", json!("build")),
                ]},
                {"id": "linked", "deps": [dependency("deeper", Value::Null)]},
                {"id": "deeper", "deps": [dependency("linked", Value::Null)]},
            ]},
        });
        let crates = crates(&metadata, "ours").unwrap();
        assert_eq!(
            names(&crates),
            [
                "pkg:cargo/deeper@1.0.0",
                "pkg:cargo/linked@1.0.0",
                "library:ours@1.0.0"
            ]
        );
        for component in crates.iter().filter(|component| component.name != "ours") {
            assert_eq!(component.license.as_deref(), Some("MIT OR Apache-2.0"));
        }
        assert!(super::crates(&metadata, "linked").is_err());
    }

    #[test]
    fn the_document_is_the_same_whatever_the_order() {
        let made = Moment {
            seconds: 0,
            text: "1970-01-01T00:00:00Z".to_owned(),
        };
        let a = module("a", "v1");
        let b = Component::program("b", "1", "00".to_owned());
        let one = document("i", "1", &made, [a.clone(), b.clone(), a.clone()]);
        assert_eq!(one, document("i", "1", &made, [b, a]));
        let read: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!(read["components"].as_array().map(Vec::len), Some(2));
    }
}

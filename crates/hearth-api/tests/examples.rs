//! The manifests in `examples/` against the CRDs: nothing in them is unknown to the API, and they fit together.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hearth_api::{Sandbox, SandboxClaim, SandboxTemplate, SandboxWarmPool};
use serde_json::Value;

/// Each file's one object, by the file's name.
fn examples() -> BTreeMap<String, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let object = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                object,
            )
        })
        .collect()
}

fn example<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(examples()[name].clone()).unwrap()
}

/// What the API server does before it stores an object: a field that the schema does not have is dropped, silently
/// for most clients.
fn check_known(value: &Value, schema: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let schema = schema["properties"]
                    .get(name)
                    .or_else(|| schema.get("additionalProperties"));
                let path = format!("{path}.{name}");
                check_known(
                    value,
                    schema.unwrap_or_else(|| panic!("{path} is not in the API")),
                    &path,
                );
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(
                    fields.contains_key(required.as_str().unwrap()),
                    "{path} has no {required}"
                );
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_known(item, &schema["items"], &format!("{path}[]"))),
        _ => {
            let allowed = schema["enum"].as_array();
            assert!(
                allowed.is_none_or(|allowed| allowed.contains(value)),
                "{path} may not be {value}"
            );
        }
    }
}

#[test]
fn say_nothing_that_the_api_does_not_know() {
    let crds: BTreeMap<_, _> = hearth_api::crds()
        .into_iter()
        .map(|crd| {
            let api_version = format!("{}/{}", crd.spec.group, crd.spec.versions[0].name);
            let key = (api_version, crd.spec.names.kind.clone());
            (
                key,
                serde_json::to_value(&crd.spec.versions[0].schema).unwrap()["openAPIV3Schema"]
                    .take(),
            )
        })
        .collect();
    let examples = examples();
    assert!(!examples.is_empty());
    for (file, object) in examples {
        let key = (
            object["apiVersion"].as_str().unwrap().to_owned(),
            object["kind"].as_str().unwrap().to_owned(),
        );
        let schema = crds
            .get(&key)
            .unwrap_or_else(|| panic!("{file} is of no kind of ours: {key:?}"));
        check_known(
            &object["spec"],
            &schema["properties"]["spec"],
            &format!("{file}: spec"),
        );
        assert_eq!(object["metadata"]["namespace"], "default", "{file}");
    }
}

#[test]
fn refer_to_each_other() {
    let template: SandboxTemplate = example("template.yaml");
    let pool: SandboxWarmPool = example("pool.yaml");
    let claim: SandboxClaim = example("claim.yaml");
    assert_eq!(
        Some(pool.spec.sandbox_template_ref.name),
        template.metadata.name
    );
    assert_eq!(Some(claim.spec.warm_pool_ref.name), pool.metadata.name);
}

#[test]
fn freeze_and_suspend_change_nothing_but_the_mode() {
    for (file, mode) in [("freeze.yaml", "Frozen"), ("suspend.yaml", "Suspended")] {
        let mut object = examples()["sandbox.yaml"].clone();
        object["spec"]["operatingMode"] = mode.into();
        assert_eq!(examples()[file], object, "{file}");
    }
}

#[test]
fn run_the_same_in_a_pool_and_alone() {
    let template: SandboxTemplate = example("template.yaml");
    let sandbox: Sandbox = example("sandbox.yaml");
    assert_eq!(
        sandbox.spec.pod_template.spec,
        template.spec.pod_template.spec
    );
}

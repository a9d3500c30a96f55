//! The version before `v1beta1`, which releases of upstream up to v0.5 serve: a second version of the four CRDs, made from
//! the first by what is different. Nothing here reads or writes objects of it: `hearth-convert` does.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::constants::{CONTROLLER_NAMESPACE, CONVERT_PATH, WEBHOOK_SERVICE};

/// The CRDs of upstream's four kinds with both versions, as `deploy/v1alpha1/crds` has them. `v1beta1` is stored; the
/// controller's webhook converts.
///
/// # Panics
/// Never: a test makes them.
#[must_use]
pub fn crds_with_v1alpha1() -> Vec<CustomResourceDefinition> {
    let mut crds = crate::crds();
    crds.retain_mut(|crd| match differences(&crd.spec.names.kind) {
        None => false,
        Some(differences) => {
            add(crd, &differences);
            true
        }
    });
    crds
}

fn add(crd: &mut CustomResourceDefinition, differences: &Value) {
    let (group, kind) = (&crd.spec.group, &crd.spec.names.kind);
    let warning =
        format!("{group}/v1alpha1 {kind} is deprecated; use {group}/v1beta1 {kind} instead");
    let mut old: Value = same(&crd.spec.versions[0]);
    merge(&mut old, differences);
    let old = CustomResourceDefinitionVersion {
        name: "v1alpha1".to_owned(),
        storage: false,
        deprecated: Some(true),
        deprecation_warning: Some(warning),
        ..same(&old)
    };
    crd.spec.versions.push(old);
    let conversion: CustomResourceConversion = same(&json!({
        "strategy": "Webhook",
        "webhook": {
            "clientConfig": {"service": {
                "name": WEBHOOK_SERVICE, "namespace": CONTROLLER_NAMESPACE, "path": CONVERT_PATH, "port": 443,
            }},
            "conversionReviewVersions": ["v1", "v1beta1"],
        },
    }));
    crd.spec.conversion = Some(conversion);
}

/// What differs in `v1alpha1`, as a JSON merge patch of the version.
fn differences(kind: &str) -> Option<Value> {
    let differences = match kind {
        "Sandbox" => version(
            &json!({
                "x-kubernetes-validations": null,
                "properties": {
                    "operatingMode": null,
                    "idle": null,
                    "recreate": null,
                    "replicas": {
                        "description": "Whether the sandbox runs: 1, or 0.",
                        "type": "integer", "format": "int32", "minimum": 0, "maximum": 1, "default": 1,
                    },
                },
            }),
            &json!({
                "node": null,
                "nodeName": null,
                "replicas": {"description": "1 while it runs.", "type": "integer", "format": "int32"},
            }),
            &json!({
                "additionalPrinterColumns": null,
                "subresources": {"scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
            }),
        ),
        "SandboxClaim" => version(
            &json!({
                "required": ["sandboxTemplateRef"],
                "properties": {
                    "warmPoolRef": null,
                    "volumeClaimTemplates": null,
                    "sandboxTemplateRef": {
                        "description": "The template, in the claim's own namespace.",
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"description": "Name of the template.", "type": "string"}},
                    },
                    "warmpool": {
                        "description": "Name of the pool, or none, or default.",
                        "type": "string", "default": "default",
                    },
                },
            }),
            &json!({}),
            &json!({"additionalPrinterColumns": null}),
        ),
        "SandboxTemplate" => version(
            &json!({"properties": {"volumeClaimTemplatesPolicy": null, "idle": null, "recreate": null}}),
            &json!({}),
            &json!({}),
        ),
        "SandboxWarmPool" => version(
            &json!({
                "x-kubernetes-validations": null,
                "required": ["replicas", "sandboxTemplateRef"],
                "properties": {
                    "replicas": {"description": "How many unclaimed sandboxes to keep.", "default": null},
                    "readinessGracePeriodSeconds": null,
                    "warmth": null,
                    "updateStrategy": {"properties": {
                        "rollingUpdate": null,
                        "type": {"enum": ["Recreate", "OnReplenish"]},
                    }},
                },
            }),
            &json!({"observedGeneration": null}),
            &json!({}),
        ),
        _ => return None,
    };
    Some(differences)
}

/// A merge patch of a version, from those of its spec, of its status' properties, and of what is beside the schema.
fn version(spec: &Value, status: &Value, beside: &Value) -> Value {
    let mut properties = json!({"spec": spec});
    if *status != json!({}) {
        properties["status"] = json!({"properties": status});
    }
    let mut version = json!({"schema": {"openAPIV3Schema": {"properties": properties}}});
    if let (Some(version), Some(beside)) = (version.as_object_mut(), beside.as_object()) {
        version.extend(beside.clone());
    }
    version
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (name, patch) in patch {
        if patch.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), patch);
        }
    }
}

/// The same in another type.
fn same<T: DeserializeOwned>(value: &impl Serialize) -> T {
    serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .expect("parts of a CRD are JSON and back, and a test makes them all")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn crds() -> BTreeMap<String, Value> {
        crds_with_v1alpha1()
            .into_iter()
            .map(|crd| (crd.spec.names.kind.clone(), same(&crd)))
            .collect()
    }

    /// The properties of a section in both versions that are only in one of them, or differ.
    fn differing(crd: &Value, section: &str) -> (Vec<String>, Vec<String>) {
        let properties = |version: usize| {
            let schema = &crd["spec"]["versions"][version]["schema"]["openAPIV3Schema"];
            let properties = schema["properties"][section]["properties"].as_object();
            properties.cloned().unwrap_or_default()
        };
        let (new, old) = (properties(0), properties(1));
        let beyond = |these: &serde_json::Map<String, Value>,
                      those: &serde_json::Map<String, Value>| {
            let names = these
                .iter()
                .filter(|(name, schema)| those.get(*name) != Some(schema));
            names.map(|(name, _)| name.clone()).collect()
        };
        (beyond(&new, &old), beyond(&old, &new))
    }

    #[test]
    fn both_versions_are_served_and_one_is_stored() {
        let crds = crds();
        let kinds: Vec<_> = crds.keys().map(String::as_str).collect();
        assert_eq!(
            kinds,
            [
                "Sandbox",
                "SandboxClaim",
                "SandboxTemplate",
                "SandboxWarmPool"
            ]
        );
        for (kind, crd) in &crds {
            let [new, old] = crd["spec"]["versions"].as_array().unwrap().as_slice() else {
                panic!("two versions")
            };
            let flags =
                |version: &Value| ["name", "served", "storage"].map(|name| version[name].clone());
            assert_eq!(flags(new), [json!("v1beta1"), json!(true), json!(true)]);
            assert_eq!(flags(old), [json!("v1alpha1"), json!(true), json!(false)]);
            assert_eq!(new.get("deprecated"), None);
            assert_eq!(old["deprecated"], true);
            let group = crd["spec"]["group"].as_str().unwrap();
            assert_eq!(
                old["deprecationWarning"],
                format!(
                    "{group}/v1alpha1 {kind} is deprecated; use {group}/v1beta1 {kind} instead"
                )
            );
            assert_eq!(
                crd["spec"]["conversion"],
                json!({"strategy": "Webhook", "webhook": {
                    "clientConfig": {"service": {
                        "name": "agent-sandbox-webhook-service", "namespace": "agent-sandbox-system",
                        "path": "/convert", "port": 443,
                    }},
                    "conversionReviewVersions": ["v1", "v1beta1"],
                }})
            );
        }
    }

    #[test]
    fn the_stored_version_is_the_one_that_is_served_alone() {
        for crd in crate::crds() {
            let kind = &crd.spec.names.kind;
            if let Some(with_both) = crds().get(kind) {
                let alone: Value = same(&crd.spec.versions[0]);
                assert_eq!(with_both["spec"]["versions"][0], alone, "{kind}");
            }
        }
    }

    #[test]
    fn fields_differ_as_upstreams_do_and_hearths_own_are_not_there() {
        fn check(crd: &Value, section: &str, new: &[&str], old: &[&str]) {
            let (only_new, only_old) = differing(crd, section);
            assert_eq!(
                (only_new.as_slice(), only_old.as_slice()),
                (
                    new.iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>()
                        .as_slice(),
                    old.iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>()
                        .as_slice(),
                )
            );
        }
        let crds = crds();
        check(
            &crds["Sandbox"],
            "spec",
            &["idle", "operatingMode", "recreate"],
            &["replicas"],
        );
        check(
            &crds["Sandbox"],
            "status",
            &["node", "nodeName"],
            &["replicas"],
        );
        check(
            &crds["SandboxClaim"],
            "spec",
            &["volumeClaimTemplates", "warmPoolRef"],
            &["sandboxTemplateRef", "warmpool"],
        );
        check(&crds["SandboxClaim"], "status", &[], &[]);
        check(
            &crds["SandboxTemplate"],
            "spec",
            &["idle", "recreate", "volumeClaimTemplatesPolicy"],
            &[],
        );
        check(
            &crds["SandboxWarmPool"],
            "spec",
            &[
                "readinessGracePeriodSeconds",
                "replicas",
                "updateStrategy",
                "warmth",
            ],
            &["replicas", "updateStrategy"],
        );
        check(
            &crds["SandboxWarmPool"],
            "status",
            &["observedGeneration"],
            &[],
        );
    }

    #[test]
    fn what_the_old_version_asks_for_fills_in_and_shows_is_upstreams() {
        let crds = crds();
        let old = |kind: &str| crds[kind]["spec"]["versions"][1].clone();
        let spec =
            |kind: &str| old(kind)["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();

        let sandbox = spec("Sandbox");
        assert_eq!(sandbox.get("x-kubernetes-validations"), None);
        let replicas = &sandbox["properties"]["replicas"];
        let limits = ["minimum", "maximum"].map(|name| replicas[name].as_f64());
        assert_eq!(
            (limits, &replicas["default"]),
            ([Some(0.0), Some(1.0)], &json!(1))
        );
        let scale = json!({
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        });
        assert_eq!(
            old("Sandbox")["subresources"],
            json!({"status": {}, "scale": scale})
        );
        assert_eq!(old("Sandbox").get("additionalPrinterColumns"), None);

        let claim = spec("SandboxClaim");
        assert_eq!(claim["required"], json!(["sandboxTemplateRef"]));
        assert_eq!(claim["properties"]["warmpool"]["default"], "default");
        assert_eq!(old("SandboxClaim")["subresources"], json!({"status": {}}));
        assert_eq!(old("SandboxClaim").get("additionalPrinterColumns"), None);

        let pool = spec("SandboxWarmPool");
        assert_eq!(pool["required"], json!(["replicas", "sandboxTemplateRef"]));
        assert_eq!(pool["properties"]["replicas"].get("default"), None);
        let strategies = &pool["properties"]["updateStrategy"]["properties"];
        assert_eq!(
            strategies["type"]["enum"],
            json!(["Recreate", "OnReplenish"])
        );
        assert_eq!(strategies.get("rollingUpdate"), None);
        assert_eq!(old("SandboxWarmPool")["subresources"]["scale"], scale);
        let columns = old("SandboxWarmPool")["additionalPrinterColumns"].clone();
        assert_eq!(
            columns,
            crds["SandboxWarmPool"]["spec"]["versions"][0]["additionalPrinterColumns"]
        );
    }
}

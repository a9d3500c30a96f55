use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Sandbox, SandboxClaim, SandboxNode, SandboxTemplate, SandboxWarmPool};

/// The five CRDs, as `deploy/crds` has them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        Sandbox::crd(),
        SandboxClaim::crd(),
        SandboxTemplate::crd(),
        SandboxWarmPool::crd(),
        SandboxNode::crd(),
    ];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(root) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        {
            describe(root);
            settle(root);
        }
    }
    crds
}

/// The derive describes the root by itself and the spec by the text that belongs to the root.
fn describe(root: &mut JSONSchemaProps) {
    root.title = None;
    if let Some(spec) = root
        .properties
        .as_mut()
        .and_then(|properties| properties.get_mut("spec"))
    {
        root.description = spec.description.take();
    }
}

/// Takes out what the derive says of the Rust types and the API does not mean.
fn settle(schema: &mut JSONSchemaProps) {
    // An `Option` may be absent. `null` stands for absent in this API, the API server drops it.
    schema.nullable = None;
    // `#[serde(default)]` is how a reader takes an absent field. It is not to be written into the object; defaults
    // that are stand in `schema.rs`, and none of those is an empty struct or zero.
    schema
        .default
        .take_if(|default| default.0.is_object() || default.0 == 0);

    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        settle(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => settle(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(settle),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        settle(values);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;

    /// The CRDs by kind. Made once: some thousand schemas take a moment.
    static CRDS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        crds()
            .into_iter()
            .map(|crd| {
                (
                    crd.spec.names.kind.clone(),
                    serde_json::to_value(&crd).unwrap(),
                )
            })
            .collect()
    });

    fn crd(kind: &str) -> &'static Value {
        &CRDS[kind]
    }

    fn schema(kind: &str) -> &'static Value {
        &crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }

    /// All values of `keyword` in the schema, by path; PodSpec and its like aside when `own`.
    fn find(schema: &Value, keyword: &str, own: bool) -> BTreeMap<String, Value> {
        fn walk(
            schema: &Value,
            path: &str,
            keyword: &str,
            own: bool,
            found: &mut BTreeMap<String, Value>,
        ) {
            if let Some(value) = schema.get(keyword) {
                found.insert(path.to_owned(), value.clone());
            }
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let embedded = [
                    "podTemplate.spec",
                    "volumeClaimTemplates[].spec",
                    "networkPolicy.ingress",
                    "networkPolicy.egress",
                ];
                let path = format!("{path}.{name}");
                if !(own && embedded.iter().any(|embedded| path.ends_with(embedded))) {
                    walk(property, &path, keyword, own, found);
                }
            }
            for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
                if let Some(inner) = schema.get(key) {
                    walk(inner, &format!("{path}{mark}"), keyword, own, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(schema, "", keyword, own, &mut found);
        found
    }

    #[test]
    fn names_and_subresources_are_upstreams() {
        fn check(kind: &str, group: &str, plural: &str, short: &str, subresources: &Value) {
            let crd = crd(kind);
            let spec = &crd["spec"];
            assert_eq!(
                crd["metadata"],
                json!({"name": format!("{plural}.{group}")})
            );
            assert_eq!(
                (&spec["group"], &spec["scope"]),
                (&json!(group), &json!("Namespaced"))
            );
            let singular = kind.to_lowercase();
            let names = json!({"kind": kind, "plural": plural, "singular": singular, "shortNames": [short]});
            assert_eq!(spec["names"], names);
            let [version] = spec["versions"].as_array().unwrap().as_slice() else {
                panic!("one version")
            };
            assert_eq!(version["name"], "v1beta1");
            assert_eq!(
                (&version["served"], &version["storage"]),
                (&json!(true), &json!(true))
            );
            assert_eq!(version["subresources"], *subresources);
        }
        let extensions = "extensions.agents.x-k8s.io";
        let status = json!({"status": {}});
        let scale = json!({"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector"
        }});
        check(
            "Sandbox",
            "agents.x-k8s.io",
            "sandboxes",
            "sandbox",
            &status,
        );
        check(
            "SandboxClaim",
            extensions,
            "sandboxclaims",
            "sandboxclaim",
            &status,
        );
        check(
            "SandboxTemplate",
            extensions,
            "sandboxtemplates",
            "sandboxtemplate",
            &Value::Null,
        );
        check(
            "SandboxWarmPool",
            extensions,
            "sandboxwarmpools",
            "swp",
            &scale,
        );
    }

    #[test]
    fn columns_are_upstreams() {
        fn check(kind: &str, expect: &[&str]) {
            let crd = crd(kind);
            let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
                .as_array()
                .cloned();
            let columns: Vec<_> = columns
                .into_iter()
                .flatten()
                .map(|column| {
                    let field = |name: &str| column[name].as_str().unwrap().to_owned();
                    format!("{} {} {}", field("name"), field("type"), field("jsonPath"))
                })
                .collect();
            assert_eq!(columns, expect, "{kind}");
        }
        let ready = "Ready string .status.conditions[?(@.type=='Ready')].status";
        let reason = "Reason string .status.conditions[?(@.type=='Ready')].reason";
        let age = "Age date .metadata.creationTimestamp";
        check("Sandbox", &[ready, reason, age]);
        check(
            "SandboxClaim",
            &[ready, "Sandbox string .status.sandbox.name", reason, age],
        );
        check("SandboxTemplate", &[]);
        check(
            "SandboxWarmPool",
            &[
                "Ready integer .status.readyReplicas",
                "Desired integer .spec.replicas",
                age,
            ],
        );
    }

    #[test]
    fn nothing_is_defaulted_but_what_upstream_defaults() {
        fn check(kind: &str, expect: &[(&str, Value)]) {
            let expect = expect
                .iter()
                .map(|(path, value)| ((*path).to_owned(), value.clone()));
            assert_eq!(
                find(schema(kind), "default", true),
                expect.collect(),
                "{kind}"
            );
        }
        check(
            "Sandbox",
            &[
                (".spec.operatingMode", json!("Running")),
                (".spec.shutdownPolicy", json!("Retain")),
            ],
        );
        check(
            "SandboxClaim",
            &[(".spec.lifecycle.shutdownPolicy", json!("Retain"))],
        );
        check(
            "SandboxTemplate",
            &[
                (".spec.networkPolicyManagement", json!("Managed")),
                (".spec.envVarsInjectionPolicy", json!("Disallowed")),
                (".spec.volumeClaimTemplatesPolicy", json!("Disallowed")),
            ],
        );
        check(
            "SandboxWarmPool",
            &[
                (".spec.replicas", json!(1)),
                (".spec.updateStrategy.type", json!("OnReplenish")),
            ],
        );
        check("SandboxNode", &[]);
    }

    #[test]
    fn what_is_required_is_upstreams() {
        fn check(kind: &str, expect: &[(&str, Value)]) {
            let expect = expect
                .iter()
                .map(|(path, value)| ((*path).to_owned(), value.clone()));
            let mut found = find(schema(kind), "required", true);
            found.retain(|path, _| !path.contains("conditions"));
            assert_eq!(found, expect.collect(), "{kind}");
        }
        let spec = ("", json!(["spec"]));
        let pod_template = (".spec.podTemplate", json!(["spec"]));
        let volumes = (".spec.volumeClaimTemplates[]", json!(["spec"]));
        check(
            "Sandbox",
            &[
                spec.clone(),
                (".spec", json!(["podTemplate"])),
                pod_template.clone(),
                volumes.clone(),
            ],
        );
        check(
            "SandboxTemplate",
            &[
                spec.clone(),
                (".spec", json!(["podTemplate"])),
                pod_template,
                volumes.clone(),
            ],
        );
        check(
            "SandboxClaim",
            &[
                spec.clone(),
                (".spec", json!(["warmPoolRef"])),
                (".spec.warmPoolRef", json!(["name"])),
                (".spec.env[]", json!(["name", "value"])),
                volumes,
            ],
        );
        check(
            "SandboxWarmPool",
            &[
                spec,
                (".spec", json!(["sandboxTemplateRef"])),
                (".spec.sandboxTemplateRef", json!(["name"])),
            ],
        );
        let pod_spec = &schema("Sandbox")["properties"]["spec"]["properties"]["podTemplate"]["properties"]
            ["spec"];
        assert_eq!(pod_spec["required"], json!(["containers"]));
    }

    #[test]
    fn rules_keep_volumes_immutable_and_limits_in_use() {
        let mut rules = BTreeMap::new();
        for kind in CRDS.keys() {
            let of_kind = find(schema(kind), "x-kubernetes-validations", false);
            rules.extend(
                of_kind
                    .into_iter()
                    .map(|(path, rule)| (format!("{kind}{path}"), rule)),
            );
        }
        let rule = "has(self.volumeClaimTemplates) == has(oldSelf.volumeClaimTemplates) && \
                    (!has(self.volumeClaimTemplates) || self.volumeClaimTemplates == oldSelf.volumeClaimTemplates)";
        let immutable = json!([{"rule": rule, "message": "volumeClaimTemplates is immutable"}]);
        let rule = "!has(self.updateStrategy) || !has(self.updateStrategy.rollingUpdate) || \
                    self.updateStrategy.type == 'RollingUpdate'";
        let message = "updateStrategy.rollingUpdate is only for the type RollingUpdate";
        let in_use = json!([{"rule": rule, "message": message}]);
        let expect = [
            ("Sandbox.spec".to_owned(), immutable),
            ("SandboxWarmPool.spec".to_owned(), in_use),
        ];
        assert_eq!(rules, BTreeMap::from(expect));
    }

    #[test]
    fn unknown_fields_and_nulls_are_not_kept_anywhere() {
        for kind in CRDS.keys() {
            for keyword in [
                "x-kubernetes-preserve-unknown-fields",
                "x-kubernetes-embedded-resource",
                "nullable",
            ] {
                assert_eq!(
                    find(schema(kind), keyword, false),
                    BTreeMap::new(),
                    "{kind}"
                );
            }
        }
    }

    #[test]
    fn pod_specs_merge_like_those_of_pods() {
        let lists = find(schema("Sandbox"), "x-kubernetes-list-map-keys", false);
        let keys = |path: &str| {
            lists
                .get(&format!(".spec.podTemplate.spec.{path}"))
                .cloned()
                .unwrap_or_default()
        };
        assert_eq!(keys("containers"), json!(["name"]));
        assert_eq!(keys("initContainers"), json!(["name"]));
        assert_eq!(keys("volumes"), json!(["name"]));
        assert_eq!(
            keys("containers[].ports"),
            json!(["containerPort", "protocol"])
        );
        assert_eq!(keys("containers[].env"), json!(["name"]));
        assert_eq!(keys("containers[].volumeMounts"), json!(["mountPath"]));

        let defaults = find(schema("Sandbox"), "default", false);
        assert_eq!(
            defaults[".spec.podTemplate.spec.containers[].ports[].protocol"],
            "TCP"
        );

        let atomic = find(schema("SandboxClaim"), "x-kubernetes-list-type", true);
        let atomic: Vec<_> = atomic
            .into_iter()
            .filter(|(_, kind)| kind == "atomic")
            .map(|(path, _)| path)
            .collect();
        assert_eq!(atomic, [".spec.env", ".spec.volumeClaimTemplates"]);
    }

    /// What an API server asks of a structural schema and would otherwise refuse at `kubectl apply`.
    #[test]
    fn schemas_are_structural() {
        fn check(schema: &Value, path: &str) {
            let int_or_string = schema.get("x-kubernetes-int-or-string").is_some();
            assert_eq!(
                schema.get("type").is_some(),
                !int_or_string,
                "{path} has a type or is int-or-string"
            );
            for keyword in ["$ref", "allOf", "anyOf", "oneOf", "not"] {
                assert!(schema.get(keyword).is_none(), "{path} has no {keyword}");
            }
            let (properties, items) = (schema.get("properties"), schema.get("items"));
            assert!(
                properties.is_none() || schema.get("additionalProperties").is_none(),
                "{path} has one of them"
            );
            assert_eq!(
                schema["type"] == "array",
                items.is_some(),
                "{path} has items exactly if it is a list"
            );
            for key in schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let item = items.unwrap();
                let required = item["required"]
                    .as_array()
                    .is_some_and(|required| required.contains(key));
                let defaulted = item["properties"][key.as_str().unwrap()]
                    .get("default")
                    .is_some();
                assert!(
                    required || defaulted,
                    "{path}: key {key} is required or has a default"
                );
            }
            for (name, property) in properties.and_then(Value::as_object).into_iter().flatten() {
                check(property, &format!("{path}.{name}"));
            }
            if let Some(items) = items {
                check(items, &format!("{path}[]"));
            }
            if let Some(values) = schema.get("additionalProperties") {
                check(values, &format!("{path}{{}}"));
            }
        }
        for kind in CRDS.keys() {
            check(schema(kind), kind);
        }
    }
}

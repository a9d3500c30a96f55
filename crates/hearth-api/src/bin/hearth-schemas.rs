//! Takes the schemas that the CRDs embed from an API server's own OpenAPI documents:
//!
//! ```text
//! kubectl get --raw /openapi/v3/api/v1 > core.json
//! kubectl get --raw /openapi/v3/apis/networking.k8s.io/v1 > networking.json
//! cargo run -p hearth-api --bin hearth-schemas -- core.json networking.json
//! cargo run -p hearth-api --bin hearth-crdgen
//! ```
//!
//! The server's documents are the only complete source: generated client libraries lack list types, list map keys and
//! defaults, without which server-side apply replaces whole lists and `protocol: TCP` is never filled in. What is kept
//! is what a CRD may say ("structural"): `$ref`s are inlined, and dropped are
//!
//! * descriptions: they are nine tenths of the bytes, and a CRD with them does not fit `kubectl apply`;
//! * enums: the API accepts whatever a newer cluster may accept, and the node names what it cannot do;
//! * defaults of required fields and of whole structs: Go's zero values, not decisions. With `name: ""` as a default
//!   a container without a name would be accepted.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// File name, document and schema of what the CRDs embed.
const WANTED: [(&str, Document, &str); 4] = [
    (
        "pod-spec.json",
        Document::Core,
        "io.k8s.api.core.v1.PodSpec",
    ),
    (
        "persistent-volume-claim-spec.json",
        Document::Core,
        "io.k8s.api.core.v1.PersistentVolumeClaimSpec",
    ),
    (
        "network-policy-ingress-rule.json",
        Document::Networking,
        "io.k8s.api.networking.v1.NetworkPolicyIngressRule",
    ),
    (
        "network-policy-egress-rule.json",
        Document::Networking,
        "io.k8s.api.networking.v1.NetworkPolicyEgressRule",
    ),
];

#[derive(Clone, Copy)]
enum Document {
    Core,
    Networking,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [core, networking] = arguments.as_slice() else {
        bail!("usage: hearth-schemas CORE.json NETWORKING.json");
    };
    let core = Definitions::read(Path::new(core))?;
    let networking = Definitions::read(Path::new(networking))?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for (file, document, name) in WANTED {
        let definitions = match document {
            Document::Core => &core,
            Document::Networking => &networking,
        };
        let schema = definitions.structural(name)?;
        let path = directory.join(file);
        fs::write(&path, format!("{schema}\n"))
            .with_context(|| format!("writing {}", path.display()))?;
        println!("{file}: {} bytes", schema.to_string().len());
    }
    Ok(())
}

/// `components.schemas` of one OpenAPI document.
struct Definitions(Map<String, Value>);

impl Definitions {
    fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut document: Value = serde_json::from_slice(&fs::read(path)?)?;
            match document.pointer_mut("/components/schemas").map(Value::take) {
                Some(Value::Object(schemas)) => Ok(Self(schemas)),
                _ => bail!("it has no components.schemas"),
            }
        };
        read().with_context(|| format!("reading {} as an OpenAPI v3 document", path.display()))
    }

    /// The named schema with all references inlined, as a CRD may embed it.
    fn structural(&self, name: &str) -> Result<Value> {
        let convert = || match short_name(name) {
            "Quantity" => Ok(quantity()),
            "IntOrString" => Ok(int_or_string()),
            "ObjectMeta" => Ok(embedded_object_meta()),
            _ => self.convert(self.0.get(name).context("it is not in the document")?),
        };
        convert().with_context(|| format!("schema {name}"))
    }

    fn convert(&self, schema: &Value) -> Result<Value> {
        let schema = schema.as_object().context("it is not an object")?;
        let mut converted = match reference(schema) {
            Some(name) => self
                .structural(name)?
                .as_object()
                .cloned()
                .unwrap_or_default(),
            None => Map::new(),
        };
        for (key, value) in schema {
            let value = match key.as_str() {
                "$ref" | "allOf" if !converted.is_empty() => continue,
                "description"
                | "default"
                | "enum"
                | "x-kubernetes-patch-strategy"
                | "x-kubernetes-patch-merge-key"
                | "x-kubernetes-unions" => continue,
                "type"
                | "format"
                | "required"
                | "x-kubernetes-list-type"
                | "x-kubernetes-list-map-keys"
                | "x-kubernetes-map-type" => value.clone(),
                "items" | "additionalProperties" => self.convert(value).context(key.clone())?,
                "properties" => self.properties(schema)?,
                other => bail!("{other:?} is new: decide what becomes of it"),
            };
            converted.insert(key.clone(), value);
        }
        ensure!(
            converted.contains_key("type") || converted.contains_key("x-kubernetes-int-or-string"),
            "it has no type"
        );
        Ok(converted.into())
    }

    fn properties(&self, schema: &Map<String, Value>) -> Result<Value> {
        let required: Vec<_> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        let properties = schema
            .get("properties")
            .and_then(Value::as_object)
            .context("properties")?;
        let convert = |(name, property): (&String, &Value)| {
            let mut converted = self
                .convert(property)
                .with_context(|| format!("property {name:?}"))?;
            match property.get("default") {
                Some(default) if !default.is_object() && !required.contains(&&json!(name)) => {
                    converted["default"] = default.clone();
                }
                _ => {}
            }
            Ok((name.clone(), converted))
        };
        Ok(properties
            .iter()
            .map(convert)
            .collect::<Result<Map<_, _>>>()?
            .into())
    }
}

/// The name that a schema refers to, directly or wrapped to carry a description or default beside it.
fn reference(schema: &Map<String, Value>) -> Option<&str> {
    schema
        .get("$ref")
        .or_else(|| match schema.get("allOf")?.as_array()?.as_slice() {
            [only] => only.get("$ref"),
            _ => None,
        })?
        .as_str()?
        .strip_prefix("#/components/schemas/")
}

fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn int_or_string() -> Value {
    json!({"x-kubernetes-int-or-string": true})
}

/// A signed decimal number with a binary or decimal suffix or an exponent.
fn quantity() -> Value {
    let mut schema = int_or_string();
    schema["pattern"] = json!(
        r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
    );
    schema
}

/// What a template may say of an object's metadata; the rest is the API server's to write.
fn embedded_object_meta() -> Value {
    let string_map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "properties": {
            "annotations": string_map,
            "finalizers": {"type": "array", "items": {"type": "string"}},
            "labels": string_map,
            "name": {"type": "string"},
            "namespace": {"type": "string"}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &Value, expect: &Value) {
        let definitions = Definitions(Map::from_iter([
            ("a.b.Thing".to_owned(), schema.clone()),
            (
                "a.b.Part".to_owned(),
                json!({"type": "object", "description": "d", "x-kubernetes-map-type": "atomic"}),
            ),
        ]));
        assert_eq!(definitions.structural("a.b.Thing").unwrap(), *expect);
    }

    #[test]
    fn references_are_inlined_and_prose_is_dropped() {
        check(
            &json!({"type": "object", "description": "d", "properties": {
                "plain": {"$ref": "#/components/schemas/a.b.Part"},
                "wrapped": {"allOf": [{"$ref": "#/components/schemas/a.b.Part"}], "description": "d", "default": {}},
                "changed": {"allOf": [{"$ref": "#/components/schemas/a.b.Part"}], "x-kubernetes-map-type": "granular"},
                "list": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/a.b.Part"}]},
                         "x-kubernetes-list-type": "atomic", "x-kubernetes-patch-strategy": "merge"},
            }}),
            &json!({"type": "object", "properties": {
                "plain": {"type": "object", "x-kubernetes-map-type": "atomic"},
                "wrapped": {"type": "object", "x-kubernetes-map-type": "atomic"},
                "changed": {"type": "object", "x-kubernetes-map-type": "granular"},
                "list": {"type": "array", "items": {"type": "object", "x-kubernetes-map-type": "atomic"},
                         "x-kubernetes-list-type": "atomic"},
            }}),
        );
    }

    #[test]
    fn only_defaults_that_decide_something_are_kept() {
        check(
            &json!({"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "default": ""},
                "reference": {"type": "string", "default": ""},
                "protocol": {"type": "string", "default": "TCP", "enum": ["SCTP", "TCP", "UDP"]},
                "groups": {"type": "array", "items": {"type": "integer", "format": "int64", "default": 0}},
            }}),
            &json!({"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "reference": {"type": "string", "default": ""},
                "protocol": {"type": "string", "default": "TCP"},
                "groups": {"type": "array", "items": {"type": "integer", "format": "int64"}},
            }}),
        );
    }

    #[test]
    fn a_keyword_that_was_never_seen_is_an_error_that_names_its_place() {
        let definitions = Definitions(Map::from_iter([(
            "a.b.Thing".to_owned(),
            json!({"type": "object", "properties": {"size": {"type": "integer", "exclusiveMaximum": true}}}),
        )]));
        let error = format!("{:#}", definitions.structural("a.b.Thing").unwrap_err());
        assert_eq!(
            error,
            "schema a.b.Thing: property \"size\": \"exclusiveMaximum\" is new: decide what becomes of it"
        );
    }
}

//! An object under conversion.

use serde_json::{Map, Value};

use crate::{ConversionError, Kind};

/// Most bytes of all annotations of an object, their keys included. The API server refuses more at the next write.
pub(crate) const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// One that the API server may have sent: an object of a kind with two versions, whose parts are objects.
#[derive(Debug)]
pub(crate) struct Object {
    kind: Kind,
    fields: Map<String, Value>,
}

impl Object {
    /// # Errors
    /// When it is of no kind that has two versions, or a part of it is no object.
    pub(crate) fn new(object: Value) -> Result<Self, ConversionError> {
        let name = name(&object);
        let error = |field: &str, value: &Value, problem: &str| {
            Err(ConversionError::new(name.clone(), field, value, problem))
        };
        let Some(kind) = object["kind"].as_str().and_then(Kind::named) else {
            return error(
                "kind",
                &object["kind"],
                "it is none that has more than one version",
            );
        };
        for pointer in ["/metadata", "/metadata/annotations", "/spec", "/status"] {
            if let Some(part) = object.pointer(pointer)
                && !part.is_object()
            {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                return error(&field, part, "it must be an object");
            }
        }
        match object {
            Value::Object(fields) => Ok(Self { kind, fields }),
            // It has a kind, so it is one.
            other => error("kind", &other, "it must be an object"),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.fields)
    }

    pub(crate) fn api_version(&self) -> &str {
        self.fields
            .get("apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Its version, when its group is that of its kind.
    pub(crate) fn version(&self) -> &str {
        match self.api_version().split_once('/') {
            Some((group, version)) if group == self.kind.group() => version,
            _ => "",
        }
    }

    pub(crate) fn set_api_version(&mut self, api_version: &str) {
        self.fields
            .insert("apiVersion".to_owned(), api_version.into());
    }

    /// An error about one of its fields.
    pub(crate) fn error(&self, field: &str, value: &Value, problem: &str) -> ConversionError {
        // A copy, for the sake of one way to say a name. Only what fails gets here.
        let object = Value::Object(self.fields.clone());
        ConversionError::new(name(&object), field, value, problem)
    }

    /// `spec` or `status`, if it is there.
    pub(crate) fn section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.fields.get(name).and_then(Value::as_object)
    }

    /// `spec` or `status`, if it is there.
    pub(crate) fn section_mut(&mut self, name: &str) -> Option<&mut Map<String, Value>> {
        self.fields.get_mut(name).and_then(Value::as_object_mut)
    }

    /// A field of `spec`.
    pub(crate) fn spec(&self, field: &str) -> Option<&Value> {
        self.section("spec")?.get(field)
    }

    /// Takes a field out of `spec`.
    pub(crate) fn take_spec(&mut self, field: &str) -> Option<Value> {
        self.section_mut("spec")?.remove(field)
    }

    /// Sets a field of `spec`.
    pub(crate) fn set_spec(&mut self, field: &str, value: impl Into<Value>) {
        let spec = self
            .fields
            .entry("spec")
            .or_insert_with(|| Map::new().into());
        if let Some(spec) = spec.as_object_mut() {
            spec.insert(field.to_owned(), value.into());
        }
    }

    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    fn annotations_mut(&mut self) -> Option<&mut Map<String, Value>> {
        self.section_mut("metadata")?
            .get_mut("annotations")?
            .as_object_mut()
    }

    /// Takes an annotation off; no map is left behind that is empty by it.
    pub(crate) fn take_annotation(&mut self, key: &str) -> Option<String> {
        let annotations = self.annotations_mut()?;
        let taken = annotations.remove(key)?;
        if annotations.is_empty() {
            self.section_mut("metadata")?.remove("annotations");
        }
        match taken {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn annotate(&mut self, key: &str, text: String) {
        let metadata = self
            .fields
            .entry("metadata")
            .or_insert_with(|| Map::new().into());
        let annotations = metadata
            .as_object_mut()
            .map(|metadata| metadata.entry("annotations"))
            .map(|entry| entry.or_insert_with(|| Map::new().into()));
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.insert(key.to_owned(), text.into());
        }
    }

    /// Adds an annotation, unless with it there is more in them than an object may have.
    pub(crate) fn annotate_if_it_fits(&mut self, key: &str, text: String) {
        let annotations = self
            .section("metadata")
            .and_then(|metadata| metadata.get("annotations"))
            .and_then(Value::as_object);
        let size = |(key, text): (&String, &Value)| key.len() + text.as_str().map_or(0, str::len);
        let bytes: usize = annotations.into_iter().flatten().map(size).sum();
        if bytes + key.len() + text.len() <= ANNOTATIONS_LIMIT {
            self.annotate(key, text);
        }
    }

    /// The object as JSON, without what it has of an earlier conversion, which is taken off, and without `managedFields`,
    /// which the API server keeps by itself and which would be most of it.
    pub(crate) fn state(&mut self) -> Option<String> {
        self.take_annotation(self.kind.state_annotation());
        let managed = self
            .section_mut("metadata")
            .and_then(|metadata| metadata.remove_entry("managedFields"));
        // Not a copy: parsed, an object may be large.
        let text = serde_json::to_string(&self.fields).ok();
        if let Some(metadata) = self.section_mut("metadata") {
            metadata.extend(managed);
        }
        text
    }
}

/// Kind, namespace and name for people.
fn name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("object");
    // One that is being created may have a prefix only.
    let name = text("/metadata/name")
        .or_else(|| text("/metadata/generateName"))
        .unwrap_or_default();
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A `core/v1` PodSpec kept as the JSON text that the API server sent.
///
/// Cloning is a reference count. Equality is by text first and by parsed value when the texts differ, because the
/// API server may reorder keys but never changes the meaning.
#[derive(Clone)]
pub struct PodSpecJson(Arc<RawValue>);

impl PodSpecJson {
    /// The JSON text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Serialises any PodSpec-shaped value.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON, for example a map with non-string keys.
    pub fn from_value<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(|raw| Self(raw.into()))
    }

    /// Parses the text into `T`: `serde_json::Value` to edit it, `k8s_openapi`'s `PodSpec` to run it.
    ///
    /// # Errors
    /// When the text does not have the shape of `T`.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl Default for PodSpecJson {
    /// The empty object, which is what an absent spec means.
    fn default() -> Self {
        Self(Arc::from(
            RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        ))
    }
}

impl fmt::Debug for PodSpecJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl PartialEq for PodSpecJson {
    fn eq(&self, other: &Self) -> bool {
        if self.get() == other.get() {
            return true;
        }
        match (
            self.parse::<serde_json::Value>(),
            other.parse::<serde_json::Value>(),
        ) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
    }
}

impl Serialize for PodSpecJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PodSpecJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_ignores_key_order_and_white_space() {
        let a: PodSpecJson = serde_json::from_str(r#"{"a":1,"b":[1,2]}"#).unwrap();
        let b: PodSpecJson = serde_json::from_str("{ \"b\": [1, 2], \"a\": 1 }").unwrap();
        let c: PodSpecJson = serde_json::from_str(r#"{"a":1,"b":[2,1]}"#).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn survives_a_detour_through_value() {
        let text = r#"{"containers":[{"name":"a"}]}"#;
        let spec: PodSpecJson =
            serde_json::from_value(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(spec.get(), text);
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }
}

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of a watch that may not have the shape of `K`.
///
/// A watch that fails on one object fails again after each restart and so stalls for everybody. With `Guarded<K>`
/// the stream goes on and the reader decides what to do with the odd one. (kube's `DeserializeGuard` does the same
/// through `serde_json::Value`; this one keeps the text, so that raw fields of `K` are not parsed at all.)
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, InvalidObject>);

/// The name and the fault of an object that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidObject {
    /// Its metadata, as far as it could be read.
    pub metadata: ObjectMeta,
    /// What is wrong with it.
    pub error: String,
}

#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<K>(raw.get()) {
            Ok(object) => Ok(Self(Ok(object))),
            Err(error) => {
                let MetadataOnly { metadata } =
                    serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
                Ok(Self(Err(InvalidObject {
                    metadata,
                    error: error.to_string(),
                })))
            }
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(invalid) => &invalid.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(invalid) => &mut invalid.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SandboxClaim;

    #[test]
    fn an_object_of_the_wrong_shape_keeps_its_name() {
        let text = r#"{"metadata":{"name":"a","namespace":"n"},"spec":{"warmPoolRef":7}}"#;
        let guarded: Guarded<SandboxClaim> = serde_json::from_str(text).unwrap();
        assert_eq!(guarded.meta().name.as_deref(), Some("a"));
        let invalid = guarded.0.unwrap_err();
        assert!(
            invalid.error.contains("warmPoolRef") || invalid.error.contains("integer"),
            "{}",
            invalid.error
        );
    }

    #[test]
    fn a_good_object_passes() {
        let text = r#"{"metadata":{"name":"a"},"spec":{"warmPoolRef":{"name":"p"}}}"#;
        let guarded: Guarded<SandboxClaim> = serde_json::from_str(text).unwrap();
        assert_eq!(guarded.0.unwrap().spec.warm_pool_ref.name, "p");
    }
}

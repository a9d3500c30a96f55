//! In which versions the API server has our objects stored.
//!
//! A version that `status.storedVersions` of a CustomResourceDefinition names cannot be dropped from it. It is named from
//! the first object that was stored in it until somebody has written all objects anew and says so.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// The version that our objects are to be stored in.
pub const VERSION: &str = "v1beta1";

/// The definitions of the kinds that both controllers have.
pub const DEFINITIONS: [&str; 4] = [
    "sandboxes.agents.x-k8s.io",
    "sandboxclaims.extensions.agents.x-k8s.io",
    "sandboxtemplates.extensions.agents.x-k8s.io",
    "sandboxwarmpools.extensions.agents.x-k8s.io",
];

/// What is to be done about the objects of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoragePlan {
    /// Nothing: none is stored in another version.
    Current,
    /// All are to be written anew, and then these versions are no longer stored.
    Rewrite {
        /// What goes.
        gone: Vec<String>,
    },
    /// The API server could not read them, or would read them wrongly, or write them in the wrong version.
    Blocked(String),
}

/// What is to be done about the objects of a definition.
#[must_use]
pub fn plan(definition: &CustomResourceDefinition) -> StoragePlan {
    let spec = &definition.spec;
    let Some(storage) = spec.versions.iter().find(|version| version.storage) else {
        return StoragePlan::Blocked("no version is its storage version".to_owned());
    };
    if storage.name != VERSION {
        return StoragePlan::Blocked(format!(
            "objects are stored in {}; apply a definition with {VERSION} as its storage version first",
            storage.name
        ));
    }
    if !storage.served {
        return StoragePlan::Blocked(format!(
            "{VERSION} is not served; apply a definition that serves it first"
        ));
    }
    let status = definition.status.as_ref();
    let stored = status.and_then(|status| status.stored_versions.as_deref());
    let gone = stored.unwrap_or_default().iter();
    let gone: Vec<String> = gone.filter(|name| *name != VERSION).cloned().collect();
    if gone.is_empty() {
        return StoragePlan::Current;
    }
    let is_known = |name: &String| spec.versions.iter().any(|version| version.name == *name);
    if let Some(unknown) = gone.iter().find(|name| !is_known(name)) {
        return StoragePlan::Blocked(format!(
            "objects may be stored in {unknown}, which the definition does not have; apply one that has both versions"
        ));
    }
    let conversion = spec.conversion.as_ref();
    if conversion.is_none_or(|conversion| conversion.strategy != "Webhook") {
        return StoragePlan::Blocked(format!(
            "objects may be stored in {} and would be read as {VERSION} without being converted, so that what was scaled \
             to 0 would run; turn on the conversion webhook first",
            gone.join(", ")
        ));
    }
    StoragePlan::Rewrite { gone }
}

/// The patch of the definition's status once all objects are written anew. It fails when the definition has changed since.
#[must_use]
pub fn finished(definition: &CustomResourceDefinition) -> Value {
    json!({
        "metadata": {"resourceVersion": definition.metadata.resource_version},
        "status": {"storedVersions": [VERSION]},
    })
}

/// The merge patch that has an object written as it is. It fails when somebody else has written the object since, and then
/// it is stored in the new version already.
#[must_use]
pub fn rewrite(uid: Option<&str>, resource_version: Option<&str>) -> Value {
    json!({"metadata": {"uid": uid, "resourceVersion": resource_version}})
}

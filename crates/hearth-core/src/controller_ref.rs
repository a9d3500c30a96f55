//! Who controls an object.

use hearth_api::constants::EXTENSIONS_GROUP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

/// The one owner reference of an object that says `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerRef {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name, in the object's own namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl ControllerRef {
    /// Of an object with this metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let mut owners = metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        Some(Self {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }
}

/// Whether an owner of this `apiVersion` is a claim, a pool or a template: of the group of the extensions.
pub(crate) fn is_extension(api_version: &str) -> bool {
    let group = api_version.split_once('/').map(|(group, _)| group);
    group == Some(EXTENSIONS_GROUP)
}

/// The owner reference by which an object of these controls what is made for it.
pub(crate) fn reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn of_several_owners_the_controller_counts() {
        let owner = |name: &str, controller| OwnerReference {
            name: name.into(),
            controller,
            ..OwnerReference::default()
        };
        for (owners, expected) in [
            (vec![], None),
            (vec![owner("a", None), owner("b", Some(false))], None),
            (vec![owner("a", None), owner("b", Some(true))], Some("b")),
        ] {
            let metadata = ObjectMeta {
                owner_references: Some(owners),
                ..ObjectMeta::default()
            };
            let controller = ControllerRef::of(&metadata);
            assert_eq!(controller.as_ref().map(|c| c.name.as_str()), expected);
        }
    }
}

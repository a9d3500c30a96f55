//! Who controls an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

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

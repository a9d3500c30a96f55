//! Watches of namespaces and LimitRanges: the index learns what they say, and the supplies that nodes are to learn it.

use std::collections::HashSet;

use hearth_core::effects::{ConfigKey, Now};
use hearth_core::ids::Key;
use hearth_core::index::Index;
use hearth_core::limits::LimitRange as Limits;
use hearth_core::podspec::{ConfigKind, ConfigRef};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::{LimitRange, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;

use crate::supplies::Supplies;
use crate::watches::{Change, key_of};

/// What nodes know it by.
fn config(namespace: &str, kind: ConfigKind) -> ConfigKey {
    ConfigKey {
        namespace: namespace.to_owned(),
        config: ConfigRef::new(kind, ""),
    }
}

/// A change of a namespace. `supplies` are a leader's.
pub(crate) fn namespace(
    index: &mut Index,
    supplies: Option<&Supplies>,
    change: Change<PartialObjectMeta<Namespace>>,
    now: Now,
) {
    let tell = |name: &str, version: Option<&str>| {
        if let Some(supplies) = supplies {
            supplies.changed(&config(name, ConfigKind::Namespace), version);
        }
    };
    match change {
        Change::Apply(object) => {
            let ObjectMeta {
                name,
                labels,
                resource_version,
                ..
            } = object.metadata;
            let name = name.unwrap_or_default();
            index.apply_namespace(&name, &labels.unwrap_or_default(), now);
            tell(&name, resource_version.as_deref());
        }
        Change::Delete { key, .. } => {
            index.delete_namespace(&key.name, now);
            tell(&key.name, None);
        }
        Change::Retain(present) => {
            let names: HashSet<_> = present.into_iter().map(|Key { name, .. }| name).collect();
            index.retain_namespaces(&names, now);
            if let Some(supplies) = supplies {
                supplies.listed(ConfigKind::Namespace, &names);
            }
        }
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of a LimitRange: nodes are told all of a namespace together.
pub(crate) fn limit_range(
    index: &mut Index,
    supplies: Option<&Supplies>,
    change: Change<LimitRange>,
    now: Now,
) {
    let tell = |namespace: &str, version: Option<&str>| {
        if let Some(supplies) = supplies {
            supplies.changed(&config(namespace, ConfigKind::LimitRanges), version);
        }
    };
    match change {
        Change::Apply(object) => {
            let key = key_of(&object.metadata);
            match read(&key, &object) {
                Ok(range) => index.apply_limit_range(&key, range, now),
                // Nodes make nothing by it: they say so.
                Err(error) => {
                    tracing::warn!(object = %key, error = %ErrorChain(&error), "a LimitRange cannot be read");
                }
            }
            tell(&key.namespace, object.metadata.resource_version.as_deref());
        }
        Change::Delete { key, .. } => {
            index.delete_limit_range(&key, now);
            tell(&key.namespace, None);
        }
        Change::Retain(present) => {
            index.retain_limit_ranges(&present, now);
            let namespaces: HashSet<_> = present
                .into_iter()
                .map(|Key { namespace, .. }| namespace)
                .collect();
            if let Some(supplies) = supplies {
                supplies.listed(ConfigKind::LimitRanges, &namespaces);
            }
        }
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

fn read(key: &Key, object: &LimitRange) -> Result<Limits, serde_json::Error> {
    let spec = serde_json::to_string(&object.spec.clone().unwrap_or_default())?;
    Limits::read(&key.name, &spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_limit_range_is_understood() {
        let object = json!({
            "metadata": {"namespace": "n", "name": "small"},
            "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]},
        });
        let object: LimitRange = serde_json::from_value(object).unwrap();
        let key = key_of(&object.metadata);
        let expected = r#"{"limits":[{"type":"Container","default":{"cpu":"1"}}]}"#;
        let expected = Limits::read("small", expected).unwrap();
        assert_eq!(read(&key, &object).unwrap(), expected);
    }
}

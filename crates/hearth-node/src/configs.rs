//! What the ConfigMaps and Secrets hold that sandboxes of this node name, as the controller has sent it.
//!
//! In memory only. After a start of the daemon the controller sends all of it again.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hearth_core::effects::ConfigKey;
use hearth_core::podspec::{Config, Configs, PodPlan};
use hearth_core::sandbox::Contents;
use parking_lot::RwLock;

/// What is known of the objects; `None` for one that does not exist.
#[derive(Debug, Default)]
pub(crate) struct ConfigStore {
    known: RwLock<HashMap<ConfigKey, Option<Arc<Config>>>>,
}

impl ConfigStore {
    /// The object holds this. Returns whether that is news.
    pub(crate) fn put(&self, key: ConfigKey, config: Option<Arc<Config>>) -> bool {
        let before = self.known.write().insert(key, config.clone());
        before.as_ref() != Some(&config)
    }

    /// No sandbox names it any more.
    pub(crate) fn forget(&self, key: &ConfigKey) {
        self.known.write().remove(key);
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, keys: &HashSet<ConfigKey>) {
        self.known.write().retain(|key, _| keys.contains(key));
    }

    /// What a pod of this namespace reads, as far as it is known.
    #[must_use]
    pub(crate) fn of(&self, namespace: &str, plan: &PodPlan) -> Configs {
        let known = self.known.read();
        let look = |config| {
            let key = ConfigKey {
                namespace: namespace.to_owned(),
                config,
            };
            let content = known.get(&key)?.clone();
            Some((key.config, content))
        };
        Configs {
            known: plan.configs().into_iter().filter_map(look).collect(),
        }
    }
}

/// Whether a pod can be made from what is known, and what tells it from what was known before.
#[must_use]
pub(crate) fn contents(plan: &PodPlan, configs: &Configs) -> Contents {
    if let Err(missing) = plan.check(configs) {
        return Contents::Lacking(missing.to_string());
    }
    if configs.known.is_empty() {
        return Contents::default();
    }
    let mut hasher = DefaultHasher::new();
    for (config, content) in &configs.known {
        config.hash(&mut hasher);
        content
            .as_ref()
            .map(|content| &content.version)
            .hash(&mut hasher);
    }
    Contents::Known(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_api::{PodSpecJson, SandboxSpec};
    use hearth_core::podspec::{self, ConfigKind, ConfigRef};
    use serde_json::json;

    fn plan() -> PodPlan {
        let mut spec = SandboxSpec::default();
        spec.pod_template.spec = PodSpecJson::from_value(&json!({"containers": [{
            "name": "main", "image": "i:1", "envFrom": [{"configMapRef": {"name": "settings"}}]
        }]}))
        .unwrap();
        podspec::plan(&spec, None).unwrap()
    }

    fn key(namespace: &str) -> ConfigKey {
        ConfigKey {
            namespace: namespace.to_owned(),
            config: ConfigRef::new(ConfigKind::ConfigMap, "settings"),
        }
    }

    fn version(version: &str) -> Option<Arc<Config>> {
        Some(Arc::new(Config {
            version: version.to_owned(),
            ..Config::default()
        }))
    }

    #[test]
    fn a_pod_waits_for_what_it_reads_and_notices_when_it_changes() {
        let (store, plan) = (ConfigStore::default(), plan());
        let now = || contents(&plan, &store.of("ns", &plan));
        let lacking = |text: &str| Contents::Lacking(format!("ConfigMap \"settings\" {text}"));
        assert_eq!(now(), lacking("has not been sent by the controller yet"));
        assert!(store.put(key("ns"), None));
        assert_eq!(now(), lacking("not found"));
        assert!(store.put(key("other"), version("1")));
        assert_eq!(now(), lacking("not found"), "of another namespace");
        assert!(store.put(key("ns"), version("1")));
        assert!(!store.put(key("ns"), version("1")));
        let first = now();
        assert!(matches!(first, Contents::Known(_)));
        store.put(key("ns"), version("2"));
        assert_ne!(now(), first);
        store.retain(&HashSet::from([key("other")]));
        assert_eq!(now(), lacking("has not been sent by the controller yet"));
    }
}

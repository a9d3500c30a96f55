//! What the ConfigMaps and Secrets hold that sandboxes of this node name, and what is said of their namespaces and
//! ServiceAccounts, as the controller has sent it.
//!
//! In memory only. After a start of the daemon the controller sends all of it again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hearth_core::effects::ConfigKey;
use hearth_core::ids::Key;
use hearth_core::podspec::{
    Account, Config, ConfigKind, ConfigRef, Configs, PodPlan, written_namespace,
};
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

    /// What the pod of this sandbox reads, as far as it is known.
    #[must_use]
    pub(crate) fn of(&self, sandbox: &Key, plan: &PodPlan) -> Configs {
        let needed = plan.configs();
        let mut configs = self.known(&sandbox.namespace, &needed);
        // A plan does not know whose it is.
        let unnamed = ConfigRef::new(ConfigKind::Tokens, "");
        let key = ConfigKey {
            namespace: sandbox.namespace.clone(),
            config: ConfigRef::new(ConfigKind::Tokens, &sandbox.name),
        };
        if needed.contains(&unnamed)
            && let Some(tokens) = self.known.read().get(&key)
        {
            configs.known.insert(unnamed, tokens.clone());
        }
        configs
    }

    /// What is known of these objects of a namespace.
    #[must_use]
    pub(crate) fn known(&self, namespace: &str, configs: &BTreeSet<ConfigRef>) -> Configs {
        let known = self.known.read();
        let look = |config: &ConfigRef| {
            let key = ConfigKey {
                namespace: namespace.to_owned(),
                config: config.clone(),
            };
            let content = known.get(&key)?.clone();
            Some((key.config, content))
        };
        Configs {
            known: configs.iter().filter_map(look).collect(),
        }
    }
}

/// Whether a pod can be made from what is known, and what tells it from what was known before. `shown`: what its files show
/// of itself. `begun`: there is a pod already, whose images may be there too, so that it does not wait for what they were
/// pulled with.
#[must_use]
pub(crate) fn contents(
    plan: &PodPlan,
    configs: &Configs,
    shown: &[String],
    begun: bool,
) -> Contents {
    let credentials = if begun {
        Ok(())
    } else {
        plan.keyring(configs).map(drop)
    };
    if let Err(missing) = plan.check(configs).and(credentials) {
        return Contents::Lacking(missing.to_string());
    }
    if configs.known.is_empty() && shown.is_empty() {
        return Contents::default();
    }
    let mut hasher = DefaultHasher::new();
    shown.hash(&mut hasher);
    for (config, content) in &configs.known {
        config.hash(&mut hasher);
        content
            .as_ref()
            .map(|content| &content.version)
            .hash(&mut hasher);
    }
    Contents::Known(hasher.finish())
}

/// What a controller sends of namespaces that ask for nothing, with an account that gives nothing.
pub(crate) fn open_namespace(namespace: &str) -> Vec<(ConfigKey, Option<Arc<Config>>)> {
    let key = |kind, name| ConfigKey {
        namespace: namespace.to_owned(),
        config: ConfigRef::new(kind, name),
    };
    let holds = |data| {
        Some(Arc::new(Config {
            version: "1".to_owned(),
            data,
        }))
    };
    vec![
        (key(ConfigKind::Namespace, ""), holds(written_namespace([]))),
        (key(ConfigKind::LimitRanges, ""), holds(BTreeMap::new())),
        (
            key(ConfigKind::ServiceAccount, "default"),
            holds(Account::written(Some(false), &[])),
        ),
    ]
}

#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::open_namespace;
    use super::*;

    impl ConfigStore {
        pub(crate) fn open(namespaces: &[&str]) -> Self {
            let store = Self::default();
            for (key, config) in namespaces.iter().flat_map(|name| open_namespace(name)) {
                store.put(key, config);
            }
            store
        }

        pub(crate) fn enforce(&self, namespace: &str, level: &str) {
            let label = "pod-security.kubernetes.io/enforce".to_owned();
            let data = written_namespace([(label, level.to_owned())]);
            let config = Config {
                version: level.to_owned(),
                data,
            };
            let key = ConfigKey {
                namespace: namespace.to_owned(),
                config: ConfigRef::new(ConfigKind::Namespace, ""),
            };
            self.put(key, Some(Arc::new(config)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_api::{PodSpecJson, SandboxSpec};
    use hearth_core::podspec::{self, Admission};
    use serde_json::json;

    fn plan() -> PodPlan {
        let mut spec = SandboxSpec::default();
        spec.pod_template.spec = PodSpecJson::from_value(&json!({"containers": [{
            "name": "main", "image": "i:1", "envFrom": [{"configMapRef": {"name": "settings"}}]
        }]}))
        .unwrap();
        podspec::plan(
            &spec,
            None,
            &Admission::default(),
            &podspec::Support::default(),
        )
        .unwrap()
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
        let now = || contents(&plan, &store.of(&Key::new("ns", "a"), &plan), &[], false);
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
        let shown = ["x".to_owned()];
        let shows = contents(&plan, &store.of(&Key::new("ns", "a"), &plan), &shown, false);
        assert_ne!(shows, now());
        store.retain(&HashSet::from([key("other")]));
        assert_eq!(now(), lacking("has not been sent by the controller yet"));
    }
}

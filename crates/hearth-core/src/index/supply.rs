//! Which nodes need which ConfigMaps and Secrets, and what is said of which namespaces and ServiceAccounts: those that
//! their sandboxes name, and no others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Index;
use super::sandbox::SandboxRecord;
use super::spec::SpecFacts;
use crate::effects::{ConfigKey, Effect};
use crate::ids::NodeName;
use crate::tokens::Owner;

/// What one sandbox needs, and where.
#[derive(Clone, Debug)]
pub(super) struct Need {
    node: NodeName,
    namespace: String,
    spec: Arc<SpecFacts>,
    tokens: Option<Tokens>,
}

/// The tokens that a sandbox may need.
#[derive(Clone, Debug, PartialEq)]
struct Tokens {
    owner: Owner,
    /// Whether there is, or is to be, a pod that has them.
    live: bool,
}

impl Need {
    /// `None` for a sandbox that has no node.
    pub(super) fn of(record: &SandboxRecord) -> Option<Self> {
        let node = record.node.as_ref().filter(|_| record.exists())?;
        let owner = || Owner {
            key: record.key.clone(),
            uid: record.uid.clone(),
        };
        Some(Self {
            node: node.clone(),
            namespace: record.key.namespace.clone(),
            tokens: record.spec.tokens.is_some().then(|| Tokens {
                owner: owner(),
                live: !record.has_no_pod(),
            }),
            spec: Arc::clone(&record.spec),
        })
    }

    /// Whether it is what the sandbox needs now.
    fn is_of(&self, record: &SandboxRecord) -> bool {
        let live = self.tokens.as_ref().map(|tokens| tokens.live);
        record.exists()
            && record.node.as_ref() == Some(&self.node)
            && record.key.namespace == self.namespace
            && Arc::ptr_eq(&record.spec, &self.spec)
            && live.is_none_or(|live| live != record.has_no_pod())
    }

    fn keys(&self) -> impl Iterator<Item = ConfigKey> + '_ {
        self.spec.configs.iter().map(|config| ConfigKey {
            namespace: self.namespace.clone(),
            config: config.clone(),
        })
    }

    /// What is to be done about its tokens.
    fn tokens(&self) -> Option<Effect> {
        let Tokens { owner, live } = self.tokens.as_ref()?;
        Some(Effect::Tokens {
            owner: owner.clone(),
            wanted: live
                .then(|| Some((self.node.clone(), self.spec.tokens.clone()?)))
                .flatten(),
        })
    }

    /// That there are to be none of it any more.
    fn no_tokens(&self) -> Option<Effect> {
        let owner = self.tokens.as_ref()?.owner.clone();
        Some(Effect::Tokens {
            owner,
            wanted: None,
        })
    }
}

/// The needs of all sandboxes, summed up by node.
#[derive(Debug, Default)]
pub(super) struct Supplies {
    needs: HashMap<u64, Need>,
    counts: HashMap<(NodeName, ConfigKey), usize>,
}

impl Supplies {
    /// Whether this is what is known of the sandbox.
    fn agree(&self, id: u64, record: Option<&SandboxRecord>) -> bool {
        match (self.needs.get(&id), record) {
            (Some(need), Some(record)) => need.is_of(record),
            (None, Some(record)) => record.node.is_none() || !record.exists(),
            (Some(_), None) => false,
            (None, None) => true,
        }
    }

    /// The sandbox needs this now. Says what its node needs more or less than before.
    pub(super) fn set(&mut self, id: u64, need: Option<Need>) -> Vec<Effect> {
        let mut effects = Vec::new();
        // First what comes, so that what both name does not go in between.
        if let Some(need) = &need {
            for config in need.keys() {
                let count = self
                    .counts
                    .entry((need.node.clone(), config.clone()))
                    .or_default();
                *count += 1;
                if *count == 1 {
                    effects.push(supply(&need.node, config, true));
                }
            }
        }
        let now = need.as_ref().and_then(Need::tokens);
        let before = match need {
            Some(need) => self.needs.insert(id, need),
            None => self.needs.remove(&id),
        };
        for config in before.iter().flat_map(Need::keys) {
            let node = before.as_ref().map(|before| before.node.clone());
            if let Some(node) = node
                && let Entry::Occupied(mut count) =
                    self.counts.entry((node.clone(), config.clone()))
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    effects.push(supply(&node, config, false));
                }
            }
        }
        let was = before.as_ref().and_then(Need::tokens);
        if was != now {
            effects.extend(now.or_else(|| before.as_ref().and_then(Need::no_tokens)));
        }
        effects
    }

    /// All that any node needs.
    fn all(&self) -> Vec<Effect> {
        let keys = self.counts.keys();
        let configs = keys.map(|(node, config)| supply(node, config.clone(), true));
        configs
            .chain(self.needs.values().filter_map(Need::tokens))
            .collect()
    }
}

fn supply(node: &NodeName, config: ConfigKey, wanted: bool) -> Effect {
    let node = node.clone();
    Effect::Supply {
        node,
        config,
        wanted,
    }
}

impl Index {
    /// Keeps the sums true after a change of a sandbox.
    pub(super) fn resupply(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        if self.supplies.agree(id, record) {
            return;
        }
        let need = record.and_then(Need::of);
        let effects = self.supplies.set(id, need);
        if self.leading.is_some() {
            self.effects.extend(effects);
        }
    }

    /// A leader begins with all of it.
    pub(super) fn supply_all(&mut self) {
        let all = self.supplies.all();
        self.effects.extend(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing;
    use crate::podspec::{ConfigKind, ConfigRef};
    use serde_json::json;

    fn need(node: &str, names: &[&str]) -> Option<Need> {
        let configs = names
            .iter()
            .map(|name| ConfigRef::new(ConfigKind::Secret, name));
        let spec = SpecFacts {
            configs: configs.collect(),
            ..SpecFacts::default()
        };
        Some(Need {
            node: node.into(),
            namespace: "ns".to_owned(),
            spec: Arc::new(spec),
            tokens: None,
        })
    }

    fn told(effects: &[Effect]) -> Vec<String> {
        let mut told: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::Supply {
                    node,
                    config,
                    wanted,
                } => {
                    format!(
                        "{}{node}/{}",
                        if *wanted { '+' } else { '-' },
                        config.config.name
                    )
                }
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn a_node_is_told_of_the_first_and_the_last_sandbox_that_names_it() {
        let mut supplies = Supplies::default();
        let mut set = |id, need| told(&supplies.set(id, need));
        assert_eq!(set(1, need("n", &["a", "b"])), ["+n/a", "+n/b"]);
        assert_eq!(set(2, need("n", &["a"])), [""; 0]);
        assert_eq!(set(3, need("m", &["a"])), ["+m/a"]);
        assert_eq!(
            set(1, need("n", &["b", "c"])),
            ["+n/c"],
            "the second still names a"
        );
        assert_eq!(set(2, None), ["-n/a"]);
        assert_eq!(set(1, need("m", &["b"])), ["+m/b", "-n/b", "-n/c"]);
        assert_eq!(told(&supplies.all()), ["+m/a", "+m/b"]);
    }

    fn reader(name: &str, node: Option<&str>, version: u64) -> hearth_api::Sandbox {
        let env =
            json!([{"name": "K", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]);
        let mut object = json!({
            "metadata": testing::metadata(name, version),
            "spec": {"podTemplate": {"spec": {"containers": [{"name": "main", "image": "i", "env": env}]}}},
        });
        if let Some(node) = node {
            object["metadata"]["labels"] = json!({"hearth.dev/node": node});
        }
        serde_json::from_value(object).unwrap()
    }

    /// What the effects say of Secrets.
    fn supplies(effects: Vec<Effect>) -> Vec<String> {
        let is_supply = |effect: &Effect| matches!(effect, Effect::Supply { config, .. } if config.config.kind == ConfigKind::Secret);
        told(&effects.into_iter().filter(is_supply).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_sandbox_names_goes_to_its_node_while_it_is_there() {
        let mut index = testing::leader();
        index.apply_sandbox(reader("a", None, 1), testing::at(1));
        assert_eq!(supplies(index.take_effects()), [""; 0], "it has no node");
        index.apply_sandbox(reader("a", Some("n1"), 2), testing::at(2));
        assert_eq!(supplies(index.take_effects()), ["+n1/keys"]);
        index.apply_sandbox(reader("b", Some("n1"), 3), testing::at(3));
        index.apply_sandbox(reader("a", Some("n2"), 4), testing::at(4));
        assert_eq!(
            supplies(index.take_effects()),
            ["+n2/keys"],
            "b is still there"
        );
        index.delete_sandbox(&testing::key("b"), "uid-b", testing::at(5));
        assert_eq!(supplies(index.take_effects()), ["-n1/keys"]);
    }

    #[test]
    fn a_node_is_told_of_the_namespace_and_the_account_of_each_sandbox() {
        let mut index = testing::leader();
        index.apply_sandbox(reader("a", Some("n1"), 1), testing::at(1));
        let supplied = index
            .take_effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Supply { config, wanted, .. } => Some((config.config.to_string(), wanted)),
                _ => None,
            });
        let mut supplied: Vec<_> = supplied.collect();
        supplied.sort();
        let told = |what: &str| (what.to_owned(), true);
        let expected = [
            told("ConfigMap \"kube-root-ca.crt\""),
            told("Secret \"keys\""),
            told("ServiceAccount \"default\""),
            told("what the namespace enforces"),
            told("what the namespace's LimitRanges say"),
        ];
        assert_eq!(supplied, expected);
    }

    fn holder(
        node: Option<&str>,
        version: u64,
        mode: &str,
        suspended: bool,
    ) -> hearth_api::Sandbox {
        let mut object = serde_json::to_value(reader("a", node, version)).unwrap();
        object["spec"]["operatingMode"] = mode.into();
        if suspended {
            let condition = json!({
                "type": "Suspended", "status": "True", "reason": "PodTerminated", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            object["status"] = json!({"conditions": [condition]});
        }
        serde_json::from_value(object).unwrap()
    }

    /// Where the effects want tokens; an empty name: nowhere.
    fn tokens(index: &mut Index) -> Vec<String> {
        let effects = index.take_effects().into_iter();
        let tokens = effects.filter_map(|effect| match effect {
            Effect::Tokens { owner, wanted } => {
                assert_eq!(owner.uid.as_str(), "uid-a");
                Some(wanted.map_or_else(String::new, |(node, _)| node.to_string()))
            }
            _ => None,
        });
        tokens.collect()
    }

    #[test]
    fn a_sandbox_has_tokens_while_there_is_a_pod_of_it() {
        let mut index = testing::leader();
        let mut apply = |node, version, mode, suspended| {
            let sandbox = holder(node, version, mode, suspended);
            index.apply_sandbox(sandbox, testing::at(version));
            tokens(&mut index)
        };
        assert_eq!(apply(None, 1, "Running", false), [""; 0]);
        assert_eq!(apply(Some("n1"), 2, "Running", false), ["n1"]);
        assert_eq!(
            apply(Some("n1"), 3, "Running", false),
            [""; 0],
            "nothing new"
        );
        assert_eq!(
            apply(Some("n1"), 4, "Suspended", false),
            [""; 0],
            "its pod is being stopped"
        );
        assert_eq!(apply(Some("n1"), 5, "Suspended", true), [""]);
        assert_eq!(apply(Some("n2"), 6, "Running", true), ["n2"]);
        index.delete_sandbox(&testing::key("a"), "uid-a", testing::at(7));
        assert_eq!(tokens(&mut index), [""]);
    }

    #[test]
    fn a_new_leader_begins_with_all_that_nodes_need() {
        let mut index = Index::new(super::super::Settings::default(), 1, testing::at(0));
        index.apply_sandbox(reader("a", Some("n1"), 1), testing::at(1));
        assert_eq!(supplies(index.take_effects()), [""; 0], "it does not lead");
        index.lead(testing::at(2));
        assert_eq!(supplies(index.take_effects()), ["+n1/keys"]);
    }
}

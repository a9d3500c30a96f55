//! Which nodes need which ConfigMaps and Secrets: those that their sandboxes name, and no others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Index;
use super::sandbox::SandboxRecord;
use super::spec::SpecFacts;
use crate::effects::{ConfigKey, Effect};
use crate::ids::NodeName;

/// What one sandbox needs, and where.
#[derive(Clone, Debug)]
pub(super) struct Need {
    node: NodeName,
    namespace: String,
    spec: Arc<SpecFacts>,
}

impl Need {
    /// `None` for a sandbox that needs nothing, as most do, or that has no node.
    pub(super) fn of(record: &SandboxRecord) -> Option<Self> {
        let node = record.node.as_ref()?;
        (record.exists() && !record.spec.configs.is_empty()).then(|| Self {
            node: node.clone(),
            namespace: record.key.namespace.clone(),
            spec: Arc::clone(&record.spec),
        })
    }

    fn same(&self, other: &Self) -> bool {
        self.node == other.node
            && self.namespace == other.namespace
            && Arc::ptr_eq(&self.spec, &other.spec)
    }

    fn keys(&self) -> impl Iterator<Item = ConfigKey> + '_ {
        self.spec.configs.iter().map(|config| ConfigKey {
            namespace: self.namespace.clone(),
            config: config.clone(),
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
    /// The sandbox needs this now. Says what its node needs more or less than before.
    pub(super) fn set(&mut self, id: u64, need: Option<Need>) -> Vec<Effect> {
        let unchanged = match (self.needs.get(&id), &need) {
            (None, None) => true,
            (Some(before), Some(need)) => before.same(need),
            _ => false,
        };
        if unchanged {
            return Vec::new();
        }
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
        let before = match need {
            Some(need) => self.needs.insert(id, need),
            None => self.needs.remove(&id),
        };
        for before in before.iter() {
            for config in before.keys() {
                if let Entry::Occupied(mut count) =
                    self.counts.entry((before.node.clone(), config.clone()))
                {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                        effects.push(supply(&before.node, config, false));
                    }
                }
            }
        }
        effects
    }

    /// All that any node needs.
    fn all(&self) -> Vec<Effect> {
        let keys = self.counts.keys();
        keys.map(|(node, config)| supply(node, config.clone(), true))
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
        let need = self.sandboxes.get(&id).and_then(Need::of);
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

    fn supplies(effects: Vec<Effect>) -> Vec<String> {
        let is_supply = |effect: &Effect| matches!(effect, Effect::Supply { .. });
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
    fn a_new_leader_begins_with_all_that_nodes_need() {
        let mut index = Index::new(super::super::Settings::default(), 1, testing::at(0));
        index.apply_sandbox(reader("a", Some("n1"), 1), testing::at(1));
        assert_eq!(supplies(index.take_effects()), [""; 0], "it does not lead");
        index.lead(testing::at(2));
        assert_eq!(supplies(index.take_effects()), ["+n1/keys"]);
    }
}

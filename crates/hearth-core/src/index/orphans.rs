//! Sandboxes that were a pool's and have no controller any more: their pool was deleted without them, or somebody has
//! taken the owner off.

use std::collections::{BTreeSet, HashMap};

use super::sandbox::Owner;
use super::{Index, PoolRecord, SandboxRecord};
use crate::ids::Key;
use crate::names::name_hash;
use crate::pool::is_named_after;

/// These Sandboxes and the pools that they may be of.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    sandboxes: HashMap<Family, BTreeSet<u64>>,
    /// All that there are.
    pools: HashMap<Family, BTreeSet<Key>>,
}

/// What the label of a Sandbox tells of its pool. A hash of 32 bits may be that of two pools.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Family {
    namespace: String,
    /// Of the pool's name.
    hash: String,
}

impl Family {
    fn of_pool(pool: &Key) -> Self {
        Self {
            namespace: pool.namespace.clone(),
            hash: name_hash(&pool.name),
        }
    }

    /// None for a Sandbox that has a controller, or never had one.
    fn of_orphan(record: &SandboxRecord) -> Option<Self> {
        let Owner::Orphan { pool, .. } = &record.owner else {
            return None;
        };
        Some(Self {
            namespace: record.key.namespace.clone(),
            hash: pool.to_string(),
        })
    }
}

impl Index {
    /// The pool whose member a Sandbox without a controller is to be again, if there is one.
    pub(crate) fn pool_of_orphan(&self, record: &SandboxRecord) -> Option<&PoolRecord> {
        let family = Family::of_orphan(record)?;
        let mut pools = self.orphans.pools.get(&family)?.iter();
        let key = pools.find(|pool| is_named_after(&record.key.name, &pool.name))?;
        self.pools.get(key)
    }

    /// How many Sandboxes without a controller are to be members of the pool again, or to go.
    pub(crate) fn orphans_of(&self, pool: &PoolRecord) -> usize {
        let orphans = self.records_of_orphans(&pool.key);
        let pools = orphans.filter_map(|record| self.pool_of_orphan(record));
        pools.filter(|found| found.key == pool.key).count()
    }

    /// Those that may be of the pool.
    fn records_of_orphans(&self, pool: &Key) -> impl Iterator<Item = &SandboxRecord> {
        let all = &self.orphans.sandboxes;
        let there_are_some = !all.is_empty();
        let ids = there_are_some.then(|| all.get(&Family::of_pool(pool)));
        let ids = ids.flatten().into_iter().flatten();
        ids.filter_map(|id| self.sandboxes.get(id))
    }

    pub(super) fn link_orphan(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        if let Some(family) = record.and_then(Family::of_orphan) {
            self.orphans.sandboxes.entry(family).or_default().insert(id);
            self.mark_pool_of_orphan(id);
        }
    }

    pub(super) fn unlink_orphan(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        if let Some(family) = record.and_then(Family::of_orphan)
            && let Some(ids) = self.orphans.sandboxes.get_mut(&family)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.orphans.sandboxes.remove(&family);
            }
            self.mark_pool_of_orphan(id);
        }
    }

    /// A pool is there, which orphans may be of.
    pub(super) fn link_pool(&mut self, pool: &Key) {
        let pools = self.orphans.pools.entry(Family::of_pool(pool));
        pools.or_default().insert(pool.clone());
    }

    /// Undoes [`Self::link_pool`].
    pub(super) fn unlink_pool(&mut self, pool: &Key) {
        let family = Family::of_pool(pool);
        if let Some(pools) = self.orphans.pools.get_mut(&family) {
            pools.remove(pool);
            if pools.is_empty() {
                self.orphans.pools.remove(&family);
            }
        }
    }

    fn mark_pool_of_orphan(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        let pool = record.and_then(|record| self.pool_of_orphan(record));
        if let Some(pool) = pool.map(|pool| pool.key.clone()) {
            self.mark_pool(&pool);
        }
    }

    /// A pool or its template is another one: looks at all that may have been a member of it.
    pub(super) fn mark_orphans(&mut self, pool: &Key) {
        let records = self.records_of_orphans(pool);
        let keys: Vec<Key> = records.map(|record| record.key.clone()).collect();
        keys.iter().for_each(|key| self.mark_sandbox(key));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{at, leader, metadata, pool};
    use super::*;

    /// A Sandbox of this name that was a member of a pool whose name has this hash.
    fn orphan(namespace: &str, name: &str, hash: &str, version: u64) -> hearth_api::Sandbox {
        let mut object = json!({
            "metadata": metadata(name, version),
            "spec": {"podTemplate": {"spec": {"containers": []}}},
        });
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["uid"] = format!("{namespace}-{name}").into();
        object["metadata"]["labels"] = json!({"agents.x-k8s.io/warm-pool-sandbox": hash});
        serde_json::from_value(object).unwrap()
    }

    fn pool_in(namespace: &str, name: &str) -> hearth_api::SandboxWarmPool {
        let mut object = serde_json::to_value(pool(name, 0, 1)).unwrap();
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["uid"] = Value::from(format!("{namespace}-{name}"));
        serde_json::from_value(object).unwrap()
    }

    fn count(index: &Index, namespace: &str, name: &str) -> usize {
        let pool = index.pools.get(&Key::new(namespace, name)).unwrap();
        index.orphans_of(pool)
    }

    #[test]
    fn an_orphan_is_counted_with_the_pool_that_its_label_and_its_name_tell_as_long_as_it_is_one() {
        let mut index = leader();
        let (hash, other) = (name_hash("a"), name_hash("a-b"));
        for (namespace, name) in [("n", "a"), ("n", "a-b"), ("m", "a")] {
            index.apply_pool(pool_in(namespace, name), at(0));
        }
        for (namespace, name, hash) in [
            ("n", "a-1", hash.as_str()),
            ("n", "a-b-2", hash.as_str()),
            ("n", "a-b-3", other.as_str()),
            ("n", "other-4", hash.as_str()),
            ("n", "a-5", "00000000"),
            ("m", "a-6", hash.as_str()),
        ] {
            index.apply_sandbox(orphan(namespace, name, hash, 1), at(0));
        }
        let counts = |index: &Index| {
            [("n", "a"), ("n", "a-b"), ("m", "a")]
                .map(|(namespace, name)| count(index, namespace, name))
        };
        assert_eq!(counts(&index), [2, 1, 1]);

        // Relabelled, deleted, and claimed.
        index.apply_sandbox(orphan("n", "a-b-2", &other, 2), at(1));
        assert_eq!(counts(&index), [1, 2, 1]);
        index.delete_sandbox(&Key::new("n", "a-b-3"), "n-a-b-3", at(1));
        assert_eq!(counts(&index), [1, 1, 1]);
        let mut claimed = serde_json::to_value(orphan("m", "a-6", &hash, 2)).unwrap();
        claimed["metadata"]["labels"]["agents.x-k8s.io/claim-uid"] = "u".into();
        index.apply_sandbox(serde_json::from_value(claimed).unwrap(), at(1));
        assert_eq!(counts(&index), [1, 1, 0]);

        index.delete_pool(&Key::new("n", "a"), "n-a", at(2));
        let record = index.sandbox(&Key::new("n", "a-1")).unwrap();
        assert!(index.pool_of_orphan(record).is_none());
        index.apply_pool(pool_in("n", "a"), at(3));
        assert_eq!(counts(&index), [1, 1, 0]);
        for name in ["a-1", "a-b-2", "other-4", "a-5"] {
            index.delete_sandbox(&Key::new("n", name), &format!("n-{name}"), at(4));
        }
        assert!(index.orphans.sandboxes.is_empty());
    }
}

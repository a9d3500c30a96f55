//! Sandboxes that were a pool's and have no controller any more: their pool was deleted without them, or somebody has
//! taken the owner off.

use super::sandbox::Owner;
use super::{Index, PoolRecord, SandboxRecord};
use crate::ids::Key;
use crate::names::name_hash;

impl Index {
    /// The pool whose member a Sandbox without a controller is to be again, if there is one.
    pub(crate) fn pool_of_orphan(&self, record: &SandboxRecord) -> Option<&PoolRecord> {
        let Owner::Orphan { pool: hash, .. } = &record.owner else {
            return None;
        };
        // Names of 32 bits may be those of two pools.
        let is_its = |pool: &&PoolRecord| {
            let Key { namespace, name } = &pool.key;
            *namespace == record.key.namespace
                && crate::pool::is_named_after(&record.key.name, name)
                && name_hash(name) == **hash
        };
        self.pools.values().find(is_its)
    }

    /// How many Sandboxes without a controller are to be members of the pool again, or to go.
    pub(crate) fn orphans_of(&self, pool: &PoolRecord) -> usize {
        let records = self.orphans.iter().filter_map(|id| self.sandboxes.get(id));
        let of_pool = records.filter_map(|record| self.pool_of_orphan(record));
        of_pool.filter(|found| found.key == pool.key).count()
    }

    pub(super) fn link_orphan(&mut self, id: u64) {
        self.orphans.insert(id);
        self.mark_pool_of_orphan(id);
    }

    pub(super) fn unlink_orphan(&mut self, id: u64) {
        if self.orphans.remove(&id) {
            self.mark_pool_of_orphan(id);
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
    pub(super) fn mark_orphans(&mut self, namespace: &str) {
        let records = self.orphans.iter().filter_map(|id| self.sandboxes.get(id));
        let keys: Vec<Key> = records
            .filter(|record| record.key.namespace == namespace)
            .map(|record| record.key.clone())
            .collect();
        keys.iter().for_each(|key| self.mark_sandbox(key));
    }
}

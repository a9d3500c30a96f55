//! What the index keeps of a pool.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use hearth_api::{SandboxWarmPool, SandboxWarmPoolStatus, Warmth};

use super::Index;
use super::objects::kube_meta::key_of;
use super::sandbox::{Retry, version_of};
use crate::effects::Now;
use crate::ids::Key;
use crate::pool::{Held, Refill, Refusals, Rollout};

/// What the index keeps of a pool.
#[derive(Clone, Debug)]
pub struct PoolRecord {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) generation: i64,
    pub(crate) deleting: bool,
    /// `spec.replicas`, never negative.
    pub(crate) replicas: usize,
    pub(crate) template: String,
    pub(crate) rollout: Rollout,
    pub(crate) readiness_grace: Option<Duration>,
    pub(crate) warmth: Warmth,
    pub(crate) status: SandboxWarmPoolStatus,

    /// The status whose write is under way.
    pub(crate) writing: Option<SandboxWarmPoolStatus>,
    /// The version that it was made from.
    pub(crate) written_from: u64,
    /// When the last one was sent.
    pub(crate) status_sent: Option<Duration>,
    pub(crate) retry: Retry,
    /// Since when creations and deletions yield to claims.
    pub(crate) yielding_since: Option<Duration>,
    /// Creations that may be sent at once: halved to one by a failure, doubled by success.
    pub(crate) window: usize,
    pub(crate) refill: Refill,
    /// Why the last placement failed.
    pub(crate) unplaceable: Option<String>,
    /// Members that no node can take.
    pub(crate) held: Held,
    /// Members of which no pod can be made.
    pub(crate) refusals: Refusals,
    /// Some member may be stale: the template or the strategy changed since they were last compared.
    pub(crate) check_stale: bool,
}

impl PoolRecord {
    pub(crate) fn new(key: Key) -> Self {
        Self {
            key,
            uid: String::new(),
            version: 0,
            generation: 0,
            deleting: false,
            replicas: 0,
            template: String::new(),
            rollout: Rollout::default(),
            readiness_grace: None,
            warmth: Warmth::default(),
            status: SandboxWarmPoolStatus::default(),
            writing: None,
            written_from: 0,
            status_sent: None,
            retry: Retry::default(),
            yielding_since: None,
            window: usize::MAX,
            refill: Refill::default(),
            unplaceable: None,
            held: Held::default(),
            refusals: Refusals::default(),
            check_stale: true,
        }
    }

    /// Takes over what the object says; what only we know stays.
    pub(crate) fn update(&mut self, pool: SandboxWarmPool) {
        let SandboxWarmPool {
            metadata,
            spec,
            status,
        } = pool;
        self.version = version_of(metadata.resource_version.as_ref());
        self.uid = metadata.uid.unwrap_or_default();
        let generation = metadata.generation.unwrap_or(0);
        self.check_stale |= generation != self.generation;
        self.generation = generation;
        self.deleting = metadata.deletion_timestamp.is_some();
        self.replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        self.template = spec.sandbox_template_ref.name;
        self.rollout = Rollout::of(spec.update_strategy.as_ref());
        self.readiness_grace = spec
            .readiness_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs);
        self.warmth = spec.warmth.unwrap_or_default();
        self.status = status.unwrap_or_default();
    }

    pub(crate) fn template_key(&self) -> Key {
        Key::new(self.key.namespace.clone(), self.template.clone())
    }
}

impl Index {
    /// A pool is as given.
    pub fn apply_pool(&mut self, pool: SandboxWarmPool, now: Now) {
        self.now = now;
        let Some(key) = key_of(&pool.metadata) else {
            return;
        };
        let version = version_of(pool.metadata.resource_version.as_ref());
        let uid = pool.metadata.uid.clone().unwrap_or_default();
        if self
            .pools
            .get(&key)
            .is_some_and(|record| version <= record.version)
        {
            return;
        }
        let mut record = match self.pools.remove(&key) {
            Some(record) if record.uid == uid => record,
            Some(other) => {
                self.pool_keys.remove(&other.uid);
                PoolRecord::new(key.clone())
            }
            None => PoolRecord::new(key.clone()),
        };
        let (generation, template) = (record.generation, record.template.clone());
        record.update(pool);
        let changed = record.generation != generation;
        let has_another_template = record.template != template;
        self.pool_keys.insert(uid, key.clone());
        self.pools.insert(key.clone(), record);
        self.link_pool(&key);
        self.mark_pool(&key);
        if changed {
            self.compare_members(&key);
            self.respread(&key);
            self.mark_waiting(&key);
        }
        if has_another_template {
            self.mark_bound(&key);
        }
    }

    /// The pool of this name and UID is gone.
    pub fn delete_pool(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.pools.get(key).is_some_and(|record| record.uid == uid) {
            self.pools.remove(key);
            self.pool_keys.remove(uid);
            self.unlink_pool(key);
            self.mark_waiting(key);
            self.mark_bound(key);
        }
    }

    /// These are all the pools that there are.
    pub fn retain_pools(&mut self, present: &HashSet<Key>, now: Now) {
        let gone = self
            .pools
            .values()
            .filter(|record| !present.contains(&record.key));
        let gone: Vec<_> = gone
            .map(|record| (record.key.clone(), record.uid.clone()))
            .collect();
        gone.iter()
            .for_each(|(key, uid)| self.delete_pool(key, uid, now));
    }

    pub(super) fn mark_waiting(&mut self, pool: &Key) {
        let keys: Vec<_> = self
            .waiting
            .get(pool)
            .map(|w| w.iter().cloned().collect())
            .unwrap_or_default();
        for key in keys {
            if let Some(claim) = self.claims.get_mut(&key) {
                claim.retry.succeeded();
            }
            self.mark_claim(&key);
        }
    }

    /// Notes which members of a pool claims may not have any more, because its template or its strategy is another one.
    pub(super) fn compare_members(&mut self, pool: &Key) {
        self.mark_orphans(pool);
        let Some(pool) = self.pools.get_mut(pool) else {
            return;
        };
        pool.check_stale = true;
        let members = self.members.get(&pool.uid);
        let ids: Vec<u64> = members
            .into_iter()
            .flat_map(super::Members::iter)
            .map(|(id, _)| id)
            .collect();
        ids.into_iter()
            .for_each(|id| self.compare_with_template(id));
    }

    /// Notes whether claims may still have a Sandbox, if it is a member, and has its pool look after it if it is stale.
    pub(super) fn compare_with_template(&mut self, id: u64) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        let is_stale = crate::pool::is_stale_member(self, record);
        let known = record.outdated;
        let pool = record.pool_uid().and_then(|uid| self.pool_keys.get(uid));
        let pool = pool.cloned().and_then(|key| self.pools.get_mut(&key));
        let outdated = match pool.filter(|_| is_stale) {
            Some(pool) => {
                pool.check_stale = true;
                pool.rollout == Rollout::Recreate
            }
            None => false,
        };
        if known != outdated {
            self.change_sandbox(id, |record| record.outdated = outdated);
        }
    }
}

/// The unanswered claims of one pool, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    by_sequence: BTreeMap<u64, Key>,
}

impl Waiting {
    pub(crate) fn insert(&mut self, sequence: u64, claim: Key) {
        self.by_sequence.insert(sequence, claim);
    }

    pub(crate) fn remove(&mut self, sequence: u64) {
        self.by_sequence.remove(&sequence);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_sequence.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.by_sequence.values()
    }

    /// How many claims came before this one.
    pub(crate) fn ahead_of(&self, sequence: u64) -> usize {
        self.by_sequence.range(..sequence).count()
    }
}

//! What the index keeps of a pool.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_api::{SandboxWarmPool, SandboxWarmPoolStatus, UpdateStrategyType, Warmth};

use super::sandbox::{Retry, version_of};
use crate::ids::Key;

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
    pub(crate) strategy: UpdateStrategyType,
    pub(crate) readiness_grace: Option<Duration>,
    pub(crate) warmth: Warmth,
    pub(crate) status: SandboxWarmPoolStatus,

    /// The status whose write is under way.
    pub(crate) writing: Option<SandboxWarmPoolStatus>,
    /// When the last one was sent.
    pub(crate) status_sent: Option<Duration>,
    pub(crate) retry: Retry,
    /// Since when creations and deletions yield to claims.
    pub(crate) yielding_since: Option<Duration>,
    /// Creations that may be sent at once: halved to one by a failure, doubled by success.
    pub(crate) window: usize,
    /// Why the last placement failed.
    pub(crate) unplaceable: Option<String>,
    /// Why the last member that said something cannot be made.
    pub(crate) refused: Option<String>,
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
            strategy: UpdateStrategyType::default(),
            readiness_grace: None,
            warmth: Warmth::default(),
            status: SandboxWarmPoolStatus::default(),
            writing: None,
            status_sent: None,
            retry: Retry::default(),
            yielding_since: None,
            window: usize::MAX,
            unplaceable: None,
            refused: None,
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
        self.strategy = spec.update_strategy.unwrap_or_default().type_;
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

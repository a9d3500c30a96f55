//! What the index keeps of a claim.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::{annotation, condition, label};
use hearth_api::{Condition, SandboxClaim, SandboxClaimSpec};
use jiff::Timestamp;

use super::sandbox::{Retry, version_of};
use crate::conditions::is_true;
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};

/// A bind that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The node.
    pub node: NodeName,
    /// The owner key: the claim's UID, with a generation behind it when earlier ones were released.
    pub owner: OwnerKey,
    /// The sandbox.
    pub sandbox: SandboxUid,
    /// Addresses of its pod.
    pub pod_ips: Vec<String>,
}

/// What is under way for a claim. One thing at a time: the order of writes to one object counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing.
    #[default]
    Idle,
    /// A node was asked to bind.
    Binding {
        /// The node.
        node: NodeName,
        /// The sandbox.
        sandbox: SandboxUid,
    },
    /// A write to the claim, or the creation of its Sandbox.
    Writing,
}

/// What the index keeps of a claim.
#[derive(Clone, Debug)]
pub struct ClaimRecord {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) generation: i64,
    pub(crate) deleting: bool,
    pub(crate) spec: Arc<SandboxClaimSpec>,
    pub(crate) created_by: Option<String>,
    pub(crate) trace_context: Option<String>,
    pub(crate) requested_at: Option<Timestamp>,
    pub(crate) admitted_at: Option<Timestamp>,
    /// Whether somebody noted already when it first became ready.
    pub(crate) first_ready_noted: bool,
    pub(crate) conditions: Vec<Condition>,
    /// `status.sandbox.name`; empty when unanswered.
    pub(crate) sandbox: String,
    pub(crate) pod_ips: Vec<String>,

    /// In order of being seen.
    pub(crate) sequence: u64,
    pub(crate) stage: Stage,
    pub(crate) retry: Retry,
    /// The version that the write under way was made from.
    pub(crate) written_from: u64,
    /// A write lost to a newer version than this one: wait for the watch to show it.
    pub(crate) outdated: Option<u64>,
    /// Pending, or without its Sandbox, before this controller led.
    pub(crate) inherited: bool,
    pub(crate) first_seen: Duration,
    /// By the wall clock.
    pub(crate) first_seen_at: Timestamp,
    /// Releases that the claim survived: part of its owner key.
    pub(crate) owner_generation: u32,
    /// Since when status and stream disagree about its Sandbox.
    pub(crate) disagreeing_since: Option<Duration>,
    /// Whether its first readiness was counted.
    pub(crate) ready_counted: bool,
    /// When that was, while annotations for observers are still to be written.
    pub(crate) notes_due: Option<Timestamp>,
    /// What the API server said of a Sandbox made for the claim, when it refused it.
    pub(crate) error: Option<String>,
    /// `warm` or `cold`, once it has a Sandbox that this controller gave it.
    pub(crate) launch_type: Option<&'static str>,
    /// The pool in whose waiting list it stands.
    pub(crate) waiting_on: Option<Key>,
    /// Its Sandbox object went while it was still the pool's: the adoption came too late.
    pub(crate) unadopted_lost: bool,
    /// Its Sandbox object went after the adoption: somebody deleted it.
    pub(crate) adopted_lost: bool,
    /// The template of the pool that it was bound from.
    pub(crate) template: Option<String>,
}

impl ClaimRecord {
    pub(crate) fn new(key: Key, sequence: u64, now: Duration, wall: Timestamp) -> Self {
        Self {
            key,
            uid: String::new(),
            version: 0,
            generation: 0,
            deleting: false,
            spec: Arc::default(),
            created_by: None,
            trace_context: None,
            requested_at: None,
            admitted_at: None,
            first_ready_noted: false,
            conditions: Vec::new(),
            sandbox: String::new(),
            pod_ips: Vec::new(),
            sequence,
            stage: Stage::Idle,
            retry: Retry::default(),
            written_from: 0,
            outdated: None,
            inherited: false,
            first_seen: now,
            first_seen_at: wall,
            owner_generation: 0,
            disagreeing_since: None,
            ready_counted: false,
            notes_due: None,
            error: None,
            launch_type: None,
            waiting_on: None,
            unadopted_lost: false,
            adopted_lost: false,
            template: None,
        }
    }

    /// Takes over what the object says; what only we know stays.
    pub(crate) fn update(&mut self, claim: SandboxClaim) {
        let SandboxClaim {
            metadata,
            spec,
            status,
        } = claim;
        let status = status.unwrap_or_default();
        let mut annotations = metadata.annotations.unwrap_or_default();
        self.trace_context = annotations.remove(annotation::TRACE_CONTEXT);
        let time = |key: &str| {
            annotations
                .get(key)
                .and_then(|text| text.parse::<Timestamp>().ok())
        };
        self.version = version_of(metadata.resource_version.as_ref());
        self.uid = metadata.uid.unwrap_or_default();
        self.generation = metadata.generation.unwrap_or(0);
        self.deleting = metadata.deletion_timestamp.is_some();
        self.created_by = metadata
            .labels
            .and_then(|mut labels| labels.remove(label::CREATED_BY));
        self.requested_at = time(annotation::CLIENT_FIRST_REQUESTED_AT);
        self.admitted_at = time(annotation::WEBHOOK_FIRST_OBSERVED_AT);
        self.first_ready_noted = annotations.contains_key(annotation::CLAIM_FIRST_READY_AT);
        if *self.spec != spec {
            self.spec = Arc::new(spec);
        }
        self.conditions = status.conditions;
        let sandbox = status.sandbox.unwrap_or_default();
        self.sandbox = sandbox.name;
        self.pod_ips = sandbox.pod_ips;
        if self.sandbox.is_empty() {
            self.unadopted_lost = false;
            self.adopted_lost = false;
        }
        if self
            .outdated
            .is_some_and(|outdated| self.version > outdated)
        {
            self.outdated = None;
        }
    }

    /// The key under which nodes know this claim.
    pub(crate) fn owner_key(&self) -> OwnerKey {
        if self.owner_generation == 0 {
            OwnerKey(self.uid.clone())
        } else {
            OwnerKey(format!("{}.{}", self.uid, self.owner_generation))
        }
    }

    pub(crate) fn pool_key(&self) -> Key {
        Key::new(
            self.key.namespace.clone(),
            self.spec.warm_pool_ref.name.clone(),
        )
    }

    pub(crate) fn is_answered(&self) -> bool {
        !self.sandbox.is_empty()
    }

    pub(crate) fn is_ready(&self) -> bool {
        is_true(&self.conditions, condition::READY)
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        crate::conditions::find_condition(&self.conditions, condition::READY)
            .map(|ready| ready.reason.as_str())
    }
}

/// The claim's UID in an owner key.
#[must_use]
pub fn claim_uid_of(owner: &OwnerKey) -> &str {
    owner
        .0
        .split_once('.')
        .map_or(owner.as_str(), |(uid, _)| uid)
}

/// How many releases the owner key has survived.
pub(crate) fn generation_of(owner: &OwnerKey) -> u32 {
    owner
        .0
        .split_once('.')
        .and_then(|(_, generation)| generation.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_keys_carry_the_claim_and_its_generation() {
        let mut claim =
            ClaimRecord::new(Key::new("n", "c"), 0, Duration::ZERO, Timestamp::UNIX_EPOCH);
        claim.uid = "31172e4f-baac-4618-9b29-46fd2bc01558".into();
        assert_eq!(claim.owner_key().as_str(), claim.uid);
        claim.owner_generation = 2;
        let owner = claim.owner_key();
        assert_eq!(
            (claim_uid_of(&owner), generation_of(&owner)),
            (claim.uid.as_str(), 2)
        );
    }
}

//! What the index keeps of a claim.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::{annotation, condition, label};
use hearth_api::{ClaimEnvVar, Condition, SandboxClaim, SandboxClaimSpec};
use jiff::Timestamp;

use super::node::Phase;
use super::sandbox::{Retry, version_of};
use crate::claim::trace;
use crate::conditions::is_true;
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};
use crate::names::fnv1a_64;

/// A bind that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The node.
    pub node: NodeName,
    /// The owner key: the claim's UID, with a generation behind it when earlier ones were released, and a mark of the
    /// variables that it was bound with.
    pub owner: OwnerKey,
    /// The sandbox.
    pub sandbox: SandboxUid,
    /// Addresses of its pod.
    pub pod_ips: Vec<String>,
    /// How far it is.
    pub phase: Phase,
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

/// How the annotations for observers stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Notes {
    /// They are written when something is missing.
    #[default]
    Due,
    /// A write of them is under way.
    UnderWay,
    /// The API server will not have them. Only observers miss them.
    GivenUp,
}

/// What a claim's object says for observers, and of the Sandbox that was assigned to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// `controller-first-observed-at` is there.
    pub(crate) observed: bool,
    /// `claim-first-ready-at` is there: somebody noted already when it first became ready.
    pub(crate) ready: bool,
    /// Annotation `sandbox-name`.
    pub(crate) sandbox: Option<String>,
    /// Label `sandbox-name`, where earlier releases of upstream wrote it.
    pub(crate) legacy: Option<String>,
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
    /// Whether the trace context is ours: the object does not have it yet.
    trace_begun: bool,
    pub(crate) requested_at: Option<Timestamp>,
    pub(crate) admitted_at: Option<Timestamp>,
    pub(crate) noted: Noted,
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
    /// Whether users were told that it has expired.
    pub(crate) expiry_told: bool,
    /// When this controller made it ready first.
    pub(crate) ready_at: Option<Timestamp>,
    pub(crate) notes: Notes,
    /// Each write of them makes the next wait.
    pub(crate) note_retry: Retry,
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
    /// The template of the member that it was bound to, as far as this controller did that.
    pub(crate) template: Option<String>,
    /// What it asked for when it was bound, as far as this controller did that.
    pub(crate) bound_as: Option<Arc<SandboxClaimSpec>>,
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
            trace_begun: false,
            requested_at: None,
            admitted_at: None,
            noted: Noted::default(),
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
            expiry_told: false,
            ready_at: None,
            notes: Notes::Due,
            note_retry: Retry::default(),
            error: None,
            launch_type: None,
            waiting_on: None,
            unadopted_lost: false,
            adopted_lost: false,
            template: None,
            bound_as: None,
        }
    }

    /// The variables that it was bound with under this owner key. Those that it is given later reach no sandbox. None when
    /// nobody remembers them: another controller bound it, and the claim was edited since.
    pub(crate) fn bound_env(&self, owner: &OwnerKey) -> &[ClaimEnvVar] {
        let mark = env_mark_of(owner);
        let specs = [self.bound_as.as_ref(), Some(&self.spec)];
        let found = specs
            .into_iter()
            .flatten()
            .find(|spec| mark_of(&spec.env) == mark);
        found.map(|spec| spec.env.as_slice()).unwrap_or_default()
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
        self.trace_begun = false;
        let time = |key: &str| {
            annotations
                .get(key)
                .and_then(|text| text.parse::<Timestamp>().ok())
        };
        self.version = version_of(metadata.resource_version.as_ref());
        self.uid = metadata.uid.unwrap_or_default();
        self.generation = metadata.generation.unwrap_or(0);
        self.deleting = metadata.deletion_timestamp.is_some();
        let mut labels = metadata.labels.unwrap_or_default();
        let written = |text: &String| !text.is_empty();
        self.created_by = labels.remove(label::CREATED_BY).filter(written);
        self.requested_at = time(annotation::CLIENT_FIRST_REQUESTED_AT);
        self.admitted_at = time(annotation::WEBHOOK_FIRST_OBSERVED_AT);
        self.noted = Noted {
            observed: annotations.contains_key(annotation::CONTROLLER_FIRST_OBSERVED_AT),
            ready: annotations.contains_key(annotation::CLAIM_FIRST_READY_AT),
            sandbox: annotations.remove(annotation::SANDBOX_NAME).filter(written),
            legacy: labels.remove(label::SANDBOX_NAME).filter(written),
        };
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

    /// Begins a trace for a claim that came without one.
    pub(crate) fn begin_trace(&mut self) {
        if self.trace_context.is_none() {
            self.trace_context = Some(trace::context(&self.uid));
            self.trace_begun = true;
        }
    }

    /// The trace context that the object is still to get.
    pub(crate) fn begun_trace(&self) -> Option<&str> {
        self.trace_context.as_deref().filter(|_| self.trace_begun)
    }

    /// The key under which nodes know this claim: `<uid>[.<generation>][.e<variables>]`.
    pub(crate) fn owner_key(&self) -> OwnerKey {
        let mut key = self.uid.clone();
        if self.owner_generation > 0 {
            key.push_str(&format!(".{}", self.owner_generation));
        }
        let env = self.env_mark();
        if !env.is_empty() {
            key.push_str(&format!(".{env}"));
        }
        OwnerKey(key)
    }

    /// Tells one list of variables from another in owner keys, so that a bind with those that the claim had before an
    /// edit is seen for what it is. Empty when there are none.
    pub(crate) fn env_mark(&self) -> String {
        mark_of(&self.spec.env)
    }

    pub(crate) fn pool_key(&self) -> Key {
        Key::new(
            self.key.namespace.clone(),
            self.spec.warm_pool_ref.name.clone(),
        )
    }

    /// Whether it adds labels or annotations to its pod.
    pub(crate) fn adds_metadata(&self) -> bool {
        let additional = self.spec.additional_pod_metadata.as_ref();
        additional.is_some_and(|additional| {
            !additional.labels.is_empty() || !additional.annotations.is_empty()
        })
    }

    /// The Sandbox that was assigned to it, by its own annotation or by its label.
    pub(crate) fn assigned(&self) -> Option<&str> {
        self.noted
            .sandbox
            .as_deref()
            .or(self.noted.legacy.as_deref())
    }

    /// Whether the Sandbox that its status names was a member of a pool before.
    pub(crate) fn has_member(&self) -> bool {
        self.sandbox != self.key.name || self.assigned() == Some(self.sandbox.as_str())
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

/// Begins the part of an owner key that stands for variables.
const ENV_MARK: char = 'e';

/// The part of an owner key that stands for these variables; empty when there are none.
fn mark_of(env: &[ClaimEnvVar]) -> String {
    if env.is_empty() {
        return String::new();
    }
    let text = serde_json::to_vec(env).unwrap_or_default();
    format!("{ENV_MARK}{:016x}", fnv1a_64(&text))
}

/// How many releases the owner key has survived.
pub(crate) fn generation_of(owner: &OwnerKey) -> u32 {
    let mut parts = owner.0.split('.').skip(1);
    parts.find_map(|part| part.parse().ok()).unwrap_or(0)
}

/// The part of an owner key that stands for the variables of the bind; empty when there were none.
pub(crate) fn env_mark_of(owner: &OwnerKey) -> &str {
    let mut parts = owner.0.split('.').skip(1);
    parts
        .find(|part| part.starts_with(ENV_MARK))
        .unwrap_or_default()
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
        assert_eq!(env_mark_of(&owner), "");
    }

    /// A claim with a variable of this value.
    fn with_env(value: &str) -> ClaimRecord {
        let mut claim =
            ClaimRecord::new(Key::new("n", "c"), 0, Duration::ZERO, Timestamp::UNIX_EPOCH);
        claim.uid = "u".into();
        claim.spec = Arc::new(SandboxClaimSpec {
            env: vec![ClaimEnvVar {
                name: "X".into(),
                value: value.into(),
                container_name: String::new(),
            }],
            ..SandboxClaimSpec::default()
        });
        claim
    }

    #[test]
    fn the_variables_of_a_bind_are_those_that_its_owner_key_stands_for() {
        let mut claim = with_env("1");
        let (owner, env) = (claim.owner_key(), claim.spec.env.clone());
        assert_eq!(claim.bound_env(&owner), env, "it was not edited");
        let bare = OwnerKey("u".into());
        assert!(claim.bound_env(&bare).is_empty(), "it had none");
        let bound_as = std::mem::replace(&mut claim.spec, with_env("2").spec);
        assert!(claim.bound_env(&owner).is_empty(), "nobody remembers them");
        claim.bound_as = Some(bound_as);
        assert_eq!(claim.bound_env(&owner), env, "it was edited since");
    }

    #[test]
    fn owner_keys_differ_when_the_variables_do() {
        let with = |generation, value: &str| {
            let mut claim = with_env(value);
            claim.owner_generation = generation;
            (claim.owner_key(), claim.env_mark())
        };
        let (owner, mark) = with(3, "1");
        assert_eq!(owner.as_str(), format!("u.3.{mark}"));
        assert_eq!(
            (
                claim_uid_of(&owner),
                generation_of(&owner),
                env_mark_of(&owner)
            ),
            ("u", 3, mark.as_str())
        );
        assert_eq!(with(0, "1").0.as_str(), format!("u.{mark}"));
        assert_ne!(with(0, "2").1, mark);
    }
}

//! What the index keeps of a Sandbox: little for an unclaimed member, more for one that somebody uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::{TEARDOWN_FINALIZER, annotation, condition, label, reason};
use hearth_api::{
    Condition, OperatingMode, PersistentVolumeClaimTemplate, PodMetadata, Sandbox, SandboxStatus,
    ShutdownPolicy, Time,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::spec::SpecFacts;
use crate::conditions::find_condition;
use crate::controller_ref::is_extension;
use crate::events::Said;
use crate::ids::{Key, NodeName, SandboxUid};
use crate::placement::Labels;

/// Who controls a Sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: a bare Sandbox.
    #[default]
    Nobody,
    /// Nobody any more: it was a pool's, and no claim has had it.
    Orphan {
        /// Hash of the pool's name.
        pool: Box<str>,
        /// Whether it has owners, none of which controls it.
        has_owners: bool,
    },
    /// A pool: an unclaimed member.
    Pool {
        /// UID of the pool.
        uid: String,
        /// Its place among the owners.
        position: usize,
    },
    /// A claim.
    Claim {
        /// UID of the claim.
        uid: String,
    },
    /// Something else: not ours to touch beyond running it.
    Other,
}

impl Owner {
    /// Of an object with these owners and labels.
    fn of(owners: Vec<OwnerReference>, labels: &BTreeMap<String, String>) -> Self {
        let has_owners = !owners.is_empty();
        let mut owners = owners.into_iter().enumerate();
        let controls = |(_, owner): &(usize, OwnerReference)| owner.controller == Some(true);
        let Some((position, controller)) = owners.find(controls) else {
            let pool = labels.get(label::WARM_POOL);
            let pool = pool.filter(|_| !labels.contains_key(label::CLAIM_UID));
            return pool.map_or(Self::Nobody, |hash| Self::Orphan {
                pool: hash.as_str().into(),
                has_owners,
            });
        };
        let ours = is_extension(&controller.api_version);
        let uid = controller.uid;
        match controller.kind.as_str() {
            "SandboxWarmPool" if ours => Self::Pool { uid, position },
            "SandboxClaim" if ours => Self::Claim { uid },
            _ => Self::Other,
        }
    }
}

/// Which of the labels and annotations that matter are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// `warm-pool-sandbox`.
    pub warm_pool: bool,
    /// `sandbox-template-ref-hash`.
    pub template_ref_hash: bool,
    /// `sandbox-template-hash`.
    pub template_hash: bool,
    /// `sandbox-pod-template-hash`.
    pub pod_template_hash: bool,
    /// `created-by`.
    pub created_by: bool,
    /// `launch-type` is `warm`.
    pub launched_warm: bool,
    /// `launch-type`, whatever it is.
    pub launch_type: bool,
    /// Any labels.
    pub labels: bool,
    /// Any annotations.
    pub annotations: bool,
    /// The pool's warmth annotation.
    pub warmth: bool,
    /// `suspended-by`.
    pub suspended_by: bool,
    /// `pod-name`, and not empty: to clients an empty one is none.
    pub pod_name: bool,
}

/// What an operation of ours on a Sandbox is waiting for. One at a time: the order of writes to one object counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SandboxOp {
    /// The reply to its creation. Until then it is only ours.
    Creating,
    /// The reply to a write.
    Writing,
    /// The node's leave to delete it.
    Retiring,
    /// The node cannot be asked just now; the next inventory or the node's end settles it.
    RetireUnknown,
}

/// How far a Sandbox that must go has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// The node must agree first.
    Retire,
    /// It may be deleted.
    Delete,
}

/// When to try again after failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retry {
    failures: u32,
    not_before: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(100);
    pub(crate) const LONGEST: Duration = Duration::from_secs(30);

    /// Notes a failure and says when to try again.
    pub(crate) fn failed(&mut self, now: Duration) -> Duration {
        let delay = Self::FIRST
            .saturating_mul(1 << self.failures.min(9))
            .min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + delay;
        self.not_before
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When the next try may be; zero when nothing failed.
    pub(crate) fn not_before(&self) -> Duration {
        self.not_before
    }

    /// When the next try may be, if that is in the future.
    pub(crate) fn blocked_until(&self, now: Duration) -> Option<Duration> {
        (self.not_before > now).then_some(self.not_before)
    }
}

/// What the index keeps of a Sandbox.
#[derive(Clone, Debug)]
pub struct SandboxRecord {
    /// In order of being seen.
    pub(crate) id: u64,
    pub(crate) key: Key,
    /// Empty while its creation is under way.
    pub(crate) uid: SandboxUid,
    pub(crate) version: u64,
    pub(crate) generation: i64,
    /// Seconds since 1970; the API server counts no finer.
    pub(crate) created: i64,
    pub(crate) deleting: bool,
    pub(crate) owner: Owner,
    pub(crate) marks: Marks,
    pub(crate) template_hash: Box<str>,
    pub(crate) template_ref_hash: Box<str>,
    pub(crate) node: Option<NodeName>,
    pub(crate) spec: Arc<SpecFacts>,
    /// `spec.volumeClaimTemplates`.
    pub(crate) templates: Box<[PersistentVolumeClaimTemplate]>,
    pub(crate) finalizers: Box<[String]>,
    /// Labels of its pod.
    pub(crate) pod_labels: Arc<Labels>,
    /// Hash of pod spec, volume claim templates and `service`, by meaning.
    pub(crate) semantics: u64,
    /// No claim may have it, because its pool's template says otherwise by now and stale members are to go at once.
    pub(crate) outdated: bool,
    /// `spec.service`.
    pub(crate) service: Option<bool>,
    pub(crate) mode: OperatingMode,
    /// It was resumed, and its annotation still says who had suspended it. Stays so while it does, even when it is
    /// suspended again: that was somebody else.
    pub(crate) resumed: bool,
    pub(crate) ready: Option<ReadyState>,
    /// What Events have told of its status.
    pub(crate) said: Said,
    /// Absent for unclaimed members that have a node.
    pub(crate) detail: Option<Box<Detail>>,

    pub(crate) op: Option<SandboxOp>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) retry: Retry,
    /// UID of the claim that a Bind is under way for.
    pub(crate) reserved: Option<Box<str>>,
    /// The node refused to bind it: not picked until then, or until the node says something new of it.
    pub(crate) aside_until: Option<Duration>,
    /// Whether the time to its readiness was counted.
    pub(crate) ready_counted: bool,
    /// The API server has confirmed its deletion; older news of it may still arrive.
    pub(crate) deleted: bool,
    /// Its creation was sent once more and nobody knows what came of it.
    pub(crate) maybe_again: bool,
    /// UID of an object of this name that was made and deleted while its creation was under way.
    pub(crate) dead: Option<SandboxUid>,
    /// When a creation that was sent but never seen is given up.
    pub(crate) given_up_at: Option<Duration>,
    /// When this controller first saw it, monotonic.
    pub(crate) first_seen: Duration,
    /// When this controller first saw it on the node where it is, monotonic.
    pub(crate) node_seen: Duration,
    /// Whether its node has spoken of it since.
    pub(crate) heard: bool,
    /// The node that its volumes are being bound for.
    pub(crate) intended: Option<NodeName>,
}

/// The Ready condition, without its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadyState {
    pub(crate) is_true: bool,
    /// `lastTransitionTime`.
    pub(crate) since: Timestamp,
}

/// Which fields of a Sandbox's status are there besides the conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusFields {
    /// Those that speak of a pod.
    pub(crate) pod: bool,
    /// The selector, or what is said of the Service.
    pub(crate) others: bool,
}

impl StatusFields {
    fn of(status: &SandboxStatus) -> Self {
        Self {
            pod: !status.pod_ips.is_empty()
                || !status.node_name.is_empty()
                || status.node.is_some(),
            others: !status.selector.is_empty()
                || !status.service.is_empty()
                || !status.service_fqdn.is_empty(),
        }
    }
}

/// What is needed of a Sandbox that is no unclaimed member.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Detail {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) fields: StatusFields,
    pub(crate) pod_ips: Vec<String>,
    /// `status.service`.
    pub(crate) service: String,
    /// `status.serviceFQDN`.
    pub(crate) service_fqdn: String,
    pub(crate) pod_metadata: PodMetadata,
    pub(crate) shutdown_time: Option<Timestamp>,
    pub(crate) shutdown_policy: ShutdownPolicy,
    pub(crate) template: String,
    /// Label `created-by`.
    pub(crate) created_by: String,
    /// What annotation `pod-name` names, if that is not the Sandbox's own name.
    pub(crate) other_pod: Box<str>,
}

impl Detail {
    pub(crate) fn condition(&self, type_: &str) -> Option<&Condition> {
        find_condition(&self.conditions, type_)
    }
}

/// `metadata.resourceVersion` as a number; they grow with each write to the cluster.
pub(crate) fn version_of(text: Option<&String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl SandboxRecord {
    /// Whether it is an unclaimed member of a pool.
    pub(crate) fn is_member(&self) -> bool {
        matches!(self.owner, Owner::Pool { .. })
            && self.marks.warm_pool
            && self.marks.template_ref_hash
    }

    pub(crate) fn pool_uid(&self) -> Option<&str> {
        match &self.owner {
            Owner::Pool { uid, .. } if self.is_member() => Some(uid),
            _ => None,
        }
    }

    pub(crate) fn claim_uid(&self) -> Option<&str> {
        match &self.owner {
            Owner::Claim { uid } => Some(uid),
            _ => None,
        }
    }

    /// Whether it is suspended and no pod of it is left.
    pub(crate) fn has_no_pod(&self) -> bool {
        let suspended = self
            .detail
            .as_ref()
            .and_then(|detail| detail.condition(condition::SUSPENDED));
        self.mode == OperatingMode::Suspended
            && suspended.is_some_and(|suspended| {
                suspended.status == "True" && suspended.reason == reason::POD_TERMINATED
            })
    }

    /// Whether it exists in the API as far as is known.
    pub(crate) fn exists(&self) -> bool {
        !self.uid.0.is_empty()
    }

    /// Whether it uses PersistentVolumeClaims.
    pub(crate) fn has_volumes(&self) -> bool {
        !self.templates.is_empty() || !self.spec.claims.is_empty()
    }

    /// The PersistentVolumeClaims that it uses: those of its templates, and those that its PodSpec names for other volumes.
    pub(crate) fn pvcs(&self) -> Vec<Key> {
        let templated = |volume: &str| {
            let mut templates = self.templates.iter();
            templates.any(|template| template.metadata.name == volume)
        };
        let of_templates = self
            .templates
            .iter()
            .map(|template| format!("{}-{}", template.metadata.name, self.key.name));
        let claims = self.spec.claims.iter();
        let named = claims.filter(|(volume, _)| !templated(volume));
        let names: std::collections::BTreeSet<String> = of_templates
            .chain(named.map(|(_, claim)| claim.clone()))
            .collect();
        let namespace = &self.key.namespace;
        let keys = names.into_iter();
        keys.map(|name| Key::new(namespace.clone(), name)).collect()
    }

    /// Whether its object stays until its pod is gone.
    pub(crate) fn is_guarded(&self) -> bool {
        self.finalizers
            .iter()
            .any(|name| name == TEARDOWN_FINALIZER)
    }

    /// Takes over what the object says; what only we know stays.
    pub(crate) fn update(
        &mut self,
        sandbox: Sandbox,
        spec: Arc<SpecFacts>,
        pod_labels: Arc<Labels>,
        semantics: u64,
    ) {
        let Sandbox {
            metadata,
            spec: wanted,
            status,
        } = sandbox;
        let status = status.unwrap_or_default();
        self.version = version_of(metadata.resource_version.as_ref());
        self.uid = metadata.uid.unwrap_or_default().into();
        self.generation = metadata.generation.unwrap_or(0);
        self.created = metadata
            .creation_timestamp
            .map_or(0, |Time(at)| at.as_second());
        self.finalizers = metadata.finalizers.unwrap_or_default().into();
        self.templates = wanted.volume_claim_templates.into();
        self.service = wanted.service;
        self.deleting = metadata.deletion_timestamp.is_some() || self.deleted;
        let mut labels = metadata.labels.unwrap_or_default();
        self.owner = Owner::of(metadata.owner_references.unwrap_or_default(), &labels);
        let mut annotations = metadata.annotations.unwrap_or_default();
        let launch_type = labels.get(label::LAUNCH_TYPE);
        self.marks = Marks {
            warm_pool: labels.contains_key(label::WARM_POOL),
            template_ref_hash: labels.contains_key(label::TEMPLATE_REF_HASH),
            template_hash: labels.contains_key(label::TEMPLATE_HASH),
            pod_template_hash: labels.contains_key(label::POD_TEMPLATE_HASH),
            created_by: labels.contains_key(label::CREATED_BY),
            launched_warm: launch_type.is_some_and(|launch| launch == "warm"),
            launch_type: launch_type.is_some(),
            labels: !labels.is_empty(),
            annotations: !annotations.is_empty(),
            warmth: annotations.contains_key(annotation::WARMTH),
            suspended_by: annotations.contains_key(annotation::SUSPENDED_BY),
            pod_name: annotations
                .get(annotation::POD_NAME)
                .is_some_and(|name| !name.is_empty()),
        };
        self.template_hash = labels
            .remove(label::TEMPLATE_HASH)
            .unwrap_or_default()
            .into();
        self.template_ref_hash = labels
            .remove(label::TEMPLATE_REF_HASH)
            .unwrap_or_default()
            .into();
        self.node = labels
            .remove(label::NODE)
            .filter(|node| !node.is_empty())
            .map(NodeName);
        self.spec = spec;
        self.pod_labels = pod_labels;
        self.semantics = semantics;
        self.mode = wanted.operating_mode;
        self.resumed =
            self.marks.suspended_by && (self.resumed || self.mode != OperatingMode::Suspended);
        self.ready = find_condition(&status.conditions, condition::READY).map(|ready| ReadyState {
            is_true: ready.status == "True",
            since: ready.last_transition_time.0,
        });
        self.detail = if self.is_member() && self.node.is_some() {
            None
        } else {
            Some(Box::new(Detail {
                fields: StatusFields::of(&status),
                conditions: status.conditions,
                pod_ips: status.pod_ips,
                service: status.service,
                service_fqdn: status.service_fqdn,
                pod_metadata: wanted.pod_template.metadata,
                shutdown_time: wanted.shutdown_time.map(|Time(at)| at),
                shutdown_policy: wanted.shutdown_policy,
                template: annotations
                    .remove(annotation::TEMPLATE_REF)
                    .unwrap_or_default(),
                created_by: labels.remove(label::CREATED_BY).unwrap_or_default(),
                other_pod: annotations
                    .remove(annotation::POD_NAME)
                    .filter(|name| *name != self.key.name)
                    .unwrap_or_default()
                    .into(),
            }))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_with_success() {
        let mut retry = Retry::default();
        let ms = Duration::from_millis;
        assert_eq!(retry.failed(ms(0)), ms(100));
        assert_eq!(retry.failed(ms(100)), ms(300));
        assert_eq!(retry.blocked_until(ms(200)), Some(ms(300)));
        assert_eq!(retry.blocked_until(ms(300)), None);
        for _ in 0..20 {
            retry.failed(ms(0));
        }
        assert_eq!(retry.failed(ms(0)), Retry::LONGEST);
        retry.succeeded();
        assert_eq!(retry.failed(ms(0)), ms(100));
    }
}

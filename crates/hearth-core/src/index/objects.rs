//! What watches bring.
//!
//! An object that is not newer than what is known is dropped: replies to our own writes come in beside the watch, so
//! either may be late. (Resource versions grow with each write to the cluster.)

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::reason;
use hearth_api::{Sandbox, SandboxClaim, SandboxTemplate};

use super::census::Sort;
use super::claim::ClaimRecord;
use super::outcomes::WATCH_LAG;
use super::pool::PoolRecord;
use super::sandbox::{Retry, SandboxRecord, version_of};
use super::spec::semantics;
use super::{Index, SandboxOp, Stage};
use crate::effects::{Now, Observation};
use crate::ids::{Key, SandboxUid};
use crate::placement::RuntimeClass;
use crate::pool::Template;
use crate::status;
use kube_meta::key_of;
use serde::Deserialize;

pub(super) mod kube_meta {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use crate::ids::Key;

    /// Namespace and name; nothing for an object without a name, which no API server sends.
    pub(in crate::index) fn key_of(metadata: &ObjectMeta) -> Option<Key> {
        Some(Key::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone()?,
        ))
    }
}

impl Index {
    /// A Sandbox is as given.
    pub fn apply_sandbox(&mut self, sandbox: Sandbox, now: Now) {
        self.now = now;
        let Some(key) = key_of(&sandbox.metadata) else {
            return;
        };
        let version = version_of(sandbox.metadata.resource_version.as_ref());
        let uid = sandbox.metadata.uid.as_deref().unwrap_or_default();
        let known = self.sandbox(&key).map(|r| {
            (
                r.id,
                r.exists() && r.uid.as_str() != uid,
                r.exists() && version <= r.version,
            )
        });
        let id = match known {
            Some((_, _, true)) => return,
            Some((id, true, _)) => {
                self.forget_sandbox(id);
                None
            }
            Some((id, false, _)) => Some(id),
            None => None,
        };
        let specs = self.namespaces.specs(&key.namespace);
        let spec = specs.facts(&sandbox.spec.pod_template.spec);
        let semantics = semantics(
            spec.meaning,
            &sandbox.spec.volume_claim_templates,
            sandbox.spec.service,
            sandbox.spec.idle.as_ref(),
            sandbox.spec.recreate,
        );
        let is_new = id.is_none();
        let id = id.unwrap_or_else(|| self.insert_sandbox(blank(key.clone(), now)));
        self.census.set(id, Sort::of(&sandbox));
        crate::events::sandbox_seen(self, id, &sandbox, is_new);
        let status = sandbox.status.as_ref();
        let refusal = status.and_then(|status| status::refusal_in(&status.conditions));
        let labels = self
            .pod_labels
            .share(&sandbox.spec.pod_template.metadata.labels);
        let asks_anew = self.change_sandbox(id, |record| {
            let (before, generation) = (record.node.clone(), record.generation);
            let expected = (!record.exists()).then(|| record.owner.clone());
            record.update(sandbox, spec, labels, semantics);
            // What was to become of one that was to be made is nothing to somebody else's of the same name.
            if expected.is_some_and(|owner| owner != record.owner) {
                record.leaving = None;
            }
            if record.node != before {
                record.node_seen = now.mono;
                record.heard = false;
            }
            record.generation != generation
        });
        if asks_anew == Some(true) {
            crate::services::asked_anew(self, &key);
        }
        self.compare_with_template(id);
        self.count_readiness(id, is_new);
        crate::pool::note_refusal(self, id, refusal);
        self.sandbox_changed(&key);
    }

    /// Counts how long a Sandbox took to become ready, once, if we saw it before it was.
    fn count_readiness(&mut self, id: u64, is_new: bool) {
        let Some(record) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let Some(ready) = record.ready.filter(|ready| ready.is_true) else {
            return;
        };
        let counted = std::mem::replace(&mut record.ready_counted, true);
        if counted || is_new {
            return;
        }
        let template = self.census.template_of(id);
        let namespace = record.key.namespace.clone();
        let launch_type = if record.marks.launched_warm {
            "warm"
        } else {
            "cold"
        };
        let seconds = u64::try_from(ready.since.as_second() - record.created).unwrap_or(0);
        let since_creation = Duration::from_secs(seconds);
        self.observe(Observation::SandboxReady {
            namespace,
            launch_type,
            template,
            since_creation,
        });
    }

    /// The Sandbox of this name and UID is gone.
    pub fn delete_sandbox(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        let Some(record) = self.sandbox(key) else {
            return;
        };
        // An empty UID is one whose creation we have not heard back from: it was made and deleted meanwhile.
        if record.exists() && record.uid.as_str() != uid {
            return;
        }
        self.forget_sandbox(record.id);
    }

    /// These are all the Sandboxes that there are.
    pub fn retain_sandboxes(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        let gone = |record: &&SandboxRecord| record.exists() && !present.contains(&record.key);
        let gone: Vec<_> = self
            .sandboxes
            .values()
            .filter(gone)
            .map(|record| record.id)
            .collect();
        gone.into_iter().for_each(|id| self.forget_sandbox(id));
    }

    fn forget_sandbox(&mut self, id: u64) {
        crate::attachments::forget(self, id);
        let creating =
            |record: &SandboxRecord| record.op == Some(SandboxOp::Creating) || record.maybe_again;
        if self.sandboxes.get(&id).is_some_and(creating) {
            // The creation that is still under way may make it once more, so it goes on counting.
            let give_up = self.now.mono + WATCH_LAG;
            let key = self.change_sandbox(id, |record| {
                record.dead = Some(std::mem::replace(
                    &mut record.uid,
                    SandboxUid(String::new()),
                ));
                record.deleting = false;
                record.deleted = false;
                record.leaving = None;
                record.op = record.op.filter(|op| *op == SandboxOp::Creating);
                if std::mem::take(&mut record.maybe_again) {
                    record.given_up_at = Some(give_up);
                }
                record.key.clone()
            });
            key.iter().for_each(|key| self.mark_sandbox(key));
            return;
        }
        let Some(record) = self.remove_sandbox(id) else {
            return;
        };
        if let Some(claim) = self.claim_of_sandbox.get(&record.key)
            && let Some(claim) = self.claims.get_mut(claim)
        {
            claim.unadopted_lost |= record.is_member();
            claim.adopted_lost |= record.claim_uid() == Some(claim.uid.as_str());
        }
        if let Some(uid) = record.claim_uid() {
            self.mark_claim_uid(uid);
        }
        if let Some(uid) = record.reserved.as_deref() {
            self.mark_claim_uid(uid);
        }
        self.sandbox_changed(&record.key);
    }

    /// Notes a Sandbox whose creation is about to be sent, so that it counts from now on.
    pub(crate) fn expect_sandbox(&mut self, key: &Key, object: &serde_json::Value) {
        let Ok(sandbox) = Sandbox::deserialize(object) else {
            return;
        };
        let specs = self.namespaces.specs(&key.namespace);
        let spec = specs.facts(&sandbox.spec.pod_template.spec);
        let semantics = semantics(
            spec.meaning,
            &sandbox.spec.volume_claim_templates,
            sandbox.spec.service,
            sandbox.spec.idle.as_ref(),
            sandbox.spec.recreate,
        );
        let labels = self
            .pod_labels
            .share(&sandbox.spec.pod_template.metadata.labels);
        let mut record = blank(key.clone(), self.now);
        record.update(sandbox, spec, labels, semantics);
        record.op = Some(SandboxOp::Creating);
        self.insert_sandbox(record);
    }

    /// The claim whose status names this Sandbox.
    pub(crate) fn claim_of_sandbox(&self, sandbox: &Key) -> Option<Key> {
        self.claim_of_sandbox.get(sandbox).cloned()
    }

    /// The template that a claim's lost Sandbox was made from.
    pub(crate) fn template_of_lost(&self, claim: &ClaimRecord) -> Option<Arc<Template>> {
        let name = claim.template.clone()?;
        self.templates
            .get(&Key::new(claim.key.namespace.clone(), name))
            .cloned()
    }

    /// Marks what depends on a Sandbox.
    pub(crate) fn sandbox_changed(&mut self, key: &Key) {
        self.mark_sandbox(key);
        crate::services::sandbox_changed(self, key);
        // Both a claim of the same name and the one that has it look at it.
        self.mark_claim(key);
        if let Some(claim) = self.claim_of_sandbox.get(key).cloned() {
            self.mark_claim(&claim);
        }
        if let Some(uid) = self
            .sandbox(key)
            .and_then(SandboxRecord::claim_uid)
            .map(str::to_owned)
        {
            self.mark_claim_uid(&uid);
        }
    }

    /// A claim is as given.
    pub fn apply_claim(&mut self, claim: SandboxClaim, now: Now) {
        self.now = now;
        let Some(key) = key_of(&claim.metadata) else {
            return;
        };
        let version = version_of(claim.metadata.resource_version.as_ref());
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let known = self
            .claims
            .get(&key)
            .map(|record| (record.uid == uid, version <= record.version));
        match known {
            Some((_, true)) => return,
            Some((false, _)) => self.forget_claim(&key),
            Some((true, false)) | None => {}
        }
        if !self.claims.contains_key(&key) {
            let sequence = self.next_sequence();
            self.claims.insert(
                key.clone(),
                ClaimRecord::new(key.clone(), sequence, now.mono, now.wall),
            );
            self.last_claim_activity = Some(now.mono);
        }
        let is_new = known.is_none_or(|(same, _)| !same);
        if let Some(record) = self.claims.get_mut(&key) {
            let before = record.sandbox.clone();
            record.update(claim);
            if self.settings.trace_contexts {
                record.begin_trace();
            }
            // What was ready before we saw it was counted by whoever made it so.
            record.ready_counted |= is_new && record.is_ready();
            record.expiry_told |= is_new && record.reason() == Some(reason::CLAIM_EXPIRED);
            let after = record.sandbox.clone();
            if before != after {
                let sandbox_key = |name| Key::new(key.namespace.clone(), name);
                self.claim_of_sandbox.remove(&sandbox_key(before));
                if !after.is_empty() {
                    self.claim_of_sandbox
                        .insert(sandbox_key(after), key.clone());
                }
            }
        }
        self.claim_keys.insert(uid, key.clone());
        self.requeue_waiting(&key);
        self.mark_claim(&key);
    }

    /// The claim of this name and UID is gone.
    pub fn delete_claim(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.claims.get(key).is_some_and(|record| record.uid == uid) {
            self.forget_claim(key);
        }
    }

    /// These are all the claims that there are.
    pub fn retain_claims(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        let gone: Vec<_> = self
            .claims
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        gone.iter().for_each(|key| self.forget_claim(key));
    }

    fn forget_claim(&mut self, key: &Key) {
        let Some(record) = self.claims.remove(key) else {
            return;
        };
        self.claim_keys.remove(&record.uid);
        self.claim_of_sandbox
            .remove(&Key::new(key.namespace.clone(), record.sandbox.clone()));
        self.leave_waiting(&record);
        if self.leading.is_some() {
            crate::claim::gone(self, &record);
        }
    }

    /// Puts a claim into its pool's waiting list if it still needs a Sandbox, or takes it out.
    pub(crate) fn requeue_waiting(&mut self, key: &Key) {
        let Some(record) = self.claims.get(key) else {
            return;
        };
        let namesake = self
            .sandbox(key)
            .is_some_and(|sandbox| sandbox.claim_uid() == Some(&record.uid));
        let waits = !record.deleting && !record.is_answered() && !namesake;
        let wanted = waits.then(|| record.pool_key());
        if record.waiting_on == wanted {
            return;
        }
        let record = record.clone();
        self.leave_waiting(&record);
        if let Some(pool) = &wanted {
            self.waiting
                .entry(pool.clone())
                .or_default()
                .insert(record.sequence, key.clone());
        }
        if let Some(record) = self.claims.get_mut(key) {
            record.waiting_on = wanted;
        }
    }

    fn leave_waiting(&mut self, record: &ClaimRecord) {
        let Some(pool) = &record.waiting_on else {
            return;
        };
        self.leave_hungry(pool, record.sequence);
        if let Some(waiting) = self.waiting.get_mut(pool) {
            waiting.remove(record.sequence);
            if waiting.is_empty() {
                self.waiting.remove(pool);
            }
        }
    }

    /// A template is as given.
    pub fn apply_template(&mut self, template: SandboxTemplate, now: Now) {
        self.now = now;
        let Some(key) = key_of(&template.metadata) else {
            return;
        };
        let version = version_of(template.metadata.resource_version.as_ref());
        if self
            .templates
            .get(&key)
            .is_some_and(|known| version <= known.version)
        {
            return;
        }
        let template = Template::new(template, self.namespaces.specs(&key.namespace));
        self.templates.insert(key.clone(), Arc::new(template));
        self.template_changed(&key);
    }

    /// The template of this name and UID is gone.
    pub fn delete_template(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self
            .templates
            .get(key)
            .is_some_and(|template| template.uid == uid)
        {
            self.templates.remove(key);
            self.template_changed(key);
        }
    }

    /// These are all the templates that there are.
    pub fn retain_templates(&mut self, present: &HashSet<Key>, now: Now) {
        let gone = self
            .templates
            .iter()
            .filter(|(key, _)| !present.contains(key));
        let gone: Vec<_> = gone
            .map(|(key, template)| (key.clone(), template.uid.clone()))
            .collect();
        gone.iter()
            .for_each(|(key, uid)| self.delete_template(key, uid, now));
    }

    fn template_changed(&mut self, key: &Key) {
        self.judge_template(key);
        crate::templates::changed(self, key);
        let uses =
            |pool: &&PoolRecord| pool.key.namespace == key.namespace && pool.template == key.name;
        let pools: Vec<_> = self
            .pools
            .values()
            .filter(uses)
            .map(|pool| pool.key.clone())
            .collect();
        for pool in pools {
            self.compare_members(&pool);
            self.mark_pool(&pool);
            self.mark_waiting(&pool);
        }
        self.mark_followers(key);
    }

    /// A RuntimeClass is there.
    pub fn apply_runtime_class(&mut self, name: String, class: RuntimeClass, now: Now) {
        self.now = now;
        let overhead = class.overhead;
        let before = self.runtime_classes.insert(name.clone(), class);
        if before.map(|class| class.overhead).unwrap_or_default() != overhead {
            let of_class = |record: &&SandboxRecord| record.spec.shape.runtime_class == name;
            let records = self.sandboxes.values().filter(of_class);
            let ids: Vec<_> = records.map(|record| record.id).collect();
            ids.into_iter().for_each(|id| self.refresh(id));
        }
        self.retry_unplaced();
    }

    /// These RuntimeClasses are all that there are.
    pub fn retain_runtime_classes(&mut self, present: &HashSet<String>, now: Now) {
        self.now = now;
        self.runtime_classes
            .retain(|name, _| present.contains(name));
    }

    /// The RuntimeClass is gone.
    pub fn delete_runtime_class(&mut self, name: &str, now: Now) {
        self.now = now;
        self.runtime_classes.remove(name);
    }
}

/// A record that is filled in next.
pub(crate) fn blank(key: Key, now: Now) -> SandboxRecord {
    SandboxRecord {
        id: 0,
        key,
        uid: "".into(),
        version: 0,
        generation: 0,
        created: 0,
        deleting: false,
        owner: super::Owner::Nobody,
        marks: super::sandbox::Marks::default(),
        template_hash: "".into(),
        template_ref_hash: "".into(),
        node: None,
        spec: Arc::default(),
        templates: Box::default(),
        finalizers: Box::default(),
        pod_labels: Arc::default(),
        semantics: 0,
        outdated: false,
        service: None,
        mode: hearth_api::OperatingMode::Running,
        resumed: false,
        ready: None,
        said: crate::events::Said::default(),
        detail: None,
        op: None,
        leaving: None,
        retry: Retry::default(),
        reserved: None,
        aside_until: None,
        given_up_at: None,
        deleted: false,
        ready_counted: false,
        dead: None,
        maybe_again: false,
        first_seen: now.mono,
        node_seen: now.mono,
        heard: false,
        intended: None,
    }
}

impl ClaimRecord {
    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.stage != Stage::Idle
    }
}

impl SandboxRecord {
    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.op.is_some_and(|op| op != SandboxOp::RetireUnknown)
    }
}

//! The API server: objects, versions, watches, patches; with the garbage collector and the controller that brings
//! PersistentVolumeClaims and PersistentVolumes together.

use std::collections::{BTreeMap, HashSet, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::{Kind, key_of};
use super::valid;
use crate::effects::{Body, Intent, Outcome, Write};
use crate::ids::Key;
use crate::index::testing::{at, merge, operate};

/// Annotation of objects that are somebody else's.
pub(super) const FOREIGN: &str = "example.com/foreign";
/// Annotation by which somebody else makes a new version of an object.
pub(super) const TOUCHED: &str = "example.com/touched";
/// Finalizer of what goes after its dependents.
const FOREGROUND: &str = "foregroundDeletion";

pub(super) enum Event {
    Apply(Value),
    Delete(Key, String),
}

#[derive(Default)]
pub(in crate::index) struct Api {
    objects: BTreeMap<(Kind, Key), Value>,
    version: u64,
    /// With when they happened.
    events: BTreeMap<Kind, VecDeque<(u64, Event)>>,
    most_replicas: usize,
    /// The version at which there was nothing to collect and nothing to bind.
    tidy_at: u64,
    /// Milliseconds since the start.
    pub(super) now: u64,
}

impl Api {
    pub(in crate::index) fn get(&self, kind: Kind, key: &Key) -> Option<&Value> {
        self.objects.get(&(kind, key.clone()))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, &Value)> {
        self.objects
            .iter()
            .map(|((kind, _), object)| (*kind, object))
    }

    pub(in crate::index) fn of_kind(&self, wanted: Kind) -> impl Iterator<Item = &Value> {
        self.all()
            .filter(move |(kind, _)| *kind == wanted)
            .map(|(_, object)| object)
    }

    pub(super) fn keys(&self, wanted: Kind) -> HashSet<Key> {
        self.of_kind(wanted).map(key_of).collect()
    }

    /// Another one whenever anything has changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn start_watches(&mut self) {
        self.events.clear();
    }

    /// Nothing of what has happened is shown any more.
    pub(super) fn start_watch(&mut self, kind: Kind) {
        self.events.remove(&kind);
    }

    pub(super) fn next_event(&mut self, kind: Kind) -> Option<Event> {
        let (_, event) = self.events.get_mut(&kind)?.pop_front()?;
        Some(event)
    }

    /// Whether something that the watch has yet to show happened that many milliseconds ago or before.
    pub(super) fn lags(&self, kind: Kind, by: u64) -> bool {
        let next = self.events.get(&kind).and_then(VecDeque::front);
        next.is_some_and(|(at, _)| at + by <= self.now)
    }

    pub(in crate::index) fn names(&self, kind: Kind) -> Vec<String> {
        self.of_kind(kind)
            .map(|object| key_of(object).name)
            .collect()
    }

    /// The members of the pool that no claim has, as far as their objects tell.
    pub(in crate::index) fn members(&self) -> Vec<String> {
        let members = self
            .of_kind(Kind::Sandbox)
            .filter(|object| is_member(object));
        members.map(|object| key_of(object).name).collect()
    }

    pub(super) fn replicas(&self) -> usize {
        let pool = self.get(Kind::Pool, &Key::new("n", "pool"));
        pool.map_or(0, |pool| {
            usize::try_from(pool["spec"]["replicas"].as_u64().unwrap()).unwrap()
        })
    }

    /// The most that the pool has asked for: a controller may not know of a smaller wish yet.
    pub(super) fn most_replicas(&self) -> usize {
        self.most_replicas
    }

    fn stamp(&self) -> Value {
        // The API server counts in seconds.
        at(self.now / 1000 * 1000).wall.to_string().into()
    }

    fn store(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        leave_out_what_is_empty(&mut object["metadata"]);
        let key = key_of(&object);
        let event = if is_over(&object) {
            self.objects.remove(&(kind, key.clone()));
            Event::Delete(key, uid_of(&object))
        } else {
            self.objects.insert((kind, key), object.clone());
            Event::Apply(object.clone())
        };
        if kind == Kind::Pool {
            self.most_replicas = self.most_replicas.max(self.replicas());
        }
        let events = self.events.entry(kind).or_default();
        events.push_back((self.now, event));
        object
    }

    pub(in crate::index) fn create(&mut self, kind: Kind, mut object: Value) -> Option<Value> {
        if self.objects.contains_key(&(kind, key_of(&object))) {
            return None;
        }
        self.version += 1;
        let uid = format!("00000000-0000-4000-8000-{:012}", self.version);
        object["metadata"]["uid"] = uid.into();
        object["metadata"]["generation"] = 1.into();
        object["metadata"]["creationTimestamp"] = self.stamp();
        if kind == Kind::Pv {
            object["status"] = json!({"phase": "Pending"});
        }
        Some(self.store(kind, object))
    }

    /// Marks an object as deleted, which ends it unless it has finalizers; `false` when it was so before.
    pub(in crate::index) fn delete(&mut self, kind: Kind, key: &Key) -> bool {
        let Some(mut object) = self.get(kind, key).cloned() else {
            return false;
        };
        if is_deleting(&object) {
            return false;
        }
        object["metadata"]["deletionTimestamp"] = self.stamp();
        self.store(kind, object);
        true
    }

    /// Somebody changes an object.
    pub(in crate::index) fn edit(
        &mut self,
        kind: Kind,
        key: &Key,
        change: impl FnOnce(&mut Value),
    ) {
        if let Some(mut object) = self.get(kind, key).cloned() {
            let before = object["spec"].clone();
            change(&mut object);
            if object["spec"] != before {
                next_generation(&mut object);
            }
            self.store(kind, object);
        }
    }

    /// Somebody makes a new version of an object in which nothing that matters is another.
    pub(super) fn touch(&mut self, kind: Kind, key: &Key) {
        let version = self.version.to_string();
        self.edit(kind, key, |object| {
            object["metadata"]["annotations"][TOUCHED] = version.into();
        });
    }

    /// A node writes the status of a Sandbox.
    pub(super) fn report(&mut self, key: &Key, status: Value) {
        if let Some(before) = self.get(Kind::Sandbox, key).cloned() {
            let mut after = before.clone();
            after["status"] = status;
            valid::check_status(Kind::Sandbox, &before, &after);
            self.store(Kind::Sandbox, after);
        }
    }

    pub(super) fn execute(&mut self, write: &Write) -> Outcome {
        let kind = Kind::of(&write.receipt.subject);
        let key = write.receipt.subject.key();
        if let Body::Create(object) = &write.body {
            assert_eq!(key_of(object), *key, "{write:?}");
            return self
                .create(kind, object.clone())
                .map_or(Outcome::Exists, |object| kind.done(object));
        }
        let Some(current) = self.get(kind, key).cloned() else {
            return Outcome::NotFound;
        };
        let is_it = current["metadata"]["uid"] == write.receipt.uid.as_str();
        if is_it {
            check_is_ours(write, &current, at(self.now).wall);
        }
        match &write.body {
            Body::Create(_) => unreachable!("handled before"),
            Body::Delete { .. } if !is_it => Outcome::Conflict,
            Body::Delete { foreground } => {
                if *foreground {
                    self.edit(kind, key, |object| {
                        object["metadata"]["finalizers"] = json!([FOREGROUND]);
                    });
                }
                self.delete(kind, key);
                Outcome::Done(None)
            }
            Body::Merge(patch) | Body::MergeStatus(patch) => {
                let mut object = current.clone();
                merge(&mut object, patch);
                let wanted = &patch["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != current["metadata"]["resourceVersion"] {
                    return Outcome::Conflict;
                }
                if object["metadata"]["uid"] != current["metadata"]["uid"] {
                    return Outcome::Conflict;
                }
                if matches!(write.body, Body::MergeStatus(_)) {
                    let mut only_status = current.clone();
                    only_status["status"] = object["status"].take();
                    valid::check_status(kind, &current, &only_status);
                    object = only_status;
                }
                self.put(kind, &current, object)
            }
            Body::Operations(operations) => {
                let mut object = current.clone();
                if operate(&mut object, operations) {
                    self.put(kind, &current, object)
                } else {
                    Outcome::Conflict
                }
            }
        }
    }

    fn put(&mut self, kind: Kind, before: &Value, mut object: Value) -> Outcome {
        let controllers = owners(&object).filter(|owner| owner["controller"] == true);
        if controllers.count() > 1 {
            return Outcome::Conflict;
        }
        if object["spec"] != before["spec"] {
            next_generation(&mut object);
        }
        kind.done(self.store(kind, object))
    }

    /// What other controllers of the cluster do; `true` when there was anything.
    pub(super) fn tidy_up(&mut self) -> bool {
        if self.tidy_at == self.version {
            return false;
        }
        let collected = self.collect_garbage();
        let busy = self.bind_volumes() || collected;
        if !busy {
            self.tidy_at = self.version;
        }
        busy
    }

    /// Removes what has lost its owners, and what waited for its dependents to go; `true` when there was anything.
    fn collect_garbage(&mut self) -> bool {
        let there: HashSet<String> = self.objects.values().map(uid_of).collect();
        let waiting: HashSet<String> = self
            .objects
            .values()
            .filter(|object| waits_for_dependents(object))
            .map(uid_of)
            .collect();
        let owned = |object: &Value, by: &HashSet<String>| {
            owners(object).any(|owner| by.contains(owner["uid"].as_str().unwrap()))
        };
        let is_lost = |object: &&Value| {
            let orphaned = owners(object).next().is_some() && !owned(object, &there);
            !is_deleting(object) && (orphaned || owned(object, &waiting))
        };
        let entries = self.objects.iter();
        let lost: Vec<_> = entries
            .filter(|(_, object)| is_lost(object))
            .map(|(key, _)| key.clone())
            .collect();
        let has_dependents = |uid: &str| {
            let mut all = self.objects.values();
            all.any(|object| owners(object).any(|owner| owner["uid"] == uid))
        };
        let free: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| waits_for_dependents(object) && !has_dependents(&uid_of(object)))
            .map(|(key, _)| key.clone())
            .collect();
        for (kind, key) in &lost {
            self.delete(*kind, key);
        }
        for (kind, key) in &free {
            self.edit(*kind, key, |object| {
                object["metadata"]["finalizers"] = json!([]);
            });
        }
        !lost.is_empty() || !free.is_empty()
    }

    /// Brings claims and volumes together, and frees volumes whose claims are gone; `true` when there was anything.
    fn bind_volumes(&mut self) -> bool {
        let mut busy = false;
        let volumes: Vec<Value> = self.of_kind(Kind::Pv).cloned().collect();
        for pv in volumes {
            let wanted = &pv["spec"]["claimRef"];
            let text = |field: &str| wanted[field].as_str().unwrap_or_default();
            let claim = Key::new(text("namespace"), text("name"));
            let there = self.get(Kind::Pvc, &claim);
            let there = there.is_some_and(|pvc| pvc["metadata"]["uid"] == wanted["uid"]);
            let phase = if there { "Bound" } else { "Released" };
            if pv["status"]["phase"] == phase {
                continue;
            }
            busy = true;
            let name = pv["metadata"]["name"].clone();
            if there {
                self.edit(Kind::Pvc, &claim, |pvc| {
                    pvc["spec"]["volumeName"] = name;
                    pvc["status"] = json!({"phase": "Bound"});
                });
            }
            self.edit(Kind::Pv, &key_of(&pv), |pv| {
                pv["status"] = json!({"phase": phase});
            });
        }
        busy
    }
}

/// Whether a Sandbox is a member of the pool that no claim has, or is to be one again.
pub(super) fn is_member(object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    let mut controllers = owners(object).filter(|owner| owner["controller"] == true);
    let of_pool = controllers
        .next()
        .is_none_or(|owner| owner["kind"] == "SandboxWarmPool");
    let claimed = &labels["agents.x-k8s.io/claim-uid"];
    of_pool && labels["agents.x-k8s.io/warm-pool-sandbox"].is_string() && claimed.is_null()
}

pub(super) fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

pub(super) fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten()
}

pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn finalizers(object: &Value) -> impl Iterator<Item = &Value> {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.into_iter().flatten()
}

fn is_over(object: &Value) -> bool {
    is_deleting(object) && finalizers(object).next().is_none()
}

fn waits_for_dependents(object: &Value) -> bool {
    is_deleting(object) && finalizers(object).any(|name| name == FOREGROUND)
}

/// As the API server, which is written in Go.
fn leave_out_what_is_empty(metadata: &mut Value) {
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(all) => !all.is_empty(),
            Value::Array(all) => !all.is_empty(),
            _ => true,
        });
    }
}

fn next_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap();
    object["metadata"]["generation"] = (generation + 1).into();
}

/// What is somebody else's is not written. A Sandbox of somebody else's is run, which takes these writes, and ends when it
/// says so.
fn check_is_ours(write: &Write, current: &Value, now: Timestamp) {
    let spec = &current["spec"];
    let end = spec["shutdownTime"].as_str();
    let is_over = end.is_some_and(|end| end.parse::<Timestamp>().unwrap() <= now);
    let serves = match write.receipt.intent {
        Intent::Place | Intent::PodName | Intent::SandboxStatus => true,
        Intent::SandboxDelete => is_over && spec["shutdownPolicy"] == "Delete",
        _ => false,
    };
    let foreign = &current["metadata"]["annotations"][FOREIGN];
    assert!(
        foreign.is_null() || serves,
        "somebody else's object is written: {write:?}"
    );
}

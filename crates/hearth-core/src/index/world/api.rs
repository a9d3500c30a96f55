//! The API server: objects, versions, watches, patches, garbage collection.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde_json::Value;

use super::super::testing::at;
use crate::effects::{Body, Object, Outcome, Subject, Write};
use crate::ids::Key;
use crate::index::testing::{merge, operate};
use crate::templates::PolicyRecord;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::index) enum Kind {
    Claim,
    Sandbox,
    Pool,
    Template,
    Policy,
}

impl Kind {
    pub(in crate::index) const ALL: [Self; 5] = [
        Self::Claim,
        Self::Sandbox,
        Self::Pool,
        Self::Template,
        Self::Policy,
    ];
}

pub(super) enum Event {
    Apply(Value),
    Delete(Key, String),
}

#[derive(Default)]
pub(in crate::index) struct Api {
    objects: BTreeMap<(Kind, Key), Value>,
    version: u64,
    events: BTreeMap<Kind, VecDeque<Event>>,
    most_replicas: usize,
    /// Milliseconds since the start.
    pub(super) now: u64,
}

impl Api {
    pub(in crate::index) fn get(&self, kind: Kind, key: &Key) -> Option<&Value> {
        self.objects.get(&(kind, key.clone()))
    }

    pub(super) fn all(&self) -> Vec<(Kind, Value)> {
        self.objects
            .iter()
            .map(|((kind, _), object)| (*kind, object.clone()))
            .collect()
    }

    pub(super) fn keys(&self, wanted: Kind) -> HashSet<Key> {
        self.objects
            .keys()
            .filter(|(kind, _)| *kind == wanted)
            .map(|(_, key)| key.clone())
            .collect()
    }

    pub(super) fn start_watches(&mut self) {
        self.events.clear();
    }

    pub(super) fn next_event(&mut self, kind: Kind) -> Option<Event> {
        self.events.get_mut(&kind)?.pop_front()
    }

    pub(in crate::index) fn sandbox_names(&self) -> Vec<String> {
        self.keys_sorted(Kind::Sandbox)
            .into_iter()
            .map(|key| key.name)
            .collect()
    }

    fn keys_sorted(&self, wanted: Kind) -> Vec<Key> {
        self.objects
            .keys()
            .filter(|(kind, _)| *kind == wanted)
            .map(|(_, key)| key.clone())
            .collect()
    }

    pub(super) fn members(&self) -> Vec<String> {
        let is_member =
            |object: &&Value| object["metadata"]["ownerReferences"][0]["kind"] == "SandboxWarmPool";
        let sandboxes = self
            .objects
            .iter()
            .filter(|((kind, _), _)| *kind == Kind::Sandbox)
            .map(|(_, object)| object);
        sandboxes
            .filter(is_member)
            .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
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

    fn store(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let key = key_of(&object);
        self.objects.insert((kind, key), object.clone());
        if kind == Kind::Pool {
            self.most_replicas = self.most_replicas.max(self.replicas());
        }
        self.events
            .entry(kind)
            .or_default()
            .push_back(Event::Apply(object.clone()));
        object
    }

    pub(in crate::index) fn create(&mut self, kind: Kind, mut object: Value) -> Option<Value> {
        if self.objects.contains_key(&(kind, key_of(&object))) {
            return None;
        }
        self.version += 1;
        object["metadata"]["uid"] = format!("u{}", self.version).into();
        object["metadata"]["generation"] = 1.into();
        // The API server counts in seconds.
        let created = at(self.now / 1000 * 1000).wall;
        object["metadata"]["creationTimestamp"] = created.to_string().into();
        Some(self.store(kind, object))
    }

    pub(in crate::index) fn delete(&mut self, kind: Kind, key: &Key) -> bool {
        let Some(object) = self.objects.remove(&(kind, key.clone())) else {
            return false;
        };
        self.version += 1;
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        self.events
            .entry(kind)
            .or_default()
            .push_back(Event::Delete(key.clone(), uid));
        true
    }

    pub(in crate::index) fn edit(
        &mut self,
        kind: Kind,
        key: &Key,
        change: impl FnOnce(&mut Value),
    ) {
        if let Some(mut object) = self.objects.get(&(kind, key.clone())).cloned() {
            let before = object["spec"].clone();
            change(&mut object);
            if object["spec"] != before {
                next_generation(&mut object);
            }
            self.store(kind, object);
        }
    }

    pub(super) fn execute(&mut self, write: &Write, _now: u64) -> Outcome {
        let (kind, key) = match &write.receipt.subject {
            Subject::Claim(key) => (Kind::Claim, key.clone()),
            Subject::Sandbox(key) => (Kind::Sandbox, key.clone()),
            Subject::Pool(key) => (Kind::Pool, key.clone()),
            Subject::Template(key) => (Kind::Template, key.clone()),
            Subject::NetworkPolicy(key) => (Kind::Policy, key.clone()),
            other => unreachable!("nothing here has a {other:?}"),
        };
        if let Body::Create(object) = &write.body {
            return self
                .create(kind, object.clone())
                .map_or(Outcome::Exists, |object| done(kind, object));
        }
        let Some(current) = self.get(kind, &key).cloned() else {
            return Outcome::NotFound;
        };
        match &write.body {
            Body::Create(_) => unreachable!("handled before"),
            Body::Delete { .. } => {
                if current["metadata"]["uid"] != write.receipt.uid.as_str() {
                    return Outcome::Conflict;
                }
                self.delete(kind, &key);
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
                let result = if matches!(write.body, Body::MergeStatus(_)) {
                    let mut only_status = current;
                    only_status["status"] = object["status"].take();
                    only_status
                } else {
                    object
                };
                done(kind, self.store(kind, result))
            }
            Body::Operations(operations) => {
                let before = current["spec"].clone();
                let mut object = current;
                if !operate(&mut object, operations) {
                    return Outcome::Conflict;
                }
                if object["spec"] != before {
                    next_generation(&mut object);
                }
                done(kind, self.store(kind, object))
            }
        }
    }

    /// Removes what has lost its owner; `true` when there was anything.
    pub(super) fn collect_garbage(&mut self) -> bool {
        let uids: HashSet<String> = self
            .objects
            .values()
            .map(|object| object["metadata"]["uid"].as_str().unwrap().to_owned())
            .collect();
        let orphans: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                let owner = &object["metadata"]["ownerReferences"][0]["uid"];
                owner.as_str().is_some_and(|owner| !uids.contains(owner))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for (kind, key) in &orphans {
            self.delete(*kind, key);
        }
        !orphans.is_empty()
    }
}

fn next_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap();
    object["metadata"]["generation"] = (generation + 1).into();
}

fn done(kind: Kind, object: Value) -> Outcome {
    match kind {
        Kind::Claim => Outcome::Done(Some(Box::new(Object::Claim(
            serde_json::from_value(object).unwrap(),
        )))),
        Kind::Sandbox => Outcome::Done(Some(Box::new(Object::Sandbox(
            serde_json::from_value(object).unwrap(),
        )))),
        Kind::Template => Outcome::Done(Some(Box::new(Object::Template(
            serde_json::from_value(object).unwrap(),
        )))),
        Kind::Policy => {
            let key = key_of(&object);
            let policy = PolicyRecord::of(serde_json::from_value(object).unwrap());
            Outcome::Done(Some(Box::new(Object::NetworkPolicy(key, policy))))
        }
        Kind::Pool => Outcome::Done(None),
    }
}

pub(super) fn key_of(object: &Value) -> Key {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Key::new(text("namespace"), text("name"))
}

//! Objects of one kind, by namespace and name, as the watch and the answers to writes show them: Services, EndpointSlices,
//! NetworkPolicies and Pods. The rules about them are in [`crate::services`], [`crate::templates`] and [`crate::legacy`].

use std::collections::HashSet;

use super::{Index, Task};
use crate::effects::{Now, Receipt, Subject};
use crate::hashed::HashMap;
use crate::ids::Key;
use crate::legacy::PodRecord;
use crate::services::{ServiceRecord, SliceRecord};
use crate::templates::PolicyRecord;

/// What tells two states of an object apart.
pub trait Versioned {
    /// `metadata.uid`.
    fn uid(&self) -> &str;
    /// `metadata.resourceVersion`.
    fn version(&self) -> u64;
}

/// A kind of which the index keeps the objects and knows nothing else: what they mean is looked up when one is looked at.
pub trait Kept: Versioned + Sized {
    /// What the object of this name is to the rules.
    fn subject(key: Key) -> Subject;
    /// All objects of the kind.
    fn all(index: &mut Index) -> &mut Watched<Self>;
    /// The object of this name is there, has changed or is gone: what must be known of it before it is looked at.
    fn changed(_index: &mut Index, _key: &Key) {}
}

impl Kept for ServiceRecord {
    fn subject(key: Key) -> Subject {
        Subject::Service(key)
    }

    fn all(index: &mut Index) -> &mut Watched<Self> {
        &mut index.services
    }
}

impl Kept for SliceRecord {
    fn subject(key: Key) -> Subject {
        Subject::EndpointSlice(key)
    }

    fn all(index: &mut Index) -> &mut Watched<Self> {
        &mut index.slices
    }
}

impl Kept for PolicyRecord {
    fn subject(key: Key) -> Subject {
        Subject::NetworkPolicy(key)
    }

    fn all(index: &mut Index) -> &mut Watched<Self> {
        &mut index.policies
    }
}

impl Kept for PodRecord {
    fn subject(key: Key) -> Subject {
        Subject::Pod(key)
    }

    fn all(index: &mut Index) -> &mut Watched<Self> {
        &mut index.pods
    }

    fn changed(index: &mut Index, key: &Key) {
        crate::legacy::seen(index, key);
    }
}

impl Index {
    /// An object is as given, by the watch or by the answer to a write, which may come after the object's end.
    pub fn apply_kept<T: Kept>(&mut self, key: &Key, object: T, now: Now) {
        self.now = now;
        let subject = T::subject(key.clone());
        if self.writes.is_gone(&subject, object.uid()) || !T::all(self).apply(key, object) {
            return;
        }
        T::changed(self, key);
        // What a write of ours makes of it is settled when that comes out; what others do may help one that failed.
        if !self.writes.is_writing(&subject) {
            self.writes.settled(&subject);
        }
        self.mark(Task::Object(subject));
    }

    /// The object of this name and UID is gone.
    pub fn delete_kept<T: Kept>(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if T::all(self).delete(key, uid) {
            self.kept_is_gone::<T>(key.clone(), uid);
        }
    }

    /// These are all the objects of the kind that are watched.
    pub fn retain_kept<T: Kept>(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        for (key, object) in T::all(self).retain(present) {
            self.kept_is_gone::<T>(key, object.uid());
        }
    }

    fn kept_is_gone<T: Kept>(&mut self, key: Key, uid: &str) {
        T::changed(self, &key);
        let subject = T::subject(key);
        self.writes.gone(&subject, uid);
        self.mark(Task::Object(subject));
    }

    /// The Service of this name.
    #[must_use]
    pub fn service(&self, key: &Key) -> Option<&ServiceRecord> {
        self.services.get(key)
    }

    /// The EndpointSlice of this name.
    #[must_use]
    pub fn slice(&self, key: &Key) -> Option<&SliceRecord> {
        self.slices.get(key)
    }

    /// The NetworkPolicy of this name.
    #[must_use]
    pub fn policy(&self, key: &Key) -> Option<&PolicyRecord> {
        self.policies.get(key)
    }

    /// The Pod of this name, if it has the label of a Sandbox.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<&PodRecord> {
        self.pods.get(key)
    }

    /// The API server has confirmed a deletion that the watch has yet to show: it need not be asked for again.
    pub(crate) fn deletion_confirmed(&mut self, receipt: &Receipt) {
        let uid = &receipt.uid;
        match &receipt.subject {
            Subject::Service(key) => self
                .services
                .change(key, uid, |service| service.deleting = true),
            Subject::EndpointSlice(key) => {
                self.slices.change(key, uid, |slice| slice.deleting = true);
            }
            Subject::NetworkPolicy(key) => {
                let policies = &mut self.policies;
                policies.change(key, uid, |policy| policy.deleting = true);
            }
            Subject::Pod(key) => self.pods.change(key, uid, |pod| pod.deleting = true),
            Subject::Volume(key) => {
                let pv = self.volumes.pvs.get_mut(&key.name);
                if let Some(pv) = pv.filter(|pv| pv.uid == *uid) {
                    pv.going = true;
                }
            }
            _ => {}
        }
    }
}

/// The objects. An older state never replaces a newer one, in whichever order watch and answers bring them.
#[derive(Debug)]
pub struct Watched<T>(HashMap<Key, T>);

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T: Versioned> Watched<T> {
    /// Takes over an object; false when it is known as it is.
    pub(crate) fn apply(&mut self, key: &Key, object: T) -> bool {
        let known = self.0.get(key);
        if known.is_some_and(|known| object.version() <= known.version()) {
            return false;
        }
        self.0.insert(key.clone(), object);
        true
    }

    /// Drops the object of this name and UID; false when there is none.
    pub(crate) fn delete(&mut self, key: &Key, uid: &str) -> bool {
        let is_it = self.0.get(key).is_some_and(|object| object.uid() == uid);
        if is_it {
            self.0.remove(key);
        }
        is_it
    }

    /// Drops all but these, and says which went.
    pub(crate) fn retain(&mut self, present: &HashSet<Key>) -> Vec<(Key, T)> {
        let gone = self.0.extract_if(|key, _| !present.contains(key));
        gone.collect()
    }

    /// Changes what is known of the object of this name and UID.
    pub(crate) fn change(&mut self, key: &Key, uid: &str, change: impl FnOnce(&mut T)) {
        if let Some(object) = self.0.get_mut(key).filter(|object| object.uid() == uid) {
            change(object);
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&T> {
        self.0.get(key)
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Versioned for (&str, u64) {
        fn uid(&self) -> &str {
            self.0
        }

        fn version(&self) -> u64 {
            self.1
        }
    }

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let mut objects = Watched::<(&str, u64)>::default();
        assert!(objects.apply(&key("a"), ("u", 2)));
        assert!(!objects.apply(&key("a"), ("u", 2)));
        assert!(!objects.apply(&key("a"), ("u", 1)));
        assert!(objects.apply(&key("a"), ("v", 3)));
        assert_eq!(objects.get(&key("a")), Some(&("v", 3)));
    }

    #[test]
    fn the_end_of_an_earlier_object_of_the_name_is_not_its_own() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("v", 3));
        assert!(!objects.delete(&key("a"), "u"));
        assert!(objects.delete(&key("a"), "v"));
        assert!(objects.keys().is_empty());
    }

    #[test]
    fn only_the_object_that_is_meant_is_changed() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("u", 1));
        objects.change(&key("a"), "v", |object| object.1 = 2);
        objects.change(&key("b"), "u", |object| object.1 = 2);
        assert_eq!(objects.get(&key("a")), Some(&("u", 1)));
        objects.change(&key("a"), "u", |object| object.1 = 2);
        assert_eq!(objects.get(&key("a")), Some(&("u", 2)));
    }

    #[test]
    fn a_list_ends_what_it_does_not_show() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("u", 1));
        objects.apply(&key("b"), ("v", 1));
        let gone = objects.retain(&HashSet::from([key("b")]));
        assert_eq!(gone, [(key("a"), ("u", 1))]);
        assert_eq!(objects.keys(), [key("b")]);
    }
}

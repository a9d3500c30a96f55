//! The index's picture of Pods; the rules about them are in [`crate::legacy`].

use std::collections::HashSet;

use super::{Index, Task};
use crate::effects::{Now, Subject};
use crate::ids::Key;
use crate::legacy::PodRecord;

impl Index {
    /// The Pod of this name.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<&PodRecord> {
        self.pods.get(key)
    }

    /// A Pod is as given.
    pub fn apply_pod(&mut self, key: &Key, pod: PodRecord, now: Now) {
        self.now = now;
        if self.pods.apply(key, pod) {
            self.mark(Task::Object(Subject::Pod(key.clone())));
        }
    }

    /// The Pod of this name and UID is gone.
    pub fn delete_pod(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.pods.delete(key, uid) {
            self.pod_gone(key.clone());
        }
    }

    /// These are all the Pods that there are with the label of a Sandbox.
    pub fn retain_pods(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        for key in self.pods.retain(present) {
            self.pod_gone(key);
        }
    }

    fn pod_gone(&mut self, key: Key) {
        let subject = Subject::Pod(key);
        self.writes.settled(&subject);
        self.mark(Task::Object(subject));
    }
}

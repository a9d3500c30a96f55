//! The index's picture of NetworkPolicies; the rules about them are in [`crate::templates`].

use std::collections::HashSet;

use super::{Index, Task};
use crate::effects::{Now, Subject};
use crate::ids::Key;
use crate::templates::PolicyRecord;

impl Index {
    /// The NetworkPolicy of this name.
    #[must_use]
    pub fn policy(&self, key: &Key) -> Option<&PolicyRecord> {
        self.policies.get(key)
    }

    /// A NetworkPolicy is as given.
    pub fn apply_policy(&mut self, key: &Key, policy: PolicyRecord, now: Now) {
        self.now = now;
        if self.policies.apply(key, policy) {
            self.mark(Task::Object(Subject::NetworkPolicy(key.clone())));
        }
    }

    /// The NetworkPolicy of this name and UID is gone.
    pub fn delete_policy(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.policies.delete(key, uid) {
            self.policy_gone(key.clone());
        }
    }

    /// These are all the NetworkPolicies that there are.
    pub fn retain_policies(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        for key in self.policies.retain(present) {
            self.policy_gone(key);
        }
    }

    fn policy_gone(&mut self, key: Key) {
        let subject = Subject::NetworkPolicy(key);
        self.writes.settled(&subject);
        self.mark(Task::Object(subject));
    }
}

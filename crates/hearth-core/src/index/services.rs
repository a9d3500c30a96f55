//! The index's picture of Services and EndpointSlices; the rules about them are in [`crate::services`].

use std::collections::HashSet;

use super::{Index, Task};
use crate::effects::{Now, Receipt, Subject};
use crate::ids::Key;
use crate::services::{ServiceRecord, SliceRecord};

impl Index {
    /// The Service of this name.
    #[must_use]
    pub fn service(&self, key: &Key) -> Option<&ServiceRecord> {
        self.services.get(key)
    }

    /// A Service is as given.
    pub fn apply_service(&mut self, key: &Key, service: ServiceRecord, now: Now) {
        self.now = now;
        if self.services.apply(key, service) {
            self.mark(Task::Object(Subject::Service(key.clone())));
        }
    }

    /// The Service of this name and UID is gone.
    pub fn delete_service(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.services.delete(key, uid) {
            self.service_gone(key.clone());
        }
    }

    /// These are all the Services that there are.
    pub fn retain_services(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        for key in self.services.retain(present) {
            self.service_gone(key);
        }
    }

    fn service_gone(&mut self, key: Key) {
        let subject = Subject::Service(key);
        self.writes.settled(&subject);
        self.mark(Task::Object(subject));
    }

    /// The EndpointSlice of this name.
    #[must_use]
    pub fn slice(&self, key: &Key) -> Option<&SliceRecord> {
        self.slices.get(key)
    }

    /// An EndpointSlice is as given.
    pub fn apply_slice(&mut self, key: &Key, slice: SliceRecord, now: Now) {
        self.now = now;
        if self.slices.apply(key, slice) {
            self.mark(Task::Object(Subject::EndpointSlice(key.clone())));
        }
    }

    /// The EndpointSlice of this name and UID is gone.
    pub fn delete_slice(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.slices.delete(key, uid) {
            self.slice_gone(key.clone());
        }
    }

    /// These are all the EndpointSlices that there are of ours.
    pub fn retain_slices(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        for key in self.slices.retain(present) {
            self.slice_gone(key);
        }
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
            _ => {}
        }
    }

    fn slice_gone(&mut self, key: Key) {
        let subject = Subject::EndpointSlice(key);
        self.writes.settled(&subject);
        self.mark(Task::Object(subject));
    }
}

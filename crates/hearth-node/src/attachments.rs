//! What the controller has said for the status of this node's sandboxes. In memory only: after a start of the daemon the
//! controller tells it again, and until then the status goes on saying what it says.

use std::collections::{HashMap, HashSet};

use hearth_core::attachments::Attachment;
use hearth_core::ids::SandboxUid;
use hearth_core::status::ServiceFact;
use parking_lot::RwLock;

/// What was said.
#[derive(Debug, Default)]
pub(crate) struct AttachmentStore {
    told: RwLock<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Whether the controller has said of which sandboxes there is anything to say: of others there is nothing then.
    listed: bool,
    /// `None` for one that was listed, and of which nothing more was said yet.
    sandboxes: HashMap<SandboxUid, Option<Attachment>>,
}

impl AttachmentStore {
    /// These are all the sandboxes of which there is anything to say.
    pub(crate) fn retain(&self, sandboxes: HashSet<SandboxUid>) {
        let mut told = self.told.write();
        told.listed = true;
        told.sandboxes.retain(|uid, _| sandboxes.contains(uid));
        for uid in sandboxes {
            told.sandboxes.entry(uid).or_default();
        }
    }

    /// This is to be said of a sandbox; `None`: nothing.
    pub(crate) fn put(&self, uid: SandboxUid, attachment: Option<Attachment>) {
        let mut told = self.told.write();
        match attachment {
            Some(attachment) => drop(told.sandboxes.insert(uid, Some(attachment))),
            None => drop(told.sandboxes.remove(&uid)),
        }
    }

    /// What is to be said of a sandbox, whose `spec.service` is given: one that asks for a Service, and of which the
    /// controller has said nothing, is one that it has not seen yet.
    pub(crate) fn of(&self, uid: &SandboxUid, service: Option<bool>) -> Attachment {
        let told = self.told.read();
        match told.sandboxes.get(uid) {
            Some(Some(attachment)) => attachment.clone(),
            None if told.listed && service != Some(true) => Attachment {
                service: ServiceFact::Absent,
                fault: None,
            },
            Some(None) | None => Attachment::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(uid: &str) -> SandboxUid {
        SandboxUid::from(uid)
    }

    fn with(fault: &str) -> Attachment {
        Attachment {
            service: ServiceFact::Missing,
            fault: Some(fault.to_owned()),
        }
    }

    #[test]
    fn what_was_not_said_is_not_known_before_the_controller_has_said_of_which_there_is_anything() {
        let store = AttachmentStore::default();
        let service = |name: &str, wanted| store.of(&uid(name), wanted).service;
        assert_eq!(service("a", None), ServiceFact::NotAsked);

        store.retain(HashSet::from([uid("a")]));
        assert_eq!(service("a", None), ServiceFact::NotAsked);
        assert_eq!(service("b", None), ServiceFact::Absent);
        assert_eq!(service("b", Some(false)), ServiceFact::Absent);
        // The controller has not seen it yet, or it would be named.
        assert_eq!(service("b", Some(true)), ServiceFact::NotAsked);
    }

    #[test]
    fn the_newest_counts_and_a_new_list_forgets() {
        let store = AttachmentStore::default();
        store.put(uid("a"), Some(with("old")));
        store.put(uid("a"), Some(with("new")));
        assert_eq!(store.of(&uid("a"), None), with("new"));
        store.retain(HashSet::from([uid("a"), uid("b")]));
        assert_eq!(store.of(&uid("a"), None), with("new"));
        store.put(uid("a"), None);
        assert_eq!(store.of(&uid("a"), None).service, ServiceFact::Absent);
        store.put(uid("b"), Some(with("b")));
        store.retain(HashSet::new());
        assert_eq!(store.of(&uid("b"), None).fault, None);
    }
}

//! What the node of a Sandbox is told because it stands in the status that the node writes: its Service, and what cannot be
//! done for it.
//!
//! A node that has a stream knows all of it that there is: of a sandbox of which it was told nothing there is nothing to
//! say. One without goes by what the status says already.

use std::collections::HashMap;

use crate::effects::Effect;
use crate::ids::{Key, NodeName, SandboxUid};
use crate::index::{Index, SandboxRecord};
use crate::services;
use crate::status::ServiceFact;

/// What a node is told of one of its Sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its Service.
    pub service: ServiceFact,
    /// What cannot be done for it, in words; `None`: nothing.
    pub fault: Option<String>,
}

impl Attachment {
    /// Whether there is nothing to say.
    fn is_void(&self) -> bool {
        matches!(self.service, ServiceFact::NotAsked | ServiceFact::Absent) && self.fault.is_none()
    }
}

/// What nodes were told last, and what stands in the way of Sandboxes beside their Services.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    told: HashMap<SandboxUid, (NodeName, Attachment)>,
    faults: HashMap<SandboxUid, String>,
}

/// Notes what cannot be done for a Sandbox that a live node owns; `None`: nothing stands in its way any more.
pub(crate) fn set_fault(index: &mut Index, sandbox: &Key, fault: Option<String>) {
    let Some(record) = index.sandbox(sandbox).filter(|record| record.exists()) else {
        return;
    };
    let uid = record.uid.clone();
    match fault {
        Some(fault) => drop(index.attachments.faults.insert(uid, fault)),
        None => drop(index.attachments.faults.remove(&uid)),
    }
    tell(index, sandbox);
}

/// Tells the node of a Sandbox what is to be said of it, as far as that is news.
pub(crate) fn tell(index: &mut Index, sandbox: &Key) {
    let Some(record) = index.sandbox(sandbox).filter(|record| record.exists()) else {
        return;
    };
    if !index.is_leading() || !concerns(index, record) {
        return;
    }
    let uid = record.uid.clone();
    let wanted = wanted(index, record);
    settle(index, uid, wanted);
}

/// Whether there is anything to say of a Sandbox, or was: of most there never is.
fn concerns(index: &Index, record: &SandboxRecord) -> bool {
    let Attachments { told, faults } = &index.attachments;
    record.service == Some(true)
        || index.service(&record.key).is_some()
        || told.contains_key(&record.uid)
        || faults.contains_key(&record.uid)
}

fn wanted(index: &Index, record: &SandboxRecord) -> Option<(NodeName, Attachment)> {
    let node = record.node.clone()?;
    let fault = index.attachments.faults.get(&record.uid).cloned();
    let attachment = Attachment {
        service: services::fact(index, record),
        // As upstream, which does not look at the Service when it cannot make the volumes.
        fault: fault.or_else(|| services::fault(index, record)),
    };
    (!attachment.is_void()).then_some((node, attachment))
}

fn settle(index: &mut Index, uid: SandboxUid, wanted: Option<(NodeName, Attachment)>) {
    let told = &mut index.attachments.told;
    if told.get(&uid) == wanted.as_ref() {
        return;
    }
    let before = match &wanted {
        Some(wanted) => told.insert(uid.clone(), wanted.clone()),
        None => told.remove(&uid),
    };
    let at = wanted.as_ref().map(|(node, _)| node.clone());
    let left = before
        .map(|(node, _)| node)
        .filter(|node| Some(node) != at.as_ref());
    let news = left.map(|node| (node, None));
    let wanted = wanted.map(|(node, attachment)| (node, Some(attachment)));
    for (node, attachment) in news.into_iter().chain(wanted) {
        index.push(Effect::Attach {
            node,
            sandbox: uid.clone(),
            attachment,
        });
    }
}

/// A Sandbox is gone.
pub(crate) fn forget(index: &mut Index, id: u64) {
    let Some(uid) = index.sandboxes.get(&id).map(|record| record.uid.clone()) else {
        return;
    };
    index.attachments.faults.remove(&uid);
    settle(index, uid, None);
}

/// A leader begins with all that nodes need to know, and looks at the Services that Sandboxes ask for: of one that is not
/// there yet nothing else would remind it.
pub(crate) fn tell_all(index: &mut Index) {
    index.attachments.told.clear();
    let sandboxes = index.sandboxes.values();
    let keys: Vec<_> = sandboxes.map(|record| record.key.clone()).collect();
    keys.iter()
        .for_each(|key| services::sandbox_changed(index, key));
}

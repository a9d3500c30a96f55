//! What nodes are told for the status of their sandboxes.
//!
//! The index says what belongs there ([`Attachments::set`]); it is kept here for the sessions, which begin with all of it.
//! Bounded by the sandboxes of which there is anything to say: what is due is a set of sandboxes, not a queue.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hearth_core::attachments::Attachment;
use hearth_core::ids::{NodeName, SandboxUid};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What each node is to be told.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf>>>,
}

#[derive(Debug, Default)]
struct Shelf {
    sandboxes: HashMap<SandboxUid, Attachment>,
    due: BTreeSet<SandboxUid>,
    changed: Arc<Notify>,
}

impl Attachments {
    /// This belongs into the status of a sandbox of a node; `None`: nothing any more, or it is not the node's.
    pub fn set(&self, node: &NodeName, sandbox: SandboxUid, attachment: Option<Attachment>) {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(node.clone()).or_default();
        match attachment {
            Some(attachment) => drop(shelf.sandboxes.insert(sandbox.clone(), attachment)),
            None => drop(shelf.sandboxes.remove(&sandbox)),
        }
        shelf.due.insert(sandbox);
        shelf.changed.notify_one();
    }

    /// Where a node's session takes what the node is to be told.
    #[must_use]
    pub fn outlet(&self, node: &NodeName) -> AttachmentOutlet {
        let mut nodes = self.nodes.lock();
        let changed = Arc::clone(&nodes.entry(node.clone()).or_default().changed);
        AttachmentOutlet {
            nodes: Arc::clone(&self.nodes),
            node: node.clone(),
            changed,
        }
    }
}

/// What one node is to be told, for its session.
#[derive(Clone, Debug)]
pub struct AttachmentOutlet {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf>>>,
    node: NodeName,
    changed: Arc<Notify>,
}

impl AttachmentOutlet {
    /// A session begins: all the sandboxes of the node of which there is anything to say. Of each [`Self::next`] tells
    /// again what it is.
    #[must_use]
    pub fn begin(&self) -> Vec<SandboxUid> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(self.node.clone()).or_default();
        let sandboxes: Vec<_> = shelf.sandboxes.keys().cloned().collect();
        shelf.due = sandboxes.iter().cloned().collect();
        shelf.changed.notify_one();
        sandboxes
    }

    /// The next thing to tell the node. Cancel-safe.
    pub async fn next(&self) -> (SandboxUid, Option<Attachment>) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<(SandboxUid, Option<Attachment>)> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.get_mut(&self.node)?;
        let sandbox = shelf.due.pop_first()?;
        let attachment = shelf.sandboxes.get(&sandbox).cloned();
        Some((sandbox, attachment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use hearth_core::status::ServiceFact;

    fn with(fault: &str) -> Option<Attachment> {
        Some(Attachment {
            service: ServiceFact::Absent,
            fault: Some(fault.to_owned()),
        })
    }

    fn told(outlet: &AttachmentOutlet) -> Vec<(SandboxUid, Option<Attachment>)> {
        std::iter::from_fn(|| outlet.next().now_or_never()).collect()
    }

    #[test]
    fn a_node_is_told_the_newest_of_its_own_sandboxes_and_all_of_it_when_a_session_begins() {
        let attachments = Attachments::default();
        let (n, m) = (NodeName::from("n"), NodeName::from("m"));
        let (a, b) = (SandboxUid::from("a"), SandboxUid::from("b"));
        let outlet = attachments.outlet(&n);
        attachments.set(&n, a.clone(), with("old"));
        attachments.set(&n, a.clone(), with("new"));
        attachments.set(&m, b, with("other"));
        assert_eq!(told(&outlet), [(a.clone(), with("new"))]);
        assert_eq!(outlet.begin(), std::slice::from_ref(&a));
        assert_eq!(told(&outlet), [(a.clone(), with("new"))]);
        attachments.set(&n, a.clone(), None);
        assert_eq!(told(&outlet), [(a, None)]);
        assert_eq!(outlet.begin(), [] as [SandboxUid; 0]);
    }
}

//! What nodes are told for the status of their sandboxes. Bounded by the sandboxes of which there is anything to say.

use hearth_core::attachments::Attachment;
use hearth_core::ids::SandboxUid;

use crate::shelves::{Outlet, Shelves};

/// What each node is to be told: what belongs into the status of a sandbox of its own.
pub type Attachments = Shelves<SandboxUid, Attachment>;
/// What one node is to be told, for its session.
pub type AttachmentOutlet = Outlet<SandboxUid, Attachment>;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use hearth_core::ids::NodeName;
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

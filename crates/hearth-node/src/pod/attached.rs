//! What the controller says for the status of sandboxes.

use std::collections::HashSet;

use hearth_core::attachments::Attachment;
use hearth_core::ids::SandboxUid;

use super::PodManager;

impl PodManager {
    /// All the sandboxes of which the controller has anything to say; of others there is nothing.
    pub fn keep_attachments(&self, sandboxes: HashSet<SandboxUid>) {
        self.shared.attachments.retain(sandboxes);
        self.shared.tell_all(|_| {});
    }

    /// What it has to say of one; `None`: nothing.
    pub fn set_attachment(&self, uid: SandboxUid, attachment: Option<Attachment>) {
        let cell = self.cell(&uid);
        self.shared.attachments.put(uid, attachment);
        if let Some(cell) = cell {
            cell.poke();
        }
    }
}

use std::sync::Arc;

use hearth_core::ids::SandboxUid;

use crate::binder::MemberPods;
use crate::pod::{Changes, PodManager, PodView};

/// What a session needs of the pods.
pub trait SessionPods: MemberPods {
    /// Names the sandboxes that changed.
    type Changes: NextChange;

    /// What is known of all sandboxes.
    fn views(&self) -> Vec<Arc<PodView>>;

    /// Subscribes to changes.
    fn changes(&self) -> Self::Changes;
}

/// A coalesced stream of changes.
pub trait NextChange: Send + 'static {
    /// Waits for a change and names the sandbox. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = SandboxUid> + Send;
}

impl SessionPods for PodManager {
    type Changes = Changes;

    fn views(&self) -> Vec<Arc<PodView>> {
        Self::views(self)
    }

    fn changes(&self) -> Changes {
        Self::changes(self)
    }
}

impl NextChange for Changes {
    async fn next(&mut self) -> SandboxUid {
        Self::next(self).await
    }
}

//! Which sandboxes changed: coalesced, bounded by the number of sandboxes, never lossy.

use hearth_core::ids::SandboxUid;

/// The sandboxes whose view changed since they were last taken from here. One that changes again before it is taken is
/// named once.
#[derive(Debug, Default)]
pub struct Changes {}

impl Changes {
    /// Waits for a change and names the sandbox; read its view for what it is now. Cancel-safe.
    pub async fn next(&mut self) -> SandboxUid {
        std::future::pending().await
    }
}

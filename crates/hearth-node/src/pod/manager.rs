//! The handle to all sandboxes of the node.

use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::SandboxUid;
use hearth_cri::{ImageStore, PodRuntime};
use tokio_util::sync::CancellationToken;

use super::{Changes, ClaimActivity, DesiredSandbox, PodConfig, PodRecord, PodView, RecordStore};

/// What the pods need from the rest of the daemon.
#[derive(Debug)]
pub struct PodDeps {
    /// Pods and containers.
    pub runtime: Arc<dyn PodRuntime>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// The journal.
    pub records: Arc<dyn RecordStore>,
    /// When claims were last served.
    pub claims: ClaimActivity,
    /// Directories, handlers, limits.
    pub config: PodConfig,
}

/// All sandboxes of this node. Cheap to clone; the last clone does not stop anything, `run` does.
#[derive(Clone, Debug)]
pub struct PodManager {
    inner: Arc<PodDeps>,
}

/// A record of the journal, and what the journal says of its owner.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The record.
    pub record: PodRecord,
    /// Whether an owner key holds the sandbox.
    pub bound: bool,
}

/// Why a sandbox goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// Its object is gone (verified), or assigned to another node.
    Deleted,
    /// Its owner released it.
    Released,
    /// It was retired, unbound.
    Retired,
}

/// A sandbox that was thawed for a bind and is kept from being frozen again.
///
/// Dropping it without [`BoundPod::commit`] means that the bind failed: the sandbox is a member again and is refrozen.
#[derive(Debug)]
#[must_use]
pub struct BoundPod {
    /// What was known of it when it was thawed.
    pub view: Arc<PodView>,
    /// How long the thaw took; zero when it was running already.
    pub thaw: Duration,
}

impl BoundPod {
    /// The bind is durable: from now on the sandbox belongs to its owner.
    pub fn commit(self) {}
}

/// Why a sandbox could not be thawed for a bind.
#[derive(Debug, thiserror::Error)]
pub enum ThawRefused {
    /// No such sandbox.
    #[error("no such sandbox on this node")]
    NotFound,
    /// It is being stopped, or has ended.
    #[error("the sandbox is on its way out")]
    Ending,
    /// It is not ready.
    #[error("the sandbox is not ready")]
    NotReady,
    /// Another bind holds it.
    #[error("the sandbox is held by another bind")]
    Held,
    /// The kernel did not thaw it.
    #[error("thaw")]
    Failed(#[source] std::io::Error),
}

impl PodManager {
    /// Starts nothing yet: call [`PodManager::adopt`], then [`PodManager::run`].
    #[must_use]
    pub fn new(deps: PodDeps) -> Self {
        Self { inner: Arc::new(deps) }
    }

    /// Brings journal, runtime and cgroups together after a start: running pods of a record go on as they are, what
    /// no record names is removed. Called once, before [`PodManager::set_desired`]. Waits for the runtime to answer.
    pub async fn adopt(&self, records: Vec<Adopted>) {
        let _ = (records, &self.inner);
    }

    /// Follows container events, relists when they may have been missed, resyncs slowly. Ends when `stop` is cancelled,
    /// with all runners ended and no pod touched.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Sets what the API wants of a sandbox. Ignored while the sandbox is being removed.
    pub fn set_desired(&self, uid: &SandboxUid, desired: DesiredSandbox) {
        let _ = (uid, desired);
    }

    /// Tears the sandbox down and forgets it: stop, remove, volumes, cgroup, record. Idempotent; returns at once. When
    /// all is gone [`PodManager::view`] says `None` and [`Changes`] names the uid.
    pub fn remove(&self, uid: &SandboxUid, reason: RemoveReason) {
        let _ = (uid, reason);
    }

    /// Thaws a ready member at once, without waiting for anything else that happens to it or to others.
    ///
    /// # Errors
    /// Says why the sandbox cannot be bound; it is then as it was.
    pub async fn thaw_for_bind(&self, uid: &SandboxUid) -> Result<BoundPod, ThawRefused> {
        let _ = uid;
        Err(ThawRefused::NotFound)
    }

    /// What is known of a sandbox; `None` when this node has nothing of it (any more).
    #[must_use]
    pub fn view(&self, uid: &SandboxUid) -> Option<Arc<PodView>> {
        let _ = uid;
        None
    }

    /// What is known of all sandboxes.
    #[must_use]
    pub fn views(&self) -> Vec<Arc<PodView>> {
        Vec::new()
    }

    /// Subscribes to changes. Subscribe first, then read [`PodManager::views`].
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::default()
    }
}

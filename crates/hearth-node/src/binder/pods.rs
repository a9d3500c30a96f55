use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::binding::{BoundEnv, Candidate};
use hearth_core::ids::SandboxUid;

use crate::pod::{BoundPod, PodManager, PodPhase, PodView, RemoveReason, ThawRefused};

/// What the binder needs of the pods.
pub trait MemberPods: Clone + Send + Sync + fmt::Debug + 'static {
    /// A member that is kept from being frozen again; dropping it gives the member back.
    type Held: Send;

    /// What is known of a sandbox.
    fn view(&self, sandbox: &SandboxUid) -> Option<Arc<PodView>>;

    /// Thaws a ready member, within a deadline of the pods' own. With variables it is not ready from then on, until it has
    /// them or is given back.
    fn thaw_for_bind(
        &self,
        sandbox: &SandboxUid,
        env: Option<&Arc<BoundEnv>>,
    ) -> impl Future<Output = Result<Thawed<Self::Held>, ThawRefused>> + Send;

    /// The bind is durable: the sandbox belongs to its owner.
    fn keep(held: Self::Held);

    /// Sees to it that a bound sandbox is not kept frozen as a member.
    fn keep_live(&self, sandbox: &SandboxUid) -> impl Future<Output = ()> + Send;

    /// Tears the sandbox down; returns at once.
    fn remove(&self, sandbox: &SandboxUid, reason: RemoveReason);
}

/// A member that runs.
#[derive(Debug)]
pub struct Thawed<H> {
    /// What is known of it.
    pub view: Arc<PodView>,
    /// How long the thaw took.
    pub took: Duration,
    /// Keeps it from being frozen.
    pub held: H,
}

impl MemberPods for PodManager {
    type Held = BoundPod;

    fn view(&self, sandbox: &SandboxUid) -> Option<Arc<PodView>> {
        Self::view(self, sandbox)
    }

    async fn thaw_for_bind(
        &self,
        sandbox: &SandboxUid,
        env: Option<&Arc<BoundEnv>>,
    ) -> Result<Thawed<BoundPod>, ThawRefused> {
        let held = Self::thaw_for_bind(self, sandbox, env).await?;
        Ok(Thawed {
            view: Arc::clone(&held.view),
            took: held.thaw,
            held,
        })
    }

    fn keep(held: BoundPod) {
        held.commit();
    }

    async fn keep_live(&self, sandbox: &SandboxUid) {
        Self::keep_live(self, sandbox).await;
    }

    fn remove(&self, sandbox: &SandboxUid, reason: RemoveReason) {
        Self::remove(self, sandbox, reason);
    }
}

/// What a bind makes of a pod.
pub(super) fn candidate(view: &PodView) -> Candidate {
    match view.phase {
        PodPhase::Ready if view.member => Candidate::Ready,
        PodPhase::Ready => Candidate::NotMember,
        PodPhase::Stopping | PodPhase::Stopped | PodPhase::Finished => Candidate::Ending,
        PodPhase::Pending | PodPhase::NotReady | PodPhase::Failed | PodPhase::Unknown => {
            Candidate::NotReady
        }
    }
}

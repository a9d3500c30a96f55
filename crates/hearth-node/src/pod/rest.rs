//! What the ladder sees and does of the pods: see [`crate::ladder`].

use std::sync::Arc;
use std::time::Duration;

use hearth_core::idle::reclaim::Held;
use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::sandbox::Residency;
use hearth_telemetry::ErrorChain;

use super::gate::GateError;
use super::host::{HostError, Reclaim};
use super::manager::PodManager;
use super::metrics::ThawReason;
use super::view::PodView;

/// How a sandbox stands, with what was known of its gate at the same moment.
#[derive(Clone, Debug)]
pub(crate) struct Footing {
    pub(crate) view: Arc<PodView>,
    /// Whether somebody needs its processes now.
    pub(crate) held: bool,
    /// Whether it is frozen, or is to be, because nobody used it.
    pub(crate) resting: bool,
    /// How often it could not be frozen for that since somebody used it.
    pub(crate) failed_rests: u32,
    /// Goes up whenever somebody begins or ceases to need its processes.
    pub(crate) uses: u64,
    pub(crate) residency: Residency,
}

impl PodManager {
    /// How a sandbox stands; `None` when this node has nothing of it.
    pub(crate) fn footing(&self, uid: &SandboxUid) -> Option<Footing> {
        let cell = self.cell(uid)?;
        let gate = cell.gate.lock();
        let state = gate.state();
        Some(Footing {
            view: gate.view(),
            held: state.held,
            resting: state.resting,
            failed_rests: state.failed_rests,
            uses: state.asked,
            residency: state.residency,
        })
    }

    /// Has a sandbox frozen until somebody uses it. `false` when somebody has since `uses` was read.
    pub(crate) fn rest(&self, uid: &SandboxUid, uses: u64) -> bool {
        self.cell(uid).is_some_and(|cell| cell.rest(uses))
    }

    /// A sandbox rests no longer, though nobody has used it: it is frozen for another reason, or not at all.
    pub(crate) fn rest_no_more(&self, uid: &SandboxUid) {
        if let Some(cell) = self.cell(uid) {
            cell.rest_no_more();
        }
    }

    /// Wakes a sandbox that rests, and makes void that it is about to. `false` when it does not rest.
    pub(crate) async fn rouse(&self, uid: &SandboxUid, why: ThawReason) -> bool {
        let Some(cell) = self.cell(uid) else {
            return false;
        };
        match cell.rouse(self.shared.config.thaw_within, why).await {
            Ok(roused) => roused,
            Err(error) => {
                let error: GateError = error;
                // The runner, which was told, goes on trying.
                tracing::warn!(sandbox = %uid, error = %ErrorChain(&error), "an idle sandbox could not be thawed yet");
                true
            }
        }
    }

    /// Asks for the suspension of a sandbox, unless somebody has used it since `uses` was read; or withdraws that.
    pub(crate) fn ask_suspension(&self, uid: &SandboxUid, uses: u64, asks: bool) {
        if let Some(cell) = self.cell(uid) {
            cell.ask_suspension(uses, asks);
        }
    }

    /// Most of a sandbox's memory was given back, unless somebody has used it since `uses` was read.
    pub(crate) fn reclaimed(&self, uid: &SandboxUid, uses: u64) {
        if let Some(cell) = self.cell(uid) {
            cell.reclaimed(uses);
        }
    }

    /// CPU time that a pod has used; `None` when it is gone, and when it cannot be read. Blocks.
    pub(crate) fn cpu_time(&self, pod: &PodUid) -> Option<Duration> {
        let read = self.shared.host.cpu_time(pod);
        read.inspect_err(|error| {
            tracing::warn!(%pod, error = %ErrorChain(error), "cannot read what a pod uses");
        })
        .ok()?
    }

    /// What a pod holds; nothing when it is gone. Blocks.
    pub(crate) fn held_memory(&self, pod: &PodUid) -> Result<Held, HostError> {
        let held = self.shared.host.held_memory(pod)?.unwrap_or_default();
        Ok(Held {
            resident: held.resident_bytes,
            swapped: held.swapped_bytes,
        })
    }

    /// Gives back the memory of a pod. Blocks.
    pub(crate) fn reclaim(&self, pod: &PodUid) -> Result<Box<dyn Reclaim>, HostError> {
        self.shared.host.reclaim(pod)
    }
}

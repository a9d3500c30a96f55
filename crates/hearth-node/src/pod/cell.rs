//! What a sandbox's runner shares with the rest: its inbox, its gate, its view.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::podspec::PodPlan;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::changes::Hub;
use super::desired::DesiredSandbox;
use super::gate::Gate;
use super::manager::RemoveReason;
use super::metrics::ResidencyCounts;
use super::slots::Slots;
use super::view::PodView;

/// One sandbox, as all but its runner see it.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) uid: SandboxUid,
    pub(super) gate: Mutex<Gate>,
    /// A freezer call has ended.
    pub(super) settled: Notify,
    pub(super) hub: Hub,
    pub(super) slots: Slots,
    pub(super) counts: ResidencyCounts,
    inbox: Mutex<Inbox>,
    made: Mutex<Made>,
    /// Containers that are killed because others take their places, and whether they are known to have no process.
    replaced: Mutex<HashMap<String, bool>>,
    wake: Notify,
}

/// What the runner has not seen yet. Bounded because the newest wins.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// A newer wish.
    pub(super) desired: Option<DesiredSandbox>,
    /// It shall go.
    pub(super) remove: Option<RemoveReason>,
    /// Something may have changed at the runtime.
    pub(super) changed: bool,
    /// What stood in the way may be gone.
    pub(super) retry: bool,
    /// What the slow resync has seen of it.
    pub(super) listing: Option<(Instant, Listing)>,
    /// This incarnation takes more of the node than it may, and why.
    pub(super) evict: Option<(PodUid, String)>,
}

/// What a pod was made from, for those who look after disks and images.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    /// The plan of the pod there is.
    pub(super) plan: Option<Arc<PodPlan>>,
    /// The plan of the one that would be made now.
    pub(super) wanted: Option<Arc<PodPlan>>,
    /// Ids of its containers, by name.
    pub(super) containers: Vec<(String, String)>,
}

/// Ids that the runtime listed under a sandbox's uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// CRI sandboxes, and whether each runs.
    pub(super) sandboxes: Vec<(String, bool)>,
    /// Containers, and whether each runs.
    pub(super) containers: Vec<(String, bool)>,
}

impl Cell {
    pub(super) fn new(
        uid: SandboxUid,
        view: PodView,
        hub: Hub,
        slots: Slots,
        counts: ResidencyCounts,
    ) -> Arc<Self> {
        Arc::new(Self {
            uid,
            gate: Mutex::new(Gate::new(view)),
            settled: Notify::new(),
            hub,
            slots,
            counts,
            inbox: Mutex::default(),
            made: Mutex::default(),
            replaced: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// Puts something into the inbox and wakes the runner.
    pub(super) fn tell(&self, put: impl FnOnce(&mut Inbox)) {
        put(&mut self.inbox.lock());
        self.wake.notify_one();
    }

    /// Has the runner look at the gate again.
    pub(super) fn poke(&self) {
        self.wake.notify_one();
    }

    pub(super) fn take_inbox(&self) -> Inbox {
        std::mem::take(&mut self.inbox.lock())
    }

    /// Waits until there is something to look at. Cancel-safe: a call that is dropped leaves the permit.
    pub(super) async fn told(&self) {
        self.wake.notified().await;
    }

    /// Says what the pod is made from now.
    pub(super) fn note(&self, made: Made) {
        *self.made.lock() = made;
    }

    pub(super) fn made(&self) -> Made {
        self.made.lock().clone()
    }

    /// A container is about to be killed, because another takes its place.
    pub(super) fn kills(&self, container: &str) {
        let mut replaced = self.replaced.lock();
        replaced.entry(container.to_owned()).or_insert(false);
    }

    /// Whether that it ends is no news.
    pub(super) fn is_killing(&self, container: &str) -> bool {
        self.replaced.lock().contains_key(container)
    }

    /// It has no process any more.
    pub(super) fn killed(&self, container: &str) {
        self.replaced.lock().insert(container.to_owned(), true);
    }

    /// Whether that is known.
    pub(super) fn has_killed(&self, container: &str) -> bool {
        self.replaced.lock().get(container) == Some(&true)
    }

    /// A new incarnation of the pod: nothing is left of what was replaced in an earlier one.
    pub(super) fn forget_all_killed(&self) {
        self.replaced.lock().clear();
    }

    pub(super) fn view(&self) -> Arc<PodView> {
        self.gate.lock().view()
    }
}

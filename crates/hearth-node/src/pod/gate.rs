//! The gate of one pod: nobody acts on its processes except through here.
//!
//! The gate is the only one that calls the freezer. It knows whether the processes run, who needs them running, and
//! whether the pod may be bound; and it keeps the view, so that what is reported of the tier can never be older than
//! what was done. A bind takes the short way through it: no queue, no CRI, one write to the kernel on the caller's own
//! thread, whatever the runner is busy with.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::{OperatingMode, Tier};
use hearth_core::binding::BoundEnv;
use hearth_core::podspec::PodPlan;
use hearth_core::sandbox::Residency;
use hearth_sys::{FreezeError, Freezer};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::cell::Cell;
use super::manager::ThawRefused;
use super::metrics::{FreezeReason, ThawReason};
use super::view::{PodPhase, PodView};

/// How long a thaw may hold up the thread that asks for it. A thaw is a single write that takes microseconds, or one
/// request to a Sentry that takes less than a millisecond; only where it is not confirmed within this time does it go
/// to a thread of its own, and there it goes on waiting.
const INLINE: Duration = Duration::from_millis(20);

/// A freezer call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    /// The kernel did not do it.
    #[error("the kernel")]
    Freezer(#[source] FreezeError),
    /// Nobody knows how it is frozen, nor whether it is.
    #[error("it is not known whether the pod is frozen")]
    Unclear,
    /// The thread that was to do it is gone.
    #[error("the thread of the freezer")]
    Thread(#[source] JoinError),
}

/// Whether the pod can be bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Offer {
    /// Not ready.
    #[default]
    NotReady,
    /// Ready.
    Ready,
    /// On its way out.
    Ending,
}

#[derive(Debug)]
pub(super) struct Gate {
    residency: Residency,
    /// A freezer call is under way on another thread.
    busy: bool,
    holds: u32,
    reserved: bool,
    bound: bool,
    offer: Offer,
    freezer: Option<Arc<dyn Freezer>>,
    /// Nobody has used it for as long as its rules say: it is to be frozen until somebody does.
    resting: bool,
    /// How often it could not be frozen for that since somebody used it.
    failed_rests: u32,
    /// Nobody has used it for so long that it is to be suspended.
    spent: bool,
    /// Somebody has used it since this daemon began.
    was_used: bool,
    /// It is frozen, and most of its memory was given back.
    reclaimed: bool,
    view: Arc<PodView>,
    counted_free: bool,
    /// How long the last bind's thaw took, in milliseconds.
    thaw_ms: Option<f64>,
    /// The variables of the bind, also while it is only reserved: from then on the pod is not ready without them.
    env: Option<Arc<BoundEnv>>,
    /// What the runner says of the pod beside the view.
    pod: PodInside,
    /// Goes up whenever somebody begins or ceases to need the processes: a freeze that was decided before is void.
    asked: u64,
}

/// What the gate must know of the inside of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodInside {
    /// What it was made from.
    pub(super) plan: Option<Arc<PodPlan>>,
    /// Whether its runner knows of the variables of the bind, so that it says itself whether it is ready with them.
    pub(super) has_env: bool,
}

/// What the runner sees of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GateState {
    pub(super) residency: Residency,
    pub(super) held: bool,
    pub(super) bound: bool,
    /// The variables of the bind.
    pub(super) env: Option<Arc<BoundEnv>>,
    pub(super) resting: bool,
    pub(super) failed_rests: u32,
    pub(super) asked: u64,
}

impl Gate {
    pub(super) fn new(view: PodView) -> Self {
        Self {
            residency: Residency::Running,
            busy: false,
            holds: 0,
            reserved: false,
            bound: false,
            offer: Offer::NotReady,
            freezer: None,
            resting: false,
            failed_rests: 0,
            spent: false,
            was_used: false,
            reclaimed: false,
            view: Arc::new(view),
            counted_free: false,
            thaw_ms: None,
            env: None,
            pod: PodInside::default(),
            asked: 0,
        }
    }

    pub(super) fn view(&self) -> Arc<PodView> {
        Arc::clone(&self.view)
    }

    pub(super) fn state(&self) -> GateState {
        let (residency, held) = (self.residency, self.held());
        GateState {
            residency,
            held,
            bound: self.bound,
            env: self.env.clone().filter(|_| self.bound),
            resting: self.resting,
            failed_rests: self.failed_rests,
            asked: self.asked,
        }
    }

    /// Somebody uses it: whatever follows from its not being used is void.
    fn used(&mut self) {
        self.asked += 1;
        (self.resting, self.spent) = (false, false);
        self.was_used = true;
        self.failed_rests = 0;
    }

    fn settle(&mut self, residency: Residency) {
        self.residency = residency;
        self.reclaimed &= residency == Residency::Frozen;
        if residency == Residency::Frozen {
            self.failed_rests = 0;
        }
    }

    fn held(&self) -> bool {
        self.holds > 0 || self.reserved
    }

    /// Whether the variables can be had here.
    fn check_env(&self, env: Option<&Arc<BoundEnv>>) -> Result<(), ThawRefused> {
        let Some(env) = env else { return Ok(()) };
        let plan = self.pod.plan.as_ref().ok_or(ThawRefused::NotReady)?;
        if self.view.pod_uid.as_ref() != Some(&env.pod) {
            return Err(ThawRefused::NotReady);
        }
        let missing = env
            .variables
            .iter()
            .find(|variable| !plan.has_container(&variable.container));
        match missing {
            Some(variable) => Err(ThawRefused::NoContainer(variable.container.clone())),
            None => Ok(()),
        }
    }

    /// Makes what is reported agree with the gate; says whether it has changed.
    fn show(&mut self, mut view: PodView) -> bool {
        let tier = match self.residency {
            Residency::Running => Some(Tier::Running),
            Residency::Frozen if self.reclaimed => Some(Tier::Reclaimed),
            Residency::Frozen => Some(Tier::Frozen),
            Residency::Unclear => None,
        };
        view.tier = view.tier.and(tier);
        view.member &= !self.bound;
        if self.env.is_some() && !self.pod.has_env {
            view.not_ready();
        }
        // Of the pod that has not been used, as long as its user wants it to run: not of the one that a resume makes.
        view.asks_suspension = self.spent
            && view.phase == PodPhase::Ready
            && view.operating_mode() == OperatingMode::Running;
        view.phases.thaw = self.thaw_ms;
        let changed = view != *self.view;
        if changed {
            self.view = Arc::new(view);
        }
        changed
    }
}

impl Cell {
    pub(super) fn gate_state(&self) -> GateState {
        self.gate.lock().state()
    }

    /// Shows a new view, and whether the pod may be bound.
    pub(super) fn publish(&self, view: PodView, offer: Offer, pod: PodInside) {
        let changed = {
            let mut gate = self.gate.lock();
            gate.offer = offer;
            gate.pod = pod;
            let changed = gate.show(view);
            self.count_free(&mut gate);
            changed
        };
        if changed {
            self.hub.changed(&self.uid);
        }
    }

    /// Keeps count of the members that can be bound.
    fn count_free(&self, gate: &mut Gate) {
        let free = gate.offer == Offer::Ready && gate.view.member && !gate.bound && !gate.reserved;
        if free != gate.counted_free {
            gate.counted_free = free;
            self.slots.free_member(free);
        }
    }

    /// The runner has ended: nothing can be had here any more.
    pub(super) fn close(&self) {
        let mut gate = self.gate.lock();
        gate.offer = Offer::Ending;
        self.count_free(&mut gate);
    }

    /// A new incarnation, or one that was found: how it is frozen and whether it is. One that was found frozen rests
    /// until it is known why it was, unless somebody has come for it meanwhile.
    pub(super) fn attach(&self, freezer: Option<Arc<dyn Freezer>>, residency: Residency) {
        let mut gate = self.gate.lock();
        gate.freezer = freezer;
        gate.settle(residency);
        gate.resting = residency == Residency::Frozen && !gate.was_used;
        gate.failed_rests = 0;
        gate.spent = false;
        gate.thaw_ms = None;
    }

    /// Whether it may be frozen and nobody knows how.
    pub(super) fn lacks_freezer(&self) -> bool {
        let gate = self.gate.lock();
        gate.residency != Residency::Running && gate.freezer.is_none()
    }

    /// The freezer that it has, if that remembers what it has asked of this CRI sandbox.
    pub(super) fn kept_freezer(&self, sandbox: &str) -> Option<Arc<dyn Freezer>> {
        let freezer = self.gate.lock().freezer.clone();
        freezer.filter(|freezer| freezer.remembers(sandbox))
    }

    /// Freezes it as soon as nothing stands in the way, until somebody uses it; unless somebody has since `asked` was
    /// read: `false` then.
    pub(super) fn rest(&self, asked: u64) -> bool {
        {
            let mut gate = self.gate.lock();
            if gate.busy || gate.held() || gate.asked != asked {
                return false;
            }
            gate.resting = true;
        }
        self.poke();
        true
    }

    /// It could not be frozen for being idle, as was decided when `asked` was read. It is not tried again before somebody
    /// has looked whether it is idle still.
    pub(super) fn rest_failed(&self, asked: u64) {
        let mut gate = self.gate.lock();
        if gate.asked == asked {
            gate.resting = false;
            gate.failed_rests = gate.failed_rests.saturating_add(1);
        }
    }

    /// It rests no longer, though nobody has used it: it is frozen for another reason, or not at all.
    pub(super) fn rest_no_more(&self) {
        self.change(|gate| (gate.resting, gate.spent) = (false, false));
        self.poke();
    }

    /// Asks for its suspension, unless somebody has used it since `asked` was read; or withdraws that.
    pub(super) fn ask_suspension(&self, asked: u64, asks: bool) {
        // Every look says so of every sandbox, and nearly always it is as it was.
        if self.gate.lock().spent == asks {
            return;
        }
        self.change(|gate| gate.spent = asks && gate.asked == asked && !gate.held());
    }

    /// Most of its memory was given back, if it is still as frozen as when `asked` was read.
    pub(super) fn reclaimed(&self, asked: u64) {
        self.change(|gate| {
            gate.reclaimed = gate.asked == asked && gate.residency == Residency::Frozen;
        });
    }

    /// Wakes it if it rests; `false` when it does not. Whatever freeze was decided is void, and one that is under way is
    /// undone.
    pub(super) async fn rouse(
        self: &Arc<Self>,
        within: Duration,
        why: ThawReason,
    ) -> Result<bool, GateError> {
        {
            let mut gate = self.gate.lock();
            let rested = gate.resting;
            gate.used();
            if !rested {
                return Ok(false);
            }
        }
        // If this fails the runner, which is told, goes on trying.
        let thawed = self.thaw(within, why).await;
        self.poke();
        thawed.map(|_| true)
    }

    /// From now on it belongs to an owner and is not frozen as a member.
    pub(super) fn bound(&self) {
        self.change(|gate| {
            gate.bound = true;
            gate.asked += 1;
        });
        self.poke();
    }

    /// The journal says that it belongs to an owner, who brought these variables.
    pub(super) fn was_bound(&self, env: Option<Arc<BoundEnv>>) {
        self.change(|gate| gate.env = env);
        self.bound();
    }

    /// It was bound before, and its owner asks for it again.
    pub(super) fn bound_again(&self) {
        self.change(Gate::used);
        self.bound();
    }

    /// Changes the gate and shows it.
    fn change(&self, change: impl FnOnce(&mut Gate)) {
        let changed = {
            let mut gate = self.gate.lock();
            change(&mut gate);
            let view = (*gate.view).clone();
            let changed = gate.show(view);
            self.count_free(&mut gate);
            changed
        };
        if changed {
            self.hub.changed(&self.uid);
        }
    }

    /// Freezes, unless somebody needs the processes, or has needed them since this was decided (`asked` says when):
    /// `false` then.
    ///
    /// On an error the processes run, unless it was not possible to undo what was done.
    pub(super) async fn freeze(
        self: &Arc<Self>,
        freezer: Arc<dyn Freezer>,
        within: Duration,
        asked: u64,
        why: FreezeReason,
    ) -> Result<bool, GateError> {
        let cell = Arc::clone(self);
        // Decided where it is done: a bind does not wait for a freeze that waits for a thread.
        let call = move || {
            {
                let mut gate = cell.gate.lock();
                if gate.busy || gate.held() || gate.asked != asked {
                    return Ok(false);
                }
                gate.freezer = Some(Arc::clone(&freezer));
                gate.busy = true;
            }
            let ending = Ending {
                cell,
                residency: Residency::Unclear,
            };
            let frozen = ending.settle(freezer.freeze(within), Residency::Frozen);
            frozen.map(|()| true)
        };
        let frozen = self.off_thread(call).await?;
        if frozen {
            self.counts.froze(why);
        }
        Ok(frozen)
    }

    /// Thaws, unless the processes run already. Says how long it took.
    pub(super) async fn thaw(
        self: &Arc<Self>,
        within: Duration,
        why: ThawReason,
    ) -> Result<Duration, GateError> {
        let mut stood_still = false;
        let took = self.thaw_or_wait(within, &mut stood_still).await?;
        if stood_still {
            self.counts.thawed(why);
        }
        Ok(took)
    }

    async fn thaw_or_wait(
        self: &Arc<Self>,
        within: Duration,
        stood_still: &mut bool,
    ) -> Result<Duration, GateError> {
        let start = Instant::now();
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let slow = {
                let mut gate = self.gate.lock();
                *stood_still |= gate.residency == Residency::Frozen;
                match self.thaw_at_once(&mut gate)? {
                    Thaw::Done => return Ok(start.elapsed()),
                    Thaw::Busy => None,
                    Thaw::Slow(freezer) => Some(freezer),
                }
            };
            match slow {
                None => settled.await,
                Some(freezer) => {
                    let ending = Ending {
                        cell: Arc::clone(self),
                        residency: Residency::Unclear,
                    };
                    let call = move || ending.settle(freezer.thaw(within), Residency::Running);
                    return self.off_thread(call).await.map(|()| start.elapsed());
                }
            }
        }
    }

    fn thaw_at_once(&self, gate: &mut Gate) -> Result<Thaw, GateError> {
        if gate.busy {
            return Ok(Thaw::Busy);
        }
        if gate.residency == Residency::Running {
            gate.settle(Residency::Running);
            return Ok(Thaw::Done);
        }
        let freezer = gate.freezer.clone().ok_or(GateError::Unclear)?;
        let outcome = match freezer.thaw(INLINE) {
            Ok(()) => {
                gate.settle(Residency::Running);
                Ok(Thaw::Done)
            }
            Err(FreezeError::NotThawed { .. }) => {
                gate.settle(Residency::Unclear);
                gate.busy = true;
                Ok(Thaw::Slow(freezer))
            }
            Err(error) => {
                gate.settle(Residency::Unclear);
                Err(GateError::Freezer(error))
            }
        };
        let view = (*gate.view).clone();
        if gate.show(view) {
            self.hub.changed(&self.uid);
        }
        outcome
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, FreezeError> + Send + 'static,
    ) -> Result<T, GateError> {
        tokio::task::spawn_blocking(call)
            .await
            .map_err(GateError::Thread)?
            .map_err(GateError::Freezer)
    }

    /// Reserves the pod for a bind and thaws it.
    pub(super) async fn thaw_for_bind(
        self: &Arc<Self>,
        within: Duration,
        env: Option<&Arc<BoundEnv>>,
    ) -> Result<BoundPod, ThawRefused> {
        {
            let mut gate = self.gate.lock();
            match gate.offer {
                Offer::Ready if gate.reserved || gate.bound => return Err(ThawRefused::Held),
                Offer::Ready => {
                    gate.check_env(env)?;
                    gate.reserved = true;
                    gate.env = env.cloned();
                    gate.used();
                }
                Offer::NotReady => return Err(ThawRefused::NotReady),
                Offer::Ending => return Err(ThawRefused::Ending),
            }
            self.count_free(&mut gate);
        }
        // From here on, dropping it gives the pod back.
        let mut pod = BoundPod {
            view: self.view(),
            thaw: Duration::ZERO,
            cell: Arc::clone(self),
            committed: false,
        };
        pod.thaw = self
            .thaw(within, ThawReason::Bind)
            .await
            .map_err(|error| ThawRefused::Failed(std::io::Error::other(error)))?;
        let thaw_ms = pod.thaw.as_secs_f64() * 1000.0;
        self.change(|gate| gate.thaw_ms = Some(thaw_ms));
        pod.view = self.view();
        Ok(pod)
    }

    /// Keeps the processes running while the guard lives.
    pub(super) async fn hold(self: &Arc<Self>, within: Duration) -> Result<Hold, GateError> {
        // What follows from its not being used is withdrawn here, not when the runner comes to it.
        self.change(|gate| {
            gate.holds += 1;
            gate.used();
        });
        let hold = Hold(Arc::clone(self));
        self.thaw(within, ThawReason::Use).await?;
        Ok(hold)
    }
}

enum Thaw {
    Done,
    Busy,
    Slow(Arc<dyn Freezer>),
}

/// Settles the gate when a freezer call on another thread ends, in whatever way.
struct Ending {
    cell: Arc<Cell>,
    residency: Residency,
}

impl Ending {
    fn settle(
        mut self,
        result: Result<(), FreezeError>,
        done: Residency,
    ) -> Result<(), FreezeError> {
        self.residency = match &result {
            Ok(()) => done,
            // A failed freeze was undone, unless it says otherwise. A failed thaw was not done.
            Err(FreezeError::Stuck { .. }) => Residency::Unclear,
            Err(_) if done == Residency::Frozen => Residency::Running,
            Err(_) => Residency::Unclear,
        };
        result
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let residency = self.residency;
        self.cell.change(|gate| {
            gate.busy = false;
            gate.settle(residency);
        });
        self.cell.settled.notify_waiters();
        self.cell.poke();
    }
}

/// Keeps a pod's processes running.
#[derive(Debug)]
pub(super) struct Hold(Arc<Cell>);

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut gate = self.0.gate.lock();
            gate.holds -= 1;
            gate.asked += 1;
        }
        self.0.poke();
    }
}

/// A sandbox that was thawed for a bind and is kept from being frozen again.
///
/// Dropping it without [`BoundPod::commit`] means that the bind failed: the sandbox is a member again and is refrozen.
#[derive(Debug)]
#[must_use]
pub struct BoundPod {
    /// What was known of it when it was thawed.
    pub view: Arc<PodView>,
    /// How long the thaw took; next to nothing when it was running already.
    pub thaw: Duration,
    cell: Arc<Cell>,
    committed: bool,
}

impl BoundPod {
    /// The bind is durable: from now on the sandbox belongs to its owner.
    pub fn commit(mut self) {
        self.committed = true;
    }
}

impl Drop for BoundPod {
    fn drop(&mut self) {
        let committed = self.committed;
        self.cell.change(|gate| {
            gate.reserved = false;
            gate.bound |= committed;
            if !gate.bound {
                gate.env = None;
            }
        });
        self.cell.poke();
    }
}

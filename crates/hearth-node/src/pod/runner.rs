//! The task of one sandbox: drives its state machine, the only one that touches its CRI ids, cgroup and volumes.
//!
//! It waits for its inbox, for the operation under way, for probes and for its timer, takes each into the state machine
//! and starts what that says. It never waits for anything inside, so that a wish is heard while a pull goes on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hearth_api::{OperatingMode, PhaseTimes, Warmth};
use hearth_core::binding::BoundEnv;
use hearth_core::ids::{Key, PodUid};
use hearth_core::podspec::{self, PodPlan, Refusal};
use hearth_core::sandbox::{
    Desired, Effect, Event, Goal, Life, Observed, Op, Outcome, Phase, Priority, Residency,
    SandboxFact, State, Step, step,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cell::{Cell, Listing, Made};
use super::config::Handler;
use super::contents;
use super::desired::{DesiredSandbox, NoPlan};
use super::errand::{Errand, Place};
use super::gate::{GateState, Offer, PodInside};
use super::manager::{RemoveReason, Shared};
use super::metrics::FreezeReason;
use super::settle::settle;
use super::show;
use super::slots::{Group, Replacement, Slot};
use super::user_ids::IdRange;
use super::work::{self, Done, Subject};

/// A clock may be set: what ends at a time of day is looked at anew at least this often.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

pub(super) struct Runner {
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    key: Key,
    desired: Option<DesiredSandbox>,
    remove: Option<RemoveReason>,
    /// Whether it was made as a pool member, as far as only the journal says so.
    recorded_member: bool,
    /// The handler of this incarnation of the pod: the class it was chosen by may change.
    made_on: Option<(PodUid, String)>,
    state: State,
    doing: Option<Doing>,
    errands: Vec<Errand>,
    slot: Option<Slot>,
    /// The pod's ids of the node, where it has any to itself.
    ids: Option<IdRange>,
    phases: PhaseTimes,
    started_at: Option<Instant>,
    /// Since when containers are being made anew for the variables of a bind; others yield meanwhile.
    replacing: Option<(Instant, Replacement)>,
    /// Why it could not be frozen the last time.
    unfrozen: Option<String>,
    last_change: Instant,
    /// Dropped once it is known what an earlier daemon left.
    adopting: Option<mpsc::Sender<()>>,
}

/// The operation under way.
struct Doing {
    step: Step,
    since: Instant,
    work: BoxFuture<'static, Done>,
}

/// What wakes the runner.
enum Wake {
    Told,
    Done(Done),
    Ran { errand: usize, event: Event },
    Time,
    Stop,
}

/// What the journal says of a sandbox at the start.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) member: bool,
    pub(super) made_on: Option<(PodUid, String)>,
    pub(super) adopting: Option<mpsc::Sender<()>>,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, cell: Arc<Cell>, origin: Origin) -> Self {
        let Origin {
            key,
            state,
            member,
            made_on,
            adopting,
        } = origin;
        let first_id = state.pod.as_ref().and_then(|pod| pod.first_id);
        Self {
            ids: first_id.map(|first| shared.user_ids.keep(first)),
            shared,
            cell,
            key,
            desired: None,
            remove: None,
            recorded_member: member,
            made_on,
            state,
            doing: None,
            errands: Vec::new(),
            slot: None,
            phases: PhaseTimes::default(),
            started_at: None,
            replacing: None,
            unfrozen: None,
            last_change: Instant::now(),
            adopting,
        }
    }

    /// Runs until the sandbox is gone, or until `stop`, which touches no pod.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if self.adopting.is_some() {
            self.settle_freezer().await;
        }
        self.read_inbox();
        while self.state.phase != Phase::Gone {
            match self.wait(&stop).await {
                Wake::Told => self.read_inbox(),
                Wake::Done(done) => self.ended(done),
                Wake::Ran { errand, event } => {
                    drop(self.errands.swap_remove(errand));
                    self.take(event);
                }
                Wake::Time => self.take(Event::Tick),
                Wake::Stop => return,
            }
        }
        self.cell.close();
        self.shared.forget(&self.cell);
    }

    async fn wait(&mut self, stop: &CancellationToken) -> Wake {
        let timer = self.timer();
        let (doing, errands) = (&mut self.doing, &mut self.errands);
        // Cancel-safe: the operation and the errands are polled by reference and stay; the others only notify.
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            done = poll_fn(|cx| match doing {
                Some(doing) => doing.work.poll_unpin(cx),
                None => Poll::Pending,
            }) => Wake::Done(done),
            () = self.cell.told() => Wake::Told,
            wake = poll_fn(|cx| {
                for (index, errand) in errands.iter_mut().enumerate() {
                    if let Poll::Ready(event) = errand.poll(cx) {
                        return Poll::Ready(Wake::Ran { errand: index, event });
                    }
                }
                Poll::Pending
            }) => wake,
            () = async {
                match timer {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => Wake::Time,
        }
    }

    /// When to look again at the latest.
    fn timer(&self) -> Option<Instant> {
        let wake = self.state.wake.map(|wake| self.shared.epoch + wake);
        let expiry = self
            .desired
            .as_ref()
            .and_then(|desired| desired.shutdown_time)
            .and_then(|at| {
                let left = at.duration_since(self.shared.clock.now());
                let left = Duration::try_from(left)
                    .ok()
                    .filter(|left| !left.is_zero())?;
                Some(Instant::now() + left.min(CLOCK_CHECK))
            });
        wake.into_iter().chain(expiry).min()
    }

    /// A pod that a restarted daemon finds may be frozen.
    async fn settle_freezer(&mut self) {
        let Some(pod) = self.state.pod.as_ref().map(|pod| pod.uid.clone()) else {
            return;
        };
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        let handler = self.handler().name;
        let (freezer, residency) = settle(&shared, &key, pod, handler).await;
        self.cell.attach(freezer, residency);
    }

    fn read_inbox(&mut self) {
        let inbox = self.cell.take_inbox();
        self.remove = self.remove.or(inbox.remove);
        if let Some(desired) = inbox.desired {
            self.key = desired.key.clone();
            self.desired = Some(desired);
        }
        self.plan();
        if inbox.retry {
            self.take(Event::Retry);
        }
        if let Some((pod, why)) = inbox.evict {
            self.take(Event::Evict { pod, why });
        }
        let missed = inbox
            .listing
            .is_some_and(|(at, listing)| self.disagrees(at, &listing));
        if missed {
            self.shared.metrics.missed();
            tracing::warn!(sandbox = %self.key, "a resync found what no event had told");
        }
        self.take(if inbox.changed || missed {
            Event::Changed
        } else {
            Event::Tick
        });
    }

    /// Plans by what is known now of the namespace, which may be more than when the wish came.
    fn plan(&mut self) {
        if let Some(desired) = &mut self.desired {
            let Shared {
                configs, config, ..
            } = &*self.shared;
            desired.plan = desired.asked.plan(configs, config);
        }
    }

    /// Whether a listing that was taken after the last operation says something else than what is known.
    fn disagrees(&self, at: Instant, listing: &Listing) -> bool {
        if self.doing.is_some() || self.state.unsettled.is_some() || at < self.last_change {
            return false;
        }
        let (mut sandboxes, mut containers) = (Vec::new(), Vec::new());
        if let Some(pod) = &self.state.pod {
            match &pod.sandbox {
                SandboxFact::None => {}
                SandboxFact::Up(id) => sandboxes.push((id.clone(), true)),
                SandboxFact::Down(id) => sandboxes.push((id.clone(), false)),
            }
            for container in &pod.containers {
                let running = matches!(container.life, Life::Running(_));
                containers.extend(container.life.id().map(|id| (id.to_owned(), running)));
                let predecessor = container.predecessor.iter();
                containers.extend(predecessor.map(|one| (one.id.clone(), !one.ended)));
            }
        }
        let mut seen = listing.clone();
        containers.sort();
        seen.containers.sort();
        seen.sandboxes.sort();
        seen != Listing {
            sandboxes,
            containers,
        }
    }

    fn ended(&mut self, done: Done) {
        let Some(doing) = self.doing.take() else {
            return;
        };
        self.last_change = Instant::now();
        self.slot = done.slot.or_else(|| self.slot.take());
        self.ids = done.ids.or_else(|| self.ids.take());
        let took = doing.since.elapsed();
        match &done.outcome {
            Outcome::Done(_) => {
                self.shared.metrics.step(doing.step, took);
                self.note_phase(doing.step, took);
            }
            Outcome::Failed(error) => {
                if doing.step == Step::Freeze {
                    self.unfrozen = Some(error.clone());
                }
                self.shared.metrics.failed(doing.step, true);
                tracing::warn!(sandbox = %self.key, uid = %self.cell.uid, step = %doing.step, error, "step failed");
            }
            Outcome::Unknown(error) => {
                self.shared.metrics.failed(doing.step, false);
                tracing::warn!(sandbox = %self.key, uid = %self.cell.uid, step = %doing.step, error, "outcome unknown");
            }
        }
        self.take(Event::Ended(done.outcome));
    }

    fn note_phase(&mut self, step: Step, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        let add = |phase: &mut Option<f64>| *phase = Some(phase.unwrap_or(0.0) + ms);
        match step {
            Step::Volumes if !self.has_sandbox() => {
                self.phases = PhaseTimes::default();
                add(&mut self.phases.volumes);
            }
            Step::RunSandbox => {
                let volumes = self.phases.volumes.take();
                self.phases = PhaseTimes::default();
                self.phases.volumes = volumes;
                add(&mut self.phases.sandbox);
            }
            Step::StopContainers => {
                self.phases = PhaseTimes::default();
                add(&mut self.phases.stop);
            }
            Step::StopSandbox | Step::RemoveSandbox | Step::RemoveVolumes | Step::RemoveCgroup
                if self.state.pod.as_ref().is_some_and(|pod| pod.ending) =>
            {
                add(&mut self.phases.teardown);
            }
            Step::Create => add(&mut self.phases.create),
            Step::Start => {
                add(&mut self.phases.start);
                self.started_at = Some(Instant::now());
            }
            _ => {}
        }
    }

    fn has_sandbox(&self) -> bool {
        let pod = self.state.pod.as_ref();
        pod.is_some_and(|pod| pod.sandbox != SandboxFact::None)
    }

    /// Takes an event into the state machine and starts what it says.
    fn take(&mut self, event: Event) {
        let gate = self.cell.gate_state();
        let desired = self.wish(&gate);
        let observed = Observed {
            residency: gate.residency,
            event,
        };
        let (next, effects) = step(
            &self.state,
            &observed,
            &desired,
            self.shared.epoch.elapsed(),
        );
        self.note(&next, &desired);
        self.state = next;
        self.note_handler();
        if self.state.pod.is_none() {
            self.ids = None;
        }
        self.errands.retain(|errand| errand.is_wanted(&self.state));
        for effect in effects {
            match effect {
                Effect::Cancel => self.doing = None,
                Effect::Do(op) => self.start(op, &desired, gate.asked),
                Effect::Probe {
                    container,
                    attempt,
                    kind,
                } => self.send(|place| Errand::probe(place, container, attempt, kind)),
                Effect::PostStart { container, attempt } => {
                    self.send(|place| Errand::post_start(place, container, attempt));
                }
                Effect::ReleaseSlot => self.slot = None,
            }
        }
        self.publish(&gate, &desired);
    }

    /// What changes with this step, for metrics and logs.
    fn note(&mut self, next: &State, desired: &Desired) {
        let exited = |state: &State| {
            let containers = state
                .pod
                .iter()
                .filter(|pod| !pod.ending)
                .flat_map(|pod| &pod.containers);
            containers
                .filter(|container| matches!(container.life, Life::Exited { .. }))
                .count()
        };
        let exits = exited(next).saturating_sub(exited(&self.state));
        self.shared.metrics.exits(u64::try_from(exits).unwrap_or(0));
        if next.ready()
            && !self.state.ready()
            && let Some(started) = self.started_at.take()
        {
            let after = started.elapsed();
            self.phases.ready = Some(after.as_secs_f64() * 1000.0);
            self.shared.metrics.became_ready(after);
        }
        let half_replaced = |state: &State| {
            let pod = state.pod.as_ref();
            pod.is_some_and(hearth_core::sandbox::Pod::is_half_replaced)
        };
        if half_replaced(next) && !half_replaced(&self.state) {
            self.replacing = Some((Instant::now(), self.shared.slots.replacement()));
            self.phases = PhaseTimes::default();
        }
        if next.pod.is_none() {
            // It was stopped on the way; the next one is made as a whole.
            self.replacing = None;
        }
        if next.ready()
            && let Some((since, _)) = self.replacing.take()
        {
            self.shared.metrics.replaced(since.elapsed());
        }
        if next.unsettled.is_none() {
            self.adopting = None;
        }
        let evicted = |state: &State| state.pod.as_ref().and_then(|pod| pod.evicted.clone());
        if let Some(why) = evicted(next).filter(|_| evicted(&self.state).is_none()) {
            self.shared.metrics.evicted();
            tracing::warn!(sandbox = %self.key, uid = %self.cell.uid, why, "evicted");
        }
        if next.phase != self.state.phase {
            tracing::debug!(sandbox = %self.key, uid = %self.cell.uid, goal = ?desired.goal, phase = ?next.phase, "phase");
        }
    }

    /// What is wanted now.
    fn wish(&self, gate: &GateState) -> Desired {
        let member = self.member() && !gate.bound;
        let goal = match (&self.desired, self.remove) {
            (_, Some(_)) => Goal::Remove,
            (None, None) => Goal::Keep,
            (Some(_), None) if self.expired() => Goal::Expire,
            (Some(desired), None) => match desired.mode {
                OperatingMode::Suspended => Goal::Suspend,
                OperatingMode::Frozen => Goal::Freeze,
                OperatingMode::Running if member => Goal::Run {
                    freeze_when_ready: desired.member == Some(Warmth::Frozen),
                },
                OperatingMode::Running => Goal::Run {
                    freeze_when_ready: gate.resting,
                },
            },
        };
        let plan = self.wanted_plan();
        let can_freeze = !self.handler().freeze_method.is_empty();
        Desired {
            goal,
            contents: contents::of(&self.shared, &self.key, &self.state, self.desired.as_ref()),
            plan,
            env: self.env(gate),
            member,
            held: gate.held,
            can_freeze,
            no_room: self.shared.no_room.read().clone(),
        }
    }

    /// The variables of the bind: for the incarnation that was bound, and for others until the adoption has put them into
    /// the Sandbox.
    fn env(&self, gate: &GateState) -> Option<Arc<BoundEnv>> {
        let env = gate.env.as_ref()?;
        let pod = self.state.pod.as_ref();
        let is_its = pod.is_some_and(|pod| pod.uid == env.pod);
        (is_its || self.member()).then(|| Arc::clone(env))
    }

    fn member(&self) -> bool {
        self.desired
            .as_ref()
            .map_or(self.recorded_member, |desired| desired.member.is_some())
    }

    fn expired(&self) -> bool {
        let at = self
            .desired
            .as_ref()
            .and_then(|desired| desired.shutdown_time);
        at.is_some_and(|at| at <= self.shared.clock.now())
    }

    /// What a new incarnation would be made from; `None` while its RuntimeClass was not heard of either.
    fn wanted_plan(&self) -> Option<Result<Arc<PodPlan>, Arc<Refusal>>> {
        let plan = match &self.desired.as_ref()?.plan {
            Ok(plan) => plan,
            Err(NoPlan::Refused(refusal)) => return Some(Err(Arc::clone(refusal))),
            Err(NoPlan::Lacking(_)) => return None,
        };
        let classes = &self.shared.classes;
        match classes.resolve(&plan.runtime_class) {
            Ok(None) => None,
            Ok(Some(handler)) => {
                let honoured = podspec::honoured_by(&handler.name, plan);
                let plan = honoured.map(|()| classes.with_overhead(plan));
                Some(plan.map_err(Arc::new))
            }
            Err(refusal) => Some(Err(Arc::new(refusal))),
        }
    }

    /// Keeps the handler that a new incarnation is made on.
    fn note_handler(&mut self) {
        let Some(pod) = &self.state.pod else { return };
        if self
            .made_on
            .as_ref()
            .is_some_and(|(uid, _)| *uid == pod.uid)
        {
            return;
        }
        if let Ok(Some(handler)) = self.shared.classes.resolve(&pod.plan.runtime_class) {
            self.made_on = Some((pod.uid.clone(), handler.name));
        }
    }

    /// The handler of the pod there is, or of the one that would be made.
    fn handler(&self) -> Handler {
        let classes = &self.shared.classes;
        let pod = self.state.pod.as_ref();
        let made_on = self.made_on.as_ref();
        if let Some((_, name)) = made_on.filter(|(uid, _)| pod.is_some_and(|pod| pod.uid == *uid)) {
            return classes.handler(name);
        }
        let wanted = self
            .desired
            .as_ref()
            .and_then(|desired| desired.plan.as_ref().ok());
        let plan = pod.map(|pod| &pod.plan).or(wanted);
        let class = plan.map_or("", |plan| plan.runtime_class.as_str());
        match classes.resolve(class) {
            Ok(Some(handler)) => handler,
            // Of a class that nobody knows, the likeliest is a handler of its name.
            _ => classes.handler(class),
        }
    }

    fn start(&mut self, op: Op, desired: &Desired, asked: u64) {
        let subject = Subject {
            shared: Arc::clone(&self.shared),
            cell: Arc::clone(&self.cell),
            key: self.key.clone(),
            member: desired.member,
            group: self.group(&op, desired),
            handler: self.handler(),
            pod: self.state.pod.clone(),
            metadata: self
                .desired
                .as_ref()
                .map(|desired| Arc::clone(&desired.metadata)),
            wants_ids: self.state.pod.is_none() && wants_ids(desired),
            asked,
            ahead: self.ahead(&op, desired),
            freeze_reason: match desired.goal {
                Goal::Run { .. } if desired.member => FreezeReason::Pool,
                Goal::Run { .. } => FreezeReason::Idle,
                _ => FreezeReason::Mode,
            },
        };
        let step = op.step();
        self.doing = Some(Doing {
            step,
            since: Instant::now(),
            work: work::perform(subject, op).boxed(),
        });
    }

    /// What a pod would be made from for stock when its turn comes.
    fn ahead(&self, op: &Op, desired: &Desired) -> Option<Arc<PodPlan>> {
        let stock = matches!(op, Op::Admit(Priority::Background)) && self.state.pod.is_none();
        let plan = desired.plan.as_ref()?.as_ref().ok()?;
        (stock && matches!(desired.goal, Goal::Run { .. })).then(|| Arc::clone(plan))
    }

    /// With whom it takes turns.
    fn group(&self, op: &Op, desired: &Desired) -> Group {
        // In the background nothing is made for a sandbox that somebody has: something of it is removed.
        let removes = *op == Op::Admit(Priority::Background) && !desired.member;
        if desired.goal.ends_pod() || removes {
            return Group::Teardown;
        }
        let pool = self
            .desired
            .as_ref()
            .and_then(|desired| desired.pool.clone());
        pool.map_or(Group::Other, Group::Pool)
    }

    /// Starts a probe or hook.
    fn send(&mut self, errand: impl FnOnce(&Place<'_>) -> Option<Errand>) {
        let Some(pod) = &self.state.pod else { return };
        let place = Place {
            runtime: &self.shared.runtime,
            key: &self.key,
            pod,
            reach: self.shared.config.reach,
        };
        self.errands.extend(errand(&place));
    }

    /// What the pod is made from, for those who look after disks and images.
    fn made(&self) -> Made {
        let wanted = self.desired.as_ref().and_then(|d| d.plan.as_ref().ok());
        let pod = self.state.pod.as_ref();
        let plan = pod.map(|pod| Arc::clone(&pod.plan));
        let containers = pod.into_iter().flat_map(|pod| {
            let named = pod.plan.containers.iter().zip(&pod.containers);
            named.filter_map(|(plan, c)| Some((plan.name.clone(), c.life.id()?.to_owned())))
        });
        Made {
            containers: containers.collect(),
            wanted: wanted.cloned(),
            plan,
        }
    }

    fn publish(&self, gate: &GateState, desired: &Desired) {
        self.cell.note(self.made());
        let handler = self.handler();
        let service = self.desired.as_ref().and_then(|desired| desired.service);
        let attachment = self.shared.attachments.of(&self.cell.uid, service);
        let view = show::view(&show::Source {
            uid: &self.cell.uid,
            key: &self.key,
            state: &self.state,
            wish: desired,
            desired: self.desired.as_ref(),
            residency: gate.residency,
            handler: &handler,
            phases: &self.phases,
            no_packets: self.shared.config.no_packets.as_deref(),
            unfrozen: self.unfrozen.as_deref().filter(|_| gate.failed_rests > 0),
            attachment: &attachment,
        });
        let offer = match &self.state.phase {
            _ if desired.goal.ends_pod() => Offer::Ending,
            Phase::Finished(_) | Phase::Suspending(_) | Phase::Stopping(_) | Phase::Gone => {
                Offer::Ending
            }
            _ if self.member() && self.state.ready() && gate.residency != Residency::Unclear => {
                Offer::Ready
            }
            _ => Offer::NotReady,
        };
        let pod = self.state.pod.as_ref();
        let inside = PodInside {
            plan: pod.map(|pod| Arc::clone(&pod.plan)),
            // Those of a bind that are not for this pod need not be waited for.
            has_env: pod.is_some_and(|pod| pod.env.is_some())
                || (gate.env.is_some() && desired.env.is_none()),
        };
        self.cell.publish(view, offer, inside);
    }
}

/// Whether the pod that would be made has a user namespace of its own.
fn wants_ids(desired: &Desired) -> bool {
    let plan = desired.plan.as_ref().and_then(|plan| plan.as_ref().ok());
    plan.is_some_and(|plan| plan.security.user_namespace)
}

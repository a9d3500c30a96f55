//! A node in memory that carries out effects, well or badly, and objects to what must never be done.

mod events;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::binding::BoundEnv;
use crate::ids::PodUid;
use crate::podspec::{PodPlan, Role};
use crate::probe::ProbeKind;

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Good,
    Bad,
    /// It had its effect, but nobody heard of it.
    Lost,
    /// Nobody heard of it, and its effect comes later, or never.
    Late,
}

#[derive(Clone, Debug)]
struct WorldSandbox {
    id: String,
    pod_uid: PodUid,
    attempt: u32,
    up: bool,
}

#[derive(Clone, Debug)]
struct WorldContainer {
    id: String,
    sandbox_id: String,
    name: String,
    attempt: u32,
    with_env: bool,
    life: SeenLife,
    started: bool,
}

/// What the record of the sandbox says.
pub(super) type Journalled = (Stage, Option<(PodUid, u32, Arc<PodPlan>)>);

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) state: State,
    pub(super) desired: Desired,
    pub(super) journal: Option<Journalled>,
    pub(super) residency: Residency,
    pub(super) log: Vec<Op>,
    /// The variables that it was bound with, as the journal has them.
    bound: Option<Arc<BoundEnv>>,
    plan: Arc<PodPlan>,
    sandboxes: Vec<WorldSandbox>,
    containers: Vec<WorldContainer>,
    volumes: BTreeSet<PodUid>,
    cgroups: BTreeSet<PodUid>,
    stopped: BTreeSet<PodUid>,
    doubtful: BTreeSet<(PodUid, u32)>,
    late: Vec<Op>,
    doing: Option<Op>,
    /// What has failed a moment ago.
    failing: Option<Op>,
    /// The steps that failed, and when each may be tried again.
    failed: Vec<(Step, Option<usize>, Duration)>,
    probing: Vec<(usize, u32, ProbeKind)>,
    hooks: Vec<(usize, u32)>,
    slot: bool,
    minted: u32,
    serial: u32,
}

impl World {
    pub(super) fn new(plan: Arc<PodPlan>, goal: Goal, can_freeze: bool) -> Self {
        let member = matches!(
            goal,
            Goal::Run {
                freeze_when_ready: true
            }
        );
        let desired = Desired {
            goal,
            plan: Some(Ok(plan.clone())),
            contents: Contents::default(),
            env: None,
            member,
            held: false,
            can_freeze,
            no_room: None,
        };
        Self {
            now: Duration::from_secs(1000),
            state: State::default(),
            desired,
            journal: None,
            residency: Residency::Running,
            log: Vec::new(),
            bound: None,
            plan,
            sandboxes: Vec::new(),
            containers: Vec::new(),
            volumes: BTreeSet::new(),
            cgroups: BTreeSet::new(),
            stopped: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            late: Vec::new(),
            doing: None,
            failing: None,
            failed: Vec::new(),
            probing: Vec::new(),
            hooks: Vec::new(),
            slot: false,
            minted: 0,
            serial: 0,
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.desired.env = self.env_of_this_pod();
        let observed = Observed {
            residency: self.residency,
            event,
        };
        let (state, effects) = step(&self.state, &observed, &self.desired, self.now);
        self.state = state;
        self.note_failures(&observed.event);
        let state = &self.state;
        self.probing
            .retain(|&(container, attempt, kind)| state.is_probing(container, attempt, kind));
        self.hooks
            .retain(|&(container, attempt)| state.is_hooking(container, attempt));
        for effect in effects {
            self.carry_out(effect);
        }
        self.check_names();
        assert_eq!(
            self.state.doing, self.doing,
            "state and world disagree on what is under way"
        );
        assert_eq!(
            self.state.slot, self.slot,
            "state and world disagree on the slot"
        );
        self.check_phase();
    }

    /// Remembers by itself until when each step waits that has failed. Nothing of it counts once nothing is wanted of what
    /// failed.
    fn note_failures(&mut self, event: &Event) {
        let at_rest = self.state.doing.is_none() && !self.state.blocked;
        if at_rest {
            self.failed.clear();
        }
        if *event == Event::Retry {
            let kept = |step: &Step| matches!(step, Step::Freeze | Step::Thaw);
            self.failed.retain(|(step, ..)| kept(step));
        }
        if let Some(op) = self.failing.take()
            && let Some(failure) = self.state.failures.of(&op)
        {
            let step = (failure.step, failure.container, failure.retry_at);
            self.failed.push(step);
        }
    }

    /// The variables of the bind, for the incarnation that was bound.
    fn env_of_this_pod(&self) -> Option<Arc<BoundEnv>> {
        let pod = self.state.pod.as_ref()?;
        self.bound.clone().filter(|env| env.pod == pod.uid)
    }

    pub(super) fn tick(&mut self) {
        self.happen(Event::Tick);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Cancel => {
                let dropped = self.doing.take();
                assert!(
                    dropped.is_some_and(|op| op.may_be_dropped()),
                    "what may not be dropped was dropped"
                );
            }
            Effect::Do(op) => {
                assert!(self.doing.is_none(), "two operations at once");
                self.check_start(&op);
                self.log.push(op.clone());
                self.doing = Some(op);
            }
            Effect::PostStart { container, attempt } => {
                assert_eq!(self.residency, Residency::Running, "hooked a frozen pod");
                self.hooks.push((container, attempt));
            }
            Effect::Probe {
                container,
                attempt,
                kind,
            } => {
                assert_eq!(self.residency, Residency::Running, "probed a frozen pod");
                assert!(
                    !matches!(self.doing, Some(Op::Freeze)),
                    "probed while freezing"
                );
                self.probing.push((container, attempt, kind));
            }
            Effect::ReleaseSlot => {
                assert!(self.slot, "released a slot that was not held");
                self.slot = false;
            }
        }
    }

    fn pod_uid(&self) -> PodUid {
        self.state
            .pod
            .as_ref()
            .expect("an operation on a pod that is not there")
            .uid
            .clone()
    }

    fn is_journalled(&self, uid: &PodUid) -> bool {
        matches!(&self.journal, Some((_, Some((journalled, _, _)))) if journalled == uid)
    }

    /// What must hold when an operation starts.
    fn check_start(&self, op: &Op) {
        assert!(
            !op.needs_live() || self.residency == Residency::Running,
            "{op:?} on a frozen pod"
        );
        assert!(!op.needs_slot() || self.slot, "{op:?} without a slot");
        let waits = self.failed.iter().any(|(step, container, retry_at)| {
            (*step, *container) == (op.step(), op.container()) && self.now < *retry_at
        });
        assert!(!waits, "{op:?} too soon, after {:?}", self.log);
        match op {
            Op::Volumes { .. }
            | Op::Cgroup
            | Op::RunSandbox { .. }
            | Op::Create { .. }
            | Op::Start { .. } => {
                let uid = self.pod_uid();
                assert!(
                    self.is_journalled(&uid),
                    "{op:?} before the uid was recorded"
                );
                assert!(
                    !self.stopped.contains(&uid),
                    "{op:?} for a pod that was being stopped"
                );
            }
            _ => {}
        }
        match op {
            Op::RunSandbox { attempt } => {
                let name = (self.pod_uid(), *attempt);
                assert!(
                    !self.doubtful.contains(&name),
                    "attempt {attempt} was used again after an unknown outcome"
                );
                assert!(
                    self.cgroups.contains(&name.0) && self.volumes.contains(&name.0),
                    "made before its cgroup"
                );
                let clash = self
                    .sandboxes
                    .iter()
                    .any(|s| s.pod_uid == name.0 && s.attempt == *attempt);
                assert!(!clash, "attempt {attempt} exists already");
            }
            Op::Create {
                container,
                with_env,
                ..
            } => {
                let name = &self.plan.containers[*container].name;
                let due = self
                    .desired
                    .env
                    .as_ref()
                    .is_some_and(|env| env.is_for(name));
                assert!(*with_env || !due, "{op:?} without its variables");
            }
            Op::RemovePredecessor { id, .. } => {
                assert!(
                    self.running().all(|container| container.id != *id),
                    "{op:?} while it runs"
                );
            }
            Op::Start { container, .. } if self.plan.containers[*container].role == Role::Main => {
                self.check_inits_are_over();
            }
            Op::Freeze => {
                assert!(!self.desired.held, "froze what is held");
                assert!(self.probing.is_empty(), "froze during a probe");
                assert!(self.hooks.is_empty(), "froze during a hook");
                assert!(self.desired.can_freeze);
            }
            Op::Forget => {
                assert!(self.sandboxes.is_empty(), "forgot while a sandbox is left");
                assert!(
                    self.volumes.is_empty() && self.cgroups.is_empty(),
                    "forgot while something is left"
                );
            }
            Op::RemoveCgroup | Op::RemoveVolumes => {
                let uid = self.pod_uid();
                assert!(
                    self.sandboxes.iter().all(|s| s.pod_uid != uid),
                    "{op:?} under a sandbox, after {:?}",
                    self.log
                );
            }
            _ => {}
        }
    }

    /// Two containers of one name would have one volume and one port.
    fn check_names(&self) {
        let mut names = BTreeSet::new();
        for running in self.running() {
            let is_first = names.insert((&running.sandbox_id, &running.name));
            assert!(
                is_first,
                "two of {} run, after {:?}",
                running.name, self.log
            );
        }
    }

    fn running(&self) -> impl Iterator<Item = &WorldContainer> {
        let all = self.containers.iter();
        all.filter(|container| container.life == SeenLife::Running)
    }

    /// What must hold of each phase that is reported.
    fn check_phase(&self) {
        let frozen = matches!(
            self.state.phase,
            Phase::Ready(Residency::Frozen) | Phase::Starting(Residency::Frozen)
        );
        assert!(
            !frozen || self.residency == Residency::Frozen,
            "reported frozen while it is not"
        );
        if matches!(self.state.phase, Phase::Ready(_)) {
            let pod = self.state.pod.as_ref().expect("ready without a pod");
            assert_eq!(pod.containers.len(), self.plan.containers.len());
            for (role, container) in pod.with_roles() {
                let Life::Running(id) = &container.life else {
                    assert_eq!(role, Role::Init, "ready with {container:?}");
                    continue;
                };
                let real = self.containers.iter().find(|real| real.id == *id);
                // It may have ended a moment ago, but it must have been started.
                assert!(
                    real.is_none_or(|real| real.started),
                    "ready, but {id} was never started"
                );
                if let Some(env) = self.env_of_this_pod()
                    && let Some(real) = real
                {
                    let has_it = real.with_env || role == Role::Init;
                    assert!(
                        has_it || !env.is_for(&real.name),
                        "ready, but {id} is without its variables"
                    );
                }
            }
            assert!(
                !self.stopped.contains(&pod.uid),
                "ready while being stopped"
            );
        }
        if self.state.phase == Phase::Gone {
            assert_eq!(
                self.journal.as_ref().map(|(stage, _)| *stage),
                None,
                "gone, but journalled"
            );
        }
    }

    /// Before an ordinary container starts.
    fn check_inits_are_over(&self) {
        let inits = self.plan.containers.iter().filter(|c| c.role == Role::Init);
        for init in inits {
            let ended = self.containers.iter().any(|container| {
                container.name == init.name
                    && matches!(container.life, SeenLife::Exited { code: 0, .. })
            });
            assert!(ended, "started before {} had done its work", init.name);
        }
    }

    pub(super) fn doing_something(&self) -> bool {
        self.doing.is_some()
    }

    /// Ends the operation under way.
    pub(super) fn end(&mut self, ending: Ending) {
        let Some(op) = self.doing.take() else { return };
        let ending = match op {
            // These say plainly whether they did it.
            Op::Admit(_) => Ending::Good,
            Op::Record(_)
            | Op::Forget
            | Op::Volumes { .. }
            | Op::Cgroup
            | Op::RemoveVolumes
            | Op::RemoveCgroup
            | Op::Look
            | Op::Image { .. }
            | Op::Pull { .. }
            | Op::Freeze
            | Op::Thaw
                if ending != Ending::Good =>
            {
                Ending::Bad
            }
            _ => ending,
        };
        self.failing = (ending != Ending::Good).then(|| op.clone());
        let outcome = match ending {
            Ending::Good => Outcome::Done(self.effect(&op)),
            Ending::Bad => {
                if op == Op::Freeze {
                    self.residency = Residency::Running;
                }
                Outcome::Failed("no".into())
            }
            Ending::Lost | Ending::Late => {
                if let Op::RunSandbox { attempt } = op {
                    self.doubtful.insert((self.pod_uid(), attempt));
                }
                if ending == Ending::Lost {
                    self.effect(&op);
                } else {
                    self.late.push(op);
                }
                Outcome::Unknown("no answer".into())
            }
        };
        self.happen(Event::Ended(outcome));
    }

    fn effect(&mut self, op: &Op) -> Learned {
        self.serial += 1;
        let id = format!("id{}", self.serial);
        match op {
            Op::Admit(_) => {
                self.slot = true;
                self.minted += 1;
                let uid = PodUid(format!("pod{}", self.minted));
                return Learned::Admitted(NewPod {
                    uid,
                    first_id: None,
                });
            }
            Op::Record(stage) => {
                let pod = self
                    .state
                    .pod
                    .as_ref()
                    .map(|pod| (pod.uid.clone(), pod.attempt, pod.plan.clone()));
                self.journal = Some((*stage, pod));
            }
            Op::Forget => self.journal = None,
            Op::Volumes { .. } => {
                self.volumes.insert(self.pod_uid());
            }
            Op::Cgroup => {
                self.cgroups.insert(self.pod_uid());
            }
            Op::RemoveVolumes => {
                self.volumes.remove(&self.pod_uid());
            }
            Op::RemoveCgroup => {
                self.cgroups.remove(&self.pod_uid());
            }
            Op::RunSandbox { attempt } => {
                let pod_uid = self.pod_uid();
                self.sandboxes.push(WorldSandbox {
                    id: id.clone(),
                    pod_uid,
                    attempt: *attempt,
                    up: true,
                });
                return Learned::Sandbox {
                    id,
                    ips: vec!["10.0.0.1".into()],
                };
            }
            Op::Image { .. } => return Learned::Image(!self.serial.is_multiple_of(3)),
            Op::Create {
                container,
                attempt,
                with_env,
            } => {
                let sandbox_id = self
                    .state
                    .pod
                    .as_ref()
                    .and_then(|pod| pod.sandbox.id())
                    .unwrap_or_default()
                    .to_owned();
                let name = self.plan.containers[*container].name.clone();
                let (attempt, with_env) = (*attempt, *with_env);
                let container = WorldContainer {
                    id: id.clone(),
                    sandbox_id,
                    name,
                    attempt,
                    with_env,
                    life: SeenLife::Created,
                    started: false,
                };
                self.containers.push(container);
                return Learned::Container(id);
            }
            Op::Start { id, .. } => self.change(id, |container| {
                container.life = SeenLife::Running;
                container.started = true;
            }),
            Op::RemoveContainer { id, .. } | Op::RemovePredecessor { id, .. } => {
                self.containers.retain(|container| container.id != *id)
            }
            Op::KillPredecessor { id, .. } => self.exit(id, 137),
            Op::Freeze => self.residency = Residency::Frozen,
            Op::Thaw => self.residency = Residency::Running,
            Op::Kill { id, .. } => self.exit(id, 143),
            Op::StopContainers { ids, sidecars, .. } => {
                self.stopped.insert(self.pod_uid());
                for id in ids.iter().chain(sidecars) {
                    self.exit(id, 143);
                }
            }
            Op::StopSandbox { id } => self.stop_sandbox(id),
            Op::RemoveSandbox { id } | Op::RemoveStray(Stray::Sandbox { id, .. }) => {
                self.sandboxes.retain(|sandbox| sandbox.id != *id);
                self.containers
                    .retain(|container| container.sandbox_id != *id);
            }
            Op::RemoveStray(Stray::Container { id }) => {
                self.containers.retain(|container| container.id != *id)
            }
            Op::Look => return Learned::Seen(self.sighting()),
            Op::Pull { .. } => {}
        }
        Learned::Nothing
    }

    fn change(&mut self, id: &str, change: impl Fn(&mut WorldContainer)) {
        self.containers
            .iter_mut()
            .filter(|container| container.id == id)
            .for_each(change);
    }

    fn exit(&mut self, id: &str, code: i32) {
        self.change(id, |container| {
            if container.life == SeenLife::Running {
                container.life = SeenLife::Exited {
                    code,
                    ran_for: Duration::from_secs(1),
                    reason: String::new(),
                };
            }
        });
    }

    fn stop_sandbox(&mut self, id: &str) {
        for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
            sandbox.up = false;
        }
        let inside: Vec<String> = self
            .containers
            .iter()
            .filter(|c| c.sandbox_id == id)
            .map(|container| container.id.clone())
            .collect();
        for id in inside {
            self.exit(&id, 137);
        }
    }

    fn sighting(&self) -> Sighting {
        let sandbox = |s: &WorldSandbox| SeenSandbox {
            id: s.id.clone(),
            pod_uid: s.pod_uid.clone(),
            attempt: s.attempt,
            ready: s.up,
            ips: vec!["10.0.0.1".into()],
        };
        let container = |c: &WorldContainer| SeenContainer {
            id: c.id.clone(),
            sandbox_id: c.sandbox_id.clone(),
            name: c.name.clone(),
            attempt: c.attempt,
            with_env: c.with_env,
            life: c.life.clone(),
        };
        Sighting {
            sandboxes: self.sandboxes.iter().map(sandbox).collect(),
            containers: self.containers.iter().map(container).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty()
            && self.containers.is_empty()
            && self.volumes.is_empty()
            && self.cgroups.is_empty()
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.log.iter().map(Op::step).collect()
    }
}

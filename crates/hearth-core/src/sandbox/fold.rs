//! Taking what happened into the facts.

use std::sync::Arc;
use std::time::Duration;

use super::op::{Event, Learned, NewPod, Op, Outcome, Stray};
use super::state::{
    Desired, Doom, Ended, HookState, Life, Pod, Prepared, Residency, SandboxFact, Stage, State,
    Unsettled,
};
use crate::ids::PodUid;
use crate::podspec::{PodPlan, Role};
use crate::probe::{ProbeKind, Probes};

/// After so many failed tries to stop the containers one by one, the sandbox is stopped, which kills them.
const POLITE_STOPS: u32 = 3;

impl State {
    /// What the journal says of a sandbox and its pod: uid, attempt, plan. The rest is to be found out.
    #[must_use]
    pub fn adopted(stage: Stage, pod: Option<(PodUid, u32, Arc<PodPlan>)>) -> Self {
        let pod = pod.map(|(uid, attempt, plan)| {
            let mut pod = Pod::new(uid, plan);
            pod.attempt = attempt;
            pod.volumes = Prepared::Maybe;
            pod.cgroup = Prepared::Maybe;
            pod.recorded = Some(attempt);
            pod.ending = stage == Stage::Stopping;
            pod.ended = match stage {
                Stage::Succeeded => Some(super::Ended::Succeeded),
                Stage::Failed => Some(super::Ended::Failed),
                _ => None,
            };
            pod
        });
        let unsettled = Some(Unsettled::Adoption);
        Self {
            phase: super::Phase::Unknown(Unsettled::Adoption),
            pod,
            recorded: Some(stage),
            unsettled,
            ..Self::default()
        }
    }

    /// The same, of a pod that had been active for so long.
    #[must_use]
    pub fn with_active(mut self, total: Duration) -> Self {
        if let Some(pod) = &mut self.pod {
            (pod.active.total, pod.active.recorded) = (total, total);
        }
        self
    }

    /// The same, of a pod that has these ids of the node.
    #[must_use]
    pub fn with_first_id(mut self, first_id: Option<u32>) -> Self {
        if let Some(pod) = &mut self.pod {
            pod.first_id = first_id;
        }
        self
    }

    /// Probes wait while the processes stand still.
    pub(super) fn keep_time(&mut self, residency: Residency, now: Duration) {
        match (residency, self.frozen_since) {
            (Residency::Frozen, None) => self.frozen_since = Some(now),
            (Residency::Running, Some(since)) => {
                self.frozen_since = None;
                let stood_still = now.saturating_sub(since);
                for container in self.pod.iter_mut().flat_map(|pod| &mut pod.containers) {
                    container.probes.delay(stood_still);
                }
            }
            _ => {}
        }
    }

    pub(super) fn fold(
        &mut self,
        event: &Event,
        desired: &Desired,
        residency: Residency,
        now: Duration,
    ) {
        match event {
            Event::Tick => {}
            Event::Changed => self.look_due = true,
            Event::Retry => self.failures.retry(now),
            Event::Evict { pod, why } => self.evict(pod, why),
            Event::Probed {
                container,
                attempt,
                kind,
                success,
            } => self.probed(*container, *attempt, *kind, *success, now),
            Event::Hooked {
                container,
                attempt,
                error,
            } => self.hooked(*container, *attempt, error.as_deref()),
            Event::Ended(outcome) => {
                let Some(op) = self.doing.take() else { return };
                match outcome {
                    Outcome::Done(learned) => {
                        self.failures.succeeded(&op);
                        self.done(&op, learned, desired, residency, now);
                    }
                    Outcome::Failed(error) => self.failed(&op, error, now),
                    Outcome::Unknown(error) => {
                        self.failed(&op, error, now);
                        // They had their grace period and more: the sandbox is stopped next, which kills them.
                        if let (Op::StopContainers { .. }, Some(pod)) = (&op, &mut self.pod) {
                            pod.told_to_stop = true;
                        }
                        self.unsettled = Some(Unsettled::Op(op));
                    }
                }
            }
        }
    }

    /// One that has ended, or is about to for another reason, is left to that.
    fn evict(&mut self, uid: &PodUid, why: &str) {
        let pod = self.pod.as_mut().filter(|pod| pod.uid == *uid);
        if let Some(pod) = pod.filter(|pod| !pod.ending && pod.ended.is_none()) {
            pod.ended = Some(Ended::Failed);
            pod.evicted = Some(why.to_owned());
        }
    }

    fn probed(
        &mut self,
        index: usize,
        attempt: u32,
        kind: ProbeKind,
        success: bool,
        now: Duration,
    ) {
        let Some(pod) = &mut self.pod else { return };
        let plan = pod.plan.clone();
        let Some((container, plan)) = pod
            .containers
            .get_mut(index)
            .zip(plan.containers.get(index))
        else {
            return;
        };
        if container.attempt != attempt || !matches!(container.life, Life::Running(_)) {
            return;
        }
        container.probes.ended(kind, plan, success, now);
        if let Some(kind) = container.probes.given_up() {
            container.doomed = Some(Doom::new(format!("its {} probe failed", kind.name())));
        }
    }

    fn hooked(&mut self, index: usize, attempt: u32, error: Option<&str>) {
        let container = self
            .pod
            .as_mut()
            .and_then(|pod| pod.containers.get_mut(index));
        let Some(container) = container.filter(|container| {
            container.attempt == attempt && container.hook == HookState::UnderWay
        }) else {
            return;
        };
        container.hook = HookState::Done;
        if let Some(error) = error {
            container.doomed = Some(Doom::new(format!("its postStart hook failed: {error}")));
        }
    }

    fn done(
        &mut self,
        op: &Op,
        learned: &Learned,
        desired: &Desired,
        residency: Residency,
        now: Duration,
    ) {
        match (op, learned) {
            (Op::Admit(_), Learned::Admitted(new)) => self.admitted(new, desired),
            (Op::Record(stage), _) => {
                self.recorded = Some(*stage);
                if let Some(pod) = &mut self.pod {
                    pod.recorded = Some(pod.attempt);
                    pod.active.recorded = pod.active.total;
                }
            }
            (Op::Forget, _) => self.recorded = None,
            (Op::Look, Learned::Seen(seen)) => self.see(seen, residency, now),
            (Op::RemoveStray(stray), _) => self.strays.retain(|other| other != stray),
            _ => {
                if let Some(pod) = &mut self.pod {
                    pod.done(op, learned, now);
                    // Its address could not be learned with it.
                    self.look_due |= matches!(op, Op::RunSandbox { .. }) && pod.ips.is_empty();
                    // How it ended is the runtime's to say.
                    self.look_due |= matches!(op, Op::Kill { .. });
                }
            }
        }
    }

    /// A slot is there. The pod is made up now, and recorded before anything is made under its uid.
    fn admitted(&mut self, new: &NewPod, desired: &Desired) {
        self.slot = true;
        if let (None, false, Some(Ok(plan))) = (&self.pod, desired.goal.ends_pod(), &desired.plan)
            // Another plan while it waited: its turn is asked for again, with the ids that it needs now.
            && plan.security.user_namespace == new.first_id.is_some()
        {
            let mut pod = Pod::new(new.uid.clone(), plan.clone());
            pod.first_id = new.first_id;
            self.pod = Some(pod);
        }
    }

    fn failed(&mut self, op: &Op, error: &str, now: Duration) {
        let attempts = self.failures.failed(op, error, now);
        if let (Op::Create { container, .. }, Some(pod)) = (op, &mut self.pod)
            && let Some(container) = pod.containers.get_mut(*container)
        {
            // It may have gone meanwhile.
            container.image_in_doubt = true;
        }
        match op {
            // The runtime may know more than its answer said.
            Op::Create { .. }
            | Op::Start { .. }
            | Op::Kill { .. }
            | Op::RemoveContainer { .. }
            | Op::KillPredecessor { .. }
            | Op::RemovePredecessor { .. }
            | Op::Look => {
                self.look_due = true;
            }
            Op::StopContainers { .. } if attempts >= POLITE_STOPS => {
                if let Some(pod) = &mut self.pod {
                    pod.told_to_stop = true;
                }
            }
            _ => {}
        }
    }
}

impl Pod {
    fn done(&mut self, op: &Op, learned: &Learned, now: Duration) {
        match (op, learned) {
            (Op::Volumes { contents }, _) => {
                self.volumes = Prepared::Yes;
                self.contents = Some(*contents);
            }
            (Op::Cgroup, _) => self.cgroup = Prepared::Yes,
            (Op::RemoveVolumes, _) => self.volumes = Prepared::No,
            (Op::RemoveCgroup, _) => self.cgroup = Prepared::No,
            (Op::RunSandbox { .. }, Learned::Sandbox { id, ips }) => {
                self.sandbox = SandboxFact::Up(id.clone());
                self.ips.clone_from(ips);
            }
            (Op::StopSandbox { id }, _) => self.sandbox = SandboxFact::Down(id.clone()),
            (Op::RemoveSandbox { .. }, _) => self.sandbox_removed(),
            (Op::StopContainers { .. }, _) => self.told_to_stop = true,
            _ => self.container_done(op, learned, now),
        }
    }

    /// The containers are gone with it. Those that have ended for good need not be made again.
    fn sandbox_removed(&mut self) {
        self.sandbox = SandboxFact::None;
        self.initialised = false;
        self.attempt += 1;
        let plan = Arc::clone(&self.plan);
        for (index, container) in self.containers.iter_mut().enumerate() {
            let policy = plan.restart_policy_of(index);
            let role = plan.containers.get(index).map(|plan| plan.role);
            container.predecessor = None;
            match &container.life {
                // What an init container did may have gone with the sandbox.
                _ if role == Some(Role::Init) => container.make_anew(),
                Life::Exited { code, .. } if !crate::restart::restarts(policy, *code) => {
                    container.life = Life::Exited {
                        id: String::new(),
                        code: *code,
                    };
                }
                Life::Absent => {}
                _ => container.make_anew(),
            }
        }
    }

    fn container_done(&mut self, op: &Op, learned: &Learned, now: Duration) {
        let plan = self.plan.clone();
        let Some(index) = op.container() else { return };
        let outdated = self.is_outdated(index);
        let Some((container, plan)) = self
            .containers
            .get_mut(index)
            .zip(plan.containers.get(index))
        else {
            return;
        };
        match (op, learned) {
            (Op::Image { .. }, Learned::Image(there)) => {
                container.has_image = *there;
                container.image_in_doubt = false;
                container.needs_pull = !there;
            }
            (Op::Pull { .. }, _) => {
                container.has_image = true;
                container.needs_pull = false;
            }
            (Op::Create { with_env, .. }, Learned::Container(id)) => {
                container.life = Life::Created(id.clone());
                container.with_env = *with_env;
                self.initialised |= plan.role == Role::Main;
            }
            (Op::Start { id, .. }, _) => {
                container.life = Life::Running(id.clone());
                container.started = true;
                container.trouble = None;
                container.probes = Probes::started(plan, now);
                container.hook = if plan.post_start.is_none() {
                    HookState::Done
                } else {
                    HookState::Due
                };
                container.doomed = None;
            }
            (Op::Kill { .. }, _) => {
                if let Some(doom) = &mut container.doomed {
                    doom.told = true;
                }
            }
            (Op::KillPredecessor { .. }, _) => {
                if let Some(predecessor) = &mut container.predecessor {
                    predecessor.ended = true;
                }
            }
            (Op::RemovePredecessor { .. }, _) => container.predecessor = None,
            (Op::RemoveContainer { .. }, _) => {
                // Of one that is only replaced, the image was there a moment ago.
                let has_image = outdated && container.has_image;
                container.make_anew();
                container.has_image = has_image;
            }
            _ => {}
        }
    }
}

impl Stray {
    /// Whether it lives in a cgroup of its own, which is thawed before it is touched.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&PodUid> {
        match self {
            Self::Sandbox { pod_uid, .. } => Some(pod_uid),
            Self::Container { .. } => None,
        }
    }
}
